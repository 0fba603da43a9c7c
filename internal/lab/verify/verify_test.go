package verify

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// rows is a Source.
type rows map[journal.Key]journal.Found

func (r rows) Each(_ context.Context, each func(journal.Found)) error {
	for _, f := range r {
		each(f)
	}
	return nil
}

func (r rows) put(k journal.Key, version int64) {
	r[k] = journal.Found{Key: k, Version: version, Value: journal.Value(k, version)}
}

type broken struct{}

func (broken) Each(context.Context, func(journal.Found)) error { return errors.New("no host") }

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func key(slot int) journal.Key { return journal.Key{Bucket: "r1-b", Slot: slot} }

// history is a model of ten rows, slot n written at t0 + n minutes: three
// versions each, and the last of the odd ones a deletion. healthy is the
// cluster that has it all.
func history() (*journal.Model, rows) {
	m, cluster := journal.NewModel(), rows{}
	m.Add(journal.Record{Kind: journal.Run, Run: "r1-"})
	id := uint64(0)
	for slot := range 10 {
		for v := int64(1); v <= 3; v++ {
			id++
			rec := journal.Record{
				Time: t0.Add(time.Duration(slot) * time.Minute), Kind: journal.Acked, Run: "r1-", ID: id,
				Rows: []journal.Mutation{{Key: key(slot), Version: v, Deleted: v == 3 && slot%2 == 1}},
			}
			m.Add(rec)
		}
		if slot%2 == 0 {
			cluster.put(key(slot), 3)
		}
	}
	return m, cluster
}

func verified(t *testing.T, src Source, m *journal.Model, since time.Time) *Report {
	t.Helper()
	r, err := Side(t.Context(), phase.Target, src, m, since)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAClusterThatHasEveryAcknowledgedWriteGivesNoFinding(t *testing.T) {
	m, cluster := history()
	got := verified(t, cluster, m, time.Time{})
	want := &Report{Side: phase.Target, Writes: 30, Rows: 10, Live: 5}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("report differs (-want +got):\n%s", d)
	}
}

func TestEachKindOfLossIsReportedWithKeyExpectedAndFound(t *testing.T) {
	m, cluster := history()
	delete(cluster, key(0))
	cluster.put(key(2), 2)
	cluster.put(key(3), 2)
	cluster[key(4)] = journal.Found{Key: key(4), Version: 3, Value: "mixed"}
	cluster.put(key(6), 7)
	cluster.put(journal.Key{Bucket: "r1-b", Slot: 99}, 1)
	cluster.put(journal.Key{Bucket: "someone else's", Slot: 1}, 1)

	got := verified(t, cluster, m, time.Time{})
	var lines []string
	for _, f := range got.Findings {
		lines = append(lines, f.String())
	}
	want := []string{
		`target: row r1-b/0 is missing: expected version 3, found no row (last written 2026-01-01T00:00:00Z)`,
		`target: row r1-b/2 is stale: expected version 3, found version 2 (last written 2026-01-01T00:02:00Z)`,
		`target: row r1-b/3 is resurrected: expected deleted by version 3, found version 2 (last written 2026-01-01T00:03:00Z)`,
		`target: row r1-b/4 is corrupt: expected version 3, found version 3 with the value "mixed" (last written 2026-01-01T00:04:00Z)`,
		`target: row r1-b/6 is unwritten: expected version 3, found version 7 (last written 2026-01-01T00:06:00Z)`,
		`target: row r1-b/99 is unwritten: expected never written, found version 1 (last written 0001-01-01T00:00:00Z)`,
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("findings differ (-want +got):\n%s", d)
	}
	if got, want := got.Count(), "1 missing, 1 stale, 1 resurrected, 1 corrupt, 2 unwritten"; got != want {
		t.Errorf("count is %q, want %q", got, want)
	}
	if got.Foreign != 1 || got.Writes != 15 {
		t.Errorf("foreign=%d writes=%d, want 1 and 15", got.Foreign, got.Writes)
	}
}

func TestAnUncertainRowIsRightInEachOfItsStatesAndCounted(t *testing.T) {
	m, cluster := history()
	m.Row(key(0)).Doubt(journal.Mutation{Key: key(0), Version: 4}, t0)
	for _, version := range []int64{3, 4} {
		cluster.put(key(0), version)
		if r := verified(t, cluster, m, time.Time{}); len(r.Findings) != 0 || r.Uncertain != 1 {
			t.Errorf("version %d: %d findings, %d uncertain, want 0 and 1", version, len(r.Findings), r.Uncertain)
		}
	}
	delete(cluster, key(0))
	if r := verified(t, cluster, m, time.Time{}); r.Count() != "1 missing" {
		t.Errorf("no row: findings are %q, want 1 missing", r.Count())
	}
}

func TestSinceLooksOnlyAtRowsTouchedFromThenOn(t *testing.T) {
	m, cluster := history()
	clear(cluster) // everything is lost
	got := verified(t, cluster, m, t0.Add(8*time.Minute))
	if got.Rows != 2 || len(got.Findings) != 1 || got.Findings[0].Key != key(8) {
		t.Errorf("rows=%d findings=%v, want 2 rows and the loss of slot 8", got.Rows, got.Findings)
	}
}

func TestBothSidesAreReportedInOrderAndAnUnreadableSideIsAnError(t *testing.T) {
	m, good := history()
	_, bad := history()
	delete(bad, key(0))
	reports, err := Both(t.Context(), map[phase.Side]Source{phase.Target: bad, phase.Origin: good}, m, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if len(reports) != 2 || reports[0].Side != phase.Origin || len(reports[0].Findings) != 0 || reports[1].Count() != "1 missing" {
		t.Errorf("reports are %+v, want origin clean and target with one missing", reports)
	}
	_, err = Both(t.Context(), map[phase.Side]Source{phase.Target: broken{}, phase.Origin: good}, m, time.Time{})
	if err == nil || !strings.Contains(err.Error(), "read all rows of target: no host") {
		t.Errorf("error is %v, want one that names the side", err)
	}
}

func TestTokenRangesCoverTheRingWithoutOverlap(t *testing.T) {
	for _, n := range []int{1, 2, 3, 16, 1000} {
		next := int64(math.MinInt64)
		for i, r := range tokenRanges(n) {
			if r.First != next || r.Last < r.First {
				t.Fatalf("%d ranges: number %d is %d to %d, want it to begin at %d", n, i, r.First, r.Last, next)
			}
			next = r.Last + 1
		}
		if next != math.MinInt64 {
			t.Errorf("%d ranges end at %d, want the end of the ring", n, next-1)
		}
	}
}
