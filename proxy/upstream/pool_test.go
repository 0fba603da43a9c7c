package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/cluster"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const (
	asked   = "SELECT v FROM ks.t WHERE k = 1"
	another = "SELECT v FROM ks.t WHERE k = 2"
	// shortTimeout is the request time-out of tests that wait for one.
	shortTimeout = time.Second
)

// serveCluster runs Pools in front of fake nodes, with one connection for
// each node and pool, until the test ends. change adapts them first.
func serveCluster(t *testing.T, nodes *cqltest.Cluster, login cqltest.Options, timeout time.Duration, change ...func(*Pools)) *Pools {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	c, err := New(Options{
		Control: cluster.ControlConfig{
			Side: phase.Target, ContactPoints: nodes.ContactPoints(), Port: nodes.Port(),
			Username: login.Username, Password: secret.New(login.Password), AssignHosts: true,
			ConnectTimeout: 5 * time.Second, HeartbeatInterval: time.Minute,
			RetryMin: 10 * time.Millisecond, RetryMax: 50 * time.Millisecond, RetryFactor: 2,
			MaxVersion: frame.V4, Log: log,
		},
		ConnectionsPerNode: 1, RequestTimeout: timeout, Log: log,
		Meter:         func(phase.Side, string) any { return nil },
		ConnectFailed: func(phase.Side, string) {},
		PoolRefused:   func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended // its error is that ctx ended
	})
	until(t, "the topology is known", func() bool { return c.Control().Topology() != nil })
	return c
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// acquire takes the pool of key and waits for a connection.
func acquire(t *testing.T, c *Pools, key Key) (*Pool, *Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	p, err := c.Acquire(ctx, key, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Release)
	conn, err := p.Wait(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	return p, conn
}

// outcome is a Receiver that tells a test what it was told, and how often.
type outcome struct {
	answer chan frame.Frame
	lost   chan error
	calls  atomic.Int32
}

func newOutcome() *outcome {
	return &outcome{answer: make(chan frame.Frame, 1), lost: make(chan error, 1)}
}

func (o *outcome) Answer(_ *Batch, _ *Conn, f frame.Frame) {
	if o.calls.Add(1) == 1 {
		o.answer <- bytes.Clone(f)
	}
}

func (o *outcome) Lost(_ *Batch, err error) {
	if o.calls.Add(1) == 1 {
		o.lost <- err
	}
}

// wait returns the error of a lost request, nil for an answer.
func (o *outcome) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-o.answer:
		return nil
	case err := <-o.lost:
		return err
	case <-time.After(15 * time.Second):
		t.Fatal("the request has no outcome")
		return nil
	}
}

func query(text string) frame.Frame {
	f := frame.AppendHeader(nil, frame.V4, false, 0, 0, frame.OpQuery, 0)
	f = frame.AppendLongString(f, text)
	f = append(f, 0, 1, 0)
	frame.PutLength(f)
	return f
}

func send(t *testing.T, c *Conn, text string, flush bool) *outcome {
	t.Helper()
	o := newOutcome()
	if err := c.Send(o, query(text), Patch{}, Nanotime()); err != nil {
		t.Fatal(err)
	}
	if flush {
		c.Flush()
	}
	return o
}

func TestATimedOutRequestKeepsItsStreamIDUntilTheLateAnswer(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.1.1", 1, cqltest.Options{})
	node, release := nodes.Nodes[0], make(chan struct{})
	node.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == asked {
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
	_, conn := acquire(t, serveCluster(t, nodes, cqltest.Options{}, shortTimeout), Key{Version: frame.V4})
	slow := send(t, conn, asked, true)
	if err := slow.wait(t); !errors.Is(err, ErrTimeout) || !Sent(err) {
		t.Fatalf("got %v (sent: %v), want a time-out of what was sent", err, Sent(err))
	}
	held := node.Requests(cqltest.WithText(asked))[0].Stream
	// Two at once, so that every free id is taken.
	reused := func() bool {
		node.ClearRequests()
		first, second := send(t, conn, another, false), send(t, conn, another, true)
		for _, o := range []*outcome{first, second} {
			if err := o.wait(t); err != nil {
				t.Fatal(err)
			}
		}
		r := node.WaitFor(t, 2, cqltest.WithText(another))
		return r[0].Stream == held || r[1].Stream == held
	}
	for range 5 {
		if reused() {
			t.Fatalf("stream %d was used again; the node may still answer the first request on it", held)
		}
	}
	close(release)
	until(t, "the late answer frees the stream id", func() bool {
		buf := conn.out.Begin()
		defer conn.out.End(buf)
		return conn.late == 0 && slices.Contains(conn.free, held)
	})
	if n := slow.calls.Load(); n != 1 {
		t.Errorf("the receiver was called %d times, want once", n)
	}
}

func TestALostConnectionTellsWhatMayHaveReachedTheNode(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.2.1", 1, cqltest.Options{})
	node := nodes.Nodes[0]
	node.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == asked {
			return cqltest.Silence()
		}
		return cqltest.Ordinary()
	})
	p, conn := acquire(t, serveCluster(t, nodes, cqltest.Options{}, time.Minute), Key{Version: frame.V4})
	sent := send(t, conn, asked, true)
	node.WaitFor(t, 1, cqltest.WithText(asked))
	unsent := send(t, conn, another, false)
	node.DropConnections()
	if err := sent.wait(t); err == nil || !Sent(err) {
		t.Errorf("a request that the node has got: %v (sent: %v), want lost and sent", err, Sent(err))
	}
	if err := unsent.wait(t); err == nil || Sent(err) {
		t.Errorf("a request that was never flushed: %v (sent: %v), want lost and not sent", err, Sent(err))
	}
	err := conn.Send(newOutcome(), query(another), Patch{}, Nanotime())
	if err == nil || Sent(err) {
		t.Errorf("Send on a lost connection: %v (sent: %v), want an error and nothing sent", err, Sent(err))
	}
	if n := conn.InFlight(); n != 0 {
		t.Errorf("%d requests are in flight on a lost connection, want none", n)
	}
	again, err := p.Wait(t.Context(), "")
	if err != nil || again == conn {
		t.Fatalf("Wait: %v, %v; want a new connection", again, err)
	}
	if err := send(t, again, another, true).wait(t); err != nil {
		t.Error(err)
	}
}

func TestAPoolGoesOnWithTheOtherNodesAndTakesOneBack(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.3.1", 2, cqltest.Options{})
	p, _ := acquire(t, serveCluster(t, nodes, cqltest.Options{}, time.Minute), Key{Version: frame.V4})
	open := func() int { return len(*p.ready.Load()) }
	until(t, "both nodes are connected", func() bool { return open() == 2 })
	nodes.Nodes[0].Stop()
	until(t, "the lost connection leaves the pool", func() bool { return open() == 1 })
	for range 5 {
		conn, err := p.Wait(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if conn.Node() != nodes.Nodes[1].Addr().String() {
			t.Fatalf("the pool gave a connection to %s, which is down", conn.Node())
		}
		if err := send(t, conn, asked, true).wait(t); err != nil {
			t.Fatal(err)
		}
	}
	nodes.Nodes[1].Stop()
	until(t, "the pool says that there is no hope", func() bool { return p.Hopeless() != nil })
	if err := p.Hopeless(); !errors.Is(err, ErrNoConnection) || Sent(err) {
		t.Errorf("without nodes: %v, want ErrNoConnection and nothing sent", err)
	}
	nodes.Nodes[0].Restart()
	nodes.Nodes[1].Restart()
	until(t, "both nodes are back", func() bool { return open() == 2 })
}

func TestANodeThatLeavesTheTopologyAnswersWhatItHas(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.8.1", 2, cqltest.Options{})
	c := serveCluster(t, nodes, cqltest.Options{}, shortTimeout)
	p, _ := acquire(t, c, Key{Version: frame.V4})
	until(t, "both nodes are connected", func() bool { return len(*p.ready.Load()) == 2 })
	// The control connection stays, so the leaver is the other node.
	stays := c.Control().Status().Node
	leaver := nodes.Nodes[0]
	if leaver.Addr().String() == stays {
		leaver = nodes.Nodes[1]
	}
	release := make(chan struct{})
	leaver.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == asked {
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
	before := leaver.Connections()
	conn, err := p.Wait(t.Context(), leaver.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	inFlight := send(t, conn, asked, true)
	leaver.WaitFor(t, 1, cqltest.WithText(asked))
	var rest []cluster.Node
	for _, n := range c.nodes() {
		if n.Addr != leaver.Addr() {
			rest = append(rest, n)
		}
	}
	p.update(rest, "", nil)
	for range 4 {
		if other := p.Conn(); other == nil || other.Node() == leaver.Addr().String() {
			t.Fatalf("the pool gives %v, want a connection to the node that stays", other)
		}
	}
	close(release)
	if err := inFlight.wait(t); err != nil {
		t.Errorf("what was in flight there: %v, want its answer", err)
	}
	until(t, "the connection is closed in the end", func() bool { return leaver.Connections() == before-1 })
}

func TestAPoolIsKeyedByCredentialsAndKeyspace(t *testing.T) {
	t.Parallel()
	login := cqltest.Options{Username: "app", Password: "sesame"}
	nodes := cqltest.StartCluster(t, "127.73.4.1", 1, login)
	c := serveCluster(t, nodes, login, time.Minute)
	key := Key{Username: "app", Password: secret.New("sesame"), Version: frame.V4}
	p, _ := acquire(t, c, key)
	if again, _ := acquire(t, c, key); again != p {
		t.Error("the same key gives another pool")
	}
	wrong := key
	wrong.Password = secret.New("not it")
	var refused *cluster.NodeError
	if _, err := c.Acquire(t.Context(), wrong, false); !errors.As(err, &refused) || refused.Code != frame.ErrBadCredentials {
		t.Errorf("a wrong password gives %v, want the node's refusal though the user has a pool", err)
	}
	inKeyspace := key
	inKeyspace.Keyspace = "App"
	other, conn := acquire(t, c, inKeyspace)
	if other == p {
		t.Fatal("two keyspaces share a pool")
	}
	if err := send(t, conn, asked, true).wait(t); err != nil {
		t.Fatal(err)
	}
	if got := nodes.Nodes[0].Requests(cqltest.WithText(asked))[0]; got.Keyspace != "App" || got.Username != "app" {
		t.Errorf("the request ran as %q in keyspace %q, want app in App", got.Username, got.Keyspace)
	}
}

func TestAConnectionThatSaysNothingIsGivenUpThoughItIsInUse(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.5.1", 1, cqltest.Options{})
	p, conn := acquire(t, serveCluster(t, nodes, cqltest.Options{}, shortTimeout), Key{Version: frame.V4})
	nodes.Nodes[0].Freeze()
	// There is always a request in flight, so it is never idle.
	until(t, "the connection is closed", func() bool {
		if conn.InFlight() < 2 && conn.Usable() {
			_ = conn.Send(newOutcome(), query(asked), Patch{}, Nanotime()) // it may just have been closed
			conn.Flush()
		}
		return !conn.Usable()
	})
	nodes.Nodes[0].Thaw()
	again, err := p.Wait(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t, again, another, true).wait(t); err != nil {
		t.Error(err)
	}
}

func TestANodeThatClosesAfterTheLoginIsNotHammered(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.6.1", 1, cqltest.Options{})
	node := nodes.Nodes[0]
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute)
	node.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Opcode == primitive.OpCodeStartup {
			return cqltest.Ordinary().ThenClose()
		}
		return cqltest.Ordinary()
	})
	node.ClearRequests()
	began := time.Now()
	p, err := c.Acquire(t.Context(), Key{Version: frame.V4}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	const attempts = 5
	node.WaitFor(t, attempts, cqltest.WithOpcode(primitive.OpCodeStartup))
	// Half of the pauses between them is fixed.
	least := time.Duration(0)
	for i, wait := 1, retryMin; i < attempts; i, wait = i+1, min(wait*2, retryMax) {
		least += wait / 2
	}
	if took := time.Since(began); took < least {
		t.Errorf("%d logins within %v, want at least %v between them", attempts, took, least)
	}
}

func TestAnIdleConnectionIsAskedForASignOfLife(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.7.1", 1, cqltest.Options{})
	_, conn := acquire(t, serveCluster(t, nodes, cqltest.Options{}, time.Minute), Key{Version: frame.V4})
	node := nodes.Nodes[0]
	beat := func(silence time.Duration) { conn.heartbeat(conn.lastRead.Load()+int64(silence), time.Second) }
	answer := make(chan struct{})
	node.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Opcode == primitive.OpCodeOptions {
			<-answer
		}
		return cqltest.Ordinary()
	})
	node.ClearRequests()
	beat(time.Second - 1)
	beat(time.Second)
	beat(time.Second) // the first is in flight
	close(answer)
	node.WaitFor(t, 1, cqltest.WithOpcode(primitive.OpCodeOptions))
	until(t, "the answer ends it", func() bool { return !conn.asked.Load() })
	if n := len(node.Requests(cqltest.WithOpcode(primitive.OpCodeOptions))); n != 1 {
		t.Errorf("the node was asked %d times, want once", n)
	}
	if !conn.Usable() {
		t.Error("a connection that answers was closed")
	}
}

func TestAtTheBoundOfPoolsTheOneUnusedForLongestMakesWay(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.25.1", 1, cqltest.Options{})
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute, func(c *Pools) { c.opts.MaxPools = 2 })
	open := func(keyspace string) (*Pool, error) {
		return c.Acquire(t.Context(), Key{Version: frame.V4, Keyspace: keyspace}, false)
	}
	var pools []*Pool
	for _, ks := range []string{"a", "b"} {
		p, err := open(ks)
		if err != nil {
			t.Fatal(err)
		}
		pools = append(pools, p)
	}
	_, err := open("c")
	if !errors.Is(err, ErrTooManyPools) || Sent(err) {
		t.Fatalf("one pool more than the bound: %v, want ErrTooManyPools and nothing sent", err)
	}
	if again, err := open("a"); err != nil || again != pools[0] {
		t.Errorf("a pool that is there: %v, want it at the bound too", err)
	} else {
		again.Release()
	}
	pools[1].Release()
	pools[0].Release()
	if _, err := open("c"); err != nil {
		t.Fatalf("with pools that nobody uses: %v, want room", err)
	}
	if again, err := open("a"); err != nil || again != pools[0] {
		t.Errorf("the pool that was used last is gone, %v; want the other one gone", err)
	}
	if conn := pools[1].Conn(); conn != nil {
		t.Error("the pool that made way has a connection still")
	}
}

func TestAPoolThatNobodyUsesIsClosed(t *testing.T) {
	t.Parallel()
	nodes := cqltest.StartCluster(t, "127.73.26.1", 1, cqltest.Options{})
	c := serveCluster(t, nodes, cqltest.Options{}, time.Minute, func(c *Pools) { c.idle = 0 })
	p, conn := acquire(t, c, Key{Version: frame.V4})
	if err := send(t, conn, asked, true).wait(t); err != nil {
		t.Fatal(err)
	}
	second, err := c.Acquire(t.Context(), Key{Version: frame.V4, Keyspace: "ks"}, false)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
	until(t, "the unused pool is closed", func() bool { return len(*second.ready.Load()) == 0 })
	if p.Conn() == nil {
		t.Error("a pool that is in use was closed too")
	}
	nodes.Nodes[0].WaitConnections(t, 2) // of the pool in use, and the control connection
}

func TestARotatedPasswordGetsAPoolOfItsOwn(t *testing.T) {
	t.Parallel()
	login := cqltest.Options{Username: "app", Password: "old"}
	nodes := cqltest.StartCluster(t, "127.73.27.1", 1, login)
	node := nodes.Nodes[0]
	c := serveCluster(t, nodes, login, time.Minute)
	key := Key{Username: "app", Password: secret.New("old"), Version: frame.V4}
	before, conn := acquire(t, c, key)
	node.SetPassword("new")
	rotated := key
	rotated.Password = secret.New("new")
	after, _ := acquire(t, c, rotated)
	if after == before {
		t.Fatal("two passwords share a pool")
	}
	if err := send(t, conn, asked, true).wait(t); err != nil {
		t.Errorf("a connection that logged in with the old password: %v, want it to go on as in Cassandra", err)
	}
	// Once it breaks the old password opens no other one.
	node.DropConnections()
	until(t, "the old pool gives up", func() bool { return before.Hopeless() != nil })
	var refused *cluster.NodeError
	if err := before.Hopeless(); !errors.As(err, &refused) || refused.Code != frame.ErrBadCredentials || Sent(err) {
		t.Errorf("requests on it: %v, want the node's refusal and nothing sent", err)
	}
	if _, err := c.Acquire(t.Context(), key, false); !errors.As(err, &refused) || refused.Code != frame.ErrBadCredentials {
		t.Errorf("a login with the old password: %v, want the node's refusal", err)
	}
	again, err := after.Wait(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t, again, asked, true).wait(t); err != nil {
		t.Errorf("the pool of the new password: %v", err)
	}
}

func TestARefusedPasswordIsNotTriedLikeANodeThatIsDown(t *testing.T) {
	t.Parallel()
	refused := fmt.Errorf("node: %w", &cluster.NodeError{Code: frame.ErrBadCredentials})
	if got := pauseAfter(refused, retryMin); got != refusedRetry {
		t.Errorf("after a refused password the pause is %s, want %s", got, refusedRetry)
	}
	for _, err := range []error{errors.New("connection refused"), &cluster.NodeError{Code: frame.ErrOverloaded}} {
		if got := pauseAfter(err, retryMin); got != retryMin {
			t.Errorf("after %v the pause is %s, want %s", err, got, retryMin)
		}
	}
}

func TestRefusedCredentialsAreTriedOnceForAllLinesOfAPool(t *testing.T) {
	t.Parallel()
	p := &Pool{}
	now := time.Now()
	for range 2 {
		if err := p.spare(now); err != nil {
			t.Errorf("a pool that nobody refused is not to try: %v", err)
		}
	}
	p.tried(now, fmt.Errorf("node: %w", &cluster.NodeError{Code: frame.ErrBadCredentials}))
	if err := p.spare(now.Add(refusedRetry - 1)); !badCredentials(err) {
		t.Errorf("right after a refusal: %v, want it again without asking", err)
	}
	if err := p.spare(now.Add(refusedRetry)); err != nil {
		t.Errorf("after its pause: %v, want a turn", err)
	}
	if err := p.spare(now.Add(refusedRetry)); !badCredentials(err) {
		t.Errorf("while another one tries: %v, want the refusal", err)
	}
	p.tried(now, nil)
	if err := p.spare(now); err != nil {
		t.Errorf("once they were taken: %v, want a turn", err)
	}
}

func TestAChangeOfTheSchemaHasNoPasswordTriedAgain(t *testing.T) {
	t.Parallel()
	login := cqltest.Options{Username: "app", Password: "sesame"}
	nodes := cqltest.StartCluster(t, "127.73.28.1", 1, login)
	node := nodes.Nodes[0]
	c := serveCluster(t, nodes, login, time.Minute)
	key := Key{Username: "app", Password: secret.New("sesame"), Version: frame.V4}
	p, _ := acquire(t, c, key)
	var refuse atomic.Bool
	refuse.Store(true)
	node.Handle(func(r cqltest.Request) cqltest.Reply {
		if refuse.Load() && r.Opcode == primitive.OpCodeAuthResponse {
			return cqltest.Error(primitive.ErrorCodeAuthenticationError, "no")
		}
		return cqltest.Ordinary()
	})
	node.DropConnections()
	until(t, "the pool gives up", func() bool { return p.Hopeless() != nil })
	refuse.Store(false)
	until(t, "the control connection is back", func() bool { return c.Control().Status().Connected })
	node.ClearRequests()
	node.SetSchemaVersion(primitive.UUID{1})
	before := c.Control().Topology()
	node.Emit(&message.SchemaChangeEvent{ChangeType: primitive.SchemaChangeTypeCreated,
		Target: primitive.SchemaChangeTargetKeyspace, Keyspace: "ks"})
	until(t, "the change is known", func() bool { return c.Control().Topology() != before })
	const others = 5 // logins, each of which takes longer than the one that must not be
	for i := range others {
		acquire(t, c, Key{Username: "app", Password: key.Password, Version: frame.V4, Keyspace: fmt.Sprint("ks", i)})
	}
	if n := len(node.Requests(cqltest.WithOpcode(primitive.OpCodeAuthResponse))); n != others {
		t.Errorf("the node checked %d passwords, want %d", n, others)
	}
}
