package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"github.com/datastax/go-cassandra-native-protocol/segment"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

// maxColdBody bounds the body of a frame read by a handshake or a control
// connection, in bytes. The largest honest one is system.peers with 256 tokens
// a node (6 KB each), so this is room for ten thousand nodes.
const maxColdBody = 64 << 20

// dseAuthenticator asks for a mechanism first and for the credentials then.
const dseAuthenticator = "com.datastax.bdp.cassandra.auth.DseAuthenticator"

// ErrLoginNeeded is returned by Handshake.Run when the node asks for a login
// and the handshake has no user name.
var ErrLoginNeeded = errors.New("the node asks for a login and no user name is configured")

// A NodeError is an ERROR frame that a node sent. Its text is the node's own.
type NodeError struct {
	// Body is the ERROR body as received, to be sent on to a client that
	// speaks the same protocol version. It carries no tracing id, warnings or
	// custom payload.
	Body    []byte
	Code    frame.ErrorCode
	Message string
}

func (e *NodeError) Error() string {
	return fmt.Sprintf("node answered error 0x%04X: %s", uint32(e.Code), e.Message)
}

// VersionRefused reports whether err says that the node does not speak the
// protocol version that it was addressed in; a lower one may do.
func VersionRefused(err error) bool {
	var unknown *gcnp.ProtocolVersionErr
	if errors.As(err, &unknown) {
		return true
	}
	var node *NodeError
	if !errors.As(err, &node) || node.Code != frame.ErrProtocol {
		return false
	}
	// Cassandra and DSE say "Invalid or unsupported protocol version (5); ...",
	// and "Beta version of the protocol used (5/v5-beta), ...".
	text := strings.ToLower(node.Message)
	return strings.Contains(text, "protocol version") || strings.Contains(text, "version of the protocol")
}

// Handshake opens a session on a fresh connection to a node: STARTUP, the
// login if the node asks for one, and USE if a keyspace is given.
type Handshake struct {
	Version  frame.Version
	Username string
	Password secret.String
	// Keyspace is the exact name, without quotes; "" for none.
	Keyspace string
}

// HandshakeResult is what a node told during the handshake.
type HandshakeResult struct {
	// Authenticator is the class that asked for the login; "" if none did.
	Authenticator string
}

// Run does the handshake. It reads frame by frame, so the connection is left
// at a frame boundary with nothing buffered and without a deadline. The end of
// ctx ends it. An ERROR frame is *NodeError; after any error the connection
// must be closed.
func (h Handshake) Run(ctx context.Context, nc net.Conn) (HandshakeResult, error) {
	if !h.Version.Known() {
		return HandshakeResult{}, fmt.Errorf("handshake in protocol version 0x%02X is not supported", byte(h.Version))
	}
	// A past deadline wakes a blocked read or write as soon as ctx ends.
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	var result HandshakeResult
	err := h.run(&coldConn{in: nc, out: nc, version: h.Version, codec: gcnp.NewRawCodec()}, &result)
	if !stop() && ctx.Err() != nil {
		return result, fmt.Errorf("handshake: %w", context.Cause(ctx))
	}
	return result, err
}

func (h Handshake) run(c *coldConn, result *HandshakeResult) error {
	startup := message.NewStartup(
		message.StartupOptionDriverName, "zdm-proxy",
		message.StartupOptionDriverVersion, buildinfo.Version())
	reply, err := c.exchange(startup)
	if err != nil {
		return fmt.Errorf("handshake: STARTUP: %w", err)
	}
	if h.Version == frame.V5 {
		c.useSegments()
	}
	if auth, ok := reply.(*message.Authenticate); ok {
		result.Authenticator = auth.Authenticator
		if h.Username == "" {
			return fmt.Errorf("handshake: %s: %w", auth.Authenticator, ErrLoginNeeded)
		}
		if err := h.login(c, auth.Authenticator); err != nil {
			return fmt.Errorf("handshake: login as %q: %w", h.Username, err)
		}
	} else if _, ok := reply.(*message.Ready); !ok {
		return fmt.Errorf("handshake: STARTUP was answered by %v", reply.GetOpCode())
	}
	if h.Keyspace == "" {
		return nil
	}
	use := &message.Query{
		Query:   `USE "` + strings.ReplaceAll(h.Keyspace, `"`, `""`) + `"`,
		Options: &message.QueryOptions{Consistency: primitive.ConsistencyLevelOne},
	}
	if reply, err = c.exchange(use); err != nil {
		return fmt.Errorf("handshake: use keyspace %q: %w", h.Keyspace, err)
	}
	if _, ok := reply.(*message.SetKeyspaceResult); !ok {
		return fmt.Errorf("handshake: use keyspace %q was answered by %v", h.Keyspace, reply.GetOpCode())
	}
	return nil
}

// login speaks SASL PLAIN, whatever the authenticator is called.
func (h Handshake) login(c *coldConn, authenticator string) error {
	credentials := []byte("\x00" + h.Username + "\x00" + h.Password.Reveal())
	token := credentials
	if authenticator == dseAuthenticator {
		token = []byte("PLAIN")
	}
	reply, err := c.exchange(&message.AuthResponse{Token: token})
	if err != nil {
		return err
	}
	if challenge, ok := reply.(*message.AuthChallenge); ok {
		if !bytes.Equal(challenge.Token, []byte("PLAIN-START")) {
			return fmt.Errorf("%s asks for something other than a name and a password", authenticator)
		}
		if reply, err = c.exchange(&message.AuthResponse{Token: credentials}); err != nil {
			return err
		}
	}
	if _, ok := reply.(*message.AuthSuccess); !ok {
		return fmt.Errorf("AUTH_RESPONSE was answered by %v", reply.GetOpCode())
	}
	return nil
}

// coldConn writes and reads whole frames with the reference codec, one request
// at a time. It buffers nothing.
type coldConn struct {
	in      io.Reader
	out     io.Writer
	version frame.Version
	codec   gcnp.RawCodec
}

// useSegments puts the frames that follow into segments, as v5 does after the
// answer to STARTUP (native_protocol_v5.spec, section 2.3.1).
func (c *coldConn) useSegments() {
	codec := segment.NewCodec()
	c.in, c.out = &segmentSource{codec: codec, in: c.in}, &segmentSink{codec: codec, out: c.out}
}

// segmentSource reads the bytes inside segments, and no further than the segment
// that it is in.
type segmentSource struct {
	codec segment.Codec
	in    io.Reader
	rest  []byte
}

func (s *segmentSource) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		next, err := s.codec.DecodeSegment(s.in)
		if err != nil {
			return 0, err
		}
		s.rest = next.Payload.UncompressedData
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// segmentSink writes each Write as one segment, in one write. The requests of a
// handshake are short enough for that.
type segmentSink struct {
	codec segment.Codec
	out   io.Writer
}

func (s *segmentSink) Write(p []byte) (int, error) {
	var buf bytes.Buffer
	one := &segment.Segment{Header: &segment.Header{IsSelfContained: true}, Payload: &segment.Payload{UncompressedData: p}}
	if err := s.codec.EncodeSegment(one, &buf); err != nil {
		return 0, err
	}
	if _, err := s.out.Write(buf.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// exchange sends a request on stream 0 and returns the answer to it. No other
// request may be in flight.
func (c *coldConn) exchange(request message.Message) (message.Message, error) {
	if err := c.write(request, 0); err != nil {
		return nil, err
	}
	answer, err := c.read()
	if err != nil {
		return nil, err
	}
	return c.decode(answer)
}

// write sends one frame in one Write.
func (c *coldConn) write(request message.Message, stream int16) error {
	var buf bytes.Buffer
	f := gcnp.NewFrame(primitive.ProtocolVersion(c.version), stream, request)
	if err := c.codec.EncodeFrame(f, &buf); err != nil {
		return fmt.Errorf("encode %v: %w", request.GetOpCode(), err)
	}
	_, err := c.out.Write(buf.Bytes())
	return err
}

// read takes one frame from the connection.
func (c *coldConn) read() (*gcnp.RawFrame, error) {
	header, err := c.codec.DecodeHeader(c.in)
	if err != nil {
		return nil, readError(err)
	}
	if header.BodyLength < 0 || header.BodyLength > maxColdBody {
		return nil, &frame.LimitError{Limit: maxColdBody, Got: int(header.BodyLength)}
	}
	if !header.IsResponse {
		return nil, fmt.Errorf("node sent a request, %v", header.OpCode)
	}
	body, err := c.codec.DecodeRawBody(header, c.in)
	if err != nil {
		return nil, readError(err)
	}
	return &gcnp.RawFrame{Header: header, Body: body}, nil
}

// readError leaves out what the codec was reading when the connection ended.
func readError(err error) error {
	var network *net.OpError
	switch {
	case errors.As(err, &network):
		return network
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("closed by the node: %w", io.EOF)
	}
	return err
}

// decode reads a body; an ERROR becomes *NodeError.
func (c *coldConn) decode(raw *gcnp.RawFrame) (message.Message, error) {
	f, err := c.codec.ConvertFromRawFrame(raw)
	if err != nil {
		return nil, err
	}
	failure, ok := f.Body.Message.(message.Error)
	if !ok {
		return f.Body.Message, nil
	}
	body := raw.Body
	if raw.Header.Flags != 0 {
		// Something precedes the error itself: encode it again without.
		bare := gcnp.NewFrame(raw.Header.Version, 0, f.Body.Message)
		again, err := c.codec.ConvertToRawFrame(bare)
		if err != nil {
			return nil, err
		}
		body = again.Body
	}
	return nil, &NodeError{
		Body:    body,
		Code:    frame.ErrorCode(failure.GetErrorCode()),
		Message: failure.GetErrorMessage(),
	}
}

// PlainAuthenticator is what a client is to be told to authenticate with, so that
// it answers with SASL PLAIN. DSE's own class asks for a mechanism first; what it
// takes in the end is PLAIN too.
func PlainAuthenticator(class string) string {
	if class == dseAuthenticator {
		return "org.apache.cassandra.auth.PasswordAuthenticator"
	}
	return class
}
