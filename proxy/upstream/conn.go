package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/buffer"
	"github.com/zdmproject/terraform-provider-zdm/internal/nbio"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Receiver gets the outcome of one request: exactly one of its methods is
// called, exactly once, from a goroutine of this package that must not block.
type Receiver interface {
	// Answer hands over the node's frame, valid until Answer returns. Its
	// stream id is the connection's, not the one that the receiver knows.
	Answer(b *Batch, c *Conn, f frame.Frame)
	// Lost says that there will be no answer. Sent(err) tells whether a byte of
	// the request may have reached the node.
	Lost(b *Batch, err error)
}

// Flusher is told at the end of a batch to write what was appended to it.
type Flusher interface{ Flush() }

// Batch is the outcomes that one goroutine delivers in a row. Receivers append
// to their clients, and add each client once; it is flushed when the row ends,
// with one write for many answers.
type Batch struct {
	// Now is the time of the row, in nanoseconds of Nanotime: good for
	// latencies, and read once for many answers.
	Now   int64
	dirty []Flusher
}

// Add marks f for the end of the batch. The caller sees to it that f is added
// once.
func (b *Batch) Add(f Flusher) { b.dirty = append(b.dirty, f) }

// Done flushes what was added.
func (b *Batch) Done() {
	for i, f := range b.dirty {
		f.Flush()
		b.dirty[i] = nil
	}
	b.dirty = b.dirty[:0]
}

var started = time.Now()

// Nanotime is monotonic time in nanoseconds since the process started.
func Nanotime() int64 { return int64(time.Since(started)) }

// Errors of requests.
var (
	// ErrTimeout: the node did not answer in time. It may still do so.
	ErrTimeout = errors.New("no answer in time")
	// ErrNoConnection: no node of the side can be reached now.
	ErrNoConnection = errors.New("no connection")
	// ErrBusy: every stream id of the connection is taken, or its output is full.
	ErrBusy = errors.New("too many requests in flight")
	// ErrTooManyPools: all pools that there may be are in use.
	ErrTooManyPools = errors.New("too many pools of connections in use")
)

// LostError is why a request has no answer.
type LostError struct {
	Side  phase.Side
	Node  string // "" if none was chosen
	Sent  bool
	Cause error
}

func (e *LostError) Error() string {
	if e.Node == "" {
		return fmt.Sprintf("%s: %v", e.Side, e.Cause)
	}
	return fmt.Sprintf("%s node %s: %v", e.Side, e.Node, e.Cause)
}

func (e *LostError) Unwrap() error { return e.Cause }

// Sent answers the one question that decides retries: might a byte of the
// request have reached a node? What is not a *LostError might have.
func Sent(err error) bool {
	var lost *LostError
	return !errors.As(err, &lost) || lost.Sent
}

// health says whether requests should go to a connection; less is better.
type health uint32

const (
	answering health = iota
	// quiet: a request waits for an answer for longer than quietAfter, and nothing
	// else came either. The node may be frozen or cut off.
	quiet
	closed
)

// quietAfter is long for a node that answers anything at all, a pause of its
// garbage collector apart, and short against any time-out.
const quietAfter = 200 * time.Millisecond

// Limits of one connection.
const (
	maxStreams = 1 << 15 // stream ids are 16 bits, of which the sign is the server's
	// maxOutput bounds what waits for a node that does not read: past it,
	// requests are refused with ErrBusy, which sends nothing.
	maxOutput = 32 << 20
)

// slot is a request in flight. The zero value is a free one.
type slot struct {
	r    Receiver // nil: free, or given up and waiting for its late answer
	at   int64    // Nanotime when it was sent
	from int64    // where its frame begins in the output
	late bool     // given up: the id stays taken until the node answers
}

// Conn is one multiplexed connection to a node. Many clients share it. All
// methods may be called from any goroutine.
type Conn struct {
	// Set before serve, then read only.
	side     phase.Side
	node     string
	nc       *nbio.Conn
	keyspace string
	version  frame.Version
	timeout  int64 // nanoseconds
	meter    any
	line     *line // whose it is

	out nbio.Outbox

	// Guarded by the outbox's lock: held between Begin and End. Lock order: a
	// connection's outbox before nothing; receivers are called without it.
	slots []slot
	free  []int16 // ids below len(slots) that are free
	late  int     // slots that wait for a late answer
	err   error   // why it is closed

	inFlight  atomic.Int32
	health    atomic.Uint32 // of type health
	lastRead  atomic.Int64  // Nanotime
	gaveUp    atomic.Bool   // a request has timed out
	asked     atomic.Bool   // a heartbeat is in flight
	closeOnce sync.Once
}

// ConnOptions are what newConn needs besides the socket.
type ConnOptions struct {
	Side     phase.Side
	Node     string
	Keyspace string
	Version  frame.Version
	Timeout  time.Duration
	// Meter is what Meter returns; the pool's owner keeps its per-node figures there.
	Meter any
	// Line is whose connection it is, for its pool.
	Line *line
}

func newConn(nc net.Conn, o ConnOptions) *Conn {
	c := &Conn{
		side: o.Side, node: o.Node, nc: nbio.New(nc), keyspace: o.Keyspace, version: o.Version,
		timeout: int64(o.Timeout), meter: o.Meter, line: o.Line,
	}
	c.out.Init(c.nc, o.Timeout, c.close)
	if o.Version == frame.V5 {
		c.out.SetEncode(appendSegments)
	}
	c.lastRead.Store(Nanotime())
	return c
}

// Keyspace is the one that USE set on the connection; "" for none.
func (c *Conn) Keyspace() string { return c.keyspace }

// Meter is the owner's record for the node, from Options.Meter.
func (c *Conn) Meter() any { return c.meter }

// Node is the address of the node.
func (c *Conn) Node() string { return c.node }

// Busy reports whether every stream id is taken, so that Send would refuse.
func (c *Conn) Busy() bool { return c.InFlight() >= maxStreams }

// Usable reports whether the connection is still open. It may break the moment
// after.
func (c *Conn) Usable() bool { return c.state() != closed }

// Answering reports whether the connection is open and its node answers, as far
// as is known. Requests should go to one that does.
func (c *Conn) Answering() bool { return c.state() == answering }

func (c *Conn) state() health { return health(c.health.Load()) }

// better reports whether a request should rather go to c than to o.
func (c *Conn) better(o *Conn) bool {
	if s, t := c.state(), o.state(); s != t {
		return s < t
	}
	return c.InFlight() < o.InFlight()
}

// InFlight is the number of requests that wait for an answer.
func (c *Conn) InFlight() int { return int(c.inFlight.Load()) }

// held is what requests hold of the connection: stream ids, with those that wait
// for a late answer, and bytes of output that no write has taken yet.
func (c *Conn) held() (ids, bytes int) {
	buf := c.out.Begin()
	ids, bytes = len(c.slots)-len(c.free), len(buf)
	c.out.End(buf)
	return ids, bytes
}

// Patch is what changes in the copy of a frame that goes to a node, besides its
// stream id.
type Patch struct {
	// ID replaces bytes at IDOffset of the frame if it is not nil; the length is
	// the same.
	ID       []byte
	IDOffset int
	// ResultID does the same with the id of the result metadata.
	ResultID       []byte
	ResultIDOffset int
	// ClearFlags are cleared in the byte at FlagsOffset; 0 for none.
	ClearFlags  byte
	FlagsOffset int
}

// Send appends a copy of f, and registers r for its outcome. It returns the
// error, and r hears nothing, if the request was not appended; Sent is false
// for it. The caller flushes. f is only read, and not kept.
func (c *Conn) Send(r Receiver, f frame.Frame, p Patch, now int64) error {
	buf := c.out.Begin()
	if c.err != nil {
		err := c.err
		c.out.End(buf)
		return &LostError{Side: c.side, Node: c.node, Cause: err}
	}
	var id int16
	switch {
	case len(buf)+len(f) > maxOutput && len(buf) > 0:
		c.out.End(buf)
		return &LostError{Side: c.side, Node: c.node, Cause: ErrBusy}
	case len(c.free) > 0:
		id = c.free[len(c.free)-1]
		c.free = c.free[:len(c.free)-1]
	case len(c.slots) < maxStreams:
		id = int16(len(c.slots))
		c.slots = append(c.slots, slot{})
	default:
		c.out.End(buf)
		return &LostError{Side: c.side, Node: c.node, Cause: ErrBusy}
	}
	start := len(buf)
	c.slots[id] = slot{r: r, at: now, from: c.out.Offset(buf)}
	buf = append(buffer.Grow(buf, len(f)), f...)
	sent := frame.Frame(buf[start:])
	sent.SetStream(id)
	if p.ID != nil {
		copy(sent[p.IDOffset:], p.ID)
	}
	if p.ResultID != nil {
		copy(sent[p.ResultIDOffset:], p.ResultID)
	}
	if p.ClearFlags != 0 {
		sent[p.FlagsOffset] &^= p.ClearFlags
	}
	c.out.End(buf)
	c.inFlight.Add(1)
	return nil
}

// Flush writes what was appended by anyone. It does not block.
func (c *Conn) Flush() { c.out.Flush() }

// serve reads answers until the connection ends. Then it calls ended, so that
// nobody is given the connection any more, and delivers every outcome that is
// left before it returns.
func (c *Conn) serve(ctx context.Context, ended func()) error {
	stop := context.AfterFunc(ctx, func() { c.close(context.Cause(ctx)) })
	defer stop()
	rd := frame.NewReader(c.source(), frame.MaxBody)
	defer rd.Release()
	b := &Batch{}
	fresh := true
	for {
		f, err := rd.Next()
		if err != nil {
			c.close(fmt.Errorf("connection lost: %w", err))
			break
		}
		if fresh {
			b.Now = Nanotime()
			c.lastRead.Store(b.Now)
			if c.state() == quiet {
				c.health.CompareAndSwap(uint32(quiet), uint32(answering))
			}
			fresh = false
		}
		if r := c.release(f.Stream()); r != nil {
			r.Answer(b, c, f)
		}
		if !rd.HasNext() {
			nbio.Gather() // the other side's answers to the same clients
			b.Done()
			fresh = true
		}
	}
	ended()
	c.loseAll(b)
	b.Done()
	c.out.Wait()
	return c.err
}

// source is where frames come from: in v5 they are in segments.
func (c *Conn) source() frame.Source {
	if c.version == frame.V5 {
		return frame.NewSegmentReader(c.nc, false)
	}
	return c.nc
}

func appendSegments(dst, frames []byte) []byte { return frame.AppendSegments(dst, frames, false) }

// release frees a stream id and returns who waits for it; nil for a late
// answer, and for an id that was never given out.
func (c *Conn) release(id int16) Receiver {
	buf := c.out.Begin()
	if id < 0 || int(id) >= len(c.slots) || c.slots[id] == (slot{}) {
		c.out.End(buf)
		return nil
	}
	s := c.slots[id]
	c.slots[id] = slot{}
	c.free = append(c.free, id)
	if s.late {
		c.late--
	}
	c.out.End(buf)
	if !s.late {
		c.inFlight.Add(-1)
	}
	return s.r
}

// close ends the connection once; serve then delivers the outcomes.
func (c *Conn) close(cause error) {
	c.closeOnce.Do(func() {
		buf := c.out.Begin()
		c.err = cause
		c.out.End(buf)
		c.health.Store(uint32(closed))
		_ = c.nc.Close() // nothing to save
	})
}

// loseAll tells every receiver that is left. The connection is closed, so that
// no new one comes.
func (c *Conn) loseAll(b *Batch) {
	b.Now = Nanotime()
	buf := c.out.Begin()
	slots, taken, err := c.slots, c.out.Taken(), c.err
	c.slots, c.free = nil, nil
	c.out.End(buf)
	c.out.Fail(err)
	for _, s := range slots {
		if s == (slot{}) {
			continue
		}
		if s.r != nil {
			c.inFlight.Add(-1)
			s.r.Lost(b, &LostError{Side: c.side, Node: c.node, Sent: s.from < taken, Cause: err})
		}
	}
}

// expire gives up what was sent before now-timeout, and returns when the oldest
// request was sent that still waits, or b.Now without any. A given-up id is not
// used again before its late answer; a connection on which half of the ids wait so
// is of no more use and is closed.
func (c *Conn) expire(b *Batch) (oldest int64) {
	overdue, oldest := b.Now-c.timeout, b.Now
	var lost []Receiver
	buf := c.out.Begin()
	for i := range c.slots {
		s := &c.slots[i]
		switch {
		case s.r == nil:
		case s.at < overdue:
			lost = append(lost, s.r)
			s.r, s.late = nil, true
			c.late++
		default:
			oldest = min(oldest, s.at)
		}
	}
	late := c.late
	c.out.End(buf)
	if len(lost) > 0 {
		c.gaveUp.Store(true)
	}
	for _, r := range lost {
		c.inFlight.Add(-1)
		r.Lost(b, &LostError{Side: c.side, Node: c.node, Sent: true, Cause: ErrTimeout})
	}
	if late > maxStreams/2 {
		c.close(fmt.Errorf("connection given up: %d requests were never answered", late))
	}
	return oldest
}

// judge marks a connection quiet, and reports whether it did so now. oldest is
// when the oldest request was sent that waits.
func (c *Conn) judge(now, oldest int64) bool {
	const long = int64(quietAfter)
	return now-oldest > long && now-c.lastRead.Load() > long && c.health.CompareAndSwap(uint32(answering), uint32(quiet))
}

// heartbeat asks a connection that has been silent for a sign of life: an idle
// one after the heartbeat interval, one with requests in flight after the
// time-out of the first. A node that does not give one within the request
// time-out is not there any more, and would let every request time out for as
// long as the kernel keeps trying.
func (c *Conn) heartbeat(now int64, every time.Duration) {
	silent := now - c.lastRead.Load()
	if c.gaveUp.Load() && silent > c.timeout || every > 0 && silent >= int64(every) && c.InFlight() == 0 {
		c.ask(now)
	}
}

// ask sends a heartbeat, unless one is in flight.
func (c *Conn) ask(now int64) {
	if !c.asked.CompareAndSwap(false, true) {
		return
	}
	options := frame.Frame(frame.AppendHeader(nil, c.version, false, 0, 0, frame.OpOptions, 0))
	if c.Send(&pulse{c}, options, Patch{}, now) != nil {
		c.asked.Store(false) // it is closed, or full: then what is in flight will tell
		return
	}
	c.Flush()
}

// pulse is the receiver of a heartbeat.
type pulse struct{ c *Conn }

func (p *pulse) Answer(*Batch, *Conn, frame.Frame) { p.c.asked.Store(false) }

func (p *pulse) Lost(_ *Batch, err error) {
	p.c.close(fmt.Errorf("heartbeat: %w", err))
}
