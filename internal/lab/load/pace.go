package load

import (
	"context"
	"sync"
	"time"
)

// pacer gives out the times at which requests are due. The load is open: a
// slow answer delays no request of another worker. The zero interval is "at
// once".
type pacer struct {
	// Set once.
	interval, backlog time.Duration

	mu   sync.Mutex
	next time.Time
	shed uint64 // requests that were due and never sent
}

// reserve returns when the caller's next request is due; it may be past.
func (p *pacer) reserve(now time.Time) time.Time {
	if p.interval == 0 {
		return now
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next.IsZero() {
		p.next = now
	}
	if late := now.Sub(p.next) - p.backlog; late > 0 {
		n := late/p.interval + 1
		p.shed += uint64(n)
		p.next = p.next.Add(n * p.interval)
	}
	due := p.next
	p.next = due.Add(p.interval)
	return due
}

// restart forgets the schedule, after a pause that was asked for.
func (p *pacer) restart() {
	p.mu.Lock()
	p.next = time.Time{}
	p.mu.Unlock()
}

func (p *pacer) shedSoFar() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shed
}

// sleepUntil returns false when ctx ended first.
func sleepUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// gate lets requests through while it is open, and knows how many are in
// flight. The zero value is open.
type gate struct {
	mu       sync.Mutex
	closed   bool
	inFlight int
	changed  chan struct{} // closed and replaced at each change that someone waits for
}

// wait blocks until done says so, asked under mu, or ctx ends.
func (g *gate) wait(ctx context.Context, done func() bool) error {
	for {
		g.mu.Lock()
		if done() {
			g.mu.Unlock()
			return nil
		}
		if g.changed == nil {
			g.changed = make(chan struct{})
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *gate) update(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	if g.changed != nil && (!g.closed || g.inFlight == 0) {
		close(g.changed)
		g.changed = nil
	}
}

// enter waits until the gate is open and counts the caller in.
func (g *gate) enter(ctx context.Context) error {
	return g.wait(ctx, func() bool {
		if g.closed || ctx.Err() != nil {
			return false
		}
		g.inFlight++
		return true
	})
}

func (g *gate) leave() { g.update(func() { g.inFlight-- }) }

// shut closes the gate and waits until nobody is inside; when ctx ends first
// the gate is open again.
func (g *gate) shut(ctx context.Context) error {
	g.update(func() { g.closed = true })
	err := g.wait(ctx, func() bool { return g.inFlight == 0 })
	if err != nil {
		g.open()
	}
	return err
}

func (g *gate) open() { g.update(func() { g.closed = false }) }
