package tlsconf

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
)

// Client makes TLS connections to the nodes of one cluster.
type Client struct {
	names  []string // those that stand for any node
	verify bool
	files  *Reloaded[*material]
}

// NewClient reads the files. A node must show a certificate that an authority of
// CA signed. With verify it must also be for the address that is dialled or one
// of names; the system's authorities count then, too. They do not without: a
// public authority signs a certificate for anybody.
func NewClient(f Files, names []string, verify bool, log *slog.Logger) (*Client, error) {
	files, err := Load(log, func() (*material, error) {
		m, err := f.read(log)
		if err == nil && verify {
			m.trustSystem()
		}
		return m, err
	}, f.paths()...)
	if err != nil {
		return nil, err
	}
	return &Client{names: names, verify: verify, files: files}, nil
}

func (m *material) trustSystem() {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return // no system pool; the given authorities are there
	}
	for _, c := range m.authorities {
		pool.AddCert(c)
	}
	m.pool = pool
}

// Dial connects to host:port. It returns after the handshake.
func (c *Client) Dial(ctx context.Context, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	m := c.files.Current()
	names := []string(nil)
	if c.verify {
		names = append(slices.Clone(c.names), host)
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection:   Verify(m.pool, names),
	}
	if m.cert != nil {
		conf.Certificates = []tls.Certificate{*m.cert}
	}
	return Dial(ctx, addr, conf)
}

// Dial connects over TCP and does the handshake.
func Dial(ctx context.Context, addr string, conf *tls.Config) (net.Conn, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	tc := tls.Client(nc, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return tc, nil
}

// Verify makes a tls.Config.VerifyConnection: a chain to roots, and a leaf for
// one of names; any leaf if there are none.
func Verify(roots *x509.CertPool, names []string) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, c := range cs.PeerCertificates[1:] {
			opts.Intermediates.AddCert(c)
		}
		leaf := cs.PeerCertificates[0]
		_, err := leaf.Verify(opts)
		if err == nil && len(names) > 0 {
			for _, name := range names {
				if err = leaf.VerifyHostname(name); err == nil {
					return nil
				}
			}
		}
		if err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
		}
		return nil
	}
}

// Problem is what kind of TLS error an error is.
type Problem uint8

// The problems. NoTLS: the other end does not speak it. WrongName, Expired and
// Untrusted are about the other end's certificate, Rejected about ours.
const (
	None Problem = iota
	NoTLS
	WrongName
	Expired
	Untrusted
	Rejected
)

// ProblemOf tells whether err is one of TLS.
func ProblemOf(err error) Problem {
	var (
		record  tls.RecordHeaderError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		verify  *tls.CertificateVerificationError
		op      *net.OpError
	)
	switch {
	case errors.As(err, &record):
		return NoTLS
	case errors.As(err, &name):
		return WrongName
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return Expired
	case errors.As(err, &verify):
		return Untrusted
	case errors.As(err, &op) && op.Op == "remote error": // a TLS alert of the other end
		return Rejected
	}
	return None
}

// Advice is what to do about a TLS error of a connection to a cluster, in the
// words of its settings; "" if err is none.
func Advice(side string, err error) string {
	switch ProblemOf(err) {
	case NoTLS:
		return fmt.Sprintf("the node does not speak TLS there: correct %s_port, or leave the %s_tls_* settings out", side, side)
	case WrongName:
		return fmt.Sprintf("give the node a certificate for its address or for a name in %s_contact_points, or set %s_tls_verify_hostname to false", side, side)
	case Expired:
		return "renew the node's certificate, or correct the clock here"
	case Untrusted:
		return fmt.Sprintf("give the authority that signed the node's certificate in %s_tls_server_ca_path", side)
	case Rejected:
		return fmt.Sprintf("the node did not take the connection: it may want a certificate (%s_tls_client_cert_path and %s_tls_client_key_path), "+
			"or not trust the one given; its log tells", side, side)
	}
	return ""
}
