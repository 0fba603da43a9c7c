package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	for _, r := range []row{
		{Title: "prepared", clients: 4, inFlight: 8},
		{Title: "simple", clients: 4, inFlight: 8, simple: true},
		{Title: "in small bursts", clients: 2, inFlight: 16, burst: 3},
	} {
		s, err := cpuPerRequest(r, relay, 50*time.Millisecond)
		if err != nil || s.Value <= 0 || s.Rate <= 0 {
			t.Errorf("%s: %+v, %v; want figures", r.Title, s, err)
		}
	}
	if busy, err := target.cpu(); err != nil || busy == 0 {
		t.Errorf("the target used %v, %v; want some for the writes", busy, err)
	}
	if s, err := latency(row{}, relay, 50*time.Millisecond); err != nil || s.Value <= 0 {
		t.Errorf("latency: %+v, %v", s, err)
	}
}

func TestAFailedRowIsShownAndTheOthersStay(t *testing.T) {
	r := newResult(options{rounds: 3, seconds: 1}, []*process{{name: "dual relay"}, {name: "zdm-proxy", version: "1"}}, nil)
	for _, v := range []float64{3, 1, 2} {
		r.add(rows[0], "dual relay", sample{Value: v})
		r.add(rows[0], "zdm-proxy", sample{Value: 2 * v})
	}
	r.add(rows[1], "dual relay", sample{Value: 1})
	r.fail(rows[1], "zdm-proxy", os.ErrClosed)
	got := r.markdown()
	for _, want := range []string{
		"| 16 x 16 (us) | 2.0 (1.0-3.0) | 4.0 (2.0-6.0) | 3 | 2.00 | 1.28 |",
		"| 16 x 16, simple QUERY (us) | 1.0 | failed | 5 | - | - |",
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
