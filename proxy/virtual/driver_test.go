package virtual

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// ringServer is proxies on loopback addresses that answer the two tables, and
// void to anything else.
type ringServer struct {
	ring  Ring
	real  Real
	wg    sync.WaitGroup
	mu    sync.Mutex
	seen  []string // statements
	conns []net.Conn
}

// serveRing listens on 127.0.0.1, .2 and .3 with one port.
func serveRing(t *testing.T) *ringServer {
	t.Helper()
	s := &ringServer{ring: Ring{NumTokens: 8}, real: captured(t, "4.1.8")}
	var listeners []net.Listener
	port := "0"
	for i := range 3 {
		addr := fmt.Sprintf("127.0.0.%d", i+1)
		l, err := net.Listen("tcp", net.JoinHostPort(addr, port))
		if err != nil {
			t.Skipf("SKIPPED: a ring needs 127.0.0.1 to .3: %v", err)
		}
		t.Cleanup(func() { _ = l.Close() })
		listeners = append(listeners, l)
		s.ring.Addresses = append(s.ring.Addresses, netip.MustParseAddr(addr))
		s.ring.Port = l.Addr().(*net.TCPAddr).Port
		port = strconv.Itoa(s.ring.Port)
	}
	for i, l := range listeners {
		ring := s.ring
		ring.Index = i
		tables, err := New(ring, s.real)
		if err != nil {
			t.Fatal(err)
		}
		s.wg.Go(func() { s.accept(l, tables) })
	}
	t.Cleanup(func() {
		for _, l := range listeners {
			_ = l.Close()
		}
		s.mu.Lock()
		for _, c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *ringServer) accept(l net.Listener, tables *Tables) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, nc)
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(nc, tables) })
	}
}

func (s *ringServer) serve(nc net.Conn, tables *Tables) {
	defer nc.Close()
	codec := gcnp.NewRawCodec()
	for {
		raw, err := codec.DecodeRawFrame(nc)
		if err != nil {
			return
		}
		f, err := codec.ConvertFromRawFrame(raw)
		if err != nil {
			return
		}
		var out message.Message = &message.Ready{}
		var body []byte
		v := raw.Header.Version
		switch m := f.Body.Message.(type) {
		case *message.Options:
			out = &message.Supported{Options: map[string][]string{"CQL_VERSION": {"3.4.6"}, "COMPRESSION": {}}}
		case *message.Query:
			s.mu.Lock()
			s.seen = append(s.seen, m.Query)
			s.mu.Unlock()
			out, body = s.query(tables, m.Query, v)
		}
		var buf bytes.Buffer
		if body != nil {
			header := &gcnp.Header{IsResponse: true, Version: v, StreamId: raw.Header.StreamId, OpCode: primitive.OpCodeResult, BodyLength: int32(len(body))}
			err = codec.EncodeRawFrame(&gcnp.RawFrame{Header: header, Body: body}, &buf)
		} else {
			err = codec.EncodeFrame(gcnp.NewFrame(v, raw.Header.StreamId, out), &buf)
		}
		if err != nil {
			return
		}
		if _, err := nc.Write(buf.Bytes()); err != nil {
			return
		}
	}
}

func (s *ringServer) query(tables *Tables, text string, v primitive.ProtocolVersion) (message.Message, []byte) {
	lower := strings.ToLower(text)
	if !strings.Contains(lower, "from system.") {
		if strings.Contains(lower, "system_schema.") {
			return &message.RowsResult{Metadata: &message.RowsMetadata{}, Data: message.RowSet{}}, nil
		}
		return &message.VoidResult{}, nil
	}
	sel, problem := parseText(text)
	var body []byte
	if problem == nil {
		body, problem = tables.Query(sel, Values{}, frame.Version(v))
	}
	if problem != nil {
		return &message.Invalid{ErrorMessage: problem.Message}, nil
	}
	return nil, body
}

func TestGocqlTakesTheRingAndItsTokens(t *testing.T) {
	t.Parallel()
	s := serveRing(t)
	cluster := gocql.NewCluster("127.0.0.1")
	cluster.Port = s.ring.Port
	cluster.ProtoVersion = 4
	cluster.Timeout, cluster.ConnectTimeout = 10*time.Second, 10*time.Second
	cluster.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(gocql.RoundRobinHostPolicy())
	session, err := cluster.CreateSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	hosts := session.GetHosts()
	var got []string
	for _, h := range hosts {
		got = append(got, fmt.Sprintf("%s:%d %s %s %d tokens", h.ConnectAddress(), h.Port(), h.DataCenter(), h.Rack(), len(h.Tokens())))
	}
	slices.Sort(got)
	var want []string
	for _, a := range s.ring.Addresses {
		want = append(want, fmt.Sprintf("%s:%d datacenter1 rack0 8 tokens", a, s.ring.Port))
	}
	if !slices.Equal(got, want) {
		t.Errorf("hosts are %q, want %q", got, want)
	}
}
