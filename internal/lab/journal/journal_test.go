package journal

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	key = Key{Bucket: "r1w00-0000", Slot: 3}
	now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

func live(v int64) Mutation    { return Mutation{Key: key, Version: v} }
func deleted(v int64) Mutation { return Mutation{Key: key, Version: v, Deleted: true} }
func row(v int64) *Found       { return &Found{Key: key, Version: v, Value: Value(key, v)} }

func TestCheckAcceptsTheAcknowledgedStateAndItsUncertainSuccessorsOnly(t *testing.T) {
	for _, tt := range []struct {
		name  string
		acked []Mutation
		maybe []Mutation
		found *Found
		want  Mismatch
	}{
		{"never written and absent", nil, nil, nil, Matches},
		{"never written but there", nil, nil, row(1), Unwritten},
		{"acknowledged and there", []Mutation{live(1)}, nil, row(1), Matches},
		{"acknowledged and lost", []Mutation{live(1)}, nil, nil, Missing},
		{"update lost", []Mutation{live(1), live(2)}, nil, row(1), Stale},
		{"deleted and absent", []Mutation{live(1), deleted(2)}, nil, nil, Matches},
		{"deleted and back", []Mutation{live(1), deleted(2)}, nil, row(1), Resurrected},
		{"written again after a delete", []Mutation{live(1), deleted(2), live(3)}, nil, row(3), Matches},
		{"wrong value", []Mutation{live(1)}, nil, &Found{Key: key, Version: 1, Value: Value(key, 2)}, Corrupt},
		{"version of nobody", []Mutation{live(1)}, nil, row(9), Unwritten},
		{"unknown outcome, old state", []Mutation{live(1)}, []Mutation{live(2)}, row(1), Matches},
		{"unknown outcome, new state", []Mutation{live(1)}, []Mutation{live(2)}, row(2), Matches},
		{"unknown outcome, lost", []Mutation{live(1)}, []Mutation{live(2)}, nil, Missing},
		{"unknown delete, absent", []Mutation{live(1)}, []Mutation{deleted(2)}, nil, Matches},
		{"unknown delete, there", []Mutation{live(1)}, []Mutation{deleted(2)}, row(1), Matches},
		{"unknown insert, there", nil, []Mutation{live(1)}, row(1), Matches},
		{"unknown insert, absent", nil, []Mutation{live(1)}, nil, Matches},
		{"unknown insert after a delete, resurrected", []Mutation{live(1), deleted(2)}, []Mutation{live(3)}, row(1), Resurrected},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r Row
			for _, m := range tt.acked {
				r.Acknowledge(m, now)
			}
			for _, m := range tt.maybe {
				r.Doubt(m, now)
			}
			if got := r.Check(tt.found); got != tt.want {
				t.Errorf("Check(%v) of %s = %s, want %s", tt.found, r.Expected(), got, tt.want)
			}
		})
	}
}

func TestAnAcknowledgedWriteEndsTheDoubtOfThoseBeforeIt(t *testing.T) {
	var r Row
	r.Acknowledge(live(1), now)
	r.Doubt(deleted(2), now)
	r.Acknowledge(live(3), now)
	if !r.Certain() {
		t.Errorf("row is uncertain: %s", r.Expected())
	}
	if got := r.Check(nil); got != Missing {
		t.Errorf("an absent row is %s, want %s", got, Missing)
	}
}

func TestReplayGivesTheStateThatTheApplicationWasTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.ndjson")
	w := create(t, path)
	other := Key{Bucket: key.Bucket, Slot: 4}
	for _, rec := range []Record{
		{Kind: Run, Run: "r1"},
		{Kind: Write, Run: "r1", ID: 1, Rows: []Mutation{live(1), {Key: other, Version: 2}}},
		{Kind: Acked, Run: "r1", ID: 1, Rows: []Mutation{live(1), {Key: other, Version: 2}}},
		{Kind: Write, Run: "r1", ID: 2, Rows: []Mutation{live(3)}},
		{Kind: Failed, Run: "r1", ID: 2, Rows: []Mutation{live(3)}, Text: "time out"},
		{Kind: Failed, Run: "r1", ID: 3, Rows: []Mutation{{Key: other}}, Text: "a read"},
		{Kind: Wrong, Run: "r1", Text: "stale"},
		{Kind: Write, Run: "r1", ID: 4, Rows: []Mutation{{Key: other, Version: 4, Deleted: true}}},
	} {
		rec.Time = now
		if err := w.Append(rec); err != nil {
			t.Fatal(err)
		}
	}
	m := load(t, path)
	if got, want := m.Rows[key].Expected(), "version 1 or version 3 (unknown outcome)"; got != want {
		t.Errorf("failed write: expected is %q, want %q", got, want)
	}
	if got, want := m.Rows[other].Expected(), "version 2 or deleted by version 4 (unknown outcome)"; got != want {
		t.Errorf("write without an outcome: expected is %q, want %q", got, want)
	}
	if m.Acked != 1 || m.Failed != 2 || m.Wrong != 1 || m.Unanswered != 1 {
		t.Errorf("counts are acked=%d failed=%d wrong=%d unanswered=%d, want 1 2 1 1", m.Acked, m.Failed, m.Wrong, m.Unanswered)
	}
}

func TestATornLastLineIsPassedOverAndCutOffByTheNextWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.ndjson")
	if err := create(t, path).Append(Record{Time: now, Kind: Run, Run: "r1"}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	torn := string(whole) + `{"t":"2026-01-02T03:04:05Z","ki`
	if err := os.WriteFile(path, []byte(torn), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := len(load(t, path).Runs); got != 1 {
		t.Errorf("a torn journal has %d runs, want 1", got)
	}
	if err := create(t, path).Append(Record{Time: now, Kind: Run, Run: "r2"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(load(t, path).Runs, " "); got != "r1 r2" {
		t.Errorf("runs are %q, want %q", got, "r1 r2")
	}
}

func TestADamagedLineIsAnErrorWithItsNumber(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.ndjson")
	if err := os.WriteFile(path, []byte("{}\nnonsense\n{}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path)
	if err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error is %v, want one that names line 2", err)
	}
}

func TestARunIsOpenUntilItPausedOrEnded(t *testing.T) {
	for _, tt := range []struct {
		kinds []Kind
		want  bool
	}{
		{[]Kind{Run, Write, Acked}, true},
		{[]Kind{Run, Paused}, false},
		{[]Kind{Run, Paused, Write, Acked}, true},
		{[]Kind{Run, Paused, Write, Acked, End}, false},
	} {
		m := NewModel()
		for _, kind := range tt.kinds {
			m.Add(Record{Kind: kind, Run: "r1"})
		}
		if m.Open["r1"] != tt.want {
			t.Errorf("after %v a run is open: %v, want %v", tt.kinds, m.Open["r1"], tt.want)
		}
	}
}

func TestMismatchNames(t *testing.T) {
	want := "matches missing stale resurrected corrupt unwritten mismatch(6)"
	var got []string
	for m := Matches; m <= Unwritten+1; m++ {
		got = append(got, m.String())
	}
	if s := strings.Join(got, " "); s != want {
		t.Errorf("names are %q, want %q", s, want)
	}
}

func create(t *testing.T, path string) *Writer {
	t.Helper()
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func load(t *testing.T, path string) *Model {
	t.Helper()
	m, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
