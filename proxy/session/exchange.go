package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/buffer"
	"github.com/zdmproject/terraform-provider-zdm/proxy/merge"
	"github.com/zdmproject/terraform-provider-zdm/proxy/metrics"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/prepared"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// maxTries is how often a leg may be told UNPREPARED. Once is the ordinary
// case; a second time happens when the node is short of room for statements.
const maxTries = 3

// exchange is one client request from its frame to its one answer. It is taken
// from a pool, filled by the session's goroutine, and belongs to the goroutine
// that brings its last leg in, which gives it back.
type exchange struct {
	s *Session

	// Set before the first leg is sent, then read only.
	stream      int16
	opcode      frame.Opcode
	consistency frame.Consistency
	st          merge.Statement
	isUse       bool
	shadow      bool // a copy of a read: nobody waits for the answer
	kind        metrics.Type
	statement   metrics.Statement
	phase       phase.Phase // in which it was routed
	unstamped   bool        // it writes without a timestamp
	trace       string      // the id that the request is traced by, "" if it is not
	counted     bool        // in the request metrics: PREPARE and USE are not
	plan        route.Plan
	scope       *scope
	start       int64
	stmt        *prepared.Statement // of EXECUTE
	idAt        int                 // offset of the id in the frame
	flagsAt     int                 // offset of the byte with the skip-metadata flag, if it is the proxy that decides
	resultAt    int                 // offset of the id of the result metadata; 0 if the version has none
	resultLen   int
	children    []*prepared.Statement // of BATCH, those that are prepared
	making      *making               // of PREPARE
	cost        int64                 // what it takes of the client's account
	own         []byte                // the RESULT body that the client gets, whatever the node says; nil for the node's

	// req is the frame as it goes to the nodes, but for their ids: kept where it
	// may have to be sent again or later.
	req []byte

	// pending is the number of legs without an outcome, and one more while they
	// are being sent.
	pending atomic.Int32
	legs    [2]leg
}

// leg is one copy of the request. Its fields belong to whoever drives it: first
// the session's goroutine, then the reader of the node connection.
type leg struct {
	ex        *exchange
	side      phase.Side
	preparing *prepared.Statement // what is being prepared for it; nil while it is the request itself
	home      *upstream.Conn      // where the request goes on, if preparing had to use another connection
	tries     int
	out       merge.Outcome
	err       error
	saved     []byte        // the answer, if it came before the last one and may be needed
	copied    *metrics.Node // that counts the leg as a copy of a read in flight
}

var exchanges = sync.Pool{New: func() any {
	ex := &exchange{}
	for _, s := range phase.Sides {
		ex.legs[s].ex, ex.legs[s].side = ex, s
	}
	return ex
}}

func newExchange(s *Session, f frame.Frame, sc *scope) *exchange {
	ex := exchanges.Get().(*exchange)
	ex.s, ex.stream, ex.opcode, ex.scope, ex.start = s, f.Stream(), f.Opcode(), sc, s.batch.Now
	ex.trace = s.traced.ID
	return ex
}

func (ex *exchange) free() {
	if ex.cost > 0 {
		ex.s.client.Hold(-ex.cost)
		ex.cost = 0
	}
	if ex.making != nil {
		return // see early: others may hold it
	}
	req, children := buffer.Empty(ex.req), ex.children[:0]
	clear(children[:cap(children)])
	ex.s, ex.scope, ex.stmt, ex.own = nil, nil, nil, nil
	ex.st, ex.consistency = merge.Statement{}, 0
	ex.isUse, ex.shadow, ex.counted, ex.unstamped = false, false, false, false
	ex.plan = route.Plan{}
	ex.idAt, ex.flagsAt, ex.resultAt, ex.resultLen = 0, 0, 0, 0
	ex.req, ex.children = req, children
	for i := range ex.legs {
		l := &ex.legs[i]
		if l.copied != nil {
			l.copied.CopyEnded()
		}
		l.preparing, l.home, l.tries, l.out, l.err, l.copied = nil, nil, 0, merge.Outcome{}, nil, nil
		l.saved = buffer.Empty(l.saved)
	}
	exchanges.Put(ex)
}

// keep copies the request, once.
func (ex *exchange) keep(f frame.Frame) frame.Frame {
	if len(ex.req) == 0 {
		ex.req = buffer.Copy(ex.req, f)
	}
	return ex.req
}

// begin sends the request to the sides of its plan. Connections are chosen
// before anything is sent: while one side is out of reach, nothing is.
// It runs on the session's goroutine.
func (ex *exchange) begin(f frame.Frame) {
	s, b := ex.s, &ex.s.batch
	if ex.counted {
		s.env.Metrics.Began(ex.kind, ex.phase, ex.statement)
	}
	if !ex.shadow && int(s.inFlight.Add(1)) > s.env.Config.Listen.MaxStreamIDs {
		s.env.Metrics.Rejected(metrics.ClientRequests)
		ex.refuse(b, ex.plan.Answer, &upstream.LostError{Side: ex.plan.Answer, Cause: fmt.Errorf(
			"%w: the client has more than %d (proxy_max_stream_ids)", upstream.ErrBusy, s.env.Config.Listen.MaxStreamIDs)})
		return
	}
	ex.charge(len(f))
	if ex.stmt != nil || len(ex.children) > 0 {
		f = ex.keep(f)
	}
	if ex.st.Lenient {
		ex.leaveOut()
	}
	var conns [2]*upstream.Conn
	for _, side := range phase.Sides {
		if !ex.plan.Legs.Has(side) {
			continue
		}
		c, err := s.pick(ex.scope, side)
		switch {
		case err == nil && c == nil && ex.shadow:
			// A copy waits for nothing.
			err = &upstream.LostError{Side: side, Cause: upstream.ErrNoConnection}
			fallthrough
		case err != nil:
			if errors.Is(err, upstream.ErrBusy) {
				s.env.Metrics.Rejected(metrics.NodeRequests)
			}
			ex.refuse(b, side, err)
			return
		case c == nil:
			ex.park(f)
			return
		}
		conns[side] = c
	}
	ex.sendAll(b, conns, f, s.touch)
}

// charge accounts for the copies of a request of n bytes: what is kept of it, and
// what waits for each node.
func (ex *exchange) charge(n int) {
	copies := int64(1)
	for _, side := range phase.Sides {
		if ex.plan.Legs.Has(side) {
			copies++
		}
	}
	ex.cost = copies * int64(n)
	ex.s.client.Hold(ex.cost)
}

// leaveOut takes a side off the plan of a PREPARE for which the other one is
// enough: a read of one side must not fail or wait because of the other. A side
// that may be back soon is left out only if the other one is that which the client
// hears, or which reads are answered by.
func (ex *exchange) leaveOut() {
	var within, soon phase.Set
	for _, side := range ex.plan.Legs.Each() {
		switch c, err := ex.s.pick(ex.scope, side); {
		case c != nil:
			within |= phase.Of(side)
		case err == nil:
			soon |= phase.Of(side)
		}
	}
	if !within.Has(ex.plan.Answer) && !within.Has(ex.making.primary) {
		within |= soon
	}
	if within == 0 || within == ex.plan.Legs {
		return
	}
	ex.plan.Legs = within
	if !within.Has(ex.plan.Answer) {
		ex.plan.Answer = ex.plan.Answer.Other()
	}
}

// sendAll sends every leg, and tells sent of each connection that is to be
// flushed.
func (ex *exchange) sendAll(b *upstream.Batch, conns [2]*upstream.Conn, f frame.Frame, sent func(*upstream.Conn)) {
	legs := int32(1)
	for _, c := range conns {
		if c != nil {
			legs++
		}
	}
	ex.pending.Store(legs)
	for side, c := range conns {
		if c != nil && ex.legs[side].send(b, c, f) {
			sent(c)
		}
	}
	ex.arrived(b, nil, nil)
}

// refuse ends a request of which nothing was sent.
func (ex *exchange) refuse(b *upstream.Batch, side phase.Side, err error) {
	ex.pending.Store(1)
	ex.legs[side].out.Result, ex.legs[side].err = merge.Unsent, err
	ex.arrived(b, nil, nil)
}

// park sends the request as soon as each of its sides has a connection. It is
// off the usual path: after a change of phase, and while connections are opened
// again.
func (ex *exchange) park(f frame.Frame) {
	s, kept := ex.s, ex.keep(f)
	s.later(func(ctx context.Context) {
		var b upstream.Batch
		var conns [2]*upstream.Conn
		for _, side := range phase.Sides {
			if !ex.plan.Legs.Has(side) {
				continue
			}
			c, err := ex.scope.connect(ctx, side)
			if err != nil {
				b.Now = upstream.Nanotime()
				ex.refuse(&b, side, err)
				b.Done()
				return
			}
			conns[side] = c
		}
		b.Now = upstream.Nanotime()
		ex.sendAll(&b, conns, kept, func(c *upstream.Conn) { c.Flush() })
		b.Done()
	})
}

// send appends the leg's copy to a connection. If that cannot be done the leg
// ends, and send returns false. If the side does not know a prepared statement
// yet, it is prepared there first.
func (l *leg) send(b *upstream.Batch, c *upstream.Conn, f frame.Frame) bool {
	ex := l.ex
	var p upstream.Patch
	switch {
	case ex.stmt != nil:
		m := ex.stmt.Side(l.side)
		if m == nil {
			return l.prepare(b, c, ex.stmt)
		}
		f, p = ex.executeFor(l.side, m, f)
	case len(ex.children) > 0:
		for _, child := range ex.children {
			if child.Side(l.side) == nil {
				return l.prepare(b, c, child)
			}
		}
		var err error
		if f, err = ex.batchFor(l.side, f); err != nil {
			l.lose(b, &upstream.LostError{Side: l.side, Cause: err})
			return false
		}
	}
	if ex.shadow && l.copied == nil {
		if l.copied, _ = c.Meter().(*metrics.Node); l.copied != nil {
			l.copied.CopyBegan()
		}
	}
	if err := c.Send(l, f, p, b.Now); err != nil {
		l.sendAgain(b, f, err)
		return false
	}
	return true
}

// sendAgain sends a leg on another connection after one broke between choosing
// it and using it. Nothing was sent, so that is safe for any statement.
func (l *leg) sendAgain(b *upstream.Batch, f frame.Frame, err error) {
	if l.tries++; l.tries > maxTries || l.ex.shadow || errors.Is(err, upstream.ErrBusy) {
		l.lose(b, err)
		return
	}
	ex := l.ex
	ex.s.env.Metrics.SentAgain(l.side)
	kept := ex.keep(f)
	ex.s.later(func(ctx context.Context) {
		c, err := ex.scope.connect(ctx, l.side)
		b := upstream.Batch{Now: upstream.Nanotime()}
		if err != nil {
			l.lose(&b, err)
		} else if l.send(&b, c, kept) {
			c.Flush()
		}
		b.Done()
	})
}

// prepare prepares st on the node of c, on the way to the request itself.
func (l *leg) prepare(b *upstream.Batch, c *upstream.Conn, st *prepared.Statement) bool {
	l.preparing = st
	if st.Keyspace != "" && st.Keyspace != c.Keyspace() {
		// Only a BATCH of statements that were prepared in several keyspaces
		// comes here; EXECUTE goes through the statement's own keyspace. The
		// same node must prepare it, and the BATCH itself stays where it is.
		ex := l.ex
		l.home = c
		ex.s.later(func(ctx context.Context) {
			b := upstream.Batch{Now: upstream.Nanotime()}
			sc := ex.s.newScope(st.Keyspace)
			defer sc.release()
			if c, err := sc.connectTo(ctx, l.side, l.home.Node()); err != nil {
				l.lose(&b, err)
			} else if l.sendPrepare(&b, c, st) {
				c.Flush()
			}
			b.Done()
		})
		return false
	}
	return l.sendPrepare(b, c, st)
}

func (l *leg) sendPrepare(b *upstream.Batch, c *upstream.Conn, st *prepared.Statement) bool {
	f := frame.AppendHeader(nil, l.ex.s.client.Version, false, 0, 0, frame.OpPrepare, 0)
	f = frame.AppendPrepare(f, l.ex.s.client.Version, st.NodeText(), st.Keyspace)
	frame.PutLength(f)
	if err := c.Send(l, f, upstream.Patch{}, b.Now); err != nil {
		l.lose(b, err)
		return false
	}
	return true
}

// Answer takes what the node said: to the request, or to a PREPARE on the way.
func (l *leg) Answer(b *upstream.Batch, c *upstream.Conn, f frame.Frame) {
	ex := l.ex
	if l.preparing != nil {
		l.prepared(b, c, f)
		return
	}
	if f.Opcode() == frame.OpError {
		out, st := ex.readError(l.side, f)
		if out.Code == frame.ErrUnprepared && (ex.stmt != nil || len(ex.children) > 0) {
			if l.tries++; st == nil || l.tries > maxTries {
				// The client must not hear of it: it would prepare again and
				// send again, to both sides.
				l.lose(b, &upstream.LostError{Side: l.side, Node: c.Node(), Cause: errors.New("the node keeps forgetting the prepared statement")})
				return
			}
			ex.s.env.Metrics.Mended(l.side)
			if l.prepare(b, c, st) {
				c.Flush()
			}
			return
		}
		l.out = out
	} else {
		l.out.Result = merge.Succeeded
	}
	l.observe(c, b.Now)
	ex.arrived(b, l, f)
}

// prepared goes on with the request after a PREPARE on the way.
func (l *leg) prepared(b *upstream.Batch, c *upstream.Conn, f frame.Frame) {
	st := l.preparing
	l.preparing = nil
	if f.Opcode() == frame.OpError {
		l.out, _ = l.ex.readError(l.side, f)
		l.observe(c, b.Now)
		l.ex.arrived(b, l, f)
		return
	}
	m, err := prepared.ReadMetadata(f)
	if err != nil {
		l.lose(b, &upstream.LostError{Side: l.side, Node: c.Node(), Cause: err})
		return
	}
	st.SetSide(l.side, m)
	if ex := l.ex; ex.stmt == st && st.Class.IsRead() && m.ResultDigest != st.Told && ex.resultAt == 0 && !ex.shadow {
		// The columns are others than the client was told. Nothing can have been
		// applied, so have it prepare again: gocql 1 decodes with what it was told
		// even if an answer brings its metadata. Where the client sends the id of its
		// metadata, the node tells it of others.
		l.out = merge.Outcome{Result: merge.Refused, Code: frame.ErrUnprepared}
		ex.arrived(b, l, frame.AppendError(nil, ex.s.client.Version, 0, merge.Unprepared(st.ID)))
		return
	}
	if l.home != nil {
		c, l.home = l.home, nil
	}
	if l.send(b, c, l.ex.req) {
		c.Flush()
	}
}

// Lost ends the leg without an answer.
func (l *leg) Lost(b *upstream.Batch, err error) {
	if l.preparing != nil {
		// A PREPARE changes nothing, whether it arrived or not.
		var e *upstream.LostError
		if errors.As(err, &e) {
			err = &upstream.LostError{Side: e.Side, Node: e.Node, Cause: e.Cause}
		}
	}
	l.lose(b, err)
}

func (l *leg) lose(b *upstream.Batch, err error) {
	l.out.Result, l.err = merge.Unsent, err
	switch {
	case upstream.Sent(err):
		l.out.Result = merge.Lost
	case errors.Is(err, upstream.ErrBusy):
		l.ex.s.env.Metrics.Rejected(metrics.NodeRequests)
	}
	l.ex.countLoss(l, err)
	l.ex.arrived(b, l, nil)
}

// countLoss records a leg without an answer in its node's metrics.
func (ex *exchange) countLoss(l *leg, err error) {
	if !ex.counted && !ex.shadow {
		return
	}
	node := ""
	failure := metrics.OtherFailure
	var e *upstream.LostError
	if errors.As(err, &e) {
		node = e.Node
		if e.Sent && errors.Is(e, upstream.ErrTimeout) {
			failure = metrics.NoAnswer
		}
	}
	if node != "" {
		ex.s.env.Metrics.Node(l.side, node).Failed(ex.shadow, failure)
	}
}

// arrived counts a leg in (or, with a nil leg, the end of sending), and ends the
// exchange when it is the last.
func (ex *exchange) arrived(b *upstream.Batch, l *leg, f frame.Frame) {
	if f != nil && ex.pending.Load() > 1 && ex.mayNeed(l) {
		l.saved = buffer.Copy(l.saved, f)
	}
	m := ex.making // from here on, ex may be over and someone else's
	if m != nil && l != nil {
		m.first.CompareAndSwap(nil, l)
	}
	if left := ex.pending.Add(-1); left > 0 {
		if left == 1 && m != nil {
			ex.early(b)
		}
		return
	}
	var frames [2]frame.Frame
	for _, s := range phase.Sides {
		if len(ex.legs[s].saved) > 0 {
			frames[s] = ex.legs[s].saved
		}
	}
	if l != nil && f != nil {
		frames[l.side] = f
	}
	ex.finish(b, frames)
}

// mayNeed tells whether an answer can be the one that the client gets.
func (ex *exchange) mayNeed(l *leg) bool {
	return l.side == ex.plan.Answer || l.out.Result == merge.Refused || ex.making != nil
}

// finish gives the client its one answer.
func (ex *exchange) finish(b *upstream.Batch, frames [2]frame.Frame) {
	s := ex.s
	if ex.shadow {
		ex.free()
		return
	}
	if ex.making != nil && ex.making.wasTold() {
		ex.finishPrepare(b, ex.plan.Answer, frames)
		ex.free()
		return
	}
	v := merge.Decide(ex.plan.Answer, [2]merge.Outcome{ex.legs[0].out, ex.legs[1].out}, ex.st)
	switch {
	case ex.own != nil:
		s.client.Respond(b, ex.stream, ex.ownAnswer(frames[v.Side]))
	case !v.Forward:
		e := merge.LossError(ex.st, ex.consistency, ex.causeOf(v), v.Partial)
		s.env.note(s, ex, &e)
		s.client.RespondError(b, ex.stream, e)
	case ex.making != nil && v.Failed == 0:
		ex.finishPrepare(b, v.Side, frames)
		ex.free()
		return
	case ex.isUse && v.Failed == 0:
		s.scope.Store(ex.scope)
		s.client.Respond(b, ex.stream, frames[v.Side])
	default:
		s.client.RespondRows(b, ex.stream, frames[v.Side], v.Side)
	}
	if ex.counted {
		s.env.Metrics.Ended(ex.kind, time.Duration(b.Now-ex.start), ex.trace)
		switch {
		case v.Failed == 0:
		case ex.st.Mutates:
			s.env.Metrics.FailedWrite(v.Failed)
		default:
			s.env.Metrics.FailedRead(v.Side)
		}
	}
	ex.free()
	s.done()
}

// causeOf is why the proxy and not a node tells the error.
func (ex *exchange) causeOf(v merge.Verdict) error {
	l := &ex.legs[v.Side]
	if l.err != nil {
		return l.err
	}
	return &upstream.LostError{Side: v.Side, Sent: true, Cause: errOneSided}
}

var errOneSided = errors.New("the node refused what the other side may have applied")
