package proxy

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/metrics"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// faultLog keeps the last errors that the proxy made itself, and sees to it
// that a node that fails every request does not fill the log.
type faultLog struct {
	mu      sync.Mutex
	ring    []control.Fault
	logged  time.Time
	skipped int
}

const (
	faultsKept   = 20
	faultsPerLog = time.Second
)

// add keeps a message, and reports whether it should be logged, with how many
// were not since the last one that was.
func (l *faultLog) add(text string) (skipped int, log bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().UTC()
	if len(l.ring) == faultsKept {
		l.ring = slices.Delete(l.ring, 0, 1)
	}
	l.ring = append(l.ring, control.Fault{Time: now, Text: text})
	if now.Sub(l.logged) < faultsPerLog {
		l.skipped++
		return 0, false
	}
	skipped, l.skipped, l.logged = l.skipped, 0, now
	return skipped, true
}

func (l *faultLog) last() []control.Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.ring)
}

// note records an error that the proxy answers a request with.
func (s *Server) note(ses *session, ex *exchange, e *frame.ErrorBody) {
	skipped, log := s.faults.add(e.Message)
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
