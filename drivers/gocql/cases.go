package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"gopkg.in/inf.v0"
)

// program is a connected driver.
type program struct {
	job
	*session

	// Guarded by mu.
	mu      sync.Mutex
	hosts   map[string]bool // that a connection was made to
	version int             // of the last answer
}

func (p *program) ObserveConnect(c observedConnect) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.Err == nil {
		p.hosts[c.Host.ConnectAddress().String()] = true
	}
}

func (p *program) ObserveFrameHeader(_ context.Context, h observedHeader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version = int(h.Version) & 0x7f
}

func connect(j job) (*program, error) {
	p := &program{job: j, hosts: make(map[string]bool)}
	cluster := newCluster(j.Contacts...)
	cluster.Port, cluster.Keyspace, cluster.ProtoVersion, cluster.Consistency = j.Port, j.Keyspace, j.Version, localOne
	cluster.Authenticator = passwords{Username: j.Username, Password: j.Password}
	cluster.Timeout, cluster.ConnectTimeout = 30*time.Second, 30*time.Second
	cluster.ConnectObserver, cluster.FrameHeaderObserver = p, p
	if j.Compression != "" {
		compress(cluster, j.Compression)
	}
	if j.TLS != nil {
		// The certificate is checked against the authority, but not its name.
		cluster.SslOpts = &sslOptions{CaPath: j.TLS.CA, CertPath: j.TLS.Cert, KeyPath: j.TLS.Key, EnableHostVerification: false}
	}
	var err error
	p.session, err = cluster.CreateSession()
	return p, err
}

// connected waits until the driver is connected to all hosts that it is told of.
func (p *program) connected() (answer, error) {
	peers := p.Query("SELECT peer FROM system.peers").Iter()
	want := 1 + peers.NumRows()
	if err := peers.Close(); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		p.mu.Lock()
		hosts, version := len(p.hosts), p.version
		p.mu.Unlock()
		if hosts >= want || time.Now().After(deadline) {
			return answer{"version": version, "hosts": hosts}, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

type pair struct {
	First  int    `cql:"first"`
	Second string `cql:"second"`
}

func (p *program) types() (answer, error) {
	columns := "c_ascii, c_bigint, c_blob, c_boolean, c_date, c_decimal, c_double, c_duration, c_float, c_inet, c_int, c_smallint, c_text, c_time, " +
		"c_timestamp, c_timeuuid, c_tinyint, c_uuid, c_varchar, c_varint, c_list, c_set, c_map, c_udt, c_nested, c_tuple"
	want := []any{
		"ascii", int64(-1 << 63), []byte{0, 255, 128}, true, time.Date(1969, 2, 3, 0, 0, 0, 0, time.UTC), *inf.NewDec(-12345678901234567, 6),
		1e-300, duration{Months: -14, Days: -3, Nanoseconds: -7200000000001}, float32(-0.5), net.ParseIP("2001:db8::1"), int32(-1 << 31),
		int16(-1 << 15), "tëxt €", 86399999999999 * time.Nanosecond, time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC), timeUUID(), int8(-128),
		timeUUID(), "", *new(big.Int).Lsh(big.NewInt(1), 100), []int{3, 1, 2}, []string{"a", "b"}, map[string]int64{"k": 1 << 40},
		pair{7, "seven"}, map[string][]int{"k": {1, 2}},
	}
	marks := strings.Repeat("?, ", len(want)+1) + "(?, ?, ?)" // how the driver binds a tuple
	args := append([]any{p.Run}, want...)
	if err := p.Query("INSERT INTO types (run, "+columns+") VALUES ("+marks+")", append(args, 1, nil, 0.25)...).Exec(); err != nil {
		return nil, err
	}
	// The second one is sent as text, and not prepared.
	for _, text := range []string{"SELECT " + columns + " FROM types WHERE run = ?", "/* simple */ SELECT " + columns + " FROM types WHERE run = '" + p.Run + "'"} {
		var got []any
		for i := range want {
			got = append(got, reflect.New(reflect.TypeOf(want[i])).Interface())
		}
		var first int
		var second *string
		var third float64
		q := p.Query(text)
		if text[0] == 'S' {
			q = p.Query(text, p.Run)
		}
		if err := q.Scan(append(got, &first, &second, &third)...); err != nil {
			return nil, err
		}
		for i := range want {
			if g := reflect.ValueOf(got[i]).Elem().Interface(); !same(g, want[i]) {
				return nil, fmt.Errorf("value %d: got %v, want %v", i, g, want[i])
			}
		}
		if first != 1 || second != nil || third != 0.25 {
			return nil, fmt.Errorf("tuple: got %v, %v, %v", first, second, third)
		}
	}
	return nil, p.nulls()
}

func (p *program) nulls() error {
	if err := p.Query("INSERT INTO types (run, c_text, c_list) VALUES (?, ?, ?)", p.Run+" empty", nil, nil).Exec(); err != nil {
		return err
	}
	var text *string
	var list []int
	var number *int64
	if err := p.Query("SELECT c_text, c_list, c_bigint FROM types WHERE run = ?", p.Run+" empty").Scan(&text, &list, &number); err != nil {
		return err
	}
	if text != nil || list != nil || number != nil {
		return fmt.Errorf("nulls: got %v, %v, %v", text, list, number)
	}
	return nil
}

func same(got, want any) bool {
	switch w := want.(type) {
	case inf.Dec:
		g := got.(inf.Dec)
		return g.Cmp(&w) == 0
	case big.Int:
		g := got.(big.Int)
		return g.Cmp(&w) == 0
	case time.Time:
		return got.(time.Time).Equal(w)
	}
	return reflect.DeepEqual(got, want)
}

func (p *program) paging() (answer, error) {
	const rows, page = 250, 20
	for i := range rows {
		if err := p.Query("INSERT INTO items (run, id, value) VALUES (?, ?, ?)", p.Run, i, fmt.Sprint("value ", i)).Exec(); err != nil {
			return nil, err
		}
	}
	read := func(state []byte, first, want int, onePage bool) ([]byte, error) {
		q := p.Query("SELECT id, value FROM items WHERE run = ?", p.Run).PageSize(page)
		if onePage {
			q = q.PageState(state) // ends the driver's own paging
		}
		it := q.Iter()
		var id, n int
		var value string
		for it.Scan(&id, &value) {
			if id != first+n || value != fmt.Sprint("value ", id) {
				return nil, fmt.Errorf("row %d: got %d, %q", first+n, id, value)
			}
			n++
		}
		state = it.PageState()
		if err := it.Close(); err != nil {
			return nil, err
		}
		if n != want {
			return nil, fmt.Errorf("from row %d: got %d rows, want %d", first, n, want)
		}
		return state, nil
	}
	if _, err := read(nil, 0, rows, false); err != nil {
		return nil, err
	}
	state, err := read(nil, 0, page, true)
	if err == nil {
		_, err = read(state, page, page, true)
	}
	return nil, err
}

func (p *program) batches() (answer, error) {
	run := p.Run + " batch"
	var want []string
	for i, b := range []*batch{p.NewBatch(logged), p.NewBatch(unlogged)} {
		for c := range 3 {
			b.Query("INSERT INTO items (run, id, value) VALUES (?, ?, ?)", run, 10*i+c, "prepared")
			want = append(want, fmt.Sprint(10*i+c, " prepared"))
		}
		// Without values the driver sends the text.
		b.Query(fmt.Sprintf("INSERT INTO items (run, id, value) VALUES ('%s', %d, 'simple')", run, 10*i+3))
		want = append(want, fmt.Sprint(10*i+3, " simple"))
		if err := p.ExecuteBatch(b); err != nil {
			return nil, err
		}
	}
	var got []string
	it := p.Query("SELECT id, value FROM items WHERE run = ?", run).Iter()
	var id int
	var value string
	for it.Scan(&id, &value) {
		got = append(got, fmt.Sprint(id, " ", value))
	}
	if err := it.Close(); err != nil || !slices.Equal(got, want) {
		return nil, fmt.Errorf("rows of batches: got %q, want %q: %w", got, want, err)
	}
	for range 2 {
		b := p.NewBatch(counting)
		b.Query("UPDATE counters SET n = n + ? WHERE run = ? AND id = ?", int64(5), run, 1)
		b.Query("UPDATE counters SET n = n + ? WHERE run = ? AND id = ?", int64(-2), run, 2)
		if err := p.ExecuteBatch(b); err != nil {
			return nil, err
		}
	}
	for id, want := range map[int]int64{1: 10, 2: -4} {
		var n int64
		if err := p.Query("SELECT n FROM counters WHERE run = ? AND id = ?", run, id).Scan(&n); err != nil || n != want {
			return nil, fmt.Errorf("counter %d: got %d, want %d: %w", id, n, want, err)
		}
	}
	return nil, nil
}

func (p *program) lwt() (answer, error) {
	run := p.Run + " lwt"
	for _, step := range []struct {
		text    string
		args    []any
		applied bool
	}{
		{"INSERT INTO items (run, id, value) VALUES (?, 1, ?) IF NOT EXISTS", []any{run, "first"}, true},
		{"INSERT INTO items (run, id, value) VALUES (?, 1, ?) IF NOT EXISTS", []any{run, "second"}, false},
		{"UPDATE items SET value = ? WHERE run = ? AND id = 1 IF value = ?", []any{"third", run, "wrong"}, false},
		{"UPDATE items SET value = ? WHERE run = ? AND id = 1 IF value = ?", []any{"third", run, "first"}, true},
	} {
		row := make(map[string]any)
		applied, err := p.Query(step.text, step.args...).MapScanCAS(row)
		if err != nil {
			return nil, err
		}
		if applied != step.applied || !applied && row["value"] != "first" {
			return nil, fmt.Errorf("%s %q: applied %v with %v, want %v", step.text, step.args, applied, row, step.applied)
		}
	}
	return nil, nil
}

func (p *program) schema() (answer, error) {
	var problems []error
	exec := func(text string, args ...any) {
		if err := p.Query(text, args...).Exec(); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", text, err))
		}
	}
	// read checks every column that the driver has by name; it may leave out one
	// that its PREPARE did not know.
	read := func(text string, id int, want map[string]any, all bool) {
		row := make(map[string]any)
		if err := p.Query(text, id).MapScan(row); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", text, err))
			return
		}
		for name, value := range row {
			if want[name] != value && !(want[name] == nil && value == "") {
				problems = append(problems, fmt.Errorf("%s: column %s of %v, want %v", text, name, row, want))
			}
		}
		if all && len(row) != len(want) {
			problems = append(problems, fmt.Errorf("%s: got %v, want %v", text, row, want))
		}
	}
	insert, sel := fmt.Sprintf("INSERT INTO %s (id, b, d) VALUES (?, 'b', 'd')", p.Table), fmt.Sprintf("SELECT * FROM %s WHERE id = ?", p.Table)
	old := func(id int) map[string]any { return map[string]any{"id": id, "b": "b", "d": "d"} }
	exec(fmt.Sprintf("CREATE TABLE %s (id int PRIMARY KEY, b text, d text)", p.Table))
	exec(insert, 1)
	read(sel, 1, old(1), true)
	exec(fmt.Sprintf("ALTER TABLE %s ADD c text", p.Table))
	exec(insert, 2)
	read(sel, 2, old(2), false)
	exec(fmt.Sprintf("INSERT INTO %s (id, b, c, d) VALUES (?, 'b', 'c', 'd')", p.Table), 3)
	grown := old(3)
	grown["c"] = "c"
	read(sel, 3, grown, false)
	read(sel+" /* new */", 3, grown, true)
	exec(fmt.Sprintf("ALTER TABLE %s DROP c", p.Table))
	exec(insert, 4)
	read(sel, 4, old(4), false)
	exec("DROP TABLE " + p.Table)
	return nil, errors.Join(problems...)
}

// tokens reads each key some times: the same host answers each time, since the
// driver would go round without a token map. The driver keeps its map to itself.
func (p *program) tokens() (answer, error) {
	used := make(map[string]bool)
	for id := range 40 {
		var first string
		for range 4 {
			it := p.Query("SELECT value FROM keys WHERE run = ? AND id = ?", p.Run, id).Iter()
			host := it.Host().ConnectAddress().String()
			if err := it.Close(); err != nil {
				return nil, err
			}
			if first == "" {
				first = host
			}
			if host != first {
				return nil, fmt.Errorf("key %d: answered by %s and by %s", id, first, host)
			}
		}
		used[first] = true
	}
	var hosts []string
	for h := range used {
		hosts = append(hosts, h)
	}
	slices.Sort(hosts)
	return answer{"coordinators": hosts}, nil
}
