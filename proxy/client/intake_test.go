package client

import (
	"net"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// calm is an owner whose client is always read.
type calm struct{ t *testing.T }

func (o calm) TooSlow(waiting int) {
	o.t.Errorf("the client is said to leave %d bytes unread", waiting)
}
func (calm) AwaitRoom(func() bool) {}

func TestAFrameIsOverdueFromItsFirstByteToItsLastAndHeldUntilTheNext(t *testing.T) {
	t.Parallel()
	const limit = time.Minute
	near, far := net.Pipe()
	defer near.Close()
	b := testBudget(64 << 20)
	var c Conn
	c.Init(far, Limits{WriteTimeout: time.Second, FrameTimeout: limit, MaxBytes: 1 << 20, Budget: b}, calm{t})
	defer c.Shut()
	later := func() int64 { return upstream.Nanotime() + int64(limit) + 1 }
	if c.Overdue(later()) {
		t.Error("a client that has sent nothing is overdue")
	}
	const body = 1 << 20
	f := append(frame.AppendHeader(nil, frame.V4, false, 0, 1, frame.OpQuery, body), make([]byte, body)...)
	// The pipe has no buffer: what was written has been read.
	got := make(chan error, 1)
	go func() {
		_, err := c.Next()
		got <- err
	}()
	for _, part := range [][]byte{f[:4], f[4 : len(f)-1]} {
		if _, err := near.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if c.Overdue(upstream.Nanotime()) || !c.Overdue(later()) {
		t.Error("a frame that has begun is not overdue after its time, or is before it")
	}
	if _, err := near.Write(f[len(f)-1:]); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if c.Overdue(later()) {
		t.Error("a frame that is complete is overdue, however long it is dealt with")
	}
	if held := c.Held(); held < body/2 || held > body {
		t.Errorf("the frame holds %d bytes, want most of its %d", held, body)
	}
	go func() {
		_, err := c.Next()
		got <- err
	}()
	if _, err := near.Write(f[:1]); err != nil {
		t.Fatal(err)
	}
	near.Close()
	if err := <-got; err == nil {
		t.Error("half a frame was returned")
	}
	if c.Held() != 0 {
		t.Errorf("a frame that was dealt with holds %d bytes still", c.Held())
	}
}

// full is an owner that tells the test when its client is not read, and waits.
type full struct {
	calm
	waiting, room chan struct{}
}

func (o full) AwaitRoom(wait func() bool) {
	if wait() {
		o.waiting <- struct{}{}
		<-o.room
	}
}

func TestTheTimeOfAFrameStopsWhileTheClientIsNotRead(t *testing.T) {
	t.Parallel()
	const limit = time.Minute
	near, far := net.Pipe()
	defer near.Close()
	b := testBudget(64 << 20)
	o := full{calm{t}, make(chan struct{}), make(chan struct{})}
	var c Conn
	c.Init(far, Limits{WriteTimeout: time.Second, FrameTimeout: limit, MaxBytes: 1 << 20, Budget: b}, o)
	defer c.Shut()
	later := func() int64 { return upstream.Nanotime() + int64(limit) + 1 }
	const body = 1 << 20
	f := append(frame.AppendHeader(nil, frame.V4, false, 0, 1, frame.OpQuery, body), make([]byte, body)...)
	b.used.Add(2 * b.limit) // others take all of it
	got := make(chan error, 1)
	go func() {
		_, err := c.Next()
		got <- err
	}()
	written := make(chan error, 1)
	go func() {
		_, err := near.Write(f[:len(f)-1])
		written <- err
	}()
	<-o.waiting
	if c.Overdue(later()) {
		t.Error("a client is overdue while it is not read")
	}
	b.used.Add(-2 * b.limit)
	o.room <- struct{}{}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if c.Overdue(upstream.Nanotime()) || !c.Overdue(later()) {
		t.Error("when there is room the frame is overdue at once, or never")
	}
	near.Close()
	if err := <-got; err == nil {
		t.Error("a frame without its last byte was returned")
	}
}
