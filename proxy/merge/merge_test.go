package merge

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
	ok := Outcome{Result: Succeeded}
	lostLeg, unsentLeg := Outcome{Result: Lost}, Outcome{Result: Unsent}
	refusal := func(c frame.ErrorCode) Outcome { return Outcome{Result: Refused, Code: c} }
	batchLog := Outcome{Result: Refused, Code: frame.ErrWriteTimeout, BatchLog: true}
	write := Statement{Mutates: true, Idempotent: true}
	counter := Statement{Mutates: true}
	tests := []struct {
		name   string
		answer phase.Side
		legs   [2]Outcome // origin, target
		st     Statement
		want   Verdict
	}{
		{"both succeed: the primary answers", o, [2]Outcome{ok, ok}, write, Verdict{Side: o, Forward: true}},
		{"both succeed: the primary answers after the cut-over", g, [2]Outcome{ok, ok}, write, Verdict{Side: g, Forward: true}},
		{"target refuses: its error", o, [2]Outcome{ok, refusal(frame.ErrInvalid)}, write,
			Verdict{Side: g, Forward: true, Partial: true, Failed: phase.Of(g)}},
		{"origin refuses: its error, though target answers", g, [2]Outcome{refusal(frame.ErrUnauthorized), ok}, write,
			Verdict{Side: o, Forward: true, Partial: true, Failed: phase.Of(o)}},
		{"both refuse: the primary's error", g, [2]Outcome{refusal(frame.ErrInvalid), refusal(frame.ErrSyntax)}, write,
			Verdict{Side: g, Forward: true, Failed: phase.Both}},
		{"target is lost: the proxy's error, outcome unknown", o, [2]Outcome{ok, lostLeg}, write,
			Verdict{Side: g, Partial: true, Failed: phase.Of(g)}},
		{"nothing was sent anywhere", o, [2]Outcome{{}, unsentLeg}, write,
			Verdict{Side: g, Failed: phase.Of(g)}},
		{"target unsent, origin applied: outcome unknown", o, [2]Outcome{ok, unsentLeg}, write,
			Verdict{Side: g, Partial: true, Failed: phase.Of(g)}},
		{"an idempotent write may be told a retriable error as it is", o, [2]Outcome{ok, refusal(frame.ErrUnavailable)}, write,
			Verdict{Side: g, Forward: true, Partial: true, Failed: phase.Of(g)}},
		{"a counter may not: drivers retry UNAVAILABLE unasked", o, [2]Outcome{ok, refusal(frame.ErrUnavailable)}, counter,
			Verdict{Side: g, Partial: true, Failed: phase.Of(g)}},
		{"a counter that no side applied may", o, [2]Outcome{refusal(frame.ErrUnavailable), refusal(frame.ErrOverloaded)}, counter,
			Verdict{Side: o, Forward: true, Failed: phase.Both}},
		{"a counter that one side may have applied though both refuse", o, [2]Outcome{refusal(frame.ErrUnavailable), refusal(frame.ErrWriteTimeout)}, counter,
			Verdict{Side: o, Partial: true, Failed: phase.Both}},
		{"a batch log that timed out is retried unasked too", o, [2]Outcome{ok, batchLog}, counter,
			Verdict{Side: g, Partial: true, Failed: phase.Of(g)}},
		{"a batch log that timed out on both sides", o, [2]Outcome{batchLog, batchLog}, counter,
			Verdict{Side: o, Forward: true, Failed: phase.Both}},
		{"a read of one side", g, [2]Outcome{{}, ok}, Statement{}, Verdict{Side: g, Forward: true}},
		{"PREPARE of a read needs only the side that answers", o, [2]Outcome{ok, refusal(frame.ErrInvalid)}, Statement{Lenient: true},
			Verdict{Side: o, Forward: true}},
		{"PREPARE of a read that only target has", o, [2]Outcome{refusal(frame.ErrInvalid), ok}, Statement{Lenient: true},
			Verdict{Side: g, Forward: true}},
		{"PREPARE of a write needs both", o, [2]Outcome{ok, refusal(frame.ErrInvalid)}, Statement{},
			Verdict{Side: g, Forward: true, Failed: phase.Of(g)}},
	}
	for _, tt := range tests {
		if got := Decide(tt.answer, tt.legs, tt.st); got != tt.want {
			t.Errorf("%s: Decide(%s, %v, %+v) = %+v, want %+v", tt.name, tt.answer, tt.legs, tt.st, got, tt.want)
		}
	}
}

// Whatever the legs do, a success is told only if every side that takes part has
// said so, and an error that drivers retry unasked only if that is safe.
func TestMergeNeverTellsASuccessThatIsNotOne(t *testing.T) {
	t.Parallel()
	codes := []frame.ErrorCode{frame.ErrCASWriteUnknown, frame.ErrTruncate, frame.ErrWriteFailure, frame.ErrServer, frame.ErrOverloaded, frame.ErrUnavailable, frame.ErrIsBootstrapping, frame.ErrInvalid, frame.ErrReadTimeout, frame.ErrWriteTimeout}
	var all []Outcome
	for _, r := range []Result{Absent, Succeeded, Lost, Unsent} {
		all = append(all, Outcome{Result: r})
	}
	for _, c := range codes {
		all = append(all, Outcome{Result: Refused, Code: c})
	}
	for _, a := range all {
		for _, b := range all {
			if a.Result == Absent && b.Result == Absent {
				continue
			}
			for _, answer := range phase.Sides {
				for _, idempotent := range []bool{true, false} {
					legs := [2]Outcome{a, b}
					if legs[answer].Result == Absent {
						continue
					}
					v := Decide(answer, legs, Statement{Mutates: true, Idempotent: idempotent})
					allGood := a.Result <= Succeeded && b.Result <= Succeeded
					if success := v.Forward && legs[v.Side].Result == Succeeded; success != allGood {
						t.Errorf("Decide(%s, %v): tells success %v", answer, legs, success)
					}
					maybeApplied := a.mayBeApplied() || b.mayBeApplied()
					if v.Forward && !allGood && maybeApplied && !idempotent && legs[v.Side].retriedUnasked() {
						t.Errorf("Decide(%s, %v): forwards %#x, which a driver retries, though a side may have applied it", answer, legs, legs[v.Side].Code)
					}
				}
			}
		}
	}
}
