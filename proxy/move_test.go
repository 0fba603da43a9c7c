package proxy_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/session"
)

// moveInto hands sockets to another server of the same process: a copy of the
// descriptor, as another process would get it.
func moveInto(t *testing.T, to *proxy.Server) session.Move {
	return func(m control.Message, client *net.TCPConn) error {
		var nc net.Conn
		if client != nil {
			f, err := client.File()
			if err != nil {
				return err
			}
			defer f.Close()
			if nc, err = net.FileConn(f); err != nil {
				return err
			}
		}
		return to.Adopt(t.Context(), m, nc)
	}
}

func successor(t *testing.T, w *world, p phase.Phase) *proxy.Server {
	t.Helper()
	srv := serve(t, w.values)
	if err := srv.SetPhase(p, w.epoch); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the successor is ready", func() bool { return len(srv.NotReady()) == 0 })
	return srv
}

func TestClientsDoNotNoticeThatAnotherServerTakesOver(t *testing.T) {
	t.Parallel()
	auth := cqltest.Options{Username: "u", Password: "p"}
	w := start(t, phase.DualWrite, auth, auth, nil)
	const clients = 8
	var stop atomic.Bool
	var wg sync.WaitGroup
	var requests atomic.Int64
	conns := make([]*cqltest.Client, clients)
	for i := range conns {
		c := cqltest.Dial(t, w.addr, cqltest.Login{Username: "u", Password: "p"})
		conns[i] = c
		if i%2 == 0 {
			c.Query(t, "USE ks")
		}
		id := prepare(t, c, "INSERT INTO t (k) VALUES (1)")
		own := prepare(t, c, "SELECT host_id FROM system.local WHERE key = 'local'")
		wg.Go(func() {
			for !stop.Load() {
				for _, m := range []message.Message{
					execute(t, c, id), c.Query(t, insert),
					c.Ask(t, &message.Batch{Type: primitive.BatchTypeUnlogged, Children: []*message.BatchChild{{Id: id}}}),
				} {
					if _, ok := m.(*message.VoidResult); !ok {
						t.Errorf("client %d: got %v, want a void result", i, m)
						return
					}
				}
				if _, ok := execute(t, c, own).(*message.RowsResult); !ok {
					t.Errorf("client %d: the proxy's own statement is not answered", i)
					return
				}
				requests.Add(4)
			}
		})
	}
	old := w.srv
	for range 3 {
		before := requests.Load()
		eventually(t, "clients are at work", func() bool { return requests.Load() > before+100 })
		next := successor(t, w, phase.DualWrite)
		if err := old.Drain(context.Background(), moveInto(t, next)); err != nil {
			t.Fatalf("Drain: %v", err)
		}
		if n := next.Status().Clients; n != clients {
			t.Errorf("the successor has %d clients, want %d", n, clients)
		}
		old = next
	}
	before := requests.Load()
	eventually(t, "clients are at work", func() bool { return requests.Load() > before+100 })
	stop.Store(true)
	wg.Wait()
}

func TestAFrameThatArrivedInPartIsFinishedByTheSuccessor(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	next := successor(t, w, phase.DualWrite)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	mustVoid(t, c.Query(t, insert))
	w.origin.ClearRequests()
	// Half of a QUERY by hand, on a stream id that the client does not use.
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	startup := []byte{4, 0, 0, 1, 1, 0, 0, 0, 22, 0, 1, 0, 11, 'C', 'Q', 'L', '_', 'V', 'E', 'R', 'S', 'I', 'O', 'N', 0, 5, '3', '.', '0', '.', '0'}
	if _, err := nc.Write(startup[:13]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are clients", func() bool { return w.srv.Status().Clients == 2 })
	if err := w.srv.Drain(context.Background(), moveInto(t, next)); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write(startup[13:]); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 9)
	if _, err := nc.Read(answer); err != nil {
		t.Fatal(err)
	}
	if answer[0] != 0x84 || answer[3] != 1 || primitive.OpCode(answer[4]) != primitive.OpCodeReady {
		t.Errorf("got the frame %x, want READY on stream 1", answer)
	}
	mustVoid(t, c.Query(t, insert))
}

func TestClientsMoveThoughTheSuccessorCannotOpenTheirConnections(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	next := successor(t, w, phase.DualWrite)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	mustVoid(t, c.Query(t, insert))
	w.origin.RefuseConnections()
	if err := w.srv.Drain(context.Background(), moveInto(t, next)); err != nil {
		t.Fatal(err)
	}
	if n := next.Status().Clients; n != 1 {
		t.Fatalf("the successor has %d clients, want the one", n)
	}
	w.origin.Restart()
	eventually(t, "the client is served by the successor", func() bool {
		_, ok := c.Query(t, insert).(*message.VoidResult)
		return ok
	})
}

// The time that the successor is given to open connections must leave clients
// theirs for what is in flight.
func TestTheSuccessorsConnectionsTakeNoTimeFromRequestsInFlight(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_request_timeout_ms": "7000"})
	next := successor(t, w, phase.DualWrite)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	mustVoid(t, c.Query(t, insert))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	deadline, _ := ctx.Deadline()
	before := time.Now()
	var first control.Message
	give := moveInto(t, next)
	if err := w.srv.Drain(ctx, func(m control.Message, client *net.TCPConn) error {
		if client == nil {
			first = m
		}
		return give(m, client)
	}); err != nil {
		t.Fatal(err)
	}
	if left := deadline.Sub(before) - first.WarmWithin; first.WarmWithin <= 0 || left < 8*time.Second {
		t.Errorf("connections may take %s of %s, want 8 s left for requests", first.WarmWithin, deadline.Sub(before))
	}
}

func TestMovedClientsUseTheConfiguredUserOfTheSuccessor(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{Username: "o", Password: "before"}, cqltest.Options{Username: "u", Password: "p"}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{Username: "u", Password: "p"})
	mustVoid(t, c.Query(t, insert))
	old := w.srv
	for _, password := range []string{"after", "later"} {
		w.origin.SetPassword(password)
		w.values["origin_password"] = password
		next := successor(t, w, phase.DualWrite)
		if err := old.Drain(context.Background(), moveInto(t, next)); err != nil {
			t.Fatal(err)
		}
		mustVoid(t, c.Query(t, insert))
		old = next
	}
}

func TestALoginWithoutAMarkIsUsedAsItComes(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{Username: "o", Password: "p"}, cqltest.Options{Username: "u", Password: "p"}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{Username: "u", Password: "p"})
	next := successor(t, w, phase.DualWrite)
	give := moveInto(t, next)
	if err := w.srv.Drain(context.Background(), func(m control.Message, client *net.TCPConn) error {
		if m.Session != nil {
			if got := m.Session.Logins[phase.Origin]; got != (control.Login{Configured: true}) {
				t.Errorf("the configured user's login is sent as %+v, want only the mark", got)
			}
			m.Session.Logins[phase.Origin] = control.Login{Username: "o", Password: "wrong"}
		}
		return give(m, client)
	}); err != nil {
		t.Fatal(err)
	}
	if m, ok := c.Query(t, insert).(*message.VoidResult); ok {
		t.Errorf("a write with a wrong login at Origin: got %v, want an error", m)
	}
}

func TestMovedClientsAreTakenAtTheLimit(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	clients := []*cqltest.Client{cqltest.Dial(t, w.addr, cqltest.Login{}), cqltest.Dial(t, w.addr, cqltest.Login{})}
	next := successor(t, w, phase.DualWrite)
	next.SetMaxClients(1)
	if err := w.srv.Drain(context.Background(), moveInto(t, next)); err != nil {
		t.Fatal(err)
	}
	if n := next.Status().Clients; n != len(clients) {
		t.Fatalf("the successor has %d clients, want %d", n, len(clients))
	}
	for _, c := range clients {
		mustVoid(t, c.Query(t, insert))
	}
}

// lateListener hands what it accepts over only when it is closed.
type lateListener struct {
	net.Listener
	accepted, closed chan struct{}
}

func (l *lateListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		close(l.accepted)
		<-l.closed
	}
	return nc, err
}

func (l *lateListener) Close() error {
	defer close(l.closed)
	return l.Listener.Close()
}

func TestAClientThatWasAcceptedWhenTheMoveBeganMovesToo(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &lateListener{inner, make(chan struct{}), make(chan struct{})}
	if err := w.srv.Accept(l); err != nil {
		t.Fatal(err)
	}
	nc := dialRaw(t, inner.Addr().String())
	<-l.accepted
	next := successor(t, w, phase.DualWrite)
	if err := w.srv.Drain(context.Background(), moveInto(t, next)); err != nil {
		t.Fatal(err)
	}
	startup := frame.AppendHeader(nil, frame.V4, false, 0, 1, frame.OpStartup, 0)
	startup = frame.AppendString(frame.AppendString(frame.AppendShort(startup, 1), "CQL_VERSION"), "3.0.0")
	frame.PutLength(startup)
	if _, err := nc.Write(startup); err != nil {
		t.Fatal(err)
	}
	if f, err := frame.NewReader(nc, frame.MaxBody).Next(); err != nil || f.Opcode() != frame.OpReady {
		t.Errorf("STARTUP: got % x, %v; want READY", f, err)
	}
}

func TestAStatementThatTookTheLastPlaceOfTheCacheMoves(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_max_prepared_statement_cache_size": "1"})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	id := prepare(t, c, insert)
	next := successor(t, w, phase.DualWrite)
	give := moveInto(t, next)
	if err := w.srv.Drain(context.Background(), func(m control.Message, client *net.TCPConn) error {
		if client == nil { // the statements of now are told; clients are still served
			id = prepare(t, c, count)
		}
		return give(m, client)
	}); err != nil {
		t.Fatal(err)
	}
	if m, ok := execute(t, c, id).(*message.Unprepared); ok {
		t.Errorf("got %v, want an answer: the statement was prepared before the client moved", m)
	}
}

func TestASchemaEventThatWaitsForTheOtherSideMoves(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := registered(t, w, cqltest.Login{})
	w.origin.Emit(altered("waits"))
	w.origin.Emit(altered("of_both"))
	w.target.Emit(altered("of_both"))
	if e := schemaEvent(t, c); e.Keyspace != "of_both" {
		t.Fatalf("got %v, want the change that both have", e)
	}
	next := successor(t, w, phase.DualWrite)
	if err := w.srv.Drain(context.Background(), moveInto(t, next)); err != nil {
		t.Fatal(err)
	}
	w.target.Emit(altered("waits"))
	if e := schemaEvent(t, c); e.Keyspace != "waits" {
		t.Errorf("got %v, want the change of which the successor has seen one half", e)
	}
}
