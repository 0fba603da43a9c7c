package client

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// watcher is an owner that keeps what it hears of a slow client.
type watcher struct{ waiting []int }

func (o *watcher) TooSlow(waiting int) { o.waiting = append(o.waiting, waiting) }
func (*watcher) AwaitRoom(func() bool) {}

// One answer may be as large as it is; what comes for a client while more than its
// bound waits, besides what is being written, ends it.
func TestAClientIsClosedWhenMoreComesWhileItsBoundIsUnread(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe() // nobody reads near
	defer near.Close()
	const limit, size = 64 << 10, 1 << 20
	var c Conn
	o := &watcher{}
	c.Init(far, Limits{WriteTimeout: time.Hour, FrameTimeout: time.Hour, MaxBytes: limit, Budget: testBudget(64 << 20)}, o)
	defer c.Shut()
	c.Version = frame.V4
	answer := append(frame.AppendHeader(nil, frame.V4, true, 0, 1, frame.OpResult, size), make([]byte, size)...)
	for range 2 { // one that is being written, and one that waits
		var b upstream.Batch
		c.Respond(&b, 1, answer)
		b.Done()
	}
	if len(o.waiting) > 0 {
		t.Fatalf("the client was closed with %d bytes unread, and nothing more to come", o.waiting)
	}
	var b upstream.Batch
	c.Respond(&b, 1, answer)
	b.Done()
	if len(o.waiting) != 1 || o.waiting[0] < limit {
		t.Errorf("too slow with %d bytes unread, want it once and with more than %d", o.waiting, limit)
	}
	if _, err := far.Write([]byte{0}); err == nil {
		t.Error("the connection is still open")
	}
}

func TestTheCompressionFlagOfAFrameMeansNothingInV5(t *testing.T) {
	t.Parallel()
	body := []byte("not compressed")
	f := frame.AppendHeader(nil, frame.V5, false, frame.FlagCompressed|frame.FlagTracing, 1, frame.OpQuery, len(body))
	c := &Conn{Version: frame.V5}
	got, err := c.Decompress(append(f, body...))
	if err != nil || got.Flags() != frame.FlagTracing || !bytes.Equal(got.Body(), body) {
		t.Errorf("got % x, %v; want the frame without the flag", got, err)
	}
}

func TestAV3ClientGetsNoSchemaEventThatItsVersionDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		target  string
		details []string
		newInV4 bool
	}{
		{"KEYSPACE", []string{"ks"}, false},
		{"TABLE", []string{"ks", "t"}, false},
		{"TYPE", []string{"ks", "t"}, false},
		{"FUNCTION", []string{"ks", "f"}, true},
		{"AGGREGATE", []string{"ks", "a"}, true},
		// It is the target that counts, not what is called so.
		{"KEYSPACE", []string{"FUNCTION"}, false},
		{"TABLE", []string{"FUNCTION", "AGGREGATE"}, false},
	} {
		body := frame.AppendString(nil, "SCHEMA_CHANGE")
		body = frame.AppendString(frame.AppendString(body, "CREATED"), test.target)
		for _, text := range test.details {
			body = frame.AppendString(body, text)
		}
		if test.newInV4 {
			body = frame.AppendShort(body, 0) // the types of the arguments
		}
		if got := newInV4(body); got != test.newInV4 {
			t.Errorf("CREATED %s %q: new in v4 is %t, want %t", test.target, test.details, got, test.newInV4)
		}
	}
}
