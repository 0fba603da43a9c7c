package proxy_test

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

var timeUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-1[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)

// replacing is a world that replaces now(), with nodes whose ids differ.
func replacing(t *testing.T, settings map[string]string) *world {
	t.Helper()
	all := map[string]string{"replace_cql_functions": "true"}
	for k, v := range settings {
		all[k] = v
	}
	return start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{Salt: "other ids"}, all)
}

// describe tells both nodes what PREPARE answers: columns with a u in front of
// their name are time UUIDs, all others text.
func (w *world) describe(text string, key []uint16, names ...string) {
	s := cqltest.Statement{Key: key}
	for _, name := range names {
		var of datatype.DataType = datatype.Varchar
		if strings.HasPrefix(name, "u") || strings.HasPrefix(name, "zdm") {
			of = datatype.Timeuuid
		}
		s.Variables = append(s.Variables, cqltest.Column("ks", "t", name, of))
	}
	w.origin.Describe(text, s)
	w.target.Describe(text, s)
}

// same returns the last request of a kind that both sides got, and fails if
// their bytes differ after the ids, which are of the same length.
func (w *world) same(t *testing.T, op primitive.OpCode) cqltest.Request {
	t.Helper()
	var last [2]cqltest.Request
	for _, side := range phase.Sides {
		got := w.side(side).Requests(cqltest.NotSystem, cqltest.WithOpcode(op))
		if len(got) == 0 {
			t.Fatalf("%v has got no %v", side, op)
		}
		last[side] = got[len(got)-1]
	}
	if last[0].Text != last[1].Text {
		t.Errorf("Origin got %s, Target %s", last[0].Text, last[1].Text)
	}
	raw := [2][]byte{}
	for i := range last {
		raw[i] = bytes.Clone(last[i].Raw[9:])
		ids := [][]byte{last[i].ID}
		for _, c := range last[i].Children {
			ids = append(ids, c.ID)
		}
		for _, id := range ids {
			if len(id) > 0 {
				raw[i] = bytes.ReplaceAll(raw[i], id, []byte("an id"))
			}
		}
	}
	if !bytes.Equal(raw[0], raw[1]) {
		t.Errorf("Origin got %x, Target %x", raw[0], raw[1])
	}
	return last[0]
}

// shape shows texts with their time UUIDs as T, and likewise their values. All
// time UUIDs must differ.
func shape(t *testing.T, seen map[string]bool, text string, values []*primitive.Value) string {
	t.Helper()
	once := func(u string) {
		if seen[u] {
			t.Errorf("%x is there twice", u)
		}
		seen[u] = true
	}
	out := timeUUID.ReplaceAllStringFunc(text, func(u string) string { once(u); return "T" })
	for _, v := range values {
		if len(v.Contents) == 16 && v.Contents[6]>>4 == 1 {
			once(string(v.Contents))
			out += " T"
		} else {
			out += " " + string(v.Contents)
		}
	}
	return out
}

func values(texts ...string) (out []*primitive.Value) {
	for _, text := range texts {
		out = append(out, primitive.NewValue([]byte(text)))
	}
	return out
}

func TestNowInAQueryBecomesTheSameLiteralOnBothSides(t *testing.T) {
	t.Parallel()
	w := replacing(t, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	seen := map[string]bool{}
	for range 2 {
		mustVoid(t, c.Ask(t, &message.Query{Query: "INSERT INTO ks.t (u, a, v) VALUES (now(), ?, system.now())",
			Options: &message.QueryOptions{PositionalValues: values("x")}}))
		r := w.same(t, primitive.OpCodeQuery)
		if got, want := shape(t, seen, r.Text, r.Values), "INSERT INTO ks.t (u, a, v) VALUES (T, ?, T) x"; got != want {
			t.Errorf("the sides got %s, want %s", got, want)
		}
	}
	for _, untouched := range []string{"INSERT INTO ks.t (a, b) VALUES (toTimestamp(now()), uuid())", "SELECT now() FROM ks.t", insert} {
		c.Query(t, untouched)
		if got := w.origin.Requests(cqltest.WithText(untouched)); len(got) != 1 {
			t.Errorf("%s came %d times as it was, want once", untouched, len(got))
		}
	}
}

func TestNothingIsReplacedByDefault(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	const text = "INSERT INTO ks.t (u) VALUES (now())"
	mustVoid(t, c.Query(t, text))
	mustVoid(t, execute(t, c, prepare(t, c, text)))
	if diff := cmp.Diff([]string{"query " + text, "prepare " + text, "execute " + text}, w.seen(phase.Target)); diff != "" {
		t.Errorf("Target's requests (-want +got):\n%s", diff)
	}
}

func TestNowInAPreparedStatementBecomesAMarkerThatTheClientDoesNotSee(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, text, nodeText string
		variables            []string // of the nodes
		key                  []uint16
		visible              []string
		visibleKey           []uint16
		given, want          string
	}{
		{"one marker", "INSERT INTO ks.t (u, a) VALUES (now(), ?)", "INSERT INTO ks.t (u, a) VALUES (?, ?)",
			[]string{"u", "a"}, []uint16{1}, []string{"a"}, []uint16{0}, "x", " T x"},
		{"several among others", "UPDATE ks.t SET u = now(), a = ?, u2 = now() WHERE k = ? AND u3 = now()",
			"UPDATE ks.t SET u = ?, a = ?, u2 = ? WHERE k = ? AND u3 = ?",
			[]string{"u", "a", "u2", "k", "u3"}, []uint16{3}, []string{"a", "k"}, []uint16{1}, "x y", " T x T y T"},
		{"no other", "INSERT INTO ks.t (u) VALUES (now())", "INSERT INTO ks.t (u) VALUES (?)",
			[]string{"u"}, []uint16{0}, nil, nil, "", " T"},
		{"named", "INSERT INTO ks.t (a, u, b, u2) VALUES (:a, now(), :b, now())",
			"INSERT INTO ks.t (a, u, b, u2) VALUES (:a, :zdm__now, :b, :zdm__now_2)",
			[]string{"a", "zdm__now", "b", "zdm__now_2"}, []uint16{0, 2}, []string{"a", "b"}, []uint16{0, 1}, "x y", " x T y T"},
		{"a batch", "BEGIN BATCH INSERT INTO ks.t (u) VALUES (now()); DELETE FROM ks.t WHERE a = ? APPLY BATCH",
			"BEGIN BATCH INSERT INTO ks.t (u) VALUES (?); DELETE FROM ks.t WHERE a = ? APPLY BATCH",
			[]string{"u", "a"}, nil, []string{"a"}, nil, "x", " T x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := replacing(t, nil)
			w.describe(test.nodeText, test.key, test.variables...)
			for _, v := range []primitive.ProtocolVersion{3, 4} {
				c := cqltest.Dial(t, w.addr, cqltest.Login{Version: v})
				p, ok := c.Ask(t, &message.Prepare{Query: test.text}).(*message.PreparedResult)
				if !ok {
					t.Fatalf("PREPARE was answered with %v", p)
				}
				if r := w.same(t, primitive.OpCodePrepare); r.Text != test.nodeText {
					t.Errorf("the sides prepared %s, want %s", r.Text, test.nodeText)
				}
				var visible []string
				for _, column := range p.VariablesMetadata.Columns {
					visible = append(visible, column.Name)
				}
				if diff := cmp.Diff(test.visible, visible); diff != "" {
					t.Errorf("variables (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(test.visibleKey, p.VariablesMetadata.PkIndices); v != 3 && diff != "" {
					t.Errorf("partition key (-want +got):\n%s", diff)
				}
				seen := map[string]bool{}
				for range 2 {
					mustVoid(t, c.Ask(t, &message.Execute{QueryId: p.PreparedQueryId, Options: &message.QueryOptions{PositionalValues: values(strings.Fields(test.given)...)}}))
					if got := shape(t, seen, "", w.same(t, primitive.OpCodeExecute).Values); got != test.want {
						t.Errorf("v%d: the sides got%s, want%s", v, got, test.want)
					}
				}
			}
		})
	}
}

func TestValuesByNameReachHiddenMarkersByTheirNames(t *testing.T) {
	t.Parallel()
	w := replacing(t, nil)
	w.describe("INSERT INTO ks.t (u, a) VALUES (:zdm__now, :a)", nil, "zdm__now", "a")
	w.describe("UPDATE ks.t SET u = ? WHERE k = ?", nil, "u", "k")
	w.describe("UPDATE ks.t SET u = ? WHERE k = ? IF u = ?", nil, "u", "k", "u")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	for text, hidden := range map[string]string{
		"INSERT INTO ks.t (u, a) VALUES (now(), :a)":         "zdm__now",
		"UPDATE ks.t SET u = now() WHERE k = ?":              "u",
		"UPDATE ks.t SET u = now() WHERE k = ? IF u = now()": "",
		"UPDATE ks.t SET u = now() WHERE k = ? IF u = ?":     "",
	} {
		id := prepare(t, c, text)
		m := c.Ask(t, &message.Execute{QueryId: id, Options: &message.QueryOptions{NamedValues: map[string]*primitive.Value{"a": values("x")[0]}}})
		if hidden == "" {
			// Both of that name would get the first of the values.
			if _, ok := m.(*message.Invalid); !ok {
				t.Errorf("%s: got %v, want INVALID", text, m)
			}
			continue
		}
		mustVoid(t, m)
		r := w.same(t, primitive.OpCodeExecute)
		got := r.Message.(*message.Execute).Options.NamedValues
		if len(got) != 2 || len(got[hidden].Contents) != 16 || string(got["a"].Contents) != "x" {
			t.Errorf("%s: the sides got %v, want a and a time UUID as %s", text, got, hidden)
		}
	}
}

func TestAStatementThatHadTheMarkersFromTheBeginningIsAnother(t *testing.T) {
	t.Parallel()
	w := replacing(t, nil)
	const written = "INSERT INTO ks.t (u, a) VALUES (?, ?)"
	w.describe(written, nil, "u", "a")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	replaced, plain := prepare(t, c, "INSERT INTO ks.t (u, a) VALUES (now(), ?)"), prepare(t, c, written)
	if bytes.Equal(replaced, plain) {
		t.Fatalf("both have the id %x", plain)
	}
	for _, test := range []struct {
		id    []byte
		given []string
		want  string
	}{{replaced, []string{"x"}, " T x"}, {plain, []string{"mine", "x"}, " mine x"}, {replaced, []string{"y"}, " T y"}} {
		mustVoid(t, c.Ask(t, &message.Execute{QueryId: test.id, Options: &message.QueryOptions{PositionalValues: values(test.given...)}}))
		if got := shape(t, map[string]bool{}, "", w.same(t, primitive.OpCodeExecute).Values); got != test.want {
			t.Errorf("the sides got%s, want%s", got, test.want)
		}
	}
}

func TestNowInABatchIsTheSameOnBothSides(t *testing.T) {
	t.Parallel()
	w := replacing(t, nil)
	w.describe("INSERT INTO ks.t (a, u) VALUES (?, ?)", nil, "a", "u")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	id, plain := prepare(t, c, "INSERT INTO ks.t (a, u) VALUES (?, now())"), prepare(t, c, insert)
	seen := map[string]bool{}
	ask := func() {
		t.Helper()
		mustVoid(t, c.Ask(t, &message.Batch{Children: []*message.BatchChild{
			{Query: "INSERT INTO ks.t (u) VALUES (now())"}, {Id: id, Values: values("x")}, {Id: plain},
			{Query: "UPDATE ks.t SET u = now() WHERE k = ?", Values: values("k")}, {Id: id, Values: values("y")},
		}}))
		var got []string
		for _, child := range w.same(t, primitive.OpCodeBatch).Children {
			text := child.Text
			if len(child.ID) > 0 {
				text = "id"
			}
			got = append(got, shape(t, seen, text, child.Values))
		}
		want := []string{"INSERT INTO ks.t (u) VALUES (T)", "id x T", "id", "UPDATE ks.t SET u = T WHERE k = ? k", "id y T"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("children (-want +got):\n%s", diff)
		}
	}
	ask()
	w.target.Forget(nil)
	ask()
}

func TestABatchWithoutRoomForAHiddenValueIsRefusedAndTheClientGoesOn(t *testing.T) {
	t.Parallel()
	w := replacing(t, nil)
	w.describe("INSERT INTO ks.t (a, u) VALUES (?, ?)", nil, "a", "u")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	id := prepare(t, c, "INSERT INTO ks.t (a, u) VALUES (?, now())")
	full := make([]*primitive.Value, 1<<16-1)
	for i := range full {
		full[i] = primitive.NewNullValue()
	}
	for name, m := range map[string]message.Message{
		"BATCH":   &message.Batch{Children: []*message.BatchChild{{Id: id, Values: full}}},
		"EXECUTE": &message.Execute{QueryId: id, Options: &message.QueryOptions{PositionalValues: full}},
	} {
		if got, ok := c.Ask(t, m).(*message.ProtocolError); !ok || !strings.Contains(got.ErrorMessage, "number of values") {
			t.Errorf("%s: got %v, want a protocol error about the number of values", name, got)
		}
	}
	mustVoid(t, c.Query(t, insert))
}

func TestASideThatForgotIsGivenTheMarkersAgainAndTheSameValue(t *testing.T) {
	t.Parallel()
	w := replacing(t, nil)
	const text, nodeText = "INSERT INTO ks.t (u, a) VALUES (now(), ?)", "INSERT INTO ks.t (u, a) VALUES (?, ?)"
	w.describe(nodeText, nil, "u", "a")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	id := prepare(t, c, text)
	for _, side := range phase.Sides {
		w.origin.ClearRequests()
		w.target.ClearRequests()
		w.side(side).Forget(nil)
		mustVoid(t, c.Ask(t, &message.Execute{QueryId: id, Options: &message.QueryOptions{PositionalValues: values("x")}}))
		if diff := cmp.Diff([]string{"prepare " + nodeText, "execute " + nodeText}, w.seen(side)); diff != "" {
			t.Errorf("%v's requests (-want +got):\n%s", side, diff)
		}
		if got := shape(t, map[string]bool{}, "", w.same(t, primitive.OpCodeExecute).Values); got != " T x" {
			t.Errorf("the sides got%s, want T x", got)
		}
	}
}

func TestASuccessorGoesOnFillingHiddenMarkers(t *testing.T) {
	t.Parallel()
	w := replacing(t, nil)
	w.describe("INSERT INTO ks.t (u, a) VALUES (?, ?)", nil, "u", "a")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	id := prepare(t, c, "INSERT INTO ks.t (u, a) VALUES (now(), ?)")
	run := func(o message.QueryOptions) message.Message {
		return c.Ask(t, &message.Execute{QueryId: id, Options: &o})
	}
	next := successor(t, w, phase.DualWrite)
	if err := w.srv.Drain(context.Background(), moveInto(t, next)); err != nil {
		t.Fatal(err)
	}
	mustVoid(t, run(message.QueryOptions{PositionalValues: values("x")}))
	if got := shape(t, map[string]bool{}, "", w.same(t, primitive.OpCodeExecute).Values); got != " T x" {
		t.Errorf("the sides got%s, want T x", got)
	}
	mustVoid(t, run(message.QueryOptions{NamedValues: map[string]*primitive.Value{"a": values("x")[0]}}))
	if got := w.same(t, primitive.OpCodeExecute).Message.(*message.Execute).Options.NamedValues; len(got["u"].Contents) != 16 {
		t.Errorf("the sides got %v, want a time UUID as u", got)
	}

	// One that does not replace has the client prepare again: the same statement
	// would mean something else.
	w.values["replace_cql_functions"] = "false"
	last := successor(t, w, phase.DualWrite)
	if err := next.Drain(context.Background(), moveInto(t, last)); err != nil {
		t.Fatal(err)
	}
	if m, ok := run(message.QueryOptions{PositionalValues: values("x")}).(*message.Unprepared); !ok {
		t.Errorf("got %v, want UNPREPARED", m)
	}
}

func TestNowForAColumnThatCannotHoldItIsRefusedAtPrepare(t *testing.T) {
	t.Parallel()
	w := replacing(t, nil)
	w.describe("INSERT INTO ks.t (a) VALUES (?)", nil, "a")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	if m, ok := c.Ask(t, &message.Prepare{Query: "INSERT INTO ks.t (a) VALUES (now())"}).(*message.Invalid); !ok {
		t.Errorf("got %v, want INVALID", m)
	}
}

func TestAPreparedStatementWithACallInACollectionGoesAsTextToBothSides(t *testing.T) {
	t.Parallel()
	w := replacing(t, map[string]string{"replace_all_cql_functions": "true"})
	const text, want = "INSERT INTO ks.t (a, l) VALUES (?, [now()])", "INSERT INTO ks.t (a, l) VALUES (?, [T]) x"
	w.describe(text, nil, "a")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	id, plain := prepare(t, c, text), prepare(t, c, insert)
	seen := map[string]bool{}
	for range 2 {
		mustVoid(t, c.Ask(t, &message.Execute{QueryId: id, Options: &message.QueryOptions{PositionalValues: values("x"), SkipMetadata: true}}))
		r := w.same(t, primitive.OpCodeQuery)
		if got := shape(t, seen, r.Text, r.Values); got != want {
			t.Errorf("the sides got %s, want %s", got, want)
		}
	}
	// Its neighbours in a BATCH keep their own ids of each side, and are prepared
	// again where they were forgotten.
	w.target.Forget(nil)
	mustVoid(t, c.Ask(t, &message.Batch{Children: []*message.BatchChild{{Id: id, Values: values("x")}, {Id: plain}, {Id: id, Values: values("x")}}}))
	var got []string
	for _, child := range w.same(t, primitive.OpCodeBatch).Children {
		got = append(got, shape(t, seen, child.Text, child.Values))
	}
	if diff := cmp.Diff([]string{want, insert, want}, got); diff != "" {
		t.Errorf("children (-want +got):\n%s", diff)
	}
}

func TestAllFunctionsAreReplacedOnRequest(t *testing.T) {
	t.Parallel()
	w := replacing(t, map[string]string{"replace_all_cql_functions": "true"})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	mustVoid(t, c.Query(t, "INSERT INTO ks.t (a, b, c) VALUES (toTimestamp(now()), [uuid()], currentDate())"))
	r := w.same(t, primitive.OpCodeQuery)
	if !regexp.MustCompile(`VALUES \(toTimestamp\(\(timeuuid\)[0-9a-f-]{36}\), \[[0-9a-f-]{36}\], \(date\)'\d{4}-\d\d-\d\d'\)$`).MatchString(r.Text) {
		t.Errorf("the sides got %s", r.Text)
	}
	const nodeText = "INSERT INTO ks.t (a, u) VALUES (toTimestamp((timeuuid)?), ?)"
	w.describe(nodeText, nil, "u0", "u")
	mustVoid(t, execute(t, c, prepare(t, c, "INSERT INTO ks.t (a, u) VALUES (toTimestamp(now()), now())")))
	if got := shape(t, map[string]bool{}, "", w.same(t, primitive.OpCodeExecute).Values); got != " T T" {
		t.Errorf("the sides got%s, want T T", got)
	}
}
