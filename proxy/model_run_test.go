package proxy_test

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// record is what became of a request.
type record struct {
	step
	text   string
	window []phase.Phase // those that were set while it was under way

	// Of the client.
	answers <-chan cqltest.Answer
	told    message.Message // nil if its connection was closed by the client
	closed  bool
	sent    []byte    // the prepared id that was executed
	state   pageState // that was sent with it

	// Of the nodes; guarded by model.mu.
	applied [2]int
	body    [2][]byte // of the copy that the side got, without the prepared id
}

type pageState struct {
	bytes  []byte
	issuer string // as its rows say
}

// model is a proxy between two scripted nodes, and the history that it carries
// out.
type model struct {
	*world
	t   *testing.T
	log logBuffer

	// Of the present history; owned by carryOut.
	steps   []step
	version primitive.ProtocolVersion // that the clients speak
	clients [modelClients]*modelClient
	left    []*record // asked by clients that have left, which the proxy may read later all the same
	at      phase.Phase
	down    [2]bool

	// Guarded by mu.
	mu      sync.Mutex
	seed    uint64 // of the present history
	records map[int]*record
	release chan struct{} // closed while the clients wait: slow answers come
	wrong   []string
	foreign [2]map[string]bool // prepared ids that only the other side gave out
}

// modelClient is a client that may have been refused a connection.
type modelClient struct {
	*cqltest.Client
	pending  []*record
	prepared map[int]*message.PreparedResult
	state    pageState
}

// modelVersions are those of clients, one for each history.
var modelVersions = []primitive.ProtocolVersion{primitive.ProtocolVersion3, primitive.ProtocolVersion4, primitive.ProtocolVersion5}

// The passwords, of which no log may hold one.
const originPassword, targetPassword = "the-secret-of-origin", "the-secret-of-target"

func newModel(t *testing.T, patient bool) *model {
	m := &model{t: t, at: phase.DualWrite}
	timeout := "250"
	if patient {
		timeout = "10000"
	}
	m.world = startLogging(t, phase.DualWrite,
		cqltest.Options{Username: "o", Password: originPassword, Salt: "o"}, cqltest.Options{Username: "t", Password: targetPassword, Salt: "t"},
		map[string]string{"proxy_request_timeout_ms": timeout}, slog.New(slog.NewTextHandler(&m.log, nil)))
	for _, side := range phase.Sides {
		m.side(side).Handle(func(r cqltest.Request) cqltest.Reply { return m.serve(side, r) })
	}
	return m
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}

func (m *model) wrongf(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wrong = append(m.wrong, fmt.Sprintf(format, args...))
}

// carryOut carries a history out and fails the test, with all of it, if
// something is wrong.
func (m *model) carryOut(t *testing.T, seed uint64, total *tally) {
	t.Helper()
	m.steps, m.left = history(seed), nil
	m.version = modelVersions[seed%uint64(len(modelVersions))]
	m.mu.Lock()
	m.seed = seed
	m.records, m.wrong, m.release = map[int]*record{}, nil, make(chan struct{})
	m.foreign = [2]map[string]bool{{}, {}}
	m.mu.Unlock()
	for _, side := range phase.Sides {
		m.side(side).ClearRequests()
	}
	for i := range m.clients {
		m.connect(i)
	}
	for _, s := range m.steps {
		m.do(s)
	}
	m.rest()
	if m.judge(total); len(m.wrong) > 0 || t.Failed() {
		t.Fatalf("go test ./proxy -run RandomHistories -model.seed=%d (%s)\n%s\nwrong:\n  %s", seed, m.version, m.story(), strings.Join(m.wrong, "\n  "))
	}
}

func (m *model) do(s step) {
	switch s.do {
	case ask:
		m.ask(s)
	case settle:
		m.settle()
	case connect:
		m.connect(s.client)
	case move:
		m.move(s.to)
	case stop:
		m.side(s.side).Stop()
		m.down[s.side] = true
	case revive:
		m.side(s.side).Restart()
		m.down[s.side] = false
	case drop:
		m.side(s.side).DropConnections()
	case forget:
		m.side(s.side).Forget(nil)
	}
}

// move sets a phase if the proxy says that it can.
func (m *model) move(to phase.Phase) {
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Second)
	defer cancel()
	if m.srv.Prove(ctx, to) != nil {
		return
	}
	m.epoch++
	if err := m.srv.SetPhase(to, m.epoch); err != nil {
		m.wrongf("set phase %s, which was proved: %v", to, err)
		return
	}
	m.at = to
	under := m.left
	for _, c := range m.clients {
		if c != nil {
			under = append(under[:len(under):len(under)], c.pending...)
		}
	}
	for _, r := range under {
		r.window = append(r.window, to)
	}
}

func (m *model) connect(i int) {
	if old := m.clients[i]; old != nil {
		for _, r := range old.pending {
			r.closed = true
		}
		m.left = append(m.left, old.pending...)
		old.Close()
	}
	m.clients[i] = nil
	c, err := cqltest.Connect(m.t, m.addr, cqltest.Login{Version: m.version, Username: "t", Password: targetPassword})
	if err == nil {
		m.clients[i] = &modelClient{Client: c, prepared: map[int]*message.PreparedResult{}}
	}
}

// ask sends what a step says; it is left out if the client is not connected, or
// has nothing prepared that it could execute.
func (m *model) ask(s step) {
	c := m.clients[s.client]
	if c == nil {
		return
	}
	r := &record{step: s, window: []phase.Phase{m.at}}
	p := c.prepared[s.of]
	if s.form.executes(prepareAppend) || s.form == insertPrepared || s.form == readPrepared {
		if s.of != 0 && p == nil || s.of == 0 && s.form != batchLogged && s.form != batchUnlogged {
			return
		}
	}
	if p != nil {
		r.sent = p.PreparedQueryId
	}
	if s.form == nextPage {
		if r.state = c.state; r.state.bytes == nil {
			return
		}
	}
	m.mu.Lock()
	m.records[s.id] = r
	m.mu.Unlock()
	r.answers = c.Send(m.request(r, p))
	c.pending = append(c.pending, r)
}

func (m *model) request(r *record, p *message.PreparedResult) message.Message {
	options := &message.QueryOptions{Consistency: primitive.ConsistencyLevelQuorum}
	id := m.name(r.id)
	query := func(text string, args ...any) message.Message {
		r.text = fmt.Sprintf(text, append([]any{id}, args...)...)
		return &message.Query{Query: r.text, Options: options}
	}
	prepare := func(text string) message.Message {
		r.text = fmt.Sprintf(text, id)
		return &message.Prepare{Query: r.text}
	}
	value := primitive.NewValue([]byte(id))
	options.SkipMetadata = r.noMeta && r.form == readPrepared
	if r.pages {
		options.PageSize = 1
	}
	switch r.form {
	case insertText:
		return query("INSERT INTO ks.t (k, v) VALUES ('%s', 1)")
	case appendText:
		return query("UPDATE ks.t SET l = l + ['%s'] WHERE k = 1")
	case counter:
		return query("UPDATE ks.c SET n = n + 1 WHERE k = '%s'")
	case conditional:
		return query("INSERT INTO ks.t (k) VALUES ('%s') IF NOT EXISTS")
	case withNow:
		return query("INSERT INTO ks.t (k, v) VALUES ('%s', now())")
	case batchText:
		return query("BEGIN BATCH INSERT INTO ks.t (k, v) VALUES ('%s', 1); DELETE FROM ks.t WHERE k = 2 APPLY BATCH")
	case truncate:
		return query("TRUNCATE /* %s */ ks.t")
	case read, nextPage:
		options.PagingState = r.state.bytes
		return query("SELECT who, id FROM ks.t WHERE k = '%s'")
	case use:
		return query("USE /* %s */ ks")
	case prepareInsert:
		return prepare("INSERT /* %s */ INTO ks.t (k, v) VALUES (?, 1)")
	case prepareAppend:
		return prepare("UPDATE ks.t SET l = l + ? /* %s */ WHERE k = 1")
	case prepareRead, prepareOtherRead:
		m := prepare("SELECT who, id FROM ks.t /* %s */ WHERE k = ?")
		return m
	case batchLogged, batchUnlogged:
		b := &message.Batch{Consistency: options.Consistency, Children: []*message.BatchChild{{Query: "UPDATE ks.t SET l = l + ['" + id + "'] WHERE k = 1"}}}
		if r.form == batchUnlogged {
			b.Type = primitive.BatchTypeUnlogged
		}
		if p != nil {
			b.Children = append(b.Children, &message.BatchChild{Id: p.PreparedQueryId, Values: []*primitive.Value{value}})
		}
		return b
	}
	options.PositionalValues = []*primitive.Value{value}
	return &message.Execute{QueryId: p.PreparedQueryId, Options: options}
}

// settle lets slow nodes answer, and waits for all answers.
func (m *model) settle() {
	close(m.release)
	defer func() {
		m.mu.Lock()
		m.release = make(chan struct{})
		m.mu.Unlock()
	}()
	for _, c := range m.clients {
		if c == nil {
			continue
		}
		for _, r := range c.pending {
			select {
			case a := <-r.answers:
				if r.told = a.Message(); a.Err != nil {
					m.wrongf("id-%d: no answer, but %v", r.id, a.Err)
				}
				c.learn(r)
			case <-time.After(15 * time.Second):
				m.wrongf("id-%d: no answer", r.id)
			}
		}
		c.pending = nil
	}
}

// learn keeps of an answer what later requests need.
func (c *modelClient) learn(r *record) {
	switch a := r.told.(type) {
	case *message.PreparedResult:
		c.prepared[r.id] = a
	case *message.RowsResult:
		if state := a.Metadata.PagingState; state != nil {
			c.state = pageState{state, r.rows(c.prepared[r.of])["who"]}
		}
	}
}

// rows gives the one row of an answer by the names of its columns; prepared is
// what the client goes by if the answer does not name them.
func (r *record) rows(prepared *message.PreparedResult) map[string]string {
	a := r.told.(*message.RowsResult)
	columns := a.Metadata.Columns
	if columns == nil && prepared != nil {
		columns = prepared.ResultMetadata.Columns
	}
	out := map[string]string{}
	for _, row := range a.Data {
		if len(row) != len(columns) {
			return map[string]string{"who": fmt.Sprintf("a row of %d columns, where the client knows %d", len(row), len(columns))}
		}
		for i, column := range columns {
			out[column.Name] = string(row[i])
		}
	}
	return out
}

// rest brings all to rest: nodes are up, nothing is in flight, the phase is the
// first one.
func (m *model) rest() {
	for _, side := range phase.Sides {
		m.side(side).Restart()
		m.down[side] = false
	}
	m.settle()
	for i, c := range m.clients {
		if c != nil {
			c.Close()
			m.clients[i] = nil
		}
	}
	eventually(m.t, "the proxy has both sides", func() bool { return len(m.srv.NotReady()) == 0 })
	eventually(m.t, "nothing is in flight", func() bool { s := m.srv.Status(); return s.InFlight == 0 && s.Clients == 0 })
	for m.at != phase.DualWrite {
		before := m.at
		if m.at < phase.DualWrite {
			m.move(m.at + 1)
		} else {
			m.move(m.at - 1)
		}
		if m.at == before {
			time.Sleep(time.Millisecond)
		}
	}
}

// name is how a step's request is known by the nodes. It has the seed too: a copy
// of a read may come late, when the next history has begun.
func (m *model) name(id int) string { return fmt.Sprintf("id-%d of %d", id, m.seed) }

var namePattern = regexp.MustCompile(`id-(\d+) of (\d+)`)

// idOf finds which step of this history a request is of, 0 for none: in the
// values, if it has some, because the text may be of another step that prepared
// it.
func (m *model) idOf(r cqltest.Request) int {
	find := func(text string) int {
		found := namePattern.FindStringSubmatch(text)
		if found == nil || found[2] != strconv.FormatUint(m.seed, 10) {
			return 0
		}
		id, _ := strconv.Atoi(found[1])
		return id
	}
	for _, v := range r.Values {
		return find(string(v.Contents))
	}
	for _, child := range r.Children {
		if len(child.ID) == 0 {
			return find(child.Text)
		}
	}
	return find(r.Text)
}

// serve is what a node does with a request.
func (m *model) serve(side phase.Side, r cqltest.Request) cqltest.Reply {
	if r.System() {
		return cqltest.Ordinary()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.side(side)
	for _, id := range append([][]byte{r.ID}, childIDs(r)...) {
		if m.foreign[side][string(id)] {
			m.wrong = append(m.wrong, fmt.Sprintf("%s got the prepared id %x of the other side", side, id))
		}
	}
	if r.Opcode == primitive.OpCodePrepare {
		m.foreign[side.Other()][string(node.PreparedID(r.Keyspace, r.Text))] = true
	}
	rec := m.records[m.idOf(r)]
	if rec == nil {
		return cqltest.Ordinary()
	}
	if known, given := r.Opcode == primitive.OpCodeExecute && r.Text == "", rec.fate[side] == forgot && len(rec.sent) > 0; known || given {
		if given {
			node.Forget(nil)
			rec.fate[side] = well
		}
		return cqltest.Ordinary() // UNPREPARED
	}
	return m.meet(side, rec, r)
}

func childIDs(r cqltest.Request) [][]byte {
	var ids [][]byte
	for _, c := range r.Children {
		if len(c.ID) > 0 {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// meet lets a request meet its fate. It runs under mu.
func (m *model) meet(side phase.Side, rec *record, r cqltest.Request) cqltest.Reply {
	f := rec.fate[side]
	for _, c := range r.Children {
		if len(c.ID) > 0 && c.Text == "" {
			return cqltest.Ordinary() // UNPREPARED
		}
	}
	if rec.form.mutates() {
		if f.applies() {
			rec.applied[side]++
		}
		body := string(r.Raw[4:]) // stream ids differ
		for _, id := range append([][]byte{r.ID}, childIDs(r)...) {
			if len(id) > 0 {
				body = strings.ReplaceAll(body, string(id), strings.Repeat("?", len(id)))
			}
		}
		rec.body[side] = []byte(body)
	}
	if len(r.PagingState) > 0 && !strings.HasPrefix(string(r.PagingState), side.String()) {
		m.wrong = append(m.wrong, fmt.Sprintf("%s got the paging state %q in id-%d", side, r.PagingState, rec.id))
	}
	write := func(code primitive.ErrorCode, readCode primitive.ErrorCode) cqltest.Reply {
		if !rec.form.mutates() {
			code = readCode
		}
		return cqltest.Error(code, "scripted")
	}
	switch f {
	case overloaded:
		return cqltest.Error(primitive.ErrorCodeOverloaded, "scripted")
	case serverError:
		return cqltest.Error(primitive.ErrorCodeServerError, "scripted")
	case unavailable:
		return cqltest.Error(primitive.ErrorCodeUnavailable, "scripted")
	case bootstrapping:
		return cqltest.Error(primitive.ErrorCodeIsBootstrapping, "scripted")
	case invalid:
		return cqltest.Error(primitive.ErrorCodeInvalid, "scripted")
	case batchLog:
		if rec.form.mutates() {
			return cqltest.Message(&message.WriteTimeout{ErrorMessage: "scripted", Consistency: r.Consistency, BlockFor: 1, WriteType: primitive.WriteTypeBatchLog})
		}
		return cqltest.Error(primitive.ErrorCodeReadTimeout, "scripted")
	case timedOut, timedOutBefore:
		return write(primitive.ErrorCodeWriteTimeout, primitive.ErrorCodeReadTimeout)
	case failedAfter:
		return write(primitive.ErrorCodeWriteFailure, primitive.ErrorCodeReadFailure)
	case resetAfter, resetBefore:
		return cqltest.ResetConnection()
	case silentAfter, silentBefore:
		return cqltest.Silence()
	}
	reply := m.succeed(side, rec, r)
	if f == slow {
		reply = reply.After(m.release)
	}
	return reply
}

// succeed is the answer of a node that is well. It runs under mu.
func (m *model) succeed(side phase.Side, rec *record, r cqltest.Request) cqltest.Reply {
	switch {
	case rec.form == conditional:
		return cqltest.Rows([]string{"[applied]", "who"}, []string{"\x01", side.String()})
	case rec.form.mutates():
		return cqltest.Void()
	case r.Opcode == primitive.OpCodePrepare:
		m.side(side).Describe(r.Text, described(side, rec.form, r.Text))
		return cqltest.Ordinary()
	case rec.form != read && rec.form != readPrepared && rec.form != nextPage:
		return cqltest.Ordinary()
	}
	shape := prepareRead
	if rec.form == readPrepared {
		shape = m.records[rec.of].form
	}
	columns := described(side, shape, "SELECT").Columns
	row := message.Row{}
	for _, column := range columns {
		row = append(row, map[string][]byte{"who": []byte(side.String()), "id": []byte(m.name(rec.id))}[column.Name])
	}
	answer := &message.RowsResult{Metadata: &message.RowsMetadata{ColumnCount: int32(len(columns)), Columns: columns}, Data: message.RowSet{row}}
	if r.QueryFlags&primitive.QueryFlagSkipMetadata != 0 {
		answer.Metadata.Columns = nil
	}
	if rec.pages {
		answer.Metadata.PagingState = fmt.Appendf(nil, "%s page of id-%d", side, rec.id)
	}
	return cqltest.Message(answer)
}

// described is what a side says of a statement that it prepares.
func described(side phase.Side, f form, text string) cqltest.Statement {
	s := cqltest.Statement{}
	if strings.Contains(text, "?") {
		s.Variables, s.Key = cqltest.TextColumns("p0"), []uint16{0}
	}
	switch {
	case f == prepareOtherRead && side == phase.Target:
		s.Columns = cqltest.TextColumns("id", "new", "who")
	case f == prepareRead, f == prepareOtherRead:
		s.Columns = cqltest.TextColumns("who", "id")
	}
	return s
}

// story is the history as people read it, with what the clients were told and
// the nodes did.
func (m *model) story() string {
	var b strings.Builder
	for _, s := range m.steps {
		fmt.Fprintf(&b, "  %s\n", s)
		r := m.records[s.id]
		switch {
		case s.do != ask:
		case r == nil:
			b.WriteString("      left out\n")
		default:
			told := "connection closed by the client"
			if !r.closed {
				told = fmt.Sprint(r.told)
			}
			fmt.Fprintf(&b, "      phases %v, applied: origin %d, target %d; told: %.300s\n", r.window, r.applied[phase.Origin], r.applied[phase.Target], told)
		}
	}
	return b.String()
}
