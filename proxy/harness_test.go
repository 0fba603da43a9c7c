package proxy_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// world is a proxy in front of two scripted clusters of one node each.
type world struct {
	origin, target *cqltest.Node
	srv            *proxy.Server
	addr           string
	epoch          uint64
	values         map[string]string
}

// nextNet gives each test its own addresses, so that all run beside each other.
var nextNet atomic.Int32

// start brings a proxy up in a phase. Settings are those of the environment, in
// lower case without ZDM_.
func start(t testing.TB, first phase.Phase, origin, target cqltest.Options, settings map[string]string) *world {
	t.Helper()
	return startLogging(t, first, origin, target, settings, testLog(t))
}

func startLogging(t testing.TB, first phase.Phase, origin, target cqltest.Options, settings map[string]string, log *slog.Logger) *world {
	t.Helper()
	n := nextNet.Add(1)
	origin.Addr, target.Addr = fmt.Sprintf("127.71.%d.%d:0", n/200, 1+n%200), fmt.Sprintf("127.72.%d.%d:0", n/200, 1+n%200)
	w := &world{origin: cqltest.Start(t, origin), target: cqltest.Start(t, target)}
	values := map[string]string{
		"origin_contact_points": w.origin.Host(), "origin_port": fmt.Sprint(w.origin.Port()),
		"target_contact_points": w.target.Host(), "target_port": fmt.Sprint(w.target.Port()),
		"origin_username": origin.Username, "origin_password": origin.Password,
		"target_username": target.Username, "target_password": target.Password,
		"phase": first.String(), "upstream_connections_per_node": "1",
		"heartbeat_retry_interval_min_ms": "20", "heartbeat_retry_interval_max_ms": "100",
		"proxy_topology_addresses": "127.0.0.1",
	}
	for k, v := range settings {
		values[k] = v
	}
	for k, v := range values {
		if v == "" {
			delete(values, k)
		}
	}
	for _, side := range []string{"origin", "target"} {
		if values[side+"_username"] == "" {
			values[side+"_username"], values[side+"_password"] = "nobody", "nothing"
		}
	}
	w.values = values
	w.srv = serveLogging(t, values, log)
	w.setPhase(t, first)
	eventually(t, "the proxy is ready", func() bool { return len(w.srv.NotReady()) == 0 })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	if err := w.srv.Accept(l); err != nil {
		t.Fatal(err)
	}
	return w
}

// serve runs a server until the test ends.
func serve(t testing.TB, values map[string]string) *proxy.Server {
	t.Helper()
	return serveLogging(t, values, testLog(t))
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func serveLogging(t testing.TB, values map[string]string, log *slog.Logger) *proxy.Server {
	t.Helper()
	cfg, err := config.Parse(values)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := proxy.New(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return srv
}

func (w *world) setPhase(t testing.TB, p phase.Phase) {
	t.Helper()
	if w.epoch > 0 {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		eventually(t, "the phase can be prepared", func() bool { return w.srv.Prove(ctx, p) == nil })
	}
	w.epoch++
	if err := w.srv.SetPhase(p, w.epoch); err != nil {
		t.Fatal(err)
	}
}

func (w *world) side(s phase.Side) *cqltest.Node {
	if s == phase.Target {
		return w.target
	}
	return w.origin
}

// seen are the texts of the requests that a side got from clients.
func (w *world) seen(s phase.Side) []string {
	var out []string
	for _, r := range w.side(s).Requests() {
		if !r.System() && r.Text != "" {
			out = append(out, opName(r.Opcode)+" "+r.Text)
		}
	}
	return out
}

func opName(op primitive.OpCode) string {
	switch op {
	case primitive.OpCodeQuery:
		return "query"
	case primitive.OpCodePrepare:
		return "prepare"
	case primitive.OpCodeExecute:
		return "execute"
	case primitive.OpCodeBatch:
		return "batch"
	}
	return op.String()
}

// prepare prepares a statement and returns the id that the client is to use.
func prepare(t testing.TB, c *cqltest.Client, text string) []byte {
	t.Helper()
	m := c.Ask(t, &message.Prepare{Query: text})
	p, ok := m.(*message.PreparedResult)
	if !ok {
		t.Fatalf("PREPARE %s: got %v, want a prepared result", text, m)
	}
	return p.PreparedQueryId
}

// execute executes an id at QUORUM.
func execute(t *testing.T, c *cqltest.Client, id []byte) message.Message {
	t.Helper()
	return c.Ask(t, &message.Execute{QueryId: id, Options: &message.QueryOptions{Consistency: primitive.ConsistencyLevelQuorum}})
}

func mustVoid(t *testing.T, m message.Message) {
	t.Helper()
	if _, ok := m.(*message.VoidResult); !ok {
		t.Fatalf("got %v, want a void result", m)
	}
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// answerRows makes a node answer every SELECT with one row that names it.
func answerRows(n *cqltest.Node, name string) {
	n.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.IsSelect() && !r.System() && r.Opcode != primitive.OpCodePrepare {
			return cqltest.Rows([]string{"who"}, []string{name})
		}
		return cqltest.Ordinary()
	})
}

func who(t *testing.T, m message.Message) string {
	t.Helper()
	rows, ok := m.(*message.RowsResult)
	if !ok || len(rows.Data) == 0 {
		t.Fatalf("got %v, want a row", m)
	}
	return string(rows.Data[0][0])
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if _, fuzzing := w.t.(*testing.F); fuzzing {
		return len(p), nil // F.Log panics while an input is tried
	}
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
