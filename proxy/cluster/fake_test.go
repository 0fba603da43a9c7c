package cluster

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
)

// fakeNet is a set of nodes that are reached through memory pipes.
type fakeNet struct {
	t *testing.T

	mu    sync.Mutex
	nodes map[string]*fakeNode
	// dialed lists the addresses in the order in which they were dialed.
	dialed []string
	wg     sync.WaitGroup
}

func newFakeNet(t *testing.T) *fakeNet {
	n := &fakeNet{t: t, nodes: map[string]*fakeNode{}}
	t.Cleanup(func() {
		n.mu.Lock()
		for _, node := range n.nodes {
			node.closeLocked()
		}
		n.mu.Unlock()
		n.wg.Wait()
	})
	return n
}

// add puts a node at addr, which answers system queries from the two tables.
func (n *fakeNet) add(addr string, local, peers *message.RowsResult) *fakeNode {
	node := &fakeNode{net: n, addr: addr, local: local, peers: peers, max: primitive.ProtocolVersion4}
	n.mu.Lock()
	n.nodes[addr] = node
	n.mu.Unlock()
	return node
}

func (n *fakeNet) dial(_ context.Context, addr string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dialed = append(n.dialed, addr)
	node := n.nodes[addr]
	if node == nil || node.down {
		return nil, fmt.Errorf("dial tcp %s: connect: connection refused", addr)
	}
	client, server := net.Pipe()
	c := &fakeConn{node: node, nc: server}
	node.conns = append(node.conns, c)
	n.wg.Go(c.serve)
	return client, nil
}

func (n *fakeNet) dials() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.dialed...)
}

// fakeNode is one node. Its fields are set before the first dial, or with set.
type fakeNode struct {
	net  *fakeNet
	addr string

	// Guarded by net.mu.
	local, peers  *message.RowsResult
	authenticator string
	username      string
	password      string
	max           primitive.ProtocolVersion
	down          bool
	mute          bool // takes requests and answers nothing
	failSchema    bool
	clock         func() message.Message // what now() is answered by; nil refuses it
	conns         []*fakeConn
	seen          []string // requests, one text each
}

func (n *fakeNode) set(change func(*fakeNode)) {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	change(n)
	if n.down {
		n.closeLocked()
	}
}

func (n *fakeNode) closeLocked() {
	for _, c := range n.conns {
		_ = c.nc.Close()
	}
	n.conns = nil
}

// requests returns what the node was asked.
func (n *fakeNode) requests() []string {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	return append([]string(nil), n.seen...)
}

func (n *fakeNode) count(request string) int {
	count := 0
	for _, r := range n.requests() {
		if r == request {
			count++
		}
	}
	return count
}

// event sends an event on every connection that registered.
func (n *fakeNode) event(m message.Message) {
	n.net.mu.Lock()
	conns := append([]*fakeConn(nil), n.conns...)
	n.net.mu.Unlock()
	for _, c := range conns {
		if c.registered.Load() {
			c.send(-1, m)
		}
	}
}

type fakeConn struct {
	node       *fakeNode
	nc         net.Conn
	write      sync.Mutex
	registered atomic.Bool
	version    atomic.Int32 // of the latest request
}

func (c *fakeConn) serve() {
	defer c.nc.Close()
	for {
		header, err := c.codec().DecodeHeader(c.nc)
		if err != nil {
			return
		}
		body, err := c.codec().DecodeBody(header, c.nc)
		if err != nil {
			return
		}
		c.version.Store(int32(header.Version))
		for _, answer := range c.answer(body.Message) {
			if !c.send(header.StreamId, answer) {
				return
			}
		}
	}
}

func (c *fakeConn) send(stream int16, m message.Message) bool {
	c.write.Lock()
	defer c.write.Unlock()
	var buf strings.Builder
	if err := c.codec().EncodeFrame(gcnp.NewFrame(primitive.ProtocolVersion(c.version.Load()), stream, m), &buf); err != nil {
		panic(err)
	}
	_, err := c.nc.Write([]byte(buf.String()))
	return err == nil
}

func (c *fakeConn) codec() gcnp.RawCodec { return gcnp.NewRawCodec() }

func (c *fakeConn) answer(m message.Message) []message.Message {
	n := c.node
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	text := m.GetOpCode().String()
	if q, ok := m.(*message.Query); ok {
		text = q.Query
	}
	n.seen = append(n.seen, text)
	if n.mute {
		return nil
	}
	if c.version.Load() > int32(n.max) {
		c.version.Store(int32(n.max))
		return []message.Message{&message.ProtocolError{ErrorMessage: fmt.Sprintf(
			"Invalid or unsupported protocol version (9); highest supported is %d ", n.max)}}
	}
	switch m := m.(type) {
	case *message.Options:
		return []message.Message{&message.Supported{Options: map[string][]string{"CQL_VERSION": {"3.4.5"}}}}
	case *message.Startup:
		if n.authenticator != "" {
			return []message.Message{&message.Authenticate{Authenticator: n.authenticator}}
		}
		return []message.Message{&message.Ready{}}
	case *message.AuthResponse:
		switch string(m.Token) {
		case "PLAIN":
			return []message.Message{&message.AuthChallenge{Token: []byte("PLAIN-START")}}
		case "\x00" + n.username + "\x00" + n.password:
			return []message.Message{&message.AuthSuccess{}}
		}
		return []message.Message{&message.AuthenticationError{ErrorMessage: "Provided username " + n.username + " and/or password are incorrect"}}
	case *message.Register:
		c.registered.Store(true)
		return []message.Message{&message.Ready{}}
	case *message.Query:
		switch {
		case m.Query == "SELECT * FROM system.local":
			return []message.Message{n.local}
		case m.Query == "SELECT * FROM system.peers":
			return []message.Message{n.peers}
		case m.Query == askClock && n.clock != nil:
			return []message.Message{n.clock()}
		case strings.Contains(m.Query, "system_schema.tables") && n.failSchema:
			return []message.Message{&message.Unauthorized{ErrorMessage: "User app has no SELECT permission on <table system_schema.tables>"}}
		case strings.Contains(m.Query, "system_schema.tables"):
			return []message.Message{textRows("system_schema", "tables", []string{"keyspace_name"}, []string{"system"})}
		case strings.Contains(m.Query, "system_schema.keyspaces"):
			return []message.Message{textRows("system_schema", "keyspaces", []string{"keyspace_name"}, []string{"system"}, []string{"system_auth"}, []string{"Ks"}, []string{"systemic"})}
		case m.Query == `USE "My""KS"`:
			return []message.Message{&message.SetKeyspaceResult{Keyspace: `My"KS`}}
		case strings.HasPrefix(m.Query, "USE "):
			return []message.Message{&message.Invalid{ErrorMessage: "Keyspace 'nope' does not exist"}}
		}
		return []message.Message{&message.Invalid{ErrorMessage: "unconfigured table"}}
	}
	return []message.Message{&message.ServerError{ErrorMessage: "not scripted: " + m.GetOpCode().String()}}
}

// textRows makes a result of text columns.
func textRows(keyspace, table string, columns []string, rows ...[]string) *message.RowsResult {
	result := &message.RowsResult{Metadata: &message.RowsMetadata{ColumnCount: int32(len(columns))}}
	for _, name := range columns {
		result.Metadata.Columns = append(result.Metadata.Columns,
			&message.ColumnMetadata{Keyspace: keyspace, Table: table, Name: name, Type: datatype.Varchar})
	}
	for _, row := range rows {
		var data message.Row
		for _, cell := range row {
			data = append(data, []byte(cell))
		}
		result.Data = append(result.Data, data)
	}
	return result
}
