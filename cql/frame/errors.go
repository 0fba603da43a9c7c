package frame

import (
	"fmt"
	"net/netip"
)

// ErrorCode is the code of an ERROR (section 9 of the specification, 8 in v5).
type ErrorCode int32

// The error codes.
const (
	ErrServer          ErrorCode = 0x0000
	ErrProtocol        ErrorCode = 0x000A
	ErrBadCredentials  ErrorCode = 0x0100
	ErrUnavailable     ErrorCode = 0x1000
	ErrOverloaded      ErrorCode = 0x1001
	ErrIsBootstrapping ErrorCode = 0x1002
	ErrTruncate        ErrorCode = 0x1003
	ErrWriteTimeout    ErrorCode = 0x1100
	ErrReadTimeout     ErrorCode = 0x1200
	ErrReadFailure     ErrorCode = 0x1300 // since v4
	ErrFunctionFailure ErrorCode = 0x1400 // since v4
	ErrWriteFailure    ErrorCode = 0x1500 // since v4
	ErrCDCWriteFailure ErrorCode = 0x1600 // since v4, of Cassandra 3.8
	ErrCASWriteUnknown ErrorCode = 0x1700 // since v5
	ErrSyntax          ErrorCode = 0x2000
	ErrUnauthorized    ErrorCode = 0x2100
	ErrInvalid         ErrorCode = 0x2200
	ErrConfig          ErrorCode = 0x2300
	ErrAlreadyExists   ErrorCode = 0x2400
	ErrUnprepared      ErrorCode = 0x2500
)

func (c ErrorCode) String() string {
	switch c {
	case ErrServer:
		return "SERVER_ERROR"
	case ErrProtocol:
		return "PROTOCOL_ERROR"
	case ErrBadCredentials:
		return "BAD_CREDENTIALS"
	case ErrUnavailable:
		return "UNAVAILABLE"
	case ErrOverloaded:
		return "OVERLOADED"
	case ErrIsBootstrapping:
		return "IS_BOOTSTRAPPING"
	case ErrTruncate:
		return "TRUNCATE_ERROR"
	case ErrWriteTimeout:
		return "WRITE_TIMEOUT"
	case ErrReadTimeout:
		return "READ_TIMEOUT"
	case ErrReadFailure:
		return "READ_FAILURE"
	case ErrFunctionFailure:
		return "FUNCTION_FAILURE"
	case ErrWriteFailure:
		return "WRITE_FAILURE"
	case ErrCDCWriteFailure:
		return "CDC_WRITE_FAILURE"
	case ErrCASWriteUnknown:
		return "CAS_WRITE_UNKNOWN"
	case ErrSyntax:
		return "SYNTAX_ERROR"
	case ErrUnauthorized:
		return "UNAUTHORIZED"
	case ErrInvalid:
		return "INVALID"
	case ErrConfig:
		return "CONFIG_ERROR"
	case ErrAlreadyExists:
		return "ALREADY_EXISTS"
	case ErrUnprepared:
		return "UNPREPARED"
	}
	return fmt.Sprintf("error 0x%04X", int32(c))
}

// WriteType says which step of a write timed out or failed.
type WriteType string

// The write types.
const (
	WriteTypeSimple        WriteType = "SIMPLE"
	WriteTypeBatch         WriteType = "BATCH"
	WriteTypeUnloggedBatch WriteType = "UNLOGGED_BATCH"
	WriteTypeCounter       WriteType = "COUNTER"
	WriteTypeBatchLog      WriteType = "BATCH_LOG"
	WriteTypeCAS           WriteType = "CAS"
	WriteTypeView          WriteType = "VIEW"
	WriteTypeCDC           WriteType = "CDC"
)

// Error is the body of an ERROR: <code><message><what the code adds>.
type Error struct {
	Code    ErrorCode
	Message []byte
	Tail    []byte // what the code adds, as it is
}

// ParseError reads the body of an ERROR. The layout of what it reads is the same
// in all versions.
func ParseError(body []byte, _ Version) (e Error, err error) {
	c := NewCursor(body)
	e.Code = ErrorCode(c.Int("error code"))
	e.Message = c.String("error message")
	e.Tail = c.Rest()
	return e, c.Err()
}

// TimedOutWrite returns the write type in the tail of a WRITE_TIMEOUT, "" if
// there is none. Before it are consistency, received and required.
func TimedOutWrite(tail []byte) WriteType {
	c := NewCursor(tail)
	c.Take(2+4+4, "counts of a time-out")
	return WriteType(c.String("write type"))
}

// UnpreparedID returns the id in the tail of an UNPREPARED, nil if there is none.
func UnpreparedID(tail []byte) []byte {
	c := NewCursor(tail)
	return c.ShortBytes("prepared id")
}

// ErrorBody is an ERROR to be sent. What a code does not have is not written.
type ErrorBody struct {
	Code    ErrorCode
	Message string

	// For UNAVAILABLE, Received is the number of replicas alive.
	Consistency                     Consistency
	Received, Required, NumFailures int32
	WriteType                       WriteType
	Contentions                     uint16 // of a WRITE_TIMEOUT of type CAS in v5
	DataPresent                     bool
	// Reasons replace NumFailures in v5 and DSE.
	Reasons []FailureReason

	ID              []byte // UNPREPARED
	Keyspace, Table string // ALREADY_EXISTS; Keyspace also FUNCTION_FAILURE
	Function        string
	ArgumentTypes   []string
}

// FailureReason says why a replica failed.
type FailureReason struct {
	Replica netip.Addr
	Code    uint16
}

// AppendError appends a whole ERROR frame. A code that v does not have is told
// as the one that Cassandra steps down to: in v3, failures of reads and writes
// are timeouts, and those of functions are INVALID; before v5, an unknown
// outcome of a compare-and-set is a WRITE_TIMEOUT of type CAS.
func AppendError(dst []byte, v Version, stream int16, e ErrorBody) []byte {
	start := len(dst)
	dst = AppendHeader(dst, v, true, 0, stream, OpError, 0)
	e.stepDown(v)
	dst = AppendInt(dst, int32(e.Code))
	dst = AppendString(dst, e.Message)
	switch e.Code {
	case ErrUnavailable:
		dst = AppendShort(dst, uint16(e.Consistency))
		dst = AppendInt(dst, e.Required)
		dst = AppendInt(dst, e.Received)
	case ErrWriteTimeout:
		dst = e.appendCounts(dst)
		dst = AppendString(dst, string(e.WriteType))
		if v == V5 && e.WriteType == WriteTypeCAS {
			dst = AppendShort(dst, e.Contentions)
		}
	case ErrReadTimeout:
		dst = e.appendCounts(dst)
		dst = appendBool(dst, e.DataPresent)
	case ErrReadFailure:
		dst = e.appendCounts(dst)
		dst = e.appendFailures(dst, v)
		dst = appendBool(dst, e.DataPresent)
	case ErrWriteFailure:
		dst = e.appendCounts(dst)
		dst = e.appendFailures(dst, v)
		dst = AppendString(dst, string(e.WriteType))
	case ErrCASWriteUnknown:
		dst = e.appendCounts(dst)
	case ErrFunctionFailure:
		dst = AppendString(dst, e.Keyspace)
		dst = AppendString(dst, e.Function)
		dst = AppendStringList(dst, e.ArgumentTypes)
	case ErrAlreadyExists:
		dst = AppendString(dst, e.Keyspace)
		dst = AppendString(dst, e.Table)
	case ErrUnprepared:
		dst = AppendShortBytes(dst, e.ID)
	}
	PutLength(dst[start:])
	return dst
}

func (e *ErrorBody) stepDown(v Version) {
	if v == V3 {
		switch e.Code {
		case ErrReadFailure:
			e.Code = ErrReadTimeout
		case ErrWriteFailure:
			e.Code = ErrWriteTimeout
		case ErrFunctionFailure, ErrCDCWriteFailure:
			e.Code = ErrInvalid
		}
	}
	if v != V5 && e.Code == ErrCASWriteUnknown {
		e.Code, e.WriteType = ErrWriteTimeout, WriteTypeCAS
	}
	if e.WriteType == "" {
		e.WriteType = WriteTypeSimple
	}
}

func (e *ErrorBody) appendCounts(dst []byte) []byte {
	dst = AppendShort(dst, uint16(e.Consistency))
	dst = AppendInt(dst, e.Received)
	return AppendInt(dst, e.Required)
}

// appendFailures: <numfailures> is an [int] in v4, and in v5 and DSE an [int]
// with so many pairs of an [inetaddr] and a [short].
func (e *ErrorBody) appendFailures(dst []byte, v Version) []byte {
	if !v.hasReasonMap() {
		return AppendInt(dst, e.NumFailures)
	}
	dst = AppendInt(dst, int32(len(e.Reasons)))
	for _, r := range e.Reasons {
		a := r.Replica.Unmap()
		if a.Is4() {
			b := a.As4()
			dst = append(append(dst, 4), b[:]...)
		} else {
			b := a.As16()
			dst = append(append(dst, 16), b[:]...)
		}
		dst = AppendShort(dst, r.Code)
	}
	return dst
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}
