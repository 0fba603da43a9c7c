package upstream

import (
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
)

// picked counts how often the pool chooses each node.
func picked(p *Pool, times int) map[string]int {
	got := make(map[string]int)
	for range times {
		got[p.Conn().Node()]++
	}
	return got
}

func TestANodeThatStopsAnsweringGetsNoMoreRequestsUntilItAnswers(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.21.1", 3, cqltest.Options{})
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute, func(c *Pools) { c.opts.ConnectionsPerNode = 2 })
	p, _ := acquire(t, c, Key{Version: frame.V4})
	other, _ := acquire(t, c, Key{Version: frame.V4, Keyspace: "ks"})
	until(t, "all connections are open", func() bool { return len(*p.ready.Load()) == 6 && len(*other.ready.Load()) == 6 })
	frozen := nodes.Nodes[1]
	name := frozen.Addr().String()
	frozen.Freeze()
	// One request is enough to find out all connections, of both pools.
	victim := send(t, p.connTo(name), asked, true)
	until(t, "the node gets nothing", func() bool { return picked(p, 60)[name] == 0 && picked(other, 60)[name] == 0 })
	for node, n := range picked(p, 60) {
		if n < 10 {
			t.Errorf("%s was chosen %d times of 60, want a fair half", node, n)
		}
	}
	for _, n := range nodes.Nodes {
		n.Freeze()
	}
	for _, conn := range *p.ready.Load() {
		conn.health.Store(uint32(quiet)) // as the sweep would, when something is asked of it
	}
	if conn := p.Conn(); conn == nil {
		t.Error("when no node answers there is no connection, want any")
	}
	for _, n := range nodes.Nodes {
		n.Thaw()
	}
	if err := victim.wait(t); err != nil {
		t.Errorf("the request that was caught: %v, want its late answer", err)
	}
	until(t, "the node gets its share again", func() bool { return picked(p, 60)[name] >= 10 })
}

func TestALongRequestDoesNotMakeItsNodeQuiet(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.22.1", 1, cqltest.Options{})
	release := make(chan struct{})
	defer close(release)
	nodes.Nodes[0].Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == asked {
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
	_, conn := acquire(t, serveCluster(t, nodes, cqltest.Options{}, time.Minute), Key{Version: frame.V4})
	send(t, conn, asked, true)
	nodes.Nodes[0].ClearRequests()
	nodes.Nodes[0].WaitFor(t, 1, cqltest.WithOpcode(primitive.OpCodeOptions))
	until(t, "its answer shows that it lives", conn.Answering)
	if conn.InFlight() != 1 {
		t.Errorf("%d requests are in flight, want the long one", conn.InFlight())
	}
}

func TestAConnectionIsQuietWhenARequestWaitsAndNothingElseComes(t *testing.T) {
	t.Parallel()
	const now = int64(time.Hour)
	long, short := now-int64(quietAfter)-1, now-int64(quietAfter)
	for _, test := range []struct {
		name           string
		oldest, answer int64
		want           bool
	}{
		{"nothing in flight", now, long, false},
		{"a young request", short, long, false},
		{"others are answered", long, short, false},
		{"nothing comes", long, long, true},
	} {
		c := &Conn{}
		c.lastRead.Store(test.answer)
		if got := c.judge(now, test.oldest); got != test.want || c.Answering() == test.want {
			t.Errorf("%s: quiet is %t, want %t", test.name, got, test.want)
		}
		if c.judge(now, test.oldest) {
			t.Errorf("%s: it becomes quiet a second time", test.name)
		}
	}
}

func TestEveryNodeOfALargeClusterGetsWork(t *testing.T) {
	t.Parallel()
	const count = 60
	nodes := cqltest.StartCluster(t, "127.73.24.1", count, cqltest.Options{})
	p, _ := acquire(t, serveCluster(t, nodes, cqltest.Options{}, time.Minute), Key{Version: frame.V4})
	until(t, "all nodes are connected", func() bool { return len(*p.ready.Load()) == count })
	for range 2 * count {
		if err := send(t, p.Conn(), asked, true).wait(t); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes.Nodes {
		if len(n.Requests(cqltest.WithText(asked))) == 0 {
			t.Errorf("%s got none of %d requests", n.Addr(), 2*count)
		}
	}
}
