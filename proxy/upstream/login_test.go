package upstream

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
)

// holdStartups keeps a node's answers to STARTUP until release is closed.
func holdStartups(n *cqltest.Node, release <-chan struct{}) {
	n.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Opcode == primitive.OpCodeStartup {
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
}

// A request that gives up takes its own time-out, which may be short; the
// connection that it asked for goes on, and is there for the next one.
func TestAHandshakeOutlivesTheRequestThatAskedForIt(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.51.1", 1, cqltest.Options{})
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute)
	nodes.Nodes[0].ClearRequests()
	release := make(chan struct{})
	holdStartups(nodes.Nodes[0], release)
	key := Key{Version: frame.V4, Keyspace: "ks"}
	impatient, giveUp := context.WithCancel(t.Context())
	refused := make(chan error, 1)
	go func() {
		_, err := c.Acquire(impatient, key, false)
		refused <- err
	}()
	startups := cqltest.WithOpcode(primitive.OpCodeStartup)
	nodes.Nodes[0].WaitFor(t, 1, startups)
	giveUp()
	if err := <-refused; err == nil || Sent(err) {
		t.Fatalf("who gave up has %v, want an error and nothing sent", err)
	}
	close(release)
	acquire(t, c, key)
	if n := len(nodes.Nodes[0].Requests(startups)); n != 1 {
		t.Errorf("the node got %d STARTUPs, want the first one's connection used", n)
	}
}

func TestANodeThatNeverAnswersLeavesTheOthersTimeAndTurns(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.52.1", 2, cqltest.Options{})
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute, func(c *Pools) { c.opts.Control.ConnectTimeout = 2 * time.Second })
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	silent, answering := nodes.Nodes[1], nodes.Nodes[0]
	holdStartups(silent, never)
	// More pools than handshakes that one node may be in: each of them asks the
	// silent one first, or for its second connection.
	for i := range 2 * handshakes {
		_, conn := acquire(t, c, Key{Version: frame.V4, Keyspace: fmt.Sprint("ks", i)})
		if want := answering.Addr().String(); conn.Node() != want {
			t.Errorf("pool %d is connected to %s, want %s", i, conn.Node(), want)
		}
	}
}

func TestADialWaitsForNoTurn(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.53.1", 1, cqltest.Options{})
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute, func(c *Pools) { c.opts.Control.ConnectTimeout = time.Minute })
	node, release := nodes.Nodes[0], make(chan struct{})
	node.ClearRequests()
	holdStartups(node, release)
	const logins = handshakes + 2
	outcomes := make(chan error, logins)
	for i := range logins {
		go func() {
			_, err := c.Acquire(t.Context(), Key{Version: frame.V4, Keyspace: fmt.Sprint("ks", i)}, false)
			outcomes <- err
		}()
	}
	startups := cqltest.WithOpcode(primitive.OpCodeStartup)
	node.WaitFor(t, handshakes, startups)
	node.WaitConnections(t, logins+1) // and the control connection
	if n := len(node.Requests(startups)); n != handshakes {
		t.Errorf("%d handshakes run at once, want %d", n, handshakes)
	}
	close(release)
	for range logins {
		if err := <-outcomes; err != nil {
			t.Error(err)
		}
	}
}

func TestALoginThatTookLongGetsTheNodesOfNow(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.54.1", 2, cqltest.Options{})
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute, func(c *Pools) { c.opts.Control.ConnectTimeout = time.Minute })
	startups := cqltest.WithOpcode(primitive.OpCodeStartup)
	release := make(chan struct{})
	for _, n := range nodes.Nodes {
		n.ClearRequests()
		n.Handle(func(r cqltest.Request) cqltest.Reply {
			switch {
			case r.Opcode == primitive.OpCodeStartup:
				return cqltest.Ordinary().After(release)
			case strings.Contains(r.Text, "system.peers"):
				return cqltest.Rows([]string{"peer"})
			}
			return cqltest.Ordinary()
		})
	}
	outcome := make(chan error, 1)
	key := Key{Version: frame.V4}
	go func() {
		_, err := c.Acquire(t.Context(), key, false)
		outcome <- err
	}()
	until(t, "the login runs", func() bool {
		return len(nodes.Nodes[0].Requests(startups))+len(nodes.Nodes[1].Requests(startups)) > 0
	})
	for _, n := range nodes.Nodes {
		n.Emit(&message.TopologyChangeEvent{ChangeType: primitive.TopologyChangeTypeRemovedNode,
			Address: &primitive.Inet{Addr: nodes.Nodes[1].Addr().Addr().AsSlice(), Port: int32(nodes.Port())}})
	}
	until(t, "one node has left", func() bool { return len(c.nodes()) == 1 })
	close(release)
	if err := <-outcome; err != nil {
		t.Fatal(err)
	}
	p, _ := acquire(t, c, key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.members) != 1 || p.members[c.nodes()[0].Addr.String()] == nil {
		t.Errorf("the pool has %d nodes, want the one that stays", len(p.members))
	}
}
