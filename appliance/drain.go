package appliance

import (
	"context"
	"errors"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
	"github.com/zdmproject/terraform-provider-zdm/appliance/supervise"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// drain closes the client port and keeps it closed. Once it is stored it is the
// instance's, whatever becomes of the process.
func (a *Agent) drain(in adminapi.DrainRequest, caller string, answer reply[struct{}]) {
	if err := a.free(); err != nil {
		answer.refuse(err)
		return
	}
	switch {
	case a.rec.Drain != nil:
		answer(struct{}{}, nil)
		return
	case a.rec.Phase.Phase == phase.None:
		answer.refuse(adminapi.NewProblem(adminapi.NotReady, "the instance has no phase, so its client port is closed already; nothing is to be done"))
		return
	}
	rec := a.rec
	rec.Drain = &store.Drain{Since: a.o.Now().UTC(), Reason: in.Reason, Caller: caller, UntilReboot: in.UntilReboot, BootID: a.o.BootID}
	if err := a.save(rec); err != nil {
		answer.refuse(err)
		return
	}
	a.note(adminapi.EventDrain, "the client port is being closed by %s%s", caller, because(in.Reason))
	p := a.current
	switch {
	case p == nil: // the next one does not open its port
		answer(struct{}{}, nil)
	case a.rise != nil && !p.serving:
		// It may be about to open its port. It has no clients yet.
		a.stopRise()
		a.current = nil
		a.kill(p)
		a.raise()
		answer(struct{}{}, nil)
	case !p.serving:
		answer(struct{}{}, nil)
	default:
		a.shut(p, func() { answer(struct{}{}, nil) })
	}
}

// shut ends a process that serves, which answers what its clients have in
// flight, and then raises one with its port closed. done is called when that one
// is ready, or has had the time for it.
func (a *Agent) shut(p *proxy, done func()) {
	a.stopRise()
	a.current = nil
	a.busy = "the instance is being drained"
	a.task(func(ctx context.Context) func() {
		// The end of the agent does not hold it up: the process has been told.
		drain := func(ctx context.Context, within time.Duration) error {
			return p.drain(context.WithoutCancel(ctx), within)
		}
		err := supervise.Stop(ctx, p, drain, supervise.Grace{Drain: a.o.DrainTimeout, Term: termGrace})
		return func() {
			a.busy = ""
			p.Release()
			if err == nil {
				a.note(adminapi.EventDrain, "%s has drained and ended: %s", p, p.Exit())
			} else if ctx.Err() == nil {
				a.report("end %s: %v", p, err)
			}
			a.raise()
			a.afterRise(done)
		}
	})
}

// resume opens the client port again.
func (a *Agent) resume(in adminapi.ResumeRequest, answer reply[struct{}]) {
	if err := a.free(); err != nil {
		answer.refuse(err)
		return
	}
	if a.rec.Drain != nil {
		rec := a.rec
		rec.Drain = nil
		if err := a.save(rec); err != nil {
			answer.refuse(err)
			return
		}
		a.note(adminapi.EventDrain, "the client port is being opened%s", because(in.Reason))
	}
	p, g := a.current, a.goalOf(a.rec.Committed)
	if !g.open || p != nil && a.rise == nil && a.inPhase(p) {
		answer(struct{}{}, nil)
		return
	}
	a.busy = "the instance is being resumed"
	a.afterRise(func() { a.open(answer) })
}

// afterRise calls then when current is on its way to serve no more, or after as
// long as a change may take.
func (a *Agent) afterRise(then func()) {
	r := a.rise
	if r == nil {
		then()
		return
	}
	a.task(func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, a.o.ReadyTimeout)
		defer cancel()
		select {
		case <-r.ended:
		case <-ctx.Done():
		}
		return then
	})
}

// open opens the client port of current.
func (a *Agent) open(answer reply[struct{}]) {
	const then = "the instance is not drained any more, and its client port is opened as soon as that is possible; resume again to learn of it"
	p, g := a.current, a.goalOf(a.rec.Committed)
	if p == nil || a.rise != nil || a.stopping {
		a.busy = ""
		answer.refuse(failed(errors.New("the proxy process is being started ("+a.why()+")"), then))
		return
	}
	serving := p.serving
	a.task(func(ctx context.Context) func() {
		err := p.enter(context.WithoutCancel(ctx), g, serving)
		return func() {
			a.busy = ""
			a.entered(p, g, err)
			if err != nil {
				answer.refuse(failed(err, then))
				return
			}
			a.note(adminapi.EventDrain, "%s serves again", p)
			answer(struct{}{}, nil)
		}
	})
}
