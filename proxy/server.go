package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/nbio"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/faults"
	"github.com/zdmproject/terraform-provider-zdm/proxy/metrics"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/prepared"
	"github.com/zdmproject/terraform-provider-zdm/proxy/rewrite"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
	"github.com/zdmproject/terraform-provider-zdm/proxy/transport"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
	"github.com/zdmproject/terraform-provider-zdm/proxy/virtual"
)

// cacheSize bounds the prepared statements that a proxy remembers. At a few
// hundred bytes each this is some ten megabytes; an application with more
// prepares with literals in the text.
const cacheSize = 50_000

// Server is a proxy. Its methods may be called from any goroutine.
type Server struct {
	// Set by New, then read only.
	cfg       *config.Config
	log       *slog.Logger
	metrics   *metrics.Metrics
	transport *transport.Transport
	clusters  [2]*upstream.Cluster
	cache     *prepared.Cache
	routing   route.Options
	blocked   map[frame.Version]bool
	rule      rewrite.Rule    // which functions are replaced
	values    *rewrite.Source // by what
	faults    faults.Log

	phase   atomic.Pointer[phaseState]
	tables  [2]atomic.Pointer[virtual.Tables] // by the side that they are modelled on
	lastID  atomic.Uint64
	serving chan struct{} // closed when Serve has begun
	mover   atomic.Pointer[mover]

	// Guarded by mu.
	mu        sync.Mutex
	sessions  map[*session]struct{}
	listeners map[net.Listener]struct{}
	draining  bool
	ctx       context.Context
	running   sync.WaitGroup // accept loops and sessions
}

// phaseState is immutable; requests hold one for their whole life.
type phaseState struct {
	rule  *phase.Rule // nil: no phase, and no clients
	epoch uint64
	since time.Time
}

// New checks what it is given and starts nothing. The server has no phase until
// SetPhase.
func New(cfg *config.Config, log *slog.Logger) (*Server, error) {
	s := &Server{
		cfg: cfg, log: log, cache: prepared.NewCache(cacheSize), serving: make(chan struct{}),
		routing:  route.Options{SystemQueries: cfg.SystemQueriesMode, ShadowReads: cfg.ShadowReads},
		blocked:  make(map[frame.Version]bool),
		rule:     rewrite.NewRule(cfg.ReplaceFunctions, cfg.ReplaceAllFunctions),
		values:   rewrite.NewSource(time.Now),
		sessions: make(map[*session]struct{}), listeners: make(map[net.Listener]struct{}),
	}
	var err error
	if s.transport, err = transport.New(cfg, log); err != nil {
		return nil, err
	}
	for _, v := range cfg.BlockedVersions {
		s.blocked[frame.Version(v)] = true
	}
	mo := metrics.Options{
		Prefix:        cfg.Metrics.Prefix,
		OriginBuckets: cfg.Metrics.OriginBuckets, TargetBuckets: cfg.Metrics.TargetBuckets, AsyncBuckets: cfg.Metrics.AsyncBuckets,
	}
	s.metrics = metrics.New(mo)
	s.metrics.Gauge(mo, "pscache_entries_total", "Prepared statements that the proxy remembers.", func() float64 { return float64(s.cache.Len()) })
	s.phase.Store(&phaseState{})
	for _, side := range phase.Sides {
		c := cfg.Clusters[side]
		s.clusters[side], err = upstream.NewCluster(upstream.ClusterOptions{
			Control: s.transport.Cluster(upstream.ControlConfig{
				Side: side, ContactPoints: c.ContactPoints, Port: c.Port, Username: c.Username, Password: c.Password,
				Datacenter: c.LocalDatacenter, AssignHosts: c.AssignHosts, ConnectTimeout: c.ConnectTimeout,
				HeartbeatInterval: cfg.Heartbeat.Interval, RetryMin: cfg.Heartbeat.RetryMin, RetryMax: cfg.Heartbeat.RetryMax, RetryFactor: cfg.Heartbeat.Factor,
				MaxVersion: frame.Version(cfg.MaxProtocolVersion), Log: log,
				OnTopology:     func(t *upstream.Topology) { s.onTopology(side, t) },
				OnSchemaChange: func(body []byte) { s.onSchemaChange(side, body) },
			}),
			ConnectionsPerNode: cfg.UpstreamConnections,
			RequestTimeout:     cfg.Listen.RequestTimeout, Heartbeat: cfg.Heartbeat.Interval, Log: log,
			Meter:         func(side phase.Side, node string) any { return s.metrics.Node(side, node) },
			ConnectFailed: func(side phase.Side, node string) { s.metrics.Node(side, node).ConnectionFailed() },
		})
		if err != nil {
			return nil, err
		}
		s.metrics.WatchNodes(mo, side, func() []metrics.NodeGauges {
			var out []metrics.NodeGauges
			for _, n := range s.clusters[side].Stats() {
				out = append(out, metrics.NodeGauges(n))
			}
			return out
		})
	}
	return s, nil
}

// Metrics is the server's registry.
func (s *Server) Metrics() *metrics.Metrics { return s.metrics }

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
	for _, c := range s.clusters {
		clusters.Go(func() {
			if err := c.Serve(clusterCtx); err != nil && clusterCtx.Err() == nil {
				s.log.Error("cluster ended", "cause", err)
			}
		})
	}
	close(s.serving)
	<-ctx.Done()
	s.closeListeners()
	endClients()
	s.running.Wait()
	endClusters()
	clusters.Wait()
	return nil
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
	s.running.Go(func() { s.acceptLoop(l) })
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
			s.log.Warn("accept", "cause", err)
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
	ses := s.newSession(s.transport.Client(nc))
	ses.in = frame.NewReader(ses.nc, frame.MaxBody)
	if err := s.enter(ses); err != nil {
		_ = nc.Close()
		s.log.Warn("client refused", "client", nc.RemoteAddr(), "cause", err)
	}
}

func (s *Server) newSession(nc net.Conn) *session {
	ses := &session{id: s.lastID.Add(1), srv: s, nc: nbio.New(nc), idle: make(chan struct{}, 1)}
	ses.out.Init(ses.nc, s.cfg.Listen.RequestTimeout, func(error) { _ = ses.nc.Close() })
	return ses
}

var errDraining = errors.New("the proxy is draining; no new clients")

// enter serves a session, if there is room.
func (s *Server) enter(ses *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining || s.ctx == nil || s.ctx.Err() != nil:
		return errDraining
	case s.phase.Load().rule == nil:
		return errors.New("the proxy has no phase yet")
	case len(s.sessions) >= s.cfg.Listen.MaxClients:
		return fmt.Errorf("there are %d clients; raise proxy_max_client_connections", len(s.sessions))
	}
	s.sessions[ses] = struct{}{}
	s.metrics.Clients.Add(1)
	ctx := s.ctx
	s.running.Go(func() {
		ses.serve(ctx)
		s.mu.Lock()
		delete(s.sessions, ses)
		s.mu.Unlock()
		s.metrics.Clients.Add(-1)
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
// process that takes over; those that cannot move are served until they leave, or
// until ctx nears its deadline, and then closed between two requests.
func (s *Server) Drain(ctx context.Context, move Move) error {
	if move != nil {
		m := &mover{srv: s, send: move, known: make(map[string]bool)}
		if err := m.first(); err != nil {
			s.log.Warn("clients cannot move; they will be closed", "cause", err)
		} else {
			s.mover.Store(m)
		}
	}
	s.mu.Lock()
	s.draining = true
	late := s.drainSessions(ctx)
	s.mu.Unlock()
	s.closeListeners()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		n := len(s.snapshot())
		if n == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-late:
			for _, ses := range s.snapshot() {
				ses.drain()
			}
		case <-ctx.Done():
			for _, ses := range s.snapshot() {
				_ = ses.nc.Close()
			}
			return fmt.Errorf("drain: %d clients still had requests in flight: %w", n, context.Cause(ctx))
		}
	}
}

func (s *Server) snapshot() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*session, 0, len(s.sessions))
	for ses := range s.sessions {
		out = append(out, ses)
	}
	return out
}

// loginSides are those that a client's login needs: what the phase needs, and
// the side whose credentials clients send.
func (s *Server) loginSides() phase.Set {
	return s.phase.Load().rule.Needed | phase.Of(s.credentialSide())
}

// credentialSide is the side whose credentials clients send: the configured one
// if it asks for a login at all, or else the other one if that does.
func (s *Server) credentialSide() phase.Side {
	side := phase.Target
	if s.cfg.ClientCredentials == config.CredentialsOrigin {
		side = phase.Origin
	}
	known := s.clusters[side].Control().Topology() != nil
	needed := s.phase.Load().rule.Needed
	switch {
	case known && s.authenticator(side) == "" && s.authenticator(side.Other()) != "":
		return side.Other()
	case known && s.authenticator(side) == "" && !needed.Has(side):
		return side.Other()
	}
	return side
}

// authenticator is the class that a side's nodes ask for a login with; "" if
// they do not, or none was reached yet.
func (s *Server) authenticator(side phase.Side) string {
	t := s.clusters[side].Control().Topology()
	if t == nil {
		return ""
	}
	return t.Authenticator
}

// onSchemaChange passes an event of the side that answers system queries on to
// the clients that asked for it.
func (s *Server) onSchemaChange(side phase.Side, body []byte) {
	ph := s.phase.Load()
	if ph.rule == nil || route.SystemSide(ph.rule, s.routing) != side {
		return
	}
	b := upstream.Batch{Now: upstream.Nanotime()}
	for _, ses := range s.snapshot() {
		if !ses.events.Load() || ses.version == frame.V3 && newInV4(body) {
			continue
		}
		f := frame.AppendHeader(nil, ses.version, true, 0, -1, frame.OpEvent, 0)
		f = append(f, body...)
		frame.PutLength(f)
		ses.respond(&b, -1, f)
	}
	b.Done()
}

// newInV4 tells the schema events that v3 clients do not know: the control
// connection may speak a later version than they do.
func newInV4(body []byte) bool {
	c := frame.NewCursor(body)
	c.String("change")
	switch string(c.String("target")) {
	case "FUNCTION", "AGGREGATE":
		return true
	}
	return false
}

// onTopology renews the virtual system tables.
func (s *Server) onTopology(side phase.Side, t *upstream.Topology) {
	tables, err := s.makeTables(t)
	if err != nil {
		s.log.Error("virtual system tables", "side", side, "cause", err)
		return
	}
	s.tables[side].Store(tables)
}
