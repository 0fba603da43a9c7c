package transport

import (
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/tlsconf"
)

// Client wraps a client's connection, if clients use TLS. Its handshake is still
// to be done.
func (t *Transport) Client(nc net.Conn) net.Conn {
	if t.Listen == nil {
		return nc
	}
	return tls.Server(nc, t.Listen)
}

// Handshake does that of a connection of Client; on plain TCP there is none.
// The caller bounds reads, timeout is for writes. The error ends with what to do.
func Handshake(nc net.Conn, timeout time.Duration) error {
	tc, ok := nc.(*tls.Conn)
	if !ok {
		return nil
	}
	_ = tc.SetWriteDeadline(time.Now().Add(timeout)) // an error shows below
	err := tc.Handshake()
	_ = tc.SetWriteDeadline(time.Time{})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("TLS handshake with client %s: %w", nc.RemoteAddr(), err)
	if advice := tlsconf.ClientAdvice(err); advice != "" {
		err = fmt.Errorf("%w; %s", err, advice)
	}
	return err
}
