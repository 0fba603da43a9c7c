package merge

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// LossError makes the CQL error for a request that has no answer, at the
// consistency that it asked for. It is the one place that maps errors of our
// own to codes.
//
//	what                                    error                    why
//	write, some node may have it            WRITE_TIMEOUT            retried only if the application says it is idempotent
//	read, a node has it                     READ_TIMEOUT             received 0 of 1: no driver retries it on its own
//	nothing was sent, no node is reachable  UNAVAILABLE, alive 0     drivers go to another host
//	nothing was sent, too much in use       OVERLOADED               drivers go to another host
//	PREPARE, USE: nothing can be applied    OVERLOADED               drivers go to another host, and none closes its connection
func LossError(st Statement, cl frame.Consistency, cause error, partial bool) frame.ErrorBody {
	e := frame.ErrorBody{Message: cause.Error(), Consistency: cl, Required: 1}
	switch {
	case st.Inert:
		e.Code = frame.ErrOverloaded
	case st.Mutates && (partial || upstream.Sent(cause)):
		e.Code, e.WriteType = frame.ErrWriteTimeout, writeType(st)
		e.Message = fmt.Sprintf("the outcome of the write is unknown: %v", cause)
	case upstream.Sent(cause):
		e.Code = frame.ErrReadTimeout
	case errors.Is(cause, upstream.ErrBusy), errors.Is(cause, upstream.ErrTooManyPools):
		e.Code = frame.ErrOverloaded
	default:
		e.Code = frame.ErrUnavailable
	}
	return e
}

// writeType is what a driver's retry rule reads. It is never BATCH_LOG, which
// drivers retry unasked, nor BATCH, which says that the batch log has it: the
// proxy does not know.
func writeType(st Statement) frame.WriteType {
	switch {
	case st.CAS:
		return frame.WriteTypeCAS
	case st.Counter:
		return frame.WriteTypeCounter
	case st.Unlogged:
		return frame.WriteTypeUnloggedBatch
	}
	return frame.WriteTypeSimple
}

// Unprepared has a driver prepare again, in Cassandra's words.
func Unprepared(id []byte) frame.ErrorBody {
	return frame.ErrorBody{
		Code: frame.ErrUnprepared, ID: bytes.Clone(id),
		Message: fmt.Sprintf("Prepared query with ID %x not found (either the query was not prepared on this host (maybe the host has been restarted?) or you have prepared too many queries and it has been evicted from the internal cache)", id),
	}
}
