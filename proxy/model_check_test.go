package proxy_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// promised is what the phases mean to a client, written down once more: the
// proxy's own table may be wrong.
var promised = map[phase.Phase]struct {
	primary phase.Side
	writes  phase.Set
}{
	phase.OriginOnly: {phase.Origin, phase.Of(phase.Origin)},
	phase.DualWrite:  {phase.Origin, phase.Both},
	phase.DualRead:   {phase.Origin, phase.Both},
	phase.CutOver:    {phase.Target, phase.Both},
	phase.TargetOnly: {phase.Target, phase.Of(phase.Target)},
}

// judge holds what the clients were told against what the nodes applied. That
// each request has one answer, and that it decodes, the clients themselves have
// seen to.
func (m *model) judge(total *tally) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wrongf := func(r *record, format string, args ...any) {
		m.wrong = append(m.wrong, fmt.Sprintf("id-%d: %s", r.id, fmt.Sprintf(format, args...)))
	}
	log := m.log.take()
	for _, secret := range []string{originPassword, targetPassword} {
		if strings.Contains(log, secret) {
			m.wrong = append(m.wrong, "a password is in the log:\n"+log)
		}
	}
	mustSucceed := clean(m.steps) && isPatient(m.seed)
	for _, r := range m.records {
		if r.form.mutates() {
			r.judgeWrite(wrongf)
		}
		e, failed := r.told.(message.Error)
		switch {
		case r.closed:
			total.add("closed by the client")
			continue
		case r.told == nil:
			continue // told of already
		case failed:
			total.add(e.GetErrorCode().String())
			r.judgeError(e, wrongf)
			// A read that is prepared on a side only when that side first answers it, and
			// has other columns there, has its client prepare it again.
			again := r.form == readPrepared && e.GetErrorCode() == primitive.ErrorCodeUnprepared
			if mustSucceed && !again {
				wrongf(r, "failed, though nothing went wrong: %v", e)
			}
		case r.form.mutates():
			total.add("write succeeded")
			r.judgeSuccess(wrongf)
		case r.form == read, r.form == readPrepared, r.form == nextPage:
			total.add(r.form.String() + " succeeded")
			r.judgeRead(m.records[r.of], wrongf)
		}
	}
	total.history()
}

type complain func(r *record, format string, args ...any)

// judgeWrite: a side applies a write once at most, and only if a phase says so;
// and both get the same bytes.
func (r *record) judgeWrite(wrongf complain) {
	for _, side := range phase.Sides {
		if r.applied[side] > 1 {
			wrongf(r, "%s applied it %d times", side, r.applied[side])
		}
		if r.body[side] != nil && !slices.ContainsFunc(r.window, func(p phase.Phase) bool { return promised[p].writes.Has(side) }) {
			wrongf(r, "%s got it, in the phases %v", side, r.window)
		}
	}
	if a, b := r.body[phase.Origin], r.body[phase.Target]; a != nil && b != nil && !bytes.Equal(a, b) {
		wrongf(r, "the copies differ: %q and %q", a, b)
	}
}

// judgeSuccess: a write that succeeded is on all sides of a phase.
func (r *record) judgeSuccess(wrongf complain) {
	if !slices.ContainsFunc(r.window, func(p phase.Phase) bool {
		for _, side := range promised[p].writes.Each() {
			if r.applied[side] == 0 {
				return false
			}
		}
		return true
	}) {
		wrongf(r, "a success, but applied by origin %d times, by target %d times", r.applied[phase.Origin], r.applied[phase.Target])
	}
	if rows, ok := r.told.(*message.RowsResult); r.form == conditional {
		if !ok {
			wrongf(r, "got %v, want whether it was applied", r.told)
		} else if who := string(rows.Data[0][1]); !r.primary(who) {
			wrongf(r, "%s said whether it was applied", who)
		}
	}
}

// primary reports whether a side answers in one of the phases.
func (r *record) primary(who string) bool {
	return slices.ContainsFunc(r.window, func(p phase.Phase) bool { return promised[p].primary.String() == who })
}

// invites are the errors after which some driver sends again without asking
// whether that is safe.
func invites(e message.Error) bool {
	switch e.GetErrorCode() {
	case primitive.ErrorCodeServerError, primitive.ErrorCodeOverloaded, primitive.ErrorCodeUnavailable, primitive.ErrorCodeIsBootstrapping,
		primitive.ErrorCodeTruncateError, primitive.ErrorCodeUnprepared, primitive.ErrorCodeReadTimeout:
		return true
	}
	t, ok := e.(*message.WriteTimeout)
	return ok && t.WriteType == primitive.WriteTypeBatchLog
}

func (r *record) judgeError(e message.Error, wrongf complain) {
	write, read := false, false
	switch e.GetErrorCode() {
	case primitive.ErrorCodeWriteTimeout, primitive.ErrorCodeWriteFailure:
		write = true
	case primitive.ErrorCodeReadTimeout, primitive.ErrorCodeReadFailure:
		read = true
	case primitive.ErrorCodeProtocolError, primitive.ErrorCodeAuthenticationError, primitive.ErrorCodeSyntaxError:
		wrongf(r, "told %v, which nobody said", e)
	}
	// A node may tell an error of a read for the PREPARE on the way to a write.
	if write && !r.form.mutates() || read && r.form.mutates() && e.GetErrorMessage() != "scripted" {
		wrongf(r, "told %v", e)
	}
	if r.form.mutates() && !r.form.idempotent() && invites(e) && r.applied != [2]int{} {
		wrongf(r, "told %v, after which a driver sends it again, but applied by origin %d times, by target %d times", e, r.applied[phase.Origin], r.applied[phase.Target])
	}
	if t, ok := e.(*message.WriteTimeout); ok && t.ErrorMessage != "scripted" {
		want := primitive.WriteTypeSimple
		switch r.form {
		case conditional:
			want = primitive.WriteTypeCas
		case counter, appendPrepared: // with a bind marker it might be one
			want = primitive.WriteTypeCounter
		case batchUnlogged:
			want = primitive.WriteTypeUnloggedBatch
		}
		if t.WriteType != want {
			wrongf(r, "told a time-out of type %s, want %s", t.WriteType, want)
		}
	}
	if u, ok := e.(*message.Unprepared); ok && !bytes.Equal(u.Id, r.sent) {
		wrongf(r, "told UNPREPARED of %x, sent %x", u.Id, r.sent)
	}
}

// judgeRead: the row is the one that was asked for, from the side that answers,
// and the client can read it by the columns that it was told.
func (r *record) judgeRead(prepared *record, wrongf complain) {
	rows, ok := r.told.(*message.RowsResult)
	if !ok {
		wrongf(r, "got %v, want rows", r.told)
		return
	}
	var columns *message.PreparedResult
	if prepared != nil {
		columns = prepared.told.(*message.PreparedResult)
	}
	row := r.rows(columns)
	if !strings.HasPrefix(row["id"], fmt.Sprintf("id-%d of ", r.id)) {
		wrongf(r, "got the row %v", row)
	}
	if r.form == nextPage {
		if row["who"] != r.state.issuer {
			wrongf(r, "the page is from %s, the one before from %s", row["who"], r.state.issuer)
		}
	} else if !r.primary(row["who"]) {
		wrongf(r, "answered by %s, in the phases %v", row["who"], r.window)
	}
	if r.pages != (rows.Metadata.PagingState != nil) {
		wrongf(r, "more pages: %t, want %t", rows.Metadata.PagingState != nil, r.pages)
	}
}

// tally counts what the histories led to, since a test in which nothing happens
// passes too.
type tally struct {
	mu        sync.Mutex
	histories int
	counts    map[string]int
}

func (t *tally) add(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[string]int{}
	}
	t.counts[what]++
}

func (t *tally) history() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.histories++
}

func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("%d histories: %v", t.histories, t.counts)
}

func (t *tally) check(tt *testing.T) {
	tt.Helper()
	for _, what := range []string{"write succeeded", "read succeeded", "execute read succeeded", "next page succeeded", "closed by the client",
		primitive.ErrorCodeWriteTimeout.String(), primitive.ErrorCodeReadTimeout.String(), primitive.ErrorCodeWriteFailure.String(),
		primitive.ErrorCodeOverloaded.String(), primitive.ErrorCodeUnavailable.String(), primitive.ErrorCodeServerError.String()} {
		if t.counts[what] == 0 {
			tt.Errorf("in %d histories nothing was told %q", t.histories, what)
		}
	}
}
