package cluster

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/endpoint"
)

// Node is one node of a cluster.
type Node struct {
	HostID     string
	Addr       netip.AddrPort
	Datacenter string
	Rack       string
	Release    string
}

// Name is what the node is called in logs, errors and metrics, and dialled by.
func (n Node) Name() string { return endpoint.Name(n.Addr) }

// Topology is a cluster as one of its nodes described it. It is immutable.
type Topology struct {
	// Nodes are those that requests may go to: of the local datacenter, sorted
	// by rack and host id; or only the endpoint of the control connection if
	// hosts are not assigned. Never empty.
	Nodes []Node
	// Contact is the endpoint of the control connection.
	Contact netip.AddrPort
	// Datacenter is the local one.
	Datacenter    string
	ClusterName   string
	Partitioner   string
	Release       string
	SchemaVersion string
	// Version is the protocol version of the control connection, at most v4.
	Version frame.Version
	// Authenticator is the class that asked for a login; "" if none did.
	Authenticator string
	// Supported is what the contact offers to its clients, by option.
	Supported map[string][]string
	// Local and Peers are the answers to SELECT * FROM system.local and
	// system.peers in the layout of Version, for whoever answers these tables.
	Local, Peers *message.RowsResult
}

// Equal reports whether the two describe the same, column by column. A nil
// topology equals only nil.
func (t *Topology) Equal(o *Topology) bool {
	if t == nil || o == nil {
		return t == o
	}
	return t.SameNodes(o) &&
		t.Contact == o.Contact && t.Version == o.Version && t.Authenticator == o.Authenticator &&
		maps.EqualFunc(t.Supported, o.Supported, slices.Equal[[]string]) &&
		t.Datacenter == o.Datacenter && sameRows(t.Local, o.Local) && sameRows(t.Peers, o.Peers)
}

// SameNodes reports whether requests may go to the same nodes.
func (t *Topology) SameNodes(o *Topology) bool {
	if t == nil || o == nil {
		return t == o
	}
	return slices.Equal(t.Nodes, o.Nodes)
}

// SharedNode names a node that both topologies have; "" if there is none.
func (t *Topology) SharedNode(o *Topology) string {
	for _, n := range t.Nodes {
		for _, other := range o.Nodes {
			if n.HostID == other.HostID && n.HostID != "" {
				return n.Name()
			}
		}
	}
	return ""
}

// SchemaAgreed reports whether every node of the cluster that can be read has
// the same schema version. A node that is down may hold on to an old one.
func (t *Topology) SchemaAgreed() bool {
	for i := range t.Peers.Data {
		if v := rowOf(t.Peers, i).uuid("schema_version"); v != "" && v != t.SchemaVersion {
			return false
		}
	}
	return true
}

func sameRows(a, b *message.RowsResult) bool {
	return slices.EqualFunc(a.Metadata.Columns, b.Metadata.Columns, func(x, y *message.ColumnMetadata) bool {
		return x.Name == y.Name && x.Type.AsCql() == y.Type.AsCql()
	}) && slices.EqualFunc(a.Data, b.Data, func(x, y message.Row) bool {
		return slices.EqualFunc(x, y, bytes.Equal)
	})
}

// topologySource is what a topology is built from.
type topologySource struct {
	local, peers  *message.RowsResult
	contact       netip.AddrPort
	version       frame.Version
	authenticator string
	supported     map[string][]string
	// datacenter is the configured one; "" means that of the contact.
	datacenter string
	// assignHosts is false where only the contact may be used.
	assignHosts bool
	// name is the word of error texts: the side.
	name string
}

// build makes the topology, and warnings for the operator. Peers that cannot be
// read (nodes that join or leave) are left out.
func (s topologySource) build() (*Topology, []string, error) {
	var err error
	if s.local, err = onlyLocal(s.local); err != nil {
		return nil, nil, err
	}
	local := rowOf(s.local, 0)
	own := Node{
		HostID:     local.uuid("host_id"),
		Addr:       s.endpoint(local, "rpc_address", "broadcast_address", "listen_address"),
		Datacenter: local.text("data_center"),
		Rack:       local.text("rack"),
		Release:    local.text("release_version"),
	}
	if !s.assignHosts || !own.Addr.Addr().IsValid() {
		own.Addr = s.contact
	}
	if own.Datacenter == "" {
		return nil, nil, errors.New("system.local has no data_center")
	}
	t := &Topology{
		Contact:       s.contact,
		Datacenter:    own.Datacenter,
		ClusterName:   local.text("cluster_name"),
		Partitioner:   local.text("partitioner"),
		Release:       own.Release,
		SchemaVersion: local.uuid("schema_version"),
		Version:       s.version,
		Authenticator: s.authenticator, Supported: s.supported,
		Local: s.local,
		Peers: s.peers,
	}
	var warnings []string
	if class := t.Partitioner[strings.LastIndexByte(t.Partitioner, '.')+1:]; class != "Murmur3Partitioner" && class != "RandomPartitioner" {
		warnings = append(warnings, fmt.Sprintf("%s has the partitioner %q; clients of the proxy see Murmur3Partitioner, so tools that split work by token must go to the cluster itself", s.name, t.Partitioner))
	}
	all := []Node{own}
	if s.assignHosts {
		all = append(all, s.readPeers()...)
	}
	if s.datacenter != "" {
		t.Datacenter = s.datacenter
	}
	inLocal := func(n Node) bool { return n.Datacenter == t.Datacenter }
	if !slices.ContainsFunc(all, inLocal) {
		t.Datacenter = own.Datacenter
		warnings = append(warnings, fmt.Sprintf("%s has no datacenter %q but %s; nodes of %q are used; correct %s_local_datacenter",
			s.name, s.datacenter, strings.Join(datacenters(all), ", "), own.Datacenter, s.name))
	}
	for _, n := range all {
		known := slices.ContainsFunc(t.Nodes, func(o Node) bool { return o.Addr == n.Addr })
		if inLocal(n) && !known {
			t.Nodes = append(t.Nodes, n)
		}
	}
	slices.SortFunc(t.Nodes, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.Rack, b.Rack), cmp.Compare(a.HostID, b.HostID), a.Addr.Compare(b.Addr))
	})
	return t, warnings, nil
}

// readPeers returns the usable peers. A row without host id, address,
// datacenter or tokens is a node that has not joined or a left-over.
func (s topologySource) readPeers() []Node {
	var nodes []Node
	for i := range s.peers.Data {
		r := rowOf(s.peers, i)
		n := Node{
			HostID:     r.uuid("host_id"),
			Addr:       s.endpoint(r, "rpc_address", "peer"),
			Datacenter: r.text("data_center"),
			Rack:       r.text("rack"),
			Release:    r.text("release_version"),
		}
		usable := n.HostID != "" && n.Datacenter != "" && n.Addr.Addr().IsValid() &&
			r.cell("rpc_address") != nil && (!r.has("tokens") || r.cell("tokens") != nil)
		if usable {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// endpoint is where a node is reached: at one of the addresses in its row, or
// by its host id if the contact was.
func (s topologySource) endpoint(r systemRow, columns ...string) netip.AddrPort {
	if endpoint.IsHostID(s.contact) {
		e, _ := endpoint.FromHostID(r.uuid("host_id")) // without one the node is left out
		return e
	}
	return netip.AddrPortFrom(r.address(columns...), s.contact.Port())
}

func datacenters(nodes []Node) []string {
	var names []string
	for _, n := range nodes {
		names = append(names, fmt.Sprintf("%q", n.Datacenter))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// onlyLocal is system.local with the one row whose key is 'local': the table can be
// written to, and has been seen with a second row that some operator left there. A
// node reads only this one.
func onlyLocal(rows *message.RowsResult) (*message.RowsResult, error) {
	for i, cells := range rows.Data {
		if rowOf(rows, i).text("key") == "local" || len(rows.Data) == 1 {
			return &message.RowsResult{Metadata: rows.Metadata, Data: message.RowSet{cells}}, nil
		}
	}
	return nil, fmt.Errorf("system.local has %d rows, and none with the key 'local'", len(rows.Data))
}

// systemRow reads cells of a system table by column name. A column that the
// table lacks reads as null, and null as the zero value.
type systemRow struct {
	columns []*message.ColumnMetadata
	cells   message.Row
}

func rowOf(rows *message.RowsResult, i int) systemRow {
	return systemRow{rows.Metadata.Columns, rows.Data[i]}
}

func (r systemRow) index(column string) int {
	return slices.IndexFunc(r.columns, func(c *message.ColumnMetadata) bool { return c.Name == column })
}

func (r systemRow) has(column string) bool { return r.index(column) >= 0 }

func (r systemRow) cell(column string) []byte {
	if i := r.index(column); i >= 0 && i < len(r.cells) {
		return r.cells[i]
	}
	return nil
}

func (r systemRow) text(column string) string { return string(r.cell(column)) }

func (r systemRow) uuid(column string) string {
	cell := r.cell(column)
	if len(cell) != 16 {
		return ""
	}
	id := primitive.UUID(cell)
	return id.String()
}

// address returns the first of the columns that holds an address that can be
// connected to; 0.0.0.0 and :: cannot.
func (r systemRow) address(columns ...string) netip.Addr {
	for _, column := range columns {
		if addr, ok := netip.AddrFromSlice(r.cell(column)); ok && !addr.IsUnspecified() {
			return addr.Unmap()
		}
	}
	return netip.Addr{}
}
