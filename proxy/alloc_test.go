//go:build !race

package proxy_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	clientframe "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
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
	n.void = encodeFrame(t, &message.VoidResult{})
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

func encodeFrame(t *testing.T, m message.Message) []byte {
	var b bytes.Buffer
	if err := clientframe.NewRawCodec().EncodeFrame(clientframe.NewFrame(primitive.ProtocolVersion4, 0, m), &b); err != nil {
		t.Errorf("encode %v: %v", m, err)
	}
	return b.Bytes()
}

var systemWord, executeID = []byte("system"), []byte("0123456789abcdef")

func (n *quietNode) serve(t *testing.T, nc net.Conn) {
	in := frame.NewReader(nc, frame.MaxBody)
	var out []byte
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
		frame.Frame(out[at:]).SetStream(f.Stream())
		if !in.HasNext() {
			if _, err := nc.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
	}
}

// ask answers what comes once for each connection.
func (n *quietNode) ask(t *testing.T, raw frame.Frame) []byte {
	if raw.Version() != frame.V4 {
		f := frame.AppendError(nil, frame.V4, 0, frame.ErrorBody{Code: frame.ErrProtocol, Message: "Invalid or unsupported protocol version"})
		return f
	}
	f, err := clientframe.NewRawCodec().DecodeFrame(bytes.NewReader(raw))
	if err != nil {
		t.Errorf("node: %v", err)
		return n.void
	}
	system := cqltest.Options{Release: "4.1.8", Cluster: "c", Datacenter: "dc1", Rack: "r1", Tokens: []string{"0"}, Partitioner: "org.apache.cassandra.dht.Murmur3Partitioner", HostID: primitive.UUID{1}, SchemaVersion: primitive.UUID{2}}
	switch m := f.Body.Message.(type) {
	case *message.Options:
		return encodeFrame(t, &message.Supported{})
	case *message.Startup, *message.Register:
		return encodeFrame(t, &message.Ready{})
	case *message.Query:
		if answer, ok := cqltest.SystemAnswer(system, n.at.Addr(), m.Query); ok {
			return encodeFrame(t, answer)
		}
	case *message.Prepare:
		return encodeFrame(t, &message.PreparedResult{
			PreparedQueryId: executeID, VariablesMetadata: &message.VariablesMetadata{},
			ResultMetadata: &message.RowsMetadata{ColumnCount: 1, Columns: []*message.ColumnMetadata{cqltest.Column("ks", "t", "v", datatype.Varchar)}},
		})
	}
	return n.void
}

// A request costs the proxy no allocation on its way to the nodes and back. It
// is measured over real sockets, a burst of requests at a time, so that what
// the proxy does by the clock is a small part of one.
func TestRequestsAllocateNothingInSteadyState(t *testing.T) {
	const burst = 256
	addr := func(n *quietNode) (string, string) { return n.at.Addr().String(), netPort(n) }
	values := map[string]string{
		"phase": phase.DualWrite.String(), "upstream_connections_per_node": "1", "proxy_topology_addresses": "127.0.0.1",
		"origin_username": "u", "origin_password": "p", "target_username": "u", "target_password": "p",
		"metrics_enabled": "true", "proxy_max_stream_ids": "2048", "client_credentials": "target",
	}
	values["origin_contact_points"], values["origin_port"] = addr(startQuietNode(t, "127.74.1.1:0"))
	values["target_contact_points"], values["target_port"] = addr(startQuietNode(t, "127.74.2.1:0"))
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
	nc, in := rawClient(t, l.Addr().String())
	if err := nc.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	prepareFrame := frame.AppendHeader(nil, frame.V4, false, 0, 0, frame.OpPrepare, 0)
	prepareFrame = frame.AppendLongString(prepareFrame, insert)
	frame.PutLength(prepareFrame)
	if _, err := nc.Write(prepareFrame); err != nil {
		t.Fatal(err)
	}
	if f, err := in.Next(); err != nil || f.Opcode() != frame.OpResult {
		t.Fatalf("PREPARE: % x, %v", f, err)
	}
	execute := func(stream int16) []byte {
		f := frame.AppendHeader(nil, frame.V4, false, 0, stream, frame.OpExecute, 0)
		f = frame.AppendShortBytes(f, executeID)
		f = append(f, 0, 1, 0)
		frame.PutLength(f)
		return f
	}
	for name, request := range map[string]func(int16) []byte{
		"EXECUTE of a write to both": execute,
		"QUERY of a write to both":   func(s int16) []byte { return queryFrame(s, insert) },
		"QUERY of a read":            func(s int16) []byte { return queryFrame(s, sel) },
	} {
		var out []byte
		for i := range int16(burst) {
			out = append(out, request(i)...)
		}
		if n := testing.AllocsPerRun(200, func() {
			if _, err := nc.Write(out); err != nil {
				t.Fatal(err)
			}
			for range burst {
				if f, err := in.Next(); err != nil || f.Opcode() != frame.OpResult {
					t.Fatalf("%s: got % x, %v; want a RESULT", name, f, err)
				}
			}
		}); n > burst/64 {
			t.Errorf("%s: %v allocations for %d requests, want none but for what runs by the clock", name, n, burst)
		} else {
			t.Logf("%s: %v allocations for %d requests", name, n, burst)
		}
	}
}

func netPort(n *quietNode) string {
	_, port, _ := net.SplitHostPort(n.at.String())
	return port
}
