// Package timestamp gives writes the timestamp that both clusters store, and sees
// to it that the clocks agree well enough for that. docs/design/timestamps.md says
// when it helps and when it harms.
//
// Floor 2: it knows neither frames nor sessions. A Source may be used from any
// goroutine; Serve is its only one.
package timestamp

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// watchEvery is how often the clocks are compared. They are measured less often;
// the measures grow uncertain in between.
const watchEvery = time.Second

// Skew is how a cluster's clock stands to this machine's.
type Skew struct {
	// Ahead is the cluster's time less this machine's; the truth is within
	// Uncertainty of it.
	Ahead, Uncertainty time.Duration
}

// Options are what a Source needs.
type Options struct {
	// Bound is the largest skew that is taken.
	Bound time.Duration
	// Measure returns the skew of a side; false while it is not known.
	Measure func(phase.Side) (Skew, bool)
	// Changed hears when timestamps begin to be given, and when they cease, with
	// why.
	Changed func(active bool, why string)
	// Now is the wall clock; nil for time.Now.
	Now func() time.Time
}

// Source gives timestamps, in microseconds since 1970, each greater than the one
// before. It gives none before both clocks were shown to be within the bound, and
// while one is shown to be beyond it.
type Source struct {
	o      Options
	last   atomic.Int64
	active atomic.Bool

	mu    sync.Mutex
	armed bool // it was active once
}

// New makes a Source, which is not active yet.
func New(o Options) *Source {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Source{o: o}
}

// Active reports whether timestamps are to be set now; a nil Source never is.
func (s *Source) Active() bool { return s != nil && s.active.Load() }

// Next returns a timestamp: the time, or a microsecond more than the last one
// where the clock has not gone on or was set back.
func (s *Source) Next() int64 {
	for {
		last := s.last.Load()
		next := max(s.o.Now().UnixMicro(), last+1)
		if s.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// Last is the greatest timestamp that was given; 0 before the first, and of a nil
// Source.
func (s *Source) Last() int64 {
	if s == nil {
		return 0
	}
	return s.last.Load()
}

// Follow makes all that come greater than t: what another process gave before this
// one took over.
func (s *Source) Follow(t int64) {
	for {
		last := s.last.Load()
		if t <= last || s.last.CompareAndSwap(last, t) {
			return
		}
	}
}

// Problems is why timestamps cannot be set yet, empty if they can; from then on
// they are. Once they could it is always empty: what comes up later only has them
// cease for a while.
func (s *Source) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.armed {
		return nil
	}
	var out []string
	for _, side := range phase.Sides {
		if why := s.look(side).problem(side, s.o.Bound); why != "" {
			out = append(out, why)
		}
	}
	if len(out) == 0 {
		s.armed = true
		s.set(true, "both clocks are within max_clock_skew_ms")
	}
	return out
}

// Serve compares the clocks until ctx ends. It never begins to set timestamps: that
// needs somebody who has asked for Problems.
func (s *Source) Serve(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.watch()
		}
	}
}

// watch ceases when one clock is surely beyond the bound, and goes on when both
// surely are within: between the two it stays as it is, and does not flap.
func (s *Source) watch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.armed {
		return
	}
	allWithin := true
	for _, side := range phase.Sides {
		o := s.look(side)
		if s.active.Load() && o.beyond(s.o.Bound) {
			s.set(false, o.problem(side, s.o.Bound))
			return
		}
		allWithin = allWithin && o.within(s.o.Bound)
	}
	if !s.active.Load() && allWithin {
		s.set(true, "both clocks are within max_clock_skew_ms again")
	}
}

func (s *Source) set(active bool, why string) {
	s.active.Store(active)
	s.o.Changed(active, why)
}

// look compares a cluster's clock with the timestamps, which are ahead of this
// machine's clock after that was set back.
func (s *Source) look(side phase.Side) observation {
	m, ok := s.o.Measure(side)
	lead := max(time.Duration(s.last.Load()-s.o.Now().UnixMicro())*time.Microsecond, 0)
	return observation{m.Ahead - lead, m.Uncertainty, ok}
}

// observation is how far a cluster's clock is ahead of our timestamps.
type observation struct {
	ahead, uncertainty time.Duration
	known              bool
}

func (o observation) within(bound time.Duration) bool {
	return o.known && o.ahead.Abs()+o.uncertainty <= bound
}

func (o observation) beyond(bound time.Duration) bool {
	return o.known && o.ahead.Abs()-o.uncertainty > bound
}

// problem is why the clock is not known to be within the bound; "" if it is.
func (o observation) problem(side phase.Side, bound time.Duration) string {
	direction := "ahead of"
	if o.ahead < 0 {
		direction = "behind"
	}
	switch {
	case o.within(bound):
		return ""
	case !o.known:
		return fmt.Sprintf("set_write_timestamps: the clock of %s is not measured yet; it is when the control connection is open, if the nodes answer SELECT now()", side)
	}
	return fmt.Sprintf("set_write_timestamps: the clock of %s is %v %s the proxy's, give or take %v, and max_clock_skew_ms is %d; set the clocks right (chrony, ntpd) on the nodes and here, or raise it",
		side, o.ahead.Abs().Round(time.Millisecond), direction, o.uncertainty.Round(100*time.Microsecond), bound.Milliseconds())
}
