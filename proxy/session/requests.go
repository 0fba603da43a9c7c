package session

import (
	"bytes"
	"slices"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
	"github.com/zdmproject/terraform-provider-zdm/proxy/merge"
	"github.com/zdmproject/terraform-provider-zdm/proxy/metrics"
	"github.com/zdmproject/terraform-provider-zdm/proxy/paging"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/prepared"
	"github.com/zdmproject/terraform-provider-zdm/proxy/rewrite"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// query handles QUERY.
func (s *Session) query(f frame.Frame) {
	body, at, err := frame.SplitRequest(f)
	if err != nil {
		s.malformed(f, err)
		return
	}
	q, err := frame.ParseQuery(body, s.client.Version)
	if err != nil {
		s.malformed(f, err)
		return
	}
	st := scan.Scan(q.Text)
	sc := s.scope.Load()
	class := route.Classify(&st, keyspaceOf(q.Params.Keyspace, sc))
	switch class {
	case route.Virtual, route.NoPeersV2, route.Insights:
		s.virtualQuery(f, &st, class, body, q.Params)
		return
	case route.Use:
		s.use(f, &st, q.Params.Consistency)
		return
	}
	if s.env.Replace.Wants(&st) {
		f, q = s.env.Replace.Query(f, at, q, s.env.Values)
	}
	ex := newExchange(s, f, sc)
	ex.describe(class, &st)
	ex.unstamped = !q.Params.HasTimestamp && route.Unstamped(&st)
	ex.dispatch(f, class, q.Params, at)
}

// keyspaceOf is the one that applies to unqualified names: the request's own
// (v5, DSE_V2), or else the session's.
func keyspaceOf(own []byte, sc *scope) string {
	if own != nil {
		return string(own)
	}
	return sc.keyspace
}

// describe fills in what a statement is.
func (ex *exchange) describe(class route.Class, st *scan.Statement) {
	ex.st = merge.Statement{
		Mutates: !class.IsRead(), Idempotent: class.IsRead() || st.Idempotent,
		CAS: st.CAS, Counter: st.Counter, Unlogged: st.Unlogged,
	}
	ex.statement = metrics.StatementOf(st.Kind, st.CAS, st.Counter)
}

// dispatch plans a QUERY or EXECUTE and sends it, and its copy if the phase
// wants one. at is where the body begins that params was parsed from.
func (ex *exchange) dispatch(f frame.Frame, class route.Class, params frame.Params, at int) {
	s := ex.s
	rule := s.env.Rule()
	ex.phase, ex.plan = rule.Phase, route.Decide(rule, class, s.env.Routing)
	ex.consistency = params.Consistency
	issuer, tagged := paging.Issuer(params.PagingState)
	if tagged && class.IsRead() { // a write goes to every side, whatever comes with it
		ex.plan = route.Page(issuer)
	}
	if ex.unstamped {
		f = ex.stamp(f, at, &params)
	}
	if tagged { // after the stamp, which stands behind the state
		ex.req = paging.AppendUntagged(ex.req[:0], f, at+params.PagingStateOffset)
		f = ex.req
	}
	ex.kind, ex.counted = metrics.TypeOf(ex.st.Mutates, ex.plan.Answer), class == route.Read || class == route.Write
	var shadow *exchange
	if ex.plan.HasShadow {
		shadow = ex.shadowCopy(f)
	}
	ex.begin(f) // ex may be over and someone else's when it returns
	if shadow != nil {
		shadow.begin(f)
	}
}

// stamp counts a write without a timestamp, and gives it one where both clusters
// store it. The frame that it returns is kept in ex.req.
func (ex *exchange) stamp(f frame.Frame, at int, p *frame.Params) frame.Frame {
	e, request := ex.s.env, metrics.RequestOf(ex.opcode)
	e.Metrics.Unstamped(request)
	if ex.plan.Legs != phase.Both || !e.Timestamps.Active() {
		return f
	}
	e.Metrics.Stamped(request)
	ex.req = p.AppendStamped(ex.req[:0], f, at, e.Timestamps.Next())
	return ex.req
}

// shadowCopy makes the exchange of a copy of a read. It lives by itself: the
// client neither waits for it nor hears of it.
func (ex *exchange) shadowCopy(f frame.Frame) *exchange {
	c := newExchange(ex.s, f, ex.scope)
	c.shadow = true
	c.consistency, c.st, c.stmt = ex.consistency, ex.st, ex.stmt
	c.idAt, c.flagsAt, c.resultAt, c.resultLen = ex.idAt, ex.flagsAt, ex.resultAt, ex.resultLen
	c.plan = route.Plan{Legs: phase.Of(ex.plan.Shadow), Answer: ex.plan.Shadow}
	return c
}

// execute handles EXECUTE.
func (s *Session) execute(f frame.Frame) {
	body, at, err := frame.SplitRequest(f)
	if err != nil {
		s.malformed(f, err)
		return
	}
	e, err := frame.ParseExecute(body, s.client.Version)
	if err != nil {
		s.malformed(f, err)
		return
	}
	st := s.env.Cache.Find(e.ID)
	if st == nil || st.Stale() {
		s.unprepared(f, e.ID)
		return
	}
	switch {
	case st.Own != nil:
		s.virtualExecute(f, st, body, e)
		return
	case st.Class == route.Use:
		// As it is, it would move a connection that many clients share.
		s.usePrepared(f, st.Text)
		return
	}
	if st.Replaced != nil {
		if f, e.Params, err = s.env.Replace.Execute(f, at, e, st.Text, st.Replaced, s.env.Values); err != nil {
			s.client.RespondError(&s.batch, f.Stream(), rewrite.Refusal(err))
			return
		}
	}
	sc := s.scope.Load()
	if st.Keyspace != "" && st.Keyspace != sc.keyspace {
		sc = s.scopeFor(st.Keyspace)
	}
	ex := newExchange(s, f, sc)
	ex.st = merge.Statement{
		Mutates: !st.Class.IsRead(), Idempotent: st.Idempotent,
		CAS: st.CAS, Counter: st.Counter, Unlogged: st.Unlogged,
	}
	ex.statement = metrics.StatementOf(st.Kind, st.CAS, st.Counter)
	ex.unstamped = st.Unstamped && !e.Params.HasTimestamp
	if st.Replaced.Literal() {
		ex.dispatch(f, st.Class, e.Params, at) // a QUERY now, which has no ids
		return
	}
	ex.stmt = st
	ex.idAt = at + e.IDOffset
	if e.ResultMetadataIDOffset > 0 {
		// The nodes decide by it what may be left out.
		ex.resultAt, ex.resultLen = at+e.ResultMetadataIDOffset, len(e.ResultMetadataID)
	} else if e.Params.Flags&frame.QuerySkipMetadata != 0 {
		ex.flagsAt = at + e.Params.FlagsOffset
	}
	ex.dispatch(f, st.Class, e.Params, at)
}

// unprepared tells the client that the proxy does not know a statement: after a
// restart, or because many others were prepared since.
func (s *Session) unprepared(f frame.Frame, id []byte) {
	s.env.Metrics.CacheMisses.Inc()
	s.client.RespondError(&s.batch, f.Stream(), merge.Unprepared(id))
}

// execBatch handles BATCH.
func (s *Session) execBatch(f frame.Frame) {
	body, at, err := frame.SplitRequest(f)
	if err != nil {
		s.malformed(f, err)
		return
	}
	bt, err := frame.ParseBatch(body, s.client.Version)
	if err != nil {
		s.malformed(f, err)
		return
	}
	ex := newExchange(s, f, s.scope.Load())
	ex.st = merge.Statement{
		Mutates: true, Idempotent: bt.Type != frame.BatchCounter,
		Counter: bt.Type == frame.BatchCounter, Unlogged: bt.Type == frame.BatchUnlogged,
	}
	ex.consistency = bt.Params.Consistency
	replace, anyUnstamped := false, false
	for it := bt.Children(); it.Next(); {
		if !it.Prepared {
			st := scan.Scan(it.Text)
			replace = replace || s.env.Replace.Wants(&st)
			anyUnstamped = anyUnstamped || route.Unstamped(&st)
			ex.addChild(st.Idempotent, st.CAS)
			continue
		}
		child := s.env.Cache.Find(it.ID)
		if child == nil || child.Own != nil {
			ex.free()
			s.unprepared(f, it.ID)
			return
		}
		ex.addChild(child.Idempotent, child.CAS)
		replace = replace || child.Replaced != nil
		anyUnstamped = anyUnstamped || child.Unstamped
		ex.children = append(ex.children, child)
	}
	rule := s.env.Rule()
	ex.phase, ex.plan = rule.Phase, route.Decide(rule, route.Write, s.env.Routing)
	if anyUnstamped && !bt.Params.HasTimestamp && !ex.st.CAS && !ex.st.Counter {
		f = ex.stamp(f, at, &bt.Params)
	}
	if replace {
		replaced, err := s.env.Replace.Batch(f, at, &bt, func(i int) (string, *rewrite.Replacement) {
			return ex.children[i].Text, ex.children[i].Replaced
		}, s.env.Values)
		if err != nil {
			s.malformed(f, err) // f may be ex's
			ex.free()
			return
		}
		f = replaced
		ex.children = slices.DeleteFunc(ex.children, func(st *prepared.Statement) bool { return st.Replaced.Literal() })
		ex.req = ex.req[:0] // it is another one now
	}
	ex.kind, ex.counted = metrics.Writes, true
	ex.statement = metrics.StatementOf(scan.Batch, ex.st.CAS, ex.st.Counter)
	ex.begin(f)
}

func (ex *exchange) addChild(idempotent, cas bool) {
	ex.st.Idempotent = ex.st.Idempotent && idempotent
	ex.st.CAS = ex.st.CAS || cas
}

// batchFor returns the BATCH as it goes to a side: as it is where the side's
// ids are those that the client knows, which is the rule.
func (ex *exchange) batchFor(side phase.Side, f frame.Frame) (frame.Frame, error) {
	same := true
	for _, child := range ex.children {
		same = same && bytes.Equal(child.Side(side).ID, child.ID)
	}
	if same {
		return f, nil
	}
	return rewrite.BatchIDs(f, func(i int) []byte { return ex.children[i].Side(side).ID })
}

// executeFor fits an EXECUTE to a side: with the ids that it has given itself.
func (ex *exchange) executeFor(side phase.Side, m *prepared.Metadata, f frame.Frame) (frame.Frame, upstream.Patch) {
	st := ex.stmt
	var p upstream.Patch
	if side == ex.plan.Answer && ex.flagsAt > 0 && !st.MaySkipMetadata(side) {
		p.ClearFlags, p.FlagsOffset = byte(frame.QuerySkipMetadata), ex.flagsAt
	}
	told := f[ex.resultAt : ex.resultAt+ex.resultLen]
	result := told
	if ex.resultAt > 0 {
		result = st.ResultID(side, told)
	}
	if len(m.ID) != len(st.ID) || len(result) != len(told) {
		longer := len(f)
		f = rewrite.ExecuteIDs(f, ex.idAt, len(st.ID), m.ID, ex.resultAt, len(told), result)
		p.FlagsOffset += len(f) - longer
		return f, p
	}
	if !bytes.Equal(m.ID, st.ID) {
		p.ID, p.IDOffset = m.ID, ex.idAt
	}
	if !bytes.Equal(result, told) {
		p.ResultID, p.ResultIDOffset = result, ex.resultAt
	}
	return f, p
}

// readError reads an ERROR frame: what it makes of the leg, and for UNPREPARED
// the statement that the side has forgotten.
func (ex *exchange) readError(side phase.Side, f frame.Frame) (merge.Outcome, *prepared.Statement) {
	out := merge.Outcome{Result: merge.Refused, Code: frame.ErrServer}
	r, err := frame.SplitResponse(f)
	if err != nil {
		return out, nil
	}
	e, err := frame.ParseError(r.Body, f.Version())
	if err != nil {
		return out, nil
	}
	out.Code = e.Code
	switch e.Code {
	case frame.ErrWriteTimeout:
		out.BatchLog = frame.TimedOutWrite(e.Tail) == frame.WriteTypeBatchLog
		return out, nil
	case frame.ErrUnprepared:
	default:
		return out, nil
	}
	if ex.stmt != nil {
		return out, ex.stmt
	}
	id := frame.UnpreparedID(e.Tail)
	for _, child := range ex.children {
		if m := child.Side(side); m != nil && bytes.Equal(m.ID, id) {
			return out, child
		}
	}
	return out, nil
}

// observe records a leg in the node's metrics.
func (l *leg) observe(c *upstream.Conn, now int64) {
	n, _ := c.Meter().(*metrics.Node)
	ex := l.ex
	if n == nil || !ex.counted && !ex.shadow {
		return
	}
	n.Answered(ex.st.Mutates, ex.shadow, time.Duration(now-ex.start))
	if l.out.Result == merge.Refused {
		n.Failed(ex.shadow, metrics.FailureOf(l.out.Code))
	}
}
