// Package virtual answers SELECT on system.local and system.peers, so that
// clients see the ring of proxies in the place of the cluster's nodes: each
// proxy is a node with its own address, host id, rack and tokens, and
// everything else is as a real cluster tells it. Address rules and formulas are
// those of DataStax ZDM, so that both can serve in one ring.
//
// Floor 2: pure. It knows the CQL of these two tables and their bytes, nothing
// of connections, phases or who asks; whoever asks adds tracing ids, custom
// payload and the frame. No goroutines: Tables, Select and Prepared are
// immutable and safe for concurrent use.
package virtual

import (
	"bytes"
	"cmp"
	"crypto/sha1" //nolint:gosec // UUID version 5 is made with it.
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	"github.com/datastax/go-cassandra-native-protocol/message"

	"github.com/zdmproject/terraform-provider-zdm/proxy/rewrite"
)

// Ring is the proxies that clients see as nodes. Every proxy has the same
// Addresses in the same order.
type Ring struct {
	Addresses []netip.Addr
	Index     int // of this proxy
	NumTokens int // of each proxy, 1 to 256
	Port      int // where every proxy listens
}

// Real is what the cluster behind says: its answers to SELECT * on both
// tables, and its local datacenter.
type Real struct {
	Local, Peers *message.RowsResult
	Datacenter   string
}

// Proxy is one proxy as clients see it.
type Proxy struct {
	Addr   netip.Addr
	HostID [16]byte
	Tokens []int64
}

// Rack of every proxy, and the partitioner that they are said to have.
const (
	rack        = "rack0"
	partitioner = "org.apache.cassandra.dht.Murmur3Partitioner"
)

// Proxies computes the members of the ring. Token t of proxy i of n with T
// tokens each is floor(2^64/(T*n))*(t*n+i) - 2^63, and the host id is the
// UUID version 5 of the address's 16 bytes in the nil name space.
func (r Ring) Proxies() []Proxy {
	n := uint64(len(r.Addresses))
	step := uint64(0)
	if total := n * uint64(r.NumTokens); total > 1 {
		step, _ = bits.Div64(1, 0, total)
	}
	proxies := make([]Proxy, n)
	for i, addr := range r.Addresses {
		p := Proxy{Addr: addr.Unmap(), HostID: hostID(addr), Tokens: make([]int64, r.NumTokens)}
		for t := range p.Tokens {
			p.Tokens[t] = int64(step*(uint64(t)*n+uint64(i)) - 1<<63)
		}
		proxies[i] = p
	}
	return proxies
}

func hostID(addr netip.Addr) [16]byte {
	name := addr.As16()
	hash := sha1.New() //nolint:gosec // see the import
	hash.Write(make([]byte, 16))
	hash.Write(name[:])
	var id [16]byte
	copy(id[:], hash.Sum(nil))
	id[6] = id[6]&0x0F | 0x50 // version 5
	id[8] = id[8]&0x3F | 0x80 // RFC 9562 variant
	return id
}

// Tables is the two tables with their rows.
type Tables struct {
	local, peers table
	values       *rewrite.Source // of now() and its like
}

// table is one of them. Its rows have a cell for each column, nil for null.
type table struct {
	name    string
	key     string // the partition key
	columns []*message.ColumnMetadata
	rows    []message.Row
}

// New makes the tables of a ring in front of a cluster. The tables have exactly
// the columns that the cluster's have.
func New(ring Ring, real Real) (*Tables, error) {
	switch {
	case len(ring.Addresses) == 0:
		return nil, errors.New("virtual tables: no proxy addresses")
	case ring.Index < 0 || ring.Index >= len(ring.Addresses):
		return nil, fmt.Errorf("virtual tables: index %d is not one of %d proxies", ring.Index, len(ring.Addresses))
	case ring.NumTokens < 1 || ring.NumTokens > 256:
		return nil, fmt.Errorf("virtual tables: %d tokens are not within 1 to 256", ring.NumTokens)
	case real.Local == nil || len(real.Local.Data) == 0 || real.Peers == nil:
		return nil, errors.New("virtual tables: nothing is known of the cluster")
	}
	nodes := realNodes(real)
	t := &Tables{
		values: rewrite.NewSource(time.Now),
		local:  table{name: "local", key: "key", columns: real.Local.Metadata.Columns},
		peers:  table{name: "peers", key: "peer", columns: real.Peers.Metadata.Columns},
	}
	own := record{real.Local.Metadata.Columns, real.Local.Data[0]}
	for i, p := range ring.Proxies() {
		node := nodes[i%len(nodes)]
		if i == ring.Index {
			t.local.rows = append(t.local.rows, t.local.row(p, ring.Port, node, own))
		} else {
			t.peers.rows = append(t.peers.rows, t.peers.row(p, ring.Port, node, node))
		}
	}
	return t, nil
}

// fromNode are the columns of a real node that a proxy shows, if the node has
// them; a proxy's own row has the rest from the real system.local.
var fromNode = []string{
	"data_center", "schema_version", "release_version", "dse_version", "workload", "workloads", "graph", "server_id",
	"storage_port", "storage_port_ssl", "jmx_port",
}

// row renders a proxy, with what it shows of a real node and of rest.
func (t *table) row(p Proxy, port int, node, rest record) message.Row {
	row := make(message.Row, len(t.columns))
	for i, c := range t.columns {
		switch {
		case c.Type.Code() == datatype.Inet.Code():
			row[i] = p.Addr.AsSlice()
		case c.Name == "host_id":
			row[i] = p.HostID[:]
		case c.Name == "rack":
			row[i] = []byte(rack)
		case c.Name == "partitioner":
			row[i] = []byte(partitioner)
		case c.Name == "tokens":
			row[i] = tokenSet(p.Tokens)
		case c.Name == "native_transport_port", c.Name == "native_transport_port_ssl", c.Name == "rpc_port":
			row[i] = binary.BigEndian.AppendUint32(nil, uint32(port))
		case c.Name == "truncated_at":
			// null: nothing was truncated here
		case slices.Contains(fromNode, c.Name) && node.has(c.Name):
			row[i] = node.cell(c.Name)
		default:
			row[i] = rest.cell(c.Name)
		}
	}
	return row
}

// tokenSet encodes a set<text> as of protocol version 3: [int] n, then n times
// [bytes], in the order of the text.
func tokenSet(tokens []int64) []byte {
	texts := make([]string, len(tokens))
	for i, t := range tokens {
		texts[i] = strconv.FormatInt(t, 10)
	}
	slices.Sort(texts)
	out := binary.BigEndian.AppendUint32(nil, uint32(len(texts)))
	for _, t := range texts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(t)))
		out = append(out, t...)
	}
	return out
}

// record is a row of a real table.
type record struct {
	columns []*message.ColumnMetadata
	cells   message.Row
}

func (r record) index(name string) int {
	return slices.IndexFunc(r.columns, func(c *message.ColumnMetadata) bool { return c.Name == name })
}

func (r record) has(name string) bool { return r.index(name) >= 0 }

func (r record) cell(name string) []byte {
	if i := r.index(name); i >= 0 && i < len(r.cells) {
		return r.cells[i]
	}
	return nil
}

// realNodes returns the nodes of the local datacenter by rack and host id; if
// none can be read, the node of system.local.
func realNodes(real Real) []record {
	all := []record{{real.Local.Metadata.Columns, real.Local.Data[0]}}
	for _, row := range real.Peers.Data {
		all = append(all, record{real.Peers.Metadata.Columns, row})
	}
	var nodes []record
	for _, r := range all {
		if string(r.cell("data_center")) == real.Datacenter && len(r.cell("host_id")) == 16 {
			nodes = append(nodes, r)
		}
	}
	slices.SortStableFunc(nodes, func(a, b record) int {
		return cmp.Or(bytes.Compare(a.cell("rack"), b.cell("rack")), bytes.Compare(a.cell("host_id"), b.cell("host_id")))
	})
	if len(nodes) == 0 {
		return all[:1]
	}
	return nodes
}
