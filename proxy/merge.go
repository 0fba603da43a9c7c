package proxy

import (
	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// result is how one leg of a request ended.
type result uint8

const (
	// absent: the side took no part.
	absent result = iota
	// succeeded: the node answered, and not with ERROR.
	succeeded
	// refused: the node answered with ERROR.
	refused
	// lost: no answer, and the node may have got the request.
	lost
	// unsent: no answer, and no byte of the request left this process.
	unsent
)

// outcome is a leg's result with the error code, which only refused has.
type outcome struct {
	result result
	code   frame.ErrorCode
}

// verdict is what the client is told.
type verdict struct {
	// side is the one whose answer it gets, or whose loss it is told of.
	side phase.Side
	// forward: the side's own answer goes to the client as it is. Otherwise the
	// proxy makes an error for the loss on that side.
	forward bool
	// partial: the proxy's error must say that the outcome is unknown, since
	// some node may have applied the request.
	partial bool
	// failed is the sides that did not succeed; empty for a success.
	failed phase.Set
}

// statement is what merge needs to know of a request.
type statement struct {
	// mutates: it is no read, so that applying it twice may matter.
	mutates bool
	// idempotent: applying it twice is as once.
	idempotent bool
	// lenient: a success of the answering side is enough (a PREPARE of a read:
	// the other side may not have the table).
	lenient bool
}

// merge picks the answer from how the legs ended. Success needs all legs; a
// failure is told as the failed side told it, and as the answering side told
// it if both failed.
//
// One case is told otherwise. A driver tries SERVER_ERROR, OVERLOADED,
// UNAVAILABLE and IS_BOOTSTRAPPING again on another host without asking whether
// that is safe. If one side refused with such an error what the other side may
// have applied, and applying it twice is not the same as once, the answer is a
// write time-out instead, which no driver retries for such a statement.
func merge(answer phase.Side, legs [2]outcome, st statement) verdict {
	var v verdict
	applied := false
	for _, s := range phase.Sides {
		switch legs[s].result {
		case succeeded, lost:
			applied = true
		}
		if legs[s].result > succeeded {
			v.failed |= phase.Of(s)
		}
	}
	v.side = answer
	switch {
	case v.failed == 0:
		v.forward = true
		return v
	case st.lenient && legs[answer].result == succeeded:
		return verdict{side: answer, forward: true}
	case st.lenient && legs[answer.Other()].result == succeeded:
		return verdict{side: answer.Other(), forward: true}
	case !v.failed.Has(answer):
		v.side = answer.Other()
	case v.failed == phase.Both && legs[answer].result == unsent && legs[answer.Other()].result != unsent:
		// The other side's word says more than "no connection" does.
		v.side = answer.Other()
	}
	bad := legs[v.side]
	v.forward = bad.result == refused
	v.partial = st.mutates && applied
	if v.forward && v.partial && !st.idempotent && retriedAnywhere(bad.code) {
		v.forward = false
	}
	return v
}

// retriedAnywhere tells the errors that drivers take to mean "not applied".
func retriedAnywhere(code frame.ErrorCode) bool {
	switch code {
	case frame.ErrServer, frame.ErrOverloaded, frame.ErrUnavailable, frame.ErrIsBootstrapping:
		return true
	}
	return false
}
