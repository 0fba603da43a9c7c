// Package nbio adds to a plain TCP connection the two things that the request
// path needs and net.Conn lacks: a read that holds no buffer while it waits,
// and a write that never blocks.
//
// Floor 0: a leaf. It knows nothing of frames. It starts at most one goroutine
// for each Outbox, and only while that Outbox has output which the socket
// does not take.
package nbio

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// Conn wraps a connection. ReadLazily may be called by one goroutine at a time,
// TryWrite by one at a time; both beside each other. On anything but plain TCP
// (TLS for one) both fall back: ReadLazily takes its buffer first, and TryWrite
// writes nothing, so that the caller goes on in a goroutine that may block.
type Conn struct {
	net.Conn
	raw syscall.RawConn // nil: not plain TCP

	// Owned by the reader. The closures are made once: one for each call would
	// be an allocation for each read.
	readFn  func(fd uintptr) bool
	readBuf func() []byte
	readRel func()
	readN   int
	readErr error

	// Owned by the writer.
	writeFn  func(fd uintptr) bool
	writeBuf []byte
	writeN   int
	writeErr error
}

// New wraps c, which it then owns.
func New(c net.Conn) *Conn {
	w := &Conn{Conn: c}
	if tcp, ok := c.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			w.raw = raw
			w.readFn, w.writeFn = w.readOnce, w.writeOnce
		}
	}
	return w
}

// Plain reports whether c is plain TCP, so that TryWrite writes.
func (c *Conn) Plain() bool { return c.raw != nil }

// ReadLazily reads once. It calls buf for memory for each attempt, and release
// when there was nothing to read and it is going to wait: so that no memory is
// held meanwhile. A deadline and Close end the wait as they end Read. At the
// end of the stream it returns io.EOF.
func (c *Conn) ReadLazily(buf func() []byte, release func()) (int, error) {
	if c.raw == nil {
		return c.Read(buf())
	}
	c.readBuf, c.readRel, c.readN, c.readErr = buf, release, 0, nil
	if err := c.raw.Read(c.readFn); err != nil {
		return 0, err
	}
	if c.readErr != nil {
		return 0, c.readErr
	}
	if c.readN == 0 {
		return 0, io.EOF
	}
	return c.readN, nil
}

func (c *Conn) readOnce(fd uintptr) bool {
	var n int
	var err error
	p := c.readBuf()
	for {
		n, err = rawRead(int(fd), p)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == syscall.EAGAIN {
		c.readRel()
		return false
	}
	c.readN, c.readErr = max(n, 0), err
	return true
}

// TryWrite writes as much of p as the socket takes now. n < len(p) with a nil
// error means that the socket is full.
func (c *Conn) TryWrite(p []byte) (int, error) {
	if c.raw == nil {
		return 0, nil
	}
	c.writeBuf, c.writeN, c.writeErr = p, 0, nil
	err := c.raw.Write(c.writeFn)
	c.writeBuf = nil
	if err == nil {
		err = c.writeErr
	}
	return c.writeN, err
}

func (c *Conn) writeOnce(fd uintptr) bool {
	for c.writeN < len(c.writeBuf) {
		n, err := rawWrite(int(fd), c.writeBuf[c.writeN:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return true
		case err != nil:
			c.writeErr = err
			return true
		}
		c.writeN += n
	}
	return true
}
