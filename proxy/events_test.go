package proxy_test

import (
	"net"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// registered is a client that has asked for these kinds of events; all if none.
func registered(t *testing.T, w *world, login cqltest.Login, kinds ...primitive.EventType) *cqltest.Client {
	t.Helper()
	if len(kinds) == 0 {
		kinds = []primitive.EventType{primitive.EventTypeTopologyChange, primitive.EventTypeStatusChange, primitive.EventTypeSchemaChange}
	}
	c := cqltest.Dial(t, w.addr, login)
	if m, ok := c.Ask(t, &message.Register{EventTypes: kinds}).(*message.Ready); !ok {
		t.Fatalf("REGISTER: got %v, want READY", m)
	}
	return c
}

func altered(keyspace string) *message.SchemaChangeEvent {
	return &message.SchemaChangeEvent{
		ChangeType: primitive.SchemaChangeTypeUpdated, Target: primitive.SchemaChangeTargetTable, Keyspace: keyspace, Object: "t",
	}
}

// schemaEvent waits for the next event, which must be one of the schema.
func schemaEvent(t *testing.T, c *cqltest.Client) *message.SchemaChangeEvent {
	t.Helper()
	select {
	case m := <-c.Events:
		e, ok := m.(*message.SchemaChangeEvent)
		if !ok {
			t.Fatalf("got %v, want a change of the schema", m)
		}
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no event")
		return nil
	}
}

// noEvent has the client make a round trip, behind which an event would be.
func noEvent(t *testing.T, c *cqltest.Client, why string) {
	t.Helper()
	if m := c.Query(t, sel); m.GetOpCode() != primitive.OpCodeResult {
		t.Fatalf("a read: %v", m)
	}
	select {
	case e := <-c.Events:
		t.Errorf("%s: got %v, want no event", why, e)
	default:
	}
}

func TestASchemaEventReachesClientsOnceBothSidesHaveSentIt(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := registered(t, w, cqltest.Login{})
	deaf := registered(t, w, cqltest.Login{}, primitive.EventTypeStatusChange)
	for _, s := range phase.Sides {
		n := w.side(s)
		n.Emit(&message.StatusChangeEvent{ChangeType: primitive.StatusChangeTypeDown, Address: &primitive.Inet{Addr: net.IPv4(10, 0, 0, 1), Port: 9042}})
		n.Emit(&message.TopologyChangeEvent{ChangeType: primitive.TopologyChangeTypeNewNode, Address: &primitive.Inet{Addr: net.IPv4(10, 0, 0, 1), Port: 9042}})
	}
	// Each side's events are read in order, so what comes first would be passed on
	// first if it was not held back.
	for _, first := range phase.Sides {
		w.side(first).Emit(altered("lonely_" + first.String()))
		w.side(first).Emit(altered("of_both"))
		noEvent(t, c, "while only "+first.String()+" has it")
		w.side(first.Other()).Emit(altered("of_both"))
		if e := schemaEvent(t, c); e.Keyspace != "of_both" || e.Object != "t" || e.ChangeType != primitive.SchemaChangeTypeUpdated {
			t.Errorf("with %s first: got %v, want the change that both have", first, e)
		}
	}
	if e := schemaEvent(t, c); e.Keyspace != "lonely_origin" {
		t.Errorf("when the wait is over: got %v, want what the side that answers system queries has", e)
	}
	// What only Target has is over by now, or will be at once.
	w.origin.Emit(altered("last"))
	w.target.Emit(altered("last"))
	if e := schemaEvent(t, c); e.Keyspace != "last" {
		t.Errorf("got %v, want what both have, and not what only target has", e)
	}
	noEvent(t, deaf, "a client that has not registered for the schema")
}

func TestWhereOneSideIsWrittenToItsSchemaEventsComeAtOnce(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	w.setPhase(t, phase.DualRead)
	w.setPhase(t, phase.CutOver)
	w.setPhase(t, phase.TargetOnly)
	c := registered(t, w, cqltest.Login{})
	w.origin.Emit(altered("of_origin"))
	w.target.Emit(altered("of_target"))
	if e := schemaEvent(t, c); e.Keyspace != "of_target" {
		t.Errorf("got %v, want target's change", e)
	}
	noEvent(t, c, "of origin, which is not written to")
}

func TestAfterALostControlConnectionClientsHearOfEachKeyspaceThatMayHaveChanged(t *testing.T) {
	t.Parallel()
	tables := []string{"ks.t", "other.t"}
	w := start(t, phase.DualWrite, cqltest.Options{Tables: tables}, cqltest.Options{Tables: tables}, nil)
	c := registered(t, w, cqltest.Login{})
	for i, side := range []phase.Side{phase.Target, phase.Origin} {
		id := prepare(t, c, sel)
		n := w.side(side)
		n.SetSchemaVersion(primitive.UUID{7, byte(i)})
		n.DropConnections()
		eventually(t, "reads are prepared again after "+side.String()+" was away", func() bool {
			_, ok := execute(t, c, id).(*message.Unprepared)
			return ok
		})
		if side == phase.Target {
			continue // origin answers system queries
		}
		for _, keyspace := range []string{"ks", "other"} {
			e := schemaEvent(t, c)
			if e.ChangeType != primitive.SchemaChangeTypeUpdated || e.Target != primitive.SchemaChangeTargetKeyspace || e.Keyspace != keyspace {
				t.Errorf("got %v, want an update of keyspace %s", e, keyspace)
			}
		}
	}
}
