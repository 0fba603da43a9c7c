package main

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	"github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
)

// The two statements of the benchmark. The dual relay tells reads from writes
// by the first byte of the prepared id, which is the text's, too.
const (
	readText   = "SELECT v FROM bench.t WHERE k = ?"
	writeText  = "INSERT INTO bench.t (k, v) VALUES (?, ?)"
	payloadLen = 100
)

var codec = frame.NewRawCodec()

func encode(m message.Message) []byte {
	var b bytes.Buffer
	if err := codec.EncodeFrame(frame.NewFrame(primitive.ProtocolVersion4, 0, m), &b); err != nil {
		panic(fmt.Sprintf("bench: encode %v: %v", m, err))
	}
	return b.Bytes()
}

func preparedID(text string) []byte {
	sum := md5.Sum([]byte(text))
	sum[0] = text[0]
	return sum[:]
}

// stub is a node that answers without looking anything up.
type stub struct {
	at     netip.AddrPort
	system cqltest.Options

	// Whole answers; the stream id and the version are patched in.
	void, rows, rowsBare []byte
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
	payload := message.Row{bytes.Repeat([]byte("v"), payloadLen)}
	columns := []*message.ColumnMetadata{cqltest.Column("bench", "t", "v", datatype.Varchar)}
	s := &stub{
		at: at,
		system: cqltest.Options{
			Release: "4.1.8", Cluster: name, Datacenter: "dc1", Rack: "rack1", Tokens: []string{"0"}, Tables: []string{"bench.t"},
			Partitioner: "org.apache.cassandra.dht.Murmur3Partitioner",
			HostID:      md5.Sum([]byte(name)), SchemaVersion: md5.Sum([]byte("schema")),
		},
		void:     encode(&message.VoidResult{}),
		rows:     encode(&message.RowsResult{Metadata: &message.RowsMetadata{ColumnCount: 1, Columns: columns}, Data: message.RowSet{payload}}),
		rowsBare: encode(&message.RowsResult{Metadata: &message.RowsMetadata{ColumnCount: 1}, Data: message.RowSet{payload}}),
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
		if body[2] == readText[0] { // [short] length, then the id
			reply = s.rowsBare
		}
	case primitive.OpCodeQuery:
		text := body[4 : 4+binary.BigEndian.Uint32(body)]
		if text[0] == readText[0] {
			reply = s.rows
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
}

// ask answers what comes once for each connection.
func (s *stub) ask(raw []byte) []byte {
	f, err := codec.DecodeFrame(bytes.NewReader(raw))
	if err != nil {
		return encode(&message.ProtocolError{ErrorMessage: err.Error()})
	}
	switch m := f.Body.Message.(type) {
	case *message.Options:
		return encode(&message.Supported{Options: map[string][]string{"CQL_VERSION": {"3.4.6"}, "COMPRESSION": {}, "PROTOCOL_VERSIONS": {"3/v3", "4/v4"}}})
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
			return encode(&message.PreparedResult{PreparedQueryId: preparedID(m.Query), ResultMetadata: columns})
		}
		p := &message.PreparedResult{
			PreparedQueryId:   preparedID(m.Query),
			VariablesMetadata: &message.VariablesMetadata{PkIndices: []uint16{0}, Columns: []*message.ColumnMetadata{cqltest.Column("bench", "t", "k", datatype.Varchar)}},
			ResultMetadata:    &message.RowsMetadata{},
		}
		value := cqltest.Column("bench", "t", "v", datatype.Varchar)
		if strings.HasPrefix(m.Query, "SELECT") {
			p.ResultMetadata = &message.RowsMetadata{ColumnCount: 1, Columns: []*message.ColumnMetadata{value}}
		} else {
			p.VariablesMetadata.Columns = append(p.VariablesMetadata.Columns, value)
		}
		return encode(p)
	}
	return encode(&message.VoidResult{})
}
