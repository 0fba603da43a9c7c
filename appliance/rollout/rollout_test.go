package rollout

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func puts(w *world, names ...string) map[string]Change {
	c := map[string]Change{}
	for _, name := range names {
		c[name] = Change{Put: true, Generation: w.all[name].generation}
	}
	return c
}

// done lists the actions of a run that change something.
func done(into *[]string) Timing {
	return Timing{Say: func(a Action) {
		switch a.Kind {
		case Wait, Done, Stop:
		default:
			line := a.Kind.String() + " " + a.Instance
			if a.Kind == Prepare {
				line += " " + a.Phase.String()
			}
			*into = append(*into, line)
		}
	}}
}

func TestRollGoesOnWhenTheFirstIsWell(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c").in(phase.DualWrite, "a", "b", "c")
		var got []string
		changes := puts(w, "a", "c")
		changes["b"] = Change{Restart: true}
		res, err := Roll(t.Context(), w.all, changes, done(&got))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"put a", "restart b", "put c"}, got); diff != "" {
			t.Error(diff)
		}
		if res.Configs["a"].Generation != 2 || len(res.Restarted) != 3 {
			t.Errorf("result is %+v, want generation 2 of a and three restarted", res)
		}
	})
}

func TestRollTouchesWhoIsDownFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c").in(phase.DualWrite, "a", "b")
		w.all["b"].broken = "origin: wrong password"
		w.all["c"].generation, w.all["c"].running = 0, 0 // locked
		var got []string
		if _, err := Roll(t.Context(), w.all, puts(w, "a", "b", "c"), done(&got)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"put b", "put c", "put a"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRollStopsAtTheFirstUnhealthyAndSaysWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b").in(phase.DualWrite, "a", "b")
		w.all["b"].broken = "origin: wrong password"
		_, err := Roll(t.Context(), w.all, puts(w, "a"), Timing{})
		want := "instance b: is not ready: origin: wrong password; a is left alone until it is well, for 5m0s now"
		if err == nil || err.Error() != want {
			t.Errorf("error is %v, want %s", err, want)
		}
		if w.all["a"].generation != 1 {
			t.Error("a was changed though b is down")
		}
	})
}

func TestRollDoesNotWaitForWhatIsHopeless(t *testing.T) {
	t.Parallel()
	for _, hopeless := range []error{
		adminapi.NewProblem(adminapi.Unauthorized, "the token is wrong"),
		fmt.Errorf("get: %w", x509.UnknownAuthorityError{}),
		fmt.Errorf("get: %w", x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}),
	} {
		a := NextRoll([]Goal{{Name: "a", Configure: true}}, map[string]View{"a": {Name: "a", Err: hopeless}})
		if a.Kind != Stop || a.Instance != "a" {
			t.Errorf("with %v the action is %v, want a stop", hopeless, a)
		}
	}
	a := NextRoll([]Goal{{Name: "a", Configure: true}}, map[string]View{"a": {Name: "a", Err: errSilent}})
	if a.Kind != Wait {
		t.Errorf("with a silent instance the action is %v, want to wait until it has booted", a)
	}
}

func TestRollSaysThatSomebodyElseChangedIt(t *testing.T) {
	t.Parallel()
	v := View{Name: "a", Status: adminapi.Status{State: adminapi.Serving, Generation: 9, Running: 9, Ready: true}}
	a := NextRoll([]Goal{{Name: "a", Touched: true, Generation: 8}}, map[string]View{"a": v})
	if a.Kind != Stop || !strings.Contains(a.Reason, "somebody else") {
		t.Errorf("action is %+v, want a stop that names somebody else", a)
	}
}

func TestRollWaitsUntilTheProcessIsAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a").in(phase.DualWrite, "a")
	status, _ := w.all["a"].Status(t.Context())
	view := map[string]View{"a": {Name: "a", Status: status}}
	if a := NextRoll([]Goal{{Name: "a", Touched: true, OldPID: 100}}, view); a.Kind != Wait {
		t.Errorf("action with the old process is %v, want wait", a)
	}
	if a := NextRoll([]Goal{{Name: "a", Touched: true, OldPID: 99}}, view); a.Kind != Done {
		t.Errorf("action with a new process is %v, want done", a)
	}
}

func TestStepsOfMixedPhases(t *testing.T) {
	t.Parallel()
	const none, oo, dw, dr, co, to = phase.None, phase.OriginOnly, phase.DualWrite, phase.DualRead, phase.CutOver, phase.TargetOnly
	type phases = map[string]phase.Phase
	for _, test := range []struct {
		name   string
		at     phases
		want   phase.Phase
		forced bool
		steps  string
		err    string
	}{
		{"there", phases{"a": dw, "b": dw}, dw, false, "", ""},
		{"one step", phases{"a": dw, "b": dw}, dr, false, "a: dual_write to dual_read, b: dual_write to dual_read", ""},
		{"a skip", phases{"a": dw, "b": dw}, co, false, "", "dual_write to cut_over skips a phase; go to dual_read first"},
		{"first phase", phases{"a": none, "b": none}, dw, false, "a: none to dual_write, b: none to dual_write", ""},
		{"first phase too late", phases{"a": none}, co, false, "", "begins with origin_only or dual_write"},
		{"first phase too late, forced", phases{"a": none}, co, true, "a: none to cut_over", ""},
		{"finish forward", phases{"a": dr, "b": dw}, dr, false, "b: dual_write to dual_read", ""},
		{"go back from the middle", phases{"a": dr, "b": dw}, dw, false, "a: dual_read to dual_write", ""},
		{"go on from the middle", phases{"a": dr, "b": dw}, co, false, "", "a step between dual_write and dual_read is not finished (b in dual_write; a in dual_read); set phase to dual_write or dual_read first"},
		{"back from the middle, lossy", phases{"a": to, "b": co}, co, false, "", "stale rows"},
		{"back from the middle, forced", phases{"a": to, "b": co}, co, true, "a: target_only to cut_over", ""},
		{"join", phases{"a": co, "b": co, "c": none}, co, false, "c: none to cut_over", ""},
		{"join with a step", phases{"a": dr, "b": none}, co, false, "a: dual_read to cut_over, b: none to cut_over", ""},
		{"join in the middle", phases{"a": dr, "b": co, "c": none}, co, false, "a: dual_read to cut_over, c: none to cut_over", ""},
		{"apart", phases{"a": dw, "b": co}, co, false, "", "not adjacent (a in dual_write; b in cut_over)"},
		{"apart, forced", phases{"a": dw, "b": co, "c": none}, co, true, "a: dual_write to dual_read, a: dual_read to cut_over, c: none to cut_over", ""},
		{"lossy", phases{"a": dw}, oo, false, "", "backfill must be done again"},
	} {
		steps, err := Journey(test.want, test.forced, test.at)
		var got []string
		for _, s := range steps {
			got = append(got, s.String())
		}
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: error is %v, want one with %q", test.name, err, test.err)
			}
			continue
		}
		if err != nil || strings.Join(got, ", ") != test.steps {
			t.Errorf("%s: steps are %q, %v, want %q", test.name, got, err, test.steps)
		}
	}
}

func TestAStepIsPreparedOnAllBeforeOneCommits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c").in(phase.DualWrite, "b", "c") // a is new and goes last
		var got []string
		if _, err := ChangePhase(t.Context(), w.all, phase.DualRead, "", done(&got)); err != nil {
			t.Fatal(err)
		}
		want := []string{"prepare b dual_read", "prepare c dual_read", "prepare a dual_read", "commit b", "commit c", "commit a"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestARefusalAbortsAllAndChangesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c").in(phase.DualWrite, "a", "b", "c")
		w.all["c"].refuse = "(10.0.0.7:9042)"
		var got []string
		_, err := ChangePhase(t.Context(), w.all, phase.DualRead, "", done(&got))
		want := "instance c: not ready: target does not answer (10.0.0.7:9042) (nothing was changed)"
		if err == nil || err.Error() != want {
			t.Errorf("error is %v, want %s", err, want)
		}
		var problem *adminapi.Problem
		if !errors.As(err, &problem) {
			t.Error("the agent's problem is not in the error")
		}
		if diff := cmp.Diff([]string{"prepare a dual_read", "prepare b dual_read", "prepare c dual_read", "abort a", "abort b"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestSilenceAbortsAllAndChangesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b").in(phase.DualWrite, "a", "b")
		w.all["b"].silent = true
		_, err := ChangePhase(t.Context(), w.all, phase.DualRead, "", Timing{})
		want := "instance b: does not answer: dial tcp 127.0.0.1:8443: connection refused (nothing was changed)"
		if err == nil || err.Error() != want {
			t.Errorf("error is %v, want %s", err, want)
		}
	})
}

// fragile goes silent at a commit.
type fragile struct {
	*agent
	at string
}

func (f fragile) Commit(ctx context.Context, token string) (adminapi.Phase, error) {
	if f.name == f.at {
		f.silent = true
	}
	return f.agent.Commit(ctx, token)
}

func TestAFailureBetweenCommitsIsFinishedForwardByTheNextRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c").in(phase.DualWrite, "a", "b", "c")
		fleet := map[string]fragile{}
		for name, a := range w.all {
			fleet[name] = fragile{a, "b"}
		}
		_, err := ChangePhase(t.Context(), fleet, phase.DualRead, "", Timing{})
		want := "instance b: dial tcp 127.0.0.1:8443: connection refused (now c in dual_write; a in dual_read; apply again to finish the step)"
		if err == nil || err.Error() != want {
			t.Errorf("error is %v\nwant %s", err, want)
		}
		w.all["b"].silent = false
		var got []string
		if _, err := ChangePhase(t.Context(), w.all, phase.DualRead, "", done(&got)); err != nil {
			t.Fatal(err)
		}
		// b still holds the first run's lease; it is waited for.
		if diff := cmp.Diff([]string{"prepare b dual_read", "prepare c dual_read", "commit b", "commit c"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestACancelledRunGivesItsLeasesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b").in(phase.DualWrite, "a", "b")
		w.all["b"].phase.Prepared = &adminapi.Prepared{Phase: phase.DualRead, Token: "theirs", Expires: time.Now().Add(time.Hour)}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := ChangePhase(ctx, w.all, phase.DualRead, "", Timing{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v, want the context's", err)
		}
		if p := w.all["a"].phase.Prepared; p != nil {
			t.Errorf("a is still prepared: %+v", p)
		}
	})
}

func TestAwaitSaysWhoDoesNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		if err := Await(t.Context(), w.all, Timing{}); err != nil {
			t.Errorf("all answer, and the error is %v", err)
		}
		w.all["b"].silent = true
		var s *Stopped
		if err := Await(t.Context(), w.all, Timing{}); !errors.As(err, &s) || s.Instance != "b" || !errors.Is(err, errSilent) {
			t.Errorf("error is %v, want a stop at b with its own error", err)
		}
	})
}

// histories is how many random runs each model test makes.
const histories = 2000

func TestRandomRollsNeverTakeTwoDownAndAlwaysEnd(t *testing.T) {
	t.Parallel()
	ends := map[string]int{}
	for seed := range uint64(histories) {
		synctest.Test(t, func(t *testing.T) {
			w, names := randomWorld(t, seed)
			for _, name := range names {
				a := w.all[name]
				if w.rnd.IntN(4) == 0 {
					a.broken = "origin: no node answers"
				}
				if w.rnd.IntN(6) == 0 {
					a.generation, a.running, a.phase = 0, 0, adminapi.Phase{}
				}
			}
			for run := range 3 {
				if run == 2 {
					w.heal()
				}
				changes := map[string]Change{}
				for _, name := range names {
					a := w.all[name]
					changes[name] = Change{Put: a.generation < 3, Generation: a.generation, Restart: run == 2 || a.generation == 3}
				}
				_, err := Roll(t.Context(), w.all, changes, Timing{Patience: 20 * time.Second})
				w.note("run %d ended: %v", run, err)
				var s *Stopped
				switch {
				case err == nil:
					ends["done"]++
				case run == 2 || !errors.As(err, &s) || s.Text == "":
					w.fail("seed %d run %d: %v", seed, run, err)
				default:
					ends["stopped"]++
				}
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	both(t, ends)
}

func TestRandomMovesNeverSkipAPhaseAndAlwaysEnd(t *testing.T) {
	t.Parallel()
	ends := map[string]int{}
	for seed := range uint64(histories) {
		synctest.Test(t, func(t *testing.T) {
			w, names := randomWorld(t, seed)
			base := phase.All[w.rnd.IntN(len(phase.All))]
			for _, name := range names {
				switch w.rnd.IntN(5) {
				case 0:
					w.in(min(base+1, phase.TargetOnly), name)
				case 1: // new
				default:
					w.in(base, name)
				}
			}
			for range 4 {
				want := phase.All[w.rnd.IntN(len(phase.All))]
				reason := []string{"", "a test"}[w.rnd.IntN(2)]
				before := Describe(w.phases())
				_, err := ChangePhase(t.Context(), w.all, want, reason, Timing{Patience: 100 * time.Second})
				w.note("%s -> %s forced=%t ended: %v", before, want, reason != "", err)
				w.ended(seed, want, err, ends)
				if w.rnd.IntN(2) == 0 { // the next apply, when all is well again
					odds := w.odds
					w.heal()
					_, legal := Steps(want, true, w.phases())
					_, err := ChangePhase(t.Context(), w.all, want, "a test", Timing{})
					if (err == nil) != (legal == nil) {
						w.fail("seed %d: on a well fleet %s ended with %v, want %v", seed, want, err, legal)
					}
					w.odds = odds
				}
			}
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	both(t, ends)
}

func (w *world) ended(seed uint64, want phase.Phase, err error, ends map[string]int) {
	w.t.Helper()
	if err == nil {
		ends["done"]++
		for name, p := range w.phases() {
			if p != want {
				w.fail("seed %d: ended well with %s in %s, want %s", seed, name, p, want)
			}
		}
		return
	}
	ends["stopped"]++
	var s *Stopped
	if !errors.As(err, &s) || s.Text == "" {
		w.fail("seed %d: ended with %v, which does not say why", seed, err)
	}
}

func randomWorld(t *testing.T, seed uint64) (*world, []string) {
	rnd := rand.New(rand.NewPCG(seed, 3))
	names := []string{"a", "b", "c", "d"}[:1+rnd.IntN(4)]
	w := newWorld(t, names...)
	w.rnd, w.odds = rnd, []float64{0.02, 0.1, 0.3}[rnd.IntN(3)]
	for i, name := range names {
		w.all[name].rnd = rand.New(rand.NewPCG(seed, 100+uint64(i)))
	}
	return w, names
}

// both makes sure that the histories were neither all easy nor all hopeless.
func both(t *testing.T, ends map[string]int) {
	t.Helper()
	t.Logf("runs: %v", ends)
	if ends["done"] < histories/10 || ends["stopped"] < histories/10 {
		t.Errorf("the histories are one-sided: %v", ends)
	}
}
