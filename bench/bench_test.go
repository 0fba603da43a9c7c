package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// TestMain lets the test binary play the other parts, as the command does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "stub" || os.Args[1] == "relay") {
		main()
		return
	}
	os.Exit(m.Run())
}

func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p, err := startSelf(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}

func TestEveryRequestThroughTheDualRelayIsAnswered(t *testing.T) {
	origin := start(t, "origin", "stub", originAddress+":0", "origin")
	target := start(t, "target", "stub", targetAddress+":0", "target")
	relay := start(t, "relay", "relay", underTest+":0", origin.at.String(), target.at.String())
	v4 := speech{version: frame.V4}
	for _, r := range []row{
		{Title: "prepared", speech: v4, clients: 4, inFlight: 8},
		{Title: "simple", speech: v4, clients: 4, inFlight: 8, simple: true},
		{Title: "in small bursts", speech: v4, clients: 2, inFlight: 16, burst: 3},
		{Title: "large values", speech: v4, clients: 2, inFlight: 2, table: tableOf("bench.t1m ")},
		{Title: "many columns", speech: v4, clients: 2, inFlight: 2, table: tableOf("bench.wide ")},
	} {
		s, err := cpuPerRequest(r, relay, 50*time.Millisecond)
		if err != nil || s.Value <= 0 || s.Rate <= 0 {
			t.Errorf("%s: %+v, %v; want figures", r.Title, s, err)
		}
	}
	if busy, err := target.cpu(); err != nil || busy == 0 {
		t.Errorf("the target used %v, %v; want some for the writes", busy, err)
	}
	if s, err := latency(row{speech: v4, clients: 1}, relay, 50*time.Millisecond); err != nil || s.Value <= 0 {
		t.Errorf("latency: %+v, %v", s, err)
	}
}

func TestEveryWayToSpeakIsSpokenThroughTheProxy(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "zdm-proxy")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/zdm-proxy").CombinedOutput(); err != nil {
		t.Fatalf("build zdm-proxy: %v\n%s", err, out)
	}
	origin := start(t, "origin", "stub", originAddress+":0", "origin")
	target := start(t, "target", "stub", targetAddress+":0", "target")
	a, err := newArena(t.TempDir(), origin.at, target.at)
	if err != nil {
		t.Fatal(err)
	}
	proxy := a.proxy(zdmProxy, binary)
	t.Cleanup(proxy.stop)
	for _, r := range rows {
		if r.derive != nil || r.once || !r.by(zdmProxy) {
			continue
		}
		r.clients = min(r.clients, 4)
		p, err := proxy.in(r.setup)
		if err != nil {
			t.Fatalf("%s: %v", r.Title, err)
		}
		if s, err := r.measure(r, p, 100*time.Millisecond); err != nil || s.Value <= 0 {
			t.Errorf("%s: %+v, %v; want figures", r.Title, s, err)
		}
	}
}

func TestAFailedRowIsShownAndTheOthersStay(t *testing.T) {
	r := newResult(options{rounds: 3, seconds: 1}, []*subject{{name: dualRelay}, {name: zdmProxy, version: "1"}}, nil)
	for _, v := range []float64{3, 1, 2} {
		r.add(rows[0], "dual relay", sample{Value: v})
		r.add(rows[0], "zdm-proxy", sample{Value: 2 * v})
	}
	r.add(rows[1], "dual relay", sample{Value: 1})
	r.fail(rows[1], "zdm-proxy", os.ErrClosed)
	got := r.markdown()
	for _, want := range []string{
		"| 16 x 16 (us) | 2.0 (1.0-3.0) | 4.0 (2.0-6.0) | at most 3 | 2.00 | at most 1.28 |",
		"| 16 x 16, simple QUERY (us) | 1.0 | failed | at most 5 | - | - |",
		"Failed: 16 x 16, simple QUERY, zdm-proxy: file already closed.",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("page lacks %q:\n%s", want, got)
		}
	}
}

func TestThePageIsRewrittenBetweenItsMarks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	r := newResult(options{rounds: 1, seconds: 1}, nil, nil)
	if err := os.WriteFile(file, []byte("before\n"+beginMark+"\nold\n"+endMark+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time over its own output
		if err := r.writePage(file); err != nil {
			t.Fatal(err)
		}
	}
	b, _ := os.ReadFile(file)
	got := string(b)
	if strings.Contains(got, "old") || !strings.HasPrefix(got, "before\n"+beginMark) || !strings.HasSuffix(got, endMark+"\nafter\n") {
		t.Errorf("page:\n%s", got)
	}
	os.WriteFile(file, []byte("no marks"), 0o600)
	if err := r.writePage(file); err == nil {
		t.Error("a page without marks was rewritten")
	}
}
