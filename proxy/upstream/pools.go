package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/cluster"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const (
	// loginReuse is how long a checked login may be taken as still good:
	// Cassandra's own default for its credentials cache.
	loginReuse = 2 * time.Second
	// handshakes is how many may run at once with a node. A check of a password
	// costs it much CPU (bcrypt), and small ones time out under many; a dial costs
	// it nothing and does not count. A node that does not answer keeps only its own
	// waiting.
	handshakes = 4
	// askTimeout is how long one node may take to say whether it speaks a version,
	// while clients wait for their first answer and others may be asked.
	askTimeout = 2 * time.Second
	// idlePool is how long a pool that no client uses stays open.
	idlePool = time.Minute
	// defaultMaxPools is for owners that set no bound.
	defaultMaxPools = 1000
	// sweepEvery is the grain of request time-outs.
	sweepEvery = 50 * time.Millisecond
)

// Options are what Pools need besides the control connection.
type Options struct {
	Control cluster.ControlConfig
	// MaxPools bounds the pools; 0 means 1000. At the bound, one that no client
	// uses makes way.
	MaxPools int
	// Connections of one pool to each node: at first, and at most under load. A
	// greatest number below the first one means that they do not grow.
	ConnectionsPerNode, MaxConnectionsPerNode int
	RequestTimeout                            time.Duration
	Heartbeat                                 time.Duration
	// Meter makes the owner's record for a node, once for each connection; it is
	// what Conn.Meter returns. ConnectFailed hears of each failed attempt.
	Meter         func(side phase.Side, node string) any
	ConnectFailed func(side phase.Side, node string)
	// PoolRefused hears of each request that needs one pool more than there may be.
	PoolRefused func()
	Log         *slog.Logger
}

// Pools are those of one side, with the control connection that tells them the
// nodes.
type Pools struct {
	side    phase.Side
	opts    Options
	control *cluster.Control
	output  atomic.Int64  // see Output
	grown   atomic.Uint64 // see Grown
	shrunk  atomic.Uint64 // see Shrunk
	scale   scale
	idle    time.Duration // how long an unused pool stays

	// Set by Serve before started is closed.
	ctx     context.Context
	wg      sync.WaitGroup
	started chan struct{}

	mu     sync.Mutex
	pools  map[Key]*Pool
	logins map[Key]*login
	speaks map[spoken]*question
	turns  map[netip.AddrPort]chan struct{} // of each node, one token for each handshake that runs
}

// login is a check that runs; others with the same key wait for its outcome.
type login struct {
	done chan struct{}
	err  error
}

// New checks the options and starts nothing.
func New(o Options) (*Pools, error) {
	c := &Pools{
		side: o.Control.Side, opts: o, scale: defaultScale(), idle: idlePool,
		started: make(chan struct{}), pools: make(map[Key]*Pool), logins: make(map[Key]*login), speaks: make(map[spoken]*question),
		turns: make(map[netip.AddrPort]chan struct{}),
	}
	inner := o.Control.OnTopology
	o.Control.OnTopology = func(t *cluster.Topology) {
		c.onTopology(t)
		if inner != nil {
			inner(t)
		}
	}
	if c.opts.MaxPools == 0 {
		c.opts.MaxPools = defaultMaxPools
	}
	var err error
	c.control, err = cluster.NewControl(o.Control)
	return c, err
}

// Control is the side's control connection.
func (c *Pools) Control() *cluster.Control { return c.control }

// Serve runs the control connection and the pools until ctx ends; it returns
// when all their goroutines have.
func (c *Pools) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.ctx = ctx
	close(c.started)
	c.wg.Go(func() { c.sweep(ctx) })
	err := c.control.Serve(ctx)
	c.mu.Lock()
	cancel() // no login begins from here on
	c.mu.Unlock()
	c.wg.Wait()
	return err
}

// Acquire returns the pool of key with a reference; the caller releases it. It
// opens the pool's first connection if there is none, so that wrong credentials
// or an unknown keyspace show here, as *cluster.NodeError. With fresh, a login that was
// checked more than 2 s ago is checked again.
func (c *Pools) Acquire(ctx context.Context, key Key, fresh bool) (*Pool, error) {
	select {
	case <-c.started:
	case <-ctx.Done():
		return nil, &LostError{Side: c.side, Cause: fmt.Errorf("%w: %w", ErrNoConnection, context.Cause(ctx))}
	}
	for {
		c.mu.Lock()
		p := c.pools[key]
		if p != nil && p.hold(fresh) {
			c.mu.Unlock()
			return p, nil
		}
		running := c.logins[key]
		if running == nil {
			if p == nil && !c.makeRoom() {
				c.mu.Unlock()
				c.opts.PoolRefused()
				return nil, &LostError{Side: c.side, Cause: fmt.Errorf(
					"%w: each user, password, keyspace and protocol version needs one, and %d may be open (upstream_max_pools)", ErrTooManyPools, c.opts.MaxPools)}
			}
			if c.ctx.Err() != nil {
				c.mu.Unlock()
				return nil, &LostError{Side: c.side, Cause: fmt.Errorf("%w: %w", ErrNoConnection, context.Cause(c.ctx))}
			}
			running = &login{done: make(chan struct{})}
			c.logins[key] = running
			c.wg.Go(func() { c.runLogin(key, running) })
		}
		c.mu.Unlock()
		select {
		case <-running.done:
			if running.err != nil {
				return nil, running.err
			}
		case <-ctx.Done():
			return nil, &LostError{Side: c.side, Cause: fmt.Errorf("%w: %w", ErrNoConnection, context.Cause(ctx))}
		}
	}
}

// runLogin belongs to no caller: it has the time of a connection, however little
// the callers have, and those who gave up find its pool when they come again.
func (c *Pools) runLogin(key Key, l *login) {
	l.err = c.login(c.ctx, key)
	c.mu.Lock()
	delete(c.logins, key)
	c.mu.Unlock()
	close(l.done)
}

// makeRoom reports whether one more pool may be made, and closes the one that was
// unused for longest if that is what it takes. mu is held.
func (c *Pools) makeRoom() bool {
	coming := 0
	for key := range c.logins {
		if c.pools[key] == nil {
			coming++
		}
	}
	if len(c.pools)+coming < c.opts.MaxPools {
		return true
	}
	var oldest *Pool
	var since time.Time
	for _, p := range c.pools {
		if at, unused := p.unused(); unused && (oldest == nil || at.Before(since)) {
			oldest, since = p, at
		}
	}
	if oldest == nil {
		return false
	}
	delete(c.pools, oldest.key)
	oldest.shut()
	return true
}

// unused tells since when no client uses the pool, if none does.
func (p *Pool) unused() (since time.Time, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle, p.refs == 0
}

// hold takes a reference if the pool may be used without a new login.
func (p *Pool) hold(fresh bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.verified.IsZero() || fresh && time.Since(p.verified) > loginReuse {
		return false
	}
	p.refs++
	return true
}

// Speaks reports whether the side's nodes speak a protocol version. One of them
// is asked once, for all who want to know, and again when the cluster was upgraded
// meanwhile. The error is that no node could be asked.
func (c *Pools) Speaks(ctx context.Context, v frame.Version) (bool, error) {
	t := c.control.Topology()
	if t == nil {
		return false, &LostError{Side: c.side, Cause: fmt.Errorf("%w: the control connection is down: %s", ErrNoConnection, c.control.Status().LastError)}
	}
	if v <= t.Version {
		return true, nil
	}
	key := spoken{v, t.Release}
	c.mu.Lock()
	q := c.speaks[key]
	if q == nil {
		if c.ctx.Err() != nil {
			c.mu.Unlock()
			return false, &LostError{Side: c.side, Cause: fmt.Errorf("%w: %w", ErrNoConnection, context.Cause(c.ctx))}
		}
		q = &question{done: make(chan struct{})}
		c.speaks[key] = q
		c.wg.Go(func() { c.askVersion(t.Nodes, key, q) })
	}
	c.mu.Unlock()
	select {
	case <-q.done:
		return q.speaks, q.err
	case <-ctx.Done():
		return false, &LostError{Side: c.side, Cause: fmt.Errorf("%w: %w", ErrNoConnection, context.Cause(ctx))}
	}
}

// spoken is a version that nodes of a release were asked for.
type spoken struct {
	version frame.Version
	release string
}

// question is whether a version is spoken. What is below done is set before that
// is closed; with an error the question is forgotten.
type question struct {
	done   chan struct{}
	speaks bool
	err    error
}

// askVersion asks one node after the other until one answers. Like a login it
// belongs to no caller.
func (c *Pools) askVersion(nodes []cluster.Node, key spoken, q *question) {
	defer close(q.done)
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.Control.ConnectTimeout)
	defer cancel()
	for _, i := range rand.Perm(len(nodes)) {
		actx, done := context.WithTimeout(ctx, askTimeout)
		nc, err := c.connect(actx, nodes[i], Key{Version: key.version})
		done()
		if nc != nil {
			_ = nc.Close() // it was opened to ask
		}
		q.speaks = err == nil || errors.Is(err, cluster.ErrLoginNeeded)
		if q.speaks || cluster.VersionRefused(err) {
			q.err = nil
			return
		}
		q.err = &LostError{Side: c.side, Cause: fmt.Errorf("%w: %w", ErrNoConnection, err)}
		if ctx.Err() != nil {
			break
		}
	}
	c.mu.Lock()
	delete(c.speaks, key)
	c.mu.Unlock()
}

// login opens one connection with key, on any node, and gives it to the pool,
// which it makes if need be.
func (c *Pools) login(ctx context.Context, key Key) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Control.ConnectTimeout)
	defer cancel()
	nodes := c.nodes()
	if len(nodes) == 0 {
		return &LostError{Side: c.side, Cause: fmt.Errorf("%w: the control connection is down: %s", ErrNoConnection, c.control.Status().LastError)}
	}
	whole := c.opts.Control.ConnectTimeout
	attempt := max(whole/time.Duration(len(nodes)), min(2*time.Second, whole/2))
	var last error
	for _, i := range rand.Perm(len(nodes)) {
		actx, done := context.WithTimeout(ctx, attempt)
		nc, err := c.connect(actx, nodes[i], key)
		done()
		var refused *cluster.NodeError
		switch {
		case err == nil:
			c.mu.Lock()
			p := c.pools[key]
			if p == nil {
				p = newPool(c, key)
				c.pools[key] = p
			}
			p.mu.Lock()
			p.verified, p.refused = time.Now(), nil
			p.mu.Unlock()
			// The nodes may be others by now.
			p.update(c.nodes(), nodes[i].Addr.String(), nc)
			c.mu.Unlock()
			return nil
		case errors.As(err, &refused) && !transient(refused.Code):
			return err
		}
		last = err
		if ctx.Err() != nil {
			break
		}
	}
	return &LostError{Side: c.side, Cause: fmt.Errorf("%w: %w", ErrNoConnection, last)}
}

// transient tells the refusals that another node may not repeat.
func transient(code frame.ErrorCode) bool {
	return code == frame.ErrServer || code == frame.ErrOverloaded || code == frame.ErrIsBootstrapping || code == frame.ErrUnavailable
}

// connect dials a node and does the handshake.
func (c *Pools) connect(ctx context.Context, n cluster.Node, key Key) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Control.ConnectTimeout)
	defer cancel()
	nc, err := c.control.Dial(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("dial %s node %s: %w", c.side, n.Name(), err)
	}
	turns := c.turnsOf(n)
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
	case <-ctx.Done():
		_ = nc.Close()
		return nil, fmt.Errorf("%s node %s: %d handshakes run already: %w", c.side, n.Name(), handshakes, context.Cause(ctx))
	}
	h := cluster.Handshake{Version: key.Version, Username: key.Username, Password: key.Password, Keyspace: key.Keyspace}
	if _, err := h.Run(ctx, nc); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("%s node %s: %w", c.side, n.Name(), err)
	}
	return nc, nil
}

// turnsOf is where the handshakes with a node take their turns.
func (c *Pools) turnsOf(n cluster.Node) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	turns := c.turns[n.Addr]
	if turns == nil {
		turns = make(chan struct{}, handshakes)
		c.turns[n.Addr] = turns
	}
	return turns
}

func (c *Pools) nodes() []cluster.Node {
	t := c.control.Topology()
	if t == nil {
		return nil
	}
	return t.Nodes
}

func (c *Pools) onTopology(t *cluster.Topology) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pools {
		p.update(t.Nodes, "", nil)
	}
	maps.DeleteFunc(c.turns, func(addr netip.AddrPort, _ chan struct{}) bool {
		return !slices.ContainsFunc(t.Nodes, func(n cluster.Node) bool { return n.Addr == addr })
	})
}

// sweep gives up requests that are overdue, keeps idle connections alive, and
// closes pools that nobody uses.
func (c *Pools) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	b := &Batch{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b.Now = Nanotime()
		pools := c.livePools()
		output := 0
		var silent []string // nodes
		for _, p := range pools {
			for _, conn := range *p.ready.Load() {
				if conn.judge(b.Now, conn.expire(b)) {
					silent = append(silent, conn.node)
				}
				conn.heartbeat(b.Now, c.opts.Heartbeat)
				output += conn.out.Len()
			}
			p.fit(time.Now())
		}
		b.Done()
		c.output.Store(int64(output))
		if len(silent) > 0 {
			askNodes(pools, silent, b.Now)
		}
	}
}

// Output is how many bytes wait for nodes that do not read, as of the latest look.
func (c *Pools) Output() int64 { return c.output.Load() }

// askNodes asks every connection to nodes that have fallen silent on one: so the
// others are found out before each has swallowed requests of its own, and a node
// that was only busy with one long request shows that it lives.
func askNodes(pools []*Pool, nodes []string, now int64) {
	for _, p := range pools {
		for _, conn := range *p.ready.Load() {
			if slices.Contains(nodes, conn.node) {
				conn.ask(now)
			}
		}
	}
}

func (c *Pools) livePools() []*Pool {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*Pool, 0, len(c.pools))
	for key, p := range c.pools {
		if at, unused := p.unused(); unused && time.Since(at) > c.idle {
			delete(c.pools, key)
			p.shut()
			continue
		}
		out = append(out, p)
	}
	return out
}

// Grown is how many connections were added because of load, since the start.
func (c *Pools) Grown() uint64 { return c.grown.Load() }

// Shrunk is how many were taken away since fewer carry the load.
func (c *Pools) Shrunk() uint64 { return c.shrunk.Load() }

// Len is how many pools there are.
func (c *Pools) Len() int { return len(c.livePools()) }

// NodeStats is what is open to one node.
type NodeStats struct {
	Node        string
	Connections int
	// StreamIDs in use, those that wait for a late answer included.
	StreamIDs int
	// WaitingBytes were not taken by a write yet.
	WaitingBytes int
}

// Stats looks at all pools.
func (c *Pools) Stats() []NodeStats {
	var out []NodeStats
	at := make(map[string]int)
	for _, p := range c.livePools() {
		for _, conn := range *p.ready.Load() {
			i, ok := at[conn.node]
			if !ok {
				i = len(out)
				at[conn.node] = i
				out = append(out, NodeStats{Node: conn.node})
			}
			out[i].Connections++
			ids, bytes := conn.held()
			out[i].StreamIDs += ids
			out[i].WaitingBytes += bytes
		}
	}
	return out
}
