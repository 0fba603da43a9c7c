package cluster

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

// controlled is a Control that serves in front of fake nodes, in a bubble of
// fake time.
type controlled struct {
	*Control
	net   *fakeNet
	nodes []*fakeNode
	log   *bytes.Buffer
	stop  func()

	mu         sync.Mutex
	topologies []*Topology
	events     [][]byte
}

func (c *controlled) published() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.topologies)
}

// clusterOf makes n nodes 10.0.0.1... that know each other.
func clusterOf(network *fakeNet, n int) []*fakeNode {
	specs := make([]peerSpec, n)
	for i := range specs {
		addr := "10.0.0." + string(rune('1'+i))
		specs[i] = peerSpec{addr: addr, rpc: addr, dc: "dc1", rack: "r1", id: byte(i + 1)}
	}
	var nodes []*fakeNode
	for i, s := range specs {
		var others []peerSpec
		others = append(append(others, specs[:i]...), specs[i+1:]...)
		local, peers := systemTables(s, others...)
		nodes = append(nodes, network.add(s.addr+":9042", local, peers))
	}
	return nodes
}

// serveControl starts a Control on n nodes; change may adapt both first.
func serveControl(t *testing.T, n int, change func(*ControlConfig, []*fakeNode)) *controlled {
	t.Helper()
	c := &controlled{net: newFakeNet(t), log: &bytes.Buffer{}}
	c.nodes = clusterOf(c.net, n)
	cfg := ControlConfig{
		ContactPoints: []string{"10.0.0.1"}, Port: 9042, Username: "app", Password: secret.New("sesame"),
		AssignHosts: true, Dial: c.net.dial, Log: slog.New(slog.NewTextHandler(c.log, nil)),
		OnTopology: func(t *Topology) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.topologies = append(c.topologies, t)
		},
		OnSchemaChange: func(body []byte) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.events = append(c.events, body)
		},
	}
	if change != nil {
		change(&cfg, c.nodes)
	}
	var err error
	if c.Control, err = NewControl(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	})
	t.Cleanup(c.stop)
	synctest.Wait()
	return c
}

func TestControlLearnsTheClusterFromItsFirstContact(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 3, func(_ *ControlConfig, nodes []*fakeNode) {
			nodes[0].authenticator, nodes[0].username, nodes[0].password = passwordAuthenticator, "app", "sesame"
		})
		status := c.Status()
		if !status.Connected || status.Node != "10.0.0.1:9042" || status.Nodes != 3 || status.NodesUp != 3 ||
			status.ClusterName != "Old Cluster" || status.ReleaseVersion != "4.1.8" || status.Datacenter != "dc1" ||
			status.SchemaVersion == "" || status.LastError != "" {
			t.Errorf("status is %+v", status)
		}
		if topology := c.Topology(); topology.Authenticator != passwordAuthenticator || topology.Version != frame.V4 || c.published() != 1 {
			t.Errorf("topology is %+v, published %d times", topology, c.published())
		}
		want := "OpCode STARTUP [0x01], OpCode AUTH RESPONSE [0x0F], OpCode REGISTER [0x0B], OpCode OPTIONS [0x05], SELECT * FROM system.local, SELECT * FROM system.peers, SELECT now() FROM system.local"
		if got := strings.Join(c.nodes[0].requests(), ", "); got != want {
			t.Errorf("the node was asked %s, want %s", got, want)
		}
	})
}

func TestControlStepsDownToVersion3(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 1, func(_ *ControlConfig, nodes []*fakeNode) { nodes[0].max = primitive.ProtocolVersion3 })
		if topology := c.Topology(); topology == nil || topology.Version != frame.V3 {
			t.Errorf("topology is %+v, want one of version 3", topology)
		}
		if got := len(c.net.dials()); got != 2 {
			t.Errorf("dialed %d times, want one connection for each version", got)
		}
	})
}

func TestControlGoesToAnotherNodeAtOnceWhenItsNodeDies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 3, nil)
		before := time.Now()
		c.nodes[0].set(func(n *fakeNode) { n.down = true })
		synctest.Wait()
		status := c.Status()
		if !status.Connected || status.Node == "10.0.0.1:9042" || !time.Now().Equal(before) {
			t.Errorf("after %s the status is %+v, want another node at once", time.Since(before), status)
		}
		if !strings.Contains(status.LastError, "node 10.0.0.1:9042: connection lost: ") {
			t.Errorf("last error is %q", status.LastError)
		}
	})
}

func TestControlBacksOffWhileNoNodeAnswersAndComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 2, nil)
		for _, n := range c.nodes {
			n.set(func(n *fakeNode) { n.down = true })
		}
		start, dials := time.Now(), len(c.net.dials())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		status := c.Status()
		if status.Connected || status.NodesUp != 0 || !status.Since.Equal(start) || c.Failures() < 10 {
			t.Errorf("status is %+v with %d failures", status, c.Failures())
		}
		// Rounds after 0, 0.25, 0.5 ... 30 s: each dials two nodes.
		if rounds := (len(c.net.dials()) - dials) / 2; rounds < 20 || rounds > 60 {
			t.Errorf("%d rounds in ten minutes, want one in 15 to 30 s", rounds)
		}
		if !strings.Contains(status.LastError, "connection refused") {
			t.Errorf("last error is %q", status.LastError)
		}
		if c.Topology() == nil {
			t.Error("the topology known must stay")
		}
		c.nodes[1].set(func(n *fakeNode) { n.down = false })
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if status := c.Status(); !status.Connected || status.Node != "10.0.0.2:9042" || c.Failures() != 0 {
			t.Errorf("status is %+v with %d failures, want the node that came back", status, c.Failures())
		}
		if c.published() != 2 {
			t.Errorf("%d topologies published, want 2: the contact changed", c.published())
		}
	})
}

func TestControlComesBackAtOnceWhenANodeWasReached(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 1, nil)
		c.Reached() // is nothing new, and must not be remembered
		c.nodes[0].set(func(n *fakeNode) { n.down = true })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		before := len(c.net.dials())
		c.Reached()
		synctest.Wait()
		if got := len(c.net.dials()); got != before+1 {
			t.Errorf("%d attempts at once, want 1", got-before)
		}
		c.nodes[0].set(func(n *fakeNode) { n.down = false })
		c.Reached()
		synctest.Wait()
		if status := c.Status(); !status.Connected || c.Failures() != 0 {
			t.Errorf("status is %+v with %d failures, want the node that is back", status, c.Failures())
		}
	})
}

func TestControlNoticesASilentNodeByItsHeartbeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 2, nil)
		time.Sleep(65 * time.Second)
		if got := c.nodes[0].count("OpCode OPTIONS [0x05]"); got != 3 {
			t.Errorf("OPTIONS %d times in 65 s, want once at first and two heartbeats, among %q", got, c.nodes[0].requests())
		}
		c.nodes[0].set(func(n *fakeNode) { n.mute = true })
		time.Sleep(30*time.Second + linkTimeout)
		synctest.Wait()
		status := c.Status()
		if status.Node != "10.0.0.2:9042" || !strings.Contains(status.LastError, "node 10.0.0.1:9042: heartbeat: no answer within 10s") {
			t.Errorf("status is %+v, want the other node", status)
		}
	})
}

func TestControlDoesNotHurryWhenConnectionsKeepBreaking(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 1, nil)
		for range 60 {
			c.nodes[0].set(func(n *fakeNode) { n.closeLocked() })
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if got := len(c.net.dials()); got > 12 {
			t.Errorf("%d connections in a minute to a node that drops them all", got)
		}
	})
}

func TestControlReadsTheTablesOnceForASeriesOfEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 2, nil)
		// The third node joins.
		grown := clusterOf(newFakeNet(t), 3)[0]
		c.nodes[0].set(func(n *fakeNode) { n.local, n.peers = grown.local, grown.peers })
		address := &primitive.Inet{Addr: net.IPv4(10, 0, 0, 3), Port: 9042}
		for range 5 {
			c.nodes[0].event(&message.TopologyChangeEvent{ChangeType: primitive.TopologyChangeTypeNewNode, Address: address})
			c.nodes[0].event(&message.StatusChangeEvent{ChangeType: primitive.StatusChangeTypeUp, Address: address})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := len(c.Topology().Nodes); got != 3 {
			t.Errorf("%d nodes, want 3", got)
		}
		if got := c.nodes[0].count("SELECT * FROM system.peers"); got != 2 {
			t.Errorf("system.peers was read %d times, want 2", got)
		}
		if c.published() != 2 {
			t.Errorf("%d topologies published, want 2", c.published())
		}
	})
}

func TestControlReadsTheTablesNowAndThenWithoutAnEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 2, nil)
		grown := clusterOf(newFakeNet(t), 3)[0]
		c.nodes[0].set(func(n *fakeNode) { n.local, n.peers = grown.local, grown.peers })
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if got := len(c.Topology().Nodes); got != 3 {
			t.Errorf("%d nodes, want 3", got)
		}
	})
}

func TestControlReadsTheTablesAgainUntilTheSchemaVersionsAgree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 2, nil)
		old, split := clusterOf(newFakeNet(t), 2)[0], clusterOf(newFakeNet(t), 2)[0]
		split.local.Data[0][6] = bytes.Repeat([]byte{7}, 16)
		c.nodes[0].set(func(n *fakeNode) { n.local = split.local })
		c.nodes[0].event(&message.SchemaChangeEvent{ChangeType: primitive.SchemaChangeTypeCreated,
			Target: primitive.SchemaChangeTargetKeyspace, Keyspace: "ks"})
		time.Sleep(time.Second)
		synctest.Wait()
		if c.Topology().SchemaAgreed() {
			t.Fatal("the nodes disagree, the topology does not show it")
		}
		c.nodes[0].set(func(n *fakeNode) { n.local = old.local })
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !c.Topology().SchemaAgreed() {
			t.Error("the nodes agree, the topology does not show it 2 s later")
		}
		before := c.nodes[0].count("SELECT * FROM system.local")
		time.Sleep(time.Minute)
		if got := c.nodes[0].count("SELECT * FROM system.local"); got != before {
			t.Errorf("system.local was read %d times more after the agreement", got-before)
		}
	})
}

func TestControlCountsTheNodesThatEventsCallDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 3, nil)
		address := &primitive.Inet{Addr: net.IPv4(10, 0, 0, 3), Port: 9042}
		for _, step := range []struct {
			change primitive.StatusChangeType
			up     int
		}{{primitive.StatusChangeTypeDown, 2}, {primitive.StatusChangeTypeDown, 2}, {primitive.StatusChangeTypeUp, 3}} {
			c.nodes[0].event(&message.StatusChangeEvent{ChangeType: step.change, Address: address})
			synctest.Wait()
			if got := c.Status().NodesUp; got != step.up {
				t.Errorf("after %s %d nodes are up, want %d", step.change, got, step.up)
			}
		}
	})
}

func TestControlPassesSchemaEventsOnAndLearnsTheNewVersion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 1, nil)
		local, _ := systemTables(peerSpec{addr: "10.0.0.1", rpc: "10.0.0.1", dc: "dc1", rack: "r1", id: 1})
		local.Data[0][6] = bytes.Repeat([]byte{7}, 16)
		c.nodes[0].set(func(n *fakeNode) { n.local = local })
		event := &message.SchemaChangeEvent{ChangeType: primitive.SchemaChangeTypeCreated,
			Target: primitive.SchemaChangeTargetTable, Keyspace: "ks", Object: "t"}
		c.nodes[0].event(event)
		time.Sleep(time.Second)
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		want := "\x00\x0dSCHEMA_CHANGE\x00\x07CREATED\x00\x05TABLE\x00\x02ks\x00\x01t"
		if len(c.events) != 1 || string(c.events[0]) != want {
			t.Errorf("events are %q, want %q", c.events, want)
		}
		if got := c.Topology().SchemaVersion; !strings.HasPrefix(got, "07070707") {
			t.Errorf("schema version is %q, want the new one", got)
		}
	})
}

func TestControlRefusesANodeOfAnotherCluster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 1, nil)
		c.nodes[0].set(func(n *fakeNode) { n.down = true })
		local, peers := systemTables(peerSpec{addr: "10.0.0.1", rpc: "10.0.0.1", dc: "dc1", rack: "r1", id: 1})
		local.Data[0][8] = []byte("Stranger")
		c.nodes[0].set(func(n *fakeNode) { n.local, n.peers, n.down = local, peers, false })
		time.Sleep(time.Minute)
		synctest.Wait()
		status := c.Status()
		if want := `it belongs to cluster "Stranger", and origin is "Old Cluster"`; status.Connected || !strings.Contains(status.LastError, want) {
			t.Errorf("status is %+v, want the error %q", status, want)
		}
	})
}

func TestControlQueryAnswersRowsAndErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 1, nil)
		rows, err := c.Query(t.Context(), "SELECT keyspace_name FROM system_schema.tables")
		if err != nil || len(rows.Data) != 1 || string(rows.Data[0][0]) != "system" {
			t.Errorf("rows are %v, %v", rows, err)
		}
		if _, err := c.Query(t.Context(), "SELECT x FROM y"); err == nil || !strings.Contains(err.Error(), "unconfigured table") {
			t.Errorf("error is %v, want the node's", err)
		}
		c.stop()
		if _, err := c.Query(t.Context(), "SELECT x FROM y"); err == nil || err.Error() != "origin has no control connection" {
			t.Errorf("error after the end is %v", err)
		}
	})
}

func TestProveTellsTheCauseAndWhatToDo(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*ControlConfig, []*fakeNode)
		want   string
	}{
		{"usable", func(*ControlConfig, []*fakeNode) {}, ""},
		{"down", func(_ *ControlConfig, n []*fakeNode) { n[0].down = true },
			"prove origin: node 10.0.0.1:9042: dial tcp 10.0.0.1:9042: connect: connection refused"},
		{"wrong password", func(_ *ControlConfig, n []*fakeNode) {
			n[0].authenticator, n[0].username, n[0].password = passwordAuthenticator, "app", "other"
		}, `prove origin: node 10.0.0.1:9042: handshake: login as "app": node answered error 0x0100: Provided username app and/or password are incorrect; correct origin_username and origin_password`},
		{"no user", func(cfg *ControlConfig, n []*fakeNode) {
			cfg.Username, n[0].authenticator = "", passwordAuthenticator
		}, `the node asks for a login and no user name is configured; set origin_username and origin_password`},
		{"no rights", func(_ *ControlConfig, n []*fakeNode) { n[0].failSchema = true },
			`node answered error 0x2100: User app has no SELECT permission on <table system_schema.tables>; grant "app" what it lacks, or set another origin_username`},
		{"silent", func(cfg *ControlConfig, n []*fakeNode) { n[0].mute = true },
			`node 10.0.0.1:9042: handshake: no proof within 30s: context deadline exceeded; start origin, or correct origin_contact_points and origin_port, or open the way there`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				network := newFakeNet(t)
				nodes := clusterOf(network, 1)
				cfg := ControlConfig{ContactPoints: []string{"10.0.0.1"}, Port: 9042, Username: "app",
					Password: secret.New("sesame"), Dial: network.dial}
				test.change(&cfg, nodes)
				c, err := NewControl(cfg)
				if err != nil {
					t.Fatal(err)
				}
				err = c.Prove(t.Context())
				if test.want == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if err == nil || !strings.HasSuffix(err.Error(), test.want) || strings.Contains(err.Error(), "sesame") {
					t.Errorf("error is %v, want one that ends with %s", err, test.want)
				}
			})
		})
	}
}

func TestControlLogsNoPassword(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serveControl(t, 1, func(_ *ControlConfig, n []*fakeNode) {
			n[0].authenticator, n[0].username, n[0].password = passwordAuthenticator, "app", "other"
		})
		time.Sleep(time.Second)
		c.stop()
		if text := c.log.String(); strings.Contains(text, "sesame") || !strings.Contains(text, "correct origin_username") {
			t.Errorf("log is %s", text)
		}
	})
}

func TestNewControlRefusesAConfigurationWithoutAnAddress(t *testing.T) {
	t.Parallel()
	for _, cfg := range []ControlConfig{{Port: 9042}, {ContactPoints: []string{"a"}}, {ContactPoints: []string{"a"}, Port: 70000}} {
		if _, err := NewControl(cfg); err == nil {
			t.Errorf("NewControl(%+v) succeeded", cfg)
		}
	}
}

func TestControlResolvesNamesAgainBeforeEachRoundOverTheNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var answer []netip.Addr // none: the name is not known
		c := serveControl(t, 1, func(cfg *ControlConfig, _ []*fakeNode) {
			cfg.ContactPoints = []string{"db.example"}
			cfg.Resolve = func(_ context.Context, name string) ([]netip.Addr, error) {
				mu.Lock()
				defer mu.Unlock()
				if answer == nil {
					return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
				}
				return answer, nil
			}
		})
		now := func(addrs ...string) {
			mu.Lock()
			defer mu.Unlock()
			answer = nil
			for _, a := range addrs {
				answer = append(answer, netip.MustParseAddr(a))
			}
		}
		status := c.Status()
		if want := `contact point "db.example": lookup db.example: no such host; correct origin_contact_points or the name service`; status.Connected || status.LastError != want {
			t.Errorf("status is %+v, want the error %q", status, want)
		}
		now("10.0.0.1")
		time.Sleep(time.Minute)
		synctest.Wait()
		if status := c.Status(); status.Node != "10.0.0.1:9042" {
			t.Fatalf("status is %+v, want the address that the name has now", status)
		}
		// The node comes back elsewhere, where no topology knew of it.
		local, peers := systemTables(peerSpec{addr: "10.0.0.9", rpc: "10.0.0.9", dc: "dc1", rack: "r1", id: 1})
		c.net.add("10.0.0.9:9042", local, peers)
		now("10.0.0.1", "10.0.0.9")
		c.nodes[0].set(func(n *fakeNode) { n.down = true })
		synctest.Wait()
		if status := c.Status(); !status.Connected || status.Node != "10.0.0.9:9042" {
			t.Errorf("status is %+v, want the new address of the name at once", status)
		}
		if nodes := c.Topology().Nodes; len(nodes) != 1 || nodes[0].Name() != "10.0.0.9:9042" {
			t.Errorf("requests go to %v, want the new address", nodes)
		}
	})
}
