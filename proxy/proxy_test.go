package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const (
	insert = "INSERT INTO ks.t (k, v) VALUES (1, 2)"
	sel    = "SELECT v FROM ks.t WHERE k = 1"
	count  = "UPDATE ks.c SET n = n + 1 WHERE k = 1"
)

func TestEachPhaseSendsReadsAndWritesWhereTheTableSays(t *testing.T) {
	t.Parallel()
	w := start(t, phase.OriginOnly, cqltest.Options{}, cqltest.Options{}, map[string]string{"client_credentials": "origin"})
	answerRows(w.origin, "origin")
	answerRows(w.target, "target")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	for _, p := range phase.All {
		w.setPhase(t, p)
		w.origin.ClearRequests()
		w.target.ClearRequests()
		mustVoid(t, c.Query(t, insert))
		if got, want := who(t, c.Query(t, sel)), p.Rule().Primary.String(); got != want {
			t.Errorf("%s: %s answered the read, want %s", p, got, want)
		}
		rule := p.Rule()
		shadow := rule.HasShadow && !rule.ShadowOptional
		if shadow {
			w.side(rule.Shadow).WaitFor(t, 1, cqltest.WithText("SELECT v"))
		}
		for _, s := range phase.Sides {
			var want []string
			if rule.Writes.Has(s) {
				want = append(want, "query "+insert)
			}
			if rule.Primary == s || shadow && rule.Shadow == s {
				want = append(want, "query "+sel)
			}
			if diff := cmp.Diff(w.seen(s), want); diff != "" {
				t.Errorf("%s: %s got (-got +want):\n%s", p, s, diff)
			}
		}
	}
}

func TestAWriteSucceedsOnlyIfBothSidesSaySo(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	for _, s := range phase.Sides {
		w.side(s).Handle(func(r cqltest.Request) cqltest.Reply {
			if r.Text == insert {
				return cqltest.Error(primitive.ErrorCodeInvalid, "refused by "+s.String())
			}
			return cqltest.Ordinary()
		})
		e, ok := c.Query(t, insert).(*message.Invalid)
		if !ok || e.ErrorMessage != "refused by "+s.String() {
			t.Errorf("%s refuses: the client got %v, want its error", s, e)
		}
		w.side(s).Handle(nil)
	}
	mustVoid(t, c.Query(t, insert))
}

func TestAPreparedStatementKeepsWorkingThroughEveryPhaseAndEachSideGetsItsOwnID(t *testing.T) {
	t.Parallel()
	w := start(t, phase.OriginOnly, cqltest.Options{Salt: "a"}, cqltest.Options{Salt: "b"}, map[string]string{"client_credentials": "origin"})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	const text = "INSERT INTO ks.t (k) VALUES (1)"
	id := prepare(t, c, text)
	for _, p := range phase.All {
		w.setPhase(t, p)
		w.origin.ClearRequests()
		w.target.ClearRequests()
		mustVoid(t, execute(t, c, id))
		for _, s := range phase.Sides {
			n := len(w.side(s).Requests(cqltest.WithOpcode(primitive.OpCodeExecute), cqltest.WithText(text)))
			want := 0
			if p.Rule().Writes.Has(s) {
				want = 1
			}
			if n != want {
				t.Errorf("%s: %s executed it %d times, want %d", p, s, n, want)
			}
		}
	}
}

func TestUnpreparedIsMendedOnTheSideThatSaidItAndTheOtherDoesNotApplyTwice(t *testing.T) {
	t.Parallel()
	for _, forgetful := range phase.Sides {
		w := start(t, phase.DualWrite, cqltest.Options{Salt: "a"}, cqltest.Options{Salt: "b"}, nil)
		c := cqltest.Dial(t, w.addr, cqltest.Login{})
		id := prepare(t, c, count)
		w.side(forgetful).Forget(w.side(forgetful).PreparedID("", count))
		mustVoid(t, execute(t, c, id))
		other := w.side(forgetful.Other())
		if n := len(other.Requests(cqltest.WithOpcode(primitive.OpCodeExecute))); n != 1 {
			t.Errorf("%s forgot: the other side executed it %d times, want once", forgetful, n)
		}
		if n := len(w.side(forgetful).Requests(cqltest.WithOpcode(primitive.OpCodePrepare))); n != 2 {
			t.Errorf("%s forgot: it was asked to prepare %d times, want 2", forgetful, n)
		}
	}
}

func TestABatchOfPreparedStatementsIsMendedToo(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{Salt: "a"}, cqltest.Options{Salt: "longer"}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	one, two := "INSERT INTO ks.t (k) VALUES (1)", "INSERT INTO ks.t (k) VALUES (2)"
	first, second := prepare(t, c, one), prepare(t, c, two)
	w.target.Forget(w.target.PreparedID("", two))
	mustVoid(t, c.Ask(t, &message.Batch{
		Type: primitive.BatchTypeLogged, Consistency: primitive.ConsistencyLevelQuorum,
		Children: []*message.BatchChild{{Id: first}, {Query: insert}, {Id: second}},
	}))
	want := strings.Join([]string{one, insert, two}, "; ")
	for _, s := range phase.Sides {
		got := w.side(s).Requests(cqltest.WithOpcode(primitive.OpCodeBatch))
		if len(got) == 0 || got[len(got)-1].Text != want {
			t.Errorf("%s got %v, want the batch %q", s, got, want)
		}
	}
}

func TestABatchAcrossKeyspacesRunsInTheSessionsOwnAfterItIsMended(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{Salt: "a"}, cqltest.Options{Salt: "b"}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	const text = "INSERT INTO t (k) VALUES (1)"
	c.Query(t, "USE one")
	id := prepare(t, c, text)
	c.Query(t, "USE two")
	w.target.Forget(w.target.PreparedID("one", text))
	mustVoid(t, c.Ask(t, &message.Batch{
		Type: primitive.BatchTypeLogged, Consistency: primitive.ConsistencyLevelQuorum,
		Children: []*message.BatchChild{{Id: id}, {Query: "INSERT INTO t (k) VALUES (2)"}},
	}))
	for _, s := range phase.Sides {
		for _, r := range w.side(s).Requests(cqltest.WithOpcode(primitive.OpCodeBatch)) {
			// The unprepared child names no keyspace: it means the session's.
			if r.Keyspace != "two" {
				t.Errorf("%s: the batch ran in keyspace %q, want two", s, r.Keyspace)
			}
		}
	}
	if n := len(w.target.Requests(cqltest.WithOpcode(primitive.OpCodeBatch))); n != 2 {
		t.Errorf("target got the batch %d times, want 2: once UNPREPARED, once mended", n)
	}
}

func TestAnUnknownPreparedIDIsToldToTheClientAsItKnowsIt(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	id := []byte("0123456789abcdef")
	e, ok := execute(t, c, id).(*message.Unprepared)
	if !ok || !bytes.Equal(e.Id, id) {
		t.Fatalf("got %v, want UNPREPARED with the id %x", e, id)
	}
	if n := len(w.seen(phase.Origin)) + len(w.seen(phase.Target)); n != 0 {
		t.Errorf("%d requests reached a node, want none", n)
	}
}

func TestAPageComesFromTheSideThatGaveTheFirstOne(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	page := func(n *cqltest.Node, name string) {
		n.Handle(func(r cqltest.Request) cqltest.Reply {
			if r.System() || !r.IsSelect() {
				return cqltest.Ordinary()
			}
			if r.PagingState != nil && string(r.PagingState) != "state of "+name {
				return cqltest.Error(primitive.ErrorCodeProtocolError, "not my paging state")
			}
			return cqltest.Message(&message.RowsResult{
				Metadata: &message.RowsMetadata{ColumnCount: 1, Columns: cqltest.TextColumns("who"), PagingState: []byte("state of " + name)},
				Data:     message.RowSet{{[]byte(name)}},
			})
		})
	}
	page(w.origin, "origin")
	page(w.target, "target")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	next := func(state []byte) (string, []byte) {
		m := c.Ask(t, &message.Query{Query: sel, Options: &message.QueryOptions{PageSize: 10, PagingState: state}})
		return who(t, m), m.(*message.RowsResult).Metadata.PagingState
	}
	name, state := next(nil)
	if name != "origin" {
		t.Fatalf("%s gave the first page, want origin", name)
	}
	for _, p := range []phase.Phase{phase.DualRead, phase.CutOver, phase.TargetOnly} {
		w.setPhase(t, p)
		if name, state = next(state); name != "origin" {
			t.Errorf("%s: the next page came from %s, want origin, which gave the first", p, name)
		}
	}
	if name, _ = next(nil); name != "target" {
		t.Errorf("target_only: a new query was answered by %s, want target", name)
	}
	if name, _ = next([]byte("state of target")); name != "target" {
		t.Errorf("an untagged state went to %s, want the side that answers reads", name)
	}
}

// A paging state in a write means nothing, and must not keep it from a side.
func TestAWriteWithATaggedPagingStateGoesToBothSides(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]map[string]string{"as it is": nil, "stamped": stamping} {
		w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, settings)
		c := cqltest.Dial(t, w.addr, cqltest.Login{})
		id := prepare(t, c, insert)
		for side, tag := range map[phase.Side]string{phase.Origin: "zdm\x01\x00\xff", phase.Target: "zdm\x01\x01\xfe"} {
			w.origin.ClearRequests()
			w.target.ClearRequests()
			options := &message.QueryOptions{PagingState: []byte(tag + "state"), PositionalValues: values("v")}
			mustVoid(t, c.Ask(t, &message.Query{Query: insert, Options: options}))
			mustVoid(t, c.Ask(t, &message.Execute{QueryId: id, Options: options}))
			for _, op := range []primitive.OpCode{primitive.OpCodeQuery, primitive.OpCodeExecute} {
				got := w.same(t, op)
				if string(got.PagingState) != "state" || (got.Timestamp != nil) != (settings != nil) {
					t.Errorf("%s, a state of %s: the sides got %v with the state %q and timestamp %v", name, side, op, got.PagingState, got.Timestamp)
				}
			}
		}
	}
}

func TestResultMetadataAreSentWhereTheSidesDiffer(t *testing.T) {
	t.Parallel()
	for _, differ := range []bool{false, true} {
		w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
		columns := cqltest.TextColumns("a", "b")
		w.origin.Describe(sel, cqltest.Statement{Columns: columns})
		if differ {
			columns = cqltest.TextColumns("b", "a")
		}
		w.target.Describe(sel, cqltest.Statement{Columns: columns})
		c := cqltest.Dial(t, w.addr, cqltest.Login{})
		id := prepare(t, c, sel)
		// Origin's answer was enough for the client. PREPARE of a write waits for both
		// sides, and so for what they were asked before.
		prepare(t, c, insert)
		for _, p := range []phase.Phase{phase.DualWrite, phase.DualRead, phase.CutOver} {
			w.setPhase(t, p)
			w.origin.ClearRequests()
			w.target.ClearRequests()
			c.Ask(t, &message.Execute{QueryId: id, Options: &message.QueryOptions{SkipMetadata: true}})
			primary := p.Rule().Primary
			got := w.side(primary).WaitFor(t, 1, cqltest.WithOpcode(primitive.OpCodeExecute))[0]
			skipped := got.QueryFlags.Contains(primitive.QueryFlagSkipMetadata)
			// Drivers decode with what PREPARE told them, which was Origin's.
			if want := primary == phase.Origin || !differ; skipped != want {
				t.Errorf("%s, metadata differ %v: %s was asked to skip them: %v, want %v", p, differ, primary, skipped, want)
			}
		}
	}
}

func TestAnAlterOfTheColumnsIsToldToTheClientThatReads(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	w.origin.Describe(sel, cqltest.Statement{Columns: cqltest.TextColumns("b", "k")})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	id := prepare(t, c, sel)
	read := func() message.Message {
		return c.Ask(t, &message.Execute{QueryId: id, Options: &message.QueryOptions{SkipMetadata: true}})
	}
	read()
	// ALTER TABLE ADD a: the node forgets the statement.
	w.origin.Describe(sel, cqltest.Statement{Columns: cqltest.TextColumns("a", "b", "k")})
	w.origin.Forget(w.origin.PreparedID("", sel))
	if e, ok := read().(*message.Unprepared); !ok || !bytes.Equal(e.Id, id) {
		t.Fatalf("got %v, want UNPREPARED with the client's id: it decodes with other columns", e)
	}
	if again := prepare(t, c, sel); !bytes.Equal(again, id) {
		t.Errorf("the id has changed from %x to %x; drivers do not put up with that", id, again)
	}
	if m, ok := read().(*message.RowsResult); !ok {
		t.Fatalf("after PREPARE: got %v, want rows", m)
	}
	// Other clients do not prepare again. Most drivers decode with the metadata of
	// the answer, if it has them.
	r := w.origin.Requests(cqltest.WithOpcode(primitive.OpCodeExecute))
	if r[len(r)-1].QueryFlags.Contains(primitive.QueryFlagSkipMetadata) {
		t.Error("the metadata are still skipped, want them sent for good")
	}
}

// Behind several proxies a node that forgot a statement at an ALTER may know it
// again from another one.
func TestAnAlterOfTheColumnsIsToldToTheClientThoughTheNodeKnowsTheStatement(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	const other = "SELECT v FROM ks.other WHERE k = 1"
	id, otherID, writeID := prepare(t, c, sel), prepare(t, c, other), prepare(t, c, insert)
	unprepared := func(id []byte) bool {
		e, ok := execute(t, c, id).(*message.Unprepared)
		return ok && bytes.Equal(e.Id, id)
	}
	for _, side := range phase.Sides {
		w.side(side).Emit(&message.SchemaChangeEvent{
			ChangeType: primitive.SchemaChangeTypeUpdated, Target: primitive.SchemaChangeTargetTable, Keyspace: "ks", Object: "t",
		})
		eventually(t, fmt.Sprintf("UNPREPARED after the event of %s", side), func() bool { return unprepared(id) })
		if unprepared(otherID) || unprepared(writeID) {
			t.Errorf("after the event of %s a read of another table, or a write, is to be prepared again", side)
		}
		if again := prepare(t, c, sel); !bytes.Equal(again, id) {
			t.Errorf("the id has changed from %x to %x; drivers do not put up with that", id, again)
		}
		if unprepared(id) {
			t.Errorf("after the event of %s: UNPREPARED once more, after PREPARE", side)
		}
	}
}

func TestATracedReadOfSystemLocalHasATraceID(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	id := primitive.UUID{1, 2, 3}
	const text = "SELECT rpc_address FROM system.local"
	for _, fails := range []bool{false, true} {
		w.origin.Handle(func(r cqltest.Request) cqltest.Reply {
			switch {
			case r.Text != text:
				return cqltest.Ordinary()
			case fails:
				return cqltest.Error(primitive.ErrorCodeServerError, "no")
			}
			return cqltest.Rows([]string{"rpc_address"}, []string{"the node's own"}).WithTracing(id)
		})
		nc, in := rawClient(t, w.addr)
		q := frame.Frame(queryFrame(7, text))
		q.SetFlags(frame.FlagTracing)
		if _, err := nc.Write(q); err != nil {
			t.Fatal(err)
		}
		f, err := in.Next()
		if err != nil {
			t.Fatal(err)
		}
		got, err := frame.SplitResponse(f)
		if err != nil || f.Stream() != 7 || bytes.Contains(got.Body, []byte("the node's own")) || frame.ResultKind(got.Body) != frame.ResultRows {
			t.Errorf("node fails %v: got % x, want rows of the proxy's own", fails, f)
		}
		if has := bytes.Equal(got.TracingID, id[:]); has == fails {
			t.Errorf("node fails %v: the trace id is %x", fails, got.TracingID)
		}
	}
}

func TestASilentSideEndsInTheErrorWhoseRetryRuleIsRight(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_request_timeout_ms": "300"})
	silent := func(r cqltest.Request) cqltest.Reply {
		if r.System() {
			return cqltest.Ordinary()
		}
		return cqltest.Silence()
	}
	w.target.Handle(silent)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	for text, want := range map[string]primitive.WriteType{
		insert:                           primitive.WriteTypeSimple,
		insert + " IF NOT EXISTS":        primitive.WriteTypeCas,
		"TRUNCATE ks.t":                  primitive.WriteTypeSimple,
		"CREATE TABLE ks.u (k int, ...)": primitive.WriteTypeSimple,
	} {
		e, ok := c.Query(t, text).(*message.WriteTimeout)
		if !ok || e.WriteType != want || e.Consistency != primitive.ConsistencyLevelLocalQuorum {
			t.Errorf("%s: got %v, want WRITE_TIMEOUT of type %s at the request's consistency", text, e, want)
		}
	}
	e, ok := c.Ask(t, &message.Batch{Type: primitive.BatchTypeLogged, Children: []*message.BatchChild{{Query: insert}}}).(*message.WriteTimeout)
	if !ok || e.WriteType != primitive.WriteTypeSimple {
		t.Errorf("a logged batch: got %v, want WRITE_TIMEOUT SIMPLE, never BATCH_LOG", e)
	}
	w.origin.Handle(silent)
	if e, ok := c.Query(t, sel).(*message.ReadTimeout); !ok || e.Received != 0 || e.DataPresent {
		t.Errorf("a read: got %v, want READ_TIMEOUT that no driver retries", e)
	}
}

func TestALostConnectionAnswersWhatWasInFlightAndIsOpenedAgain(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	w.target.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == insert {
			return cqltest.CloseConnection()
		}
		return cqltest.Ordinary()
	})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	if e, ok := c.Query(t, insert).(*message.WriteTimeout); !ok || e.WriteType != primitive.WriteTypeSimple {
		t.Errorf("got %v, want WRITE_TIMEOUT SIMPLE", e)
	}
	w.target.Handle(nil)
	mustVoid(t, c.Query(t, insert))
}

func TestANodeThatIsDownIsToldAtOnceAndNothingIsSentToTheOther(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	mustVoid(t, c.Query(t, insert))
	w.target.Stop()
	eventually(t, "the proxy notices", func() bool {
		w.origin.ClearRequests()
		_, ok := c.Query(t, insert).(*message.Unavailable)
		return ok
	})
	if got := w.seen(phase.Origin); len(got) != 0 {
		t.Errorf("origin got %v of a write that could not go to target, want nothing", got)
	}
	answerRows(w.origin, "origin")
	if got := who(t, c.Query(t, sel)); got != "origin" {
		t.Errorf("reads do not go on: %s", got)
	}
	w.target.Restart()
	eventually(t, "writes go on by themselves", func() bool {
		_, ok := c.Query(t, insert).(*message.VoidResult)
		return ok
	})
}

func TestTargetOnlyWorksWithOriginGone(t *testing.T) {
	t.Parallel()
	w := start(t, phase.CutOver, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	mustVoid(t, c.Query(t, insert))
	w.setPhase(t, phase.TargetOnly)
	w.origin.Stop()
	for range 10 {
		mustVoid(t, c.Query(t, insert))
	}
	mustVoid(t, cqltest.Dial(t, w.addr, cqltest.Login{}).Query(t, insert))
	if why := w.srv.NotReady(); len(why) != 0 {
		t.Errorf("not ready: %v, want ready without Origin", why)
	}
}

func TestLoginUsesTheClientsCredentialsOnOneSideAndTheConfiguredOnTheOther(t *testing.T) {
	t.Parallel()
	origin := cqltest.Options{Username: "o", Password: "origin-secret"}
	target := cqltest.Options{Username: "t", Password: "target-secret"}
	for _, tt := range []struct {
		mode           string
		user, password string
	}{{"target", "t", "target-secret"}, {"origin", "o", "origin-secret"}} {
		w := start(t, phase.DualWrite, origin, target, map[string]string{"client_credentials": tt.mode})
		c := cqltest.Dial(t, w.addr, cqltest.Login{Username: tt.user, Password: tt.password})
		mustVoid(t, c.Query(t, insert))
		for _, s := range phase.Sides {
			if got, want := w.side(s).Requests(cqltest.WithText("INSERT"))[0].Username, s.String()[:1]; got != want {
				t.Errorf("%s: %s served the write as %q, want %q", tt.mode, s, got, want)
			}
		}
		_, err := cqltest.Connect(t, w.addr, cqltest.Login{Username: tt.user, Password: "wrong"})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: a wrong password gives %v, want a refusal that tells no secret", tt.mode, err)
		}
	}
}

func TestALoginThatCannotBeCheckedNowClosesTheConnectionInsteadOfRefusingIt(t *testing.T) {
	t.Parallel()
	login := cqltest.Login{Username: "t", Password: "secret"}
	w := start(t, phase.DualWrite, cqltest.Options{Username: "o", Password: "secret"}, cqltest.Options{Username: "t", Password: "secret"}, nil)
	mustVoid(t, cqltest.Dial(t, w.addr, login).Query(t, insert))
	w.origin.Stop()
	eventually(t, "the connection is closed once the last login is too old", func() bool {
		_, err := cqltest.Connect(t, w.addr, login)
		var refused *cqltest.Refused
		if errors.As(err, &refused) {
			t.Fatalf("a side is down: the client was told %v; drivers take any ERROR for wrong credentials and never come back", err)
		}
		return err != nil
	})
	w.origin.Restart()
	eventually(t, "clients can log in again", func() bool {
		_, err := cqltest.Connect(t, w.addr, login)
		return err == nil
	})
}

func TestOtherProtocolVersionsAreRefusedSoThatDriversStepDown(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	for _, version := range []byte{1, 2, 5, 6, 0x41, 0x42} {
		nc, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		startup := frame.AppendHeader(nil, frame.Version(version), false, 0, 7, frame.OpStartup, 0)
		if _, err := nc.Write(startup); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(nc) // the proxy closes after it
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		f := frame.Frame(answer)
		e, err := frame.ParseError(f.Body(), f.Version())
		// gocql steps down only on stream 0; the version tells which to take.
		if err != nil || f.Version() != frame.V4 || f.Stream() != 0 || e.Code != frame.ErrProtocol {
			t.Errorf("version %d: got frame %x, want a protocol error in v4 on stream 0", version, answer)
		}
		want := fmt.Sprintf("Invalid or unsupported protocol version (%d); the lowest supported version is 3 and the greatest is 4", version)
		if string(e.Message) != want {
			t.Errorf("version %d: told %q, want %q", version, e.Message, want)
		}
	}
}

func TestAUseThatOneSideRefusesHoldsNothingOnTheOther(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"upstream_max_pools": "3"})
	w.target.Handle(func(r cqltest.Request) cqltest.Reply {
		if strings.Contains(r.Text, "only_on_origin") {
			return cqltest.Error(primitive.ErrorCodeInvalid, "no such keyspace")
		}
		return cqltest.Ordinary()
	})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	c.Query(t, "USE app")
	for i := range 10 {
		m := c.Query(t, fmt.Sprintf("USE only_on_origin_%d", i))
		if _, ok := m.(*message.Invalid); !ok {
			t.Fatalf("USE %d: got %v, want what Target says", i, m)
		}
	}
	mustVoid(t, c.Query(t, "INSERT INTO t (k) VALUES (1)"))
	for _, s := range phase.Sides {
		if got := w.side(s).WaitFor(t, 1, cqltest.WithText("INSERT INTO t"))[0]; got.Keyspace != "app" {
			t.Errorf("%s: the write ran in keyspace %q, want app", s, got.Keyspace)
		}
	}
}

func TestUseMovesTheSessionOnBothSides(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	if m, ok := c.Query(t, `USE "App"`).(*message.SetKeyspaceResult); !ok || m.Keyspace != "App" {
		t.Fatalf("USE: got %v, want SET_KEYSPACE App", m)
	}
	mustVoid(t, c.Query(t, "INSERT INTO t (k) VALUES (1)"))
	for _, s := range phase.Sides {
		got := w.side(s).WaitFor(t, 1, cqltest.WithText("INSERT INTO t"))[0]
		if got.Keyspace != "App" {
			t.Errorf("%s: the write ran in keyspace %q, want App", s, got.Keyspace)
		}
	}
	if m, ok := cqltest.Dial(t, w.addr, cqltest.Login{}).Query(t, insert).(*message.VoidResult); !ok {
		t.Errorf("another client's session is touched: %v", m)
	}
}

func TestDrainAnswersWhatIsInFlightAndTakesNoNewClients(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	release := make(chan struct{})
	w.target.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == insert {
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	answer := c.Send(&message.Query{Query: insert})
	w.target.WaitFor(t, 1, cqltest.WithText(insert))
	drained := make(chan error, 1)
	go func() { drained <- w.srv.Drain(context.Background(), nil) }()
	eventually(t, "new clients are refused", func() bool {
		_, err := cqltest.Connect(t, w.addr, cqltest.Login{})
		return err != nil
	})
	close(release)
	mustVoid(t, c.Await(t, answer).Message())
	select {
	case err := <-drained:
		if err != nil {
			t.Errorf("Drain: %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("Drain does not end")
	}
	<-c.Done()
}

func TestAPreparedUseMovesOnlyTheSessionThatExecutesIt(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c, other := cqltest.Dial(t, w.addr, cqltest.Login{}), cqltest.Dial(t, w.addr, cqltest.Login{})
	id := prepare(t, c, "USE app")
	if m, ok := execute(t, c, id).(*message.SetKeyspaceResult); !ok || m.Keyspace != "app" {
		t.Fatalf("EXECUTE of USE: got %v, want SET_KEYSPACE app", m)
	}
	mustVoid(t, c.Query(t, "INSERT INTO mine (k) VALUES (1)"))
	mustVoid(t, other.Query(t, "INSERT INTO theirs (k) VALUES (1)"))
	for _, s := range phase.Sides {
		if got := w.side(s).WaitFor(t, 1, cqltest.WithText("INTO mine"))[0].Keyspace; got != "app" {
			t.Errorf("%s: the session's own write ran in keyspace %q, want app", s, got)
		}
		if got := w.side(s).WaitFor(t, 1, cqltest.WithText("INTO theirs"))[0].Keyspace; got != "" {
			t.Errorf("%s: another session's write ran in keyspace %q, want none", s, got)
		}
	}
}

func TestAReadIsPreparedWhileTheOtherClusterIsDown(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	answerRows(w.origin, "origin")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	mustVoid(t, c.Query(t, insert))
	w.target.Stop()
	eventually(t, "the proxy notices", func() bool {
		_, ok := c.Query(t, insert).(*message.Unavailable)
		return ok
	})
	if got := who(t, execute(t, c, prepare(t, c, sel))); got != "origin" {
		t.Errorf("%s answered, want origin", got)
	}
	if e, ok := c.Ask(t, &message.Prepare{Query: insert}).(*message.Overloaded); !ok {
		t.Errorf("PREPARE of a write: got %v, want OVERLOADED: nothing was sent, and another host may do", e)
	}
}

// A node that is stopped, and not dead, takes connections and requests, and says
// nothing for as long as a request may take.
func TestAReadIsPreparedAndAnsweredWhileANodeOfTheOtherClusterIsStopped(t *testing.T) {
	t.Parallel()
	for _, p := range []phase.Phase{phase.DualWrite, phase.DualRead, phase.CutOver} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			w := start(t, p, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_request_timeout_ms": "60000"})
			primary := p.Rule().Primary
			answerRows(w.side(primary), "primary")
			c := cqltest.Dial(t, w.addr, cqltest.Login{})
			mustVoid(t, c.Query(t, insert))
			stopped := w.side(primary.Other())
			stopped.Freeze()
			defer stopped.Thaw()
			id := prepare(t, c, sel)
			if got := who(t, execute(t, c, id)); got != "primary" {
				t.Errorf("%s answered, want the primary", got)
			}
			if again := prepare(t, c, sel); !bytes.Equal(again, id) {
				t.Errorf("the id is %x the second time, and was %x", again, id)
			}
			stopped.Thaw()
			stopped.WaitFor(t, 1, cqltest.WithText(sel), cqltest.WithOpcode(primitive.OpCodePrepare))
		})
	}
}

// Without connections it is the same, and the side prepares when it is needed.
func TestAReadIsPreparedWhileTheOtherClusterTakesNoConnection(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_request_timeout_ms": "60000"})
	answerRows(w.origin, "origin")
	answerRows(w.target, "target")
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	mustVoid(t, c.Query(t, insert))
	w.target.Freeze()
	w.target.DropConnections()
	id := prepare(t, c, sel)
	if got := who(t, execute(t, c, id)); got != "origin" {
		t.Errorf("%s answered, want origin", got)
	}
	w.target.Thaw()
	w.setPhase(t, phase.DualRead)
	w.setPhase(t, phase.CutOver)
	if got := who(t, execute(t, c, id)); got != "target" {
		t.Errorf("after the cut-over %s answered, want target", got)
	}
}
