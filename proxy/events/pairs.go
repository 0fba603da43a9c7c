package events

import (
	"slices"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Within is how long the event of one side waits for that of the other. It is as
// long as drivers wait for a schema agreement by default (Java and Python: 10 s):
// whoever has waited for that goes on with what there is.
const Within = 10 * time.Second

// maxWaiting bounds the events that wait. A script that makes a thousand tables
// which one side refuses fills it; then the oldest is treated as if its time were
// over.
const maxWaiting = 1024

// Pairs holds schema events of either side back until the other side has had the
// same change. Each event is matched once, so that two quick changes of one table
// are two. The zero value is ready.
type Pairs struct {
	waiting []waiting // oldest first
}

type waiting struct {
	side  phase.Side
	body  string
	until time.Time
}

// Add takes the event of a side and returns it if clients may hear of it now. The
// body is all that is compared: change, target, keyspace, name and argument types.
// answering is the side that answers system queries.
//
// Where one side is written to, its events come through at once. If too many wait,
// the oldest one comes through too, if it is one of the answering side.
func (p *Pairs) Add(side phase.Side, body []byte, writes phase.Set, answering phase.Side, now time.Time) (pass [][]byte) {
	if writes != phase.Both {
		if side == answering {
			pass = append(pass, body)
		}
		return pass
	}
	other := func(w waiting) bool { return w.side != side && w.body == string(body) }
	if i := slices.IndexFunc(p.waiting, other); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		return append(pass, body)
	}
	if len(p.waiting) == maxWaiting {
		pass = p.giveUp(pass, answering)
	}
	p.waiting = append(p.waiting, waiting{side, string(body), now.Add(Within)})
	return pass
}

// Expire returns what has waited for too long, less what only the side has that
// clients do not see: a driver that never hears of a change works with the schema
// of before, and the other side may have refused the statement.
func (p *Pairs) Expire(answering phase.Side, now time.Time) (pass [][]byte) {
	for len(p.waiting) > 0 && !now.Before(p.waiting[0].until) {
		pass = p.giveUp(pass, answering)
	}
	return pass
}

// Waiting are the bodies that wait, by side, oldest first.
func (p *Pairs) Waiting() (bodies [2][][]byte) {
	for _, w := range p.waiting {
		bodies[w.side] = append(bodies[w.side], []byte(w.body))
	}
	return bodies
}

// giveUp ends the wait of the oldest event.
func (p *Pairs) giveUp(pass [][]byte, answering phase.Side) [][]byte {
	w := p.waiting[0]
	p.waiting = slices.Delete(p.waiting, 0, 1)
	if w.side == answering {
		pass = append(pass, []byte(w.body))
	}
	return pass
}
