package proxy_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// TestClientsThatPushAtAStalledSideAreHeldBack asserts on what is accounted for:
// the bound, and one request of each client beyond it.
func TestClientsThatPushAtAStalledSideAreHeldBack(t *testing.T) {
	t.Parallel()
	const (
		bound    = 8 << 20
		clients  = 4
		requests = 64
		size     = 256 << 10
		// Each counts its copies for two sides and the one that is kept, and what is
		// not written counts once more.
		most = bound + clients*5*(size+1024)
	)
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{
		"proxy_max_memory_bytes": fmt.Sprint(bound), "proxy_request_timeout_ms": "120000",
	})
	var all []*cqltest.Client
	for range clients {
		all = append(all, cqltest.Dial(t, w.addr, cqltest.Login{}))
	}
	mustVoid(t, all[0].Query(t, insert)) // the connections are open
	w.target.Freeze()
	text := "INSERT INTO ks.t (k, v) VALUES (1, '" + strings.Repeat("x", size) + "')"
	answers := make([][]<-chan cqltest.Answer, clients)
	var pushing sync.WaitGroup
	for i, c := range all {
		pushing.Go(func() {
			for range requests {
				answers[i] = append(answers[i], c.Send(&message.Query{Query: text, Options: &message.QueryOptions{}}))
			}
		})
	}
	var peak int64
	used := func() int64 {
		peak = max(peak, w.srv.Budget().Used())
		return peak
	}
	eventually(t, "the bound is reached", func() bool { return used() > bound })
	// A client that has nothing in flight is served still, though the answer has
	// to wait for Target; a read of Origin has not.
	reader := cqltest.Dial(t, w.addr, cqltest.Login{})
	if rows, ok := reader.Query(t, "SELECT v FROM ks.t WHERE k = 1").(*message.RowsResult); !ok {
		t.Errorf("a read while writers are held back: %v, want rows", rows)
	}
	if got := value(t, w, "zdm_proxy_rejected_total", "memory"); got < 1 {
		t.Errorf("%v times a client is counted as held back for memory, want at least one", got)
	}
	if got := value(t, w, "zdm_proxy_memory_limit_bytes"); got != bound {
		t.Errorf("the limit of memory is told as %v bytes, want %d", got, bound)
	}
	if got := value(t, w, "zdm_proxy_memory_bytes"); got <= bound {
		t.Errorf("the memory in use is told as %v bytes, want more than %d", got, bound)
	}
	w.target.Thaw()
	pushing.Wait()
	for i := range answers {
		for _, a := range answers[i] {
			used()
			mustVoid(t, all[i].Await(t, a).Message())
		}
	}
	if peak > most {
		t.Errorf("%d bytes were held, want at most %d of the %d that were sent", peak, most, clients*requests*3*size)
	}
	eventually(t, "all is given back", func() bool { return w.srv.Budget().Used() <= int64(clients)*64<<10 })
}

func TestAFrameLargerThanTheBudgetIsRefused(t *testing.T) {
	t.Parallel()
	const bound = 4 << 20
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_max_memory_bytes": fmt.Sprint(bound),
		"proxy_request_timeout_ms": "60000"}) // the scripted nodes take their time over megabytes
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	answer := c.Ask(t, &message.Query{Query: "SELECT '" + strings.Repeat("x", bound/2-1024) + "' FROM ks.t"})
	if _, ok := answer.(*message.RowsResult); !ok {
		t.Errorf("half of the budget gives %v, want rows", answer)
	}
	nc := dialRaw(t, w.addr)
	startup := frame.AppendHeader(nil, frame.V4, false, 0, 1, frame.OpStartup, 0)
	startup = frame.AppendString(frame.AppendString(frame.AppendShort(startup, 1), "CQL_VERSION"), "3.0.0")
	frame.PutLength(startup)
	in := frame.NewReader(nc, frame.MaxBody)
	for _, step := range []struct {
		send []byte
		want frame.Opcode
	}{{startup, frame.OpReady}, {frame.AppendHeader(nil, frame.V4, false, 0, 7, frame.OpQuery, bound/2+1), frame.OpError}} {
		if _, err := nc.Write(step.send); err != nil {
			t.Fatal(err)
		}
		if f, err := in.Next(); err != nil || f.Opcode() != step.want {
			t.Fatalf("the answer is % x, %v; want opcode %d", f, err, step.want)
		}
	}
}

func TestAClientThatBeginsAFrameAndDoesNotGoOnIsClosed(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_frame_timeout_ms": "1000"})
	idle, slow := cqltest.Dial(t, w.addr, cqltest.Login{}), cqltest.Dial(t, w.addr, cqltest.Login{})
	for _, b := range frame.AppendHeader(nil, frame.V4, false, 0, 7, frame.OpQuery, 100) {
		slow.Write([]byte{b})
	}
	select {
	case <-slow.Done():
	case <-time.After(15 * time.Second):
		t.Fatal("the client is still connected")
	}
	mustVoid(t, idle.Query(t, insert)) // it has begun nothing
	if got := value(t, w, "zdm_proxy_rejected_total", "frame_time"); got != 1 {
		t.Errorf("%v clients are counted as closed for an unfinished frame, want 1", got)
	}
}

func TestAClientThatDoesNotLogInIsClosed(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_login_timeout_ms": "1000"})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	for _, first := range []string{"", "\x04", "\x04\x00\x00\x01\x05\x00\x00\x00\x00"} { // nothing, a byte, OPTIONS
		nc := dialRaw(t, w.addr)
		if _, err := io.WriteString(nc, first); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, nc); err != nil {
			t.Errorf("after %q: %v, want the end of the connection", first, err)
		}
	}
	mustVoid(t, c.Query(t, insert)) // who has logged in has no such time
	eventually(t, "the three are counted", func() bool { return value(t, w, "zdm_proxy_rejected_total", "login_time") == 3 })
}

// dialRaw is a connection whose reads end in a test's time.
func dialRaw(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// records are the log lines of a server.
type records struct {
	slog.Handler
	mu  sync.Mutex
	all []string
}

func (r *records) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, rec.Message)
	return nil
}

func (r *records) count(part string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range r.all {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func TestWhatIsNotCQLIsToldOnceAndClosed(t *testing.T) {
	t.Parallel()
	log := &records{Handler: slog.NewTextHandler(io.Discard, nil)}
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	srv := serveLogging(t, w.values, slog.New(log))
	if err := srv.SetPhase(phase.DualWrite, 1); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Accept(l); err != nil {
		t.Fatal(err)
	}
	for what, test := range map[string]struct{ sent, advice string }{
		"HTTP": {"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "metrics_port"},
		"TLS":  {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "proxy_tls_ca_path"},
	} {
		for range 2 {
			nc := dialRaw(t, l.Addr().String())
			if _, err := io.WriteString(nc, test.sent); err != nil {
				t.Fatal(err)
			}
			if got, _ := io.ReadAll(nc); len(got) > 0 {
				t.Errorf("%s was answered %q, want nothing", what, got)
			}
		}
		if n := log.count(test.advice); n != 1 {
			t.Errorf("%s: what to do about it was logged %d times, want once", what, n)
		}
	}
}

// TestClientSocketsAreKeptAlive looks at the timer that the kernel has for the
// proxy's end of a connection, so that a client that has gone without a word is
// found out.
func TestClientSocketsAreKeptAlive(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	nc := dialRaw(t, w.addr)
	// The proxy has the connection when it has answered.
	if _, err := nc.Write(frame.AppendHeader(nil, frame.V4, false, 0, 1, frame.OpOptions, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := frame.NewReader(nc, frame.MaxBody).Next(); err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Skipf("needs Linux: %v", err)
	}
	kernel := func(a net.Addr) string {
		tcp := a.(*net.TCPAddr)
		ip := tcp.IP.To4()
		return strings.ToUpper(hex.EncodeToString([]byte{ip[3], ip[2], ip[1], ip[0]})) + fmt.Sprintf(":%04X", tcp.Port)
	}
	// sl local_address rem_address st tx_queue:rx_queue tr:tm->when ...
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) > 5 && f[1] == kernel(nc.RemoteAddr()) && f[2] == kernel(nc.LocalAddr()) {
			if !strings.HasPrefix(f[5], "02:") {
				t.Errorf("the kernel's timer is %s, want 02, that of keepalive", f[5])
			}
			return
		}
	}
	t.Error("the kernel does not list the connection")
}
