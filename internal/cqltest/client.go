package cqltest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
)

// Client is one connection of a driver, as an oracle for what a client sees:
// an answer that does not decode, or one on a stream id that nothing waits for
// (a second answer, for example), fails the test. Its methods are safe from any
// goroutine.
type Client struct {
	// Events are the EVENT messages received; the last 64 are kept when nobody
	// reads them.
	Events chan message.Message

	t       testing.TB
	wire    *wire
	version primitive.ProtocolVersion
	done    chan struct{} // closed when the reading goroutine has ended

	compressed bool // segments are, once there are any

	// Guarded by mu.
	mu      sync.Mutex
	next    int16
	waiting map[int16]chan Answer
	err     error // why the connection ended
}

// Answer is what came back for one request: a frame, or the connection's end.
type Answer struct {
	Frame *frame.Frame
	Raw   []byte // the whole frame
	Err   error
}

// Message is the answer's message; nil when there was none.
func (a Answer) Message() message.Message {
	if a.Frame == nil {
		return nil
	}
	return a.Frame.Body.Message
}

// Login is how a client introduces itself. The zero value is v4 without
// credentials.
type Login struct {
	Version            primitive.ProtocolVersion
	Username, Password string
	TLS                *tls.Config // nil is plain TCP
	LZ4                bool        // compressed segments; v5 only
}

// Dial connects, logs in, and closes the connection when the test ends. It
// fails the test when that does not work.
func Dial(t testing.TB, address string, login Login) *Client {
	t.Helper()
	c, err := Connect(t, address, login)
	if err != nil {
		t.Fatalf("connect client to %s: %v", address, err)
	}
	return c
}

// Connect is Dial for a connection that may be refused. An ERROR frame is a
// *Refused.
func Connect(t testing.TB, address string, login Login) (*Client, error) {
	nc, err := net.DialTimeout("tcp", address, waitLimit)
	if err != nil {
		return nil, err
	}
	if login.TLS != nil {
		nc = tls.Client(nc, login.TLS)
	}
	if login.Version == 0 {
		login.Version = primitive.ProtocolVersion4
	}
	c := &Client{
		t: t, wire: newWire(nc), version: login.Version, compressed: login.LZ4,
		Events: make(chan message.Message, 64), done: make(chan struct{}), waiting: map[int16]chan Answer{},
	}
	go c.read()
	t.Cleanup(c.Close)
	startup := message.NewStartup()
	if login.LZ4 {
		startup.SetCompression(primitive.CompressionLz4)
	}
	m, err := c.ask(startup)
	if _, ok := m.(*message.Authenticate); ok {
		m, err = c.ask(&message.AuthResponse{Token: []byte("\x00" + login.Username + "\x00" + login.Password)})
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	if e, ok := m.(message.Error); ok {
		c.Close()
		return nil, &Refused{e}
	}
	return c, nil
}

// Refused is an ERROR frame during the handshake.
type Refused struct{ Answer message.Error }

func (r *Refused) Error() string { return fmt.Sprintf("login refused: %v", r.Answer) }

func (c *Client) ask(m message.Message) (message.Message, error) {
	a := c.wait(c.Send(m))
	return a.Message(), a.Err
}

func (c *Client) wait(answers <-chan Answer) Answer {
	timer := time.NewTimer(waitLimit)
	defer timer.Stop()
	select {
	case a := <-answers:
		return a
	case <-timer.C:
		return Answer{Err: errors.New("no answer")}
	}
}

// Ask sends a request and returns its answer's message. No answer in time, or
// a closed connection, fails the test.
func (c *Client) Ask(t testing.TB, m message.Message) message.Message {
	t.Helper()
	return c.Await(t, c.Send(m)).Message()
}

// Query asks a simple statement at LOCAL_QUORUM.
func (c *Client) Query(t testing.TB, text string) message.Message {
	t.Helper()
	return c.Ask(t, &message.Query{Query: text, Options: &message.QueryOptions{Consistency: primitive.ConsistencyLevelLocalQuorum}})
}

// Await waits for what Send promised.
func (c *Client) Await(t testing.TB, answers <-chan Answer) Answer {
	t.Helper()
	a := c.wait(answers)
	if a.Err != nil {
		t.Fatalf("client: %v", a.Err)
	}
	return a
}

// Send sends a request on a free stream id. The channel gets exactly one
// Answer, unless none ever comes on an open connection.
func (c *Client) Send(m message.Message) <-chan Answer {
	return c.SendFrame(frame.NewFrame(c.version, 0, m))
}

// SendFrame is Send with header flags or a payload of the caller's choice; the
// stream id is set here.
func (c *Client) SendFrame(f *frame.Frame) <-chan Answer {
	answer := make(chan Answer, 1)
	c.mu.Lock()
	if c.err != nil {
		answer <- Answer{Err: c.err}
		c.mu.Unlock()
		return answer
	}
	for c.waiting[c.next] != nil {
		c.next = (c.next + 1) & 0x7fff
	}
	f.Header.StreamId = c.next
	c.waiting[c.next] = answer
	c.next = (c.next + 1) & 0x7fff
	c.mu.Unlock()
	c.wire.write(encode(c.t, f)) // an error shows at the reading end
	return answer
}

// Write sends bytes as they are.
func (c *Client) Write(b []byte) {
	c.wire.writeBytes(b) // an error shows at the reading end
}

// Close closes the connection and waits for its goroutine.
func (c *Client) Close() {
	c.wire.nc.Close()
	<-c.done
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

func (c *Client) read() {
	defer close(c.done)
	var err error
	for err == nil {
		err = c.readOne()
	}
	c.mu.Lock()
	c.err = fmt.Errorf("connection ended: %w", err)
	for id, answer := range c.waiting {
		answer <- Answer{Err: c.err}
		delete(c.waiting, id)
	}
	c.mu.Unlock()
	c.wire.nc.Close()
}

func (c *Client) readOne() error {
	raw, err := c.wire.read()
	if err != nil {
		return err
	}
	source := bytes.NewReader(raw)
	f, err := codec.DecodeFrame(source)
	if err == nil && source.Len() > 0 {
		err = fmt.Errorf("%d bytes after the message %v", source.Len(), f.Body.Message)
	}
	if err != nil {
		c.t.Errorf("client received a malformed frame: %v: % x", err, raw)
		return err
	}
	switch f.Header.OpCode {
	case primitive.OpCodeReady, primitive.OpCodeAuthenticate:
		if c.wire.segments.Load() == nil {
			c.wire.agreed(c.version, c.compressed)
		}
	case primitive.OpCodeEvent:
		select {
		case c.Events <- f.Body.Message:
		default: // full
			select {
			case <-c.Events:
			default:
			}
			c.Events <- f.Body.Message // this goroutine is the only sender
		}
		return nil
	}
	c.mu.Lock()
	answer := c.waiting[f.Header.StreamId]
	delete(c.waiting, f.Header.StreamId)
	c.mu.Unlock()
	if answer == nil {
		c.t.Errorf("client received an answer on stream %d, which waits for none: %v", f.Header.StreamId, f.Body.Message)
		return errors.New("unexpected answer")
	}
	answer <- Answer{Frame: f, Raw: raw}
	return nil
}
