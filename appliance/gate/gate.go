package gate

import (
	"fmt"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/rollout"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Check returns the gates that are closed for a step of all instances to want.
// A step that some instances have taken already is not asked again, since two
// phases side by side should not last; neither is a step back, which is the way
// out of trouble, but for Instances. An instance that joins its peers takes no
// step. All views must be of instances that answer.
func Check(rules Rules, want phase.Phase, views []rollout.View, now time.Time) []Refusal {
	from, begins := begun(want, views)
	if !begins {
		return nil
	}
	out := instances(views)
	if want < from {
		return out
	}
	if want.Rule().Writes == phase.Both {
		if rules.SchemaSettled {
			out = append(out, schema(views)...)
		}
		if rules.ClockSkew > 0 {
			out = append(out, clocks(rules.ClockSkew, views)...)
		}
	}
	if rules.WritesClean > 0 && from >= phase.DualWrite {
		for _, v := range stepping(views) {
			out = append(out, writes(rules.WritesClean, v, now)...)
		}
	}
	if rules.ReadsClean > 0 && want == phase.CutOver {
		out = append(out, reads(rules.ReadsClean, views, now)...)
	}
	if rules.BackfillDone && want >= phase.CutOver {
		for _, v := range stepping(views) {
			if mark(v, adminapi.MarkBackfillDone) == nil {
				out = append(out, Refusal{BackfillDone, v.Name, "has no mark " + adminapi.MarkBackfillDone,
					"when the rows from before dual writes are on Target and were compared, set it: zdm-appliance mark " + adminapi.MarkBackfillDone + " -reason \"...\""})
			}
		}
	}
	return out
}

// begun says from which phase a step to want would be begun; false if none
// would, or if it was begun before.
func begun(want phase.Phase, views []rollout.View) (from phase.Phase, begins bool) {
	for _, v := range views {
		switch p := v.Status.Phase.Phase; p {
		case want:
			return p, false
		case phase.None:
		default:
			from = p
		}
	}
	return from, len(views) > 0
}

// stepping are the views of those that have a phase; all, if none has.
func stepping(views []rollout.View) []rollout.View {
	var out []rollout.View
	for _, v := range views {
		if v.Status.Phase.Phase != phase.None {
			out = append(out, v)
		}
	}
	if len(out) == 0 {
		return views
	}
	return out
}

// instances have to run what they want, and to be ready. Each counts its own
// generations, so that those of two instances say nothing of each other: the
// documents of a cluster are compared when it is planned.
func instances(views []rollout.View) []Refusal {
	var out []Refusal
	for _, v := range stepping(views) {
		s := &v.Status
		switch {
		case s.Running != s.Generation:
			out = append(out, Refusal{Instances, v.Name, fmt.Sprintf("runs generation %d and wants %d", s.Running, s.Generation),
				"wait until its change has ended, or see its events"})
		case !s.Ready && s.Drain == nil: // a drained one serves nobody, and takes steps
			out = append(out, Refusal{Instances, v.Name, "is not ready: " + strings.Join(s.NotReady, ", "), "mend that"})
		}
	}
	return out
}

// schema compares what the proxies see of one cluster. Versions of two clusters
// are never equal, since they are digests over the ids of the tables too.
func schema(views []rollout.View) []Refusal {
	var out []Refusal
	for _, side := range phase.Sides {
		var first, by string
		for _, v := range stepping(views) {
			switch version := cluster(v, side).SchemaVersion; {
			case version == "":
				out = append(out, Refusal{SchemaSettled, v.Name, side.String() + " has told it no schema version", "wait until it is connected"})
			case first == "":
				first, by = version, v.Name
			case version != first:
				out = append(out, Refusal{SchemaSettled, v.Name, fmt.Sprintf("sees schema %s of %s, and %s sees %s", version, side, by, first),
					"wait until the schema change has reached all nodes, then apply again"})
			}
		}
	}
	return out
}

// clocks compares both clusters with the machine of each proxy, at their worst.
func clocks(bound time.Duration, views []rollout.View) []Refusal {
	var out []Refusal
	for _, v := range stepping(views) {
		for _, side := range phase.Sides {
			c := cluster(v, side).Clock
			if c == nil {
				out = append(out, Refusal{ClockSkew, v.Name, "the clock of " + side.String() + " was not measured yet", "wait until it is connected"})
				continue
			}
			worst := max(c.AheadSeconds, -c.AheadSeconds) + c.UncertaintySeconds
			if worst > bound.Seconds() {
				out = append(out, Refusal{ClockSkew, v.Name,
					fmt.Sprintf("node %s of %s is %+.1f ms from its clock, give or take %.1f ms; at most %d ms are allowed", c.Node, side, c.AheadSeconds*1000, c.UncertaintySeconds*1000, bound.Milliseconds()),
					"set the clocks right (NTP) on the nodes and the machine of the proxy"})
			}
		}
	}
	return out
}

// writes have to be clean since the later of length ago and the mark that
// answers for what failed before.
func writes(length time.Duration, v rollout.View, now time.Time) []Refusal {
	since, answered := now.Add(-length), false
	if m := mark(v, adminapi.MarkWritesCleanSince); m != nil && m.Time.After(since) {
		since, answered = m.Time, true
	}
	again := "find out which rows differ, mend them, and say so: zdm-appliance mark " + adminapi.MarkWritesCleanSince + " -reason \"...\""
	r := &v.Status.Recent
	for _, side := range phase.Sides {
		if t := traffic(r, side); !t.LastFailedWrite.Before(since) {
			return []Refusal{{WritesClean, v.Name, fmt.Sprintf("a write failed on %s at %s, after %s", side, text(t.LastFailedWrite), text(since)), again}}
		}
	}
	if answered {
		return early(WritesClean, v, since, 0)
	}
	return early(WritesClean, v, since, length)
}

// reads counts the copies too: without any, that none failed is no evidence.
func reads(length time.Duration, views []rollout.View, now time.Time) []Refusal {
	var out []Refusal
	var copies uint64
	since := now.Add(-length)
	for _, v := range stepping(views) {
		t := &v.Status.Recent.Target
		copies += max(t.Copies, cluster(v, phase.Target).Traffic.Copies)
		if !t.LastFailedCopy.Before(since) {
			out = append(out, Refusal{ReadsClean, v.Name, fmt.Sprintf("a copy of a read failed on target at %s, after %s", text(t.LastFailedCopy), text(since)),
				"see last_errors of its status, mend it, and wait until " + text(t.LastFailedCopy.Add(length))})
			continue
		}
		out = append(out, early(ReadsClean, v, since, length)...)
	}
	if copies == 0 {
		out = append(out, Refusal{ReadsClean, "", "no read was copied to target yet", "let the application read in dual_read"})
	}
	return out
}

// early refuses to speak of a time in which nobody watched, or in which the
// first phase that shows it had not begun. length is 0 if only a mark bounds it.
func early(name Name, v rollout.View, since time.Time, length time.Duration) []Refusal {
	watched, why := v.Status.Recent.WatchedSince, "its agent has watched since"
	if p := v.Status.Phase; length > 0 && p.Since.After(watched) && shows(name, p.Phase) {
		watched, why = p.Since, "it has been in "+p.Phase.String()+" since"
	}
	if !watched.After(since) {
		return nil
	}
	way := "set the mark again"
	if length > 0 {
		way = "wait until " + text(watched.Add(length))
	}
	return []Refusal{{name, v.Name, fmt.Sprintf("%s %s only, not since %s", why, text(watched), text(since)), way}}
}

// shows reports whether p is the first phase in which what a gate counts happens.
func shows(name Name, p phase.Phase) bool {
	return name == WritesClean && p == phase.DualWrite || name == ReadsClean && p == phase.DualRead
}

func text(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func mark(v rollout.View, name string) *adminapi.Mark {
	for i := range v.Status.Marks {
		if v.Status.Marks[i].Name == name {
			return &v.Status.Marks[i]
		}
	}
	return nil
}

func traffic(r *adminapi.Recent, side phase.Side) *control.Traffic {
	if side == phase.Origin {
		return &r.Origin
	}
	return &r.Target
}

// cluster is empty while no process runs.
func cluster(v rollout.View, side phase.Side) control.Cluster {
	switch p := v.Status.Proxy; {
	case p == nil:
		return control.Cluster{}
	case side == phase.Origin:
		return p.Origin
	default:
		return p.Target
	}
}
