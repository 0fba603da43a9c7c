package nbio_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/buffer"
	"github.com/zdmproject/terraform-provider-zdm/internal/nbio"
)

// pair returns both ends of a TCP connection.
func pair(t *testing.T) (*nbio.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return nbio.New(near), far
}

func TestReadLazilyHoldsNoMemoryWhileItWaits(t *testing.T) {
	t.Parallel()
	c, far := pair(t)
	held := make(chan int, 16)
	n := 0
	buf := make([]byte, 64)
	got := make(chan string)
	go func() {
		k, err := c.ReadLazily(func() []byte { n++; held <- n; return buf }, func() { n--; held <- n })
		if err != nil {
			got <- err.Error()
			return
		}
		got <- string(buf[:k])
	}()
	if a, b := <-held, <-held; a != 1 || b != 0 {
		t.Fatalf("before input: took %d, then holds %d; want 1, then 0", a, b)
	}
	if _, err := far.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if text := <-got; text != "hello" {
		t.Errorf("ReadLazily read %q, want %q", text, "hello")
	}
}

func TestReadLazilyEndsWithDeadlineAndEOF(t *testing.T) {
	t.Parallel()
	c, far := pair(t)
	buf := make([]byte, 8)
	take, release := func() []byte { return buf }, func() {}
	if err := c.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadLazily(take, release); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v, want %v", err, os.ErrDeadlineExceeded)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	far.Close()
	if _, err := c.ReadLazily(take, release); !errors.Is(err, io.EOF) {
		t.Errorf("after the far end closed: %v, want EOF", err)
	}
}

func TestOutboxWritesEverythingInOrderThroughAFullSocket(t *testing.T) {
	t.Parallel()
	c, far := pair(t)
	var o nbio.Outbox
	o.Init(c, time.Minute, func(err error) { t.Errorf("write error: %v", err) })
	const total = 24 << 20 // more than both socket buffers
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 256)
	for sent := 0; sent < total; sent += len(chunk) {
		o.End(append(o.Begin(), chunk...))
		o.Flush() // never blocks: nobody reads yet
	}
	if o.Len() == 0 {
		t.Fatal("the socket took everything; the test needs it full")
	}
	got := make([]byte, total)
	if _, err := io.ReadFull(far, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, bytes.Repeat(chunk, total/len(chunk))) {
		t.Error("the far end got other bytes than were appended")
	}
	o.Finish(net.ErrClosed)
	if n := o.Len(); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}

func TestOutboxWritesAsEverLongAfterASocketWasFull(t *testing.T) {
	t.Parallel()
	c, far := pair(t)
	var o nbio.Outbox
	const timeout = 200 * time.Millisecond
	o.Init(c, timeout, func(err error) { t.Errorf("write error: %v", err) })
	chunk := make([]byte, 1<<20)
	total := 0
	for o.Len() == 0 { // until the socket is full
		o.End(append(o.Begin(), chunk...))
		o.Flush()
		total += len(chunk)
	}
	if _, err := io.CopyN(io.Discard, far, int64(total)); err != nil {
		t.Fatal(err)
	}
	if err := far.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// The time-out of the write that blocked is over before the next one.
	past := time.NewTimer(timeout + timeout/2)
	<-past.C
	o.End(append(o.Begin(), 'x'))
	o.Flush()
	if _, err := io.ReadFull(far, chunk[:1]); err != nil {
		t.Error(err)
	}
}

func TestOutboxOfManyWritersKeepsFramesWhole(t *testing.T) {
	t.Parallel()
	c, far := pair(t)
	var o nbio.Outbox
	o.Init(c, time.Minute, func(err error) { t.Errorf("write error: %v", err) })
	const writers, each, size = 8, 500, 100
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				o.End(append(o.Begin(), bytes.Repeat([]byte{byte('a' + w)}, size)...))
				o.Flush()
			}
		})
	}
	counts := map[byte]int{}
	frame := make([]byte, size)
	for range writers * each {
		if _, err := io.ReadFull(far, frame); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(frame, bytes.Repeat(frame[:1], size)) {
			t.Fatalf("frames are mixed: %q", frame)
		}
		counts[frame[0]]++
	}
	wg.Wait()
	for w := range writers {
		if n := counts[byte('a'+w)]; n != each {
			t.Errorf("writer %d: %d frames arrived, want %d", w, n, each)
		}
	}
}

// A session that ends closes its socket after Finish, while readers of node
// connections may be in the middle of a flush for it.
func TestOutboxFinishWaitsForTheFlushOfAnotherAndTakesNoMore(t *testing.T) {
	t.Parallel()
	for range 50 {
		c, far := pair(t)
		var o nbio.Outbox
		o.Init(c, time.Minute, func(err error) { t.Errorf("write error: %v", err) })
		received := make(chan int)
		go func() {
			b, _ := io.ReadAll(far) // the end of the stream is no error
			received <- len(b)
		}()
		var wg sync.WaitGroup
		const writers, size = 4, 300 << 10
		appended := make(chan struct{}, writers)
		for range writers {
			wg.Go(func() {
				o.End(append(o.Begin(), make([]byte, size)...))
				appended <- struct{}{}
				o.Flush()
			})
		}
		for range writers {
			<-appended
		}
		o.Finish(net.ErrClosed)
		c.Close()
		if got := <-received; got != writers*size {
			t.Fatalf("%d bytes arrived, want %d: Finish returned before they were written", got, writers*size)
		}
		wg.Wait()
		o.End(append(o.Begin(), 'x'))
		if o.Len() != 0 {
			t.Fatal("the outbox took output after Finish")
		}
	}
}

func TestOutboxTellsTheFirstWriteErrorOnceAndTakesNoMore(t *testing.T) {
	t.Parallel()
	c, far := pair(t)
	var o nbio.Outbox
	told := 0
	o.Init(c, time.Minute, func(error) { told++ })
	far.Close()
	c.Close()
	for range 3 {
		o.End(append(o.Begin(), "x"...))
		o.Flush()
	}
	if told != 1 || o.Len() != 0 {
		t.Errorf("told %d times with %d bytes left, want once with none", told, o.Len())
	}
}

func TestOutboxAllocatesNothingOnceItsBuffersAreMade(t *testing.T) {
	c, far := pair(t)
	go io.Copy(io.Discard, far)
	var o nbio.Outbox
	o.Init(c, time.Minute, func(error) {})
	payload := []byte("0123456789")
	if n := testing.AllocsPerRun(200, func() {
		o.End(append(buffer.Grow(o.Begin(), len(payload)), payload...))
		o.Flush()
	}); n != 0 {
		t.Errorf("append and flush allocate %v times, want 0", n)
	}
}
