package upstream

import (
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
)

func upToV5() cqltest.Options {
	return cqltest.Options{Versions: []primitive.ProtocolVersion{primitive.ProtocolVersion3, primitive.ProtocolVersion4, primitive.ProtocolVersion5}}
}

func TestAVersionIsAskedOfTheNextNodeIfOneCannotTell(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.55.1", 8, upToV5())
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute)
	answers := c.Control().Status().Node
	frozen := false
	for _, n := range nodes.Nodes {
		switch {
		case n.Addr().String() == answers:
		case !frozen:
			n.Freeze()
			defer n.Thaw()
			frozen = true
		default:
			n.Stop()
		}
	}
	if speaks, err := c.Speaks(t.Context(), frame.V5); err != nil || !speaks {
		t.Errorf("with one node of 8 that answers: %t, %v, want true", speaks, err)
	}
}

func TestThatNoNodeCouldBeAskedIsNotRemembered(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.56.1", 1, upToV5())
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute)
	nodes.Nodes[0].Stop()
	if speaks, err := c.Speaks(t.Context(), frame.V5); err == nil || Sent(err) || speaks {
		t.Errorf("without a node: %t, %v, want an error and nothing sent", speaks, err)
	}
	nodes.Nodes[0].Restart()
	if speaks, err := c.Speaks(t.Context(), frame.V5); err != nil || !speaks {
		t.Errorf("once it is back: %t, %v, want true", speaks, err)
	}
}

func TestAVersionIsAskedOnceForAll(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.57.1", 1, upToV5())
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute)
	node, release := nodes.Nodes[0], make(chan struct{})
	node.ClearRequests()
	holdStartups(node, release)
	const clients = 20
	outcomes := make(chan error, clients)
	for range clients {
		go func() {
			_, err := c.Speaks(t.Context(), frame.V5)
			outcomes <- err
		}()
	}
	startups := cqltest.WithOpcode(primitive.OpCodeStartup)
	node.WaitFor(t, 1, startups)
	close(release)
	for range clients {
		if err := <-outcomes; err != nil {
			t.Error(err)
		}
	}
	if n := len(node.Requests(startups)); n != 1 {
		t.Errorf("the node was asked %d times, want once", n)
	}
}
