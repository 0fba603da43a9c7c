package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Step is one instance going from one phase to another.
type Step struct {
	Instance string
	From, To phase.Phase
}

func (s Step) String() string { return fmt.Sprintf("%s: %s to %s", s.Instance, s.From, s.To) }

// Steps returns the round of steps that comes next on the way to want: all of
// them are prepared before the first is committed, and they are committed in
// their order. No steps and no error: all instances are there.
//
// Instances that are in two adjacent phases are in the middle of a step, which
// has to be finished, either way, before another begins. An instance without a
// phase, that serves nobody, joins its peers directly in the phase that they
// are in or go to, after them: to walk it there would open its client port in a
// phase that may be far from its peers', or whose cluster is gone. Phases that
// are not adjacent are never made here; they are told, and with a reason given
// (forced) the farthest instances go one step at a time until all agree.
func Steps(want phase.Phase, forced bool, at map[string]phase.Phase) ([]Step, error) {
	if want == phase.None {
		return nil, fmt.Errorf("no phase is wanted; give one of %s", strings.Join(phase.Names(), ", "))
	}
	lo, hi := span(at)
	names := slices.Sorted(maps.Keys(at))
	var steps []Step
	if lo != phase.None {
		if hi-lo > 1 && !forced {
			return nil, fmt.Errorf("the instances are in phases that are not adjacent (%s), which no step of ours leads to; "+
				"find out which writes the ones behind took, then set force_reason to bring them together step by step", Describe(at))
		}
		if hi != lo && (want < lo || want > hi) {
			return nil, fmt.Errorf("a step between %s and %s is not finished (%s); set phase to %s or %s first", lo, hi, Describe(at), lo, hi)
		}
		far := distance(want, lo)
		if d := distance(want, hi); d > far {
			far = d
		}
		for _, name := range names {
			from, to := at[name], want
			if from == phase.None || from == want {
				continue
			}
			if hi-lo > 1 && distance(want, from) != far {
				continue
			}
			if hi-lo > 1 { // walk
				to = from + 1
				if want < from {
					to = from - 1
				}
			}
			if err := phase.CheckMove(from, to, forced); err != nil {
				return nil, err
			}
			steps = append(steps, Step{name, from, to})
		}
		if hi-lo > 1 {
			return steps, nil // who has no phase joins when the others agree
		}
	}
	for _, name := range names {
		if at[name] != phase.None {
			continue
		}
		if lo == phase.None {
			if err := phase.CheckMove(phase.None, want, forced); err != nil {
				return nil, err
			}
		}
		steps = append(steps, Step{name, phase.None, want})
	}
	return steps, nil
}

// Journey is Steps until want is reached, as if every step succeeded.
func Journey(want phase.Phase, forced bool, at map[string]phase.Phase) ([]Step, error) {
	at = maps.Clone(at)
	var all []Step
	for {
		round, err := Steps(want, forced, at)
		if err != nil || len(round) == 0 {
			return all, err
		}
		for _, s := range round {
			at[s.Instance] = s.To
		}
		all = append(all, round...)
	}
}

// span returns the first and last phase of those that have one.
func span(at map[string]phase.Phase) (lo, hi phase.Phase) {
	for _, p := range at {
		if p == phase.None {
			continue
		}
		if lo == phase.None || p < lo {
			lo = p
		}
		hi = max(hi, p)
	}
	return lo, hi
}

func distance(a, b phase.Phase) int {
	if a < b {
		return int(b - a)
	}
	return int(a - b)
}

// Describe lists instances by phase: "a, b in dual_write; c in dual_read".
func Describe(at map[string]phase.Phase) string {
	by := map[phase.Phase][]string{}
	for _, name := range slices.Sorted(maps.Keys(at)) {
		by[at[name]] = append(by[at[name]], name)
	}
	var parts []string
	for _, p := range slices.Sorted(maps.Keys(by)) {
		text := "in " + p.String()
		if p == phase.None {
			text = "without a phase"
		}
		parts = append(parts, strings.Join(by[p], ", ")+" "+text)
	}
	return strings.Join(parts, "; ")
}

// Move is a phase change as far as this run has come.
type Move struct {
	Want phase.Phase
	// ForceReason allows the moves that lose something.
	ForceReason string
	// Holds are the prepared steps that this run has the tokens of.
	Holds map[string]Hold
	// Failed is the first refusal or silence; nil while all goes well.
	Failed *Failure
	// Committed: a commit was sent, so it can no longer be said that nothing
	// has changed.
	Committed bool
	// Now is when the views were made; leases of others are compared with it.
	Now time.Time
}

// Hold is one prepared step.
type Hold struct {
	Phase phase.Phase
	Token string
	// Expires is by this machine's clock.
	Expires time.Time
}

// Failure is why a run goes no further.
type Failure struct {
	Instance string
	// Phase is what a commit would have led to; None for other failures.
	Phase phase.Phase
	Err   error
}

// NextMove returns the next action of a phase change: Prepare, Commit, Abort,
// Wait, Done or Stop. Every instance has to answer and to prepare before one
// commits. At a refusal or silence what was prepared is aborted, and the run
// stops; the next one finishes a step that was begun.
func NextMove(m Move, views []View) Action {
	at := map[string]phase.Phase{}
	for _, v := range views {
		if v.Err == nil {
			at[v.Name] = v.Status.Phase.Phase
		}
	}
	if f := m.Failed; f != nil {
		// A commit whose answer was lost, and that happened, is no failure.
		if p, seen := at[f.Instance]; !seen || f.Phase == phase.None || p != f.Phase {
			return m.end(at, f.Instance, f.Err.Error())
		}
	}
	for _, v := range views {
		if v.Err != nil {
			return m.end(at, v.Name, "does not answer: "+v.Err.Error())
		}
	}
	steps, err := Steps(m.Want, m.ForceReason != "", at)
	if err != nil {
		return m.end(at, "", err.Error())
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(joins(a), joins(b)) })
	if a, found := m.stale(steps); found {
		return a
	}
	if len(steps) == 0 {
		return Action{Kind: Done}
	}
	for _, s := range steps {
		if _, held := m.Holds[s.Instance]; held {
			continue
		}
		if p := prepared(views, s.Instance); p != nil && m.Now.Before(p.Expires) {
			return wait(s.Instance, "is prepared for %s by another run until %s", p.Phase, p.Expires.Format(time.TimeOnly))
		}
		return Action{Kind: Prepare, Instance: s.Instance, Phase: s.To, Reason: m.reason(s, at)}
	}
	return Action{Kind: Commit, Instance: steps[0].Instance}
}

// end aborts what is prepared, one at a time, and then stops.
func (m *Move) end(at map[string]phase.Phase, instance, why string) Action {
	for _, name := range slices.Sorted(maps.Keys(m.Holds)) {
		return Action{Kind: Abort, Instance: name, Reason: why}
	}
	a := Action{Kind: Stop, Instance: instance, Reason: why, After: "nothing was changed"}
	if m.Committed {
		a.After = "now " + Describe(at) + "; apply again to finish the step"
	}
	return a
}

// stale aborts a hold that no step needs: one for another phase, or one whose
// lease is over, which would only be refused.
func (m *Move) stale(steps []Step) (Action, bool) {
	for _, name := range slices.Sorted(maps.Keys(m.Holds)) {
		h := m.Holds[name]
		needed := slices.ContainsFunc(steps, func(s Step) bool { return s.Instance == name && s.To == h.Phase })
		if !needed || !m.Now.Before(h.Expires) {
			return Action{Kind: Abort, Instance: name, Reason: "the prepared step is not needed any more"}, true
		}
	}
	return Action{}, false
}

// reason is what the agent is told: the operator's, or for one that joins its
// peers, that it does.
func (m *Move) reason(s Step, at map[string]phase.Phase) string {
	if m.ForceReason != "" || s.From != phase.None || s.To.Initial() {
		return m.ForceReason
	}
	return "joins its peers: " + Describe(at)
}

func joins(s Step) int {
	if s.From == phase.None {
		return 1
	}
	return 0
}

// prepared is the step that an instance holds for somebody.
func prepared(views []View, name string) *adminapi.Prepared {
	for _, v := range views {
		if v.Name == name {
			return v.Status.Phase.Prepared
		}
	}
	return nil
}
