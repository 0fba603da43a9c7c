package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/endpoint"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// refreshDelay is how long events are gathered before the system tables are
// read again: a node that comes up sends three in a row, a schema script many,
// and system.peers is written a little after the event.
const refreshDelay = 250 * time.Millisecond

// refreshBeats is after how many heartbeats the tables are read without an
// event, since nodes drop events under load.
const refreshBeats = 4

// ControlConfig is what a control connection needs. A zero duration, factor or
// version means the default in parentheses.
type ControlConfig struct {
	Side          phase.Side
	ContactPoints []string // names or addresses; at least one
	Port          int      // of every node
	Username      string
	Password      secret.String
	// Datacenter is the local one; "" means that of the node reached.
	Datacenter string
	// AssignHosts: requests may go to every node of the local datacenter, not
	// only to the endpoint that the control connection reached.
	AssignHosts bool

	ConnectTimeout    time.Duration // of one node, with its handshake; 10 s at most while others wait (30 s)
	HeartbeatInterval time.Duration // (30 s)
	RetryMin          time.Duration // between two rounds over all nodes (250 ms)
	RetryMax          time.Duration // (30 s)
	RetryFactor       float64       // (2)
	// MaxVersion is the highest protocol version to try; control connections
	// use v4 at most, and v3 where a node refuses v4.
	MaxVersion frame.Version // (v4)

	// Dial opens a connection to host:port; nil means TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Resolve gives the addresses of a contact point that is a name, before each
	// round over the nodes; nil asks the system.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	// Lookup is for nodes behind a router that knows them by host id; nil
	// otherwise. It stands in for ContactPoints and Datacenter, and is asked
	// before each round over the nodes. Dial then gets a host id.
	Lookup func(ctx context.Context) (hostIDs []string, datacenter string, err error)
	// Advise is what to do about an error of Dial or Lookup, "" for an error of
	// another kind; nil has no advice.
	Advise func(error) string
	Log    *slog.Logger
	// OnTopology is called by the goroutine of Serve with the first topology
	// and with each one that differs from the one before.
	OnTopology func(*Topology)
	// OnSchemaChange is called with the body of each SCHEMA_CHANGE event, in
	// the layout of Topology().Version. It must not block.
	OnSchemaChange func(body []byte)
	// OnSchemaMissed is called by the goroutine of Serve after a reconnect, if the
	// schema is not what it was: with all keyspaces but the system's own. Their
	// events may have been lost meanwhile.
	OnSchemaMissed func(keyspaces []string)
}

// Control keeps one connection to a cluster, learns its nodes, and reconnects
// for ever. Its methods are safe for concurrent use.
type Control struct {
	cfg ControlConfig
	log *slog.Logger

	topology atomic.Pointer[Topology]
	// changed holds a token when an event asks for a refresh.
	changed chan struct{}
	// reached holds a token when a node was reached while there is no connection.
	reached chan struct{}

	mu sync.Mutex
	// Guarded by mu, which is never held across I/O.
	link      *link
	since     time.Time
	lastError string
	failures  int
	down      map[netip.AddrPort]bool // nodes that events called down
	clock     Clock                   // as measured; no Node before the first time

	datacenter string // of Lookup
}

// NewControl checks the configuration; Serve does the work.
func NewControl(cfg ControlConfig) (*Control, error) {
	if len(cfg.ContactPoints) == 0 && cfg.Lookup == nil {
		return nil, fmt.Errorf("%s control connection: no contact points", cfg.Side)
	}
	if cfg.Port < 1 || cfg.Port > 65535 {
		return nil, fmt.Errorf("%s control connection: port %d is not within 1 to 65535", cfg.Side, cfg.Port)
	}
	setDefault(&cfg.ConnectTimeout, 30*time.Second)
	setDefault(&cfg.HeartbeatInterval, 30*time.Second)
	setDefault(&cfg.RetryMin, 250*time.Millisecond)
	setDefault(&cfg.RetryMax, 30*time.Second)
	setDefault(&cfg.RetryFactor, 2)
	if cfg.MaxVersion != frame.V3 {
		cfg.MaxVersion = frame.V4
	}
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		}
	}
	if cfg.Advise == nil {
		cfg.Advise = func(error) string { return "" }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnTopology == nil {
		cfg.OnTopology = func(*Topology) {}
	}
	if cfg.OnSchemaChange == nil {
		cfg.OnSchemaChange = func([]byte) {}
	}
	if cfg.OnSchemaMissed == nil {
		cfg.OnSchemaMissed = func([]string) {}
	}
	return &Control{
		cfg:     cfg,
		log:     cfg.Log.With("cluster", cfg.Side.String()),
		changed: make(chan struct{}, 1),
		reached: make(chan struct{}, 1),
		since:   time.Now(),
		down:    map[netip.AddrPort]bool{},
	}, nil
}

func setDefault[T time.Duration | float64](p *T, value T) {
	if *p <= 0 {
		*p = value
	}
}

// Topology returns the latest one; nil before the first connection. It stays
// when the connection is lost.
func (c *Control) Topology() *Topology { return c.topology.Load() }

// Failures is how many heartbeats and rounds over all nodes failed in a row.
func (c *Control) Failures() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failures
}

// Status tells what is known of the cluster.
func (c *Control) Status() control.Cluster {
	clock := c.clockStatus()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := control.Cluster{Connected: c.link != nil, Since: c.since, LastError: c.lastError, Clock: clock}
	if c.link != nil {
		s.Node = endpoint.Name(c.link.node)
	}
	if t := c.topology.Load(); t != nil {
		s.ClusterName, s.ReleaseVersion, s.Datacenter, s.SchemaVersion = t.ClusterName, t.Release, t.Datacenter, t.SchemaVersion
		s.Nodes = len(t.Nodes)
		for _, n := range t.Nodes {
			if c.link != nil && !c.down[n.Addr] {
				s.NodesUp++
			}
		}
	}
	return s
}

// Query runs a small statement that returns rows on the control connection,
// when its turn comes.
func (c *Control) Query(ctx context.Context, cql string) (*message.RowsResult, error) {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("%s has no control connection", c.cfg.Side)
	}
	return l.query(ctx, cql)
}

// Serve keeps the control connection until ctx ends, and returns when every
// goroutine that it started has ended.
func (c *Control) Serve(ctx context.Context) error {
	delay := retry{min: c.cfg.RetryMin, max: c.cfg.RetryMax, factor: c.cfg.RetryFactor}
	var last netip.AddrPort // the node that failed most recently
	for {
		l, t, err := c.connect(ctx, last)
		if err == nil {
			opened, before := time.Now(), c.topology.Load()
			c.opened(l, t)
			last = l.node
			if before != nil && before.SchemaVersion != t.SchemaVersion {
				err = c.tellMissed(ctx, l)
			}
			if err == nil {
				err = c.watch(ctx, l)
			}
			l.close()
			// The first loss of a connection that held is mended at once, on
			// another node; one that keeps breaking is not tried in a loop.
			if time.Since(opened) >= c.cfg.HeartbeatInterval {
				delay.reset()
			}
		} else {
			delay.skipFirst()
		}
		if ctx.Err() != nil {
			c.closed(nil)
			return nil
		}
		c.closed(err)
		wait := delay.next()
		c.log.Warn("control connection failed", "cause", c.Status().LastError, "retry_in", wait.Round(time.Millisecond).String())
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.reached:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// Reached tells that somebody has opened a connection to a node which could not
// be reached before: if there is no control connection it is tried at once.
// The wait between attempts grows to half a minute, and a side that serves
// requests again must not be called not ready for that long.
func (c *Control) Reached() {
	c.mu.Lock()
	lost := c.link == nil
	c.mu.Unlock()
	if !lost {
		return
	}
	select {
	case c.reached <- struct{}{}:
	default:
	}
}

// opened publishes a new connection. The topology comes first: whoever sees the
// connection finds the nodes.
func (c *Control) opened(l *link, t *Topology) {
	c.publish(t)
	c.mu.Lock()
	c.link, c.since, c.failures = l, time.Now(), 0
	clear(c.down)
	c.mu.Unlock()
	c.log.Info("control connection open", "node", endpoint.Name(l.node), "protocol", int(l.version),
		"cluster_name", t.ClusterName, "datacenter", t.Datacenter, "nodes", len(t.Nodes), "release", t.Release)
}

func (c *Control) publish(t *Topology) {
	if !t.Equal(c.topology.Load()) {
		c.topology.Store(t)
		c.cfg.OnTopology(t)
	}
}

// closed notes the loss of the connection, or that none could be made.
func (c *Control) closed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		c.link, c.since = nil, time.Now()
	}
	if err != nil {
		c.failures++
		c.lastError = c.explain(err)
	}
}

// watch serves one connection until it breaks or ctx ends.
func (c *Control) watch(ctx context.Context, l *link) error {
	heartbeat := time.NewTicker(c.cfg.HeartbeatInterval)
	defer heartbeat.Stop()
	// refresh is armed by the first event of a series. While the nodes disagree
	// on the schema it is armed again, ever later: drivers wait for agreement
	// in the tables that the proxy shows, and no event tells of it.
	var refresh <-chan time.Time
	settle := refreshDelay
	again := func() {
		if settle *= 2; !c.topology.Load().SchemaAgreed() && settle < c.cfg.HeartbeatInterval {
			refresh = time.After(settle)
		}
	}
	again()
	if err := c.measureClock(ctx, l); err != nil {
		return fmt.Errorf("node %s: %w", endpoint.Name(l.node), err)
	}
	for beats := 1; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-l.done:
			return fmt.Errorf("node %s: connection lost: %w", endpoint.Name(l.node), l.err)
		case <-c.changed:
			if refresh == nil || settle > refreshDelay {
				settle = refreshDelay
				refresh = time.After(refreshDelay)
			}
		case <-refresh:
			refresh = nil
			if err := c.refresh(ctx, l); err != nil {
				return fmt.Errorf("node %s: %w", endpoint.Name(l.node), err)
			}
			again()
		case <-heartbeat.C:
			if _, err := l.ask(ctx, &message.Options{}); err != nil {
				return fmt.Errorf("node %s: heartbeat: %w", endpoint.Name(l.node), err)
			}
			if err := c.measureClock(ctx, l); err != nil {
				return fmt.Errorf("node %s: %w", endpoint.Name(l.node), err)
			}
			if beats++; beats%refreshBeats == 0 && refresh == nil {
				settle = refreshDelay
				refresh = time.After(refreshDelay)
			}
		}
	}
}

// refresh reads the system tables again. A node's ERROR is not worth the
// connection: the next event or heartbeat tries again.
func (c *Control) refresh(ctx context.Context, l *link) error {
	local, peers, err := l.describe(ctx)
	var node *NodeError
	if errors.As(err, &node) {
		c.log.Warn("system tables not read; the nodes known stay in use", "cause", err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	t, err := c.build(l, local, peers)
	if err != nil {
		return err
	}
	c.publish(t)
	return nil
}

func (c *Control) build(l *link, local, peers *message.RowsResult) (*Topology, error) {
	c.mu.Lock()
	datacenter := c.datacenter
	c.mu.Unlock()
	if c.cfg.Lookup == nil {
		datacenter = c.cfg.Datacenter
	}
	t, warnings, err := topologySource{
		local: local, peers: peers, contact: l.node, version: l.version, authenticator: l.authenticator, supported: l.supported,
		datacenter: datacenter, assignHosts: c.cfg.AssignHosts, name: c.cfg.Side.String(),
	}.build()
	if err != nil {
		return nil, err
	}
	known := c.topology.Load()
	if known != nil && known.ClusterName != t.ClusterName {
		// Addresses get reused; rows must not go to a stranger.
		return nil, fmt.Errorf("it belongs to cluster %q, and %s is %q", t.ClusterName, c.cfg.Side, known.ClusterName)
	}
	if known == nil || !known.SameNodes(t) {
		for _, w := range warnings {
			c.log.Warn(w)
		}
	}
	return t, nil
}

// event is called by a link's reader.
func (c *Control) event(m message.Message, body []byte) {
	switch m := m.(type) {
	case *message.SchemaChangeEvent:
		c.cfg.OnSchemaChange(body)
	case *message.StatusChangeEvent:
		if addr, ok := netip.AddrFromSlice(m.Address.Addr); ok {
			node := netip.AddrPortFrom(addr.Unmap(), uint16(c.cfg.Port))
			c.mu.Lock()
			c.down[node] = m.ChangeType == primitive.StatusChangeTypeDown
			c.mu.Unlock()
		}
	}
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// retry is a growing delay with jitter.
type retry struct {
	min, max time.Duration
	factor   float64
	// tries counts the delays since the reset; the first is none at all.
	tries int
	delay time.Duration
}

func (r *retry) reset() { r.tries = 0 }

// skipFirst leaves out the immediate retry: every node has just been tried.
func (r *retry) skipFirst() { r.tries = max(r.tries, 1) }

func (r *retry) next() time.Duration {
	switch r.tries {
	case 0:
		r.delay = 0
	case 1:
		r.delay = r.min
	default:
		r.delay = min(r.max, time.Duration(float64(r.delay)*r.factor))
	}
	r.tries++
	// Between half and the whole, so that many proxies do not come together.
	return r.delay/2 + rand.N(r.delay/2+1)
}

// candidates lists whom to try: the nodes known, with the one that just failed
// at the end, then what the contact points resolve to now.
func (c *Control) candidates(ctx context.Context, last netip.AddrPort) ([]netip.AddrPort, error) {
	var nodes []netip.AddrPort
	if t := c.topology.Load(); t != nil && c.cfg.AssignHosts {
		for _, n := range t.Nodes {
			nodes = append(nodes, n.Addr)
		}
		// Proxies should not all hang on the same node.
		rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	}
	var problems []error
	if c.cfg.Lookup != nil {
		ids, datacenter, err := c.cfg.Lookup(ctx)
		for _, id := range ids {
			e, bad := endpoint.FromHostID(id)
			if err = cmp.Or(err, bad); bad == nil {
				nodes = append(nodes, e)
			}
		}
		if err != nil {
			problems = append(problems, err)
		} else {
			c.mu.Lock()
			c.datacenter = datacenter
			c.mu.Unlock()
		}
	}
	for _, point := range c.cfg.ContactPoints {
		addrs := []netip.Addr{}
		if addr, err := netip.ParseAddr(point); err == nil {
			addrs = append(addrs, addr)
		} else if addrs, err = c.cfg.Resolve(ctx, point); err != nil {
			problems = append(problems, fmt.Errorf("contact point %q: %w", point, err))
		}
		for _, addr := range addrs {
			nodes = append(nodes, netip.AddrPortFrom(addr.Unmap(), uint16(c.cfg.Port)))
		}
	}
	unique := nodes[:0]
	lastSeen := false
	for _, n := range nodes {
		if n == last {
			lastSeen = true
		} else if !slices.Contains(unique, n) {
			unique = append(unique, n)
		}
	}
	if lastSeen {
		unique = append(unique, last)
	}
	if len(unique) == 0 {
		return nil, errors.Join(problems...)
	}
	return unique, nil
}

// connect tries each candidate once.
func (c *Control) connect(ctx context.Context, last netip.AddrPort) (*link, *Topology, error) {
	nodes, err := c.candidates(ctx, last)
	if err != nil {
		return nil, nil, err
	}
	// A node that is frozen takes connections and says nothing: it must not
	// keep the others waiting for the whole time.
	patience := c.cfg.ConnectTimeout
	if len(nodes) > 1 {
		patience = min(patience, linkTimeout)
	}
	var failed []error
	for _, node := range nodes {
		l, t, err := c.open(ctx, node, patience)
		if err == nil {
			return l, t, nil
		}
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		failed = append(failed, fmt.Errorf("node %s: %w", endpoint.Name(node), err))
	}
	return nil, nil, errors.Join(failed...)
}

// open makes a whole control connection to a node.
func (c *Control) open(ctx context.Context, node netip.AddrPort, patience time.Duration) (*link, *Topology, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, timeout("not open", patience))
	defer cancel()
	l, err := c.logIn(ctx, node, c.event)
	if err != nil {
		return nil, nil, err
	}
	t, err := func() (*Topology, error) {
		// First of all, so that no change falls between.
		if err := l.register(ctx); err != nil {
			return nil, err
		}
		if err := l.options(ctx); err != nil {
			return nil, err
		}
		local, peers, err := l.describe(ctx)
		if err != nil {
			return nil, err
		}
		return c.build(l, local, peers)
	}()
	if err != nil {
		l.close()
		return nil, nil, err
	}
	return l, t, nil
}

// Dial opens a connection to a node, on which nothing has been said yet.
func (c *Control) Dial(ctx context.Context, n Node) (net.Conn, error) {
	return c.cfg.Dial(ctx, n.Name())
}

// logIn connects and logs in, in the highest version that the node speaks. Each
// version needs a connection of its own.
func (c *Control) logIn(ctx context.Context, node netip.AddrPort, onEvent func(message.Message, []byte)) (*link, error) {
	for v := c.cfg.MaxVersion; ; v-- {
		nc, err := c.cfg.Dial(ctx, endpoint.Name(node))
		if err != nil {
			return nil, err
		}
		result, err := Handshake{Version: v, Username: c.cfg.Username, Password: c.cfg.Password}.Run(ctx, nc)
		if err == nil {
			return newLink(nc, node, v, result.Authenticator, onEvent), nil
		}
		_ = nc.Close()
		if v == frame.V3 || !VersionRefused(err) {
			return nil, err
		}
	}
}
