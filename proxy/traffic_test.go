package proxy_test

import (
	"bufio"
	"net"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// clientOf connects as a driver that says its name, and returns when it is let in.
func clientOf(t *testing.T, addr, name, version string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	startup := frame.AppendHeader(nil, frame.V4, false, 0, 0, frame.OpStartup, 0)
	options := []string{"CQL_VERSION", "3.0.0", "DRIVER_NAME", name, "DRIVER_VERSION", version}
	startup = frame.AppendShort(startup, uint16(len(options)/2))
	for _, o := range options {
		startup = frame.AppendString(startup, o)
	}
	frame.PutLength(startup)
	if _, err := nc.Write(startup); err != nil {
		t.Fatal(err)
	}
	if f, err := frame.NewReader(bufio.NewReader(nc), frame.MaxBody).Next(); err != nil || f.Opcode() != frame.OpReady {
		t.Fatalf("STARTUP: %v, %v", f, err)
	}
	return nc
}

func TestStatusCountsClientsByDriver(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	const java = "DataStax Java driver for Apache Cassandra(R)"
	first := clientOf(t, w.addr, java, "4.17.0")
	clientOf(t, w.addr, java, "4.17.0")
	clientOf(t, w.addr, "DataStax Python Driver", "3.29.2")
	want := []control.Driver{{Name: java, Version: "4.17.0", Clients: 2}, {Name: "DataStax Python Driver", Version: "3.29.2", Clients: 1}}
	if diff := cmp.Diff(want, w.srv.Status().Drivers); diff != "" {
		t.Errorf("drivers (-want +got):\n%s", diff)
	}
	// They are counted by the process that goes on with them.
	next := successor(t, w, phase.DualWrite)
	first.Close()
	eventually(t, "the client that left is counted out", func() bool { return w.srv.Status().Drivers[0].Clients == 1 })
	if err := w.srv.Drain(t.Context(), moveInto(t, next)); err != nil {
		t.Fatal(err)
	}
	want[0].Clients = 1
	if diff := cmp.Diff(want, next.Status().Drivers); diff != "" {
		t.Errorf("drivers of the successor (-want +got):\n%s", diff)
	}
	if left := w.srv.Status().Drivers; len(left) != 0 {
		t.Errorf("the process that drained still counts %+v", left)
	}
}

func TestStatusTellsWhichSideFailedWhatAndWhen(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualRead, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	before := time.Now()
	c.Query(t, insert)
	c.Query(t, sel)
	traffic := func(side phase.Side) control.Traffic {
		st := w.srv.Status()
		if side == phase.Target {
			return st.Target.Traffic
		}
		return st.Origin.Traffic
	}
	eventually(t, "the copy is counted", func() bool { return traffic(phase.Target).Copies == 1 })
	if diff := cmp.Diff(control.Traffic{Writes: 1, Reads: 1}, traffic(phase.Origin)); diff != "" {
		t.Errorf("origin (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(control.Traffic{Writes: 1, Copies: 1}, traffic(phase.Target)); diff != "" {
		t.Errorf("target (-want +got):\n%s", diff)
	}
	w.target.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.System() {
			return cqltest.Ordinary()
		}
		return cqltest.Error(primitive.ErrorCodeOverloaded, "busy")
	})
	c.Query(t, insert)
	c.Query(t, sel)
	eventually(t, "the copy is counted", func() bool { return traffic(phase.Target).FailedCopies == 1 })
	got := traffic(phase.Target)
	if got.LastFailedWrite.Before(before) || got.LastFailedCopy.Before(before) {
		t.Errorf("failed last at %s and %s, want after %s", got.LastFailedWrite, got.LastFailedCopy, before)
	}
	got.LastFailedWrite, got.LastFailedCopy = time.Time{}, time.Time{}
	if diff := cmp.Diff(control.Traffic{Writes: 2, FailedWrites: 1, Copies: 2, FailedCopies: 1}, got); diff != "" {
		t.Errorf("target (-want +got):\n%s", diff)
	}
	if got := traffic(phase.Origin); got.FailedWrites != 0 || !got.LastFailedWrite.IsZero() {
		t.Errorf("origin is blamed: %+v", got)
	}
}
