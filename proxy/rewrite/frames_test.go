package rewrite

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
)

var (
	codec    = gcnp.NewCodec()
	versions = []primitive.ProtocolVersion{3, 4, 5, primitive.ProtocolVersionDse1, primitive.ProtocolVersionDse2}
)

// encode makes a frame that also has a custom payload, where there is one.
func encode(t *testing.T, v primitive.ProtocolVersion, m message.Message) frame.Frame {
	t.Helper()
	f := gcnp.NewFrame(v, 7, m)
	if v != 3 {
		f.SetCustomPayload(map[string][]byte{"k": {1, 2, 3}})
	}
	var b bytes.Buffer
	if err := codec.EncodeFrame(f, &b); err != nil {
		t.Fatalf("encode %v: %v", m, err)
	}
	return b.Bytes()
}

func decode(t *testing.T, f frame.Frame) message.Message {
	t.Helper()
	r := bytes.NewReader(f)
	out, err := codec.DecodeFrame(r)
	if err != nil || r.Len() > 0 {
		t.Fatalf("decode %x: %v, %d bytes left", f, err, r.Len())
	}
	if f.Flags()&frame.FlagCustomPayload != 0 && !bytes.Equal(out.Body.CustomPayload["k"], []byte{1, 2, 3}) {
		t.Errorf("custom payload is %v", out.Body.CustomPayload)
	}
	return out.Body.Message
}

func split(t *testing.T, f frame.Frame) ([]byte, int) {
	t.Helper()
	body, at, err := frame.SplitRequest(f)
	if err != nil {
		t.Fatal(err)
	}
	return body, at
}

func value(s string) *primitive.Value { return primitive.NewValue([]byte(s)) }

// told shows values: those of 16 bytes as T.
func told(values []*primitive.Value) string {
	out := ""
	for _, v := range values {
		switch {
		case v.Type == primitive.ValueTypeNull:
			out += "- "
		case len(v.Contents) == 16:
			out += "T "
		default:
			out += string(v.Contents) + " "
		}
	}
	return out
}

func TestTextIsReplacedAndAllElseStays(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		text := "INSERT INTO t (a) VALUES (now())"
		q := &message.Query{Query: text, Options: &message.QueryOptions{
			Consistency: primitive.ConsistencyLevelQuorum, PositionalValues: []*primitive.Value{value("x")}, PageSize: 5}}
		f := encode(t, v, q)
		_, at := split(t, f)
		got := decode(t, Text(f, at, len(text), []byte("other"))).(*message.Query)
		want := decode(t, f).(*message.Query)
		want.Query = "other"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("v%d QUERY (-want +got):\n%s", v, diff)
		}
		p := &message.Prepare{Query: text}
		if v == 5 || v == primitive.ProtocolVersionDse2 {
			p.Keyspace = "ks"
		}
		f = encode(t, v, p)
		_, at = split(t, f)
		p.Query = "another"
		if diff := cmp.Diff(message.Message(p), decode(t, Text(f, at, len(text), []byte("another")))); diff != "" {
			t.Errorf("v%d PREPARE (-want +got):\n%s", v, diff)
		}
	}
}

func TestExecuteIsFilled(t *testing.T) {
	t.Parallel()
	at := func(indices ...int) (out []Marker) {
		for _, i := range indices {
			out = append(out, Marker{Index: i, Function: scan.Now, Name: fmt.Sprintf("h%d", i)})
		}
		return out
	}
	null := primitive.NewNullValue()
	for _, test := range []struct {
		given   []*primitive.Value
		markers []Marker
		want    string
	}{
		{nil, at(0), "T "},
		{nil, at(0, 1), "T T "},
		{[]*primitive.Value{value("a")}, at(0), "T a "},
		{[]*primitive.Value{value("a")}, at(1), "a T "},
		{[]*primitive.Value{value("a"), null, value("c")}, at(0, 2, 4, 5), "T a T - T T c "},
		{[]*primitive.Value{value("a")}, at(0, 5), "T a T "}, // too few: the node is to tell
		{[]*primitive.Value{value("a"), value("b"), value("c")}, at(1), "a T b c "},
	} {
		for _, v := range versions {
			ts := int64(77)
			x := &message.Execute{QueryId: []byte("0123456789abcdef"), Options: &message.QueryOptions{
				Consistency: primitive.ConsistencyLevelQuorum, PositionalValues: test.given, PageSize: 5, DefaultTimestamp: &ts}}
			if v == 5 || v == primitive.ProtocolVersionDse2 {
				x.ResultMetadataId = []byte("rrr")
			}
			f := encode(t, v, x)
			before := bytes.Clone(f)
			body, offset := split(t, f)
			e, err := frame.ParseExecute(body, frame.Version(v))
			if err != nil {
				t.Fatal(err)
			}
			out, p, err := execute(f, offset, e.Params, test.markers, fixedSource())
			if err != nil {
				t.Fatal(err)
			}
			if p.PageSize != 5 || p.Timestamp != ts || p.ValuesCount < len(test.markers) {
				t.Errorf("v%d: the parameters are %+v", v, p)
			}
			if !bytes.Equal(f, before) {
				t.Errorf("v%d: the request itself was changed", v)
			}
			got := decode(t, out).(*message.Execute)
			if s := told(got.Options.PositionalValues); s != test.want {
				t.Errorf("v%d: values %s filled: got %s, want %s", v, told(test.given), s, test.want)
			}
			want := decode(t, f).(*message.Execute)
			want.Options.PositionalValues = got.Options.PositionalValues
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("v%d (-want +got):\n%s", v, diff)
			}
		}
	}
}

func TestExecuteWithNamesGetsTheMarkersNames(t *testing.T) {
	t.Parallel()
	x := &message.Execute{QueryId: []byte("id"), Options: &message.QueryOptions{NamedValues: map[string]*primitive.Value{"b": value("x")}}}
	f := encode(t, 4, x)
	body, at := split(t, f)
	e, err := frame.ParseExecute(body, 4)
	if err != nil {
		t.Fatal(err)
	}
	markers := []Marker{{Index: 0, Function: scan.Now, Name: "zdm__now"}, {Index: 2, Function: scan.NewUUID, Name: "zdm__uuid"}}
	out, _, err := execute(f, at, e.Params, markers, fixedSource())
	if err != nil {
		t.Fatal(err)
	}
	got := decode(t, out).(*message.Execute).Options.NamedValues
	if len(got) != 3 || string(got["b"].Contents) != "x" || len(got["zdm__now"].Contents) != 16 || len(got["zdm__uuid"].Contents) != 16 {
		t.Errorf("got %v, want b as it was and two UUIDs", got)
	}
	markers[1].Name = ""
	var ambiguous *AmbiguousError
	if _, _, err := execute(f, at, e.Params, markers, fixedSource()); !errors.As(err, &ambiguous) {
		t.Errorf("a marker without a name: got %v, want an AmbiguousError", err)
	}
}

// replaced is a replacement by markers, nil for none.
func replaced(markers []Marker) *Replacement {
	if markers == nil {
		return nil
	}
	return &Replacement{Markers: markers}
}

// An EXECUTE of a statement that takes no marker for its call is a QUERY with the
// same parameters, and in a BATCH a child with the text.
func TestALiteralStandsWhereNoMarkerCan(t *testing.T) {
	t.Parallel()
	const text, inlined = "INSERT INTO t (a, l) VALUES (?, [now()])", "INSERT INTO t (a, l) VALUES (?, [T])"
	rep := Everywhere.Prepare([]byte(text))
	for _, v := range versions {
		for name, options := range map[string]*message.QueryOptions{
			"positional": {PositionalValues: []*primitive.Value{value("x")}},
			"named":      {NamedValues: map[string]*primitive.Value{"a": value("x")}},
			"none":       {},
		} {
			options.Consistency, options.PageSize = primitive.ConsistencyLevelQuorum, 7
			want := *options
			options.SkipMetadata = true
			f := encode(t, v, &message.Execute{QueryId: []byte("some id"), ResultMetadataId: []byte("some other"), Options: options})
			body, at := split(t, f)
			e, err := frame.ParseExecute(body, frame.Version(v))
			if err != nil {
				t.Fatal(err)
			}
			out, p, err := Everywhere.Execute(f, at, e, text, rep, fixedSource())
			if err != nil {
				t.Fatal(err)
			}
			got := decode(t, out).(*message.Query)
			if q := uuidText.ReplaceAllString(got.Query, "T"); q != inlined {
				t.Errorf("v%d, %s: got %s", v, name, q)
			}
			if diff := cmp.Diff(&want, got.Options, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("v%d, %s: options (-want +got):\n%s", v, name, diff)
			}
			if p.Consistency != e.Params.Consistency || p.ValuesCount != e.Params.ValuesCount {
				t.Errorf("v%d, %s: read %+v of the QUERY, and %+v of the EXECUTE", v, name, p, e.Params)
			}
		}
		f := encode(t, v, &message.Batch{Children: []*message.BatchChild{
			{Id: []byte("id one"), Values: []*primitive.Value{value("y")}}, {Id: []byte("id two"), Values: []*primitive.Value{value("z")}}}})
		body, at := split(t, f)
		bt, err := frame.ParseBatch(body, frame.Version(v))
		if err != nil {
			t.Fatal(err)
		}
		out, err := Everywhere.Batch(f, at, &bt, func(i int) (string, *Replacement) { return text, []*Replacement{rep, nil}[i] }, fixedSource())
		if err != nil {
			t.Fatal(err)
		}
		var shape []string
		for _, c := range decode(t, out).(*message.Batch).Children {
			shape = append(shape, uuidText.ReplaceAllString(c.Query, "T")+string(c.Id)+" | "+told(c.Values))
		}
		if diff := cmp.Diff([]string{inlined + " | y ", "id two | z "}, shape); diff != "" {
			t.Errorf("v%d: batch (-want +got):\n%s", v, diff)
		}
	}
}

func TestBatchChildrenAreReplacedAndFilled(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		b := &message.Batch{Type: primitive.BatchTypeUnlogged, Consistency: primitive.ConsistencyLevelQuorum, Children: []*message.BatchChild{
			{Query: "INSERT INTO t (a, b) VALUES (now(), ?)", Values: []*primitive.Value{value("x")}},
			{Id: []byte("id one"), Values: []*primitive.Value{value("y")}},
			{Query: "DELETE FROM t WHERE a = 1"},
			{Id: []byte("id two"), Values: []*primitive.Value{value("z")}},
			{Id: []byte("id three")},
		}}
		f := encode(t, v, b)
		body, at := split(t, f)
		bt, err := frame.ParseBatch(body, frame.Version(v))
		if err != nil {
			t.Fatal(err)
		}
		markers := [][]Marker{{{Index: 0, Function: scan.Now}, {Index: 2, Function: scan.Now}}, nil, {{Index: 0, Function: scan.Now}}}
		out, err := TopLevel.Batch(f, at, &bt, func(i int) (string, *Replacement) { return "", replaced(markers[i]) }, fixedSource())
		if err != nil {
			t.Fatal(err)
		}
		got := decode(t, out).(*message.Batch)
		var shape []string
		for _, c := range got.Children {
			shape = append(shape, uuidText.ReplaceAllString(c.Query, "T")+string(c.Id)+" | "+told(c.Values))
		}
		want := []string{"INSERT INTO t (a, b) VALUES (T, ?) | x ", "id one | T y T ", "DELETE FROM t WHERE a = 1 | ", "id two | z ", "id three | T "}
		if diff := cmp.Diff(want, shape); diff != "" {
			t.Errorf("v%d (-want +got):\n%s", v, diff)
		}
		if got.Type != b.Type || got.Consistency != b.Consistency {
			t.Errorf("v%d: got type %v at %v", v, got.Type, got.Consistency)
		}
	}
}

var sameType = cmp.Comparer(func(a, b datatype.DataType) bool { return a.AsCql() == b.AsCql() })

func TestAnswersHideTheMarkers(t *testing.T) {
	t.Parallel()
	column := func(table, name string, of datatype.DataType) *message.ColumnMetadata {
		return &message.ColumnMetadata{Keyspace: "ks", Table: table, Name: name, Type: of}
	}
	a, b := column("t", "a", datatype.NewMap(datatype.Int, datatype.NewList(datatype.Varchar))), column("t", "b", datatype.Varchar)
	u, id := column("t", "u", datatype.Timeuuid), column("t", "id", datatype.Uuid)
	other := column("t2", "b", datatype.Varchar)
	type columns = []*message.ColumnMetadata
	for _, test := range []struct {
		name      string
		variables columns
		key       []uint16
		hidden    []int
		want      columns
		wantKey   []uint16
		names     []string
	}{
		{"the only one", columns{u}, nil, []int{0}, nil, nil, []string{"u"}},
		{"one in front of the key", columns{u, a, b}, []uint16{2, 1}, []int{0}, columns{a, b}, []uint16{1, 0}, []string{"u"}},
		{"one behind the key", columns{a, b, u}, []uint16{0}, []int{2}, columns{a, b}, []uint16{0}, []string{"u"}},
		{"part of the key", columns{a, u, b}, []uint16{0, 1}, []int{1}, columns{a, b}, nil, []string{"u"}},
		{"two around another", columns{u, a, id, other}, []uint16{1, 3}, []int{0, 2}, columns{a, other}, []uint16{0, 1}, []string{"u", "id"}},
		{"names that others have", columns{u, u, id, u, b}, nil, []int{0, 2}, columns{u, u, b}, nil, []string{"", "id"}},
	} {
		for _, v := range versions {
			p := &message.PreparedResult{
				PreparedQueryId:   []byte("node's"),
				VariablesMetadata: &message.VariablesMetadata{PkIndices: test.key, Columns: test.variables},
				ResultMetadata:    &message.RowsMetadata{ColumnCount: 1, Columns: columns{b}},
			}
			if v == 5 || v == primitive.ProtocolVersionDse2 {
				p.ResultMetadataId = []byte("result id")
			}
			f := encode(t, v, p)
			rep := &Replacement{}
			for _, i := range test.hidden {
				rep.Markers = append(rep.Markers, Marker{Index: i, Function: scan.Now})
			}
			out, err := Answer(f, []byte("client's id"), rep)
			if err != nil {
				t.Fatalf("%s, v%d: %v", test.name, v, err)
			}
			got, want := decode(t, out).(*message.PreparedResult), decode(t, f).(*message.PreparedResult)
			want.PreparedQueryId = []byte("client's id")
			want.VariablesMetadata = &message.VariablesMetadata{Columns: test.want}
			if v != 3 {
				want.VariablesMetadata.PkIndices = test.wantKey
			}
			if diff := cmp.Diff(want, got, sameType); diff != "" {
				t.Errorf("%s, v%d (-want +got):\n%s", test.name, v, diff)
			}
			var names []string
			for _, m := range rep.Markers {
				names = append(names, m.Name)
			}
			if diff := cmp.Diff(test.names, names); diff != "" {
				t.Errorf("%s, v%d: names (-want +got):\n%s", test.name, v, diff)
			}
			if _, err := frame.ParsePrepared(out.Body()[offsetOf(t, out):], frame.Version(v)); err != nil {
				t.Errorf("%s, v%d: our own parser: %v", test.name, v, err)
			}
		}
	}
}

// offsetOf is where the body proper of a response begins in its body.
func offsetOf(t *testing.T, f frame.Frame) int {
	t.Helper()
	r, err := frame.SplitResponse(f)
	if err != nil {
		t.Fatal(err)
	}
	return r.BodyOffset - frame.HeaderLen
}

func TestAValueThatDoesNotFitIsATypeError(t *testing.T) {
	t.Parallel()
	f := encode(t, 4, &message.PreparedResult{
		PreparedQueryId: []byte("x"), ResultMetadata: &message.RowsMetadata{},
		VariablesMetadata: &message.VariablesMetadata{Columns: []*message.ColumnMetadata{{Keyspace: "ks", Table: "t", Name: "c", Type: datatype.Varchar}}},
	})
	var mismatch *TypeError
	if _, err := Answer(f, []byte("id"), &Replacement{Markers: []Marker{{Function: scan.Now}}}); !errors.As(err, &mismatch) {
		t.Errorf("now() for a text column: got %v, want a TypeError", err)
	}
	if _, err := Answer(f, []byte("id"), &Replacement{Markers: []Marker{{Index: 3, Function: scan.Now}}}); err == nil {
		t.Error("an answer with fewer variables than markers was taken")
	}
}
