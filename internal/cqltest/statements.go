package cqltest

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	"github.com/datastax/go-cassandra-native-protocol/message"
)

var (
	selectFrom = regexp.MustCompile(`(?is)^\s*select\s+(.+?)\s+from\s+("?\w+"?(?:\."?\w+"?)?)`)
	useName    = regexp.MustCompile(`(?is)^\s*use\s+("?\w+"?)`)
)

func itoa(n int) string { return strconv.Itoa(n) }

// guess describes a statement that the test did not: text variables p0, p1, ...
// with p0 as the key, and the columns k and node for a SELECT.
func guess(text string) Statement {
	var s Statement
	for i := range strings.Count(text, "?") {
		s.Variables = append(s.Variables, Column("ks", "t", "p"+itoa(i), datatype.Varchar))
	}
	if len(s.Variables) > 0 {
		s.Key = []uint16{0}
	}
	if hasKeyword(text, "SELECT") {
		s.Columns = TextColumns("k", "node")
	}
	return s
}

// run is what a statement does: USE and the system tables as in Cassandra, any
// other SELECT one row whose text columns hold the node's address, so that a
// test sees who answered, and everything else Void.
func (c *conn) run(r Request, text string, s Statement, options *message.QueryOptions) Reply {
	if m := useName.FindStringSubmatch(text); m != nil {
		name := strings.ToLower(m[1])
		if strings.HasPrefix(m[1], `"`) {
			name = strings.Trim(m[1], `"`)
		}
		c.mu.Lock()
		c.keyspace = name
		c.mu.Unlock()
		return SetKeyspace(name)
	}
	m := selectFrom.FindStringSubmatch(text)
	if m == nil {
		return Void()
	}
	table := strings.ToLower(strings.ReplaceAll(m[2], `"`, ""))
	if r.Keyspace == "system" && !strings.Contains(table, ".") {
		table = "system." + table
	}
	if strings.HasPrefix(table, "system") {
		return c.node.systemRows(table, m[1])
	}
	row := make(message.Row, len(s.Columns))
	for i, column := range s.Columns {
		if column.Type == datatype.Varchar {
			row[i] = []byte(c.node.Host())
		}
	}
	reply := TypedRows(s.Columns, row)
	current := true
	if m, ok := r.Message.(*message.Execute); ok && r.Version.SupportsResultMetadataId() {
		current = bytes.Equal(m.ResultMetadataId, s.resultID(c.node.opts.Salt))
	}
	if options != nil && options.SkipMetadata && current {
		reply.message.(*message.RowsResult).Metadata.Columns = nil
	}
	return reply
}

// cell is a column and its value in one row.
type cell struct {
	name  string
	t     datatype.DataType
	value []byte
}

func (n *Node) systemRows(table, selected string) Reply {
	var peers [][]cell
	for _, peer := range n.others() {
		o := peer.options()
		peers = append(peers, o.peerRow(peer.Addr().Addr()))
	}
	o := n.options()
	return Message(o.system(n.Addr().Addr(), peers, table, selected))
}

// SystemAnswer is what a node of these options at this address, alone in its
// cluster, answers to a SELECT on a system table; ok is false for any other
// statement. It is for programs that are not a Node, such as benchmark stubs;
// unlike Start it fills in no defaults.
func SystemAnswer(o Options, at netip.Addr, text string) (answer message.Message, ok bool) {
	m := selectFrom.FindStringSubmatch(text)
	if m == nil || !hasKeyword(m[2], "system") {
		return nil, false
	}
	return o.system(at, nil, strings.ToLower(m[2]), m[1]), true
}

func (o *Options) system(at netip.Addr, peers [][]cell, table, selected string) message.Message {
	keyspace, name, _ := strings.Cut(table, ".")
	var rows [][]cell
	var shape []cell // of an empty table
	text := func(name, value string) cell { return cell{name, datatype.Varchar, []byte(value)} }
	switch table {
	case "system.local":
		rows = [][]cell{o.localRow(at)}
	case "system.peers":
		shape, rows = o.peerRow(at), peers
	case "system_schema.tables":
		shape = []cell{text("keyspace_name", ""), text("table_name", ""), {"flags", datatype.NewSet(datatype.Varchar), nil}}
		for _, t := range o.Tables {
			ks, tn, _ := strings.Cut(t, ".")
			rows = append(rows, []cell{text("keyspace_name", ks), text("table_name", tn),
				{"flags", datatype.NewSet(datatype.Varchar), textSet([]string{"compound"})}})
		}
	case "system_schema.keyspaces":
		shape = []cell{text("keyspace_name", ""), {"durable_writes", datatype.Boolean, nil}}
		seen := map[string]bool{}
		for _, t := range o.Tables {
			if ks, _, _ := strings.Cut(t, "."); !seen[ks] {
				seen[ks] = true
				rows = append(rows, []cell{text("keyspace_name", ks), {"durable_writes", datatype.Boolean, []byte{1}}})
			}
		}
	case "system_schema.columns":
		shape = []cell{text("keyspace_name", ""), text("table_name", ""), text("column_name", ""), text("kind", ""), text("type", "")}
	default:
		return &message.Invalid{ErrorMessage: "unconfigured table " + name}
	}
	if len(rows) > 0 {
		shape = rows[0]
	}
	var picked []int
	if strings.TrimSpace(selected) == "*" {
		for i := range shape {
			picked = append(picked, i)
		}
	} else {
		for _, want := range strings.Split(selected, ",") {
			want = strings.ToLower(strings.TrimSpace(want))
			if want == "now()" {
				for i := range rows {
					rows[i] = append(rows[i], cell{"system.now()", datatype.Timeuuid, TimeUUID(time.Now().Add(o.ClockAhead))})
				}
				shape = append(shape, cell{"system.now()", datatype.Timeuuid, nil})
				want = "system.now()"
			}
			at := slices.IndexFunc(shape, func(c cell) bool { return c.name == want })
			if at < 0 {
				return &message.Invalid{ErrorMessage: "Undefined column name " + want}
			}
			picked = append(picked, at)
		}
	}
	result := &message.RowsResult{Metadata: &message.RowsMetadata{ColumnCount: int32(len(picked))}, Data: message.RowSet{}}
	for _, i := range picked {
		result.Metadata.Columns = append(result.Metadata.Columns, Column(keyspace, name, shape[i].name, shape[i].t))
	}
	for _, row := range rows {
		var out message.Row
		for _, i := range picked {
			out = append(out, row[i].value)
		}
		result.Data = append(result.Data, out)
	}
	return result
}

func (o *Options) localRow(at netip.Addr) []cell {
	ip := at.AsSlice()
	text := func(name, value string) cell { return cell{name, datatype.Varchar, []byte(value)} }
	return []cell{
		text("key", "local"),
		text("bootstrapped", "COMPLETED"),
		{"broadcast_address", datatype.Inet, ip},
		text("cluster_name", o.Cluster),
		text("cql_version", "3.4.6"),
		text("data_center", o.Datacenter),
		{"host_id", datatype.Uuid, o.HostID[:]},
		{"listen_address", datatype.Inet, ip},
		text("native_protocol_version", "4"),
		text("partitioner", o.Partitioner),
		text("rack", o.Rack),
		text("release_version", o.Release),
		{"rpc_address", datatype.Inet, ip},
		{"schema_version", datatype.Uuid, o.SchemaVersion[:]},
		{"tokens", datatype.NewSet(datatype.Varchar), textSet(o.Tokens)},
	}
}

// peerRow is the row of this node in another one's system.peers.
func (o *Options) peerRow(at netip.Addr) []cell {
	ip := at.AsSlice()
	return []cell{
		{"peer", datatype.Inet, ip},
		{"data_center", datatype.Varchar, []byte(o.Datacenter)},
		{"host_id", datatype.Uuid, o.HostID[:]},
		{"preferred_ip", datatype.Inet, nil},
		{"rack", datatype.Varchar, []byte(o.Rack)},
		{"release_version", datatype.Varchar, []byte(o.Release)},
		{"rpc_address", datatype.Inet, ip},
		{"schema_version", datatype.Uuid, o.SchemaVersion[:]},
		{"tokens", datatype.NewSet(datatype.Varchar), textSet(o.Tokens)},
	}
}

// TimeUUID is what now() gives at a time: as in Cassandra, in whole milliseconds.
func TimeUUID(at time.Time) []byte {
	const epoch = 0x01B21DD213814000 // 1582-10-15 to 1970, in ticks of 100 ns
	ticks := uint64(at.UnixMilli())*10_000 + epoch
	id := binary.BigEndian.AppendUint32(nil, uint32(ticks))
	id = binary.BigEndian.AppendUint16(id, uint16(ticks>>32))
	id = binary.BigEndian.AppendUint16(id, uint16(ticks>>48)|1<<12)
	return append(id, 0x80, 0, 0, 0, 0, 0, 0, 1)
}

// textSet encodes a set<text>: [int] n, then n [bytes] (v3 and later).
func textSet(items []string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(items)))
	for _, s := range items {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}
