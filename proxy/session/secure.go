package session

import (
	"errors"
	"io"

	"github.com/zdmproject/terraform-provider-zdm/proxy/transport"
)

// handshakeTLS is the first that a session does, under the read deadline of the
// login. What fails is told, but for those who leave without a word: probes of
// the port do.
func (s *Session) handshakeTLS() error {
	err := transport.Handshake(s.client.Socket(), handshakeTimeout)
	if err == nil || errors.Is(err, io.EOF) || s.draining.Load() || s.ctx.Err() != nil {
		return err
	}
	if skipped, log := s.env.Faults.Add(err.Error()); log {
		s.env.Log.Warn("client refused", "cause", err, "others_since", skipped)
	}
	return err
}
