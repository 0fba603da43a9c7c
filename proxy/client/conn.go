package client

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/buffer"
	"github.com/zdmproject/terraform-provider-zdm/internal/nbio"
	"github.com/zdmproject/terraform-provider-zdm/proxy/paging"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

const (
	// lingerTimeout is how long a client that is closed may take to read its last
	// answers and close its end.
	lingerTimeout = 5 * time.Second
	// keepPlain is the largest buffer for decompressed frames that is kept.
	keepPlain = 16 << 10
)

// Limits bound what a client may take.
type Limits struct {
	WriteTimeout time.Duration // of one write
	FrameTimeout time.Duration // from the first byte of a request to its last
	// MaxBytes bounds what its requests hold, and what it leaves unread.
	MaxBytes int64
	Budget   *Budget
}

// Owner is who serves the connection.
type Owner interface {
	// TooSlow hears that the client was closed because it leaves so many bytes
	// unread: whoever answers must not wait.
	TooSlow(waiting int)
	// AwaitRoom returns when wait no longer says that the client must not be read,
	// or when the owner ends. It runs on the goroutine that reads.
	AwaitRoom(wait func() bool)
}

// Conn is one client's connection.
type Conn struct {
	// Set by Init, then read only.
	nc     *nbio.Conn
	limits Limits
	owner  Owner

	// Version is that of the first frame, 0 before it. Who reads sets it, before
	// anybody else may answer.
	Version frame.Version

	// Owned by the goroutine that reads.
	in          *frame.Reader
	intake      intake // its since is read by others
	maxBody     int
	compression frame.Compression
	segments    *frame.SegmentReader // below in, in v5; nil otherwise
	plain       []byte               // the last frame that was decompressed

	// Shared.
	out     nbio.Outbox
	account account
	queued  atomic.Bool // in somebody's batch, to be flushed at its end
}

// Init makes c the connection over nc, which it owns from then on.
func (c *Conn) Init(nc net.Conn, l Limits, o Owner) {
	c.nc, c.limits, c.owner, c.maxBody = nbio.New(nc), l, o, frame.MaxBody
	c.intake.conn, c.account.budget = c, l.Budget
	c.in = frame.NewReader(watched{c.nc, &c.intake}, frame.MaxBody)
	c.out.Init(c.nc, l.WriteTimeout, func(error) { _ = c.nc.Close() })
}

// Resume has c go on where another process has stopped: with what that one has
// read and not handled, as it came from the socket, and with what was agreed on
// if STARTUP was answered. It is for a connection that has read nothing yet.
func (c *Conn) Resume(unread []byte, v frame.Version, agreed bool, compression frame.Compression) {
	c.Version, c.compression = v, compression
	src := watched{nbio.Before(bytes.Clone(unread), c.nc), &c.intake}
	c.in = frame.NewReader(src, c.maxBody)
	if agreed {
		c.speak(src)
	}
}

// Socket is what Init was given, for a TLS handshake, or to be moved.
func (c *Conn) Socket() net.Conn { return c.nc.Conn }

// RemoteAddr is the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Movable reports whether the socket could go to another process.
func (c *Conn) Movable() bool { return c.nc.Plain() }

// Compression is the one that was agreed on.
func (c *Conn) Compression() frame.Compression { return c.compression }

// SetReadDeadline bounds the reads from now on, also those that wait.
func (c *Conn) SetReadDeadline(t time.Time) {
	_ = c.nc.SetReadDeadline(t) // an error shows in the read
}

// SetMaxBody bounds the body of a request. What the budget has no room for could
// never come in, so it is refused too.
func (c *Conn) SetMaxBody(n int) {
	c.maxBody = int(min(int64(n), c.limits.Budget.limit/2))
	c.in.SetMaxBody(c.maxBody)
}

// Next returns the next request, valid until the following call.
func (c *Conn) Next() (frame.Frame, error) {
	c.intake.forget()
	f, err := c.in.Next()
	if err == nil {
		c.intake.whole()
	}
	return f, err
}

// Hold changes what the client's requests hold, in bytes.
func (c *Conn) Hold(n int64) { c.account.add(n) }

// Held is how much that is.
func (c *Conn) Held() int64 { return c.account.held.Load() }

// Full reports whether the client must not be read for now; see Owner.AwaitRoom.
func (c *Conn) Full() bool { return c.account.full(c.limits.MaxBytes) }

// Overdue reports whether the client has begun a request and not completed it in
// time. It may be called from any goroutine, now and then: it brings the account
// of what is unread up to date too.
func (c *Conn) Overdue(now int64) bool {
	c.recount()
	return c.intake.overdue(now, int64(c.limits.FrameTimeout))
}

// recount brings what is unread up to date, if it was much.
func (c *Conn) recount() {
	if c.account.unread.Load() > 0 {
		c.account.setUnread(int64(c.out.Len()))
	}
}

// HasNext reports whether Next would not have to wait.
func (c *Conn) HasNext() bool { return c.in.HasNext() }

// Decompress returns a compressed request as it would be without, valid until
// the next one.
func (c *Conn) Decompress(f frame.Frame) (frame.Frame, error) {
	if c.Version == frame.V5 {
		// Segments are compressed there and frames are not, whatever this flag says:
		// the Java driver sets it.
		f.SetFlags(f.Flags() &^ frame.FlagCompressed)
		return f, nil
	}
	if c.compression == frame.NoCompression {
		return nil, errors.New("compressed frame, but no compression was agreed on")
	}
	if cap(c.plain) > keepPlain {
		c.plain = nil
	}
	var err error
	c.plain, err = c.compression.AppendDecompressed(c.plain[:0], f)
	return c.plain, err
}

// Agree has both directions go over to what STARTUP agreed on, behind the answer
// to it: segments in v5, compression, or neither. Nodes are spoken to without
// compression whatever the client wants: they are near, and their pools are
// shared by clients that want different ones.
func (c *Conn) Agree(compression frame.Compression) error {
	c.compression = compression
	if c.Version != frame.V5 && compression == frame.NoCompression {
		return nil
	}
	c.out.Drain()
	if c.Version == frame.V5 {
		if len(c.in.Buffered()) > 0 {
			return errors.New("a client sent more before STARTUP was answered")
		}
		c.in.Release()
	}
	c.speak(watched{c.nc, &c.intake})
	return nil
}

// speak sets up both directions for the version and compression.
func (c *Conn) speak(src source) {
	lz4 := c.compression == frame.LZ4
	switch {
	case c.Version == frame.V5:
		c.segments = frame.NewSegmentReader(src, lz4)
		c.in = frame.NewReader(watched{c.segments, &c.intake}, c.maxBody)
		c.out.SetEncode(func(dst, frames []byte) []byte { return frame.AppendSegments(dst, frames, lz4) })
	case c.compression != frame.NoCompression:
		c.out.SetEncode(c.compression.AppendAllCompressed)
	}
}

// Unread is what was read and not handled, as it came from the socket.
func (c *Conn) Unread() []byte {
	if c.segments != nil {
		return c.segments.AppendUnread(nil, c.in.Buffered())
	}
	return c.in.Buffered()
}

// Flush writes what was appended. It does not block.
func (c *Conn) Flush() {
	c.queued.Store(false)
	c.out.Flush()
	c.recount()
}

// Respond appends a frame with the request's stream id. Like the other answers
// it is written when b ends.
func (c *Conn) Respond(b *upstream.Batch, stream int16, f frame.Frame) {
	buf := c.out.Begin()
	at := len(buf)
	buf = append(buffer.Grow(buf, len(f)), f...)
	frame.Frame(buf[at:]).SetStream(stream)
	c.out.End(buf)
	c.appended(b, at)
}

// RespondRows is Respond for an answer that may have a paging state of side.
func (c *Conn) RespondRows(b *upstream.Batch, stream int16, f frame.Frame, side phase.Side) {
	page := paging.Offset(f)
	if page < 0 {
		c.Respond(b, stream, f)
		return
	}
	buf := c.out.Begin()
	at := len(buf)
	buf = paging.AppendTagged(buffer.Grow(buf, len(f)+paging.TagLen), f, page, side)
	frame.Frame(buf[at:]).SetStream(stream)
	c.out.End(buf)
	c.appended(b, at)
}

// RespondError appends an error of the proxy's own.
func (c *Conn) RespondError(b *upstream.Batch, stream int16, e frame.ErrorBody) {
	v := c.Version
	if v == 0 {
		v = frame.V4
	}
	buf := c.out.Begin()
	at := len(buf)
	c.out.End(frame.AppendError(buf, v, stream, e))
	c.appended(b, at)
}

// RespondEvent appends a SCHEMA_CHANGE with this body, unless the client's version
// has none of that kind.
func (c *Conn) RespondEvent(b *upstream.Batch, body []byte) {
	if c.Version == frame.V3 && newInV4(body) {
		return
	}
	f := frame.AppendHeader(nil, c.Version, true, 0, -1, frame.OpEvent, 0)
	f = append(f, body...)
	frame.PutLength(f)
	c.Respond(b, -1, f)
}

// newInV4 tells the schema events that v3 clients do not know: the control
// connection may speak a later version than they do.
func newInV4(body []byte) bool {
	e, _ := frame.ParseSchemaChange(body)
	return string(e.Target) == "FUNCTION" || string(e.Target) == "AGGREGATE"
}

func (c *Conn) appended(b *upstream.Batch, before int) {
	if before > budgetSlack {
		c.account.setUnread(int64(before))
	}
	if int64(before) > c.limits.MaxBytes {
		c.owner.TooSlow(before)
		c.out.Fail(errSlow)
		_ = c.nc.Close()
		return
	}
	if c.queued.CompareAndSwap(false, true) {
		b.Add(c)
	}
}

var errSlow = errors.New("too many bytes wait for the client")

// Waiting is how many bytes wait to be written.
func (c *Conn) Waiting() int { return c.out.Len() }

// Finish writes what was appended, and takes no more. It blocks.
func (c *Conn) Finish() { c.out.Finish(net.ErrClosed) }

// Linger lets the client read its last answers: closing with unread input would
// reset the connection, and lose what the client has not read yet.
func (c *Conn) Linger() {
	c.Finish()
	if half, ok := c.nc.Conn.(interface{ CloseWrite() error }); ok { // TCP and TLS
		_ = half.CloseWrite() // best effort
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerTimeout))
	_, _ = io.Copy(io.Discard, c.nc)
}

// Close closes the connection at once. It may be called from any goroutine, and
// more than once.
func (c *Conn) Close() { _ = c.nc.Close() }

// Shut closes the connection and gives its buffers back. It is for the goroutine
// that reads.
func (c *Conn) Shut() {
	c.out.Fail(net.ErrClosed)
	_ = c.nc.Close() // the client is gone, or is to go
	c.out.Wait()
	c.in.Release()
	if c.segments != nil {
		c.segments.Release()
	}
	c.intake.forget()
	c.account.end()
}
