package scan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
)

// describe prints what a data file holds of a statement: kind first, then what
// is set, in a fixed order.
func describe(s *Statement) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind=%v", s.Kind)
	if !s.Keyspace.IsZero() {
		fmt.Fprintf(&b, " keyspace=%s", s.Keyspace.String())
	}
	if !s.Table.IsZero() {
		fmt.Fprintf(&b, " table=%s", s.Table.String())
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"idempotent", s.Idempotent}, {"cas", s.CAS}, {"counter", s.Counter}, {"unlogged", s.Unlogged}, {"timestamp", s.HasTimestamp}} {
		if f.set {
			b.WriteString(" " + f.name)
		}
	}
	if s.Functions != 0 {
		fmt.Fprintf(&b, " functions=%v", s.Functions)
	}
	if s.BindMarkers != 0 {
		fmt.Fprintf(&b, " markers=%d", s.BindMarkers)
	}
	return b.String()
}

func samples(t testing.TB) []cqltest.Sample {
	t.Helper()
	return cqltest.Samples(t, "testdata/*.txt")
}

func TestScanReadsEveryStatementOfTheDataFiles(t *testing.T) {
	all := samples(t)
	if len(all) < 300 {
		t.Errorf("only %d statements", len(all))
	}
	for _, c := range all {
		s := Scan([]byte(c.Text))
		if got := describe(&s); got != c.Want {
			t.Errorf("%v\n got %s\nwant %s", c, got, c.Want)
		}
	}
}

// What does not change the meaning of a statement must not change what is found.
func TestScanSeesThroughLayout(t *testing.T) {
	for _, c := range samples(t) {
		for name, text := range map[string]string{
			"upper case":   strings.ToUpper(c.Text),
			"BOM":          "\ufeff" + c.Text,
			"semicolons":   " ;; " + c.Text,
			"line comment": "-- a SELECT; 'quote\n" + c.Text,
			"slashes":      "// a \"name\r" + c.Text,
			"block":        "/* INSERT ' */" + c.Text,
			"white space":  "\t\r\n\f\v " + c.Text + " \n",
			"end":          c.Text + " -- ;",
		} {
			if name == "upper case" && strings.ContainsAny(c.Text, `"$`) {
				continue // names and texts that this would change
			}
			s := Scan([]byte(text))
			if got := describe(&s); got != c.Want {
				t.Errorf("%v\nwith %s: %s\n got %s\nwant %s", c, name, text, got, c.Want)
			}
		}
	}
}

// Only a whole statement is known to be idempotent; one that breaks off must
// never panic, nor become another kind than Other or its own.
func TestScanOfAStatementThatBreaksOff(t *testing.T) {
	for _, c := range samples(t) {
		whole := Scan([]byte(c.Text))
		for n := range len(c.Text) {
			s := Scan([]byte(c.Text[:n]))
			if s.Kind != whole.Kind && s.Kind != Other && !(whole.Kind == Other || s.Kind == DDL && whole.Kind == DCL || s.Kind == Describe) {
				t.Errorf("%q is %v, the whole is %v", c.Text[:n], s.Kind, whole.Kind)
			}
			if s.Kind == Select && whole.Kind != Select && whole.Kind != Other {
				t.Errorf("%q is a read", c.Text[:n])
			}
		}
	}
}

func TestScanGivesTheSpansOfASelect(t *testing.T) {
	for _, c := range []struct{ text, clause, rest string }{
		{"SELECT * FROM system.local WHERE key='local'", "*", "WHERE key='local'"},
		{"select\n a, \"from\", 'x from y' , (f(g)) from ks . \"T\" ;", "a, \"from\", 'x from y' , (f(g))", ";"},
		{"SELECT JSON DISTINCT k FROM t/* c */LIMIT 1", "JSON DISTINCT k", "/* c */LIMIT 1"},
		{"SELECT a FROM t", "a", ""},
		{"SELECT a", "a", ""},
		{"SELECT", "", ""},
		{"SELECT a FROM", "a", ""},
	} {
		s := Scan([]byte(c.text))
		if string(s.SelectClause) != c.clause || string(s.Rest) != c.rest {
			t.Errorf("%q: clause %q rest %q, want %q and %q", c.text, s.SelectClause, s.Rest, c.clause, c.rest)
		}
	}
}

func TestIdentComparesAsTheSchemaDoes(t *testing.T) {
	for _, c := range []struct {
		id   Ident
		name string
		is   bool
		text string
	}{
		{Ident{Raw: []byte("System")}, "system", true, "system"},
		{Ident{Raw: []byte("System")}, "systems", false, "system"},
		{Ident{Raw: []byte("System"), Quoted: true}, "system", false, "System"},
		{Ident{Raw: []byte("system"), Quoted: true}, "system", true, "system"},
		{Ident{Raw: []byte(`a""b`), Quoted: true}, `a"b`, true, `a"b`},
		{Ident{Raw: []byte(`a""b`), Quoted: true}, `a""b`, false, `a"b`},
		{Ident{Raw: []byte(`a""`), Quoted: true}, `a`, false, `a"`},
		{Ident{Raw: []byte(``), Quoted: true}, ``, true, ``},
		{Ident{}, "x", false, ""},
	} {
		if got := c.id.Is(c.name); got != c.is || c.id.String() != c.text {
			t.Errorf("%q quoted=%v is %q: %v, prints %q, want %v and %q", c.id.Raw, c.id.Quoted, c.name, got, c.id.String(), c.is, c.text)
		}
	}
}

func TestLexerCutsTokens(t *testing.T) {
	const text = `a1_ "q""x" 'it''s' $$a'b$$ 1.5e-3 0xCAFE 1h30m 123e4567-e89b-12d3-a456-426614174000 ? :n : "N" {a:1,'b'::c} a+=1 b-=-2 x[1..2] é--c`
	want := `Word:a1_ Quoted:"q""x" String:'it''s' String:$$a'b$$ Number:1.5e-3 Number:0xCAFE Number:1h30m UUID:123e4567-e89b-12d3-a456-426614174000 ` +
		`Bind:? Bind::n Bind:: "N" Punct:{ Word:a Punct:: Number:1 Punct:, String:'b' Punct:: Bind::c Punct:} Word:a Punct:+= Number:1 Word:b Punct:-= Punct:- Number:2 ` +
		`Word:x Punct:[ Number:1 Punct:. Punct:. Number:2 Punct:] Punct:` + "\xc3 Punct:\xa9"
	names := map[TokenKind]string{Word: "Word", Quoted: "Quoted", String: "String", Number: "Number", UUID: "UUID", Bind: "Bind", Punct: "Punct", Broken: "Broken"}
	l := NewLexer([]byte(text))
	var got []string
	for tok := l.Next(); tok.Kind != End; tok = l.Next() {
		if text[tok.Start:tok.End()] != string(tok.Text) {
			t.Errorf("%q is not at %d", tok.Text, tok.Start)
		}
		got = append(got, names[tok.Kind]+":"+string(tok.Text))
	}
	if g := strings.Join(got, " "); g != want {
		t.Errorf("got  %s\nwant %s", g, want)
	}
	for _, text := range []string{"'a", `"a`, "$$a$", "/* a *", "/*/", "a 'b''"} {
		l := NewLexer([]byte(text))
		tok := l.Next()
		if tok.Kind == Word {
			tok = l.Next()
		}
		if next := l.Next(); tok.Kind != Broken || next.Kind != End {
			t.Errorf("%q: kinds %v and %v", text, tok.Kind, next.Kind)
		}
	}
}

func TestKindsHaveNames(t *testing.T) {
	for k, want := range map[Kind]string{Other: "other", Call: "call", 99: "invalid"} {
		if got := k.String(); got != want {
			t.Errorf("%d is %q, want %q", k, got, want)
		}
	}
	if got := (Now | UnknownFunction).String(); got != "now,unknown" {
		t.Errorf("functions are %q", got)
	}
}

const (
	smallInsert = "INSERT INTO ks.t (k, c, v) VALUES (?, ?, ?) USING TTL ? AND TIMESTAMP ?"
	smallSelect = "SELECT a, b, c FROM ks.t WHERE k = ? AND c > ? LIMIT 100"
	smallUpdate = "UPDATE ks.t SET a = ?, b = b + ? WHERE k = ? IF a = 1"
)

func TestScanDoesNotAllocate(t *testing.T) {
	for _, c := range samples(t) {
		text := []byte(c.Text)
		if n := testing.AllocsPerRun(5, func() { Scan(text) }); n != 0 {
			t.Errorf("%v: %v allocations", c, n)
		}
	}
}

func TestScanReadsLargeStatements(t *testing.T) {
	const size = 1 << 20
	fill := func(before, middle, after string) string {
		return before + strings.Repeat(middle, size/len(middle)) + after
	}
	markers := fmt.Sprint(" markers=", size/len("?, "))
	for name, c := range map[string]struct{ text, want string }{
		"string":   {fill("INSERT INTO ks.t (k, v) VALUES (1, '", "it''s ", "')"), "kind=insert keyspace=ks table=t idempotent"},
		"comment":  {fill("INSERT INTO t /*", "IF NOT EXISTS ", "*/ (k) VALUES (1)"), "kind=insert table=t idempotent"},
		"IN":       {fill("SELECT * FROM t WHERE k IN (", "?, ", "1)"), "kind=select table=t idempotent" + markers},
		"list":     {fill("UPDATE t SET l = [", "now(), ", "1] WHERE k = 1"), "kind=update table=t functions=now"},
		"batch":    {fill("BEGIN BATCH ", "UPDATE t SET v = 1 WHERE k = 1; ", "APPLY BATCH"), "kind=batch table=t idempotent"},
		"last one": {fill("BEGIN BATCH ", "UPDATE t SET v = 1 WHERE k = 1 ", "DELETE FROM t WHERE k = 1 IF EXISTS APPLY BATCH"), "kind=batch table=t cas"},
		"name":     {fill(`TRUNCATE "ks".t`, "t", ""), "kind=truncate keyspace=ks table=t" + strings.Repeat("t", size)},
	} {
		text := []byte(c.text)
		s := Scan(text)
		if got := describe(&s); got != c.want {
			t.Errorf("%s: got %.200s, want %.200s", name, got, c.want)
		}
		if n := testing.AllocsPerRun(1, func() { Scan(text) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	deep := []byte("SELECT " + strings.Repeat("(", 500_000) + strings.Repeat(")", 500_000) + " FROM t")
	if s := Scan(deep); !s.Table.Is("t") {
		t.Errorf("table %q behind deep brackets", s.Table)
	}
}

// FuzzScan: no panic, spans inside the text, and no read that is not a SELECT.
func FuzzScan(f *testing.F) {
	for _, c := range samples(f) {
		f.Add([]byte(c.Text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := Scan(text)
		l := NewLexer(text)
		first := l.Next()
		for first.IsOp(';') {
			first = l.Next()
		}
		if s.Kind == Select != first.Is("select") {
			t.Fatalf("%v begins with %q", s.Kind, first.Text)
		}
		end := 0
		for tok := first; tok.Kind != End; tok = l.Next() {
			if tok.Start < end || len(tok.Text) == 0 && tok.Kind != Broken || tok.End() > len(text) {
				t.Fatalf("token %q at %d after %d", tok.Text, tok.Start, end)
			}
			end = tok.End()
		}
		if s.Idempotent && s.Kind != Select && (s.CAS || s.Counter || s.Functions != 0) {
			t.Fatalf("idempotent: %s", describe(&s))
		}
		if s.Idempotent && s.Kind != Select && s.Kind != Insert && s.Kind != Update && s.Kind != Delete && s.Kind != Batch {
			t.Fatalf("idempotent: %s", describe(&s))
		}
		_ = describe(&s)
	})
}

func BenchmarkScan(b *testing.B) {
	for name, text := range map[string]string{"insert": smallInsert, "select": smallSelect, "update": smallUpdate,
		"1MB": "INSERT INTO ks.t (k, v) VALUES (1, '" + strings.Repeat("it''s ", 170_000) + "')"} {
		b.Run(name, func(b *testing.B) {
			in := []byte(text)
			b.ReportAllocs()
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				Scan(in)
			}
		})
	}
}
