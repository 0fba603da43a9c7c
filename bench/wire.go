package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"golang.org/x/sys/unix"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// speech is how clients speak to the process under test.
type speech struct {
	version     frame.Version
	compression frame.Compression
	tls         bool
}

// again is what a read of a socket says that has nothing now. crypto/tls goes on
// after an error that is temporary.
type again struct{}

func (again) Error() string   { return "nothing to read yet" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

var errAgain net.Error = again{}

// descriptor reads a socket: in a handshake it waits, for 20 seconds at most;
// once the socket does not block it says errAgain.
type descriptor int

func (d descriptor) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(d), b)
		switch {
		case err == unix.EINTR: // a read with a time limit is not restarted by the kernel
		case err == unix.EAGAIN:
			return 0, errAgain
		case err != nil:
			return 0, err
		case n == 0:
			return 0, unix.ECONNRESET
		default:
			return n, nil
		}
	}
}

// tlsWire is what a TLS connection of the load stands on.
type tlsWire struct {
	net.Conn // nil: deadlines and addresses are not asked for
	descriptor
	gather bool // writes go to out, for the loop to write
	out    []byte
}

func (w *tlsWire) Read(b []byte) (int, error) { return w.descriptor.Read(b) }

func (w *tlsWire) Write(b []byte) (int, error) {
	if w.gather {
		w.out = append(w.out, b...)
		return len(b), nil
	}
	return unix.Write(int(w.descriptor), b)
}

// caller is a client's connection during its handshake, where it may block.
type caller struct {
	speech
	fd     int
	source io.Reader                            // what carries frames or segments
	wire   *tlsWire                             // nil: plain TCP
	frames *frame.Reader                        // of source
	pack   func(dst, frames []byte) []byte      // into what goes to the socket; nil: as they are
	write  func(frames []byte) (n int, _ error) // below pack
}

// dialClient opens a connection that has logged in.
func dialClient(at netip.AddrPort, sp speech) (*caller, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	c := &caller{speech: sp, fd: fd, source: descriptor(fd)}
	c.write = func(b []byte) (int, error) { return unix.Write(fd, b) }
	limit := unix.NsecToTimeval((20 * time.Second).Nanoseconds())
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
		c.close()
		return nil, fmt.Errorf("connect to %s: %w", at, err)
	}
	if err := c.login(); err != nil {
		c.close()
		return nil, fmt.Errorf("log in to %s: %w", at, err)
	}
	return c, nil
}

func (c *caller) close() { unix.Close(c.fd) }

func (c *caller) login() error {
	if c.tls {
		c.wire = &tlsWire{descriptor: descriptor(c.fd)}
		// The certificate was made for this run by the harness itself.
		secure := tls.Client(c.wire, &tls.Config{InsecureSkipVerify: true})
		if err := secure.Handshake(); err != nil {
			return err
		}
		c.source, c.write = secure, secure.Write
		c.pack = func(dst, frames []byte) []byte {
			c.wire.out = dst
			_, _ = secure.Write(frames) // into memory
			return c.wire.out
		}
	}
	c.frames = frame.NewReader(c.source, frame.MaxBody)
	var options []string
	if c.compression != frame.NoCompression {
		options = []string{"COMPRESSION", c.compression.String()}
	}
	answer, err := c.ask(message.NewStartup(options...))
	if err == nil && c.version == frame.V5 {
		lz4 := c.compression == frame.LZ4
		c.frames.Release()
		c.source = frame.NewSegmentReader(c.source, lz4)
		c.frames = frame.NewReader(c.source, frame.MaxBody)
		c.pack = func(dst, frames []byte) []byte { return frame.AppendSegments(dst, frames, lz4) }
	}
	if _, ok := answer.(*message.Authenticate); ok {
		answer, err = c.ask(&message.AuthResponse{Token: []byte("\x00bench\x00bench")})
	}
	if refusal, ok := answer.(message.Error); ok {
		return errors.New(refusal.GetErrorMessage())
	}
	return err
}

func (c *caller) ask(m message.Message) (message.Message, error) {
	out := encode(m, c.version)
	if c.pack != nil && c.wire == nil {
		out = c.pack(nil, out)
	}
	if _, err := c.write(out); err != nil {
		return nil, err
	}
	f, err := c.frames.Next()
	if err != nil {
		return nil, err
	}
	if f.Flags()&frame.FlagCompressed != 0 {
		if f, err = c.compression.AppendDecompressed(nil, f); err != nil {
			return nil, err
		}
	}
	answer, err := codec.DecodeFrame(bytes.NewReader(f))
	if err != nil {
		return nil, err
	}
	return answer.Body.Message, nil
}

// request is m as it goes out again and again. In v4 each frame is compressed by
// itself, so that this is done once.
func (c *caller) request(m message.Message) []byte {
	f := encode(m, c.version)
	if c.version != frame.V5 {
		f = c.compression.AppendCompressed(nil, f)
	}
	return f
}

func encode(m message.Message, v frame.Version) []byte {
	var b bytes.Buffer
	if err := codec.EncodeFrame(frameOf(m, v), &b); err != nil {
		panic(fmt.Sprintf("bench: encode %v: %v", m, err))
	}
	return b.Bytes()
}

func isResult(f []byte) bool { return primitive.OpCode(f[4]) == primitive.OpCodeResult }
