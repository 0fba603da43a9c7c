package cqltest

import (
	"bytes"
	"fmt"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	"github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
)

type replyKind uint8

const (
	replyOrdinary replyKind = iota
	replyMessage
	replyRaw
	replySilence
)

// Reply is what a node does with one request. The zero value is Ordinary. The
// methods return a changed copy, so replies can be shared and combined.
type Reply struct {
	kind     replyKind
	message  message.Message
	raw      []byte
	after    <-chan struct{}
	stream   *int16
	truncate int // bytes of the frame that are sent; 0 = all
	copies   int // more of the same frame
	closing  closing
	warnings []string
	payload  map[string][]byte
	tracing  *primitive.UUID
}

type closing uint8

const (
	keepOpen closing = iota
	closeAfter
	resetAfter
)

// Ordinary is what the node would do without a handler.
func Ordinary() Reply { return Reply{} }

// Message answers with any message of the protocol.
func Message(m message.Message) Reply { return Reply{kind: replyMessage, message: m} }

// Void answers with a RESULT of kind Void.
func Void() Reply { return Message(&message.VoidResult{}) }

// SetKeyspace answers as to USE, without changing the connection's keyspace.
func SetKeyspace(name string) Reply { return Message(&message.SetKeyspaceResult{Keyspace: name}) }

// Rows answers with text columns of table ks.t.
func Rows(columns []string, rows ...[]string) Reply {
	data := message.RowSet{}
	for _, row := range rows {
		r := make(message.Row, len(row))
		for i, v := range row {
			r[i] = []byte(v)
		}
		data = append(data, r)
	}
	return TypedRows(TextColumns(columns...), data...)
}

// TypedRows answers with rows of any types; the values are encoded already.
func TypedRows(columns []*message.ColumnMetadata, rows ...message.Row) Reply {
	return Message(&message.RowsResult{
		Metadata: &message.RowsMetadata{ColumnCount: int32(len(columns)), Columns: columns},
		Data:     rows,
	})
}

// TextColumns describes columns of type text of table ks.t.
func TextColumns(names ...string) []*message.ColumnMetadata {
	columns := make([]*message.ColumnMetadata, len(names))
	for i, name := range names {
		columns[i] = Column("ks", "t", name, datatype.Varchar)
	}
	return columns
}

// Column describes one column.
func Column(keyspace, table, name string, t datatype.DataType) *message.ColumnMetadata {
	return &message.ColumnMetadata{Keyspace: keyspace, Table: table, Name: name, Type: t}
}

// Unprepared answers that the id is not known.
func Unprepared(id []byte) Reply {
	return Message(&message.Unprepared{
		ErrorMessage: fmt.Sprintf("Prepared query with ID %x not found (either the query was not prepared on this host "+
			"(maybe the host has been restarted?) or you have prepared too many queries and it has been evicted from the internal cache)", id),
		Id: id,
	})
}

// Error answers with an error of the code, its further fields filled with
// plausible values (QUORUM, 1 of 2 received, SIMPLE). For others use Message.
func Error(code primitive.ErrorCode, text string) Reply {
	const cl = primitive.ConsistencyLevelQuorum
	const simple = primitive.WriteTypeSimple
	errors := map[primitive.ErrorCode]message.Message{
		primitive.ErrorCodeServerError:         &message.ServerError{ErrorMessage: text},
		primitive.ErrorCodeProtocolError:       &message.ProtocolError{ErrorMessage: text},
		primitive.ErrorCodeAuthenticationError: &message.AuthenticationError{ErrorMessage: text},
		primitive.ErrorCodeOverloaded:          &message.Overloaded{ErrorMessage: text},
		primitive.ErrorCodeIsBootstrapping:     &message.IsBootstrapping{ErrorMessage: text},
		primitive.ErrorCodeTruncateError:       &message.TruncateError{ErrorMessage: text},
		primitive.ErrorCodeSyntaxError:         &message.SyntaxError{ErrorMessage: text},
		primitive.ErrorCodeUnauthorized:        &message.Unauthorized{ErrorMessage: text},
		primitive.ErrorCodeInvalid:             &message.Invalid{ErrorMessage: text},
		primitive.ErrorCodeConfigError:         &message.ConfigError{ErrorMessage: text},
		primitive.ErrorCodeUnavailable:         &message.Unavailable{ErrorMessage: text, Consistency: cl, Required: 2, Alive: 1},
		primitive.ErrorCodeReadTimeout:         &message.ReadTimeout{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2},
		primitive.ErrorCodeWriteTimeout:        &message.WriteTimeout{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, WriteType: simple},
		primitive.ErrorCodeReadFailure:         &message.ReadFailure{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, NumFailures: 1},
		primitive.ErrorCodeWriteFailure:        &message.WriteFailure{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, NumFailures: 1, WriteType: simple},
		primitive.ErrorCodeFunctionFailure:     &message.FunctionFailure{ErrorMessage: text, Keyspace: "ks", Function: "f", Arguments: []string{"text"}},
		primitive.ErrorCodeAlreadyExists:       &message.AlreadyExists{ErrorMessage: text, Keyspace: "ks", Table: "t"},
		primitive.ErrorCodeUnprepared:          &message.Unprepared{ErrorMessage: text, Id: []byte(text)},
	}
	m, ok := errors[code]
	if !ok {
		panic(fmt.Sprintf("cqltest: no error with code %#x", int32(code)))
	}
	return Message(m)
}

// Silence never answers; the connection stays open.
func Silence() Reply { return Reply{kind: replySilence} }

// CloseConnection closes the connection without an answer.
func CloseConnection() Reply { return Silence().ThenClose() }

// ResetConnection closes it with a TCP reset.
func ResetConnection() Reply { return Silence().ThenReset() }

// Raw sends bytes as they are.
func Raw(b []byte) Reply { return Reply{kind: replyRaw, raw: b} }

// After holds the reply back until release is closed. Other requests of the
// connection are answered meanwhile. What Ordinary does, it does at release.
func (r Reply) After(release <-chan struct{}) Reply { r.after = release; return r }

// OnStream answers with another stream id than the request's.
func (r Reply) OnStream(id int16) Reply { r.stream = &id; return r }

// Truncated sends the first n bytes of the frame and then nothing for it; add
// ThenClose, or the next frame of the connection begins in the middle of it.
func (r Reply) Truncated(n int) Reply { r.truncate = n; return r }

// Twice sends the same frame two times.
func (r Reply) Twice() Reply { r.copies++; return r }

// ThenClose closes the connection after the reply.
func (r Reply) ThenClose() Reply { r.closing = closeAfter; return r }

// ThenReset resets the connection after the reply; what the peer has not yet
// read of it may be lost.
func (r Reply) ThenReset() Reply { r.closing = resetAfter; return r }

// Page marks a Rows reply as having more pages.
func (r Reply) Page(state []byte) Reply {
	rows, ok := r.message.(*message.RowsResult)
	if !ok {
		panic("cqltest: Page on a reply that is not Rows")
	}
	rows = rows.DeepCopy()
	rows.Metadata.PagingState = state
	r.message = rows
	return r
}

// forMetadata is the reply to an EXECUTE whose client has the result metadata of
// an id: as in Cassandra, they are told with their new id if they are others by
// now, but not those of a conditional write.
func (r Reply) forMetadata(v primitive.ProtocolVersion, has, is []byte) Reply {
	rows, ok := r.message.(*message.RowsResult)
	if !ok || !v.SupportsResultMetadataId() || bytes.Equal(has, is) {
		return r
	}
	rows = rows.DeepCopy()
	rows.Metadata.NewResultMetadataId = is
	r.message = rows
	return r
}

// WithWarnings adds warnings.
func (r Reply) WithWarnings(texts ...string) Reply { r.warnings = texts; return r }

// WithPayload adds a custom payload.
func (r Reply) WithPayload(p map[string][]byte) Reply { r.payload = p; return r }

// WithTracing adds a tracing id.
func (r Reply) WithTracing(id primitive.UUID) Reply { r.tracing = &id; return r }

// frame returns the response frame for a reply of kind message.
func (r Reply) frame(v primitive.ProtocolVersion, stream int16) *frame.Frame {
	f := frame.NewFrame(v, stream, r.message)
	f.SetWarnings(r.warnings)
	f.SetCustomPayload(r.payload)
	f.SetTracingId(r.tracing)
	return f
}
