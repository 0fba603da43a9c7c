package main

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	rawframe "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
)

// table is one of those that the load reads and writes. The dual relay tells
// reads from writes by the first byte of the prepared id, which is the text's,
// too; the stub tells the table by the second.
type table struct {
	name    string
	columns int
	value   int // bytes in each column
}

var tables = []table{{"t", 1, 100}, {"t100k", 1, 100 << 10}, {"t1m", 1, 1 << 20}, {"wide", 200, 50}}

func tableOf(text string) int {
	return max(0, slices.IndexFunc(tables, func(t table) bool { return strings.Contains(text, "bench."+t.name+" ") }))
}

func (t table) read() string { return "SELECT " + t.list() + " FROM bench." + t.name + " WHERE k = ?" }

func (t table) write() string {
	return "INSERT INTO bench." + t.name + " (k, " + t.list() + ") VALUES (?" + strings.Repeat(", ?", t.columns) + ")"
}

func (t table) list() string {
	names := make([]string, t.columns)
	for i := range names {
		names[i] = fmt.Sprint("v", i)
	}
	return strings.Join(names, ", ")
}

func (t table) metadata() []*message.ColumnMetadata {
	var columns []*message.ColumnMetadata
	for name := range strings.SplitSeq(t.list(), ", ") {
		columns = append(columns, cqltest.Column("bench", t.name, name, datatype.Varchar))
	}
	return columns
}

func (t table) row() message.Row {
	row := make(message.Row, t.columns)
	for i := range row {
		row[i] = value(t.value)
	}
	return row
}

// value is text of n bytes, which LZ4 makes a little shorter.
func value(n int) []byte {
	const text = `{"name":"Ada Lovelace","born":1815,"city":"London","of":["mathematics","poetry"],"wrote":"Note G"} `
	return []byte(strings.Repeat(text, n/len(text)+1)[:n])
}

// Every statement begins with this, or it writes.
const readVerb = "SELECT"

var codec = rawframe.NewRawCodec()

func frameOf(m message.Message, v frame.Version) *rawframe.Frame {
	return rawframe.NewFrame(primitive.ProtocolVersion(v), 0, m)
}

func preparedID(text string) []byte {
	sum := md5.Sum([]byte(text))
	sum[0], sum[1] = text[0], byte(tableOf(text))
	return sum[:]
}

// stub is a node that answers without looking anything up.
type stub struct {
	at     netip.AddrPort
	system cqltest.Options

	loop *loop

	// Whole answers, by table; the stream id and the version are patched in.
	void           []byte
	rows, rowsBare [][]byte
}

// runStub serves at an address, prints the one it took and never returns
// without an error.
func runStub(address, name string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	l, err := newLoop()
	if err != nil {
		return err
	}
	if at, err = l.listen(at); err != nil {
		return err
	}
	s := &stub{
		at: at, loop: l,
		system: cqltest.Options{
			Release: "4.1.8", Cluster: name, Datacenter: "dc1", Rack: "rack1", Tokens: []string{"0"}, Tables: []string{"bench.t"},
			Partitioner: "org.apache.cassandra.dht.Murmur3Partitioner",
			HostID:      md5.Sum([]byte(name)), SchemaVersion: md5.Sum([]byte("schema")),
		},
		void: encode(&message.VoidResult{}, frame.V4),
	}
	for _, t := range tables {
		columns := t.metadata()
		s.rows = append(s.rows, encode(&message.RowsResult{Metadata: &message.RowsMetadata{ColumnCount: int32(t.columns), Columns: columns}, Data: message.RowSet{t.row()}}, frame.V4))
		s.rowsBare = append(s.rowsBare, encode(&message.RowsResult{Metadata: &message.RowsMetadata{ColumnCount: int32(t.columns)}, Data: message.RowSet{t.row()}}, frame.V4))
	}
	l.frame = s.answer
	fmt.Println(at)
	for {
		if err := l.poll(-1); err != nil {
			return err
		}
	}
}

func (s *stub) answer(c *socket, f []byte) {
	reply := s.void
	switch op, body := primitive.OpCode(f[4]), f[headerLen:]; op {
	case primitive.OpCodeExecute:
		id := body[2:] // [short] length in front
		if id[0] == readVerb[0] {
			if reply = s.rowsBare[id[1]]; tables[id[1]].columns > 1 {
				reply = s.rows[id[1]]
			}
		}
	case primitive.OpCodeQuery:
		text := body[4 : 4+binary.BigEndian.Uint32(body)]
		if text[0] == readVerb[0] {
			reply = s.rows[0]
			if bytes.Contains(text, []byte("system")) {
				reply = s.ask(f)
			}
		}
	default:
		reply = s.ask(f)
	}
	at := len(c.out)
	c.out = append(c.out, reply...)
	c.out[at] = f[0] | 0x80
	copy(c.out[at+2:at+4], f[2:4])
	if primitive.OpCode(f[4]) == primitive.OpCodeStartup && frame.Version(f[0]) == frame.V5 {
		s.loop.flush(c) // the answer is the last that is not in a segment
		c.source = frame.NewSegmentReader(c.source, false)
		c.pack = func(dst, frames []byte) []byte { return frame.AppendSegments(dst, frames, false) }
	}
}

// ask answers what comes once for each connection.
func (s *stub) ask(raw []byte) []byte {
	v := frame.Version(raw[0])
	encode := func(m message.Message) []byte { return encode(m, v) }
	f, err := codec.DecodeFrame(bytes.NewReader(raw))
	if err != nil {
		return encode(&message.ProtocolError{ErrorMessage: err.Error()})
	}
	switch m := f.Body.Message.(type) {
	case *message.Options:
		return encode(&message.Supported{Options: map[string][]string{"CQL_VERSION": {"3.4.6"}, "COMPRESSION": {}, "PROTOCOL_VERSIONS": {"3/v3", "4/v4", "5/v5"}}})
	case *message.Startup, *message.Register:
		return encode(&message.Ready{})
	case *message.Query:
		if answer, ok := cqltest.SystemAnswer(s.system, s.at.Addr(), m.Query); ok {
			return encode(answer)
		}
	case *message.Prepare:
		if answer, ok := cqltest.SystemAnswer(s.system, s.at.Addr(), m.Query); ok {
			columns := &message.RowsMetadata{}
			if rows, ok := answer.(*message.RowsResult); ok {
				columns = rows.Metadata
			}
			return encode(&message.PreparedResult{PreparedQueryId: preparedID(m.Query), ResultMetadataId: preparedID(m.Query), ResultMetadata: columns})
		}
		table := tables[tableOf(m.Query)]
		p := &message.PreparedResult{
			PreparedQueryId: preparedID(m.Query), ResultMetadataId: preparedID(m.Query),
			VariablesMetadata: &message.VariablesMetadata{PkIndices: []uint16{0}, Columns: []*message.ColumnMetadata{cqltest.Column("bench", table.name, "k", datatype.Varchar)}},
			ResultMetadata:    &message.RowsMetadata{},
		}
		if strings.HasPrefix(m.Query, readVerb) {
			p.ResultMetadata = &message.RowsMetadata{ColumnCount: int32(table.columns), Columns: table.metadata()}
		} else {
			p.VariablesMetadata.Columns = append(p.VariablesMetadata.Columns, table.metadata()...)
		}
		return encode(p)
	}
	return encode(&message.VoidResult{})
}
