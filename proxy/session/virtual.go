package session

import (
	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
	"github.com/zdmproject/terraform-provider-zdm/proxy/prepared"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
	"github.com/zdmproject/terraform-provider-zdm/proxy/virtual"
)

// parseVirtual reads a statement that the proxy answers by itself.
func parseVirtual(st *scan.Statement, class route.Class) (*virtual.Select, *frame.ErrorBody) {
	if class == route.Insights {
		return nil, &frame.ErrorBody{Code: frame.ErrInvalid, Message: "InsightsRpc is not served through the proxy"}
	}
	return virtual.Parse(st.Table.String(), string(st.SelectClause), string(st.Rest))
}

var noTables = &frame.ErrorBody{Code: frame.ErrServer, Message: "the system tables are not known yet: no cluster was reached"}

// virtualQuery answers a QUERY that goes to no cluster.
func (s *Session) virtualQuery(f frame.Frame, st *scan.Statement, class route.Class, body []byte, params frame.Params) {
	sel, problem := parseVirtual(st, class)
	if problem != nil {
		s.client.RespondError(&s.batch, f.Stream(), *problem)
		return
	}
	values, err := virtual.BoundValues(body, params, s.client.Version)
	if err != nil {
		s.malformed(f, err)
		return
	}
	t := s.env.systemTables()
	if t == nil {
		s.client.RespondError(&s.batch, f.Stream(), *noTables)
		return
	}
	answer, problem := t.Query(sel, values, s.client.Version)
	if problem == nil && f.Flags()&frame.FlagTracing != 0 {
		s.traceOwn(f, answer)
		return
	}
	s.respondOwn(f, answer, problem)
}

// traceOwn answers a traced QUERY with a RESULT body of the proxy's own. A node
// is asked too, for its trace: clients look for one.
func (s *Session) traceOwn(f frame.Frame, answer []byte) {
	ex := newExchange(s, f, s.scope.Load())
	ex.own = answer
	ex.plan = route.Decide(s.env.Rule(), route.SystemRead, s.env.Routing)
	ex.begin(f)
}

// ownAnswer is the frame of ex.own with the tracing id of the node's answer, if
// there is one.
func (ex *exchange) ownAnswer(node frame.Frame) frame.Frame {
	var traced byte
	var id []byte
	if node != nil {
		if r, err := frame.SplitResponse(node); err == nil && r.TracingID != nil {
			traced, id = frame.FlagTracing, r.TracingID
		}
	}
	out := frame.AppendHeader(nil, ex.s.client.Version, true, traced, ex.stream, frame.OpResult, 0)
	out = append(append(out, id...), ex.own...)
	frame.PutLength(out)
	return out
}

// virtualPrepare answers a PREPARE of such a statement.
func (s *Session) virtualPrepare(f frame.Frame, st *scan.Statement, keyspace string, class route.Class, text []byte) {
	sel, problem := parseVirtual(st, class)
	if problem != nil {
		s.client.RespondError(&s.batch, f.Stream(), *problem)
		return
	}
	t := s.env.systemTables()
	if t == nil {
		s.client.RespondError(&s.batch, f.Stream(), *noTables)
		return
	}
	p, answer, problem := t.Prepare(sel, string(text), keyspace, s.client.Version)
	if problem == nil {
		s.env.Cache.Put(&prepared.Statement{ID: p.ID[:], Text: string(text), Keyspace: keyspace, Class: class, Idempotent: true, Own: p})
	}
	s.respondOwn(f, answer, problem)
}

// virtualExecute answers an EXECUTE of such a statement.
func (s *Session) virtualExecute(f frame.Frame, st *prepared.Statement, body []byte, e frame.Execute) {
	values, err := virtual.BoundValues(body, e.Params, s.client.Version)
	if err != nil {
		s.malformed(f, err)
		return
	}
	t, p := s.env.systemTables(), st.Own.(*virtual.Prepared)
	if t == nil {
		s.client.RespondError(&s.batch, f.Stream(), *noTables)
		return
	}
	answer, problem := t.Execute(p, e.ResultMetadataID, values, e.Params.Flags&frame.QuerySkipMetadata != 0, s.client.Version)
	s.respondOwn(f, answer, problem)
}

// respondOwn answers with a RESULT body of the proxy's own, or the error.
func (s *Session) respondOwn(f frame.Frame, body []byte, problem *frame.ErrorBody) {
	if problem != nil {
		s.client.RespondError(&s.batch, f.Stream(), *problem)
		return
	}
	out := frame.AppendHeader(nil, s.client.Version, true, 0, f.Stream(), frame.OpResult, 0)
	out = append(out, body...)
	frame.PutLength(out)
	s.client.Respond(&s.batch, f.Stream(), out)
}
