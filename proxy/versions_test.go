package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// everyProtocol is that of nodes which speak all that is served.
var everyProtocol = []primitive.ProtocolVersion{
	primitive.ProtocolVersion3, primitive.ProtocolVersion4, primitive.ProtocolVersion5,
	primitive.ProtocolVersionDse1, primitive.ProtocolVersionDse2,
}

// eachVersion runs a test as a client of each version, and one whose segments are
// compressed.
func eachVersion(t *testing.T, run func(t *testing.T, login cqltest.Login)) {
	t.Helper()
	t.Parallel()
	for _, v := range everyProtocol {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			run(t, cqltest.Login{Version: v})
		})
	}
	t.Run("compressed segments", func(t *testing.T) {
		t.Parallel()
		run(t, cqltest.Login{Version: primitive.ProtocolVersion5, LZ4: true})
	})
}

// startAll is start with nodes that speak every version, and give ids of their own.
func startAll(t *testing.T, first phase.Phase, settings map[string]string) *world {
	t.Helper()
	return start(t, first,
		cqltest.Options{Versions: everyProtocol, Salt: "origin"}, cqltest.Options{Versions: everyProtocol, Salt: "target"}, settings)
}

func TestEveryVersionIsServedInEachPhase(t *testing.T) {
	eachVersion(t, func(t *testing.T, login cqltest.Login) {
		w := startAll(t, phase.DualWrite, map[string]string{"client_credentials": "same"})
		c := cqltest.Dial(t, w.addr, login)
		write, read := prepareResult(t, c, insertBound), prepareResult(t, c, selBound)
		values := []*primitive.Value{primitive.NewValue([]byte("k"))}
		for _, p := range []phase.Phase{phase.DualWrite, phase.DualRead, phase.CutOver, phase.TargetOnly, phase.CutOver} {
			w.setPhase(t, p)
			w.origin.ClearRequests()
			w.target.ClearRequests()
			primary := w.side(p.Rule().Primary).Host()
			mustVoid(t, c.Query(t, insert))
			mustVoid(t, c.Ask(t, executeOf(write, values)))
			mustVoid(t, c.Ask(t, &message.Batch{Type: primitive.BatchTypeLogged, Children: []*message.BatchChild{
				{Id: write.PreparedQueryId, Values: values}, {Query: insert},
			}}))
			for what, m := range map[string]message.Message{"QUERY": c.Query(t, sel), "EXECUTE": c.Ask(t, executeOf(read, values))} {
				rows, ok := m.(*message.RowsResult)
				if !ok || len(rows.Data) != 1 || string(rows.Data[0][1]) != primary {
					t.Errorf("%s: a read by %s got %v, want a row of %s", p, what, m, primary)
				}
			}
			for _, side := range p.Rule().Writes.Each() {
				got := w.side(side).Requests(cqltest.WithText("INSERT"), func(r cqltest.Request) bool { return r.Opcode != primitive.OpCodePrepare })
				if len(got) != 3 {
					t.Errorf("%s: %s got %d writes, want 3", p, side, len(got))
				}
				for _, r := range got {
					if r.Version != login.Version {
						t.Errorf("%s: %s was spoken to in %v, want %v", p, side, r.Version, login.Version)
					}
				}
			}
		}
	})
}

const (
	insertBound = "INSERT INTO ks.t (k) VALUES (?)"
	selBound    = "SELECT k, node FROM ks.t WHERE k = ?"
)

// prepareResult prepares a statement.
func prepareResult(t *testing.T, c *cqltest.Client, text string) *message.PreparedResult {
	t.Helper()
	m := c.Ask(t, &message.Prepare{Query: text})
	p, ok := m.(*message.PreparedResult)
	if !ok {
		t.Fatalf("PREPARE %s: got %v, want a prepared result", text, m)
	}
	return p
}

// executeOf executes a statement as it was told, without asking for metadata.
func executeOf(p *message.PreparedResult, values []*primitive.Value) *message.Execute {
	return &message.Execute{
		QueryId: p.PreparedQueryId, ResultMetadataId: p.ResultMetadataId,
		Options: &message.QueryOptions{Consistency: primitive.ConsistencyLevelQuorum, PositionalValues: values, SkipMetadata: p.ResultMetadata != nil && len(p.ResultMetadata.Columns) > 0},
	}
}

func TestPagesPayloadsWarningsAndTracesPassInEveryVersion(t *testing.T) {
	eachVersion(t, func(t *testing.T, login cqltest.Login) {
		w := startAll(t, phase.DualWrite, nil)
		trace := primitive.UUID{1, 2, 3}
		w.origin.Handle(func(r cqltest.Request) cqltest.Reply {
			switch {
			case r.System() || r.Opcode == primitive.OpCodePrepare:
				return cqltest.Ordinary()
			case r.Text == sel && r.PagingState == nil:
				return cqltest.Rows([]string{"who"}, []string{"first"}).Page([]byte("more"))
			case r.Text == sel && string(r.PagingState) == "more":
				return cqltest.Rows([]string{"who"}, []string{"last"})
			case r.Flags.Contains(primitive.HeaderFlagTracing):
				answer := cqltest.Void().WithTracing(trace)
				if login.Version > primitive.ProtocolVersion3 {
					answer = answer.WithWarnings("careful").WithPayload(map[string][]byte{"answer": {2}})
				}
				return answer
			}
			return cqltest.Error(primitive.ErrorCodeInvalid, r.Text)
		})
		c := cqltest.Dial(t, w.addr, login)
		query := &message.Query{Query: sel, Options: &message.QueryOptions{PageSize: 1}}
		rows, ok := c.Ask(t, query).(*message.RowsResult)
		if !ok || who(t, rows) != "first" || rows.Metadata.PagingState == nil {
			t.Fatalf("first page: got %v, want one with a paging state", rows)
		}
		w.setPhase(t, phase.DualRead)
		w.setPhase(t, phase.CutOver)
		query.Options.PagingState = rows.Metadata.PagingState
		if got := who(t, c.Ask(t, query)); got != "last" {
			t.Errorf("the page after a change of the primary: %s, want that of the first one's side", got)
		}
		w.setPhase(t, phase.DualRead)
		f := gcnp.NewFrame(login.Version, 0, &message.Query{Query: insert, Options: &message.QueryOptions{}})
		f.RequestTracingId(true)
		if login.Version > primitive.ProtocolVersion3 {
			f.SetCustomPayload(map[string][]byte{"request": {1}})
		}
		got := c.Await(t, c.SendFrame(f)).Frame.Body
		if got.TracingId == nil || *got.TracingId != trace {
			t.Errorf("the trace is %v, want %v", got.TracingId, trace)
		}
		if login.Version > primitive.ProtocolVersion3 && (!slices.Equal(got.Warnings, []string{"careful"}) || !bytes.Equal(got.CustomPayload["answer"], []byte{2})) {
			t.Errorf("got the warnings %v and the payload %v", got.Warnings, got.CustomPayload)
		}
	})
}

// Every error of the specification that a node can answer a request with comes
// through with all of its fields, in the layout of the version.
func TestErrorsOfANodePassWholeInEveryVersion(t *testing.T) {
	eachVersion(t, func(t *testing.T, login cqltest.Login) {
		w := startAll(t, phase.OriginOnly, map[string]string{"client_credentials": "origin"})
		const text = "as the node says it"
		const cl = primitive.ConsistencyLevelQuorum
		all := []message.Error{
			&message.ServerError{ErrorMessage: text}, &message.ProtocolError{ErrorMessage: text},
			&message.Overloaded{ErrorMessage: text}, &message.IsBootstrapping{ErrorMessage: text}, &message.TruncateError{ErrorMessage: text},
			&message.SyntaxError{ErrorMessage: text}, &message.Unauthorized{ErrorMessage: text}, &message.Invalid{ErrorMessage: text},
			&message.ConfigError{ErrorMessage: text},
			&message.Unavailable{ErrorMessage: text, Consistency: cl, Required: 3, Alive: 1},
			&message.ReadTimeout{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, DataPresent: true},
			&message.AlreadyExists{ErrorMessage: text, Keyspace: "ks", Table: "t"},
		}
		for _, kind := range []primitive.WriteType{primitive.WriteTypeSimple, primitive.WriteTypeBatch, primitive.WriteTypeUnloggedBatch,
			primitive.WriteTypeCounter, primitive.WriteTypeBatchLog, primitive.WriteTypeCas, primitive.WriteTypeView, primitive.WriteTypeCdc} {
			e := &message.WriteTimeout{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, WriteType: kind}
			if kind == primitive.WriteTypeCas && login.Version.SupportsWriteTimeoutContentions() {
				e.Contentions = 4
			}
			all = append(all, e)
		}
		if login.Version > primitive.ProtocolVersion3 {
			read := &message.ReadFailure{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, NumFailures: 1}
			write := &message.WriteFailure{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, NumFailures: 1, WriteType: primitive.WriteTypeSimple}
			if login.Version.SupportsReadWriteFailureReasonMap() {
				reasons := []*primitive.FailureReason{{Endpoint: []byte{127, 0, 0, 9}, Code: primitive.FailureCodeTooManyTombstonesRead}}
				read.NumFailures, read.FailureReasons = 0, reasons
				write.NumFailures, write.FailureReasons = 0, reasons
			}
			all = append(all, read, write, &message.FunctionFailure{ErrorMessage: text, Keyspace: "ks", Function: "f", Arguments: []string{"text", "int"}})
		}
		c := cqltest.Dial(t, w.addr, login)
		for _, want := range all {
			w.origin.Handle(func(r cqltest.Request) cqltest.Reply {
				if r.Text == insert {
					return cqltest.Message(want)
				}
				return cqltest.Ordinary()
			})
			got := c.Query(t, insert)
			if reflect.TypeOf(got) != reflect.TypeOf(want) || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
		if got, ok := c.Query(t, sel).(*message.RowsResult); !ok {
			t.Errorf("after all the errors a read got %v, want rows", got)
		}
	})
}

func TestAFrameOfManySegmentsPassesBothWays(t *testing.T) {
	eachVersion(t, func(t *testing.T, login cqltest.Login) {
		w := startAll(t, phase.DualWrite, nil)
		large := strings.Repeat("x", 700_000)
		w.origin.Handle(func(r cqltest.Request) cqltest.Reply {
			if r.Text == sel {
				return cqltest.Rows([]string{"who"}, []string{large})
			}
			return cqltest.Ordinary()
		})
		c := cqltest.Dial(t, w.addr, login)
		write := "INSERT INTO ks.t (k, v) VALUES (1, '" + large + "')"
		mustVoid(t, c.Query(t, write))
		for _, s := range phase.Sides {
			if got := w.side(s).Requests(cqltest.WithText("INSERT")); len(got) != 1 || got[0].Text != write {
				t.Errorf("%s got %d writes, or not the whole one", s, len(got))
			}
		}
		if got := who(t, c.Query(t, sel)); got != large {
			t.Errorf("a large row came with %d bytes, want %d", len(got), len(large))
		}
	})
}

// The keyspace of the request (v5, DSE_V2) is that of its unqualified names.
func TestTheKeyspaceOfARequestDecidesWhatAnUnqualifiedTableIs(t *testing.T) {
	t.Parallel()
	for _, v := range []primitive.ProtocolVersion{primitive.ProtocolVersion5, primitive.ProtocolVersionDse2} {
		w := startAll(t, phase.CutOver, nil)
		c := cqltest.Dial(t, w.addr, cqltest.Login{Version: v})
		query := func(text, keyspace string) message.Message {
			return c.Ask(t, &message.Query{Query: text, Options: &message.QueryOptions{Keyspace: keyspace}})
		}
		rows, ok := query("SELECT rpc_address FROM local", "system").(*message.RowsResult)
		if !ok || len(rows.Data) != 1 || !bytes.Equal(rows.Data[0][0], []byte{127, 0, 0, 1}) {
			t.Errorf("%v: local of the keyspace system: got %v, want the proxy's own", v, rows)
		}
		rows, ok = query("SELECT k, node FROM local", "ks").(*message.RowsResult)
		if !ok || string(rows.Data[0][1]) != w.target.Host() {
			t.Errorf("%v: local of the keyspace ks: got %v, want a row of Target", v, rows)
		}
		if got := w.target.Requests(cqltest.WithText("SELECT k, node")); len(got) != 1 || got[0].Message.(*message.Query).Options.Keyspace != "ks" {
			t.Errorf("%v: Target got %v, want the keyspace of the request", v, got)
		}
		m := c.Ask(t, &message.Prepare{Query: "SELECT rpc_address FROM local", Keyspace: "system"})
		own, ok := m.(*message.PreparedResult)
		if !ok {
			t.Fatalf("%v: PREPARE in the keyspace system: got %v", v, m)
		}
		if rows, ok := c.Ask(t, executeOf(own, nil)).(*message.RowsResult); !ok || !bytes.Equal(rows.Data[0][0], []byte{127, 0, 0, 1}) {
			t.Errorf("%v: EXECUTE of it: got %v, want the proxy's own", v, rows)
		}
	}
}

func TestTheBetaFlagPassesAsItIs(t *testing.T) {
	t.Parallel()
	w := startAll(t, phase.DualWrite, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{Version: primitive.ProtocolVersion5})
	f := gcnp.NewFrame(primitive.ProtocolVersion5, 0, &message.Query{Query: insert, Options: &message.QueryOptions{}})
	f.Header.Flags = f.Header.Flags.Add(primitive.HeaderFlagUseBeta)
	mustVoid(t, c.Await(t, c.SendFrame(f)).Message())
	for _, s := range phase.Sides {
		if got := w.side(s).Requests(cqltest.WithText(insert)); len(got) != 1 || !got[0].Flags.Contains(primitive.HeaderFlagUseBeta) {
			t.Errorf("%s got %v, want one write with the beta flag", s, got)
		}
	}
}

// A client of one version may be spoken to only where every side that it needs
// speaks that version too.
func TestAVersionThatOneClusterLacksIsRefused(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{Versions: everyProtocol}, cqltest.Options{Versions: everyProtocol[:2]}, nil)
	for _, v := range everyProtocol[2:] {
		_, err := cqltest.Connect(t, w.addr, cqltest.Login{Version: v})
		refused, ok := err.(*cqltest.Refused)
		if !ok {
			t.Errorf("%v: got %v, want a refusal", v, err)
			continue
		}
		want := fmt.Sprintf("Invalid or unsupported protocol version (%d); the lowest supported version is 3 and the greatest is 4", v)
		if _, ok := refused.Answer.(*message.ProtocolError); !ok || refused.Answer.GetErrorMessage() != want {
			t.Errorf("%v: got %v, want %s", v, refused.Answer, want)
		}
	}
	mustVoid(t, cqltest.Dial(t, w.addr, cqltest.Login{}).Query(t, insert))
}

func TestClientsOfEveryVersionMoveToTheServerThatTakesOver(t *testing.T) {
	eachVersion(t, func(t *testing.T, login cqltest.Login) {
		w := startAll(t, phase.DualWrite, nil)
		c := cqltest.Dial(t, w.addr, login)
		read := prepareResult(t, c, selBound)
		values := []*primitive.Value{primitive.NewValue([]byte("k"))}
		next := successor(t, w, phase.DualWrite)
		if err := w.srv.Drain(context.Background(), moveInto(t, next)); err != nil {
			t.Fatalf("Drain: %v", err)
		}
		mustVoid(t, c.Query(t, insert))
		if rows, ok := c.Ask(t, executeOf(read, values)).(*message.RowsResult); !ok || len(rows.Data) != 1 {
			t.Errorf("EXECUTE after the move: got %v, want a row", rows)
		}
		if n := len(w.origin.Requests(cqltest.WithText(selBound), cqltest.WithOpcode(primitive.OpCodePrepare))); n != 1 {
			t.Errorf("the statement was prepared %d times, want 1: the cache moves too", n)
		}
	})
}

// DESCRIBE has pages, and a cluster does not take the paging state of another.
func TestDescribeGoesOnWithItsPagesThroughEveryChangeOfPhase(t *testing.T) {
	t.Parallel()
	const describe = "DESCRIBE SCHEMA"
	w := startAll(t, phase.DualWrite, nil)
	for _, s := range phase.Sides {
		w.side(s).Handle(func(r cqltest.Request) cqltest.Reply {
			if r.Text != describe {
				return cqltest.Ordinary()
			}
			page := len(r.PagingState) // one byte more for each page
			if page > 0 && r.PagingState[0] != byte(s) {
				return cqltest.Error(primitive.ErrorCodeProtocolError, "Invalid value for the paging state")
			}
			return cqltest.Rows([]string{"who"}, []string{s.String()}).Page(bytes.Repeat([]byte{byte(s)}, page+1))
		})
	}
	c := cqltest.Dial(t, w.addr, cqltest.Login{Version: primitive.ProtocolVersion5})
	ask := func(state []byte) (side string, next []byte) {
		t.Helper()
		m := c.Ask(t, &message.Query{Query: describe, Options: &message.QueryOptions{PageSize: 1, PagingState: state}})
		rows, ok := m.(*message.RowsResult)
		if !ok {
			t.Fatalf("DESCRIBE: got %v, want a page", m)
		}
		return who(t, rows), rows.Metadata.PagingState
	}
	_, state := ask(nil)
	for _, p := range []phase.Phase{phase.DualRead, phase.CutOver, phase.DualRead} {
		w.setPhase(t, p)
		var side string
		if side, state = ask(state); side != "origin" {
			t.Errorf("%s: the next page is of %s, want that of the first one's side", p, side)
		}
	}
	// A state that the client got without the proxy goes to the primary of now.
	if side, _ := ask([]byte{byte(phase.Origin)}); side != "origin" {
		t.Errorf("an untagged state went to %s, want the primary", side)
	}
}

func TestAClientIsNotToldToStepDownWhenASideCannotBeAsked(t *testing.T) {
	t.Parallel()
	w := startAll(t, phase.DualWrite, nil)
	login := cqltest.Login{Version: primitive.ProtocolVersion5}
	w.target.Stop()
	var refused *cqltest.Refused
	if _, err := cqltest.Connect(t, w.addr, login); err == nil || errors.As(err, &refused) {
		t.Errorf("without target: %v, want the connection closed without an answer", err)
	}
	w.target.Restart()
	cqltest.Dial(t, w.addr, login)
}
