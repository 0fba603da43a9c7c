package appliance

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"strconv"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Bounds of a lease, in seconds.
const (
	defaultLease = 60
	maxLease     = 600
)

// prepared is the step under a lease that still runs, or nil.
func (a *Agent) prepared() *store.Prepared { return running(a.rec.Phase, a.o.Now()) }

func running(p store.Phase, now time.Time) *store.Prepared {
	if p.Prepared != nil && now.Before(p.Prepared.Expires) {
		return p.Prepared
	}
	return nil
}

func same(token, known string) bool {
	return known != "" && subtle.ConstantTimeCompare([]byte(token), []byte(known)) == 1
}

// prepareStep proves that a step can be taken, and takes a lease on it.
func (a *Agent) prepareStep(in adminapi.PrepareRequest, ifMatch uint64, reply func(answer)) {
	refuse := func(k kind, format string, args ...any) { reply(answer{err: problem(k, format, args...)}) }
	from, epoch := a.rec.Phase.Phase, a.rec.Phase.Epoch
	if p := a.free(); p != nil {
		reply(answer{err: p})
		return
	}
	if ifMatch != epoch {
		refuse(stale, "epoch is %d, the request was for %d; read the phase again and decide anew", epoch, ifMatch)
		return
	}
	if p := a.prepared(); p != nil {
		refuse(conflict, "a step to %s is prepared until %s; commit or abort it, or wait", p.Phase, p.Expires.Format("15:04:05 MST"))
		return
	}
	if err := phase.CheckMove(from, in.Phase, in.ForceReason != ""); err != nil {
		reply(answer{err: err})
		return
	}
	p := a.current
	switch {
	case a.rec.Committed == nil:
		refuse(notReady, "the instance is locked: it has no configuration; PUT one to %s first", adminapi.PathConfig)
		return
	case p == nil || a.rise != nil:
		refuse(notReady, "the proxy process is being started (%s); look at %s, and try again", a.why(), adminapi.PathStatus)
		return
	case !a.inPhase(p):
		refuse(notReady, "the proxy process does not run the stored phase %s yet (%s); look at %s, and try again", from, a.why(), adminapi.PathStatus)
		return
	}
	a.busy = "a step to " + in.Phase.String() + " is being proved"
	a.task(func(ctx context.Context) func() {
		err := p.prove(ctx, in.Phase, epoch+1)
		return func() {
			a.busy = ""
			if err != nil {
				a.report("the step from %s to %s was refused: %v", from, in.Phase, err)
				reply(answer{err: refusedProof(in.Phase, err)})
				return
			}
			lease := time.Duration(in.LeaseSeconds) * time.Second
			if lease == 0 {
				lease = defaultLease * time.Second
			}
			rec := a.rec
			rec.Phase.Prepared = &store.Prepared{Phase: in.Phase, Token: rand.Text(), Expires: a.o.Now().Add(lease).UTC(), Reason: in.ForceReason}
			if err := a.save(rec); err != nil {
				reply(answer{err: err})
				return
			}
			a.note(kindPhase, "prepared the step from %s to %s for %s%s", from, in.Phase, lease, because(in.ForceReason))
			reply(a.phaseAnswer())
		}
	})
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return "; forced, reason: " + strconv.Quote(reason)
}

func (a *Agent) why() string {
	if a.riseError != "" {
		return a.riseError
	}
	return "not ready yet"
}

func refusedProof(to phase.Phase, err error) *adminapi.Problem {
	p := problem(notReady, "%s: %v; correct that, and prepare again", to, firstLine(err))
	var refused *control.Error
	if errors.As(err, &refused) {
		p.Problems = refused.Problems
	}
	return p
}

// commitStep stores the prepared phase and applies it. Once it is stored it is
// the instance's, whatever becomes of the process.
func (a *Agent) commitStep(token string, reply func(answer)) {
	if p := a.free(); p != nil {
		reply(answer{err: p})
		return
	}
	if !same(token, a.rec.Phase.Token) {
		if p := a.store(token); p != nil {
			reply(answer{err: p})
			return
		}
	}
	p, g := a.current, a.goalOf(a.rec.Committed)
	switch {
	case p != nil && a.rise == nil && a.inPhase(p):
		reply(a.phaseAnswer())
		return
	case p == nil || a.rise != nil || a.aligning:
		reply(answer{err: failed(errors.New("the proxy process is being started ("+a.why()+")"), storedThen(g.phase))})
		return
	}
	a.busy = "the step to " + g.phase.String() + " is being taken"
	serving := p.serving
	a.task(func(ctx context.Context) func() {
		// The end of the agent does not interrupt a step.
		err := p.enter(context.WithoutCancel(ctx), g, serving)
		return func() {
			a.busy = ""
			a.entered(p, g, err)
			if err != nil {
				reply(answer{err: failed(err, storedThen(g.phase))})
				return
			}
			a.note(kindPhase, "in phase %s, epoch %d", g.phase, g.epoch)
			reply(a.phaseAnswer())
		}
	})
}

func storedThen(p phase.Phase) string {
	return "phase " + p.String() + " is stored and applied as soon as that is possible; commit again with the same token to learn of it"
}

// store makes the prepared phase the stored one.
func (a *Agent) store(token string) *adminapi.Problem {
	now := a.o.Now().UTC()
	prepared := a.rec.Phase.Prepared
	switch {
	case prepared == nil || !same(token, prepared.Token):
		return problem(conflict, "no step is prepared with this token; prepare it again")
	case !now.Before(prepared.Expires):
		return problem(conflict, "the step to %s was prepared until %s, which is over; nothing has changed, prepare it again", prepared.Phase, prepared.Expires.Format("15:04:05 MST"))
	}
	rec := a.rec
	if prepared.Phase != rec.Phase.Phase {
		rec.Phase.Previous, rec.Phase.Phase, rec.Phase.Since = rec.Phase.Phase, prepared.Phase, now
	}
	rec.Phase.Epoch++
	rec.Phase.Token, rec.Phase.Prepared = prepared.Token, nil
	if err := a.save(rec); err != nil {
		return asProblem(err)
	}
	a.note(kindPhase, "stored phase %s, epoch %d%s", rec.Phase.Phase, rec.Phase.Epoch, because(prepared.Reason))
	return nil
}

// abortStep gives the lease back.
func (a *Agent) abortStep(token string, reply func(answer)) {
	prepared := a.prepared()
	switch {
	case same(token, a.rec.Phase.Token):
		reply(answer{err: problem(conflict, "this step to %s is committed; take a step back instead", a.rec.Phase.Phase)})
		return
	case prepared == nil:
		reply(a.phaseAnswer())
		return
	case !same(token, prepared.Token):
		reply(answer{err: problem(conflict, "another step, to %s, is prepared until %s; abort it with its own token, or wait", prepared.Phase, prepared.Expires.Format("15:04:05 MST"))})
		return
	}
	rec := a.rec
	rec.Phase.Prepared = nil
	if err := a.save(rec); err != nil {
		reply(answer{err: err})
		return
	}
	a.note(kindPhase, "gave up the step to %s", prepared.Phase)
	reply(a.phaseAnswer())
}

func (a *Agent) phaseAnswer() answer {
	a.publish()
	return phaseOf(a.view.Load(), a.o.Now())
}

func phaseOf(v *view, now time.Time) answer {
	p := v.rec.Phase
	out := adminapi.Phase{Phase: p.Phase, Since: p.Since, Previous: p.Previous, Epoch: p.Epoch}
	if s := running(p, now); s != nil {
		out.Prepared = &adminapi.Prepared{Phase: s.Phase, Token: s.Token, Expires: s.Expires}
	}
	return answer{body: out, etag: strconv.FormatUint(p.Epoch, 10)}
}
