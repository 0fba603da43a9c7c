package session

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
	"github.com/zdmproject/terraform-provider-zdm/proxy/merge"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/prepared"
	"github.com/zdmproject/terraform-provider-zdm/proxy/rewrite"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// prepare handles PREPARE.
func (s *Session) prepare(f frame.Frame) {
	body, at, err := frame.SplitRequest(f)
	if err != nil {
		s.malformed(f, err)
		return
	}
	p, err := frame.ParsePrepare(body, s.client.Version)
	if err != nil {
		s.malformed(f, err)
		return
	}
	scanned := scan.Scan(p.Text)
	sc := s.scope.Load()
	keyspace := keyspaceOf(p.Keyspace, sc)
	class := route.Classify(&scanned, keyspace)
	switch class {
	case route.Virtual, route.NoPeersV2, route.Insights:
		s.virtualPrepare(f, &scanned, keyspace, class, p.Text)
		return
	}
	st := prepared.New(string(p.Text), class, &scanned)
	if len(scanned.Keyspace.Raw) == 0 {
		st.Keyspace = keyspace
	}
	if s.env.Replace.Wants(&scanned) {
		if st.Replaced = s.env.Replace.Prepare(p.Text); st.Replaced != nil {
			f = rewrite.Text(f, at, len(p.Text), []byte(st.Replaced.Text))
		}
	}
	ex := newExchange(s, f, sc)
	ex.st = merge.Statement{Lenient: class.IsRead(), Inert: true}
	rule := s.env.Rule()
	ex.plan = route.Prepare(rule)
	ex.making = &making{st: st, primary: rule.Primary}
	ex.begin(f)
}

// making is what becomes of a PREPARE.
//
// One of a read need not wait for both sides: the client gets the answer of the
// one whose ids it knows, or soon that of the one that reads, and the other side's
// is stored when it comes. If it never does, that side is prepared when it is
// first needed.
type making struct {
	st      *prepared.Statement
	primary phase.Side // the one that reads are answered by
	// first is the leg that ended first.
	first atomic.Pointer[leg]

	// Guarded by mu, which is never held across I/O.
	mu    sync.Mutex
	told  bool                // the client has its answer
	known *prepared.Statement // st or the one that was there before, once told; nil if it cannot be kept
}

// prepareGrace is how long the client waits for the answer of the side whose ids
// it knows, when the side that reads has answered. The other's id will do too, but
// a proxy that gave one and a proxy that gives the other confuse drivers where
// clusters make ids differently.
const prepareGrace = 500 * time.Millisecond

// early answers a PREPARE of a read with what one side has said, while the other
// one is out.
func (ex *exchange) early(b *upstream.Batch) {
	l := ex.making.first.Load()
	switch {
	case l == nil || !ex.st.Lenient || l.out.Result != merge.Succeeded:
	case l.side == ex.plan.Answer:
		ex.tell(b, l.side, l.saved)
	case l.side == ex.making.primary:
		time.AfterFunc(prepareGrace, func() {
			b := upstream.Batch{Now: upstream.Nanotime()}
			ex.tell(&b, l.side, l.saved)
			b.Done()
		})
	}
}

func (m *making) wasTold() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.told
}

// tell gives the client a side's answer, unless it has one.
func (ex *exchange) tell(b *upstream.Batch, side phase.Side, f frame.Frame) {
	m, s := ex.making, ex.s
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.told {
		return
	}
	m.told = true
	answer := ex.answerPrepare(side, f)
	s.client.Respond(b, ex.stream, answer)
	s.done()
}

// finishPrepare ends a PREPARE both of whose sides have answered or failed. The
// client may have been told.
func (ex *exchange) finishPrepare(b *upstream.Batch, side phase.Side, frames [2]frame.Frame) {
	ex.tell(b, side, frames[side])
	m := ex.making
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		return
	}
	for _, from := range phase.Sides {
		if frames[from] == nil || frames[from].Opcode() == frame.OpError {
			continue
		}
		if md, err := ex.readPrepared(from, frames[from]); err == nil {
			m.known.SetSide(from, md)
		}
	}
}

// answerPrepare stores what a side has answered, and returns what the client gets,
// whose id it is from then on. It runs under making.mu.
func (ex *exchange) answerPrepare(side phase.Side, answer frame.Frame) frame.Frame {
	st := ex.making.st
	md, err := ex.readPrepared(side, answer)
	if st.Replaced != nil {
		// The node's id is also that of the statement that has the markers from the
		// beginning.
		st.ID = rewrite.ID(st.Keyspace, st.Text)
		var err error
		if answer, err = rewrite.Answer(answer, st.ID, st.Replaced); err != nil {
			return frame.AppendError(nil, ex.s.client.Version, 0, rewrite.Refusal(err))
		}
	}
	if err != nil {
		return answer // the client decodes for itself, and is told UNPREPARED later
	}
	st.Told, st.ToldResultID = md.ResultDigest, md.ResultID
	if st.ID == nil {
		st.ID = md.ID
	}
	st.SetSide(side, md)
	ex.making.known = ex.s.env.Cache.Put(st)
	return answer
}

func (ex *exchange) readPrepared(side phase.Side, f frame.Frame) (*prepared.Metadata, error) {
	md, err := prepared.ReadMetadata(f)
	if err != nil {
		ex.s.env.Log.Warn("PREPARE answer not understood", "cluster", side, "cause", err)
	}
	return md, err
}
