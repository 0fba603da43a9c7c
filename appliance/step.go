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
func (a *Agent) prepareStep(in adminapi.PrepareRequest, ifMatch uint64, answer reply[adminapi.Phase]) {
	refuse := func(k adminapi.Kind, format string, args ...any) {
		answer.refuse(adminapi.NewProblem(k, format, args...))
	}
	from, epoch := a.rec.Phase.Phase, a.rec.Phase.Epoch
	if err := a.free(); err != nil {
		answer.refuse(err)
		return
	}
	if ifMatch != epoch {
		refuse(adminapi.Stale, "epoch is %d, the request was for %d; read the phase again and decide anew", epoch, ifMatch)
		return
	}
	if err := a.unprepared(); err != nil {
		answer.refuse(err)
		return
	}
	if err := phase.CheckMove(from, in.Phase, in.ForceReason != ""); err != nil {
		answer.refuse(err)
		return
	}
	p := a.current
	switch {
	case a.rec.Committed == nil:
		refuse(adminapi.NotReady, "the instance is locked: it has no configuration; PUT one to %s first", adminapi.PathConfig)
		return
	case p == nil || a.rise != nil:
		refuse(adminapi.NotReady, "the proxy process is being started (%s); look at %s, and try again", a.why(), adminapi.PathStatus)
		return
	case !a.inPhase(p):
		refuse(adminapi.NotReady, "the proxy process does not run the stored phase %s yet (%s); look at %s, and try again", from, a.why(), adminapi.PathStatus)
		return
	}
	a.busy = "a step to " + in.Phase.String() + " is being proved"
	a.task(func(ctx context.Context) func() {
		err := p.prove(ctx, in.Phase, epoch+1)
		return func() {
			a.busy = ""
			if err != nil {
				a.report("the step from %s to %s was refused: %v", from, in.Phase, err)
				answer.refuse(refusedProof(in.Phase, err))
				return
			}
			lease := time.Duration(in.LeaseSeconds) * time.Second
			if lease == 0 {
				lease = defaultLease * time.Second
			}
			rec := a.rec
			rec.Phase.Prepared = &store.Prepared{Phase: in.Phase, Token: rand.Text(), Expires: a.o.Now().Add(lease).UTC(), Reason: in.ForceReason}
			if err := a.save(rec); err != nil {
				answer.refuse(err)
				return
			}
			a.note(adminapi.EventPhase, "prepared the step from %s to %s for %s%s", from, in.Phase, lease, forced(in.ForceReason))
			answer(a.nowPhase(), nil)
		}
	})
}

func forced(reason string) string {
	if reason == "" {
		return ""
	}
	return "; forced" + because(reason)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ", reason: " + strconv.Quote(reason)
}

func (a *Agent) why() string {
	if a.riseError != "" {
		return a.riseError
	}
	return "not ready yet"
}

func refusedProof(to phase.Phase, err error) *adminapi.Problem {
	p := adminapi.NewProblem(adminapi.NotReady, "%s: %v; correct that, and prepare again", to, firstLine(err))
	var refused *control.Error
	if errors.As(err, &refused) {
		p.Problems = refused.Problems
	}
	return p
}

// commitStep stores the prepared phase and applies it. Once it is stored it is
// the instance's, whatever becomes of the process.
func (a *Agent) commitStep(token string, answer reply[adminapi.Phase]) {
	if err := a.free(); err != nil {
		answer.refuse(err)
		return
	}
	if !same(token, a.rec.Phase.Token) {
		if err := a.store(token); err != nil {
			answer.refuse(err)
			return
		}
	}
	p, g := a.current, a.goalOf(a.rec.Committed)
	switch {
	case p != nil && a.rise == nil && a.inPhase(p):
		answer(a.nowPhase(), nil)
		return
	case p == nil || a.rise != nil || a.aligning:
		answer.refuse(failed(errors.New("the proxy process is being started ("+a.why()+")"), storedThen(g.phase)))
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
				answer.refuse(failed(err, storedThen(g.phase)))
				return
			}
			a.note(adminapi.EventPhase, "in phase %s, epoch %d", g.phase, g.epoch)
			answer(a.nowPhase(), nil)
		}
	})
}

func storedThen(p phase.Phase) string {
	return "phase " + p.String() + " is stored and applied as soon as that is possible; commit again with the same token to learn of it"
}

// store makes the prepared phase the stored one.
func (a *Agent) store(token string) error {
	now := a.o.Now().UTC()
	prepared := a.rec.Phase.Prepared
	switch {
	case prepared == nil || !same(token, prepared.Token):
		return adminapi.NewProblem(adminapi.Conflict, "no step is prepared with this token; prepare it again")
	case !now.Before(prepared.Expires):
		return adminapi.NewProblem(adminapi.Conflict, "the step to %s was prepared until %s, which is over; nothing has changed, prepare it again", prepared.Phase, prepared.Expires.Format("15:04:05 MST"))
	}
	rec := a.rec
	if prepared.Phase != rec.Phase.Phase {
		rec.Phase.Previous, rec.Phase.Phase, rec.Phase.Since = rec.Phase.Phase, prepared.Phase, now
	}
	rec.Phase.Epoch++
	rec.Phase.Token, rec.Phase.Prepared = prepared.Token, nil
	backfill := ""
	if rec.Phase.Phase == phase.OriginOnly {
		if without := withoutMark(rec.Marks, adminapi.MarkBackfillDone); len(without) < len(rec.Marks) {
			rec.Marks, rec.MarksRevision = without, rec.MarksRevision+1
			backfill = "; the mark " + adminapi.MarkBackfillDone + " is removed, since Target misses writes from now on"
		}
	}
	if err := a.save(rec); err != nil {
		return err
	}
	a.note(adminapi.EventPhase, "stored phase %s, epoch %d%s%s", rec.Phase.Phase, rec.Phase.Epoch, forced(prepared.Reason), backfill)
	return nil
}

// abortStep gives the lease back.
func (a *Agent) abortStep(token string, answer reply[adminapi.Phase]) {
	prepared := a.prepared()
	switch {
	case same(token, a.rec.Phase.Token):
		answer.refuse(adminapi.NewProblem(adminapi.Conflict, "this step to %s is committed; take a step back instead", a.rec.Phase.Phase))
		return
	case prepared == nil:
		answer(a.nowPhase(), nil)
		return
	case !same(token, prepared.Token):
		answer.refuse(adminapi.NewProblem(adminapi.Conflict, "another step, to %s, is prepared until %s; abort it with its own token, or wait", prepared.Phase, prepared.Expires.Format("15:04:05 MST")))
		return
	}
	rec := a.rec
	rec.Phase.Prepared = nil
	if err := a.save(rec); err != nil {
		answer.refuse(err)
		return
	}
	a.note(adminapi.EventPhase, "gave up the step to %s", prepared.Phase)
	answer(a.nowPhase(), nil)
}

// nowPhase is Phase as the owner sees it now.
func (a *Agent) nowPhase() adminapi.Phase {
	a.publish()
	return a.Phase()
}

func phaseOf(v *view, now time.Time) adminapi.Phase {
	p := v.rec.Phase
	out := adminapi.Phase{Phase: p.Phase, Since: p.Since, Previous: p.Previous, Epoch: p.Epoch}
	if s := running(p, now); s != nil {
		out.Prepared = &adminapi.Prepared{Phase: s.Phase, Token: s.Token, Expires: s.Expires}
	}
	return out
}
