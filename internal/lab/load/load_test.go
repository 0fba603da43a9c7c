package load

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
)

// memory is a Client over a map. Its faults are functions that the test sets
// before the load begins; n counts writes, or reads, from 1.
type memory struct {
	mu     sync.Mutex
	rows   map[journal.Key]journal.Found
	writes int
	reads  int
	open   int // requests inside
	// lose: the write is acknowledged and not done. fail: it is not
	// acknowledged, and done if the second result says so.
	lose func(n int) bool
	fail func(n int) (fail, done bool)
	hold func() // called in each request, outside mu
}

func newMemory() *memory { return &memory{rows: make(map[journal.Key]journal.Found)} }

func (m *memory) enter() {
	m.mu.Lock()
	m.open++
	m.mu.Unlock()
	if m.hold != nil {
		m.hold()
	}
	m.mu.Lock()
}

func (m *memory) leave() {
	m.open--
	m.mu.Unlock()
}

func (m *memory) Write(_ context.Context, w Write) error {
	m.enter()
	defer m.leave()
	m.writes++
	fail, done := false, true
	if m.fail != nil {
		fail, done = m.fail(m.writes)
		done = done || !fail
	}
	if m.lose != nil && m.lose(m.writes) {
		done = false
	}
	for _, c := range w.Changes {
		switch {
		case !done:
		case c.Verb == Delete:
			delete(m.rows, c.Key)
		default:
			m.rows[c.Key] = journal.Found{Key: c.Key, Version: c.Version, Value: journal.Value(c.Key, c.Version)}
		}
	}
	if fail {
		return errors.New("write time out")
	}
	return nil
}

func (m *memory) Read(_ context.Context, k journal.Key, _ Style) (*journal.Found, error) {
	m.enter()
	defer m.leave()
	m.reads++
	if f, ok := m.rows[k]; ok {
		return &f, nil
	}
	return nil, nil
}

func (m *memory) ReadBucket(_ context.Context, bucket string, _ Style) ([]journal.Found, error) {
	m.enter()
	defer m.leave()
	m.reads++
	var out []journal.Found
	for k, f := range m.rows {
		if k.Bucket == bucket {
			out = append(out, f)
		}
	}
	return out, nil
}

// count returns how many requests were answered, and how many are inside.
func (m *memory) count() (done, open int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes + m.reads, m.open
}

// start runs a load until the test, or stop, ends it.
func start(t *testing.T, db Client, cfg Config) (l *Load, journalPath string, stop func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal.ndjson")
	w, err := journal.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Client, cfg.Journal = db, w
	l, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l, path, stop
}

// until polls, since the load runs by the clock.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func requests(l *Load, n int) func() bool {
	return func() bool { return l.Stats().Total.Requests >= n }
}

func TestAFaithfulDatabaseGivesNoFailureAndAJournalThatItMatches(t *testing.T) {
	db := newMemory()
	l, path, stop := start(t, db, Config{Workers: 4, Buckets: 3})
	until(t, "3000 requests", requests(l, 3000))
	stop()
	goleak.VerifyNone(t)
	total := l.Stats().Total
	if total.Failures != 0 || total.Wrong != 0 {
		t.Fatalf("stats are %+v, want no failure and no wrong read: %v", total, l.Stats().Problems)
	}
	m, err := journal.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if m.Acked != total.Acked || m.Unanswered != 0 {
		t.Errorf("the journal has %d acknowledged and %d unanswered writes, the stats say %d and 0", m.Acked, m.Unanswered, total.Acked)
	}
	live := 0
	for k, row := range m.Rows {
		var found *journal.Found
		if f, ok := db.rows[k]; ok {
			found = &f
			live++
		}
		if got := row.Check(found); got != journal.Matches {
			t.Errorf("row %s is %s: %+v, want %s", k, got, found, row.Expected())
		}
	}
	if live != len(db.rows) || live == 0 {
		t.Errorf("the journal knows %d of %d rows", live, len(db.rows))
	}
}

func TestALostWriteIsReportedAsAWrongRead(t *testing.T) {
	db := newMemory()
	db.lose = func(n int) bool { return n%50 == 0 }
	l, _, _ := start(t, db, Config{Workers: 2, Buckets: 2})
	until(t, "a wrong read", func() bool { return l.Stats().Total.Wrong > 0 })
	text := l.Stats().Problems[0].Text
	if !strings.Contains(text, " is missing: expected ") && !strings.Contains(text, " is stale: expected ") && !strings.Contains(text, " is resurrected: expected ") {
		t.Errorf("problem is %q, want it to say what was expected", text)
	}
}

func TestAFailedWriteMayBeDoneOrNotAndIsNoWrongRead(t *testing.T) {
	db := newMemory()
	db.fail = func(n int) (bool, bool) { return n%10 == 0, n%20 == 0 }
	l, path, stop := start(t, db, Config{Workers: 4, Buckets: 3})
	until(t, "2000 requests", requests(l, 2000))
	stop()
	s := l.Stats()
	if s.Total.Wrong != 0 || s.Total.Failures == 0 {
		t.Fatalf("stats are %+v, want failures and no wrong read: %v", s.Total, s.Problems)
	}
	m, err := journal.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if m.Failed != s.Total.Failures {
		t.Errorf("the journal has %d failures, the stats say %d", m.Failed, s.Total.Failures)
	}
	if len(s.Problems) != 20 || s.Problems[0].Text != "write time out" {
		t.Errorf("problems are %d, first %+v, want 20 time outs", len(s.Problems), s.Problems[0])
	}
}

func TestPauseWaitsForTheRequestsInFlightAndLetsNoneThrough(t *testing.T) {
	db := newMemory()
	release := make(chan struct{})
	db.hold = func() { <-release }
	l, _, _ := start(t, db, Config{Workers: 3})
	until(t, "three in flight", func() bool { _, open := db.count(); return open == 3 })

	expired, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Pause(expired); !errors.Is(err, context.Canceled) {
		t.Fatalf("Pause with requests in flight and an ended context is %v, want %v", err, context.Canceled)
	}
	paused := make(chan error)
	go func() { paused <- l.Pause(t.Context()) }()
	until(t, "the gate is shut", func() bool { l.gate.mu.Lock(); defer l.gate.mu.Unlock(); return l.gate.closed })
	close(release)
	if err := <-paused; err != nil {
		t.Fatal(err)
	}
	before, open := db.count()
	if open != 0 {
		t.Errorf("%d requests in flight after Pause, want 0", open)
	}
	for range 100 {
		if now, _ := db.count(); now != before {
			t.Fatalf("%d requests answered while paused, want %d", now, before)
		}
	}
	l.Resume()
	until(t, "requests after Resume", func() bool { now, _ := db.count(); return now > before+100 })
}

func TestEachVisitOfAPhaseHasItsOwnNumbers(t *testing.T) {
	l, path, stop := start(t, newMemory(), Config{Workers: 2, Phase: "dual_write"})
	until(t, "requests in the first", requests(l, 50))
	for _, phase := range []string{"dual_read", "dual_write"} {
		if err := l.SetPhase(phase); err != nil {
			t.Fatal(err)
		}
		until(t, "requests in "+phase, func() bool { v := l.Stats().Visits; return v[len(v)-1].Requests >= 50 })
	}
	stop()
	s := l.Stats()
	var names []string
	sum := 0
	for _, v := range s.Visits {
		names = append(names, v.Phase)
		sum += v.Requests
	}
	if got := strings.Join(names, " "); got != "dual_write dual_read dual_write" || sum != s.Total.Requests {
		t.Errorf("visits are %q with %d requests, want three with %d", got, sum, s.Total.Requests)
	}
	if text := read(t, path); !strings.Contains(text, `"kind":"acked"`) || !strings.Contains(text, `"phase":"dual_read","id"`) {
		t.Errorf("the journal does not tell the phase of a write:\n%.400s", text)
	}
}

func TestASimpleStatementCarriesItsValuesAsLiterals(t *testing.T) {
	k := journal.Key{Bucket: "it's", Slot: 7}
	text, args := Change{Verb: Delete, Mutation: journal.Mutation{Key: k, Version: 3}}.statement()
	if got, want := inline(text, args), "/* simple */ DELETE FROM item WHERE bucket = 'it''s' AND slot = 7"; got != want {
		t.Errorf("inline is %q, want %q", got, want)
	}
	text, args = Change{Verb: Insert, Mutation: journal.Mutation{Key: k, Version: 3}}.statement()
	if got := inline(text, args); strings.Contains(got, "?") {
		t.Errorf("inline left a mark: %q", got)
	}
}

func TestNewRefusesWhatCannotRun(t *testing.T) {
	w, err := journal.Create(filepath.Join(t.TempDir(), "j"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for want, cfg := range map[string]Config{
		"client and journal": {Journal: w},
		"rate -1 is below 0": {Client: newMemory(), Journal: w, Rate: -1},
		"-1 workers are not": {Client: newMemory(), Journal: w, Workers: -1},
		"-1 buckets are":     {Client: newMemory(), Journal: w, Buckets: -1},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
}

func TestServeEndsWithTheErrorOfTheJournal(t *testing.T) {
	w, err := journal.Create(filepath.Join(t.TempDir(), "j"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(Config{Client: newMemory(), Journal: w})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := l.Serve(t.Context()); err == nil || !strings.Contains(err.Error(), "append to journal") {
		t.Errorf("Serve is %v, want the journal's error", err)
	}
}

func TestTheDriversPasswordIsInNoErrorOfConnect(t *testing.T) {
	var out bytes.Buffer
	e := Endpoint{Hosts: []string{"127.0.0.1"}, Port: 1, Username: "app", Log: &out}
	e.Password.UnmarshalText([]byte("hush-hush"))
	_, err := Connect(e)
	if err == nil || !strings.Contains(err.Error(), "connect to 127.0.0.1:1") {
		t.Errorf("error is %v, want one that names the address", err)
	}
	if strings.Contains(err.Error()+out.String(), "hush-hush") {
		t.Error("the password was told")
	}
}
