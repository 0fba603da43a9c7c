package rewrite

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
)

func fixedSource() *Source {
	return NewSource(func() time.Time { return time.Date(2026, 3, 1, 12, 30, 45, 123456789, time.UTC) })
}

var uuidText = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-([14])[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)

// inlined shows a time UUID as T and a random one as R.
func inlined(r Rule, text string) string {
	out := r.Inline([]byte(text), fixedSource())
	if out == nil {
		return ""
	}
	return uuidText.ReplaceAllStringFunc(string(out), func(u string) string {
		if u[14] == '1' {
			return "T"
		}
		return "R"
	})
}

// Each text, what TopLevel makes of it, and what Everywhere does; "" where
// nothing changes. An empty third means the second.
var statements = []struct{ text, inline, prepare, nestedInline, nestedPrepare string }{
	{text: "INSERT INTO t (a, b) VALUES (1, ?)"},
	{text: "INSERT INTO t (now, b) VALUES (1, now)"},
	{text: "INSERT INTO now (a) VALUES (1) IF NOT EXISTS"},
	{text: "INSERT INTO t (a) VALUES ('now()') -- now()\n /* now() */"},
	{text: `INSERT INTO t (a) VALUES ($$now()$$)`},
	{text: `INSERT INTO t JSON '{"a": "now()"}'`},
	{text: `INSERT INTO t (a) VALUES ("Now"())`},
	{text: "INSERT INTO t (a) VALUES (ks.now())"},
	{text: "INSERT INTO t (a) VALUES (now(1))"},
	{text: "INSERT INTO t (a) VALUES (now(), 'broken)"},
	{text: "SELECT now() FROM t WHERE a = now()"},
	{text: "CREATE FUNCTION f() CALLED ON NULL INPUT RETURNS uuid LANGUAGE java AS 'return now();'"},
	{text: "INSERT INTO t (a, b) VALUES (now(), ?)",
		inline: "INSERT INTO t (a, b) VALUES (T, ?)", prepare: "INSERT INTO t (a, b) VALUES (?, ?) 0"},
	{text: "INSERT INTO t (a, b, c) VALUES (?,NOW ( ) , now())USING TTL ?",
		inline: "INSERT INTO t (a, b, c) VALUES (?,T , T)USING TTL ?", prepare: "INSERT INTO t (a, b, c) VALUES (?,? , ?)USING TTL ? 1 2"},
	{text: `insert into ks.t (a) values (system . now(), "system"."now"(), /* x */ now())`,
		inline: `insert into ks.t (a) values (T, T, /* x */ T)`, prepare: `insert into ks.t (a) values (?, ?, /* x */ ?) 0 1 2`},
	{text: "INSERT INTO t (a, b) VALUES (now(), :b)",
		inline: "INSERT INTO t (a, b) VALUES (T, :b)", prepare: "INSERT INTO t (a, b) VALUES (:zdm__now, :b) 0=zdm__now"},
	{text: "INSERT INTO t (a, b, c) VALUES (now(), :b, now())",
		inline: "INSERT INTO t (a, b, c) VALUES (T, :b, T)", prepare: "INSERT INTO t (a, b, c) VALUES (:zdm__now, :b, :zdm__now_2) 0=zdm__now 2=zdm__now_2"},
	{text: "INSERT INTO t (a, b) VALUES (now(), :ZDM__now)",
		inline: "INSERT INTO t (a, b) VALUES (T, :ZDM__now)", prepare: "INSERT INTO t (a, b) VALUES (:zdm__now_2, :ZDM__now) 0=zdm__now_2"},
	{text: "UPDATE t SET a = now(), b=now(), c = ? WHERE k = now() AND l IN (?, now()) IF d = now() AND e != now() AND f IN (now())",
		inline:  "UPDATE t SET a = T, b=T, c = ? WHERE k = T AND l IN (?, T) IF d = T AND e != T AND f IN (T)",
		prepare: "UPDATE t SET a = ?, b=?, c = ? WHERE k = ? AND l IN (?, ?) IF d = ? AND e != ? AND f IN (?) 0 1 3 5 6 7 8"},
	{text: "DELETE a FROM t WHERE k >= now() AND k<now();",
		inline: "DELETE a FROM t WHERE k >= T AND k<T;", prepare: "DELETE a FROM t WHERE k >= ? AND k<?; 0 1"},
	{text: "BEGIN BATCH USING TIMESTAMP ? INSERT INTO t (a) VALUES (now()); UPDATE t SET a = now() WHERE k = ? DELETE FROM t WHERE k = now() APPLY BATCH",
		inline:  "BEGIN BATCH USING TIMESTAMP ? INSERT INTO t (a) VALUES (T); UPDATE t SET a = T WHERE k = ? DELETE FROM t WHERE k = T APPLY BATCH",
		prepare: "BEGIN BATCH USING TIMESTAMP ? INSERT INTO t (a) VALUES (?); UPDATE t SET a = ? WHERE k = ? DELETE FROM t WHERE k = ? APPLY BATCH 1 2 4"},

	// What only Everywhere replaces.
	{text: "INSERT INTO t (a, b) VALUES (toTimestamp(now()), f(1, ks.g(now())))",
		nestedInline:  "INSERT INTO t (a, b) VALUES (toTimestamp((timeuuid)T), f(1, ks.g((timeuuid)T)))",
		nestedPrepare: "INSERT INTO t (a, b) VALUES (toTimestamp((timeuuid)?), f(1, ks.g((timeuuid)?))) 0 1"},
	{text: "INSERT INTO t (a, b) VALUES ([now(), ?], {now(): ?})",
		nestedInline:  "INSERT INTO t (a, b) VALUES ([T, ?], {T: ?})",
		nestedPrepare: "INSERT INTO t (a, b) VALUES ([now(), ?], {now(): ?}) literal"},
	{text: "INSERT INTO t (a, b, c) VALUES ({now()}, {true: now()}, now())",
		inline: "INSERT INTO t (a, b, c) VALUES ({now()}, {true: now()}, T)", prepare: "INSERT INTO t (a, b, c) VALUES ({now()}, {true: now()}, ?) 0",
		nestedInline: "INSERT INTO t (a, b, c) VALUES ({T}, {true: T}, T)", nestedPrepare: "INSERT INTO t (a, b, c) VALUES ({now()}, {true: now()}, now()) literal"},
	{text: "INSERT INTO t (a, b) VALUES ((1, now()), {f: now(), g: :g})",
		nestedInline:  "INSERT INTO t (a, b) VALUES ((1, T), {f: T, g: :g})",
		nestedPrepare: "INSERT INTO t (a, b) VALUES ((1, :zdm__now), {f: :zdm__now_2, g: :g}) 0=zdm__now 1=zdm__now_2"},
	{text: "UPDATE t SET l = l + [now()], m[now()] = ? WHERE (a, b) > (now(), ?) AND token(k) = token(now())",
		nestedInline:  "UPDATE t SET l = l + [T], m[T] = ? WHERE (a, b) > (T, ?) AND token(k) = token((timeuuid)T)",
		nestedPrepare: "UPDATE t SET l = l + [now()], m[now()] = ? WHERE (a, b) > (now(), ?) AND token(k) = token(now()) literal"},
	{text: "INSERT INTO t (a) VALUES ((timeuuid)now())",
		nestedInline: "INSERT INTO t (a) VALUES ((timeuuid)T)", nestedPrepare: "INSERT INTO t (a) VALUES ((timeuuid)?) 0"},
	{text: "INSERT INTO t (a, b, c) VALUES (uuid(), currentTimeUUID(), current_timeuuid())",
		nestedInline: "INSERT INTO t (a, b, c) VALUES (R, T, T)", nestedPrepare: "INSERT INTO t (a, b, c) VALUES (?, ?, ?) 0 1 2"},
	{text: "INSERT INTO t (a, b, c) VALUES (currentTimestamp(), current_date(), system.currentTime())",
		nestedInline:  "INSERT INTO t (a, b, c) VALUES ((timestamp)1772368245123, (date)'2026-03-01', (time)'12:30:45.123456789')",
		nestedPrepare: "INSERT INTO t (a, b, c) VALUES (?, ?, ?) 0 1 2"},
	{text: "DELETE FROM t WHERE d < currentDate() - 2d AND e = :e",
		nestedInline:  "DELETE FROM t WHERE d < (date)'2026-03-01' - 2d AND e = :e",
		nestedPrepare: "DELETE FROM t WHERE d < (date):zdm__current_date - 2d AND e = :e 0=zdm__current_date"},
}

func TestCallsBecomeLiteralsOrBindMarkers(t *testing.T) {
	t.Parallel()
	for _, s := range statements {
		if s.nestedInline == "" {
			s.nestedInline, s.nestedPrepare = s.inline, s.prepare
		}
		for _, test := range []struct {
			name            string
			rule            Rule
			inline, prepare string
		}{{"top level", TopLevel, s.inline, s.prepare}, {"everywhere", Everywhere, s.nestedInline, s.nestedPrepare}} {
			st := scan.Scan([]byte(s.text))
			if !test.rule.Wants(&st) {
				if test.inline != "" {
					t.Errorf("%s: not wanted: %s", test.name, s.text)
				}
				continue
			}
			if got := inlined(test.rule, s.text); got != test.inline {
				t.Errorf("%s: %s\n inlined %s\n    want %s", test.name, s.text, got, test.inline)
			}
			if got := shown(test.rule.Prepare([]byte(s.text))); got != test.prepare {
				t.Errorf("%s: %s\n prepared %s\n     want %s", test.name, s.text, got, test.prepare)
			}
		}
	}
}

// shown is the text and then index and name of each marker, or that there is none.
func shown(rep *Replacement) string {
	if rep == nil {
		return ""
	}
	var b strings.Builder
	b.WriteString(rep.Text)
	if rep.Literal() {
		b.WriteString(" literal")
	}
	for _, m := range rep.Markers {
		b.WriteString(" " + string(rune('0'+m.Index)))
		if m.Name != "" {
			b.WriteString("=" + m.Name)
		}
	}
	return b.String()
}

func TestMarkersAreWhereTheScannerCountsThem(t *testing.T) {
	t.Parallel()
	for _, s := range statements {
		rep := Everywhere.Prepare([]byte(s.text))
		if rep == nil {
			continue
		}
		before, after := scan.Scan([]byte(s.text)), scan.Scan([]byte(rep.Text))
		if got, want := after.BindMarkers, before.BindMarkers+len(rep.Markers); got != want {
			t.Errorf("%s: %d bind markers, want %d", rep.Text, got, want)
		}
		if !rep.Literal() && Everywhere.Prepare([]byte(rep.Text)) != nil {
			t.Errorf("%s: calls are left", rep.Text)
		}
	}
}

func TestAStatementWithoutCallsCostsNothing(t *testing.T) {
	st := scan.Scan([]byte("INSERT INTO t (a, b) VALUES (?, blobAsText(?))"))
	if n := testing.AllocsPerRun(100, func() {
		if Everywhere.Wants(&st) {
			t.Error("wanted")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
	st = scan.Scan([]byte("INSERT INTO t (a) VALUES (now())"))
	if (Rule{}).Wants(&st) {
		t.Error("the zero Rule wants something")
	}
	if st = scan.Scan([]byte("INSERT INTO t (a) VALUES (uuid())")); TopLevel.Wants(&st) {
		t.Error("TopLevel wants uuid()")
	}
}

func TestTimeUUIDsRiseThoughTheClockDoesNot(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 30, 45, 123456700, time.UTC)
	src := NewSource(func() time.Time { return at })
	tick := func() uint64 {
		u := src.timeUUID()
		return uint64(u[6]&0x0F)<<56 | uint64(u[7])<<48 | uint64(u[4])<<40 | uint64(u[5])<<32 |
			uint64(u[0])<<24 | uint64(u[1])<<16 | uint64(u[2])<<8 | uint64(u[3])
	}
	first := tick()
	if got, want := int64(first)-gregorian, at.UnixNano()/100; got != want {
		t.Errorf("the first is of %d, want %d", got, want)
	}
	at = at.Add(-time.Hour)
	for i := uint64(1); i < 4; i++ {
		if got, want := tick(), first+i; got != want {
			t.Errorf("number %d is of %d, want %d", i, got, want)
		}
	}
	if a, b := NewSource(time.Now).timeUUID(), NewSource(time.Now).timeUUID(); cmp.Equal(a[8:], b[8:]) {
		t.Errorf("two sources have the node %x", a[8:])
	}
}

func TestValuesAreThoseOfTheirLiterals(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		f    scan.Functions
		want []byte
	}{
		{scan.CurrentTimestamp, []byte{0, 0, 1, 0x9C, 0xA9, 0x61, 0x31, 0x83}},
		{scan.CurrentDate, []byte{0x80, 0, 0x50, 0x21}},
		{scan.CurrentTime, []byte{0, 0, 0x28, 0xF7, 0xE2, 0x95, 0x1F, 0x15}},
	} {
		if got := fixedSource().appendValue(nil, test.f); !cmp.Equal(got, test.want) {
			t.Errorf("%v: got %x, want %x", test.f, got, test.want)
		}
	}
}

func FuzzRewrittenTextHasNoCallLeft(f *testing.F) {
	for _, s := range statements {
		f.Add(s.text)
	}
	src := fixedSource()
	f.Fuzz(func(t *testing.T, text string) {
		if out := Everywhere.Inline([]byte(text), src); out != nil {
			if again := Everywhere.Inline(out, src); again != nil {
				t.Errorf("%q became %q, which still has calls", text, out)
			}
		}
		rep := Everywhere.Prepare([]byte(text))
		if rep == nil {
			return
		}
		for i, m := range rep.Markers {
			if i > 0 && rep.Markers[i-1].Index >= m.Index {
				t.Errorf("%q: markers %v do not rise", text, rep.Markers)
			}
		}
	})
}
