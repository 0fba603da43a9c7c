package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// UnreachableError is a call that got no answer. Whether the instance has seen
// it is not known, unless Sent is false.
type UnreachableError struct {
	// Instance is the URL or socket, Call the method and path.
	Instance, Call string
	// Sent: the request may have reached the instance.
	Sent bool
	// Advice is the next thing to try.
	Advice string
	Err    error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%s: no answer from %s: %v; %s", e.Call, e.Instance, e.Err, e.Advice)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// unreachable tells why there was no answer, and what to try. The context's own
// error stays visible to errors.Is.
func unreachable(name, method, path string, bound time.Duration, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // its text would repeat method and URL
	}
	e := &UnreachableError{Instance: name, Call: method + " " + path, Sent: true, Err: err}
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
		dns      *net.DNSError
		op       *net.OpError
		dial     = errors.As(err, &op) && op.Op == "dial"
	)
	switch {
	case errors.As(err, &unknown):
		e.Sent, e.Advice = false, "give the CA that signed the instance's certificate"
	case errors.As(err, &hostname):
		e.Sent, e.Advice = false, "use a name or address that is in the certificate, or give the instance a certificate with this one"
	case errors.As(err, &invalid):
		e.Sent, e.Advice = false, "renew the instance's certificate, or look at both clocks"
	case errors.As(err, &verify):
		e.Sent, e.Advice = false, "look at the instance's certificate and the CA that is trusted"
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		e.Sent, e.Advice = false, "what listens there does not speak TLS; look at the port"
	case strings.Contains(err.Error(), "remote error: tls:"):
		e.Advice = "the instance refused the TLS connection; look at the client certificate, and at the agent's log"
	case errors.As(err, &dns):
		e.Sent, e.Advice = false, "look at the host name"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Sent, e.Advice = false, "look whether the agent runs there, and at the port"
	case errors.Is(err, os.ErrNotExist):
		e.Sent, e.Advice = false, "look whether the agent runs, and at the socket's path"
	case errors.Is(err, os.ErrPermission):
		e.Sent, e.Advice = false, "run this as the user that the agent runs as"
	case errors.Is(err, context.DeadlineExceeded):
		e.Sent = !dial
		e.Err = fmt.Errorf("waited %s: %w", bound.Round(time.Millisecond), context.DeadlineExceeded)
		e.Advice = "look whether the agent runs and the network lets the port through; a change may go on by itself, so read the status"
	case errors.Is(err, context.Canceled):
		e.Sent = !dial
		e.Advice = "the caller gave up; a change may go on by itself, so read the status"
	case dial:
		e.Sent, e.Advice = false, "look at the network between here and the instance"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		e.Advice = "the connection was closed before the answer; has the agent just ended? read the status"
	default:
		e.Advice = "look at the agent's log, and read the status before trying again"
	}
	return e
}
