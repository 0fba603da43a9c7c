package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// peerSpec is one node as system tables tell of it; "" is null.
type peerSpec struct {
	addr, rpc, dc, rack string
	id                  byte // last byte of the host id; 0 is null
	noTokens            bool
}

func (p peerSpec) row(local bool) message.Row {
	inet := func(text string) []byte {
		if text == "" {
			return nil
		}
		return netip.MustParseAddr(text).AsSlice()
	}
	text := func(s string) []byte {
		if s == "" {
			return nil
		}
		return []byte(s)
	}
	id, tokens := make([]byte, 16), []byte{0, 0, 0, 1, 0, 0, 0, 1, '7'}
	if id[15] = p.id; p.id == 0 {
		id = nil
	}
	if p.noTokens {
		tokens = nil
	}
	row := message.Row{inet(p.addr), inet(p.rpc), id, text(p.dc), text(p.rack), []byte("4.1.8"), make([]byte, 16), tokens}
	if local {
		row = append(row, []byte("Old Cluster"), []byte("org.apache.cassandra.dht.Murmur3Partitioner"))
	}
	return row
}

// systemTables renders system.local of the first node and system.peers of the
// others.
func systemTables(local peerSpec, peers ...peerSpec) (*message.RowsResult, *message.RowsResult) {
	columns := func(table, address string, more ...string) *message.RowsResult {
		types := []datatype.DataType{datatype.Inet, datatype.Inet, datatype.Uuid, datatype.Varchar, datatype.Varchar, datatype.Varchar, datatype.Uuid, datatype.NewSet(datatype.Varchar)}
		names := append([]string{address, "rpc_address", "host_id", "data_center", "rack", "release_version", "schema_version", "tokens"}, more...)
		rows := &message.RowsResult{Metadata: &message.RowsMetadata{ColumnCount: int32(len(names))}}
		for i, name := range names {
			column := &message.ColumnMetadata{Keyspace: "system", Table: table, Name: name, Type: datatype.Varchar}
			if i < len(types) {
				column.Type = types[i]
			}
			rows.Metadata.Columns = append(rows.Metadata.Columns, column)
		}
		return rows
	}
	l := columns("local", "broadcast_address", "cluster_name", "partitioner")
	l.Data = message.RowSet{local.row(true)}
	p := columns("peers", "peer")
	for _, peer := range peers {
		p.Data = append(p.Data, peer.row(false))
	}
	return l, p
}

func TestTopologyHoldsTheNodesThatMayBeUsed(t *testing.T) {
	t.Parallel()
	a := peerSpec{addr: "10.0.0.1", rpc: "10.0.0.1", dc: "dc1", rack: "r2", id: 1}
	b := peerSpec{addr: "10.0.0.2", rpc: "10.0.0.2", dc: "dc1", rack: "r1", id: 3}
	c := peerSpec{addr: "10.0.0.3", rpc: "10.0.0.3", dc: "dc1", rack: "r1", id: 2}
	far := peerSpec{addr: "10.9.0.1", rpc: "10.9.0.1", dc: "dc2", rack: "r1", id: 9}
	with := func(p peerSpec, change func(*peerSpec)) peerSpec { change(&p); return p }
	tests := []struct {
		name    string
		local   peerSpec
		peers   []peerSpec
		dc      string
		single  bool
		want    string
		wantDC  string
		warning string
	}{
		{name: "alone", local: a, want: "10.0.0.1", wantDC: "dc1"},
		{name: "sorted by rack and host id", local: a, peers: []peerSpec{b, c}, want: "10.0.0.3 10.0.0.2 10.0.0.1", wantDC: "dc1"},
		{name: "other datacenters are left out", local: a, peers: []peerSpec{far, b}, want: "10.0.0.2 10.0.0.1", wantDC: "dc1"},
		{name: "configured datacenter", local: a, peers: []peerSpec{far, b}, dc: "dc2", want: "10.9.0.1", wantDC: "dc2"},
		{name: "unknown datacenter falls back", local: a, peers: []peerSpec{far}, dc: "dc3", want: "10.0.0.1", wantDC: "dc1",
			warning: `origin has no datacenter "dc3" but "dc1", "dc2"; nodes of "dc1" are used; correct origin_local_datacenter`},
		{name: "hosts not assigned", local: with(a, func(p *peerSpec) { p.rpc = "192.168.0.1" }), peers: []peerSpec{b}, single: true, want: "10.0.0.1", wantDC: "dc1"},
		{name: "rpc address 0.0.0.0", local: with(a, func(p *peerSpec) { p.rpc = "0.0.0.0" }),
			peers: []peerSpec{with(b, func(p *peerSpec) { p.rpc = "0.0.0.0" })}, want: "10.0.0.2 10.0.0.1", wantDC: "dc1"},
		{name: "no addresses in system.local", local: with(a, func(p *peerSpec) { p.rpc, p.addr = "", "" }), want: "10.0.0.1", wantDC: "dc1"},
		{name: "rpc address wins over broadcast", local: a, peers: []peerSpec{with(b, func(p *peerSpec) { p.addr = "172.16.0.2" })},
			want: "10.0.0.2 10.0.0.1", wantDC: "dc1"},
		{name: "IPv6", local: a, peers: []peerSpec{with(b, func(p *peerSpec) { p.rpc = "fd00::2" })}, want: "fd00::2 10.0.0.1", wantDC: "dc1"},
		{name: "peers that cannot be read", local: a, peers: []peerSpec{
			with(b, func(p *peerSpec) { p.rpc = "" }),
			with(b, func(p *peerSpec) { p.id = 0 }),
			with(b, func(p *peerSpec) { p.dc = "" }),
			with(b, func(p *peerSpec) { p.noTokens = true }),
		}, want: "10.0.0.1", wantDC: "dc1"},
		{name: "a peer row of the node itself", local: a, peers: []peerSpec{a}, want: "10.0.0.1", wantDC: "dc1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			local, peers := systemTables(test.local, test.peers...)
			topology, warnings, err := topologySource{
				local: local, peers: peers, contact: netip.MustParseAddrPort("10.0.0.1:9042"), version: frame.V4,
				datacenter: test.dc, assignHosts: !test.single, name: "origin",
			}.build()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range topology.Nodes {
				if n.Addr.Port() != 9042 {
					t.Errorf("node %s has the wrong port", n.Addr)
				}
				got = append(got, n.Addr.Addr().String())
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("nodes are %v, want %s", got, test.want)
			}
			if topology.Datacenter != test.wantDC {
				t.Errorf("datacenter is %q, want %q", topology.Datacenter, test.wantDC)
			}
			if strings.Join(warnings, "\n") != test.warning {
				t.Errorf("warnings are %q, want %q", warnings, test.warning)
			}
		})
	}
}

func TestTopologyCarriesWhatSystemLocalSays(t *testing.T) {
	t.Parallel()
	local, peers := systemTables(peerSpec{addr: "10.0.0.1", rpc: "10.0.0.1", dc: "dc1", rack: "r2", id: 1})
	got, _, err := topologySource{local: local, peers: peers, contact: netip.MustParseAddrPort("10.0.0.1:9042"),
		version: frame.V3, authenticator: "A", supported: map[string][]string{"CQL_VERSION": {"3.4.6"}}, assignHosts: true, name: "origin"}.build()
	if err != nil {
		t.Fatal(err)
	}
	want := &Topology{
		Nodes: []Node{{HostID: "00000000-0000-0000-0000-000000000001", Addr: netip.MustParseAddrPort("10.0.0.1:9042"),
			Datacenter: "dc1", Rack: "r2", Release: "4.1.8"}},
		Contact: netip.MustParseAddrPort("10.0.0.1:9042"), Datacenter: "dc1", ClusterName: "Old Cluster",
		Partitioner: "org.apache.cassandra.dht.Murmur3Partitioner", Release: "4.1.8",
		SchemaVersion: "00000000-0000-0000-0000-000000000000", Version: frame.V3, Authenticator: "A",
		Supported: map[string][]string{"CQL_VERSION": {"3.4.6"}}, Local: local, Peers: peers,
	}
	compare := []cmp.Option{cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b *message.RowsResult) bool { return a.Metadata == b.Metadata && cmp.Equal(a.Data, b.Data) })}
	if diff := cmp.Diff(got, want, compare...); diff != "" {
		t.Errorf("got(-) want(+):\n%s", diff)
	}
}

func TestTopologyWarnsOfAPartitionerThatClientsDoNotSee(t *testing.T) {
	t.Parallel()
	local, peers := systemTables(peerSpec{addr: "10.0.0.1", rpc: "10.0.0.1", dc: "dc1", rack: "r2", id: 1})
	local.Data[0][9] = []byte("org.apache.cassandra.dht.ByteOrderedPartitioner")
	_, warnings, err := topologySource{local: local, peers: peers, contact: netip.MustParseAddrPort("10.0.0.1:9042"), name: "target"}.build()
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "ByteOrderedPartitioner") {
		t.Errorf("warnings are %q (%v), want one that names the partitioner", warnings, err)
	}
}

func TestASecondRowThatSomebodyWroteIntoSystemLocalIsNotRead(t *testing.T) {
	t.Parallel()
	local, peers := systemTables(peerSpec{addr: "10.0.0.1", rpc: "10.0.0.1", dc: "dc1", rack: "r2", id: 1})
	local.Metadata.Columns = append(local.Metadata.Columns, &message.ColumnMetadata{Name: "key", Type: datatype.Varchar})
	own := slices.Concat(local.Data[0], message.Row{[]byte("local")})
	stray := make(message.Row, len(own))
	stray[len(own)-1] = []byte("other")
	local.Data = message.RowSet{stray, own}
	got, _, err := topologySource{local: local, peers: peers, contact: netip.MustParseAddrPort("10.0.0.1:9042"), name: "origin"}.build()
	if err != nil {
		t.Fatal(err)
	}
	if got.Datacenter != "dc1" || len(got.Local.Data) != 1 {
		t.Errorf("datacenter %q out of %d rows, want that of the row 'local' alone", got.Datacenter, len(got.Local.Data))
	}
}

func TestTopologyIsRefusedWithoutAReadableSystemLocal(t *testing.T) {
	t.Parallel()
	local, peers := systemTables(peerSpec{addr: "10.0.0.1", rpc: "10.0.0.1", rack: "r2", id: 1})
	for _, rows := range []*message.RowsResult{local, peers} {
		if _, _, err := (topologySource{local: rows, peers: peers}).build(); err == nil || !strings.Contains(err.Error(), "system.local has") {
			t.Errorf("error is %v, want what system.local lacks", err)
		}
	}
}

func TestTopologiesAreEqualWhenEveryCellIs(t *testing.T) {
	t.Parallel()
	build := func(change func(local, peers *message.RowsResult)) *Topology {
		local, peers := systemTables(
			peerSpec{addr: "10.0.0.1", rpc: "10.0.0.1", dc: "dc1", rack: "r", id: 1},
			peerSpec{addr: "10.0.0.2", rpc: "10.0.0.2", dc: "dc1", rack: "r", id: 2})
		change(local, peers)
		topology, _, err := topologySource{local: local, peers: peers, contact: netip.MustParseAddrPort("10.0.0.1:9042"), assignHosts: true}.build()
		if err != nil {
			t.Fatal(err)
		}
		return topology
	}
	same := func(_, _ *message.RowsResult) {}
	base := build(same)
	tests := []struct {
		name             string
		change           func(local, peers *message.RowsResult)
		equal, sameNodes bool
	}{
		{"nothing", same, true, true},
		{"schema version", func(local, _ *message.RowsResult) { local.Data[0][6] = make([]byte, 15) }, false, true},
		{"peer gone", func(_, peers *message.RowsResult) { peers.Data = nil }, false, false},
		{"rack", func(_, peers *message.RowsResult) { peers.Data[0][4] = []byte("other") }, false, false},
		{"column name", func(local, _ *message.RowsResult) { local.Metadata.Columns[8].Name = "clustername" }, false, true},
	}
	for _, test := range tests {
		other := build(test.change)
		if got := fmt.Sprint(base.Equal(other), base.SameNodes(other)); got != fmt.Sprint(test.equal, test.sameNodes) {
			t.Errorf("%s: Equal and SameNodes are %s, want %t %t", test.name, got, test.equal, test.sameNodes)
		}
	}
	if base.Equal(nil) || !(*Topology)(nil).Equal(nil) {
		t.Error("a nil topology must equal nil only")
	}
}
