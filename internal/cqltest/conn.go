package cqltest

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
)

// codec is stateless without compression, so it is shared.
var codec = frame.NewRawCodec()

// conn is one connection of a node.
type conn struct {
	node   *Node
	wire   *wire
	number int
	done   chan struct{} // closed with the socket
	once   sync.Once

	// Guarded by node.mu.
	registered bool

	// Guarded by mu, which is never held across I/O.
	mu       sync.Mutex
	version  primitive.ProtocolVersion
	ready    bool   // past the handshake
	username string // who logged in
	keyspace string
	inFlight map[int16]struct{}
}

func newConn(n *Node, nc net.Conn, number int) *conn {
	return &conn{node: n, wire: newWire(nc), number: number, done: make(chan struct{}), inFlight: map[int16]struct{}{}, version: primitive.ProtocolVersion4}
}

func (c *conn) close() {
	c.once.Do(func() {
		close(c.done)
		c.wire.nc.Close()
	})
}

func (c *conn) reset() {
	nc := c.wire.nc
	if secure, ok := nc.(*tls.Conn); ok {
		nc = secure.NetConn()
	}
	if tc, ok := nc.(*net.TCPConn); ok {
		tc.SetLinger(0) // makes Close send RST
	}
	c.close()
}

func (c *conn) isClosed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *conn) lastVersion() primitive.ProtocolVersion {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

func (c *conn) serve() {
	defer c.close()
	for {
		raw, err := c.wire.read()
		if !c.pass() || err != nil {
			return
		}
		c.take(raw)
	}
}

// pass waits while the node is frozen, and reports whether the connection is
// still open.
func (c *conn) pass() bool {
	if gate := c.node.gate(); gate != nil {
		select {
		case <-gate:
		case <-c.done:
		}
	}
	return !c.isClosed()
}

// complain fails the test: the peer broke the protocol.
func (c *conn) complain(format string, args ...any) {
	if !c.node.opts.Lenient {
		c.node.t.Errorf("fake node %s, connection %d: peer sent "+format, append([]any{c.node.Addr(), c.number}, args...)...)
	}
}

// take records, decides and answers.
func (c *conn) take(raw []byte) {
	r := Request{
		Conn: c.number, Version: primitive.ProtocolVersion(raw[0] & 0x7f), Flags: primitive.HeaderFlag(raw[1]),
		Stream: int16(binary.BigEndian.Uint16(raw[2:])), Opcode: primitive.OpCode(raw[4]), Raw: raw,
	}
	if !slices.Contains(c.node.opts.Versions, r.Version) {
		c.node.record(r)
		// Cassandra answers in its newest version and closes.
		lowest, greatest := c.node.opts.bounds()
		refusal := Error(primitive.ErrorCodeProtocolError, fmt.Sprintf(
			"Invalid or unsupported protocol version (%d); the lowest supported version is %d and the greatest is %d", r.Version, lowest, greatest)).ThenClose()
		r.Version = greatest
		c.carryOut(r, refusal)
		return
	}
	source := bytes.NewReader(raw)
	var body *frame.Body
	header, err := codec.DecodeHeader(source)
	if err == nil {
		body, err = codec.DecodeBody(header, source)
	}
	c.mu.Lock()
	c.version = r.Version
	_, reused := c.inFlight[r.Stream]
	c.inFlight[r.Stream] = struct{}{}
	r.Keyspace, r.Username = c.keyspace, c.username
	c.mu.Unlock()
	if reused {
		c.complain("stream id %d again while its first request is unanswered", r.Stream)
	}
	if err != nil {
		c.complain("a malformed frame: %v", err)
		c.node.record(r)
		c.carryOut(r, Error(primitive.ErrorCodeProtocolError, err.Error()))
		return
	}
	if source.Len() > 0 {
		c.complain("%d bytes after the message %v", source.Len(), body.Message)
	}
	r.describe(body, c.node.statementText)
	handler := c.node.record(r)
	var reply Reply
	if handler != nil {
		reply = handler(r)
	}
	if reply.after == nil {
		c.carryOut(r, reply)
		return
	}
	c.node.wg.Add(1)
	go func() {
		defer c.node.wg.Done()
		select {
		case <-reply.after:
			c.carryOut(r, reply)
		case <-c.done:
		}
	}()
}

func (c *conn) carryOut(r Request, reply Reply) {
	if reply.kind == replyOrdinary {
		ordinary := c.ordinary(r)
		reply.kind, reply.message = ordinary.kind, ordinary.message
		if reply.closing == keepOpen {
			reply.closing = ordinary.closing
		}
	}
	var out []byte
	switch reply.kind {
	case replyRaw:
		out = reply.raw
	case replyMessage:
		stream := r.Stream
		if reply.stream != nil {
			stream = *reply.stream
		}
		out = encode(c.node.t, reply.frame(r.Version, stream))
		if reply.truncate > 0 {
			out = out[:min(reply.truncate, len(out))]
		}
		if stream == r.Stream {
			c.mu.Lock()
			delete(c.inFlight, r.Stream) // before the write: the peer may use it as soon as it has read the answer
			c.mu.Unlock()
		}
	}
	for range reply.copies + 1 {
		c.send(out, reply.kind == replyRaw)
	}
	switch reply.message.(type) {
	case *message.Ready, *message.Authenticate:
		if startup, ok := r.Message.(*message.Startup); ok {
			c.wire.agreed(r.Version, startup.Options[message.StartupOptionCompression] != "")
		}
	}
	switch reply.closing {
	case closeAfter:
		c.close()
	case resetAfter:
		c.reset()
	}
}

func (c *conn) send(b []byte, bare bool) {
	if len(b) == 0 || !c.pass() {
		return
	}
	write := c.wire.write
	if bare {
		write = c.wire.writeBytes
	}
	if err := write(b); err != nil {
		c.close()
	}
}

func (c *conn) login(username string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready, c.username = true, username
}

// ordinary is the answer of a healthy node.
func (c *conn) ordinary(r Request) Reply {
	username, password := c.node.credentials()
	authenticates := username != "" || password != ""
	switch m := r.Message.(type) {
	case *message.Options:
		return Message(&message.Supported{Options: map[string][]string{
			"CQL_VERSION": {"3.4.6"}, "COMPRESSION": {"snappy", "lz4"}, "PROTOCOL_VERSIONS": c.node.opts.versionNames(),
		}})
	case *message.Startup:
		if authenticates {
			return Message(&message.Authenticate{Authenticator: "org.apache.cassandra.auth.PasswordAuthenticator"})
		}
		c.login("")
		return Message(&message.Ready{})
	case *message.AuthResponse:
		parts := bytes.Split(m.Token, []byte{0}) // RFC 4616: [authzid] NUL authcid NUL passwd
		if len(parts) != 3 || string(parts[1]) != username || string(parts[2]) != password {
			return Error(primitive.ErrorCodeAuthenticationError, "Provided username and/or password are incorrect").ThenClose()
		}
		c.login(username)
		return Message(&message.AuthSuccess{})
	}
	c.mu.Lock()
	ready := c.ready
	c.mu.Unlock()
	if !ready {
		return Error(primitive.ErrorCodeProtocolError, "Unexpected message "+r.Opcode.String()+", expecting STARTUP or OPTIONS")
	}
	switch m := r.Message.(type) {
	case *message.Register:
		c.node.mu.Lock()
		c.registered = true
		c.node.mu.Unlock()
		return Message(&message.Ready{})
	case *message.Prepare:
		id, s := c.node.remember(r.Keyspace, m.Query)
		return Message(s.prepared(id, c.node.opts.Salt))
	case *message.Query:
		return c.run(r, m.Query, guess(m.Query), m.Options)
	case *message.Execute:
		p, ok := c.node.lookup(m.QueryId)
		if !ok {
			return Unprepared(m.QueryId)
		}
		return c.run(r, p.text, p.statement, m.Options).forMetadata(r.Version, m.ResultMetadataId, p.statement.resultID(c.node.opts.Salt))
	case *message.Batch:
		for _, child := range m.Children {
			if _, ok := c.node.lookup(child.Id); len(child.Id) > 0 && !ok {
				return Unprepared(child.Id)
			}
		}
		return Void()
	}
	return Error(primitive.ErrorCodeProtocolError, "unexpected message "+r.Opcode.String())
}
