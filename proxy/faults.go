package proxy

import (
	"errors"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/metrics"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// note records an error that the proxy answers a request with.
func (s *Server) note(ses *session, ex *exchange, e *frame.ErrorBody) {
	skipped, log := s.faults.Add(e.Message)
	if log {
		s.log.Warn("request failed", "client", ses.nc.RemoteAddr(), "opcode", byte(ex.opcode), "code", int32(e.Code), "cause", e.Message, "others_since", skipped)
	}
}

// countLoss records a leg without an answer in its node's metrics.
func (ex *exchange) countLoss(l *leg, err error) {
	if !ex.counted && !ex.shadow {
		return
	}
	node := ""
	word := "other"
	var e *upstream.LostError
	if errors.As(err, &e) {
		node = e.Node
		if e.Sent && errors.Is(e, upstream.ErrTimeout) {
			word = metrics.NoAnswer
		}
	}
	if node != "" {
		ex.s.srv.metrics.Node(l.side, node).Failed(ex.shadow, word)
	}
}
