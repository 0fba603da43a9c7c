package nbio

import (
	"runtime"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/buffer"
)

// Outbox gathers output for one connection and writes it in few, large writes:
// many goroutines append under the lock, and whoever finds no flush running
// writes for all. A flush never blocks its caller; when the socket is full a
// goroutine takes over until the output is gone.
//
// Begin locks and gives the buffer to append to, End stores it and unlocks;
// later comes Flush. The lock is never held across I/O.
type Outbox struct {
	mu  sync.Mutex
	buf []byte // output that no write has taken yet; nil when there is none

	conn    *Conn
	timeout time.Duration
	onError func(error)
	encode  func(dst, output []byte) []byte // nil: output goes out as it is

	taken    int64 // bytes handed to a write so far
	writing  int   // of them, those of the write that runs
	flushing bool
	landed   chan struct{} // closed when flushing ends; nil if nobody waits for that
	failed   error
	blocked  sync.WaitGroup // the goroutine of a full socket
}

// Init sets where output goes, before first use. One write that stays blocked
// for longer than timeout fails. onError is called once, without the lock, with
// the first write error.
func (o *Outbox) Init(c *Conn, timeout time.Duration, onError func(error)) {
	o.conn, o.timeout, o.onError = c, timeout, onError
}

// SetEncode has each write's output encoded before it goes out: what is between
// two calls of End is never cut. It must not be called while output waits.
func (o *Outbox) SetEncode(encode func(dst, output []byte) []byte) {
	o.mu.Lock()
	o.encode = encode
	o.mu.Unlock()
}

// Begin locks the outbox and returns the buffer to append to, which is a lent one:
// what grows, grows by buffer.Grow. Bytes before its end belong to others.
func (o *Outbox) Begin() []byte {
	o.mu.Lock()
	return o.buf
}

// End stores the buffer of Begin with what was appended, and unlocks. After a
// write error the output goes nowhere.
func (o *Outbox) End(buf []byte) {
	if o.failed != nil {
		buf = buf[:0]
	}
	o.buf = buf
	o.mu.Unlock()
}

// Offset is the position in the whole output of the next byte that is appended.
// Call it between Begin, which returned buf, and End.
func (o *Outbox) Offset(buf []byte) int64 { return o.taken + int64(len(buf)) }

// Taken is how many bytes were handed to a write: what was appended at or
// after that offset has not left this process. Call it between Begin and End,
// or after Fail.
func (o *Outbox) Taken() int64 { return o.taken }

// Fail makes the outbox drop its output and take no more, without a call of
// onError.
func (o *Outbox) Fail(err error) {
	o.mu.Lock()
	o.fail(err)
	o.mu.Unlock()
}

func (o *Outbox) fail(err error) (first bool) {
	if o.failed != nil {
		return false
	}
	o.failed = err
	o.buf = o.buf[:0]
	return true
}

// Len is the number of bytes that no write has finished.
func (o *Outbox) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.buf) + o.writing
}

// Gather lets the goroutines that are ready to run go first, so that what they
// append leaves with the write that follows: one write for many clients is what
// makes a request cheap. With nothing ready it returns at once.
func Gather() { runtime.Gosched() }

// Flush writes what was appended, unless somebody is doing so already.
func (o *Outbox) Flush() {
	o.mu.Lock()
	if o.flushing || len(o.buf) == 0 || o.failed != nil {
		o.mu.Unlock()
		return
	}
	o.flushing = true
	for len(o.buf) > 0 && o.failed == nil {
		buf := o.take()
		n, err := o.conn.TryWrite(buf)
		if err == nil && n < len(buf) {
			o.blocked.Go(func() { o.flushBlocking(buf, n) })
			return // flushing stays set: the goroutine has it now
		}
		o.give(buf, err)
	}
	o.land()
	o.mu.Unlock()
}

// land ends a flush. The lock is held.
func (o *Outbox) land() {
	o.flushing = false
	if o.landed != nil {
		close(o.landed)
		o.landed = nil
	}
}

// take claims the output for one write, and unlocks.
func (o *Outbox) take() []byte {
	buf, encode := o.buf, o.encode
	o.buf = nil
	o.taken += int64(len(buf))
	o.writing = len(buf)
	o.mu.Unlock()
	if encode == nil {
		return buf
	}
	// What is around the frames is little; with more, append does the rest.
	out := encode(buffer.Take(len(buf) + len(buf)/8 + 64)[:0], buf)
	buffer.Give(buf)
	return out
}

// give gives the buffer of a finished write back, and locks again.
func (o *Outbox) give(buf []byte, err error) {
	buffer.Give(buf)
	o.mu.Lock()
	o.writing = 0
	if err != nil && o.fail(err) {
		o.mu.Unlock()
		o.onError(err)
		o.mu.Lock()
	}
}

func (o *Outbox) flushBlocking(buf []byte, done int) {
	for {
		_ = o.conn.SetWriteDeadline(time.Now().Add(o.timeout)) // an error shows in the write
		_, err := o.conn.Write(buf[done:])
		// TryWrite minds a deadline too, and comes long after this one.
		_ = o.conn.SetWriteDeadline(time.Time{})
		o.give(buf, err)
		if len(o.buf) == 0 || o.failed != nil {
			o.land()
			o.mu.Unlock()
			return
		}
		buf = o.take()
		done = 0
	}
}

// Wait returns when no goroutine of the outbox is left. Close the connection
// first, or it may take as long as the timeout.
func (o *Outbox) Wait() { o.blocked.Wait() }

// Finish writes everything that was appended, also what another goroutine is
// writing just now, and then takes no more: after it no byte follows from this
// process. A blocked write bounds it by the timeout of Init.
func (o *Outbox) Finish(err error) { o.settle(err) }

// Drain writes everything that was appended, as Finish does, and goes on after
// it.
func (o *Outbox) Drain() { o.settle(nil) }

// settle returns when nothing waits and nobody writes; with an error, nothing
// ever will after it.
func (o *Outbox) settle(end error) {
	for {
		o.Flush()
		o.mu.Lock()
		if o.failed != nil || !o.flushing && len(o.buf) == 0 {
			if end != nil {
				o.fail(end)
			}
			o.mu.Unlock()
			return
		}
		if !o.flushing { // appended since
			o.mu.Unlock()
			continue
		}
		if o.landed == nil {
			o.landed = make(chan struct{})
		}
		landed := o.landed
		o.mu.Unlock()
		<-landed
	}
}
