package appliance

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
)

func counted(requests, failedWrites uint64, last time.Time) *control.Status {
	return &control.Status{Requests: requests, Failures: failedWrites,
		Target: control.Cluster{Traffic: control.Traffic{Writes: requests, FailedWrites: failedWrites, LastFailedWrite: last}}}
}

func TestTrafficIsAddedUpOverProcesses(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_000_000, 0).UTC()
	now := start
	tr := newTraffic(start)
	step := func(process string, st *control.Status) {
		now = now.Add(watchInterval)
		tr.add(process, now, st)
	}
	failed := start.Add(-time.Hour)
	tr.begin("adopted", counted(1000, 50, failed))
	step("adopted", counted(1010, 50, failed))
	step("new", counted(5, 1, start))
	step("adopted", counted(1011, 50, failed))
	tr.end("adopted")
	step("new", counted(25, 1, start))
	want := adminapi.Recent{WatchedSince: start, WindowSeconds: 8, Requests: 36, Failures: 1,
		Target: control.Traffic{Writes: 36, FailedWrites: 1, LastFailedWrite: start}}
	if diff := cmp.Diff(want, tr.recent(now)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// What is older than the window is not counted; when it failed stays.
	for range marksKept + 5 {
		step("new", counted(25, 1, start))
	}
	want = adminapi.Recent{WatchedSince: start, WindowSeconds: int(window.Seconds()), Target: control.Traffic{LastFailedWrite: start}}
	if diff := cmp.Diff(want, tr.recent(now)); diff != "" {
		t.Errorf("later: -want +got:\n%s", diff)
	}
	if len(tr.marks) > marksKept+1 || len(tr.seen) != 1 {
		t.Errorf("%d marks and %d processes are kept", len(tr.marks), len(tr.seen))
	}
}

func TestWhatFailedBeforeTheAgentIsRememberedByItsProcess(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_000_000, 0).UTC()
	tr := newTraffic(start)
	failed := start.Add(-time.Hour)
	tr.begin("adopted", counted(1000, 50, failed))
	if got := tr.recent(start); got.Requests != 0 || !got.Target.LastFailedWrite.Equal(failed) {
		t.Errorf("%+v", got)
	}
}
