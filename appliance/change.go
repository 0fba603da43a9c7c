package appliance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
)

// examine decides over a document before anything changes: whether it may be
// applied, or is in force already.
func (a *Agent) examine(in adminapi.Config, doc *store.Document, ifMatch uint64) (equal bool, err error) {
	committed := a.rec.Committed
	if committed != nil && doc.ClusterID != committed.ClusterID {
		return false, adminapi.NewProblem(adminapi.Conflict, "this instance belongs to cluster %q, not %q; use its own cluster, or begin with an empty state folder", committed.ClusterID, doc.ClusterID)
	}
	if err := a.free(); err != nil {
		return false, err
	}
	// A repeated PUT whose first answer was lost has a stale If-Match and is a
	// success all the same (RFC 9110, 13.1.1 allows it).
	if doc.Equal(committed) {
		return true, nil
	}
	if generation := generationOf(committed); ifMatch != generation {
		return false, adminapi.NewProblem(adminapi.Stale, "generation is %d, the request was for %d; read it again and decide anew", generation, ifMatch)
	}
	if err := a.unprepared(); err != nil {
		return false, err
	}
	return false, check(in, doc)
}

// checkConfig says what putConfig would do.
func (a *Agent) checkConfig(in adminapi.Config, ifMatch uint64, answer reply[adminapi.Config]) {
	equal, err := a.examine(in, a.document(in), ifMatch)
	if err != nil {
		answer.refuse(err)
		return
	}
	out := a.nowConfig()
	switch {
	case equal:
		out.Applied = adminapi.Unchanged
	case a.hot(a.document(in)):
		out.Applied = adminapi.Hot
	default:
		out.Applied = adminapi.Replaced
	}
	answer(out, nil)
}

// hot reports whether the running process can take a document.
func (a *Agent) hot(doc *store.Document) bool {
	p, committed := a.current, a.rec.Committed
	return p != nil && a.rise == nil && committed != nil && p.generation == committed.Generation &&
		doc.Instance == committed.Instance && maps.EqualFunc(doc.Secrets, committed.Secrets, secret.String.Equal) &&
		config.OnlyHot(committed.Settings, doc.Settings)
}

// takeHot has the running process take doc.
func (a *Agent) takeHot(doc *store.Document, commit func() error, done func(error)) {
	p, before := a.current, a.rec.Committed
	a.busy = fmt.Sprintf("generation %d is being applied", doc.Generation)
	a.task(func(ctx context.Context) func() {
		// The end of the agent does not interrupt it: the process would run what nobody
		// knows of.
		ctx = context.WithoutCancel(ctx)
		err := p.configure(ctx, doc)
		return func() {
			if err == nil {
				if err = commit(); err != nil {
					a.takeBack(p, before)
				} else {
					p.generation = doc.Generation
				}
			}
			a.busy = ""
			done(err)
		}
	})
}

// takeBack has a process run what it ran before.
func (a *Agent) takeBack(p *proxy, before *store.Document) {
	a.task(func(ctx context.Context) func() {
		err := p.configure(context.WithoutCancel(ctx), before)
		return func() {
			if err != nil {
				a.report("take generation %d again: %v", before.Generation, err)
			}
		}
	})
}

// putConfig is the transaction of the package comment.
func (a *Agent) putConfig(in adminapi.Config, ifMatch uint64, answer reply[adminapi.Config]) {
	doc, committed := a.document(in), a.rec.Committed
	done := func(how adminapi.Applied) {
		out := a.nowConfig()
		out.Applied = how
		answer(out, nil)
	}
	equal, err := a.examine(in, doc, ifMatch)
	switch {
	case err != nil:
		answer.refuse(err)
		return
	case equal:
		done(adminapi.Unchanged)
		return
	}

	rec := a.rec
	rec.LastGeneration++
	doc.Generation = rec.LastGeneration
	rec.Wanted = doc
	if err := a.save(rec); err != nil {
		answer.refuse(err)
		return
	}
	a.note(adminapi.EventConfig, "applying generation %d", doc.Generation)
	commit := func() error {
		rec := a.rec
		rec.Committed, rec.Wanted = doc, nil
		return a.save(rec)
	}
	how := adminapi.Replaced
	apply := func(done func(error)) {
		a.replace(doc, fmt.Sprintf("generation %d is being applied", doc.Generation), commit, done)
	}
	if a.hot(doc) {
		replace := apply
		apply = func(done func(error)) {
			a.takeHot(doc, commit, func(err error) {
				// An older program takes nothing while it serves.
				if refused := (*control.Error)(nil); errors.As(err, &refused) {
					replace(done)
					return
				}
				how = adminapi.Hot
				done(err)
			})
		}
	}
	apply(func(err error) {
		if err == nil {
			a.note(adminapi.EventConfig, "generation %d is in force", doc.Generation)
			done(how)
			return
		}
		rec := a.rec
		rec.Wanted = nil
		if back := a.save(rec); back != nil {
			// The store still says wanted, which the next save, or start, gives up.
			a.rec.Wanted = nil
			err = errors.Join(err, fmt.Errorf("going back to generation %d: %w", generationOf(committed), back))
		}
		a.report("generation %d was not applied: %v", doc.Generation, err)
		answer.refuse(failed(err, keeps(committed)))
	})
}

func keeps(committed *store.Document) string {
	if committed == nil {
		return "the instance has no configuration, as before; correct the cause and send the document again"
	}
	return fmt.Sprintf("generation %d runs on; correct the cause and send the document again", committed.Generation)
}

func generationOf(d *store.Document) uint64 {
	if d == nil {
		return 0
	}
	return d.Generation
}

// document is what a request asks for, with the secrets that it keeps.
func (a *Agent) document(in adminapi.Config) *store.Document {
	doc := &store.Document{ClusterID: in.ClusterID, Instance: in.Instance, Settings: maps.Clone(in.Settings), Secrets: map[string]secret.String{}}
	if doc.Settings == nil {
		doc.Settings = map[string]string{}
	}
	if a.rec.Committed != nil {
		maps.Copy(doc.Secrets, a.rec.Committed.Secrets)
	}
	for name, text := range in.Secrets {
		if text == "" {
			delete(doc.Secrets, name)
		} else {
			doc.Secrets[name] = secret.New(text)
		}
	}
	return doc
}

// byPhase are the settings that a phase decides; under an agent they would
// contradict it.
var byPhase = []string{"phase", "primary_cluster", "read_mode"}

// maxName bounds cluster ids and instance names: they are shown and compared.
const maxName = 128

// check returns every problem at once, as a *config.Error.
func check(in adminapi.Config, doc *store.Document) error {
	var problems []string
	for _, name := range []struct{ key, text string }{{"cluster_id", doc.ClusterID}, {"instance", doc.Instance}} {
		switch {
		case name.text == "":
			problems = append(problems, name.key+": is empty; give one")
		case len(name.text) > maxName || strings.ContainsFunc(name.text, func(r rune) bool { return r < ' ' || r == 0x7f }):
			problems = append(problems, fmt.Sprintf("%s: is longer than %d bytes or has control characters; give a plain one", name.key, maxName))
		}
	}
	secrets := map[string]bool{}
	for _, s := range config.Settings() {
		secrets[s.Key()] = s.Secret
	}
	values := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(doc.Settings)) {
		switch {
		case slices.Contains(byPhase, key):
			problems = append(problems, key+": the phase is a document of its own; leave it out, and use POST "+adminapi.PathPhasePrepare)
		case secrets[key]:
			problems = append(problems, key+": is a secret; put it under secrets")
		default:
			values[key] = doc.Settings[key]
		}
	}
	for _, key := range slices.Sorted(maps.Keys(in.Secrets)) {
		if isSecret, known := secrets[key]; known && !isSecret {
			problems = append(problems, key+": is not a secret; put it under settings")
		}
	}
	for key, value := range doc.Secrets {
		if isSecret, known := secrets[key]; isSecret || !known {
			values[key] = value.Reveal()
		}
	}
	_, err := config.Parse(values)
	var invalid *config.Error
	switch {
	case errors.As(err, &invalid):
		problems = append(problems, invalid.Problems...)
	case err != nil:
		return err
	}
	if len(problems) == 0 {
		return nil
	}
	return &config.Error{Problems: problems}
}

// nowConfig is Config as the owner sees it now.
func (a *Agent) nowConfig() adminapi.Config {
	a.publish()
	return a.Config()
}

func configOf(v *view) adminapi.Config {
	out := adminapi.Config{Settings: map[string]string{}, Running: v.running}
	doc := v.rec.Committed
	if v.rec.Wanted != nil {
		doc = v.rec.Wanted
	}
	if doc != nil {
		out.ClusterID, out.Instance, out.Generation = doc.ClusterID, doc.Instance, doc.Generation
		out.Settings, out.Secrets = doc.Settings, map[string]string{}
		for name, value := range doc.Secrets {
			out.Secrets[name] = value.Digest(v.rec.Salt)
		}
	}
	return out
}

// restart replaces the process by one with the same configuration.
func (a *Agent) restart(reason string, answer reply[struct{}]) {
	doc := a.rec.Committed
	if doc == nil {
		answer.refuse(adminapi.NewProblem(adminapi.NotReady, "the instance is locked: it has no configuration to run; PUT one to %s", adminapi.PathConfig))
		return
	}
	if err := cmp.Or(a.free(), a.unprepared()); err != nil {
		answer.refuse(err)
		return
	}
	a.note(adminapi.EventProcess, "restarting generation %d; reason: %q", doc.Generation, reason)
	a.replace(doc, "the proxy is being restarted", func() error { return nil }, func(err error) {
		if err != nil {
			a.report("restart: %v", err)
			answer.refuse(failed(err, "the process that ran before runs on; correct the cause and restart again"))
			return
		}
		a.publish()
		answer(struct{}{}, nil)
	})
}

// replace starts a process with doc and, once it is ready, hands over to it.
// commit is called when it serves; done when all is over, where an error means
// that current is what it was.
func (a *Agent) replace(doc *store.Document, busy string, commit func() error, done func(error)) {
	next, err := a.startProcess(false)
	if err != nil {
		done(err)
		return
	}
	next.generation = doc.Generation
	a.busy = busy
	g := a.goalOf(doc)
	a.task(func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, a.o.ReadyTimeout)
		defer cancel()
		err := next.lift(ctx, g)
		return func() {
			if err == nil && a.stopping {
				err = errors.New("the agent is ending")
			}
			if err != nil {
				a.kill(next)
				a.busy = ""
				done(err)
				return
			}
			a.handOver(next, g, commit, done)
		}
	})
}

// handOver gives the clients to next. From here on the end of the agent is
// waited with: there are a few seconds at most.
func (a *Agent) handOver(next *proxy, g goal, commit func() error, done func(error)) {
	old, rising := a.current, a.rise != nil
	a.stopRise()
	a.handing = true
	takeOver := old != nil && old.serving
	if !takeOver && g.open {
		a.current = nil // giveSockets ends it, which is no crash
	}
	before := a.current
	a.task(func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOverTimeout)
		defer cancel()
		err := a.giveSockets(ctx, old, next, g, takeOver)
		return func() {
			switch {
			case err != nil:
				a.kill(next)
			default:
				next.epoch, next.serving = g.epoch, g.open
				a.current = next
				if err = commit(); err != nil {
					a.current = before
					if before != nil {
						next.successor = before.Socket()
					}
					a.retire(next)
				}
			}
			if err != nil {
				a.handedOver(before, rising, func() { done(err) })
				return
			}
			a.riseError, a.fellBack = "", false
			a.prove(next)
			a.backoff.Reset()
			a.note(adminapi.EventProcess, "%s has taken over with generation %d", next, next.generation)
			a.releaseOld(old, func() { a.handedOver(before, rising, func() { done(nil) }) })
		}
	})
}

// handedOver ends a change, well or not.
func (a *Agent) handedOver(before *proxy, rising bool, done func()) {
	a.busy, a.handing = "", false
	if a.current != nil && ended(a.current) {
		a.crashed()
	}
	done()
	if a.stopping {
		a.leave()
	} else if a.riseTimer == nil && (a.current == nil || (a.current == before && rising)) {
		a.raise()
	}
}

// releaseOld ends the process that has been replaced. told is called when it
// takes no clients any more, which is before it has ended.
func (a *Agent) releaseOld(old *proxy, told func()) {
	switch {
	case old == nil || ended(old):
		told()
	case !old.serving:
		a.kill(old)
		told()
	default:
		old.successor = a.current.Socket()
		a.task(func(ctx context.Context) func() {
			// An error shows again, and is dealt with, when it is retired.
			_ = old.drain(context.WithoutCancel(ctx), a.o.DrainTimeout)
			return func() {
				told()
				a.retire(old)
			}
		})
	}
}

func ended(p *proxy) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// giveSockets has next open its ports. One that was on its way to serve would be
// in between, so it is ended first; it has no clients.
func (a *Agent) giveSockets(ctx context.Context, old, next *proxy, g goal, takeOver bool) error {
	if old != nil && !takeOver && g.open {
		a.kill(old)
		select {
		case <-old.Done():
		case <-ctx.Done():
			return fmt.Errorf("%s does not end", old)
		}
	}
	if !g.open {
		return nil
	}
	if takeOver {
		err := next.serve(ctx, old.Socket())
		if err == nil {
			return nil
		}
		if !ended(old) {
			return fmt.Errorf("take the sockets over from %s: %w", old, err)
		}
	}
	if err := next.serve(ctx, ""); err != nil {
		return fmt.Errorf("open the client port of %s: %w", next, err)
	}
	return nil
}
