package appliance

import (
	"context"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
)

const (
	// window is how far a status looks back.
	window = 5 * time.Minute
	// watchInterval is how often a process is asked; what it counts after the last
	// time and before its end is not known.
	watchInterval = 2 * time.Second
	// marksKept bounds the marks of the window.
	marksKept = int(window / watchInterval)
)

// counts are what a process counts, and what many have counted.
type counts struct {
	requests, failures uint64
	origin, target     control.Traffic
}

func countsOf(st *control.Status) counts {
	return counts{st.Requests, st.Failures, st.Origin.Traffic, st.Target.Traffic}
}

// plus is c and what has come from before to now.
func (c counts) plus(now, before counts) counts {
	c.requests += now.requests - before.requests
	c.failures += now.failures - before.failures
	c.origin = trafficPlus(c.origin, now.origin, before.origin)
	c.target = trafficPlus(c.target, now.target, before.target)
	return c
}

func trafficPlus(t, now, before control.Traffic) control.Traffic {
	t.Reads += now.Reads - before.Reads
	t.Writes += now.Writes - before.Writes
	t.FailedReads += now.FailedReads - before.FailedReads
	t.FailedWrites += now.FailedWrites - before.FailedWrites
	t.Copies += now.Copies - before.Copies
	t.FailedCopies += now.FailedCopies - before.FailedCopies
	t.LastFailedWrite = later(t.LastFailedWrite, now.LastFailedWrite)
	t.LastFailedCopy = later(t.LastFailedCopy, now.LastFailedCopy)
	return t
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// traffic adds up what processes count, each from 0 on. Safe for concurrent use.
type traffic struct {
	since time.Time

	// Guarded by mu.
	mu    sync.Mutex
	total counts
	seen  map[string]counts // of each process that runs, by name, when it was last asked
	marks []mark            // of the window, the oldest first
}

// mark is what the total was.
type mark struct {
	at    time.Time
	total counts
}

func newTraffic(now time.Time) *traffic {
	return &traffic{since: now, seen: map[string]counts{}, marks: []mark{{at: now}}}
}

// begin says that a process has counted so far what was before this agent.
func (t *traffic) begin(process string, st *control.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := countsOf(st)
	t.seen[process] = before
	t.total = t.total.plus(before, before) // for when something last failed
}

func (t *traffic) add(process string, now time.Time, st *control.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := countsOf(st)
	t.total = t.total.plus(seen, t.seen[process])
	t.seen[process] = seen
	if now.Sub(t.marks[len(t.marks)-1].at) < watchInterval/2 { // of another process, just now
		return
	}
	if len(t.marks) > marksKept {
		t.marks = append(t.marks[:0:0], t.marks[1:]...)
	}
	t.marks = append(t.marks, mark{now, t.total})
}

func (t *traffic) end(process string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.seen, process)
}

func (t *traffic) recent(now time.Time) adminapi.Recent {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := t.marks[0]
	for _, m := range t.marks {
		if now.Sub(m.at) >= window {
			from = m
		}
	}
	c := counts{}.plus(t.total, from.total)
	return adminapi.Recent{
		WatchedSince: t.since, WindowSeconds: int(now.Sub(from.at).Seconds()),
		Requests: c.requests, Failures: c.failures, Origin: c.origin, Target: c.target,
	}
}

// watch has what a process counts added up until it ends.
func (a *Agent) watch(p *proxy) {
	a.task(func(ctx context.Context) func() {
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return func() {}
			case <-p.Done():
				a.traffic.end(p.Name())
				return func() {}
			case <-tick.C:
			}
			if st, err := p.status(ctx, statusTimeout); err == nil {
				a.traffic.add(p.Name(), a.o.Now(), st)
			}
		}
	})
}
