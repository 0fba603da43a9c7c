package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/tlsconf"
)

// secure wraps a client's connection, if clients use TLS.
func (s *Server) secure(nc net.Conn) net.Conn {
	if s.transport.Listen == nil {
		return nc
	}
	return tls.Server(nc, s.transport.Listen)
}

// handshakeTLS is the first that a session does, under the read deadline of the
// login. What fails is told, but for those who leave without a word: probes of
// the port do.
func (s *session) handshakeTLS() error {
	tc, ok := s.nc.Conn.(*tls.Conn)
	if !ok {
		return nil
	}
	_ = tc.SetWriteDeadline(time.Now().Add(handshakeTimeout)) // an error shows below
	err := tc.Handshake()
	_ = tc.SetWriteDeadline(time.Time{})
	if err == nil || errors.Is(err, io.EOF) || s.draining.Load() || s.ctx.Err() != nil {
		return err
	}
	err = fmt.Errorf("TLS handshake with client %s: %w", s.nc.RemoteAddr(), err)
	if advice := tlsconf.ClientAdvice(err); advice != "" {
		err = fmt.Errorf("%w; %s", err, advice)
	}
	if skipped, log := s.srv.faults.Add(err.Error()); log {
		s.srv.log.Warn("client refused", "cause", err, "others_since", skipped)
	}
	return err
}

// drainSessions asks the sessions to end or move. Those that cannot move (TLS has
// its state in this process) are served on while others can: until they leave,
// or until late comes, which leaves time to end them well. It runs under mu.
func (s *Server) drainSessions(ctx context.Context) (late <-chan time.Time) {
	deadline, bounded := ctx.Deadline()
	wait := bounded && s.mover.Load() != nil
	for ses := range s.sessions {
		if wait && !ses.nc.Plain() {
			left := time.Until(deadline)
			late = time.After(left - min(left/2, s.cfg.Listen.RequestTimeout+time.Second))
			continue
		}
		ses.drain()
	}
	return late
}
