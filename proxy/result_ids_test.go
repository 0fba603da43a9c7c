package proxy_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// reader is a client of v5 with what it knows of a statement: as drivers do, it
// asks for no metadata, and takes over those that come with a new id.
type reader struct {
	t       *testing.T
	c       *cqltest.Client
	id      []byte
	known   []byte // id of the result metadata
	columns []string
}

func newReader(t *testing.T, w *world, v primitive.ProtocolVersion) *reader {
	t.Helper()
	c := cqltest.Dial(t, w.addr, cqltest.Login{Version: v})
	p := prepareResult(t, c, sel)
	return &reader{t: t, c: c, id: p.PreparedQueryId, known: p.ResultMetadataId, columns: columnNames(p.ResultMetadata)}
}

func columnNames(m *message.RowsMetadata) (names []string) {
	for _, c := range m.Columns {
		names = append(names, c.Name)
	}
	return names
}

// read executes the statement, and returns whether its metadata came too. It fails
// if the columns that the client decodes with by then are not those of the rows.
func (r *reader) read(want ...string) (told bool) {
	r.t.Helper()
	m := r.c.Ask(r.t, &message.Execute{QueryId: r.id, ResultMetadataId: r.known, Options: &message.QueryOptions{SkipMetadata: true}})
	rows, ok := m.(*message.RowsResult)
	if !ok {
		r.t.Fatalf("got %v, want rows", m)
	}
	if rows.Metadata.NewResultMetadataId != nil {
		r.known, r.columns = rows.Metadata.NewResultMetadataId, columnNames(rows.Metadata)
	}
	if fmt.Sprint(r.columns) != fmt.Sprint(want) {
		r.t.Errorf("the client decodes with %v, want %v", r.columns, want)
	}
	return rows.Metadata.NewResultMetadataId != nil
}

// lastResultID is what a side got with its last EXECUTE.
func lastResultID(w *world, s phase.Side) []byte {
	got := w.side(s).Requests(cqltest.WithOpcode(primitive.OpCodeExecute))
	return got[len(got)-1].Message.(*message.Execute).ResultMetadataId
}

var eachWithResultIDs = []primitive.ProtocolVersion{primitive.ProtocolVersion5, primitive.ProtocolVersionDse2}

func TestEachSideGetsItsOwnResultMetadataIDAndTheClientKeepsIts(t *testing.T) {
	t.Parallel()
	for _, v := range eachWithResultIDs {
		w := startAll(t, phase.DualWrite, nil)
		for _, s := range phase.Sides {
			w.side(s).Describe(sel, cqltest.Statement{Columns: cqltest.TextColumns("k", "v")})
		}
		r := newReader(t, w, v)
		first := bytes.Clone(r.known)
		for _, p := range []phase.Phase{phase.DualWrite, phase.DualRead, phase.CutOver, phase.TargetOnly, phase.CutOver, phase.DualRead} {
			w.setPhase(t, p)
			if r.read("k", "v") {
				t.Errorf("%v, %s: the metadata were sent, though the columns are those of PREPARE", v, p)
			}
			primary := p.Rule().Primary
			if got := lastResultID(w, primary); bytes.Equal(got, first) != (primary == phase.Origin) {
				t.Errorf("%v, %s: %s got the id %x, want its own (the client's is %x)", v, p, primary, got, first)
			}
		}
		if !bytes.Equal(r.known, first) {
			t.Errorf("%v: the client's id has become %x, want the %x that it was told", v, r.known, first)
		}
	}
}

// PREPARE is answered by one side and EXECUTE by another one that was never asked
// to prepare.
func TestAStatementPreparedBeforeTargetTookPartIsReadThereWithTargetsColumns(t *testing.T) {
	t.Parallel()
	for _, same := range []bool{true, false} {
		w := startAll(t, phase.OriginOnly, map[string]string{"client_credentials": "origin"})
		w.origin.Describe(sel, cqltest.Statement{Columns: cqltest.TextColumns("k", "v")})
		order := []string{"k", "v"}
		if !same {
			order = []string{"v", "k"}
		}
		w.target.Describe(sel, cqltest.Statement{Columns: cqltest.TextColumns(order...)})
		r := newReader(t, w, primitive.ProtocolVersion5)
		for _, p := range []phase.Phase{phase.DualWrite, phase.DualRead, phase.CutOver} {
			w.setPhase(t, p)
		}
		if told := r.read(order...); told == same {
			t.Errorf("same columns %v: the metadata were sent: %v", same, told)
		}
		if r.read(order...) {
			t.Errorf("same columns %v: the metadata were sent again, though the client knows them", same)
		}
	}
}

func TestAClientFollowsTheColumnsOfWhoeverAnswers(t *testing.T) {
	t.Parallel()
	w := startAll(t, phase.DualRead, nil)
	w.origin.Describe(sel, cqltest.Statement{Columns: cqltest.TextColumns("k", "v")})
	w.target.Describe(sel, cqltest.Statement{Columns: cqltest.TextColumns("v", "k")})
	one, other := newReader(t, w, primitive.ProtocolVersion5), newReader(t, w, primitive.ProtocolVersion5)
	read := func(order ...string) {
		t.Helper()
		for _, r := range []*reader{one, other} {
			r.read(order...)
			if r.read(order...) {
				t.Error("the metadata were sent again, though the client knows them")
			}
		}
	}
	read("k", "v")
	w.setPhase(t, phase.CutOver)
	read("v", "k")
	w.setPhase(t, phase.DualRead)
	read("k", "v")
}

func TestAnAlterOnOneSideReachesTheClientsThatReadThere(t *testing.T) {
	t.Parallel()
	for _, forgets := range []bool{true, false} { // Cassandra forgets the statement, others may not
		w := startAll(t, phase.CutOver, nil)
		for _, s := range phase.Sides {
			w.side(s).Describe(sel, cqltest.Statement{Columns: cqltest.TextColumns("k", "v")})
		}
		early := newReader(t, w, primitive.ProtocolVersion5)
		early.read("k", "v")
		old := prepareResult(t, cqltest.Dial(t, w.addr, cqltest.Login{}), sel) // a client of v4 on the same statement
		altered := cqltest.Statement{Columns: cqltest.TextColumns("k", "v", "w")}
		w.target.Describe(sel, altered)
		if forgets {
			w.target.Forget(nil)
		} else {
			prepareResult(t, cqltest.Dial(t, w.target.Addr().String(), cqltest.Login{Version: primitive.ProtocolVersion5}), sel)
		}
		if !early.read("k", "v", "w") {
			t.Errorf("forgets %v: the client was not told of the new column", forgets)
		}
		late := newReader(t, w, primitive.ProtocolVersion5)
		if !bytes.Equal(late.id, old.PreparedQueryId) {
			t.Errorf("forgets %v: the id has changed from %x to %x", forgets, old.PreparedQueryId, late.id)
		}
		for range 2 {
			late.read("k", "v", "w")
			if early.read("k", "v", "w") {
				t.Errorf("forgets %v: the metadata were sent again, though the client knows them", forgets)
			}
		}
		// Origin's columns are still the old ones.
		w.setPhase(t, phase.DualRead)
		early.read("k", "v")
		late.read("k", "v")
	}
}

func TestAnIDOfLongAgoIsToldTheColumnsOfToday(t *testing.T) {
	t.Parallel()
	w := startAll(t, phase.CutOver, nil)
	for _, s := range phase.Sides {
		w.side(s).Describe(sel, cqltest.Statement{Columns: cqltest.TextColumns("k", "v")})
	}
	r := newReader(t, w, primitive.ProtocolVersion5)
	r.known, r.columns = []byte("of another proxy"), nil
	if !r.read("k", "v") || r.read("k", "v") {
		t.Error("want the metadata once")
	}
	r.known, r.columns = []byte("one of another length"), nil
	if !r.read("k", "v") || r.read("k", "v") {
		t.Error("want the metadata once")
	}
}
