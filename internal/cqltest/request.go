package cqltest

import (
	"fmt"
	"strings"

	"github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
)

// Request is one frame that a node received. It is immutable; its slices must
// not be changed.
type Request struct {
	Conn    int // connection number on this node, from 1 in order of acceptance
	Version primitive.ProtocolVersion
	Stream  int16
	Flags   primitive.HeaderFlag
	Opcode  primitive.OpCode
	Raw     []byte          // the whole frame as received
	Message message.Message // nil when the body did not decode
	Payload map[string][]byte

	// Text is the statement of a QUERY or PREPARE, that of the prepared id of
	// an EXECUTE ("" when the id is unknown), and a BATCH's children joined
	// by "; ".
	Text     string
	ID       []byte  // EXECUTE
	Children []Child // BATCH
	Keyspace string  // the connection's keyspace when the request came
	Username string  // who logged in on the connection, "" before that

	// QUERY, EXECUTE and, where the protocol has them, BATCH.
	Consistency       primitive.ConsistencyLevel
	SerialConsistency *primitive.ConsistencyLevel
	QueryFlags        primitive.QueryFlag
	PageSize          int32
	PagingState       []byte
	Timestamp         *int64
	Values            []*primitive.Value // positional
}

// Child is one statement of a batch.
type Child struct {
	Text   string // of the prepared id when ID is set
	ID     []byte
	Values []*primitive.Value
}

func (r Request) String() string {
	return fmt.Sprintf("conn %d stream %d %v %s", r.Conn, r.Stream, r.Opcode, r.Text)
}

// IsSelect reports whether the statement text starts with SELECT.
func (r Request) IsSelect() bool { return hasKeyword(r.Text, "SELECT") }

// System reports whether the request is what a control connection or a login
// sends: handshake, REGISTER, OPTIONS, or a statement on a system keyspace.
func (r Request) System() bool {
	switch r.Opcode {
	case primitive.OpCodeQuery, primitive.OpCodePrepare, primitive.OpCodeExecute, primitive.OpCodeBatch:
		return strings.Contains(strings.ToLower(r.Text), " system")
	}
	return true
}

// Filter selects requests.
type Filter func(Request) bool

// WithOpcode keeps requests of one opcode.
func WithOpcode(op primitive.OpCode) Filter {
	return func(r Request) bool { return r.Opcode == op }
}

// WithText keeps requests whose statement text contains part.
func WithText(part string) Filter {
	return func(r Request) bool { return strings.Contains(r.Text, part) }
}

// NotSystem leaves out what control connections and logins send.
func NotSystem(r Request) bool { return !r.System() }

func matches(r Request, filters []Filter) bool {
	for _, f := range filters {
		if !f(r) {
			return false
		}
	}
	return true
}

// describe fills the fields that are read from the message.
func (r *Request) describe(body *frame.Body, textOf func(id []byte) string) {
	r.Message, r.Payload = body.Message, body.CustomPayload
	options := func(o *message.QueryOptions) {
		r.Consistency, r.SerialConsistency, r.QueryFlags = o.Consistency, o.SerialConsistency, o.Flags()
		r.PageSize, r.PagingState, r.Timestamp, r.Values = o.PageSize, o.PagingState, o.DefaultTimestamp, o.PositionalValues
	}
	switch m := body.Message.(type) {
	case *message.Query:
		r.Text = m.Query
		options(m.Options)
	case *message.Prepare:
		r.Text = m.Query
	case *message.Execute:
		r.ID, r.Text = m.QueryId, textOf(m.QueryId)
		options(m.Options)
	case *message.Batch:
		r.Consistency, r.SerialConsistency, r.Timestamp, r.QueryFlags = m.Consistency, m.SerialConsistency, m.DefaultTimestamp, m.Flags()
		texts := make([]string, len(m.Children))
		for i, c := range m.Children {
			child := Child{Text: c.Query, ID: c.Id, Values: c.Values}
			if len(c.Id) > 0 {
				child.Text = textOf(c.Id)
			}
			texts[i] = child.Text
			r.Children = append(r.Children, child)
		}
		r.Text = strings.Join(texts, "; ")
	}
}

func hasKeyword(text, word string) bool {
	text = strings.TrimSpace(text)
	return len(text) >= len(word) && strings.EqualFold(text[:len(word)], word)
}
