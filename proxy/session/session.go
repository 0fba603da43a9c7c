package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/nbio"
	"github.com/zdmproject/terraform-provider-zdm/proxy/client"
	"github.com/zdmproject/terraform-provider-zdm/proxy/drivers"
	"github.com/zdmproject/terraform-provider-zdm/proxy/events"
	"github.com/zdmproject/terraform-provider-zdm/proxy/metrics"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/tracing"
	"github.com/zdmproject/terraform-provider-zdm/proxy/transport"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

const (
	// maxLoginBody bounds what a client may send before it has logged in, which
	// the proxy keeps in memory: STARTUP and a password are a few hundred bytes.
	maxLoginBody = 64 << 10
	// flushEvery is after how many requests of one burst the nodes get them,
	// though the client has sent more: so that a large burst does not wait for
	// its own end.
	flushEvery = 64
)

// Session is one client connection.
type Session struct {
	// Set before serve, then read only.
	env *Env
	// ctx is the server's: what the serve goroutine waits for ends with it. A
	// context of the session's own would be a tenth of what an idle one costs.
	ctx context.Context

	// Owned by the serve goroutine.
	batch   upstream.Batch // outcomes of this goroutine's own making
	state   sessionState
	driver  drivers.Driver
	counted bool              // among the drivers
	traced  tracing.Request   // the request that is handled
	burst   [2]*upstream.Conn // where this burst of requests goes, by side
	burstOf *scope
	touched []*upstream.Conn // to be flushed when the burst ends
	unsent  int              // requests since the last flush
	scopes  []*scope         // every keyspace the client has used
	keys    [2]upstream.Key  // without keyspace; set by login
	asOwn   phase.Set        // where keys are those of the configured user

	// Shared.
	client   client.Conn
	scope    atomic.Pointer[scope] // the current keyspace
	inFlight atomic.Int32
	events   atomic.Uint32 // events.Kinds that it has registered for
	draining atomic.Bool
	idle     chan struct{} // gets a token when the last request of a draining session ends

	// Guarded by mu, which is never held across I/O.
	mu     sync.Mutex
	waits  context.Context // of what is parked: ends with the session; nil: nothing ever was
	cancel context.CancelFunc
	ending bool           // waits is over
	ended  bool           // nobody awaits parked any more
	parked sync.WaitGroup // what waits for a connection; see later
}

type sessionState uint8

const (
	fresh   sessionState = iota // before STARTUP
	started                     // AUTHENTICATE was sent
	ready
)

// errRefused ends a session after its error was answered.
var errRefused = errors.New("refused")

// New makes the session of a client that has just connected. Serve owns nc.
func New(e *Env, nc net.Conn) *Session {
	s := &Session{env: e, idle: make(chan struct{}, 1)}
	l := &e.Config.Listen
	s.client.Init(nc, client.Limits{WriteTimeout: l.RequestTimeout, FrameTimeout: l.FrameTimeout, MaxBytes: l.MaxClientBytes, Budget: e.Budget}, s)
	return s
}

// TooSlow records that the client was closed because it does not read.
func (s *Session) TooSlow(waiting int) {
	s.env.Log.Warn("client does not read its answers; closed", "client", s.client.RemoteAddr(), "waiting_bytes", waiting)
	s.env.Metrics.Rejected(metrics.ClientOutput)
}

// Movable reports whether the client's socket could go to another process.
func (s *Session) Movable() bool { return s.client.Movable() }

// WaitingBytes is how much output the client has not been sent yet.
func (s *Session) WaitingBytes() int { return s.client.Waiting() }

// Close ends the session at once. Serve returns soon.
func (s *Session) Close() { s.client.Close() }

// Warm opens what the session will need of a side, so that its first request
// there finds it. A session that is not logged in yet, or has ended, needs
// nothing.
func (s *Session) Warm(ctx context.Context, side phase.Side) error {
	sc := s.scope.Load()
	if sc == nil || sc.pools[side].Load() != nil {
		return nil
	}
	if _, err := sc.connect(ctx, side); err != nil && !sc.gone() {
		return fmt.Errorf("the connections of client %s (keyspace %q): %w", s.client.RemoteAddr(), sc.keyspace, err)
	}
	return nil
}

// AwaitRoom leaves the client unread while wait says so: its kernel and then the
// client itself keep what it sends. What is in flight is answered or times out, so
// that room comes.
func (s *Session) AwaitRoom(wait func() bool) {
	if !wait() {
		return
	}
	b := s.env.Budget
	s.env.Metrics.HeldBack(b.Used() > b.Limit())
	const text = "clients are not read for now: requests and answers on their way take as much memory as they may (proxy_max_client_bytes for one, proxy_max_memory_bytes for all)"
	if skipped, log := s.env.Faults.Add(text); log {
		s.env.Log.Warn(text, "client", s.client.RemoteAddr(), "client_bytes", s.client.Held(), "all_bytes", b.Used(), "all_may", b.Limit(), "others_since", skipped)
	}
	client.Await(s.ctx, func() bool { return wait() && !s.draining.Load() })
}

// Watch is called now and then, and closes a client that has begun a request and
// does not go on.
func (s *Session) Watch(now int64) {
	if s.client.Overdue(now) {
		s.env.Log.Warn("client closed: a request that it has begun is not complete", "client", s.client.RemoteAddr(),
			"within", s.env.Config.Listen.FrameTimeout.String(), "setting", "proxy_frame_timeout_ms")
		s.env.Metrics.Rejected(metrics.FrameTime)
		s.client.Close()
	}
}

// Wants reports whether the client has registered for events of a kind.
func (s *Session) Wants(k events.Kinds) bool { return events.Kinds(s.events.Load()).Has(k) }

// Event sends an event with this body.
func (s *Session) Event(b *upstream.Batch, body []byte) { s.client.RespondEvent(b, body) }

// Serve reads requests until the client leaves, breaks the protocol, is drained,
// or Close is called. The end of ctx ends what waits for the clusters; whoever
// ends it calls Close, too. Serve returns when nothing of the session is left.
func (s *Session) Serve(ctx context.Context) {
	s.ctx = ctx
	if s.state != fresh { // another process has had its STARTUP
		s.introduce(s.driver)
	}
	err := s.read()
	if s.state != ready && errors.Is(err, os.ErrDeadlineExceeded) && !s.draining.Load() {
		s.env.Metrics.Rejected(metrics.LoginTime)
	}
	if errors.Is(err, errRefused) || errors.Is(err, errDrained) {
		s.client.Linger()
	}
	s.endWaits()
	s.client.Shut()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.parked.Wait()
	for _, sc := range s.scopes {
		sc.release()
	}
	if s.counted {
		s.env.Drivers.Leave(s.driver)
	}
	s.env.Log.Debug("client left", "client", s.client.RemoteAddr(), "driver", s.driver, "cause", err)
}

// introduce counts the client by its driver, once.
func (s *Session) introduce(d drivers.Driver) {
	if !s.counted {
		s.driver, s.counted = s.env.Drivers.Enter(d), true
	}
}

func (s *Session) read() error {
	if s.state != ready {
		s.client.SetReadDeadline(time.Now().Add(s.env.Config.Listen.LoginTimeout))
	}
	if err := s.handshakeTLS(); err != nil {
		return err
	}
	s.boundBody()
	if s.draining.Load() {
		s.Drain() // it came between
	}
	began := false
	for {
		if s.client.Full() {
			s.endBurst()
			began = false
			s.AwaitRoom(s.client.Full)
		}
		f, err := s.client.Next()
		if err != nil {
			return s.readFailed(err)
		}
		if !began {
			s.batch.Now = upstream.Nanotime()
			began = true
		}
		if err := s.handle(f); err != nil {
			s.endBurst()
			return err
		}
		if !s.client.HasNext() {
			s.endBurst()
			began = false
			if s.draining.Load() {
				return s.drained()
			}
		} else if s.unsent >= flushEvery {
			s.endBurst()
			s.batch.Now = upstream.Nanotime()
		}
	}
}

// handshakeTLS is the first that a session does, under the read deadline of the
// login. What fails is told, but for those who leave without a word: probes of
// the port do.
func (s *Session) handshakeTLS() error {
	err := transport.Handshake(s.client.Socket(), s.env.Config.Listen.LoginTimeout)
	if err == nil || errors.Is(err, io.EOF) || s.draining.Load() || s.ctx.Err() != nil {
		return err
	}
	if skipped, log := s.env.Faults.Add(err.Error()); log {
		s.env.Log.Warn("client refused", "cause", err, "others_since", skipped)
	}
	return err
}

// boundBody sets how large a frame the client may send in its state.
func (s *Session) boundBody() {
	if s.state == ready {
		s.client.SetMaxBody(frame.MaxBody)
		return
	}
	s.client.SetMaxBody(maxLoginBody)
}

// tellStranger logs the first of a kind: probes come every few seconds. It is
// closed without an answer, since none would be understood.
func (s *Session) tellStranger(what string) {
	if _, told := s.env.strangers.LoadOrStore(what, true); !told {
		s.env.Log.Warn("client closed: it sent "+what, "client", s.client.RemoteAddr())
	}
}

// readFailed answers what can be answered of a read error.
func (s *Session) readFailed(err error) error {
	var version *frame.VersionError
	var limit *frame.LimitError
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case s.draining.Load():
		return s.drained()
	case errors.As(err, &version):
		if what := s.client.Stranger(); s.client.Version == 0 && what != "" {
			s.tellStranger(what)
			return err
		}
		if err := s.refuseVersion(version.Got); !errors.Is(err, errRefused) {
			return err
		}
	case errors.As(err, &limit):
		s.client.RespondError(&s.batch, 0, frame.ErrorBody{Code: frame.ErrProtocol, Message: limit.Error()})
	default:
		return err
	}
	s.endBurst()
	return errRefused
}

// later runs work beside the session, in the time of a request, or at once when the
// session is ending: its context has ended by then, so that work does not wait.
func (s *Session) later(work func(context.Context)) {
	s.mu.Lock()
	if s.waits == nil {
		s.waits, s.cancel = context.WithCancel(s.ctx)
		if s.ending {
			s.cancel()
		}
	}
	ctx, cancel := context.WithTimeout(s.waits, s.env.Config.Listen.RequestTimeout)
	if s.ended {
		s.mu.Unlock()
		work(ctx)
		cancel()
		return
	}
	s.parked.Go(func() { work(ctx); cancel() })
	s.mu.Unlock()
}

func (s *Session) endWaits() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	if s.cancel != nil {
		s.cancel()
	}
}

// endBurst sends on what a row of requests has produced: to each node, and to
// the client, with one write each.
func (s *Session) endBurst() {
	if len(s.touched) > 0 {
		nbio.Gather() // other clients' requests to the same nodes
	}
	for i, c := range s.touched {
		c.Flush()
		s.touched[i] = nil
	}
	s.touched = s.touched[:0]
	s.burst = [2]*upstream.Conn{}
	s.unsent = 0
	s.batch.Done()
}

// pick chooses the connection of a side for this burst: the same for all its
// requests, so that they leave in one write, and another for the next burst.
// It returns nil without an error if one may come soon.
func (s *Session) pick(sc *scope, side phase.Side) (*upstream.Conn, error) {
	if s.burstOf != sc {
		s.burst, s.burstOf = [2]*upstream.Conn{}, sc
	}
	if c := s.burst[side]; c != nil && c.Answering() {
		return c, nil
	}
	p := sc.pools[side].Load()
	if p == nil {
		return nil, nil
	}
	c := p.Conn()
	if c == nil {
		return nil, p.Hopeless()
	}
	if c.Busy() {
		return nil, &upstream.LostError{Side: side, Node: c.Node(), Cause: upstream.ErrBusy}
	}
	s.burst[side] = c
	return c, nil
}

// touch marks c for the end of the burst.
func (s *Session) touch(c *upstream.Conn) {
	s.unsent++
	if !slices.Contains(s.touched, c) {
		s.touched = append(s.touched, c)
	}
}

// Drain asks the session to end between two requests: it stops reading, answers
// what it has read, and closes.
func (s *Session) Drain() {
	s.draining.Store(true)
	s.client.SetReadDeadline(time.Now()) // wakes the reader
}

// drained waits until everything that was read is answered and written.
func (s *Session) drained() error {
	s.endBurst()
	for s.inFlight.Load() > 0 {
		select {
		case <-s.idle:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
	if w := s.env.Farewell.Load(); w != nil && s.Wants(events.Status) {
		select {
		case <-w.Quiet:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
		s.Event(&s.batch, w.Body)
		s.batch.Done()
	}
	s.client.Finish()
	return s.move()
}

var errDrained = errors.New("drained")

// done counts a request out.
func (s *Session) done() {
	if s.inFlight.Add(-1) == 0 && s.draining.Load() {
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}
