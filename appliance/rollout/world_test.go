package rollout

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// errSilent is what a call meets that gets no answer.
var errSilent = errors.New("dial tcp 127.0.0.1:8443: connection refused")

// world is a fleet of agents that exist in memory only. An instance changes only
// inside a call to itself, so what was seen at the last look is still true when
// another instance is touched; the world checks there what must hold.
type world struct {
	t    *testing.T
	rnd  *rand.Rand // the test's own
	odds float64    // that a call goes wrong; 0: none does
	all  map[string]*agent

	// Guarded by mu: what happened, printed when something is wrong.
	mu      sync.Mutex
	history []string
}

type agent struct {
	w    *world
	name string
	// rnd is its own, so that a history depends on the seed alone, though all
	// instances are asked at once.
	rnd *rand.Rand

	generation, running uint64
	pid                 int
	readyAt             time.Time
	broken              string // why it never becomes ready
	silent              bool   // does not answer any more
	phase               adminapi.Phase
	tokens              int
	refuse              string // why it refuses to prepare
}

func newWorld(t *testing.T, names ...string) *world {
	w := &world{t: t, all: map[string]*agent{}}
	for i, name := range names {
		w.all[name] = &agent{w: w, name: name, generation: 1, running: 1, pid: 100 * (i + 1)}
	}
	return w
}

func (w *world) in(p phase.Phase, names ...string) *world {
	for _, name := range names {
		w.all[name].phase = adminapi.Phase{Phase: p, Epoch: uint64(p)}
	}
	return w
}

func (w *world) phases() map[string]phase.Phase {
	at := map[string]phase.Phase{}
	for name, a := range w.all {
		at[name] = a.phase.Phase
	}
	return at
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history = append(w.history, fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.history {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

func (a *agent) chance(part float64) bool { return a.rnd != nil && a.rnd.Float64() < a.w.odds*part }

// heal makes everything answer, ready and free of leases.
func (w *world) heal() {
	w.odds = 0
	for _, a := range w.all {
		a.silent, a.broken, a.refuse, a.readyAt, a.phase.Prepared = false, "", "", time.Time{}, nil
		a.running = a.generation
	}
}

func (a *agent) well() bool {
	return !a.silent && a.broken == "" && a.running == a.generation && a.generation > 0 && !time.Now().Before(a.readyAt)
}

// called is the beginning of each call: it may get no answer.
func (a *agent) called(call string) error {
	if a.chance(0.2) {
		a.silent = !a.silent
	}
	if a.silent {
		a.w.note("%s %s: silent", a.name, call)
		return errSilent
	}
	if a.chance(0.5) {
		a.w.note("%s %s: lost on the way there", a.name, call)
		return errSilent
	}
	return nil
}

// answered is the end of each call: the answer may be lost.
func (a *agent) answered(call string, text any) error {
	if a.chance(0.5) {
		a.w.note("%s %s: done, and the answer lost", a.name, call)
		return errSilent
	}
	a.w.note("%s %s: %v", a.name, call, text)
	return nil
}

func (a *agent) Status(context.Context) (adminapi.Status, error) {
	if err := a.called("status"); err != nil {
		return adminapi.Status{}, err
	}
	s := adminapi.Status{State: adminapi.Serving, Generation: a.generation, Running: a.running, Phase: a.phase, Ready: a.well(),
		Proxy: &control.Status{PID: a.pid}}
	switch {
	case a.generation == 0:
		s.State = adminapi.Locked
	case a.phase.Phase == phase.None:
		s.State = adminapi.Configured
	}
	if a.broken != "" {
		s.NotReady = []string{a.broken}
	}
	if a.phase.Prepared != nil && time.Now().After(a.phase.Prepared.Expires) {
		a.phase.Prepared = nil
	}
	s.Phase = a.phase
	return s, nil
}

// touch replaces the process; no other instance may be down while one that is
// well goes down.
func (a *agent) touch() {
	if a.well() {
		for _, o := range a.w.all {
			if o != a && !o.well() {
				a.w.fail("%s was touched while %s is down", a.name, o.name)
			}
		}
	}
	a.pid++
	a.readyAt = time.Now().Add(3 * time.Second)
	a.broken = ""
	if a.chance(0.5) {
		a.broken = "target: no node answers"
	}
}

func (a *agent) PutConfig(_ context.Context, cfg adminapi.Config, generation uint64) (adminapi.Config, error) {
	if err := a.called("put"); err != nil {
		return adminapi.Config{}, err
	}
	if generation != a.generation {
		return adminapi.Config{}, adminapi.NewProblem(adminapi.Stale, "read it again")
	}
	if a.chance(0.5) {
		return adminapi.Config{}, adminapi.NewProblem(adminapi.ApplyFailed, "the last good one runs")
	}
	a.touch()
	a.generation++
	a.running = a.generation
	cfg.Generation, cfg.Running = a.generation, a.running
	return cfg, a.answered("put", a.generation)
}

func (a *agent) Restart(context.Context, string) (adminapi.Status, error) {
	if err := a.called("restart"); err != nil {
		return adminapi.Status{}, err
	}
	a.touch()
	return adminapi.Status{}, a.answered("restart", a.pid)
}

func (a *agent) Prepare(_ context.Context, req adminapi.PrepareRequest, epoch uint64) (adminapi.Phase, error) {
	if err := a.called("prepare"); err != nil {
		return adminapi.Phase{}, err
	}
	refused := func(kind adminapi.Kind, why string) (adminapi.Phase, error) {
		a.w.note("%s prepare %s: %s", a.name, req.Phase, why)
		return adminapi.Phase{}, adminapi.NewProblem(kind, "%s", why)
	}
	switch err := phase.CheckMove(a.phase.Phase, req.Phase, req.ForceReason != ""); {
	case err != nil:
		a.w.fail("%s was asked for an illegal move: %v", a.name, err)
	case epoch != a.phase.Epoch:
		return refused("stale", "the epoch is another")
	case a.phase.Prepared != nil && time.Now().Before(a.phase.Prepared.Expires):
		return refused("conflict", "is prepared already")
	case a.refuse != "" || a.chance(0.5):
		return refused("not-ready", "target does not answer "+a.refuse)
	}
	a.tokens++
	a.phase.Prepared = &adminapi.Prepared{Phase: req.Phase, Token: fmt.Sprintf("%s-%d", a.name, a.tokens),
		Expires: time.Now().Add(time.Duration(req.LeaseSeconds) * time.Second)}
	return a.phase, a.answered("prepare", req.Phase)
}

func (a *agent) Commit(_ context.Context, token string) (adminapi.Phase, error) {
	if err := a.called("commit"); err != nil {
		return adminapi.Phase{}, err
	}
	p := a.phase.Prepared
	if p == nil || p.Token != token || time.Now().After(p.Expires) {
		a.w.note("%s commit: no such lease", a.name)
		return adminapi.Phase{}, adminapi.NewProblem(adminapi.Conflict, "prepare again")
	}
	for _, o := range a.w.all {
		waits := o != a && o.phase.Phase != p.Phase && o.phase.Phase != phase.None
		if waits && (o.phase.Prepared == nil || o.phase.Prepared.Phase != p.Phase) {
			a.w.fail("%s commits %s before %s has prepared it", a.name, p.Phase, o.name)
		}
	}
	a.phase = adminapi.Phase{Phase: p.Phase, Previous: a.phase.Phase, Epoch: a.phase.Epoch + 1, Since: time.Now()}
	if lo, hi := span(a.w.phases()); hi-lo > 1 {
		a.w.fail("phases are not adjacent: %s", Describe(a.w.phases()))
	}
	return a.phase, a.answered("commit", a.phase.Phase)
}

func (a *agent) Abort(_ context.Context, token string) (adminapi.Phase, error) {
	if err := a.called("abort"); err != nil {
		return adminapi.Phase{}, err
	}
	if a.phase.Prepared != nil && a.phase.Prepared.Token == token {
		a.phase.Prepared = nil
	}
	return a.phase, a.answered("abort", "")
}
