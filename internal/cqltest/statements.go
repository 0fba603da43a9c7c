package cqltest

import (
	"encoding/binary"
	"regexp"
	"strconv"
	"strings"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
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
		return c.node.systemRows(table, m[1], r.Version)
	}
	row := make(message.Row, len(s.Columns))
	for i, column := range s.Columns {
		if column.Type == datatype.Varchar {
			row[i] = []byte(c.node.Host())
		}
	}
	reply := TypedRows(s.Columns, row)
	if options != nil && options.SkipMetadata {
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

func (n *Node) systemRows(table, selected string, v primitive.ProtocolVersion) Reply {
	keyspace, name, _ := strings.Cut(table, ".")
	var rows [][]cell
	var shape []cell // of an empty table
	switch table {
	case "system.local":
		rows = [][]cell{n.localRow()}
	case "system.peers":
		shape = n.peerRow()
		for _, peer := range n.others() {
			rows = append(rows, peer.peerRow())
		}
	case "system_schema.tables":
		shape = []cell{{"keyspace_name", datatype.Varchar, nil}, {"table_name", datatype.Varchar, nil}, {"flags", datatype.NewSet(datatype.Varchar), nil}}
		for _, t := range n.opts.Tables {
			ks, tn, _ := strings.Cut(t, ".")
			rows = append(rows, []cell{
				{"keyspace_name", datatype.Varchar, []byte(ks)}, {"table_name", datatype.Varchar, []byte(tn)},
				{"flags", datatype.NewSet(datatype.Varchar), textSet([]string{"compound"})},
			})
		}
	case "system_schema.keyspaces":
		shape = []cell{{"keyspace_name", datatype.Varchar, nil}, {"durable_writes", datatype.Boolean, nil}}
	case "system_schema.columns":
		shape = []cell{{"keyspace_name", datatype.Varchar, nil}, {"table_name", datatype.Varchar, nil},
			{"column_name", datatype.Varchar, nil}, {"kind", datatype.Varchar, nil}, {"type", datatype.Varchar, nil}}
	default:
		return Error(primitive.ErrorCodeInvalid, "unconfigured table "+name)
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
			at := -1
			for i, c := range shape {
				if c.name == want {
					at = i
				}
			}
			if at < 0 {
				return Error(primitive.ErrorCodeInvalid, "Undefined column name "+want)
			}
			picked = append(picked, at)
		}
	}
	var columns []*message.ColumnMetadata
	for _, i := range picked {
		columns = append(columns, Column(keyspace, name, shape[i].name, shape[i].t))
	}
	data := message.RowSet{}
	for _, row := range rows {
		var out message.Row
		for _, i := range picked {
			out = append(out, row[i].value)
		}
		data = append(data, out)
	}
	return TypedRows(columns, data...)
}

func (n *Node) localRow() []cell {
	o, ip := &n.opts, n.Addr().Addr().AsSlice()
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
func (n *Node) peerRow() []cell {
	o, ip := &n.opts, n.Addr().Addr().AsSlice()
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

// textSet encodes a set<text>: [int] n, then n [bytes] (v3 and later).
func textSet(items []string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(items)))
	for _, s := range items {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}
