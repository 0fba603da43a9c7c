package virtual

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
)

var update = flag.Bool("update", false, "write the answers into the data files, to be read before they are committed")

// TestAnswersAreWhatTheDataFilesSay runs testdata/*.txt. A file is cases, set
// apart by blank lines; # begins a comment. A case is one or more of
//
//	proxies ADDRESS... [index=N] [tokens=N]
//	cluster RELEASE [peers=N]     tables captured from such a node, with N peers made up
//
// which stay for the cases after it, or
//
//	query|prepare|execute TEXT    the statement; execute prepares it first
//	values VALUE...               text, inet:A, int:N, null, unset; name=VALUE by name
//	----
//	lines of the answer           as render writes them
func TestAnswersAreWhatTheDataFilesSay(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no data files: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			var b bench
			line := 1
			cases := strings.Split(strings.TrimRight(string(text), "\n"), "\n\n")
			for i, c := range cases {
				input, want, _ := strings.Cut(c, "\n----\n")
				got := b.run(t, input)
				if got != want && !*update {
					t.Errorf("%s:%d:\n%s\ngot\n%s\nwant\n%s", file, line, input, got, want)
				}
				if got != "" {
					cases[i] = input + "\n----\n" + got
				}
				line += strings.Count(c, "\n") + 2
			}
			if *update {
				if err := os.WriteFile(file, []byte(strings.Join(cases, "\n\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

type bench struct {
	ring    Ring
	cluster Real
}

func (b *bench) run(t *testing.T, input string) string {
	t.Helper()
	var verb, text string
	var values Values
	for line := range strings.SplitSeq(input, "\n") {
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case strings.HasPrefix(line, "#") || line == "":
		case word == "proxies":
			b.ring = Ring{NumTokens: 1, Port: 9042}
			for f := range strings.FieldsSeq(rest) {
				if n, ok := strings.CutPrefix(f, "index="); ok {
					b.ring.Index, _ = strconv.Atoi(n)
				} else if n, ok := strings.CutPrefix(f, "tokens="); ok {
					b.ring.NumTokens, _ = strconv.Atoi(n)
				} else {
					b.ring.Addresses = append(b.ring.Addresses, netip.MustParseAddr(f))
				}
			}
		case word == "cluster":
			b.cluster = captured(t, strings.Fields(rest)...)
		case word == "values":
			values = readValues(t, rest)
		default:
			verb, text = word, rest
		}
	}
	if verb == "" {
		return ""
	}
	tables, err := New(b.ring, b.cluster)
	if err != nil {
		t.Fatal(err)
	}
	return ask(tables, verb, text, values)
}

// ask renders the answer to a statement.
func ask(tables *Tables, verb, text string, values Values) string {
	sel, problem := parseText(text)
	if problem != nil {
		return renderError(problem)
	}
	var body []byte
	if verb == "query" {
		body, problem = tables.Query(sel, values, frame.V4)
	} else {
		var p *Prepared
		p, body, problem = tables.Prepare(sel, text, "", frame.V4)
		if verb == "execute" && problem == nil {
			body, problem = tables.Execute(p, nil, values, false, frame.V4)
		}
	}
	if problem != nil {
		return renderError(problem)
	}
	return render(decode(body, primitive.ProtocolVersion4))
}

// parseText splits a statement with the proxy's own scanner.
func parseText(text string) (*Select, *frame.ErrorBody) {
	st := scan.Scan([]byte(text))
	return Parse(st.Table.String(), string(st.SelectClause), string(st.Rest))
}

func readValues(t *testing.T, text string) Values {
	t.Helper()
	var raw []byte
	fields := strings.Fields(text)
	named := strings.Contains(fields[0], "=")
	for _, f := range fields {
		if name, value, ok := strings.Cut(f, "="); ok {
			raw = binary.BigEndian.AppendUint16(raw, uint16(len(name)))
			raw = append(raw, name...)
			f = value
		}
		var cell []byte
		switch kind, value, _ := strings.Cut(f, ":"); kind {
		case "null":
			raw = append(raw, 0xFF, 0xFF, 0xFF, 0xFF)
			continue
		case "unset":
			raw = append(raw, 0xFF, 0xFF, 0xFF, 0xFE)
			continue
		case "inet":
			cell = netip.MustParseAddr(value).AsSlice()
		case "int":
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			cell = binary.BigEndian.AppendUint32(nil, uint32(n))
		case "list": // of inet
			cell = binary.BigEndian.AppendUint32(nil, uint32(strings.Count(value, ",")+1))
			for a := range strings.SplitSeq(value, ",") {
				cell = append(cell, 0, 0, 0, 4)
				cell = append(cell, netip.MustParseAddr(a).AsSlice()...)
			}
		default:
			cell = []byte(f)
		}
		raw = binary.BigEndian.AppendUint32(raw, uint32(len(cell)))
		raw = append(raw, cell...)
	}
	values, err := ReadValues(raw, len(fields), named, frame.V4)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func decode(body []byte, v primitive.ProtocolVersion) message.Message {
	f, err := gcnp.NewRawCodec().ConvertFromRawFrame(&gcnp.RawFrame{
		Header: &gcnp.Header{IsResponse: true, Version: v, OpCode: primitive.OpCodeResult, BodyLength: int32(len(body))}, Body: body})
	if err != nil {
		panic(err)
	}
	return f.Body.Message
}

func renderError(e *frame.ErrorBody) string {
	return fmt.Sprintf("error 0x%04X %s", uint32(e.Code), e.Message)
}

func render(m message.Message) string {
	var lines []string
	switch m := m.(type) {
	case *message.PreparedResult:
		lines = append(lines, "id "+hex.EncodeToString(m.PreparedQueryId))
		for _, c := range m.VariablesMetadata.Columns {
			lines = append(lines, fmt.Sprintf("variable %s.%s %s %s", c.Keyspace, c.Table, c.Name, c.Type.AsCql()))
		}
		if m.VariablesMetadata.PkIndices != nil {
			lines = append(lines, fmt.Sprintf("routing key %v", m.VariablesMetadata.PkIndices))
		}
		lines = append(lines, header(m.ResultMetadata.Columns))
	case *message.RowsResult:
		lines = append(lines, header(m.Metadata.Columns))
		for _, row := range m.Data {
			var cells []string
			for i, cell := range row {
				cells = append(cells, renderCell(cell, m.Metadata.Columns[i].Type))
			}
			lines = append(lines, strings.Join(cells, " | "))
		}
	}
	return strings.Join(lines, "\n")
}

func header(columns []*message.ColumnMetadata) string {
	var names []string
	for _, c := range columns {
		names = append(names, c.Name+" "+c.Type.AsCql())
	}
	return strings.Join(names, " | ")
}

func renderCell(cell []byte, kind datatype.DataType) string {
	if cell == nil {
		return "null"
	}
	switch kind.Code() {
	case datatype.Inet.Code():
		addr, _ := netip.AddrFromSlice(cell)
		return addr.String()
	case datatype.Uuid.Code():
		id := primitive.UUID(cell)
		return id.String()
	case datatype.Int.Code():
		return strconv.Itoa(int(int32(binary.BigEndian.Uint32(cell))))
	case datatype.Bigint.Code():
		return strconv.FormatInt(int64(binary.BigEndian.Uint64(cell)), 10)
	case datatype.Varchar.Code():
		return string(cell)
	case datatype.NewSet(datatype.Varchar).Code():
		elements, ok := listOf(cell, 1)
		if !ok {
			return "malformed set"
		}
		return string(bytes.Join(elements, []byte(",")))
	}
	return hex.EncodeToString(cell)
}

// captured returns the tables that a real node of a release answered. peers=N
// adds that many rows to system.peers: node i has the address 10.1.0.i, rack
// r(i mod 2) and release "peer-i".
func captured(t *testing.T, fields ...string) Real {
	t.Helper()
	read := func(table string) *message.RowsResult {
		text, err := os.ReadFile("testdata/" + table + "-" + fields[0] + ".hex")
		if err != nil {
			t.Fatal(err)
		}
		body, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		return decode(body, primitive.ProtocolVersion4).(*message.RowsResult)
	}
	real := Real{Local: read("local"), Peers: read("peers"), Datacenter: "datacenter1"}
	n := 0
	for _, f := range fields[1:] {
		n, _ = strconv.Atoi(strings.TrimPrefix(f, "peers="))
	}
	for i := 1; i <= n; i++ {
		row := make(message.Row, len(real.Peers.Metadata.Columns))
		for c, column := range real.Peers.Metadata.Columns {
			switch column.Name {
			case "peer", "rpc_address":
				row[c] = []byte{10, 1, 0, byte(i)}
			case "data_center":
				row[c] = []byte("datacenter1")
			case "rack":
				row[c] = []byte{'r', byte('0' + i%2)}
			case "release_version":
				row[c] = fmt.Appendf(nil, "peer-%d", i)
			case "host_id", "schema_version":
				row[c] = bytes.Repeat([]byte{byte(i)}, 16)
			case "tokens":
				row[c] = tokenSet([]int64{int64(i)})
			}
		}
		real.Peers.Data = append(real.Peers.Data, row)
	}
	return real
}

func TestTokensDivideTheRingEvenly(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		proxies, tokens int
		want            string // of each proxy
	}{
		{1, 1, "[-9223372036854775808]"},
		{2, 1, "[-9223372036854775808] [0]"},
		{3, 1, "[-9223372036854775808] [-3074457345618258603] [3074457345618258602]"},
		{2, 2, "[-9223372036854775808 0] [-4611686018427387904 4611686018427387904]"},
	} {
		ring := Ring{NumTokens: test.tokens}
		for i := range test.proxies {
			ring.Addresses = append(ring.Addresses, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
		}
		var got []string
		for _, p := range ring.Proxies() {
			got = append(got, fmt.Sprint(p.Tokens))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%d proxies with %d tokens: %v, want %s", test.proxies, test.tokens, got, test.want)
		}
	}
	// However many, no two are the same.
	ring := Ring{NumTokens: 256, Addresses: make([]netip.Addr, 7)}
	for i := range ring.Addresses {
		ring.Addresses[i] = netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
	}
	var all []int64
	for _, p := range ring.Proxies() {
		all = append(all, p.Tokens...)
	}
	slices.Sort(all)
	if n := len(slices.Compact(all)); n != 7*256 {
		t.Errorf("%d different tokens, want %d", n, 7*256)
	}
}

func TestHostIDIsTheVersion5UUIDOfTheSixteenByteAddress(t *testing.T) {
	t.Parallel()
	// Computed apart from this package, from the bytes of ::ffff:10.0.0.1 and fd00::1.
	for addr, want := range map[string]string{
		"10.0.0.1":        "9abffbcc-1c82-54a7-a290-bf0a17776221",
		"::ffff:10.0.0.1": "9abffbcc-1c82-54a7-a290-bf0a17776221",
		"fd00::1":         "0262d6f8-8f74-5582-9d4e-a4038b6a936f",
	} {
		id := primitive.UUID(hostID(netip.MustParseAddr(addr)))
		if got := id.String(); got != want {
			t.Errorf("host id of %s is %s, want %s", addr, got, want)
		}
	}
}
