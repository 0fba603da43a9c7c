package virtual

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

func threeProxies(t *testing.T, real Real) *Tables {
	t.Helper()
	tables, err := New(Ring{
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::3")},
		NumTokens: 2, Port: 9042,
	}, real)
	if err != nil {
		t.Fatal(err)
	}
	return tables
}

func mustParse(t *testing.T, text string) *Select {
	t.Helper()
	s, problem := parseText(text)
	if problem != nil {
		t.Fatal(problem.Message)
	}
	return s
}

func TestNewRefusesARingThatCannotBe(t *testing.T) {
	t.Parallel()
	one := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	real := captured(t, "4.1.8")
	for _, test := range []struct {
		ring Ring
		real Real
		want string
	}{
		{Ring{NumTokens: 1}, real, "no proxy addresses"},
		{Ring{Addresses: one, NumTokens: 1, Index: 1}, real, "index 1 is not one of 1 proxies"},
		{Ring{Addresses: one, NumTokens: 257}, real, "257 tokens are not within 1 to 256"},
		{Ring{Addresses: one, NumTokens: 1}, Real{}, "nothing is known of the cluster"},
	} {
		if _, err := New(test.ring, test.real); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("New(%+v) returned %v, want %q", test.ring, err, test.want)
		}
	}
}

func TestProxiesShowTheNodesOfTheLocalDatacenterByRackAndHostID(t *testing.T) {
	t.Parallel()
	real := captured(t, "4.1.8", "peers=4")
	far := record{real.Peers.Metadata.Columns, real.Peers.Data[0]}
	far.cells[far.index("data_center")] = []byte("elsewhere")
	tables := threeProxies(t, real)
	got := ask(tables, "query", "SELECT release_version FROM system.peers", Values{}) +
		ask(tables, "query", "SELECT release_version FROM system.local", Values{})
	// Rack r0 has the peers 2 and 4, r1 peer 3, rack1 the node itself.
	want := "release_version varchar\npeer-4\npeer-3release_version varchar\npeer-2"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAColumnThatOnlyTheRealTableHasKeepsItsValue(t *testing.T) {
	t.Parallel()
	real := captured(t, "4.1.8")
	real.Local.Metadata.Columns = append(real.Local.Metadata.Columns,
		&message.ColumnMetadata{Name: "dse_version", Type: datatype.Varchar},
		&message.ColumnMetadata{Name: "native_transport_port_ssl", Type: datatype.Int},
		&message.ColumnMetadata{Name: "novelty", Type: datatype.Varchar})
	real.Local.Data[0] = append(real.Local.Data[0], []byte("6.8"), []byte{0, 0, 0, 1}, []byte("new"))
	got := ask(threeProxies(t, real), "query", "SELECT dse_version, native_transport_port_ssl, novelty FROM system.local", Values{})
	if want := "6.8 | 9042 | new"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want it to end with %q", got, want)
	}
}

func TestExecuteSkipsMetadataOnlyWhileTheyAreWhatPrepareTold(t *testing.T) {
	t.Parallel()
	before := threeProxies(t, captured(t, "4.1.8"))
	real := captured(t, "4.1.8")
	last := len(real.Peers.Metadata.Columns) - 1
	real.Peers.Metadata.Columns = real.Peers.Metadata.Columns[:last]
	after := threeProxies(t, real) // Target's table lacks a column
	const text = "SELECT * FROM system.peers"
	for _, test := range []struct {
		name      string
		tables    *Tables
		version   frame.Version
		skip      bool
		wantNames bool // metadata in the answer
		wantID    bool // a new metadata id in the answer
	}{
		{"same, skip", before, frame.V4, true, false, false},
		{"same, no skip", before, frame.V4, false, true, false},
		{"changed, skip", after, frame.V4, true, true, false},
		{"changed, skip, v5", after, frame.V5, true, true, true},
		{"same, skip, v5", before, frame.V5, true, false, false},
		{"changed, skip, v3", after, frame.V3, true, true, false},
	} {
		p, _, problem := before.Prepare(mustParse(t, text), text, "", test.version)
		if problem != nil {
			t.Fatal(problem.Message)
		}
		known := p.metadata[:] // what the client was told
		body, problem := test.tables.Execute(p, known, Values{}, test.skip, test.version)
		if problem != nil {
			t.Fatal(problem.Message)
		}
		rows := decode(body, primitive.ProtocolVersion(test.version)).(*message.RowsResult)
		if got := len(rows.Metadata.Columns) > 0; got != test.wantNames {
			t.Errorf("%s: metadata in the answer is %t, want %t", test.name, got, test.wantNames)
		}
		if got := rows.Metadata.NewResultMetadataId != nil; got != test.wantID {
			t.Errorf("%s: new metadata id is %t, want %t", test.name, got, test.wantID)
		}
		if len(rows.Data) != 2 {
			t.Errorf("%s: %d rows, want 2", test.name, len(rows.Data))
		}
	}
}

func TestPrepareAnswersInEveryVersionWithAnIDOfStatementAndKeyspace(t *testing.T) {
	t.Parallel()
	tables := threeProxies(t, captured(t, "4.1.8"))
	const text = "SELECT peer FROM system.peers WHERE peer = ?"
	ids := map[[16]byte]bool{}
	for _, v := range []frame.Version{frame.V3, frame.V4, frame.V5, frame.DSE1, frame.DSE2} {
		p, body, problem := tables.Prepare(mustParse(t, text), text, "ks", v)
		if problem != nil {
			t.Fatal(problem.Message)
		}
		m := decode(body, primitive.ProtocolVersion(v)).(*message.PreparedResult)
		if !bytes.Equal(m.PreparedQueryId, p.ID[:]) || len(m.VariablesMetadata.Columns) != 1 || len(m.ResultMetadata.Columns) != 1 {
			t.Errorf("version 0x%02X: got %+v", byte(v), m)
		}
		ids[p.ID] = true
	}
	other, _, _ := tables.Prepare(mustParse(t, text), text, "", frame.V4)
	ids[other.ID] = true
	if len(ids) != 2 {
		t.Errorf("%d ids, want one for each keyspace", len(ids))
	}
}

func TestReadValuesTellsWhereABodyEnds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		raw   string
		count int
		named bool
	}{
		{"", 1, false},
		{"\x00\x00\x00\x05abc", 1, false},
		{"\x7f\xff\xff\xffabc", 1, false},
		{"\x00\x09a", 1, true},
		{"\x00\x01a", 1, true},
	} {
		if _, err := ReadValues([]byte(test.raw), test.count, test.named, frame.V4); err == nil {
			t.Errorf("ReadValues(%q) succeeded", test.raw)
		}
	}
	v, err := ReadValues([]byte("\xff\xff\xff\xfe"), 1, false, frame.V3)
	if err != nil || v.cells[0].unset {
		t.Errorf("version 3 knows no unset value: %+v, %v", v, err)
	}
}

func TestHostileTextIsRefusedInLinearTime(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"/*", "'a", "\"a", "$$ ", "((", ": ", "a,", "\x00"} {
		text := strings.Repeat(part, maxText/len(part)-2) + "'"
		if _, problem := Parse("local", "key", text); problem == nil {
			t.Errorf("%d bytes of %q were accepted", len(text), part)
		}
		if _, problem := Parse("local", text, ""); problem == nil {
			t.Errorf("%d bytes of %q were accepted", len(text), part)
		}
	}
	if _, problem := Parse("local", "key", strings.Repeat(" ", maxText)); problem == nil {
		t.Error("a statement above the limit was accepted")
	}
}

func FuzzEveryStatementIsAnsweredOrRefused(f *testing.F) {
	real := Real{}
	f.Add("*", "")
	f.Add("JSON key, count(*) AS n", " WHERE key = 'local' LIMIT ? ALLOW FILTERING;")
	f.Add(`"a""b", count ( 1 )`, " WHERE key IN (:a, $$x$$, 1a0e7b6c-0000-5000-8000-000000000000) -- end")
	f.Add("\xff\x00'", "/* where")
	f.Add("now()", "WHERE (a, b) = ('x', 'y')")
	f.Fuzz(func(t *testing.T, clause, rest string) {
		if real.Local == nil {
			real = captured(t, "4.1.8")
		}
		s, problem := Parse("local", clause, rest)
		if problem != nil {
			if problem.Message == "" || problem.Code != frame.ErrInvalid && problem.Code != frame.ErrSyntax {
				t.Errorf("refused with %+v", problem)
			}
			return
		}
		tables := threeProxies(t, real)
		values := Values{}
		for range s.markers {
			values.cells = append(values.cells, cell{bytes: []byte{0, 0, 0, 1}})
		}
		if body, problem := tables.Query(s, values, frame.V4); problem == nil {
			decode(body, primitive.ProtocolVersion4)
		}
	})
}
