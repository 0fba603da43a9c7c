package appliance

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
	"github.com/zdmproject/terraform-provider-zdm/appliance/supervise"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// rise is the way of current to where it serves what is stored.
type rise struct {
	cancel context.CancelFunc
	ended  chan struct{} // closed when it is the agent's rise no more
}

// goalOf is what a process with doc is to run now.
func (a *Agent) goalOf(doc *store.Document) goal {
	p := a.rec.Phase
	return goal{doc: doc, phase: p.Phase, epoch: p.Epoch, open: p.Phase != phase.None && a.rec.Drain == nil}
}

// startProcess starts a process of the newest program, or of the one that was
// proven last.
func (a *Agent) startProcess(proven bool) (*proxy, error) {
	start := a.o.Maker.Start
	if proven {
		start = a.o.Maker.StartProven
	}
	p, err := start()
	if err != nil {
		return nil, err
	}
	a.keepOutput(p)
	started := newProxy(p, time.Now())
	a.watch(started)
	return started, nil
}

// prove keeps the program of a process that is ready.
func (a *Agent) prove(p *proxy) {
	a.task(func(context.Context) func() {
		err := a.o.Maker.Prove(p.Process)
		return func() {
			if err != nil && !ended(p) {
				a.report("%v; after a crash the newest program is started", err)
			}
		}
	})
}

// keepOutput has the lines of a process kept until it ends.
func (a *Agent) keepOutput(p supervise.Process) {
	a.task(func(ctx context.Context) func() {
		p.Follow(ctx, func(line string) { a.o.Logs.Add(p.Name(), line) })
		return func() {}
	})
}

// raise brings current, or a new process in its place, to where it serves what
// is stored. There is no bound on how long that takes: a side that is away may
// come back, and until then the client port is closed.
func (a *Agent) raise() {
	if a.stopping || a.rec.Committed == nil || a.handing || a.rise != nil {
		return
	}
	if a.current == nil {
		// After a crash what has been good is taken, and not what was put in its place
		// meanwhile: that is for a restart, which has a way back.
		p, err := a.startProcess(a.fellBack)
		if err != nil {
			a.riseFailed(err, 0)
			return
		}
		p.generation = a.rec.Committed.Generation
		a.current = p
		a.note(adminapi.EventProcess, "started %s with generation %d", p, p.generation)
	}
	p, g := a.current, a.goalOf(a.rec.Committed)
	open := g.open && !p.serving
	ctx, cancel := context.WithCancel(a.tasks)
	r := &rise{cancel, make(chan struct{})}
	a.rise = r
	a.task(func(context.Context) func() {
		defer cancel()
		err := p.lift(ctx, g)
		if err == nil && open {
			err = p.serve(ctx, "")
		}
		return func() {
			if a.rise != r { // somebody else has decided over p
				return
			}
			a.rise = nil
			close(r.ended)
			if err != nil {
				if a.stopping {
					return
				}
				a.current = nil
				a.kill(p)
				a.riseFailed(err, time.Since(p.started))
				return
			}
			a.riseError = ""
			a.prove(p)
			p.epoch, p.serving = g.epoch, p.serving || open
			switch {
			case p.serving:
				a.note(adminapi.EventProcess, "%s serves generation %d in phase %s", p, p.generation, g.phase)
			case g.phase != phase.None:
				a.note(adminapi.EventProcess, "%s is ready with generation %d in phase %s; the client port is closed until the instance is resumed", p, p.generation, g.phase)
			default:
				a.note(adminapi.EventProcess, "%s is ready with generation %d; the client port is closed until there is a phase", p, p.generation)
			}
			a.align()
		}
	})
}

func (a *Agent) riseFailed(err error, ran time.Duration) {
	a.riseError = err.Error()
	a.fellBack = true
	wait := a.backoff.Next(ran)
	a.report("%v; the next start is in %s", err, wait)
	a.riseTimer = time.After(wait)
}

// crashed is called when current has ended without being asked to.
func (a *Agent) crashed() {
	p := a.current
	a.current = nil
	a.stopRise()
	a.restarts++
	a.fellBack = true
	a.output = p.Output()
	a.report("%v", p.endedError())
	if a.handing || a.stopping { // handOver looks after what comes next
		return
	}
	a.riseTimer = time.After(a.backoff.Next(time.Since(p.started)))
}

// stopRise takes the decision over current out of a rise's hands.
func (a *Agent) stopRise() {
	if a.rise != nil {
		a.rise.cancel()
		close(a.rise.ended)
		a.rise = nil
	}
	a.riseTimer = nil
}

// kill ends a process that serves nobody.
func (a *Agent) kill(p *proxy) { _ = p.Signal(syscall.SIGKILL) }

// retire ends a process that may have clients: it drains. When the agent ends in
// the meantime it goes on draining by itself.
func (a *Agent) retire(p *proxy) {
	a.task(func(ctx context.Context) func() {
		drain := func(ctx context.Context, within time.Duration) error {
			return p.drain(context.WithoutCancel(ctx), within)
		}
		err := supervise.Stop(ctx, p, drain, supervise.Grace{Drain: a.o.DrainTimeout, Term: termGrace})
		return func() {
			p.Release()
			switch {
			case err == nil:
				a.note(adminapi.EventProcess, "%s has drained and ended: %s", p, p.Exit())
			case ctx.Err() == nil:
				a.report("end %s: %v", p, err)
			}
		}
	})
}

// align tells current the phase, if it missed it, and has it open its port, if
// that failed. It is called now and then.
func (a *Agent) align() {
	p := a.current
	if turner, ok := procOf(p).(interface{ TurnOutput() error }); ok {
		if err := turner.TurnOutput(); err != nil {
			a.report("bound the output of %s: %v", p, err)
		}
	}
	if p == nil || a.rise != nil || a.busy != "" || a.aligning || a.stopping || a.inPhase(p) {
		return
	}
	g := a.goalOf(a.rec.Committed)
	if p.serving && !g.open {
		a.shut(p, func() {})
		return
	}
	a.aligning = true
	serving := p.serving
	a.task(func(ctx context.Context) func() {
		err := p.enter(ctx, g, serving)
		return func() {
			a.aligning = false
			a.entered(p, g, err)
		}
	})
}

func procOf(p *proxy) supervise.Process {
	if p == nil {
		return nil
	}
	return p.Process
}

// inPhase: p runs the stored phase, with its port open unless it is drained.
func (a *Agent) inPhase(p *proxy) bool {
	g := a.goalOf(nil)
	return g.phase == phase.None || (p.serving == g.open && p.epoch == g.epoch)
}

// enter applies a phase in a running process.
func (p *proxy) enter(ctx context.Context, g goal, serving bool) error {
	if err := p.setPhase(ctx, g.phase, g.epoch); err != nil {
		return fmt.Errorf("enter %s in %s: %w", g.phase, p, err)
	}
	if serving || !g.open {
		return nil
	}
	if err := p.serve(ctx, ""); err != nil {
		return fmt.Errorf("open the client port of %s: %w", p, err)
	}
	return nil
}

func (a *Agent) entered(p *proxy, g goal, err error) {
	if err == nil {
		p.epoch, p.serving = g.epoch, p.serving || g.open
		if a.current == p {
			a.riseError = ""
		}
		return
	}
	if a.current == p && a.riseError != err.Error() { // told once, tried again
		a.riseError = err.Error()
		a.report("%v; it is tried again every %s", err, alignInterval)
	}
}

// adopt finds the processes of an earlier agent, takes the one that serves and
// ends the others.
func (a *Agent) adopt(ctx context.Context) error {
	running, err := a.o.Maker.Running()
	if err != nil {
		return err
	}
	found := make([]*proxy, len(running))
	statuses := make([]*control.Status, len(running))
	for i, process := range running {
		found[i] = newProxy(process, a.start)
		a.keepOutput(process)
		if statuses[i], err = found[i].status(ctx, callTimeout/2); err != nil {
			// It holds the port, perhaps, and cannot be spoken to.
			a.report("%v; killing it", err)
			a.kill(found[i])
			statuses[i] = nil
			continue
		}
		a.traffic.begin(process.Name(), statuses[i])
		a.watch(found[i])
	}
	if err := a.settleWanted(found, statuses); err != nil {
		return err
	}
	best := -1
	for i, st := range statuses {
		if st != nil && a.rec.Committed != nil && rank(st, a.rec.Committed.Generation) > 0 &&
			(best < 0 || rank(st, a.rec.Committed.Generation) >= rank(statuses[best], a.rec.Committed.Generation)) {
			best = i
		}
	}
	for i, p := range found {
		switch st := statuses[i]; {
		case st == nil:
		case i == best:
			p.generation, p.epoch, p.serving = st.Generation, st.Epoch, st.State == control.Serving
			a.current = p
			a.note(adminapi.EventProcess, "adopted %s, which is %s with generation %d", p, st.State, st.Generation)
			a.trustEpoch(st)
		case st.State == control.Serving || st.State == control.Draining:
			a.note(adminapi.EventProcess, "%s is left from before; it drains", p)
			a.retire(p)
		default:
			a.note(adminapi.EventProcess, "%s is left from before and serves nobody; it is ended", p)
			a.kill(p)
		}
	}
	if a.current == nil || !a.current.serving {
		a.raise()
	}
	return nil
}

// rank orders processes by how good they are to go on with; 0 is not at all.
func rank(st *control.Status, generation uint64) int {
	switch {
	case st.Generation != generation:
		return 0
	case st.State == control.Serving:
		return 2
	case st.State == control.Ready || st.State == control.Connecting:
		return 1
	}
	return 0
}

// settleWanted ends a change that the last agent did not: forward if its process
// has taken the clients, else back.
func (a *Agent) settleWanted(found []*proxy, statuses []*control.Status) error {
	wanted := a.rec.Wanted
	if wanted == nil {
		return nil
	}
	rec := a.rec
	rec.Wanted = nil
	for i, st := range statuses {
		if st != nil && st.State == control.Serving && st.Generation == wanted.Generation {
			rec.Committed = wanted
			a.note(adminapi.EventConfig, "generation %d serves in %s since before the agent ended; it is kept", wanted.Generation, found[i])
			return a.save(rec)
		}
	}
	a.note(adminapi.EventConfig, "generation %d was being applied when the agent ended; it is given up", wanted.Generation)
	return a.save(rec)
}

// trustEpoch takes the phase of a running process that is ahead of the store,
// which can be if the newest record was damaged: the phase was stored before
// the process got it.
func (a *Agent) trustEpoch(st *control.Status) {
	if st.Epoch <= a.rec.Phase.Epoch || st.Phase == phase.None {
		return
	}
	a.report("the store knows phase %s (epoch %d), and the proxy runs %s (epoch %d); the proxy's is kept", a.rec.Phase.Phase, a.rec.Phase.Epoch, st.Phase, st.Epoch)
	rec := a.rec
	rec.Phase = store.Phase{Phase: st.Phase, Previous: a.rec.Phase.Phase, Since: st.PhaseSince, Epoch: st.Epoch}
	if err := a.save(rec); err != nil {
		a.report("%v", err)
	}
}
