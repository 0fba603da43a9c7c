package proxy

import (
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/events"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// schemaEvents are those that only one side has sent so far.
type schemaEvents struct {
	mu    sync.Mutex // never held while clients are told
	pairs events.Pairs
}

// onSchemaChange has reads of what was altered prepared again, whichever side it
// was, and tells clients of what both sides have by now.
func (s *Server) onSchemaChange(side phase.Side, body []byte) {
	if e, err := frame.ParseSchemaChange(body); err == nil {
		switch string(e.Target) {
		case "TABLE":
			s.env.Cache.Alter(string(e.Keyspace), string(e.Object))
		case "TYPE":
			s.env.Cache.Alter(string(e.Keyspace), "")
		}
	}
	s.pair(side, body)
}

// pair holds an event back until the other side has had it.
func (s *Server) pair(side phase.Side, body []byte) {
	rule := s.env.Rule()
	if rule == nil {
		return
	}
	s.schema.mu.Lock()
	pass := s.schema.pairs.Add(side, body, rule.Writes, route.SystemSide(rule, s.env.Routing), time.Now())
	s.schema.mu.Unlock()
	s.tell(pass)
}

// expireEvents tells clients of what the other side does not get.
func (s *Server) expireEvents() {
	rule := s.env.Rule()
	if rule == nil {
		return
	}
	s.schema.mu.Lock()
	pass := s.schema.pairs.Expire(route.SystemSide(rule, s.env.Routing), time.Now())
	s.schema.mu.Unlock()
	s.tell(pass)
}

// onSchemaMissed does as if everything in the keyspaces had changed: what did is
// not known, since the control connection was down.
func (s *Server) onSchemaMissed(side phase.Side, keyspaces []string) {
	var bodies [][]byte
	for _, name := range keyspaces {
		s.env.Cache.Alter(name, "")
		bodies = append(bodies, events.KeyspaceUpdated(name))
	}
	if rule := s.env.Rule(); rule != nil && route.SystemSide(rule, s.env.Routing) == side {
		s.tell(bodies)
	}
}

// waitingEvents are those that only one side has sent so far, by side.
func (s *Server) waitingEvents() [2][][]byte {
	s.schema.mu.Lock()
	defer s.schema.mu.Unlock()
	return s.schema.pairs.Waiting()
}

// tell sends schema events to the clients that have registered for them.
func (s *Server) tell(bodies [][]byte) {
	if len(bodies) == 0 {
		return
	}
	b := upstream.Batch{Now: upstream.Nanotime()}
	for _, ses := range s.snapshot() {
		if !ses.Wants(events.Schema) {
			continue
		}
		for _, body := range bodies {
			ses.Event(&b, body)
		}
	}
	b.Done()
}
