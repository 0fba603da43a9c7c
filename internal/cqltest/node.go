package cqltest

import (
	"bytes"
	"crypto/md5"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
)

// waitLimit bounds every wait for something that a correct program does within
// milliseconds; a loaded machine of two cores has been seen to take seconds.
const waitLimit = 15 * time.Second

// Options describe a node. The zero value is a node without authentication on
// a free port of 127.0.0.1.
type Options struct {
	Addr               string // "127.67.0.1:0"; port 0 takes a free one and keeps it over restarts
	Username, Password string // both empty: no authentication
	Release            string // release_version, default 4.1.8
	Cluster            string // default "test"
	Datacenter, Rack   string // default dc1, rack1
	HostID             primitive.UUID
	Tokens             []string
	SchemaVersion      primitive.UUID
	ClockAhead         time.Duration // of this machine's clock
	Partitioner        string        // default Murmur3Partitioner
	Tables             []string      // "keyspace.table", rows of system_schema.tables; their keyspaces are those of the node
	// Salt makes this node's prepared ids, and those of result metadata, differ from
	// those of other nodes for the same text (Cassandra's own are the MD5 of keyspace
	// and text).
	Salt string
	// Versions are those of the protocol that it speaks; default v3 and v4.
	Versions []primitive.ProtocolVersion
	// TLS makes the node speak TLS; nil is plain TCP.
	TLS *tls.Config
	// Lenient accepts malformed frames and stream ids that are reused too early
	// instead of failing the test.
	Lenient bool
}

// Node is a fake node. All methods are safe from any goroutine.
type Node struct {
	opts Options
	t    testing.TB
	wg   sync.WaitGroup

	// Guarded by mu, which is never held across I/O or a handler's call.
	mu        sync.Mutex
	addr      netip.AddrPort
	peers     []*Node
	listener  net.Listener
	conns     map[*conn]struct{}
	accepted  int
	handler   func(Request) Reply
	requests  []Request
	described map[string]Statement // by text
	prepared  map[string]prepared  // by id
	changed   chan struct{}        // closed and replaced at each change that a waiter may look for
	frozen    chan struct{}        // non-nil while frozen, closed by Thaw
	ended     bool                 // the test is over
}

// bounds are the lowest and the greatest version, DSE's apart if there are others.
func (o *Options) bounds() (lowest, greatest primitive.ProtocolVersion) {
	for _, v := range slices.Sorted(slices.Values(o.Versions)) {
		if lowest == 0 {
			lowest, greatest = v, v
		} else if !v.IsDse() {
			greatest = v
		}
	}
	return lowest, greatest
}

// versionNames are the versions as SUPPORTED has them.
func (o *Options) versionNames() (names []string) {
	for _, v := range o.Versions {
		if v.IsDse() {
			names = append(names, fmt.Sprintf("%d/dse-v%d", v, v&0x3f))
		} else {
			names = append(names, fmt.Sprintf("%d/v%d", v, v))
		}
	}
	return names
}

type prepared struct {
	text, keyspace string
	statement      Statement
}

// Statement is what PREPARE says of a statement.
type Statement struct {
	Variables []*message.ColumnMetadata
	Key       []uint16                  // indices of the partition key's variables
	Columns   []*message.ColumnMetadata // nil for all but SELECT
}

func (s Statement) prepared(id []byte, salt string) *message.PreparedResult {
	return &message.PreparedResult{
		PreparedQueryId:   id,
		ResultMetadataId:  s.resultID(salt),
		VariablesMetadata: &message.VariablesMetadata{PkIndices: s.Key, Columns: s.Variables},
		ResultMetadata:    &message.RowsMetadata{ColumnCount: int32(len(s.Columns)), Columns: s.Columns},
	}
}

// resultID is that of the columns (v5, DSE_V2): a digest of them, as in Cassandra.
func (s Statement) resultID(salt string) []byte {
	h := md5.New()
	h.Write([]byte(salt))
	for _, c := range s.Columns {
		fmt.Fprintf(h, "%s.%s.%s %s\x00", c.Keyspace, c.Table, c.Name, c.Type)
	}
	return h.Sum(nil)
}

// Start listens and serves until the test ends.
func Start(t testing.TB, opts Options) *Node {
	t.Helper()
	n := newNode(t, opts)
	if err := n.listen(); err != nil {
		t.Fatalf("start fake node: %v", err)
	}
	return n
}

func newNode(t testing.TB, opts Options) *Node {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&opts.Addr, "127.0.0.1:0")
	set(&opts.Release, "4.1.8")
	set(&opts.Cluster, "test")
	set(&opts.Datacenter, "dc1")
	set(&opts.Rack, "rack1")
	set(&opts.Partitioner, "org.apache.cassandra.dht.Murmur3Partitioner")
	if opts.Versions == nil {
		opts.Versions = []primitive.ProtocolVersion{primitive.ProtocolVersion3, primitive.ProtocolVersion4}
	}
	if opts.Tokens == nil {
		opts.Tokens = []string{"-9223372036854775808"}
	}
	if opts.SchemaVersion == (primitive.UUID{}) {
		opts.SchemaVersion = primitive.UUID(md5.Sum([]byte(opts.Cluster)))
	}
	n := &Node{
		opts: opts, t: t,
		conns:     map[*conn]struct{}{},
		described: map[string]Statement{},
		prepared:  map[string]prepared{},
		changed:   make(chan struct{}),
	}
	t.Cleanup(n.end)
	return n
}

// Addr is where the node listens; it stays the same over Stop and Restart.
func (n *Node) Addr() netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addr
}

// Host is the address without the port.
func (n *Node) Host() string { return n.Addr().Addr().String() }

// Port is the port.
func (n *Node) Port() int { return int(n.Addr().Port()) }

// HostID is the node's host id as text.
func (n *Node) HostID() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.opts.HostID.String()
}

// Handle makes f decide about every request from now on, those of the
// handshake and of control connections too; nil removes it. f runs in the
// connection's own goroutine: while it does not return, the connection is not
// read. It may call the node's methods.
func (n *Node) Handle(f func(Request) Reply) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handler = f
}

// SetPassword changes the password, as ALTER ROLE does: connections stay.
func (n *Node) SetPassword(password string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.opts.Password = password
}

// SetSchemaVersion changes the version of the schema, without an event.
func (n *Node) SetSchemaVersion(v primitive.UUID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.opts.SchemaVersion = v
}

func (n *Node) options() Options {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.opts
}

func (n *Node) credentials() (username, password string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.opts.Username, n.opts.Password
}

// Describe sets what PREPARE of exactly this text answers. Without it a SELECT
// has the columns k and node (both text), and every ? is a text variable.
func (n *Node) Describe(text string, s Statement) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.described[text] = s
}

// Forget evicts one prepared statement by its id or, with nil, all of them.
func (n *Node) Forget(id []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if id == nil {
		clear(n.prepared)
	}
	delete(n.prepared, string(id))
}

// Knows reports whether an id is prepared here.
func (n *Node) Knows(id []byte) bool {
	_, ok := n.lookup(id)
	return ok
}

// PreparedID is the id that PREPARE of the text in the keyspace gives here.
func (n *Node) PreparedID(keyspace, text string) []byte {
	sum := md5.Sum([]byte(n.opts.Salt + keyspace + text))
	return sum[:]
}

func (n *Node) remember(keyspace, text string) ([]byte, Statement) {
	id := n.PreparedID(keyspace, text)
	n.mu.Lock()
	defer n.mu.Unlock()
	s, ok := n.described[text]
	if !ok {
		s = guess(text)
	}
	n.prepared[string(id)] = prepared{text: text, keyspace: keyspace, statement: s}
	return id, s
}

func (n *Node) lookup(id []byte) (prepared, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.prepared[string(id)]
	return p, ok
}

// Requests returns what was received so far, in order of receipt.
func (n *Node) Requests(filters ...Filter) []Request {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.selected(filters)
}

func (n *Node) selected(filters []Filter) []Request {
	var out []Request
	for _, r := range n.requests {
		if matches(r, filters) {
			out = append(out, r)
		}
	}
	return out
}

// ClearRequests forgets the requests received so far.
func (n *Node) ClearRequests() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requests = nil
}

// WaitFor returns the matching requests once there are at least count, and
// fails the test with what was received when that takes too long.
func (n *Node) WaitFor(t testing.TB, count int, filters ...Filter) []Request {
	t.Helper()
	var found []Request
	if !n.wait(func() bool { found = n.selected(filters); return len(found) >= count }) {
		all := n.Requests()
		lines := make([]string, len(all))
		for i, r := range all {
			lines[i] = r.String()
		}
		t.Fatalf("node %s received %d matching requests, want %d; all:\n%s", n.Addr(), len(found), count, strings.Join(lines, "\n"))
	}
	return found
}

// WaitConnections waits until exactly count connections are open.
func (n *Node) WaitConnections(t testing.TB, count int) {
	t.Helper()
	var got int
	if !n.wait(func() bool { got = len(n.conns); return got == count }) {
		t.Fatalf("node %s has %d connections, want %d", n.Addr(), got, count)
	}
}

// Connections is the number of open connections.
func (n *Node) Connections() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

// wait polls done, which runs under mu, at each change until the limit.
func (n *Node) wait(done func() bool) bool {
	timer := time.NewTimer(waitLimit)
	defer timer.Stop()
	for {
		n.mu.Lock()
		ok, changed := done(), n.changed
		n.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		}
	}
}

// signal wakes waiters. The caller holds mu.
func (n *Node) signal() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Emit sends an event to every connection that registered, and returns to how
// many.
func (n *Node) Emit(event message.Event) int {
	n.mu.Lock()
	var to []*conn
	for c := range n.conns {
		if c.registered {
			to = append(to, c)
		}
	}
	n.mu.Unlock()
	for _, c := range to {
		c.send(encode(n.t, Message(event).frame(c.lastVersion(), -1)), false)
	}
	return len(to)
}

// RefuseConnections closes the listener and leaves connections open.
func (n *Node) RefuseConnections() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listener != nil {
		n.listener.Close()
		n.listener = nil
	}
}

// DropConnections resets every open connection; new ones are accepted.
func (n *Node) DropConnections() {
	n.mu.Lock()
	open := make([]*conn, 0, len(n.conns))
	for c := range n.conns {
		open = append(open, c)
	}
	n.mu.Unlock()
	for _, c := range open {
		c.reset()
	}
}

// Stop is the death of the process: the listener closes, every connection is
// reset, prepared statements are forgotten.
func (n *Node) Stop() {
	n.RefuseConnections()
	n.DropConnections()
	n.Forget(nil)
}

// Restart listens again at the same address after Stop or RefuseConnections.
func (n *Node) Restart() {
	n.t.Helper()
	if err := n.listen(); err != nil {
		n.t.Fatalf("restart fake node: %v", err)
	}
}

// Freeze is SIGSTOP: the kernel still accepts connections and bytes, the node
// reads and answers nothing until Thaw.
func (n *Node) Freeze() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.frozen == nil {
		n.frozen = make(chan struct{})
	}
}

// Thaw ends Freeze.
func (n *Node) Thaw() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.frozen != nil {
		close(n.frozen)
		n.frozen = nil
	}
}

func (n *Node) gate() chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.frozen
}

func (n *Node) listen() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listener != nil || n.ended {
		return nil
	}
	at := n.opts.Addr
	if n.addr.IsValid() {
		at = n.addr.String()
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	n.listener, n.addr = l, netip.MustParseAddrPort(l.Addr().String())
	if n.opts.HostID == (primitive.UUID{}) {
		n.opts.HostID = primitive.UUID(md5.Sum([]byte(n.addr.Addr().String())))
	}
	n.wg.Add(1)
	go n.accept(l)
	return nil
}

func (n *Node) accept(l net.Listener) {
	defer n.wg.Done()
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		n.mu.Lock()
		if n.ended || n.listener != l {
			n.mu.Unlock()
			nc.Close()
			continue
		}
		n.accepted++
		if n.opts.TLS != nil {
			nc = tls.Server(nc, n.opts.TLS)
		}
		c := newConn(n, nc, n.accepted)
		n.conns[c] = struct{}{}
		n.signal()
		n.wg.Add(1)
		n.mu.Unlock()
		go func() {
			defer n.wg.Done()
			c.serve()
			n.mu.Lock()
			delete(n.conns, c)
			n.signal()
			n.mu.Unlock()
		}()
	}
}

// end runs when the test ends.
func (n *Node) end() {
	n.mu.Lock()
	n.ended = true
	n.mu.Unlock()
	n.Stop()
	n.Thaw()
	n.wg.Wait()
}

// statementText returns the text of a prepared id, "" when it is not known.
func (n *Node) statementText(id []byte) string {
	p, _ := n.lookup(id)
	return p.text
}

func (n *Node) record(r Request) (handler func(Request) Reply) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requests = append(n.requests, r)
	n.signal()
	return n.handler
}

// others are the cluster's other nodes.
func (n *Node) others() []*Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.peers)
}

func encode(t testing.TB, f *frame.Frame) []byte {
	var b bytes.Buffer
	if err := codec.EncodeFrame(f, &b); err != nil {
		t.Errorf("fake node: encode %v: %v", f, err)
	}
	// In a request with the tracing flag the codec counts an id that is not there.
	out := b.Bytes()
	binary.BigEndian.PutUint32(out[5:], uint32(len(out)-headerLen))
	return out
}
