package route_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
)

var update = flag.Bool("update", false, "write the plans into the data files, to be read before they are committed")

// TestPlansAreWhatTheDataFilesSay runs testdata/*.txt: cases set apart by blank
// lines; # begins a comment. A case is
//
//	decide phase=P [keyspace=K] [system=SIDE] [shadow_reads]
//	the statement
//	----
//	legs: SIDE...      whose answers the client waits for, or "the proxy itself"
//	answer: SIDE       whose answer it gets
//	copy: SIDE         who gets a copy besides
//
// or, with "prepare" for "decide", the plan of PREPARE. Several phases with the
// same plan may stand in one line: phase=P,P.
func TestPlansAreWhatTheDataFilesSay(t *testing.T) {
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
		cases := strings.Split(strings.TrimRight(string(text), "\n"), "\n\n")
		line := 1
		for i, c := range cases {
			input, want, _ := strings.Cut(c, "\n----\n")
			comment, input := cutComment(input)
			if input == "" {
				line += strings.Count(c, "\n") + 2
				continue
			}
			got := run(t, input)
			if got != want && !*update {
				t.Errorf("%s:%d:\n%s\ngot\n%s\nwant\n%s", file, line, input, got, want)
			}
			cases[i] = comment + input + "\n----\n" + got
			line += strings.Count(c, "\n") + 2
		}
		if *update {
			if err := os.WriteFile(file, []byte(strings.Join(cases, "\n\n")+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func cutComment(input string) (comment, rest string) {
	for strings.HasPrefix(input, "#") {
		line, after, _ := strings.Cut(input, "\n")
		comment, input = comment+line+"\n", after
	}
	return comment, input
}

// run returns the plan; it fails if the phases of a case differ in it.
func run(t *testing.T, input string) string {
	t.Helper()
	first, text, _ := strings.Cut(input, "\n")
	words := strings.Fields(first)
	var phases []phase.Phase
	keyspace, o := "", route.Options{}
	for _, w := range words[1:] {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "phase":
			for p := range strings.SplitSeq(value, ",") {
				parsed, err := phase.Parse(p)
				if err != nil {
					t.Fatal(err)
				}
				phases = append(phases, parsed)
			}
		case "keyspace":
			keyspace = value
		case "system":
			if value == phase.Target.String() {
				o.SystemQueries = phase.Target
			}
		case "shadow_reads":
			o.ShadowReads = true
		default:
			t.Fatalf("unknown word %q in %q", w, first)
		}
	}
	st := scan.Scan([]byte(text))
	class := route.Classify(&st, keyspace)
	var got string
	for i, p := range phases {
		plan := route.Decide(p.Rule(), class, o)
		if words[0] == "prepare" {
			plan = route.Prepare(p.Rule())
		}
		this := render(class, plan)
		if i > 0 && this != got {
			t.Errorf("%s: %s gives\n%s\nand %s gives\n%s", text, p, this, phases[0], got)
		}
		got = this
	}
	return got
}

func render(class route.Class, plan route.Plan) string {
	switch class {
	case route.Virtual, route.NoPeersV2, route.Insights:
		return fmt.Sprintf("class: %s\nlegs: the proxy itself", class)
	}
	var legs []string
	for _, s := range plan.Legs.Each() {
		legs = append(legs, s.String())
	}
	out := fmt.Sprintf("class: %s\nlegs: %s\nanswer: %s", class, strings.Join(legs, " "), plan.Answer)
	if plan.HasShadow {
		out += "\ncopy: " + plan.Shadow.String()
	}
	return out
}

func TestAPageGoesToItsIssuerInEveryPhase(t *testing.T) {
	t.Parallel()
	for _, s := range phase.Sides {
		if got := route.Page(s); got.Legs != phase.Of(s) || got.Answer != s || got.HasShadow {
			t.Errorf("page of %s: %+v, want that side alone", s, got)
		}
	}
}

func TestWhatCannotBeReadIsAWrite(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", ";", "???", "UPSERT INTO t (k) VALUES (1)", "BEGIN", "\x00\xff", "{\"gremlin\": \"g.V()\"}"} {
		st := scan.Scan([]byte(text))
		if c := route.Classify(&st, ""); c != route.Write || c.IsRead() {
			t.Errorf("%q is classed %s, want write: a write that is taken for a read is lost on one side", text, c)
		}
	}
}

func TestDecidingDoesNotAllocate(t *testing.T) {
	text := []byte("INSERT INTO ks.t (k, v) VALUES (?, ?) USING TTL 5")
	rule := phase.DualRead.Rule()
	if n := testing.AllocsPerRun(100, func() {
		st := scan.Scan(text)
		route.Decide(rule, route.Classify(&st, "ks"), route.Options{})
	}); n != 0 {
		t.Errorf("scan and plan allocate %v times, want 0", n)
	}
}
