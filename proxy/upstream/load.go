package upstream

import "time"

const (
	// growInFlight is how many requests on one connection call for another: a
	// quarter of its stream ids, so that the next one is open before they run out.
	growInFlight = maxStreams / 4
	// growOutput is how many bytes that wait on one connection do so, when they are
	// as many at the next look: its socket stays full, and the node reads no faster
	// than one connection lets it.
	growOutput = 256 << 10
	// growEvery is the time that one more connection has to show what it gives.
	growEvery = time.Second
	// shrinkAfter is how long the load must have fitted one connection less.
	shrinkAfter = time.Minute
)

// scale is when the number of connections to a node changes.
type scale struct {
	inFlight, output int
	every, calmFor   time.Duration
}

func defaultScale() scale {
	return scale{inFlight: growInFlight, output: growOutput, every: growEvery, calmFor: shrinkAfter}
}

// load is what the connections to a node have had to carry lately. Its fields
// belong to the sweep.
type load struct {
	inFlight int       // on all of them, at this look
	busiest  int       // on one of them
	full     bool      // output of one waits, at this look
	wasFull  bool      // and at the one before
	grown    time.Time // when the last one was added
	calm     time.Time // since when one less would do; zero: it would not
}

// fit gives each node as many connections as its load needs, within the bounds.
// It looks at what the hot path counts anyway.
func (p *Pool) fit(now time.Time) {
	o := &p.pools.opts
	if o.MaxConnectionsPerNode <= o.ConnectionsPerNode {
		return
	}
	s := &p.pools.scale
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		m.load.inFlight, m.load.busiest, m.load.wasFull, m.load.full = 0, 0, m.load.full, false
	}
	for _, c := range *p.ready.Load() {
		l := &c.line.member.load
		n := c.InFlight()
		l.inFlight += n
		l.busiest = max(l.busiest, n)
		l.full = l.full || c.out.Len() >= s.output
	}
	for _, m := range p.members {
		switch n := len(m.lines); m.load.verdict(*s, n, now) {
		case grow:
			if n < o.MaxConnectionsPerNode {
				m.load.grown = now
				p.pools.grown.Add(1)
				p.open(m, nil)
			}
		case shrink:
			if n > o.ConnectionsPerNode {
				p.pools.shrunk.Add(1)
				p.retire(m.lines[n-1])
				m.lines = m.lines[:n-1]
			}
		}
	}
}

type verdict uint8

const (
	stay verdict = iota
	grow
	shrink
)

// verdict looks at the load of n connections.
func (l *load) verdict(s scale, n int, now time.Time) verdict {
	switch {
	case l.busiest >= s.inFlight, l.full && l.wasFull:
		l.calm = time.Time{}
		if now.Sub(l.grown) < s.every {
			return stay
		}
		return grow
	case l.full, l.inFlight >= (n-1)*s.inFlight/2:
		// One less would soon be at its bound again.
		l.calm = time.Time{}
	case l.calm.IsZero():
		l.calm = now
	case now.Sub(l.calm) >= s.calmFor:
		l.calm = now // the next one has a time of its own
		return shrink
	}
	return stay
}
