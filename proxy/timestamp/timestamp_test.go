package timestamp_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/timestamp"
)

// clocks are what a Source sees.
type clocks struct {
	mu     sync.Mutex
	now    time.Time // not moved by anything but set
	skew   [2]timestamp.Skew
	known  [2]bool
	change []string
}

func (c *clocks) set(f func(*clocks)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

func (c *clocks) source(bound time.Duration) *timestamp.Source {
	return timestamp.New(timestamp.Options{
		Bound: bound,
		Measure: func(s phase.Side) (timestamp.Skew, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.skew[s], c.known[s]
		},
		Changed: func(active bool, why string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			word := "ceases: "
			if active {
				word = "begins: "
			}
			c.change = append(c.change, word+why)
		},
		Now: func() time.Time {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.now
		},
	})
}

func TestTimestampsRiseStrictlyThoughTheClockDoesNot(t *testing.T) {
	t.Parallel()
	start := time.UnixMicro(1_700_000_000_000_000)
	c := &clocks{now: start}
	s := c.source(time.Second)
	if got, want := s.Next(), start.UnixMicro(); got != want {
		t.Errorf("the first is %d, want the time %d", got, want)
	}
	var wg sync.WaitGroup
	given := make([][]int64, 8)
	for i := range given {
		wg.Go(func() {
			for range 1000 {
				given[i] = append(given[i], s.Next())
			}
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	for _, list := range given {
		last := start.UnixMicro()
		for _, ts := range list {
			if ts <= last || seen[ts] {
				t.Fatalf("%d comes after %d, or twice", ts, last)
			}
			last, seen[ts] = ts, true
		}
	}
	last := s.Last()
	c.set(func(c *clocks) { c.now = start.Add(-time.Hour) })
	if got := s.Next(); got != last+1 {
		t.Errorf("after the clock was set back: %d, want %d", got, last+1)
	}
	c.set(func(c *clocks) { c.now = start.Add(time.Hour) })
	if got, want := s.Next(), start.Add(time.Hour).UnixMicro(); got != want {
		t.Errorf("when the clock has gone on: %d, want the time %d", got, want)
	}
	s.Follow(5)
	if got, want := s.Next(), start.Add(time.Hour).UnixMicro()+1; got != want {
		t.Errorf("behind another process's older one: %d, want %d", got, want)
	}
	s.Follow(start.Add(2 * time.Hour).UnixMicro())
	if got, want := s.Next(), start.Add(2*time.Hour).UnixMicro()+1; got != want {
		t.Errorf("behind another process's newer one: %d, want %d", got, want)
	}
}

func TestNoTimestampsBeforeBothClocksAreShownToBeWithinTheBound(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, tt := range map[string]struct {
		skew  [2]timestamp.Skew
		known [2]bool
		want  []string // each problem has it; none if timestamps begin
	}{
		"both agree":          {[2]timestamp.Skew{{ms, ms}, {-ms, ms}}, [2]bool{true, true}, nil},
		"at the bound":        {[2]timestamp.Skew{{99 * ms, ms}, {-99 * ms, ms}}, [2]bool{true, true}, nil},
		"Origin is ahead":     {[2]timestamp.Skew{{350 * ms, ms}, {}}, [2]bool{true, true}, []string{"the clock of origin is 350ms ahead of the proxy's, give or take 1ms, and max_clock_skew_ms is 100"}},
		"both are behind":     {[2]timestamp.Skew{{-time.Second, 0}, {-time.Second, 0}}, [2]bool{true, true}, []string{"origin is 1s behind the proxy's", "target is 1s behind the proxy's"}},
		"Target is not known": {[2]timestamp.Skew{}, [2]bool{true, false}, []string{"the clock of target is not measured yet"}},
		"it cannot be told":   {[2]timestamp.Skew{{50 * ms, 60 * ms}, {}}, [2]bool{true, true}, []string{"origin is 50ms ahead of the proxy's, give or take 60ms"}},
	} {
		c := &clocks{now: time.UnixMicro(1 << 50), skew: tt.skew, known: tt.known}
		s := c.source(100 * ms)
		got := s.Problems()
		if len(got) != len(tt.want) || s.Active() != (len(tt.want) == 0) {
			t.Errorf("%s: active %v, problems %q; want %q", name, s.Active(), got, tt.want)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], tt.want[i]) {
				t.Errorf("%s: problem %q, want %q in it", name, got[i], tt.want[i])
			}
		}
	}
}

func TestTimestampsCeaseWhileAClockIsBeyondTheBoundAndDoNotFlap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const ms = time.Millisecond
		c := &clocks{now: time.UnixMicro(1 << 50), known: [2]bool{true, true}}
		s := c.source(100 * ms)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { s.Serve(ctx) })
		look := func(step string, want bool, skew timestamp.Skew) {
			t.Helper()
			c.set(func(c *clocks) { c.skew[phase.Target] = skew })
			time.Sleep(2 * time.Second)
			if got := s.Active(); got != want {
				t.Errorf("%s: active %v, want %v", step, got, want)
			}
		}
		look("nobody has asked whether it may begin", false, timestamp.Skew{})
		if p := s.Problems(); len(p) > 0 {
			t.Fatalf("problems: %q", p)
		}
		look("all is well", true, timestamp.Skew{Ahead: 90 * ms, Uncertainty: ms})
		look("beyond the bound, perhaps", true, timestamp.Skew{Ahead: 105 * ms, Uncertainty: 10 * ms})
		look("beyond it", false, timestamp.Skew{Ahead: 120 * ms, Uncertainty: 10 * ms})
		look("within it, perhaps", false, timestamp.Skew{Ahead: 95 * ms, Uncertainty: 10 * ms})
		if p := s.Problems(); len(p) > 0 {
			t.Errorf("what ceased for a while is told as a reason not to begin: %q", p)
		}
		look("within it", true, timestamp.Skew{Ahead: 80 * ms, Uncertainty: 10 * ms})
		s.Next()
		c.set(func(c *clocks) { c.now = c.now.Add(-time.Minute) })
		look("this machine's clock was set back, and timestamps went on", false, timestamp.Skew{})
		c.set(func(c *clocks) { c.now = c.now.Add(time.Minute) })
		look("it has caught up", true, timestamp.Skew{})
		c.set(func(c *clocks) {
			if len(c.change) != 5 || !strings.HasPrefix(c.change[1], "ceases: set_write_timestamps: the clock of target is 120ms ahead") {
				t.Errorf("told %q", c.change)
			}
		})
	})
}
