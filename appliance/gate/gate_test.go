package gate

import (
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/rollout"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

// all asks for everything.
var all = Rules{SchemaSettled: true, WritesClean: time.Hour, ReadsClean: time.Hour, ClockSkew: 50 * time.Millisecond, BackfillDone: true}

// good is two instances that may leave a phase for the next.
func good(p phase.Phase) []rollout.View {
	var views []rollout.View
	for _, name := range []string{"a", "b"} {
		side := control.Cluster{SchemaVersion: "v1", Clock: &control.Clock{AheadSeconds: -0.004, UncertaintySeconds: 0.001, Node: "n"}}
		views = append(views, rollout.View{Name: name, Status: adminapi.Status{
			Ready: true, Generation: 3, Running: 3, Phase: adminapi.Phase{Phase: p, Since: ago(2 * time.Hour)},
			Proxy:  &control.Status{Origin: side, Target: side},
			Marks:  []adminapi.Mark{{Name: adminapi.MarkBackfillDone, Time: ago(3 * time.Hour)}},
			Recent: adminapi.Recent{WatchedSince: ago(24 * time.Hour), Target: control.Traffic{Copies: 7}},
		}})
	}
	return views
}

func TestGatesAreOpenWhenAllIsWell(t *testing.T) {
	t.Parallel()
	for _, p := range []phase.Phase{phase.None, phase.OriginOnly, phase.DualWrite, phase.DualRead, phase.CutOver} {
		if got := Check(all, p+1, good(p), now); len(got) > 0 {
			t.Errorf("%s to %s is refused: %v", p, p+1, got)
		}
	}
}

func TestAClosedGateTellsTheFigureAndTheWayOn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		from phase.Phase
		b    func(*adminapi.Status) // what is wrong with b
		want string                 // "" for nothing
	}{
		{"generation", phase.DualWrite, func(s *adminapi.Status) { s.Running = 2 }, "instances on b: runs generation 2 and wants 3; wait until"},
		{"own count of generations", phase.DualWrite, func(s *adminapi.Status) { s.Running, s.Generation = 9, 9 }, ""},
		{"ready", phase.DualWrite, func(s *adminapi.Status) { s.Ready, s.NotReady = false, []string{"target: down"} }, "instances on b: is not ready: target: down; mend"},
		{"drained", phase.DualWrite, func(s *adminapi.Status) { s.Ready, s.Drain = false, &adminapi.Drain{} }, ""},
		{"schema", phase.DualWrite, func(s *adminapi.Status) { s.Proxy.Target.SchemaVersion = "v2" }, "schema_settled on b: sees schema v2 of target, and a sees v1; wait"},
		{"schema unknown", phase.DualWrite, func(s *adminapi.Status) { s.Proxy = nil }, "schema_settled on b: origin has told it no schema version"},
		{"schema does not matter any more", phase.CutOver, func(s *adminapi.Status) { s.Proxy.Origin.SchemaVersion = "v2" }, ""},
		{"clock ahead", phase.DualRead, func(s *adminapi.Status) {
			s.Proxy.Origin.Clock = &control.Clock{AheadSeconds: 0.08, UncertaintySeconds: 0.001, Node: "n1"}
		},
			"max_clock_skew_ms on b: node n1 of origin is +80.0 ms from its clock, give or take 1.0 ms; at most 50 ms are allowed; set the clocks right"},
		{"clock uncertain", phase.DualRead, func(s *adminapi.Status) {
			s.Proxy.Origin.Clock = &control.Clock{AheadSeconds: -0.04, UncertaintySeconds: 0.02}
		}, "-40.0 ms from its clock, give or take 20.0 ms"},
		{"clock unknown", phase.DualRead, func(s *adminapi.Status) { s.Proxy.Target.Clock = nil }, "the clock of target was not measured yet"},
		{"write failed", phase.DualRead, func(s *adminapi.Status) { s.Recent.Target.LastFailedWrite = ago(time.Minute) },
			"writes_clean_minutes on b: a write failed on target at 2026-03-01T11:59:00Z, after 2026-03-01T11:00:00Z; find out which rows differ"},
		{"write failed long ago", phase.DualRead, func(s *adminapi.Status) { s.Recent.Origin.LastFailedWrite = ago(61 * time.Minute) }, ""},
		{"write failed before the mark", phase.DualRead, func(s *adminapi.Status) {
			s.Recent.Target.LastFailedWrite = ago(10 * time.Minute)
			s.Marks = append(s.Marks, adminapi.Mark{Name: adminapi.MarkWritesCleanSince, Time: ago(5 * time.Minute)})
		}, ""},
		{"write failed after the mark", phase.DualRead, func(s *adminapi.Status) {
			s.Recent.Target.LastFailedWrite = ago(time.Minute)
			s.Marks = append(s.Marks, adminapi.Mark{Name: adminapi.MarkWritesCleanSince, Time: ago(5 * time.Minute)})
		}, "a write failed on target at 2026-03-01T11:59:00Z, after 2026-03-01T11:55:00Z"},
		{"an old mark does not lengthen the time", phase.DualRead, func(s *adminapi.Status) {
			s.Recent.Target.LastFailedWrite = ago(90 * time.Minute)
			s.Marks = append(s.Marks, adminapi.Mark{Name: adminapi.MarkWritesCleanSince, Time: ago(2 * time.Hour)})
		}, ""},
		{"not watched", phase.CutOver, func(s *adminapi.Status) { s.Recent.WatchedSince = ago(20 * time.Minute) },
			"writes_clean_minutes on b: its agent has watched since 2026-03-01T11:40:00Z only, not since 2026-03-01T11:00:00Z; wait until 2026-03-01T12:40:00Z"},
		{"not watched since the mark", phase.CutOver, func(s *adminapi.Status) {
			s.Recent.WatchedSince = ago(20 * time.Minute)
			s.Marks = append(s.Marks, adminapi.Mark{Name: adminapi.MarkWritesCleanSince, Time: ago(30 * time.Minute)})
		}, "set the mark again"},
		{"dual writes are young", phase.DualWrite, func(s *adminapi.Status) { s.Phase.Since = ago(10 * time.Minute) },
			"writes_clean_minutes on b: it has been in dual_write since 2026-03-01T11:50:00Z only, not since 2026-03-01T11:00:00Z; wait until 2026-03-01T12:50:00Z"},
		{"copy failed", phase.DualRead, func(s *adminapi.Status) { s.Recent.Target.LastFailedCopy = ago(time.Minute) },
			"reads_clean_minutes on b: a copy of a read failed on target at 2026-03-01T11:59:00Z, after 2026-03-01T11:00:00Z; see last_errors"},
		{"copies do not matter before dual_read", phase.DualWrite, func(s *adminapi.Status) { s.Recent.Target.LastFailedCopy = ago(time.Minute) }, ""},
		{"dual reads are young", phase.DualRead, func(s *adminapi.Status) { s.Phase.Since = ago(time.Minute) }, "reads_clean_minutes on b: it has been in dual_read since"},
		{"no backfill", phase.DualRead, func(s *adminapi.Status) { s.Marks = nil }, "backfill_done on b: has no mark backfill-done; when the rows"},
		{"backfill is not needed before", phase.DualWrite, func(s *adminapi.Status) { s.Marks = nil }, ""},
		{"one that joins takes no step", phase.DualRead, func(s *adminapi.Status) { *s = adminapi.Status{} }, ""},
	} {
		views := good(test.from)
		test.b(&views[1].Status)
		refusals := Check(all, test.from+1, views, now)
		var texts []string
		for _, r := range refusals {
			texts = append(texts, r.String())
		}
		switch got := strings.Join(texts, "\n"); {
		case test.want == "" && got != "":
			t.Errorf("%s: refused: %s", test.name, got)
		case !strings.Contains(got, test.want):
			t.Errorf("%s: refused with %q, want %q", test.name, got, test.want)
		}
	}
}

func TestReadsWithoutACopyAreNoEvidence(t *testing.T) {
	t.Parallel()
	views := good(phase.DualRead)
	views[0].Status.Recent.Target.Copies = 0
	if got := Check(all, phase.CutOver, views, now); len(got) > 0 {
		t.Errorf("refused though b copied reads: %v", got)
	}
	views[1].Status.Recent.Target.Copies = 0
	got := Check(all, phase.CutOver, views, now)
	if len(got) != 1 || got[0].Gate != ReadsClean || got[0].Instance != "" || !strings.HasPrefix(got[0].Figure, "no read was copied") {
		t.Errorf("refusals are %v, want one of %s", got, ReadsClean)
	}
}

func TestWhatIsNotAskedIsNotRefused(t *testing.T) {
	t.Parallel()
	views := good(phase.DualRead)
	for i := range views {
		s := &views[i].Status
		s.Marks, s.Recent = nil, adminapi.Recent{WatchedSince: now, Target: control.Traffic{LastFailedWrite: now, LastFailedCopy: now}}
		s.Proxy = nil
	}
	if got := Check(Rules{}, phase.CutOver, views, now); len(got) > 0 {
		t.Errorf("refused without rules: %v", got)
	}
}

// The way out of trouble, and the end of what was begun, stay open.
func TestAStepBackAndAStepThatWasBegunAskOnlyWhatTheyMust(t *testing.T) {
	t.Parallel()
	bad := func(s *adminapi.Status) {
		s.Marks, s.Recent.Target.LastFailedWrite, s.Proxy = nil, now, nil
	}
	views := good(phase.CutOver)
	bad(&views[0].Status)
	if got := Check(all, phase.DualRead, views, now); len(got) > 0 {
		t.Errorf("the step back is refused: %v", got)
	}
	views[0].Status.Ready = false
	if got := Check(all, phase.DualRead, views, now); len(got) != 1 || got[0].Gate != Instances {
		t.Errorf("the step back of one that is not ready: %v, want it refused by %s", got, Instances)
	}
	views[1].Status.Phase.Phase = phase.DualRead
	for _, want := range []phase.Phase{phase.DualRead, phase.CutOver} {
		if got := Check(all, want, views, now); len(got) > 0 {
			t.Errorf("the step between dual_read and cut_over cannot be ended in %s: %v", want, got)
		}
	}
}
