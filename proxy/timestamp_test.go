package proxy_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestWritesWithoutATimestampAreCounted(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	stamp := int64(1)
	ids := map[string][]byte{}
	for _, text := range []string{insert, insert + " USING TIMESTAMP 5", insert + " IF NOT EXISTS", "UPDATE ks.t SET c = c + 1 WHERE k = 1", sel, "TRUNCATE ks.t"} {
		ids[text] = prepare(t, c, text)
		for _, at := range []*int64{nil, &stamp} {
			c.Ask(t, &message.Query{Query: text, Options: &message.QueryOptions{DefaultTimestamp: at}})
			c.Ask(t, &message.Execute{QueryId: ids[text], Options: &message.QueryOptions{DefaultTimestamp: at}})
		}
	}
	stamped := &message.BatchChild{Query: insert + " USING TIMESTAMP 5"}
	for _, b := range []*message.Batch{
		{Children: []*message.BatchChild{stamped, {Query: insert}}},
		{Children: []*message.BatchChild{stamped, {Id: ids[insert]}}},
		{Children: []*message.BatchChild{stamped}},
		{Children: []*message.BatchChild{{Query: insert}}, DefaultTimestamp: &stamp},
		{Children: []*message.BatchChild{{Query: insert}, {Query: insert + " IF NOT EXISTS"}}},
		{Children: []*message.BatchChild{{Id: ids[insert]}}, Type: primitive.BatchTypeCounter},
	} {
		mustVoid(t, c.Ask(t, b))
	}
	for kind, want := range map[string]float64{"query": 1, "execute": 1, "batch": 2} {
		if got := value(t, w, "zdm_proxy_requests_without_timestamp_total", kind); got != want {
			t.Errorf("%s: %v writes without a timestamp, want %v", kind, got, want)
		}
	}
}

// timestampsSeen are those of the requests that a side got from clients, in order.
func timestampsSeen(t *testing.T, n *cqltest.Node, want int) []int64 {
	t.Helper()
	var out []int64
	for _, r := range n.WaitFor(t, want, cqltest.NotSystem) {
		if r.Opcode == primitive.OpCodePrepare {
			continue
		}
		ts := int64(0)
		if r.Timestamp != nil {
			ts = *r.Timestamp
		}
		out = append(out, ts)
	}
	return out
}

var stamping = map[string]string{"set_write_timestamps": "true", "max_clock_skew_ms": "10000"}

func TestAWriteWithoutATimestampGetsOneForBothSides(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, stamping)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	before := time.Now().UnixMicro()
	id := prepare(t, c, insert)
	mustVoid(t, c.Query(t, insert))
	mustVoid(t, execute(t, c, id))
	mustVoid(t, c.Ask(t, &message.Batch{Children: []*message.BatchChild{{Query: insert}, {Id: id}}}))
	origin, target := timestampsSeen(t, w.origin, 4), timestampsSeen(t, w.target, 4)
	if diff := cmp.Diff(origin, target); diff != "" {
		t.Errorf("timestamps at Origin and at Target differ (-origin +target):\n%s", diff)
	}
	last := before - 1
	for _, ts := range origin {
		if ts <= last || ts > time.Now().UnixMicro() {
			t.Errorf("timestamps %v, want each a time and greater than the one before", origin)
		}
		last = ts
	}
	for _, kind := range []string{"query", "execute", "batch"} {
		if got := value(t, w, "zdm_proxy_timestamps_set_total", kind); got != 1 {
			t.Errorf("%s: %v timestamps set, want 1", kind, got)
		}
	}
}

func TestTheClientsTimestampAndWritesThatUseNoneAreLeftAlone(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, stamping)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	own := int64(5)
	requests := []message.Message{
		&message.Query{Query: insert, Options: &message.QueryOptions{DefaultTimestamp: &own}},
		&message.Query{Query: insert + " USING TIMESTAMP 5", Options: &message.QueryOptions{}},
		&message.Query{Query: insert + " IF NOT EXISTS", Options: &message.QueryOptions{}},
		&message.Query{Query: "UPDATE ks.t SET c = c + 1 WHERE k = 1", Options: &message.QueryOptions{}},
		&message.Query{Query: "TRUNCATE ks.t", Options: &message.QueryOptions{}},
		&message.Batch{Children: []*message.BatchChild{{Query: insert}, {Query: insert + " IF NOT EXISTS"}}},
		&message.Batch{Type: primitive.BatchTypeCounter, Children: []*message.BatchChild{{Query: "UPDATE ks.t SET c = c + 1 WHERE k = 1"}}},
		&message.Query{Query: sel, Options: &message.QueryOptions{}},
	}
	for _, m := range requests {
		c.Ask(t, m)
	}
	want := []int64{5, 0, 0, 0, 0, 0, 0, 0}
	if diff := cmp.Diff(want, timestampsSeen(t, w.origin, len(want))); diff != "" {
		t.Errorf("timestamps (-want +got):\n%s", diff)
	}
}

func TestWritesToOneSideKeepTheClustersOwnTimestamps(t *testing.T) {
	t.Parallel()
	w := start(t, phase.OriginOnly, cqltest.Options{}, cqltest.Options{}, stamping)
	eventually(t, "Target is there for the login", func() bool { return w.srv.Status().Target.Connected })
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	mustVoid(t, c.Query(t, insert))
	w.setPhase(t, phase.DualWrite)
	mustVoid(t, c.Query(t, insert))
	if ts := timestampsSeen(t, w.origin, 2); ts[0] != 0 || ts[1] == 0 {
		t.Errorf("timestamps %v, want none in origin_only and one in dual_write", ts)
	}
}

// A function that is replaced makes another frame of the request.
func TestAStatementWhoseFunctionIsReplacedGetsItsTimestampToo(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{
		"set_write_timestamps": "true", "max_clock_skew_ms": "10000", "replace_cql_functions": "true"})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	const text = "INSERT INTO ks.t (k, v) VALUES (1, now())"
	mustVoid(t, c.Query(t, text))
	mustVoid(t, c.Ask(t, &message.Batch{Children: []*message.BatchChild{{Query: text}, {Query: insert}}}))
	for _, r := range w.target.WaitFor(t, 2, cqltest.NotSystem) {
		if r.Timestamp == nil || *r.Timestamp == 0 || strings.Contains(r.Text, "now()") {
			t.Errorf("%s came with the timestamp %v", r.Text, r.Timestamp)
		}
	}
}

func TestAPhaseThatWritesToBothIsRefusedWhileAClockIsBeyondTheBound(t *testing.T) {
	t.Parallel()
	w := start(t, phase.OriginOnly, cqltest.Options{}, cqltest.Options{ClockAhead: time.Hour}, stamping)
	eventually(t, "Target's clock is measured", func() bool {
		return strings.Contains(fmt.Sprint(w.srv.Prove(t.Context(), phase.DualWrite)), "ahead of the proxy's")
	})
	if got := value(t, w, "zdm_cluster_clock_skew_seconds", "target"); got < 3590 || got > 3610 {
		t.Errorf("the skew is %v s, want an hour", got)
	}
	if got := value(t, w, "zdm_proxy_timestamps_active"); got != 0 {
		t.Errorf("timestamps are active: %v", got)
	}
	if err := w.srv.SetPhase(phase.DualWrite, 2); err != nil {
		t.Fatal(err)
	}
	// Origin's clock may be measured later than Target's.
	eventually(t, "in dual_write Target's clock alone is why the proxy is not ready", func() bool {
		why := w.srv.NotReady()
		return len(why) == 1 && strings.Contains(why[0], "max_clock_skew_ms is 10000")
	})
}

func TestTimestampsGoOnBehindThoseOfTheProcessBefore(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, stamping)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	mustVoid(t, c.Query(t, insert))
	last := timestampsSeen(t, w.origin, 1)[0] + time.Second.Microseconds()
	if err := w.srv.Adopt(t.Context(), control.Message{Timestamp: last}, nil); err != nil {
		t.Fatal(err)
	}
	next := successor(t, w, phase.DualWrite)
	var told int64
	move := moveInto(t, next)
	if err := w.srv.Drain(t.Context(), func(m control.Message, client *net.TCPConn) error {
		told = m.Timestamp
		return move(m, client)
	}); err != nil {
		t.Fatal(err)
	}
	mustVoid(t, c.Query(t, insert))
	seen := timestampsSeen(t, w.origin, 2)
	if told < last || seen[1] <= told {
		t.Errorf("the old process told %d, which is to be %d at least, and the next timestamp is %d", told, last, seen[1])
	}
}
