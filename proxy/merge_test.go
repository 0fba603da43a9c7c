package proxy

import (
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestMergePicksTheAnswerFromHowTheLegsEnded(t *testing.T) {
	t.Parallel()
	const (
		o = phase.Origin
		g = phase.Target
	)
	ok := outcome{result: succeeded}
	lostLeg, unsentLeg := outcome{result: lost}, outcome{result: unsent}
	refusal := func(c frame.ErrorCode) outcome { return outcome{refused, c} }
	write := statement{mutates: true, idempotent: true}
	counter := statement{mutates: true}
	tests := []struct {
		name   string
		answer phase.Side
		legs   [2]outcome // origin, target
		st     statement
		want   verdict
	}{
		{"both succeed: the primary answers", o, [2]outcome{ok, ok}, write, verdict{side: o, forward: true}},
		{"both succeed: the primary answers after the cut-over", g, [2]outcome{ok, ok}, write, verdict{side: g, forward: true}},
		{"target refuses: its error", o, [2]outcome{ok, refusal(frame.ErrInvalid)}, write,
			verdict{side: g, forward: true, partial: true, failed: phase.Of(g)}},
		{"origin refuses: its error, though target answers", g, [2]outcome{refusal(frame.ErrUnauthorized), ok}, write,
			verdict{side: o, forward: true, partial: true, failed: phase.Of(o)}},
		{"both refuse: the primary's error", g, [2]outcome{refusal(frame.ErrInvalid), refusal(frame.ErrSyntax)}, write,
			verdict{side: g, forward: true, failed: phase.Both}},
		{"target is lost: the proxy's error, outcome unknown", o, [2]outcome{ok, lostLeg}, write,
			verdict{side: g, partial: true, failed: phase.Of(g)}},
		{"nothing was sent anywhere", o, [2]outcome{{}, unsentLeg}, write,
			verdict{side: g, failed: phase.Of(g)}},
		{"target unsent, origin applied: outcome unknown", o, [2]outcome{ok, unsentLeg}, write,
			verdict{side: g, partial: true, failed: phase.Of(g)}},
		{"an idempotent write may be told a retriable error as it is", o, [2]outcome{ok, refusal(frame.ErrUnavailable)}, write,
			verdict{side: g, forward: true, partial: true, failed: phase.Of(g)}},
		{"a counter may not: drivers retry UNAVAILABLE unasked", o, [2]outcome{ok, refusal(frame.ErrUnavailable)}, counter,
			verdict{side: g, partial: true, failed: phase.Of(g)}},
		{"a counter that no side applied may", o, [2]outcome{refusal(frame.ErrUnavailable), refusal(frame.ErrOverloaded)}, counter,
			verdict{side: o, forward: true, failed: phase.Both}},
		{"a read of one side", g, [2]outcome{{}, ok}, statement{}, verdict{side: g, forward: true}},
		{"PREPARE of a read needs only the side that answers", o, [2]outcome{ok, refusal(frame.ErrInvalid)}, statement{lenient: true},
			verdict{side: o, forward: true}},
		{"PREPARE of a read that only target has", o, [2]outcome{refusal(frame.ErrInvalid), ok}, statement{lenient: true},
			verdict{side: g, forward: true}},
		{"PREPARE of a write needs both", o, [2]outcome{ok, refusal(frame.ErrInvalid)}, statement{},
			verdict{side: g, forward: true, failed: phase.Of(g)}},
	}
	for _, tt := range tests {
		if got := merge(tt.answer, tt.legs, tt.st); got != tt.want {
			t.Errorf("%s: merge(%s, %v, %+v) = %+v, want %+v", tt.name, tt.answer, tt.legs, tt.st, got, tt.want)
		}
	}
}

// Whatever the legs do, a success is told only if every side that takes part has
// said so, and an error that drivers retry unasked only if that is safe.
func TestMergeNeverTellsASuccessThatIsNotOne(t *testing.T) {
	t.Parallel()
	codes := []frame.ErrorCode{frame.ErrServer, frame.ErrOverloaded, frame.ErrUnavailable, frame.ErrIsBootstrapping, frame.ErrInvalid, frame.ErrWriteTimeout}
	var all []outcome
	for _, r := range []result{absent, succeeded, lost, unsent} {
		all = append(all, outcome{result: r})
	}
	for _, c := range codes {
		all = append(all, outcome{refused, c})
	}
	for _, a := range all {
		for _, b := range all {
			if a.result == absent && b.result == absent {
				continue
			}
			for _, answer := range phase.Sides {
				for _, idempotent := range []bool{true, false} {
					legs := [2]outcome{a, b}
					if legs[answer].result == absent {
						continue
					}
					v := merge(answer, legs, statement{mutates: true, idempotent: idempotent})
					allGood := a.result <= succeeded && b.result <= succeeded
					if success := v.forward && legs[v.side].result == succeeded; success != allGood {
						t.Errorf("merge(%s, %v): tells success %v", answer, legs, success)
					}
					maybeApplied := a.result == succeeded || a.result == lost || b.result == succeeded || b.result == lost
					if v.forward && !allGood && maybeApplied && !idempotent && retriedAnywhere(legs[v.side].code) {
						t.Errorf("merge(%s, %v): forwards %#x, which a driver retries, though a side may have applied it", answer, legs, legs[v.side].code)
					}
				}
			}
		}
	}
}
