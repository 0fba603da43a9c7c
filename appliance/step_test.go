package appliance_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestPhaseStepReachesTheRunningProcessAndItsClients(t *testing.T) {
	t.Parallel()
	in := serving(t)
	s := in.connect()
	pid := in.status().Proxy.PID
	for i, p := range []phase.Phase{phase.DualRead, phase.CutOver, phase.DualRead, phase.CutOver, phase.TargetOnly} {
		in.step(p, uint64(i+1))
		if got, want := s.ask(t), "1 "+p.String()+" "+string(rune('2'+i)); got != want {
			t.Fatalf("after the step a client is told %q, want %q", got, want)
		}
	}
	got, err := in.c.Phase(t.Context())
	if err != nil || got.Previous != phase.CutOver || got.Since.IsZero() || got.Prepared != nil {
		t.Errorf("the phase document is %+v, %v", got, err)
	}
	if in.status().Proxy.PID != pid {
		t.Error("a step replaced the process")
	}
}

func TestIllegalMovesAreRefused(t *testing.T) {
	t.Parallel()
	in := newInstance(t)
	in.put(hostGood, 0)
	try := func(p phase.Phase, epoch uint64, reason string) error {
		_, err := in.c.Prepare(t.Context(), adminapi.PrepareRequest{Phase: p, ForceReason: reason}, epoch)
		return err
	}
	wantProblem(t, try(phase.CutOver, 0, ""), "illegal-move", 409)
	in.step(phase.DualWrite, 0)
	wantProblem(t, try(phase.TargetOnly, 1, "please"), "illegal-move", 409)
	wantProblem(t, try(phase.OriginOnly, 1, ""), "illegal-move", 409)
	if err := try(phase.OriginOnly, 1, "rehearsal"); err != nil {
		t.Errorf("a forced move: %v", err)
	}
	if log := in.log.String(); !strings.Contains(log, "rehearsal") {
		t.Error("the log does not have the reason")
	}
}

func TestLockedInstanceCannotBePrepared(t *testing.T) {
	t.Parallel()
	in := newInstance(t)
	_, err := in.c.Prepare(t.Context(), adminapi.PrepareRequest{Phase: phase.DualWrite}, 0)
	wantProblem(t, err, "not-ready", 409)
}

func TestProofThatFailsRefusesTheStep(t *testing.T) {
	t.Parallel()
	in := newInstance(t)
	in.put(hostUnsafe, 0)
	_, err := in.c.Prepare(t.Context(), adminapi.PrepareRequest{Phase: phase.DualWrite}, 0)
	if p := wantProblem(t, err, "not-ready", 409); !strings.Contains(p.Detail, "Provided username") {
		t.Errorf("the evidence is missing: %v", p)
	}
	if got, err := in.c.Phase(t.Context()); err != nil || got.Phase != phase.None || got.Prepared != nil {
		t.Errorf("the refused step left %+v, %v", got, err)
	}
}

func TestPreparedStepHoldsOffOthers(t *testing.T) {
	t.Parallel()
	in := serving(t)
	token := in.prepare(phase.DualRead, 1)
	_, err := in.c.Prepare(t.Context(), adminapi.PrepareRequest{Phase: phase.DualRead}, 1)
	wantProblem(t, err, "conflict", 409)
	_, err = in.c.PutConfig(t.Context(), in.config("other.example"), 1)
	wantProblem(t, err, "conflict", 409)
	_, err = in.c.Restart(t.Context(), "")
	wantProblem(t, err, "conflict", 409)
	_, err = in.c.Commit(t.Context(), "not the token")
	wantProblem(t, err, "conflict", 409)
	_, err = in.c.Abort(t.Context(), "not the token")
	wantProblem(t, err, "conflict", 409)
	if got, err := in.c.Abort(t.Context(), token); err != nil || got.Prepared != nil || got.Epoch != 1 {
		t.Errorf("abort: %+v, %v", got, err)
	}
	if _, err := in.c.Abort(t.Context(), token); err != nil {
		t.Errorf("aborting nothing: %v", err)
	}
	in.put("other.example", 1)
}

func TestExpiredLeaseCannotBeCommitted(t *testing.T) {
	t.Parallel()
	in := serving(t)
	token := in.prepare(phase.DualRead, 1)
	in.clock.advance(61 * time.Second)
	_, err := in.c.Commit(t.Context(), token)
	wantProblem(t, err, "conflict", 409)
	if got, _ := in.c.Phase(t.Context()); got.Phase != phase.DualWrite || got.Epoch != 1 || got.Prepared != nil {
		t.Errorf("an expired step left %+v", got)
	}
	in.step(phase.DualRead, 1) // and nobody is held off any more
}

func TestCommitIsIdempotent(t *testing.T) {
	t.Parallel()
	in := serving(t)
	token := in.prepare(phase.DualRead, 1)
	for range 3 {
		got, err := in.c.Commit(t.Context(), token)
		if err != nil || got.Phase != phase.DualRead || got.Epoch != 2 {
			t.Fatalf("commit: %+v, %v", got, err)
		}
	}
	_, err := in.c.Abort(t.Context(), token)
	wantProblem(t, err, "conflict", 409)
}

func TestLeaseAndTokenSurviveTheAgent(t *testing.T) {
	t.Parallel()
	in := serving(t)
	token := in.prepare(phase.DualRead, 1)
	in.stop()
	in.start()
	for range 2 {
		if got, err := in.c.Commit(t.Context(), token); err != nil || got.Epoch != 2 {
			t.Fatalf("commit after a restart of the agent: %+v, %v", got, err)
		}
		in.stop()
		in.start()
	}
}

func TestPhaseCommittedToAStoppedProcessIsAppliedWhenItGoesOn(t *testing.T) {
	t.Parallel()
	in := serving(t)
	token := in.prepare(phase.DualRead, 1)
	pid := in.status().Proxy.PID
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	in.await("stopped", func(*adminapi.Status) bool {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return strings.Contains(string(stat), ") T ")
	})
	_, err := in.c.Commit(t.Context(), token)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if p := wantProblem(t, err, "apply-failed", 502); !strings.Contains(p.Detail, "is stored") {
		t.Errorf("the problem does not say that the phase is stored: %v", p)
	}
	in.await("in the stored phase", ready)
	if got, want := in.connect().ask(t), "1 dual_read 2"; got != want {
		t.Errorf("a client is told %q, want %q", got, want)
	}
	if got, err := in.c.Commit(t.Context(), token); err != nil || got.Epoch != 2 {
		t.Errorf("commit again: %+v, %v", got, err)
	}
}
