package rollout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Observer looks at one instance. All methods of the interfaces here return
// *adminapi.Problem (wrapped or not) when the instance answered and refused.
type Observer interface {
	Status(ctx context.Context) (adminapi.Status, error)
}

// Configurer is an instance whose configuration can be changed.
type Configurer interface {
	Observer
	PutConfig(ctx context.Context, cfg adminapi.Config, generation uint64) (adminapi.Config, error)
	Restart(ctx context.Context, reason string) (adminapi.Status, error)
}

// Phaser is an instance whose phase can be changed.
type Phaser interface {
	Observer
	Prepare(ctx context.Context, req adminapi.PrepareRequest, epoch uint64) (adminapi.Phase, error)
	Commit(ctx context.Context, token string) (adminapi.Phase, error)
	Abort(ctx context.Context, token string) (adminapi.Phase, error)
}

// Timing bounds a run.
type Timing struct {
	// Patience is how long one instance may take to answer, or to become well
	// after a change, before the run stops. 0 means 5 minutes.
	Patience time.Duration
	// Pause between two instances, so that drivers find the first again before
	// the second goes away. 0 means none.
	Pause time.Duration
	// Poll is how often one looks while waiting. 0 means a second.
	Poll time.Duration
	// Lease of a prepared step. 0 means 60 s and 15 s for each instance, at
	// most 600 s, which is the most that an agent gives.
	Lease time.Duration
	// Say tells what is being done, for logs; nil means nobody.
	Say func(Action)
}

func (t Timing) withDefaults(instances int) Timing {
	if t.Patience == 0 {
		t.Patience = 5 * time.Minute
	}
	if t.Poll == 0 {
		t.Poll = time.Second
	}
	if t.Lease == 0 {
		t.Lease = min(time.Duration(60+15*instances)*time.Second, 600*time.Second)
	}
	if t.Say == nil {
		t.Say = func(Action) {}
	}
	return t
}

// Change is what one instance has to become.
type Change struct {
	// Put: Config replaces the document that has Generation.
	Put        bool
	Config     adminapi.Config
	Generation uint64
	// Restart asks for a new proxy process; Why is told to the agent. A Put
	// that made a new generation has brought one already.
	Restart bool
	Why     string
}

// Result of a Roll, also of one that stopped.
type Result struct {
	// Configs are the documents as the agents stored them, by instance.
	Configs map[string]adminapi.Config
	// Restarted lists whose process was replaced, whether asked for or by a
	// change of the configuration.
	Restarted []string
}

// Roll changes the instances one at a time. Instances without a change have to
// be given too: they must stay well while another one is touched. The error is
// a *Stopped or the context's.
func Roll[C Configurer](ctx context.Context, fleet map[string]C, changes map[string]Change, t Timing) (Result, error) {
	t = t.withDefaults(len(fleet))
	res := Result{Configs: map[string]adminapi.Config{}}
	var goals []Goal
	for _, name := range slices.Sorted(maps.Keys(fleet)) {
		goals = append(goals, Goal{Name: name, Configure: changes[name].Put, Restart: changes[name].Restart})
	}
	w := watch{t: t}
	var changed []string
	for {
		views := Look(ctx, fleet)
		if err := ctx.Err(); err != nil {
			return res, err
		}
		byName := make(map[string]View, len(views))
		for _, v := range views {
			byName[v.Name] = v
		}
		a := NextRoll(goals, byName)
		t.Say(a)
		var err error
		i := slices.IndexFunc(goals, func(g Goal) bool { return g.Name == a.Instance })
		switch a.Kind {
		case Done:
			return res, nil
		case Wait:
			if err := w.wait(ctx, a); err != nil {
				return res, stopped(err, changed, byName)
			}
			continue
		case Put, Restart:
			if len(changed) > 0 && !slices.Contains(changed, a.Instance) {
				if err := sleep(ctx, t.Pause); err != nil {
					return res, err
				}
			}
		}
		c, one := changes[a.Instance], fleet[a.Instance]
		ctx, cancel := context.WithTimeout(ctx, t.Patience)
		switch a.Kind {
		case Put:
			var cfg adminapi.Config
			if cfg, err = one.PutConfig(ctx, c.Config, c.Generation); err == nil {
				goals[i].Configure, goals[i].Generation = false, cfg.Generation
				if cfg.Generation != c.Generation { // a new generation runs in a new process
					goals[i].Restart = false
					res.Restarted = append(res.Restarted, a.Instance)
				}
				res.Configs[a.Instance] = cfg
			}
		case Restart:
			if p := byName[a.Instance].Status.Proxy; p != nil {
				goals[i].OldPID = p.PID
			}
			if _, err = one.Restart(ctx, c.Why); err == nil {
				goals[i].Restart = false
				res.Restarted = append(res.Restarted, a.Instance)
			}
		default: // Stop
			cancel()
			return res, stopped(&Stopped{Instance: a.Instance, Text: a.Reason}, changed, byName)
		}
		cancel()
		if err != nil {
			return res, &Stopped{Instance: a.Instance, Text: err.Error(), Changed: changed, Cause: err}
		}
		goals[i].Touched = !goals[i].Restart
		if !slices.Contains(changed, a.Instance) {
			changed = append(changed, a.Instance)
		}
		w = watch{t: t}
	}
}

// ChangePhase takes all instances to the phase want, and returns how they were seen
// last. The error is a *Stopped or the context's.
func ChangePhase[P Phaser](ctx context.Context, fleet map[string]P, want phase.Phase, forceReason string, t Timing) ([]View, error) {
	t = t.withDefaults(len(fleet))
	m := Move{Want: want, ForceReason: forceReason, Holds: map[string]Hold{}}
	w := watch{t: t}
	ended := context.Background // what is prepared is aborted also when ctx is over
	for {
		views := Look(ctx, fleet)
		if err := ctx.Err(); err != nil {
			for name, h := range m.Holds {
				abort, cancel := context.WithTimeout(ended(), 5*time.Second)
				_, _ = fleet[name].Abort(abort, h.Token) // else the lease ends by itself
				cancel()
			}
			return views, err
		}
		m.Now = time.Now()
		a := NextMove(m, views)
		t.Say(a)
		one, hold := fleet[a.Instance], m.Holds[a.Instance]
		switch a.Kind {
		case Done:
			return views, nil
		case Wait:
			if err := w.wait(ctx, a); err != nil {
				m.Failed = &Failure{Instance: a.Instance, Err: errors.New(a.Reason)}
			}
		case Prepare:
			req := adminapi.PrepareRequest{Phase: a.Phase, ForceReason: a.Reason, LeaseSeconds: int(t.Lease / time.Second)}
			m.prepared(a, t.Lease)(one.Prepare(ctx, req, epoch(views, a.Instance)))
		case Commit:
			delete(m.Holds, a.Instance)
			_, err := one.Commit(ctx, hold.Token)
			var refused *adminapi.Problem
			m.Committed = m.Committed || !errors.As(err, &refused)
			if err != nil {
				m.Failed = &Failure{Instance: a.Instance, Phase: hold.Phase, Err: err}
			}
		case Abort:
			delete(m.Holds, a.Instance)
			_, _ = one.Abort(ctx, hold.Token) // else the lease ends by itself
		default: // Stop
			s := &Stopped{Instance: a.Instance, Text: a.Reason, After: a.After}
			if m.Failed != nil {
				s.Cause = m.Failed.Err
			} else if i := slices.IndexFunc(views, func(v View) bool { return v.Name == a.Instance }); i >= 0 {
				s.Cause = views[i].Err
			}
			return views, s
		}
	}
}

// prepared takes in the answer to a prepare.
func (m *Move) prepared(a Action, lease time.Duration) func(adminapi.Phase, error) {
	asked := time.Now()
	return func(p adminapi.Phase, err error) {
		switch {
		case err != nil:
			m.Failed = &Failure{Instance: a.Instance, Err: err}
		case p.Prepared == nil || p.Prepared.Token == "":
			m.Failed = &Failure{Instance: a.Instance, Err: errors.New("prepared the step without giving a token; check the version of its agent")}
		default:
			m.Holds[a.Instance] = Hold{Phase: a.Phase, Token: p.Prepared.Token, Expires: asked.Add(lease)}
		}
	}
}

func epoch(views []View, name string) uint64 {
	for _, v := range views {
		if v.Name == name {
			return v.Status.Phase.Epoch
		}
	}
	return 0
}

// Answer is what one instance said.
type Answer[T any] struct {
	Value T
	Err   error
}

// Ask puts one question to all instances at once.
func Ask[O, T any](ctx context.Context, fleet map[string]O, question func(context.Context, O) (T, error)) map[string]Answer[T] {
	var (
		mu  sync.Mutex
		wg  sync.WaitGroup
		out = make(map[string]Answer[T], len(fleet))
	)
	for name, one := range fleet {
		wg.Go(func() {
			v, err := question(ctx, one)
			mu.Lock()
			defer mu.Unlock()
			out[name] = Answer[T]{v, err}
		})
	}
	wg.Wait()
	return out
}

// Look asks all instances for their status, and returns it in the order of
// their names.
func Look[O Observer](ctx context.Context, fleet map[string]O) []View {
	answers := Ask(ctx, fleet, func(ctx context.Context, one O) (adminapi.Status, error) { return one.Status(ctx) })
	var views []View
	for _, name := range slices.Sorted(maps.Keys(fleet)) {
		views = append(views, View{name, answers[name].Value, answers[name].Err})
	}
	return views
}

// Await returns when all instances answer, as when machines have just been
// made. The error is a *Stopped or the context's.
func Await[O Observer](ctx context.Context, fleet map[string]O, t Timing) error {
	t = t.withDefaults(len(fleet))
	w := watch{t: t}
	for {
		var silent *View
		for _, v := range Look(ctx, fleet) {
			if Hopeless(v.Err) {
				return &Stopped{Instance: v.Name, Text: v.Err.Error(), Cause: v.Err}
			}
			if v.Err != nil && silent == nil {
				silent = &v
			}
		}
		if err := ctx.Err(); err != nil || silent == nil {
			return err
		}
		if err := w.wait(ctx, wait(silent.Name, "does not answer: %v", silent.Err)); err != nil {
			return stopped(err, nil, map[string]View{silent.Name: *silent})
		}
	}
}

// watch bounds how long one waits for the same instance.
type watch struct {
	t     Timing
	since time.Time
}

// wait sleeps until the next look, or says that there was enough of it.
func (w *watch) wait(ctx context.Context, a Action) error {
	if w.since.IsZero() {
		w.since = time.Now()
	}
	if time.Since(w.since) >= w.t.Patience {
		return &Stopped{Instance: a.Instance, Text: fmt.Sprintf("%s, for %s now", a.Reason, w.t.Patience)}
	}
	return sleep(ctx, w.t.Poll)
}

// sleep returns the context's error if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stopped adds to a *Stopped what the run knows.
func stopped(err error, changed []string, views map[string]View) error {
	var s *Stopped
	if errors.As(err, &s) {
		s.Changed = changed
		if v := views[s.Instance]; v.Err != nil {
			s.Cause = v.Err
		}
	}
	return err
}
