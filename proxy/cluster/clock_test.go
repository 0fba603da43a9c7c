package cluster

import (
	"encoding/hex"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// nowRow is an answer to now() with the bytes of a cell.
func nowRow(id []byte) message.Message {
	rows := textRows("system", "local", []string{"system.now()"}, []string{""})
	rows.Data[0][0] = id
	return rows
}

func TestTheTimeOfATimeUUIDIsRead(t *testing.T) {
	t.Parallel()
	tests := []struct {
		id, want string
	}{
		// The example of RFC 9562, appendix A.1.
		{"c232ab0094141 1ecb3c89f6bdeced846", "2022-02-22T19:22:22Z"},
		{"1381400 01dd2 11b2 8000000000000001", "1970-01-01T00:00:00Z"},
		{"c232ab0094144 1ecb3c89f6bdeced846", ""}, // version 4
		{"c232ab00", ""},
	}
	for _, test := range tests {
		text := strings.ReplaceAll(test.id, " ", "")
		id, err := hex.DecodeString(strings.Repeat("0", len(text)%2) + text)
		if err != nil {
			t.Fatal(err)
		}
		at, ok := uuidTime(id)
		if got := at.UTC().Format(time.RFC3339Nano); ok != (test.want != "") || ok && got != test.want {
			t.Errorf("%s is %s (%t), want %s", test.id, got, ok, test.want)
		}
	}
}

func TestControlMeasuresTheClockAtEachHeartbeatWithinItsUncertainty(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var skew atomic.Int64
		skew.Store(int64(90 * time.Second))
		trip := []time.Duration{80 * time.Millisecond, 4 * time.Millisecond, 30 * time.Millisecond}
		asked := 0
		// All of the way there and nothing of the way back: the worst for a
		// measure that takes the middle.
		c := serveControl(t, 1, func(_ *ControlConfig, nodes []*fakeNode) {
			nodes[0].clock = func() message.Message {
				time.Sleep(trip[asked%len(trip)])
				asked++
				return nowRow(cqltest.TimeUUID(time.Now().Add(time.Duration(skew.Load()))))
			}
		})
		check := func() {
			t.Helper()
			ahead := time.Duration(skew.Load())
			time.Sleep(time.Second)
			synctest.Wait()
			m, ok := c.Clock()
			if !ok || m.Node != "10.0.0.1:9042" {
				t.Fatalf("clock is %+v (%t), want a measure of the only node", m, ok)
			}
			if off := (m.Ahead - ahead).Abs(); off > m.Uncertainty || m.Uncertainty > 5*time.Millisecond {
				t.Errorf("clock is ahead by %s, give or take %s; want %s, by the sample of 4 ms", m.Ahead, m.Uncertainty, ahead)
			}
			s := c.Status().Clock
			if s == nil || s.AheadSeconds != m.Ahead.Seconds() || s.UncertaintySeconds != m.Uncertainty.Seconds() || s.Node != m.Node || !s.Measured.Equal(m.Measured) {
				t.Errorf("status tells %+v, want %+v", s, m)
			}
		}
		check()
		skew.Store(int64(-time.Hour))
		time.Sleep(30 * time.Second)
		check()

		first, _ := c.Clock()
		c.nodes[0].set(func(n *fakeNode) { n.down = true })
		time.Sleep(time.Hour)
		later, ok := c.Clock()
		if want := first.Uncertainty + time.Hour*clockDrift/1_000_000; !ok || later.Ahead != first.Ahead || later.Uncertainty != want {
			t.Errorf("an hour without a connection later the clock is %+v (%t), want the last measure with an uncertainty of %s", later, ok, want)
		}
	})
}

func TestAClockThatIsNotToldCostsNoConnection(t *testing.T) {
	t.Parallel()
	empty := textRows("system", "local", []string{"system.now()"})
	for name, answer := range map[string]message.Message{
		"error": &message.Invalid{ErrorMessage: "Unknown function 'now'"}, "no row": empty, "text": nowRow([]byte("noon")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := serveControl(t, 1, func(_ *ControlConfig, nodes []*fakeNode) {
					nodes[0].clock = func() message.Message { return answer }
				})
				time.Sleep(time.Minute)
				synctest.Wait()
				if m, ok := c.Clock(); ok || c.Status().Clock != nil {
					t.Errorf("clock is %+v, want none", m)
				}
				if s := c.Status(); !s.Connected || len(c.net.dials()) != 1 {
					t.Errorf("status is %+v after %d connections, want the first one", s, len(c.net.dials()))
				}
			})
		})
	}
}

// TestControlMeasuresTheClockOfANodeOverTCP is the whole way of the bytes, with
// a node's own encoding.
func TestControlMeasuresTheClockOfANodeOverTCP(t *testing.T) {
	t.Parallel()
	const ahead = -42 * time.Second
	nodes := cqltest.StartCluster(t, "127.74.1.1", 1, cqltest.Options{ClockAhead: ahead})
	c, err := NewControl(ControlConfig{Side: phase.Target, ContactPoints: nodes.ContactPoints(), Port: nodes.Port(), AssignHosts: true})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	t.Cleanup(func() { <-ended }) // after the context of the test
	go func() { ended <- c.Serve(t.Context()) }()
	nodes.Nodes[0].WaitFor(t, clockSamples, cqltest.WithText(askClock))
	var m Clock
	for deadline, ok := time.Now().Add(15*time.Second), false; !ok; m, ok = c.Clock() {
		if time.Now().After(deadline) {
			t.Fatal("no measure within 15 s")
		}
		time.Sleep(time.Millisecond)
	}
	if off := (m.Ahead - ahead).Abs(); off > m.Uncertainty {
		t.Errorf("clock is ahead by %s, give or take %s; want %s", m.Ahead, m.Uncertainty, ahead)
	}
}
