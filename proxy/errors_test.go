package proxy_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// told is what a client hears, as far as retry rules look at it.
func told(m message.Message) string {
	switch m := m.(type) {
	case *message.WriteTimeout:
		return fmt.Sprintf("WRITE_TIMEOUT %s %s %d/%d", m.WriteType, levels[m.Consistency], m.Received, m.BlockFor)
	case *message.ReadTimeout:
		return fmt.Sprintf("READ_TIMEOUT %s %d/%d data %v", levels[m.Consistency], m.Received, m.BlockFor, m.DataPresent)
	case *message.Unavailable:
		return fmt.Sprintf("UNAVAILABLE %s %d/%d", levels[m.Consistency], m.Alive, m.Required)
	case message.Error:
		return m.GetErrorCode().String()
	}
	return m.GetOpCode().String()
}

const quorum = primitive.ConsistencyLevelQuorum

var levels = map[primitive.ConsistencyLevel]string{quorum: "QUORUM", primitive.ConsistencyLevelSerial: "SERIAL"}

func queryOf(text string) message.Message {
	return &message.Query{Query: text, Options: &message.QueryOptions{Consistency: quorum}}
}

func batchOf(kind primitive.BatchType, texts ...string) message.Message {
	b := &message.Batch{Type: kind, Consistency: quorum}
	for _, text := range texts {
		b.Children = append(b.Children, &message.BatchChild{Query: text})
	}
	return b
}

// Every row of the table in docs/design/errors.md for what has no answer.
func TestEachKindOfStatementIsToldALossAsTheTableSays(t *testing.T) {
	t.Parallel()
	const (
		simple   = "WRITE_TIMEOUT SIMPLE QUORUM 0/1"
		read     = "READ_TIMEOUT QUORUM 0/1 data false"
		appended = "UPDATE ks.t SET l = l + [1] WHERE k = 1"
	)
	kinds := []struct {
		what string
		m    message.Message
		lost string // the connection breaks after the request has come
		down string // no node is there; "" for the usual one
	}{
		{"read", queryOf(sel), read, ""},
		{"serial read", &message.Query{Query: sel, Options: &message.QueryOptions{Consistency: primitive.ConsistencyLevelSerial}}, "READ_TIMEOUT SERIAL 0/1 data false", "UNAVAILABLE SERIAL 0/1"},
		{"DESCRIBE", queryOf("DESCRIBE TABLES"), read, ""},
		{"system query", queryOf("SELECT keyspace_name FROM system_schema.keyspaces"), read, ""},
		{"INSERT", queryOf(insert), simple, ""},
		{"UPDATE that is not idempotent", queryOf(appended), simple, ""},
		{"DELETE", queryOf("DELETE FROM ks.t WHERE k = 1"), simple, ""},
		{"TRUNCATE", queryOf("TRUNCATE ks.t"), simple, ""},
		{"DDL", queryOf("ALTER TABLE ks.t ADD w int"), simple, ""},
		{"role", queryOf("CREATE ROLE r"), simple, ""},
		{"what cannot be read", queryOf("FROBNICATE ks.t"), simple, ""},
		{"LWT", queryOf("UPDATE ks.t SET v = 1 WHERE k = 1 IF v = 2"), "WRITE_TIMEOUT CAS QUORUM 0/1", ""},
		{"counter", queryOf(count), "WRITE_TIMEOUT COUNTER QUORUM 0/1", ""},
		{"COUNTER batch", batchOf(primitive.BatchTypeCounter, count), "WRITE_TIMEOUT COUNTER QUORUM 0/1", ""},
		{"LOGGED batch", batchOf(primitive.BatchTypeLogged, insert, insert), simple, ""},
		{"idempotent UNLOGGED batch", batchOf(primitive.BatchTypeUnlogged, insert, insert), "WRITE_TIMEOUT UNLOGGED_BATCH QUORUM 0/1", ""},
		{"other UNLOGGED batch", batchOf(primitive.BatchTypeUnlogged, insert, appended), "WRITE_TIMEOUT UNLOGGED_BATCH QUORUM 0/1", ""},
		{"UNLOGGED batch as text", queryOf("BEGIN UNLOGGED BATCH " + appended + "; APPLY BATCH"), "WRITE_TIMEOUT UNLOGGED_BATCH QUORUM 0/1", ""},
		{"batch with a condition", batchOf(primitive.BatchTypeUnlogged, insert+" IF NOT EXISTS"), "WRITE_TIMEOUT CAS QUORUM 0/1", ""},
		{"PREPARE", &message.Prepare{Query: insert}, primitive.ErrorCodeOverloaded.String(), primitive.ErrorCodeOverloaded.String()},
		{"USE", queryOf("USE ks"), primitive.ErrorCodeOverloaded.String(), primitive.ErrorCodeOverloaded.String()},
	}
	for _, k := range kinds {
		t.Run(k.what, func(t *testing.T) {
			t.Parallel()
			w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
			c := cqltest.Dial(t, w.addr, cqltest.Login{})
			c.Query(t, "USE ks")
			c.Query(t, insert)
			w.origin.Handle(func(r cqltest.Request) cqltest.Reply {
				if r.Opcode == primitive.OpCodeRegister || r.System() && r.Text != "SELECT keyspace_name FROM system_schema.keyspaces" || r.Text == "" {
					return cqltest.Ordinary()
				}
				return cqltest.CloseConnection()
			})
			if got := told(c.Ask(t, k.m)); got != k.lost {
				t.Errorf("lost: the client is told %s, want %s", got, k.lost)
			}
			w.origin.Stop()
			down := k.down
			if down == "" {
				down = "UNAVAILABLE QUORUM 0/1"
			}
			w.origin.Handle(nil)
			eventually(t, "the proxy notices that the node is down", func() bool { return told(c.Ask(t, k.m)) == down })
			w.target.ClearRequests()
			if got := told(c.Ask(t, k.m)); got != down {
				t.Errorf("down: the client is told %s, want %s", got, down)
			}
			if got := w.seen(phase.Target); len(got) > 0 {
				t.Errorf("down: Target got %v, want nothing of a request that Origin cannot have", got)
			}
		})
	}
}

// Every row of the table for a write that one side refuses and the other one has.
func TestWhatOneSideRefusesAndTheOtherHasIsToldAsTheTableSays(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	batchLog := &message.WriteTimeout{ErrorMessage: "refused", Consistency: quorum, Received: 1, BlockFor: 2, WriteType: primitive.WriteTypeBatchLog}
	refusals := map[string]struct {
		reply   cqltest.Reply
		unasked bool // some driver sends again without asking
	}{
		"SERVER_ERROR":     {cqltest.Error(primitive.ErrorCodeServerError, "refused"), true},
		"OVERLOADED":       {cqltest.Error(primitive.ErrorCodeOverloaded, "refused"), true},
		"UNAVAILABLE":      {cqltest.Error(primitive.ErrorCodeUnavailable, "refused"), true},
		"IS_BOOTSTRAPPING": {cqltest.Error(primitive.ErrorCodeIsBootstrapping, "refused"), true},
		"TRUNCATE_ERROR":   {cqltest.Error(primitive.ErrorCodeTruncateError, "refused"), true},
		"batch log":        {cqltest.Message(batchLog), true},
		"INVALID":          {cqltest.Error(primitive.ErrorCodeInvalid, "refused"), false},
		"UNAUTHORIZED":     {cqltest.Error(primitive.ErrorCodeUnauthorized, "refused"), false},
		"WRITE_TIMEOUT":    {cqltest.Error(primitive.ErrorCodeWriteTimeout, "refused"), false},
		"WRITE_FAILURE":    {cqltest.Error(primitive.ErrorCodeWriteFailure, "refused"), false},
	}
	statements := map[string]struct {
		m          message.Message
		idempotent bool
		kind       string
	}{
		"INSERT":        {queryOf(insert), true, ""},
		"TRUNCATE":      {queryOf("TRUNCATE ks.t"), false, "SIMPLE"},
		"counter":       {queryOf(count), false, "COUNTER"},
		"LWT":           {queryOf(insert + " IF NOT EXISTS"), false, "CAS"},
		"LOGGED batch":  {batchOf(primitive.BatchTypeLogged, insert, "UPDATE ks.t SET l = l + [1] WHERE k = 1"), false, "SIMPLE"},
		"counter batch": {batchOf(primitive.BatchTypeCounter, count), false, "COUNTER"},
	}
	for _, side := range phase.Sides {
		for name, refusal := range refusals {
			w.side(side).Handle(func(r cqltest.Request) cqltest.Reply {
				if r.System() {
					return cqltest.Ordinary()
				}
				return refusal.reply
			})
			for what, st := range statements {
				m := c.Ask(t, st.m)
				if refusal.unasked && !st.idempotent {
					if got, want := told(m), "WRITE_TIMEOUT "+st.kind+" QUORUM 0/1"; got != want {
						t.Errorf("%s refuses a %s with %s: the client is told %s, want %s", side, what, name, got, want)
					}
					continue
				}
				if e, ok := m.(message.Error); !ok || e.GetErrorMessage() != "refused" {
					t.Errorf("%s refuses a %s with %s: the client is told %v, want the node's own words", side, what, name, m)
				}
			}
		}
		w.side(side).Handle(nil)
	}
}

// ledger counts what a scripted side has applied, by a number that is unique to
// each increment.
type ledger struct {
	mu      sync.Mutex
	applied map[uint32]int
}

func (l *ledger) apply(r cqltest.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range valuesOf(r) {
		l.applied[v]++
	}
}

func (l *ledger) of(v uint32) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.applied[v]
}

// valuesOf are the numbers in a request: those bound, of each child of a BATCH.
func valuesOf(r cqltest.Request) (out []uint32) {
	all := r.Values
	for _, c := range r.Children {
		all = append(all, c.Values...)
	}
	for _, v := range all {
		out = append(out, binary.BigEndian.Uint32(v.Contents))
	}
	return out
}

// Increments of counters, in every form that a request has, while nodes forget
// statements, refuse, say nothing and break their connections before and after
// they have applied something. A client sends each once; so must the proxy.
func TestNothingIsAppliedTwiceWhateverBreaks(t *testing.T) {
	t.Parallel()
	const bound = "UPDATE ks.c SET n = n + 1 WHERE k = ?"
	const elsewhere = "UPDATE c SET n = n + 1 WHERE k = ?"
	w := start(t, phase.DualWrite, cqltest.Options{Salt: "origin", Lenient: true}, cqltest.Options{Salt: "target", Lenient: true},
		map[string]string{"proxy_request_timeout_ms": "300", "upstream_connections_per_node": "2"})
	ledgers := [2]*ledger{{applied: map[uint32]int{}}, {applied: map[uint32]int{}}}
	for _, s := range phase.Sides {
		n, l := w.side(s), ledgers[s]
		var mu sync.Mutex
		r := rand.New(rand.NewPCG(uint64(s), 9))
		n.Handle(func(q cqltest.Request) cqltest.Reply {
			if q.System() || strings.HasPrefix(q.Text, "USE") {
				return cqltest.Ordinary()
			}
			mu.Lock()
			dice := r.IntN(40)
			mu.Unlock()
			if q.Opcode == primitive.OpCodePrepare {
				switch dice {
				case 0:
					return cqltest.CloseConnection()
				case 1:
					return cqltest.Error(primitive.ErrorCodeServerError, "refused")
				}
				return cqltest.Ordinary()
			}
			switch dice {
			case 0:
				return cqltest.CloseConnection() // before it applied anything
			case 1:
				l.apply(q)
				return cqltest.CloseConnection()
			case 2:
				l.apply(q)
				return cqltest.Silence()
			case 3:
				return cqltest.Error(primitive.ErrorCodeOverloaded, "refused")
			case 4:
				return cqltest.Error(primitive.ErrorCodeUnavailable, "refused")
			case 5, 6, 7, 8:
				n.Forget(nil)
			}
			for _, id := range idsOf(q) {
				if !n.Knows(id) {
					return cqltest.Unprepared(id)
				}
			}
			l.apply(q)
			return cqltest.Void()
		})
	}
	var next struct {
		sync.Mutex
		n uint32
	}
	number := func() (uint32, *primitive.Value) {
		next.Lock()
		defer next.Unlock()
		next.n++
		return next.n, primitive.NewValue(binary.BigEndian.AppendUint32(nil, next.n))
	}
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 3))
			c := cqltest.Dial(t, w.addr, cqltest.Login{})
			prepared := func(keyspace, text string) []byte {
				for range 50 {
					if keyspace != "" {
						if _, ok := c.Query(t, "USE "+keyspace).(*message.SetKeyspaceResult); !ok {
							continue
						}
					}
					if p, ok := c.Ask(t, &message.Prepare{Query: text}).(*message.PreparedResult); ok {
						return p.PreparedQueryId
					}
				}
				t.Errorf("%s could not be prepared", text)
				return nil
			}
			ids := [][]byte{prepared("", bound), prepared("one", elsewhere), prepared("other", elsewhere)}
			for range 60 {
				var m message.Message
				var numbers []uint32
				v, value := number()
				numbers = append(numbers, v)
				values := []*primitive.Value{value}
				options := &message.QueryOptions{Consistency: quorum, PositionalValues: values}
				switch id := ids[r.IntN(len(ids))]; r.IntN(3) {
				case 0:
					m = &message.Query{Query: bound, Options: options}
				case 1:
					m = &message.Execute{QueryId: id, Options: options}
				default:
					b := &message.Batch{Type: primitive.BatchTypeCounter, Consistency: quorum, Children: []*message.BatchChild{{Id: id, Values: values}}}
					for _, id := range ids[:r.IntN(3)] {
						v, value := number()
						numbers = append(numbers, v)
						b.Children = append(b.Children, &message.BatchChild{Id: id, Values: []*primitive.Value{value}})
					}
					m = b
				}
				answer := c.Ask(t, m)
				_, success := answer.(*message.VoidResult)
				for _, s := range phase.Sides {
					for _, v := range numbers {
						n := ledgers[s].of(v)
						switch {
						case n > 1:
							t.Errorf("%v: %s applied %d of %T %d times", told(answer), s, v, m, n)
						case success && n != 1:
							t.Errorf("success: %s applied %d of %T %d times", s, v, m, n)
						case n > 0 && sentAgainUnasked(answer):
							t.Errorf("%v: %s has applied %d of %T, and a driver sends it again", told(answer), s, v, m)
						}
					}
				}
			}
		})
	}
	clients.Wait()
	for _, s := range phase.Sides {
		for v, n := range ledgers[s].applied {
			if n > 1 {
				t.Errorf("%s has applied %d %d times in the end", s, v, n)
			}
		}
	}
}

func idsOf(r cqltest.Request) (out [][]byte) {
	if r.ID != nil {
		out = append(out, r.ID)
	}
	for _, c := range r.Children {
		if len(c.ID) > 0 {
			out = append(out, c.ID)
		}
	}
	return out
}

// sentAgainUnasked tells the errors after which some driver sends again though the
// statement is not marked idempotent.
func sentAgainUnasked(m message.Message) bool {
	switch m := m.(type) {
	case *message.ServerError, *message.Overloaded, *message.Unavailable, *message.IsBootstrapping, *message.TruncateError, *message.Unprepared:
		return true
	case *message.WriteTimeout:
		return m.WriteType == primitive.WriteTypeBatchLog
	}
	return false
}
