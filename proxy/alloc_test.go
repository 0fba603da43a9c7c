//go:build !race

package proxy_test

import (
	"bytes"
	"crypto/tls"
	"maps"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	clientframe "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/certtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// quietNode is a node that allocates nothing for a QUERY or an EXECUTE of an
// application's table, so that what is counted is the proxy's.
type quietNode struct {
	at   netip.AddrPort
	void []byte
}

func startQuietNode(t *testing.T, addr string) *quietNode {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	n := &quietNode{at: netip.MustParseAddrPort(l.Addr().String())}
	n.void = encodeFrame(t, frame.V4, &message.VoidResult{})
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return // the test ends
			}
			t.Cleanup(func() { nc.Close() })
			go n.serve(t, nc)
		}
	}()
	return n
}

func encodeFrame(t *testing.T, v frame.Version, m message.Message) []byte {
	var b bytes.Buffer
	if err := clientframe.NewRawCodec().EncodeFrame(clientframe.NewFrame(primitive.ProtocolVersion(v), 0, m), &b); err != nil {
		t.Errorf("encode %v: %v", m, err)
	}
	return b.Bytes()
}

var systemWord, executeID = []byte("system"), []byte("0123456789abcdef")

func (n *quietNode) serve(t *testing.T, nc net.Conn) {
	in := frame.NewReader(nc, frame.MaxBody)
	segments := false
	var out, packed []byte
	for {
		f, err := in.Next()
		if err != nil {
			return
		}
		answer := n.void
		if f.Opcode() != frame.OpExecute && (f.Opcode() != frame.OpQuery || bytes.Contains(f.Body(), systemWord)) {
			answer = n.ask(t, f)
		}
		at := len(out)
		out = append(out, answer...)
		out[at] = answer[0]&0x80 | byte(f.Version())
		frame.Frame(out[at:]).SetStream(f.Stream())
		if in.HasNext() {
			continue
		}
		ready := f.Version() == frame.V5 && f.Opcode() == frame.OpStartup
		packed = append(packed[:0], out...)
		if segments {
			packed = frame.AppendSegments(packed[:0], out, false)
		}
		if _, err := nc.Write(packed); err != nil {
			return
		}
		out = out[:0]
		if ready {
			segments = true
			in = frame.NewReader(frame.NewSegmentReader(nc, false), frame.MaxBody)
		}
	}
}

// ask answers what comes once for each connection.
func (n *quietNode) ask(t *testing.T, raw frame.Frame) []byte {
	v := raw.Version()
	if v != frame.V4 && v != frame.V5 {
		return frame.AppendError(nil, frame.V4, 0, frame.ErrorBody{Code: frame.ErrProtocol, Message: "Invalid or unsupported protocol version"})
	}
	f, err := clientframe.NewRawCodec().DecodeFrame(bytes.NewReader(raw))
	if err != nil {
		t.Errorf("node: %v", err)
		return n.void
	}
	system := cqltest.Options{Release: "4.1.8", Cluster: "c", Datacenter: "dc1", Rack: "r1", Tokens: []string{"0"}, Partitioner: "org.apache.cassandra.dht.Murmur3Partitioner", HostID: primitive.UUID{1}, SchemaVersion: primitive.UUID{2}}
	switch m := f.Body.Message.(type) {
	case *message.Options:
		return encodeFrame(t, v, &message.Supported{})
	case *message.Startup, *message.Register:
		return encodeFrame(t, v, &message.Ready{})
	case *message.Query:
		if answer, ok := cqltest.SystemAnswer(system, n.at.Addr(), m.Query); ok {
			return encodeFrame(t, v, answer)
		}
	case *message.Prepare:
		return encodeFrame(t, v, &message.PreparedResult{
			PreparedQueryId: executeID, ResultMetadataId: executeID, VariablesMetadata: &message.VariablesMetadata{},
			ResultMetadata: &message.RowsMetadata{ColumnCount: 1, Columns: []*message.ColumnMetadata{cqltest.Column("ks", "t", "v", datatype.Varchar)}},
		})
	}
	return n.void
}

// speaker is a client that allocates nothing of its own once it has logged in.
type speaker struct {
	version     frame.Version
	compression frame.Compression
	nc          net.Conn
	in          *frame.Reader
	ready       bool // STARTUP was answered
}

func (c *speaker) login(t *testing.T) {
	t.Helper()
	if err := c.nc.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	c.in = frame.NewReader(c.nc, frame.MaxBody)
	startup := []string{"CQL_VERSION", "3.0.0"}
	if c.compression != frame.NoCompression {
		startup = append(startup, "COMPRESSION", c.compression.String())
	}
	c.ask(t, frame.OpReady, c.request(0, frame.OpStartup, frame.AppendStringMap(nil, startup...)))
	c.ready = true
	if c.version == frame.V5 {
		c.in = frame.NewReader(frame.NewSegmentReader(c.nc, c.compression == frame.LZ4), frame.MaxBody)
	}
}

func (c *speaker) request(stream int16, op frame.Opcode, body []byte) []byte {
	f := append(frame.AppendHeader(nil, c.version, false, 0, stream, op, 0), body...)
	frame.PutLength(f)
	return f
}

// packed is what goes out for whole frames.
func (c *speaker) packed(frames []byte) []byte {
	switch {
	case !c.ready:
		return frames
	case c.version == frame.V5:
		return frame.AppendSegments(nil, frames, c.compression == frame.LZ4)
	}
	return c.compression.AppendAllCompressed(nil, frames)
}

func (c *speaker) ask(t *testing.T, want frame.Opcode, frames ...[]byte) {
	t.Helper()
	if _, err := c.nc.Write(c.packed(bytes.Join(frames, nil))); err != nil {
		t.Fatal(err)
	}
	c.await(t, want, len(frames))
}

func (c *speaker) await(t *testing.T, want frame.Opcode, n int) {
	t.Helper()
	for range n {
		if f, err := c.in.Next(); err != nil || f.Opcode() != want {
			t.Fatalf("got % x, %v; want opcode %v", f, err, want)
		}
	}
}

// A request costs the proxy no allocation on its way to the nodes and back,
// however the client speaks. It is measured over real sockets, a burst of
// requests at a time, so that what the proxy does by the clock is a small part
// of one. With TLS it is the records of a burst that cost a few.
func TestRequestsAllocateNothingInSteadyState(t *testing.T) {
	pair := certtest.NewAuthority(t, "clients")
	cert := pair.Issue(t, "127.0.0.1")
	plain := startForAllocations(t, nil)
	secure := startForAllocations(t, map[string]string{"proxy_tls_ca_path": pair.File, "proxy_tls_cert_path": cert.CertFile, "proxy_tls_key_path": cert.KeyFile})
	for _, tt := range []struct {
		name        string
		version     frame.Version
		compression frame.Compression
		at          string
		most        float64 // allocations for a burst
	}{
		{"v4", frame.V4, frame.NoCompression, plain, burst / 64},
		{"v5", frame.V5, frame.NoCompression, plain, burst / 64},
		{"v4 with LZ4", frame.V4, frame.LZ4, plain, burst / 64},
		{"v4 with Snappy", frame.V4, frame.Snappy, plain, burst / 64},
		{"v5 with LZ4", frame.V5, frame.LZ4, plain, burst / 64},
		{"v4 over TLS", frame.V4, frame.NoCompression, secure, burst / 8}, // those of this client, too
	} {
		t.Run(tt.name, func(t *testing.T) {
			nc, err := net.Dial("tcp", tt.at)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			if tt.at == secure {
				nc = tls.Client(nc, &tls.Config{RootCAs: pair.Pool, ServerName: "127.0.0.1"})
			}
			c := &speaker{version: tt.version, compression: tt.compression, nc: nc}
			c.login(t)
			c.requestsAllocate(t, tt.most)
		})
	}
}

// startForAllocations serves a proxy before two quiet nodes.
func startForAllocations(t *testing.T, more map[string]string) string {
	values := map[string]string{
		"phase": phase.DualWrite.String(), "upstream_connections_per_node": "1", "proxy_topology_addresses": "127.0.0.1",
		"origin_username": "u", "origin_password": "p", "target_username": "u", "target_password": "p",
		"metrics_enabled": "true", "proxy_max_stream_ids": "2048", "client_credentials": "target",
	}
	maps.Copy(values, more)
	for side, n := range map[string]*quietNode{"origin": startQuietNode(t, "127.74.1.1:0"), "target": startQuietNode(t, "127.74.2.1:0")} {
		values[side+"_contact_points"], values[side+"_port"] = n.at.Addr().String(), strconv.Itoa(int(n.at.Port()))
	}
	srv := serve(t, values)
	if err := srv.SetPhase(phase.DualWrite, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the proxy is ready", func() bool { return len(srv.NotReady()) == 0 })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Accept(l); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// burst is how many requests go out in one write.
const burst = 256

func (c *speaker) requestsAllocate(t *testing.T, most float64) {
	execute := frame.AppendShortBytes(nil, executeID)
	if c.version == frame.V5 {
		execute = frame.AppendInt(frame.AppendShort(frame.AppendShortBytes(execute, executeID), uint16(frame.One)), 0)
	} else {
		execute = append(frame.AppendShort(execute, uint16(frame.One)), 0)
	}
	for _, tt := range []struct {
		name    string
		prepare string // first, so that executeID is that of this statement
		op      frame.Opcode
		body    []byte
	}{
		{"EXECUTE of a write to both", insert, frame.OpExecute, execute},
		{"EXECUTE of a read", sel, frame.OpExecute, execute},
		{"QUERY of a write to both", "", frame.OpQuery, frame.AppendPlainQuery(nil, c.version, insert)},
		{"QUERY of a read", "", frame.OpQuery, frame.AppendPlainQuery(nil, c.version, sel)},
	} {
		if tt.prepare != "" {
			c.ask(t, frame.OpResult, c.request(0, frame.OpPrepare, frame.AppendPrepare(nil, c.version, tt.prepare, "")))
		}
		var frames []byte
		for i := range int16(burst) {
			frames = append(frames, c.request(i, tt.op, tt.body)...)
		}
		out := c.packed(frames)
		n := testing.AllocsPerRun(200, func() {
			if _, err := c.nc.Write(out); err != nil {
				t.Fatal(err)
			}
			c.await(t, frame.OpResult, burst)
		})
		if n > most {
			t.Errorf("%s: %v allocations for %d requests, want %v at most, for what runs by the clock", tt.name, n, burst, most)
		} else {
			t.Logf("%s: %v allocations for %d requests", tt.name, n, burst)
		}
	}
}
