package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/loglimit"
	"github.com/zdmproject/terraform-provider-zdm/proxy/client"
	"github.com/zdmproject/terraform-provider-zdm/proxy/cluster"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/events"
	"github.com/zdmproject/terraform-provider-zdm/proxy/metrics"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/prepared"
	"github.com/zdmproject/terraform-provider-zdm/proxy/rewrite"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
	"github.com/zdmproject/terraform-provider-zdm/proxy/session"
	"github.com/zdmproject/terraform-provider-zdm/proxy/timestamp"
	"github.com/zdmproject/terraform-provider-zdm/proxy/tracing"
	"github.com/zdmproject/terraform-provider-zdm/proxy/transport"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// cacheBytes bounds the memory of prepared statements: they may be of a megabyte
// each.
const cacheBytes = 128 << 20

// Server is a proxy. Its methods may be called from any goroutine.
type Server struct {
	// Set by New, then read only.
	env       session.Env // what sessions share
	transport *transport.Transport
	serving   chan struct{} // closed when Serve has begun

	// Guarded by mu.
	mu         sync.Mutex
	sessions   map[*session.Session]struct{}
	listeners  map[net.Listener]struct{}
	draining   bool
	maxClients int
	ctx        context.Context
	running    sync.WaitGroup // accept loops and sessions
	accepting  sync.WaitGroup // accept loops

	schema schemaEvents
}

// New checks what it is given and starts nothing. The server has no phase until
// SetPhase.
func New(cfg *config.Config, log *slog.Logger) (*Server, error) {
	s := &Server{
		env: session.Env{
			Config: cfg, Log: slog.New(loglimit.New(log.Handler())), Cache: prepared.NewCache(cfg.Listen.MaxPrepared, cacheBytes),
			Routing: route.Options{SystemQueries: cfg.SystemQueriesMode, ShadowReads: cfg.ShadowReads},
			Blocked: make(map[frame.Version]bool),
			Replace: rewrite.NewRule(cfg.ReplaceFunctions, cfg.ReplaceAllFunctions), Values: rewrite.NewSource(time.Now),
		},
		serving: make(chan struct{}), maxClients: cfg.Listen.MaxClients,
		sessions: make(map[*session.Session]struct{}), listeners: make(map[net.Listener]struct{}),
	}
	all := log // what is traced has a limit of its own
	log = s.env.Log
	if cfg.SetWriteTimestamps {
		s.env.Timestamps = timestamp.New(timestamp.Options{Bound: cfg.MaxClockSkew, Measure: s.skew, Changed: s.timestampsChanged})
	}
	if t := cfg.Tracing; t.Enabled {
		s.env.Tracer = tracing.New(tracing.Options{Key: t.Key, RateLimit: t.RateLimit, Log: all})
	}
	var err error
	if s.transport, err = transport.New(cfg, log); err != nil {
		return nil, err
	}
	for _, v := range cfg.BlockedVersions {
		s.env.Blocked[frame.Version(v)] = true
	}
	mo := metrics.Options{
		Prefix:        cfg.Metrics.Prefix,
		OriginBuckets: cfg.Metrics.OriginBuckets, TargetBuckets: cfg.Metrics.TargetBuckets, AsyncBuckets: cfg.Metrics.AsyncBuckets,
	}
	s.env.Metrics = metrics.New(mo)
	s.env.Phase.Store(&session.Phase{})
	s.watch()
	for _, side := range phase.Sides {
		c := cfg.Clusters[side]
		s.env.Clusters[side], err = upstream.New(upstream.Options{
			Control: s.transport.Cluster(cluster.ControlConfig{
				Side: side, ContactPoints: c.ContactPoints, Port: c.Port, Username: c.Username, Password: c.Password,
				Datacenter: c.LocalDatacenter, AssignHosts: c.AssignHosts, ConnectTimeout: c.ConnectTimeout,
				HeartbeatInterval: cfg.Heartbeat.Interval, RetryMin: cfg.Heartbeat.RetryMin, RetryMax: cfg.Heartbeat.RetryMax, RetryFactor: cfg.Heartbeat.Factor,
				MaxVersion: frame.Version(cfg.MaxProtocolVersion), Log: log,
				OnTopology:     func(t *cluster.Topology) { s.env.OnTopology(side, t) },
				OnSchemaChange: func(body []byte) { s.onSchemaChange(side, body) },
				OnSchemaMissed: func(keyspaces []string) { s.onSchemaMissed(side, keyspaces) },
			}),
			ConnectionsPerNode: cfg.Upstream.Connections, MaxConnectionsPerNode: cfg.Upstream.MaxConnections, MaxPools: cfg.Upstream.MaxPools,
			RequestTimeout: cfg.Listen.RequestTimeout, Heartbeat: cfg.Heartbeat.Interval, Log: log,
			Meter: func(side phase.Side, node string) any {
				n := s.env.Metrics.Node(side, node)
				n.ConnectionOpened()
				return n
			},
			ConnectFailed: func(side phase.Side, node string) { s.env.Metrics.Node(side, node).ConnectionFailed() },
			PoolRefused:   func() { s.env.Metrics.Rejected(metrics.UpstreamPools) },
		})
		if err != nil {
			return nil, err
		}
	}
	s.env.Budget = client.NewBudget(cfg.Listen.MaxMemory, [2]func() int64{
		s.env.Clusters[phase.Origin].Output, s.env.Clusters[phase.Target].Output,
	})
	return s, nil
}

// Budget is the memory that clients' requests and answers may take.
func (s *Server) Budget() *client.Budget { return s.env.Budget }

// SetMaxClients bounds the clients that come from now on; those that are there
// stay, and those that another process hands over are taken.
func (s *Server) SetMaxClients(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maxClients = n
}

// Metrics is the server's registry.
func (s *Server) Metrics() *metrics.Metrics { return s.env.Metrics }

// Serve runs the clusters until ctx ends, then ends every session, and returns
// when all goroutines have. Clients come by Accept.
func (s *Server) Serve(ctx context.Context) error {
	clientCtx, endClients := context.WithCancel(ctx)
	defer endClients()
	s.mu.Lock()
	s.ctx = clientCtx
	s.mu.Unlock()
	// The clusters end after the sessions, so that what is in flight is told.
	clusterCtx, endClusters := context.WithCancel(context.WithoutCancel(ctx))
	defer endClusters()
	var clusters sync.WaitGroup
	for _, c := range s.env.Clusters {
		clusters.Go(func() {
			if err := c.Serve(clusterCtx); err != nil && clusterCtx.Err() == nil {
				s.env.Log.Error("cluster ended", "cause", err)
			}
		})
	}
	s.running.Go(func() { s.guard(clientCtx) })
	if s.env.Timestamps != nil {
		clusters.Go(func() { s.env.Timestamps.Serve(clusterCtx) })
	}
	close(s.serving)
	<-ctx.Done()
	s.closeListeners()
	endClients() // nobody enters any more
	for _, ses := range s.snapshot() {
		ses.Close()
	}
	s.running.Wait()
	endClusters()
	clusters.Wait()
	return nil
}

// guardEvery is the grain of bounds on a client's time and memory.
const guardEvery = 100 * time.Millisecond

// guard looks after the bounds of the sessions until ctx ends.
func (s *Server) guard(ctx context.Context) {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	var all []*session.Session
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.expireEvents()
		all = s.appendSessions(all[:0])
		now := upstream.Nanotime()
		for _, ses := range all {
			ses.Watch(now)
		}
		clear(all)
	}
}

// Accept serves the clients of l, which it owns from then on, until the server
// drains or ends. It returns at once.
func (s *Server) Accept(l net.Listener) error {
	<-s.serving
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.ctx.Err() != nil {
		_ = l.Close()
		return errDraining
	}
	s.listeners[l] = struct{}{}
	s.accepting.Add(1)
	s.running.Go(func() {
		defer s.accepting.Done()
		s.acceptLoop(l)
	})
	return nil
}

func (s *Server) acceptLoop(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, mostly: others close theirs, so try again.
			s.env.Log.Warn("accept", "cause", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
			continue
		}
		s.admit(nc)
	}
}

// admit starts a session, or closes the connection.
func (s *Server) admit(nc net.Conn) {
	ses := session.New(&s.env, s.transport.Client(nc))
	if err := s.enterNew(ses); err != nil {
		_ = nc.Close()
		s.env.Log.Warn("client refused", "client", nc.RemoteAddr(), "cause", err)
	}
}

var errDraining = errors.New("the proxy is draining; no new clients")

// enterNew serves the session of a client that has just connected, if there is room.
// A drain lets in what has been accepted: it may move.
func (s *Server) enterNew(ses *session.Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) >= s.maxClients {
		s.env.Metrics.Rejected(metrics.Clients)
		return fmt.Errorf("there are %d clients; raise proxy_max_client_connections", len(s.sessions))
	}
	return s.enter(ses)
}

// enter serves a session. It runs under mu.
func (s *Server) enter(ses *session.Session) error {
	switch {
	case s.ctx == nil || s.ctx.Err() != nil:
		return errDraining
	case s.env.Rule() == nil:
		return errors.New("the proxy has no phase yet")
	}
	s.sessions[ses] = struct{}{}
	s.env.Metrics.Clients.Add(1)
	ctx := s.ctx
	s.running.Go(func() {
		ses.Serve(ctx)
		s.mu.Lock()
		delete(s.sessions, ses)
		s.mu.Unlock()
		s.env.Metrics.Clients.Add(-1)
	})
	return nil
}

func (s *Server) closeListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.listeners {
		_ = l.Close()
		delete(s.listeners, l)
	}
}

// Drain takes no new clients, answers what clients have in flight, closes each
// between two requests, and returns when none is left. At the end of ctx those
// that are left are closed. With move, clients are not closed but go on with the
// process that takes over, once that has opened its connections; those that cannot
// move are served until they leave, or until ctx nears its deadline, and then closed
// between two requests. Without move those that have registered for status events
// are closed last, and hear that this proxy is down.
func (s *Server) Drain(ctx context.Context, move session.Move) error {
	quiet := func() {}
	if move == nil {
		quiet = s.partQuietly()
		defer quiet()
	} else {
		m := session.NewMover(&s.env, move)
		if err := m.First(s.snapshot(), s.waitingEvents(), s.warmWithin(ctx)); err != nil {
			s.env.Log.Warn("clients cannot move; they will be closed", "cause", err)
			move = nil
		} else {
			m.Start()
		}
	}
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	s.closeListeners()
	s.accepting.Wait() // whom they have accepted is in
	late := s.drainSessions(ctx, move != nil)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		left := s.snapshot()
		n := len(left)
		if n == 0 {
			return nil
		}
		if !slices.ContainsFunc(left, func(ses *session.Session) bool { return !ses.Wants(events.Status) }) {
			quiet()
		}
		select {
		case <-tick.C:
		case <-late:
			for _, ses := range s.snapshot() {
				ses.Drain()
			}
		case <-ctx.Done():
			for _, ses := range s.snapshot() {
				ses.Close()
			}
			return fmt.Errorf("drain: %d clients still had requests in flight: %w", n, context.Cause(ctx))
		}
	}
}

// untilAnswers is how long a drain may do other things before it waits for the
// answers to what is in flight, which may take as long as a request may.
func (s *Server) untilAnswers(deadline time.Time) time.Duration {
	left := time.Until(deadline)
	return left - min(left/2, s.env.Config.Listen.RequestTimeout+time.Second)
}

// warmWithin is how long the process that takes over may open connections.
func (s *Server) warmWithin(ctx context.Context) time.Duration {
	if deadline, bounded := ctx.Deadline(); bounded {
		return s.untilAnswers(deadline)
	}
	return control.WarmTimeout
}

// partQuietly has the clients that have registered for status events told that this
// proxy is down, before they are closed and after quiet was called: by then no
// other client is left.
func (s *Server) partQuietly() (quiet func()) {
	at := s.env.Config.Instance()
	if !at.IsValid() {
		return func() {}
	}
	others := make(chan struct{})
	s.env.Farewell.Store(&events.Farewell{Body: events.Down(at), Quiet: others})
	return sync.OnceFunc(func() { close(others) })
}

func (s *Server) snapshot() []*session.Session { return s.appendSessions(nil) }

func (s *Server) appendSessions(out []*session.Session) []*session.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out = slices.Grow(out, len(s.sessions))
	for ses := range s.sessions {
		out = append(out, ses)
	}
	return out
}

// drainSessions asks the sessions to end or move. Those that cannot move (TLS has
// its state in this process) are served on while others can: until they leave,
// or until late comes, which leaves time to end them well.
func (s *Server) drainSessions(ctx context.Context, moving bool) (late <-chan time.Time) {
	deadline, bounded := ctx.Deadline()
	wait := bounded && moving
	for _, ses := range s.snapshot() {
		if !wait || ses.Movable() {
			ses.Drain()
		} else if late == nil {
			late = time.After(s.untilAnswers(deadline))
		}
	}
	return late
}
