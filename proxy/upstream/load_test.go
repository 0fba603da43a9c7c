package upstream

import (
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
)

func TestTheNumberOfConnectionsFollowsTheLoad(t *testing.T) {
	t.Parallel()
	s := scale{inFlight: 100, output: 1000, every: time.Second, calmFor: time.Minute}
	start := time.Unix(1_000_000, 0)
	tests := []struct {
		name string
		n    int // connections
		load load
		want verdict
	}{
		{"few requests", 1, load{inFlight: 99, busiest: 99, calm: start}, stay},
		{"many on one connection", 2, load{inFlight: 100, busiest: 100}, grow},
		{"many, but one was just added", 2, load{inFlight: 100, busiest: 100, grown: start.Add(-999 * time.Millisecond)}, stay},
		{"many still, a second later", 2, load{inFlight: 100, busiest: 100, grown: start.Add(-time.Second)}, grow},
		{"output waits at this look", 1, load{full: true}, stay},
		{"output waits at two looks", 1, load{full: true, wasFull: true}, grow},
		{"calm begins", 3, load{inFlight: 99, busiest: 33}, stay},
		{"calm for less than its time", 3, load{inFlight: 99, busiest: 33, calm: start.Add(-59 * time.Second)}, stay},
		{"calm for its time", 3, load{inFlight: 99, busiest: 33, calm: start.Add(-time.Minute)}, shrink},
		{"one less would be half full", 3, load{inFlight: 100, busiest: 34, calm: start.Add(-time.Minute)}, stay},
	}
	for _, test := range tests {
		l := test.load
		if got := l.verdict(s, test.n, start); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
	l := load{inFlight: 100, busiest: 34, calm: start.Add(-time.Minute)}
	l.verdict(s, 3, start)
	l.inFlight = 0
	if l.verdict(s, 3, start) == shrink {
		t.Error("the calm began before the load did")
	}
}

func TestAPoolGrowsUnderLoadAndShrinksAfterIt(t *testing.T) {
	t.Parallel()
	const enough = 8
	nodes := cqltest.StartCluster(t, "127.73.20.1", 1, cqltest.Options{})
	release := make(chan struct{})
	nodes.Nodes[0].Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == asked {
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute, func(c *Pools) {
		c.opts.MaxConnectionsPerNode = 3
		c.scale = scale{inFlight: enough, output: growOutput}
	})
	p, first := acquire(t, c, Key{Version: frame.V4})
	open := func() int { return len(*p.ready.Load()) }
	var waiting []*outcome
	load := func(on *Conn) {
		for range enough {
			waiting = append(waiting, send(t, on, asked, true))
		}
	}
	load(first)
	until(t, "as many connections as are allowed", func() bool { return open() == 3 })
	used := map[*Conn]bool{}
	for range 2 * open() {
		conn := p.Conn()
		used[conn] = true
		waiting = append(waiting, send(t, conn, asked, true))
	}
	if used[first] || len(used) != 2 {
		t.Errorf("requests went to %d connections, want the two new ones only: %t", len(used), !used[first])
	}
	close(release)
	until(t, "one connection, as at first", func() bool { return open() == 1 })
	for _, o := range waiting {
		if err := o.wait(t); err != nil {
			t.Errorf("a request that was in flight: %v, want its answer", err)
		}
	}
	if grown, shrunk := c.Grown(), c.Shrunk(); grown != 2 || shrunk != 2 {
		t.Errorf("%d connections are counted as added and %d as taken away, want 2 of each", grown, shrunk)
	}
	if got := p.Conn(); got != first {
		t.Error("the connection that stayed is not the first one")
	}
}
