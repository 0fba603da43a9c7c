package appliance_test

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func (in *instance) drain(r adminapi.DrainRequest) *adminapi.Status {
	in.t.Helper()
	st, err := in.c.Drain(in.t.Context(), r)
	if err != nil {
		in.t.Fatalf("drain: %v\n%s", err, &in.log)
	}
	return st
}

func (in *instance) resume() *adminapi.Status {
	in.t.Helper()
	st, err := in.c.Resume(in.t.Context(), adminapi.ResumeRequest{})
	if err != nil {
		in.t.Fatalf("resume: %v\n%s", err, &in.log)
	}
	return st
}

// refused reports whether the client port is closed.
func (in *instance) refused() bool {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", in.port))
	if err == nil {
		conn.Close()
	}
	return err != nil
}

func TestDrainedInstanceTakesNoClientsUntilItIsResumed(t *testing.T) {
	t.Parallel()
	in := serving(t)
	s := in.connect()
	s.ask(t)
	st := in.drain(adminapi.DrainRequest{Reason: "new kernel"})
	if st.State != adminapi.Drained || st.Ready || st.Drain == nil || st.Drain.Reason != "new kernel" || st.Drain.Caller != "tests" {
		t.Errorf("after the drain: %s, ready %t, %+v", st.State, st.Ready, st.Drain)
	}
	if !strings.Contains(strings.Join(st.NotReady, "; "), "new kernel") {
		t.Errorf("why it is not ready: %q", st.NotReady)
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := s.r.ReadByte(); err != io.EOF {
		t.Errorf("the client that was there gets %v, want the end", err)
	}
	if !in.refused() {
		t.Error("the client port is open")
	}
	again := in.drain(adminapi.DrainRequest{Reason: "another"})
	if !again.Drain.Since.Equal(st.Drain.Since) || again.Drain.Reason != "new kernel" {
		t.Errorf("a second drain changed the first: %+v", again.Drain)
	}
	if st := in.resume(); st.State != adminapi.Serving || !st.Ready || st.Drain != nil || st.Restarts != 0 {
		t.Errorf("after resuming: %s, ready %t (%q), %d crashes", st.State, st.Ready, st.NotReady, st.Restarts)
	}
	if got, want := in.connect().ask(t), "1 dual_write 1"; got != want {
		t.Errorf("a client is told %q, want %q", got, want)
	}
	pid := in.status().Proxy.PID
	if st := in.resume(); st.Proxy.PID != pid {
		t.Error("resuming what is not drained replaced the process")
	}
}

func TestDrainOutlivesTheAgentAndItsProcesses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name         string
		untilReboot  bool
		reboot, want bool // whether the machine starts anew, and is drained after
	}{
		{"a restart of the agent", true, false, true},
		{"a reboot", false, true, true},
		{"a reboot that ends it", true, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in := serving(t)
			in.drain(adminapi.DrainRequest{UntilReboot: test.untilReboot})
			in.stop()
			if test.reboot {
				in.boot = "second"
				in.killAll()
			}
			in.start()
			st := in.await("settled", func(st *adminapi.Status) bool { return st.Proxy != nil && st.Proxy.Ready })
			if !test.want {
				st = in.await("ready", ready)
			}
			if (st.State == adminapi.Drained) != test.want || in.refused() != test.want {
				t.Errorf("%s, port closed %t, want drained %t", st.State, in.refused(), test.want)
			}
			if st := in.resume(); st.State != adminapi.Serving || in.refused() {
				t.Errorf("after resuming: %s", st.State)
			}
		})
	}
}

func TestDrainedInstanceTakesConfigurationsAndSteps(t *testing.T) {
	t.Parallel()
	in := serving(t)
	in.drain(adminapi.DrainRequest{})
	in.await("standing by", func(st *adminapi.Status) bool { return st.Proxy != nil && st.Proxy.Ready })
	conf := in.config(hostGood)
	conf.Settings["proxy_max_stream_ids"] = "500"
	got, err := in.c.PutConfig(t.Context(), conf, 1)
	if err != nil || got.Running != 2 {
		t.Fatalf("PUT: %+v, %v", got, err)
	}
	in.step(phase.DualRead, 1)
	if !in.refused() {
		t.Error("the client port was opened by a change")
	}
	in.resume()
	if got, want := in.connect().ask(t), "2 dual_read 2"; got != want {
		t.Errorf("a client is told %q, want %q", got, want)
	}
}

func TestDrainNeedsClientsToDrain(t *testing.T) {
	t.Parallel()
	in := newInstance(t)
	_, err := in.c.Drain(t.Context(), adminapi.DrainRequest{})
	wantProblem(t, err, "not-ready", 409)
	if _, err := in.c.Resume(t.Context(), adminapi.ResumeRequest{}); err != nil {
		t.Errorf("resume of a locked instance: %v", err)
	}
}

func TestMarksAreKeptWithWhoAndWhy(t *testing.T) {
	t.Parallel()
	in := serving(t)
	ctx := t.Context()
	since := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	first, err := in.c.PutMark(ctx, adminapi.MarkWritesCleanSince, adminapi.MarkRequest{Author: "ann", Time: since, Reason: "a node was replaced"}, 0)
	if err != nil || first.Author != "ann" || !first.Time.Equal(since) || first.Caller != "tests" || first.Revision != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	if second, err := in.c.PutMark(ctx, adminapi.MarkBackfillDone, adminapi.MarkRequest{Reason: "run 17"}, 0); err != nil || second.Author != "tests" || second.Revision != 2 {
		t.Fatalf("%+v, %v", second, err)
	}
	// The same again is a success that changes nothing, whatever is known of it.
	again, err := in.c.PutMark(ctx, adminapi.MarkWritesCleanSince, adminapi.MarkRequest{Author: "ann", Time: since, Reason: "a node was replaced"}, 0)
	if err != nil || again.Revision != 1 || !again.Recorded.Equal(first.Recorded) {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	_, err = in.c.PutMark(ctx, adminapi.MarkWritesCleanSince, adminapi.MarkRequest{Author: "bob", Reason: "other"}, 0)
	wantProblem(t, err, "stale", 412)
	_, err = in.c.PutMark(ctx, adminapi.MarkWritesCleanSince, adminapi.MarkRequest{Reason: "from tomorrow", Time: time.Now().Add(24 * time.Hour)}, 1)
	wantProblem(t, err, "body", 400)
	for _, name := range []string{"Upper", "with space", "a/b", strings.Repeat("x", 64), "9lives"} {
		_, err = in.c.PutMark(ctx, name, adminapi.MarkRequest{Reason: "r"}, 0)
		wantProblem(t, err, "not-found", 404)
	}
	in.stop()
	in.start()
	marks, err := in.c.Marks(ctx)
	if err != nil || len(marks.Marks) != 2 || marks.Revision != 2 || marks.Marks[1] != *first {
		t.Errorf("after a restart: %+v, %v", marks, err)
	}
	if st := in.await("ready", ready); len(st.Marks) != 2 {
		t.Errorf("the status shows %+v", st.Marks)
	}
	_, err = in.c.DeleteMark(ctx, adminapi.MarkWritesCleanSince, 2)
	wantProblem(t, err, "stale", 412)
	if left, err := in.c.DeleteMark(ctx, adminapi.MarkWritesCleanSince, 1); err != nil || len(left.Marks) != 1 || left.Revision != 3 {
		t.Errorf("after removing: %+v, %v", left, err)
	}
	if _, err := in.c.DeleteMark(ctx, adminapi.MarkWritesCleanSince, 1); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
}

func TestMarksAreBounded(t *testing.T) {
	t.Parallel()
	in := newInstance(t)
	for i := range adminapi.MaxMarks {
		if _, err := in.c.PutMark(t.Context(), fmt.Sprintf("m%d", i), adminapi.MarkRequest{Reason: "r"}, 0); err != nil {
			t.Fatal(err)
		}
	}
	_, err := in.c.PutMark(t.Context(), "one-more", adminapi.MarkRequest{Reason: "r"}, 0)
	wantProblem(t, err, "conflict", 409)
	_, err = in.c.PutMark(t.Context(), "m1", adminapi.MarkRequest{Reason: strings.Repeat("x", adminapi.MaxReason+1)}, 2)
	wantProblem(t, err, "body", 400)
	_, err = in.c.PutMark(t.Context(), "m1", adminapi.MarkRequest{}, 2)
	wantProblem(t, err, "body", 400)
}

func TestGoingBackToOriginOnlyRemovesTheMarkOfTheBackfill(t *testing.T) {
	t.Parallel()
	in := serving(t)
	for _, name := range []string{adminapi.MarkBackfillDone, "mine"} {
		if _, err := in.c.PutMark(t.Context(), name, adminapi.MarkRequest{Reason: "r"}, 0); err != nil {
			t.Fatal(err)
		}
	}
	got, err := in.c.Prepare(t.Context(), adminapi.PrepareRequest{Phase: phase.OriginOnly, ForceReason: "again from the start"}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.c.Commit(t.Context(), got.Prepared.Token); err != nil {
		t.Fatal(err)
	}
	st := in.status()
	if !slices.EqualFunc(st.Marks, []string{"mine"}, func(m adminapi.Mark, name string) bool { return m.Name == name }) {
		t.Errorf("marks are %+v, want mine alone", st.Marks)
	}
}
