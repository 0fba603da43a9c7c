package proxy_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// severalProxies are settings of the second of three proxies.
var severalProxies = map[string]string{"proxy_topology_addresses": "10.9.0.1,10.9.0.2,2001:db8::3", "proxy_topology_index": "1", "proxy_listen_port": "19042"}

var versions345 = []primitive.ProtocolVersion{primitive.ProtocolVersion3, primitive.ProtocolVersion4, primitive.ProtocolVersion5}

// statusEvents waits for the end of the connection, and returns the changes that it
// was told of, all of which must be of the second proxy.
func statusEvents(t *testing.T, c *cqltest.Client) (changes []primitive.StatusChangeType) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the connection stays open")
	}
	for len(c.Events) > 0 {
		m := <-c.Events
		e, ok := m.(*message.StatusChangeEvent)
		if !ok || e.Address.Addr.String() != "10.9.0.2" || e.Address.Port != 19042 {
			t.Errorf("got %v, want a status of 10.9.0.2:19042", m)
			continue
		}
		changes = append(changes, e.ChangeType)
	}
	return changes
}

func TestARealDrainTellsDownToThoseWhoAskedForItWhenNothingIsInFlight(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{Versions: versions345}, cqltest.Options{Versions: versions345}, severalProxies)
	release := make(chan struct{})
	w.target.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == insert {
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
	var asked []*cqltest.Client
	for _, v := range versions345 {
		c := registered(t, w, cqltest.Login{Version: v})
		c.Query(t, sel) // behind the event that it is up
		asked = append(asked, c)
	}
	deaf := registered(t, w, cqltest.Login{}, primitive.EventTypeSchemaChange)
	// A pool of the same driver, say, has a write in flight, and so has one of those
	// who asked.
	pool := cqltest.Dial(t, w.addr, cqltest.Login{})
	answers := map[*cqltest.Client]<-chan cqltest.Answer{}
	for _, c := range []*cqltest.Client{pool, asked[0]} {
		answers[c] = c.Send(&message.Query{Query: insert})
	}
	w.target.WaitFor(t, 2, cqltest.WithText(insert))
	drained := make(chan error, 1)
	go func() { drained <- w.srv.Drain(context.Background(), nil) }()
	<-deaf.Done()
	for _, c := range asked {
		select {
		case <-c.Done():
			t.Error("a client that asked is closed while a request is in flight on another connection")
		default:
		}
		if len(c.Events) != 1 { // UP, when it registered
			t.Error("a client is told DOWN while a request is in flight on another connection")
		}
	}
	if nc, err := net.Dial("tcp", w.addr); err == nil {
		nc.Close()
		t.Error("new clients are taken while what is in flight is answered")
	}
	close(release)
	for c, answer := range answers {
		if m := c.Await(t, answer).Message(); m.GetOpCode() != primitive.OpCodeResult {
			t.Errorf("what was in flight: got %v, want its RESULT", m)
		}
	}
	for i, c := range asked {
		got := statusEvents(t, c)
		if len(got) != 2 || got[0] != primitive.StatusChangeTypeUp || got[1] != primitive.StatusChangeTypeDown {
			t.Errorf("in %s: told %v, want UP at the beginning and DOWN at the end", versions345[i], got)
		}
	}
	for _, c := range []*cqltest.Client{deaf, pool} {
		if got := statusEvents(t, c); len(got) > 0 {
			t.Errorf("a client that did not ask is told %v", got)
		}
	}
	if err := <-drained; err != nil {
		t.Errorf("Drain: %v", err)
	}
}

func TestNobodyIsToldDownWhereClientsWouldHaveNowhereToGoOrSomebodyTakesOver(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settings map[string]string
		taken    bool
		ups      int
	}{
		"the only proxy":                   {nil, false, 0},
		"a hand-over that moves no client": {severalProxies, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, c.settings)
			client := registered(t, w, cqltest.Login{})
			noReply := func(control.Message, *net.TCPConn) error { return errors.New("the other process is gone") }
			var err error
			if c.taken {
				err = w.srv.Drain(t.Context(), noReply)
			} else {
				err = w.srv.Drain(t.Context(), nil)
			}
			if err != nil {
				t.Errorf("Drain: %v", err)
			}
			got := statusEvents(t, client)
			if len(got) != c.ups {
				t.Errorf("told %v, want %d times UP and nothing else", got, c.ups)
			}
		})
	}
}

func TestAClientThatGoesOnInAnotherProcessIsToldNothing(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, severalProxies)
	c := registered(t, w, cqltest.Login{})
	next := successor(t, w, phase.DualWrite)
	if err := w.srv.Drain(t.Context(), moveInto(t, next)); err != nil {
		t.Errorf("Drain: %v", err)
	}
	if c.Query(t, sel); len(c.Events) != 1 {
		t.Errorf("%d events, want only the UP of the beginning", len(c.Events))
	}
	// The registration has moved too.
	if err := next.Drain(t.Context(), nil); err != nil {
		t.Errorf("Drain of the next: %v", err)
	}
	if got := statusEvents(t, c); len(got) != 2 || got[1] != primitive.StatusChangeTypeDown {
		t.Errorf("told %v, want UP and DOWN", got)
	}
}
