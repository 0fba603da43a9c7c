// Package merge turns the outcomes of a request's legs into its one answer: whose
// frame goes to the client, or else which error says what is known.
//
// Floor 3: pure. It knows no sessions and no connections, of proxy/upstream only
// the errors. It starts no goroutine.
package merge

import (
	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Result is how one leg of a request ended.
type Result uint8

// The results. Those after Succeeded are failures.
const (
	// Absent: the side took no part.
	Absent Result = iota
	// Succeeded: the node answered, and not with ERROR.
	Succeeded
	// Refused: the node answered with ERROR.
	Refused
	// Lost: no answer, and the node may have got the request.
	Lost
	// Unsent: no answer, and no byte of the request left this process.
	Unsent
)

// Outcome is a leg's result with what only Refused has.
type Outcome struct {
	Result Result
	Code   frame.ErrorCode
	// BatchLog: Code is WRITE_TIMEOUT of type BATCH_LOG, so nothing was applied.
	BatchLog bool
}

// mayBeApplied reports whether the side may have the write.
func (o Outcome) mayBeApplied() bool {
	switch o.Result {
	case Succeeded, Lost:
		return true
	case Refused:
		return o.Code == frame.ErrWriteFailure || o.Code == frame.ErrCASWriteUnknown ||
			o.Code == frame.ErrWriteTimeout && !o.BatchLog
	}
	return false
}

// Verdict is what the client is told.
type Verdict struct {
	// Side is the one whose answer it gets, or whose loss it is told of.
	Side phase.Side
	// Forward: the side's own answer goes to the client as it is. Otherwise the
	// proxy makes an error for the loss on that side.
	Forward bool
	// Partial: the proxy's error must say that the outcome is unknown, since
	// some node may have applied the request.
	Partial bool
	// Failed is the sides that did not succeed; empty for a success.
	Failed phase.Set
}

// Statement is what decides about a request besides its legs.
type Statement struct {
	// Mutates: it is no read, so that applying it twice may matter.
	Mutates bool
	// Idempotent: applying it twice is as once.
	Idempotent bool
	// Lenient: a success of the answering side is enough (a PREPARE of a read:
	// the other side may not have the table).
	Lenient bool
	// CAS, Counter and Unlogged say which kind of write a time-out is told for.
	CAS, Counter, Unlogged bool
	// Inert: nothing can be applied, though it is no read (PREPARE, USE).
	Inert bool
}

// Decide picks the answer from how the legs, by side, ended. Success needs all
// legs; a failure is told as the failed side told it, and as the answering side
// told it if both failed.
//
// One case is told otherwise. A driver tries SERVER_ERROR, OVERLOADED,
// UNAVAILABLE, IS_BOOTSTRAPPING, TRUNCATE_ERROR (Python) and a time-out of a read (a node
// may tell one for the PREPARE on the way to a write) or of the batch log again without
// asking whether that is safe. If one side refused with such an error what the
// other side may have applied, and applying it twice is not the same as once, the
// answer is another write time-out instead, which no driver retries for such a
// statement.
func Decide(answer phase.Side, legs [2]Outcome, st Statement) Verdict {
	v := Verdict{Side: answer}
	applied := false
	for _, s := range phase.Sides {
		applied = applied || legs[s].mayBeApplied()
		if legs[s].Result > Succeeded {
			v.Failed |= phase.Of(s)
		}
	}
	switch {
	case v.Failed == 0:
		v.Forward = true
		return v
	case st.Lenient && legs[answer].Result == Succeeded:
		return Verdict{Side: answer, Forward: true}
	case st.Lenient && legs[answer.Other()].Result == Succeeded:
		return Verdict{Side: answer.Other(), Forward: true}
	case !v.Failed.Has(answer):
		v.Side = answer.Other()
	case v.Failed == phase.Both && legs[answer].Result == Unsent && legs[answer.Other()].Result != Unsent:
		// The other side's word says more than "no connection" does.
		v.Side = answer.Other()
	}
	bad := legs[v.Side]
	v.Forward = bad.Result == Refused
	v.Partial = st.Mutates && applied
	if v.Forward && v.Partial && !st.Idempotent && bad.retriedUnasked() {
		v.Forward = false
	}
	return v
}

// retriedUnasked tells the errors that drivers take to mean "not applied".
func (o Outcome) retriedUnasked() bool {
	switch o.Code {
	case frame.ErrServer, frame.ErrOverloaded, frame.ErrUnavailable, frame.ErrIsBootstrapping, frame.ErrTruncate, frame.ErrReadTimeout:
		return true
	}
	return o.BatchLog
}
