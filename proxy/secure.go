package proxy

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/transport"
)

// handshakeTLS is the first that a session does, under the read deadline of the
// login. What fails is told, but for those who leave without a word: probes of
// the port do.
func (s *session) handshakeTLS() error {
	err := transport.Handshake(s.nc.Conn, handshakeTimeout)
	if err == nil || errors.Is(err, io.EOF) || s.draining.Load() || s.ctx.Err() != nil {
		return err
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
		if !wait || ses.nc.Plain() {
			ses.drain()
		} else if late == nil {
			left := time.Until(deadline)
			late = time.After(left - min(left/2, s.cfg.Listen.RequestTimeout+time.Second))
		}
	}
	return late
}
