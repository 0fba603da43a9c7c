package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/nbio"
	"github.com/zdmproject/terraform-provider-zdm/proxy/metrics"
	"github.com/zdmproject/terraform-provider-zdm/proxy/paging"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

const (
	// maxClientOutput is how many bytes may wait for a client that does not
	// read. Past it the client is closed: an upstream reader must not wait.
	maxClientOutput = 32 << 20
	// handshakeTimeout bounds the time from the first byte to READY.
	handshakeTimeout = 30 * time.Second
	// lingerTimeout is how long a client that is closed may take to read its last
	// answers and close its end.
	lingerTimeout = 5 * time.Second
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
	nc  *nbio.Conn
	// ctx ends with the session.
	ctx context.Context

	// Owned by the serve goroutine.
	in          *frame.Reader
	batch       upstream.Batch // outcomes of this goroutine's own making
	state       sessionState
	version     frame.Version // of the first frame; read by others after login only
	driver      string
	compression frame.Compression
	segments    *frame.SegmentReader // below in, in v5; nil otherwise
	plain       []byte               // the last frame that was decompressed
	burst       [2]*upstream.Conn    // where this burst of requests goes, by side
	burstOf     *scope
	touched     []*upstream.Conn // to be flushed when the burst ends
	unsent      int              // requests since the last flush
	scopes      []*scope         // every keyspace the client has used
	keys        [2]upstream.Key  // without keyspace; set by login

	// Shared.
	scope    atomic.Pointer[scope] // the current keyspace
	out      nbio.Outbox
	queued   atomic.Bool // in somebody's batch, to be flushed at its end
	inFlight atomic.Int32
	events   atomic.Bool // registered for schema events
	draining atomic.Bool
	idle     chan struct{} // gets a token when the last request of a draining session ends

	// Guarded by mu, which is never held across I/O.
	mu     sync.Mutex
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

// scope is the session's pools for one keyspace.
type scope struct {
	s        *Session
	keyspace string
	pools    [2]atomic.Pointer[upstream.Pool] // set once, under mu

	mu       sync.Mutex // never held across I/O
	released bool
}

func (s *Session) newScope(keyspace string) *scope { return &scope{s: s, keyspace: keyspace} }

// scopeFor returns the session's scope of a keyspace. Serve goroutine only.
func (s *Session) scopeFor(keyspace string) *scope {
	for _, sc := range s.scopes {
		if sc.keyspace == keyspace {
			return sc
		}
	}
	sc := s.newScope(keyspace)
	s.scopes = append(s.scopes, sc)
	return sc
}

// open makes sure that the scope has its pool of a side. With fresh the login
// is checked anew.
func (sc *scope) open(ctx context.Context, side phase.Side, fresh bool) (*upstream.Pool, error) {
	if p := sc.pools[side].Load(); p != nil && !fresh {
		return p, nil
	}
	key := sc.s.keys[side]
	key.Keyspace = sc.keyspace
	p, err := sc.s.env.Clusters[side].Acquire(ctx, key, fresh)
	if err != nil {
		return nil, err
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	mine := sc.pools[side].Load()
	switch {
	case mine != nil:
		p.Release()
		return mine, nil
	case sc.released: // the session has ended meanwhile; nobody would release it
		p.Release()
		return nil, net.ErrClosed
	}
	sc.pools[side].Store(p)
	return p, nil
}

// connect waits for a connection of a side.
func (sc *scope) connect(ctx context.Context, side phase.Side) (*upstream.Conn, error) {
	return sc.connectTo(ctx, side, "")
}

// connectTo is connect to one node; "" for any.
func (sc *scope) connectTo(ctx context.Context, side phase.Side, node string) (*upstream.Conn, error) {
	p, err := sc.open(ctx, side, false)
	if err != nil {
		var lost *upstream.LostError
		if !errors.As(err, &lost) {
			err = &upstream.LostError{Side: side, Cause: err}
		}
		return nil, err
	}
	return p.Wait(ctx, node)
}

// gone reports whether the session has given its pools back.
func (sc *scope) gone() bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.released
}

func (sc *scope) release() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.released = true
	for _, side := range phase.Sides {
		if p := sc.pools[side].Load(); p != nil {
			p.Release()
		}
	}
}

// New makes the session of a client that has just connected. Serve owns nc.
func New(e *Env, nc net.Conn) *Session {
	s := newSession(e, nc)
	s.in = frame.NewReader(s.nc, frame.MaxBody)
	return s
}

func newSession(e *Env, nc net.Conn) *Session {
	s := &Session{env: e, nc: nbio.New(nc), idle: make(chan struct{}, 1)}
	s.out.Init(s.nc, e.Config.Listen.RequestTimeout, func(error) { _ = s.nc.Close() })
	return s
}

// Movable reports whether the client's socket could go to another process.
func (s *Session) Movable() bool { return s.nc.Plain() }

// WaitingBytes is how much output the client has not been sent yet.
func (s *Session) WaitingBytes() int { return s.out.Len() }

// Close ends the session at once. Serve returns soon.
func (s *Session) Close() { _ = s.nc.Close() }

// Warm opens what the session will need of a side, so that its first request
// there finds it. A session that is not logged in yet, or has ended, needs
// nothing.
func (s *Session) Warm(ctx context.Context, side phase.Side) error {
	sc := s.scope.Load()
	if sc == nil || sc.pools[side].Load() != nil {
		return nil
	}
	if _, err := sc.connect(ctx, side); err != nil && !sc.gone() {
		return fmt.Errorf("the connections of client %s (keyspace %q): %w", s.nc.RemoteAddr(), sc.keyspace, err)
	}
	return nil
}

// Event passes the body of a SCHEMA_CHANGE on, if the client asked for it.
func (s *Session) Event(b *upstream.Batch, body []byte) {
	if !s.events.Load() || s.version == frame.V3 && newInV4(body) {
		return
	}
	f := frame.AppendHeader(nil, s.version, true, 0, -1, frame.OpEvent, 0)
	f = append(f, body...)
	frame.PutLength(f)
	s.respond(b, -1, f)
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

// Serve reads requests until the client leaves, breaks the protocol, or is
// drained. It returns when nothing of the session is left.
func (s *Session) Serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	s.ctx = ctx
	stop := context.AfterFunc(ctx, func() { _ = s.nc.Close() })
	err := s.read()
	if errors.Is(err, errRefused) || errors.Is(err, errDrained) {
		s.linger()
	}
	cancel()
	stop()
	s.out.Fail(net.ErrClosed)
	_ = s.nc.Close() // the client is gone, or is to go
	s.out.Wait()
	s.in.Release()
	if s.segments != nil {
		s.segments.Release()
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.parked.Wait()
	for _, sc := range s.scopes {
		sc.release()
	}
	s.env.Log.Debug("client left", "client", s.nc.RemoteAddr(), "driver", s.driver, "cause", err)
}

func (s *Session) read() error {
	if s.state != ready {
		_ = s.nc.SetReadDeadline(time.Now().Add(handshakeTimeout)) // an error shows in the read
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
		f, err := s.in.Next()
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
		if !s.in.HasNext() {
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

// boundBody sets how large a frame the client may send in its state.
func (s *Session) boundBody() {
	if s.state == ready {
		s.in.SetMaxBody(frame.MaxBody)
		return
	}
	s.in.SetMaxBody(maxLoginBody)
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
		s.refuseVersion(version.Got)
	case errors.As(err, &limit):
		s.respondError(&s.batch, 0, frame.ErrorBody{Code: frame.ErrProtocol, Message: limit.Error()})
	default:
		return err
	}
	s.endBurst()
	return errRefused
}

// later runs work beside the session, or at once when the session is ending: its
// context has ended by then, so that work does not wait.
func (s *Session) later(work func()) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		work()
		return
	}
	s.parked.Go(work)
	s.mu.Unlock()
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
	if c := s.burst[side]; c != nil && c.Usable() {
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
	for _, t := range s.touched {
		if t == c {
			return
		}
	}
	s.touched = append(s.touched, c)
}

// Flush writes what was appended for the client. It does not block.
func (s *Session) Flush() {
	s.queued.Store(false)
	s.out.Flush()
}

func (s *Session) mark(b *upstream.Batch) {
	if s.queued.CompareAndSwap(false, true) {
		b.Add(s)
	}
}

// respond appends a frame with the client's stream id.
func (s *Session) respond(b *upstream.Batch, stream int16, f frame.Frame) {
	buf := s.out.Begin()
	at := len(buf)
	buf = append(buf, f...)
	frame.Frame(buf[at:]).SetStream(stream)
	s.out.End(buf)
	s.appended(b, at)
}

// respondRows is respond for an answer that may have a paging state of side.
func (s *Session) respondRows(b *upstream.Batch, stream int16, f frame.Frame, side phase.Side) {
	page := paging.Offset(f)
	if page < 0 {
		s.respond(b, stream, f)
		return
	}
	buf := s.out.Begin()
	at := len(buf)
	buf = paging.AppendTagged(buf, f, page, side)
	frame.Frame(buf[at:]).SetStream(stream)
	s.out.End(buf)
	s.appended(b, at)
}

// respondError appends an error of the proxy's own.
func (s *Session) respondError(b *upstream.Batch, stream int16, e frame.ErrorBody) {
	buf := s.out.Begin()
	at := len(buf)
	s.out.End(frame.AppendError(buf, s.answerVersion(), stream, e))
	s.appended(b, at)
}

func (s *Session) appended(b *upstream.Batch, before int) {
	if before > maxClientOutput {
		s.env.Log.Warn("client does not read its answers; closed", "client", s.nc.RemoteAddr(), "waiting_bytes", before)
		s.env.Metrics.Rejected(metrics.ClientOutput)
		s.out.Fail(errSlowClient)
		_ = s.nc.Close()
		return
	}
	s.mark(b)
}

var errSlowClient = fmt.Errorf("more than %d bytes wait for the client", maxClientOutput)

// answerVersion is the version of the proxy's own frames.
func (s *Session) answerVersion() frame.Version {
	if s.version == 0 {
		return frame.V4
	}
	return s.version
}

// Drain asks the session to end between two requests: it stops reading, answers
// what it has read, and closes.
func (s *Session) Drain() {
	s.draining.Store(true)
	_ = s.nc.SetReadDeadline(time.Now()) // wakes the reader
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
	s.out.Finish(net.ErrClosed)
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

// linger lets a client read its last answers: closing with unread input would
// reset the connection, and lose what the client has not read yet.
func (s *Session) linger() {
	s.out.Finish(net.ErrClosed)
	if c, ok := s.nc.Conn.(interface{ CloseWrite() error }); ok { // TCP and TLS
		_ = c.CloseWrite() // best effort
	}
	_ = s.nc.SetReadDeadline(time.Now().Add(lingerTimeout))
	_, _ = io.Copy(io.Discard, s.nc)
}
