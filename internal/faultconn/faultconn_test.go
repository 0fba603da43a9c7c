package faultconn_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/faultconn"
)

// echo is an upstream that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, r *faultconn.Relay) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.TCPConn)
}

func roundTrip(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestForwardsUnchangedWithoutFaults(t *testing.T) {
	t.Parallel()
	c := dial(t, faultconn.New(t, echo(t)))
	big := bytes.Repeat([]byte("0123456789"), 20_000)
	go func() {
		c.Write(big)
		c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, big) {
		t.Errorf("got %d bytes, %v; want the %d sent", len(got), err, len(big))
	}
}

func TestCorruptsExactlyOneByte(t *testing.T) {
	t.Parallel()
	r := faultconn.New(t, echo(t))
	c := dial(t, r)
	roundTrip(t, c, "before")
	r.CorruptAfter(faultconn.Down, 2)
	if got, want := roundTrip(t, c, "abcdef"), "ab\x9cdef"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := roundTrip(t, c, "after"); got != "after" {
		t.Errorf("got %q, want it unchanged", got)
	}
}

func TestCorruptEachInvertsEveryNthByte(t *testing.T) {
	t.Parallel()
	r := faultconn.New(t, echo(t))
	c := dial(t, r)
	r.CorruptEach(faultconn.Up, 3)
	for _, step := range [][2]string{{"abcdefghij", "abc\x9bef\x98hi\x95"}, {"ab", "ab"}, {"a", "\x9e"}} {
		if got := roundTrip(t, c, step[0]); got != step[1] {
			t.Errorf("got %q, want %q", got, step[1])
		}
	}
	r.CorruptEach(faultconn.Up, 0)
	if got := roundTrip(t, c, "abcdefgh"); got != "abcdefgh" {
		t.Errorf("got %q, want it unchanged", got)
	}
}

func TestCutResetsAtAPosition(t *testing.T) {
	t.Parallel()
	r := faultconn.New(t, echo(t))
	c := dial(t, r)
	r.CutAfter(faultconn.Down, 3)
	c.Write([]byte("abcdef"))
	got, err := io.ReadAll(c)
	if string(got) != "abc" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %q, %v; want abc and a reset", got, err)
	}
	if got := roundTrip(t, dial(t, r), "again"); got != "again" {
		t.Errorf("a new connection: %q", got)
	}
}

func TestStallHoldsBytesUntilResume(t *testing.T) {
	t.Parallel()
	r := faultconn.New(t, echo(t))
	c := dial(t, r)
	r.Stall(faultconn.Down)
	c.Write([]byte("held"))
	r.WaitForwarded(t, faultconn.Up, 4)
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("while stalled: %v, want nothing to read", err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	r.Resume(faultconn.Down)
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "held" {
		t.Errorf("after Resume: %q, %v", got, err)
	}
}

func TestHalfCloseEndsOneDirectionOnly(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := faultconn.New(t, l.Addr().String())
	c := dial(t, r)
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c.Write([]byte("x"))
	r.WaitForwarded(t, faultconn.Up, 1)
	r.HalfClose(faultconn.Down)
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("client: %v, want the end of file", err)
	}
	c.Write([]byte("y"))
	got := make([]byte, 2)
	if _, err := io.ReadFull(server, got); err != nil || string(got) != "xy" {
		t.Errorf("the other direction: %q, %v", got, err)
	}
}

func TestRefuseAndAcceptAgainAtTheSameAddress(t *testing.T) {
	t.Parallel()
	r := faultconn.New(t, echo(t))
	open := dial(t, r)
	roundTrip(t, open, "a")
	r.Refuse()
	if _, err := net.Dial("tcp", r.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connect: %v, want refused", err)
	}
	roundTrip(t, open, "still open")
	r.Accept(t)
	roundTrip(t, dial(t, r), "b")
	if got := r.Accepted(); got != 2 {
		t.Errorf("%d connections accepted, want 2", got)
	}
}

func TestDelayAndLimitSlowADirectionDown(t *testing.T) {
	t.Parallel()
	r := faultconn.New(t, echo(t))
	c := dial(t, r)
	for name, slow := range map[string]func(){
		"delay": func() { r.Delay(faultconn.Up, 60*time.Millisecond); r.Limit(faultconn.Up, 0) },
		"limit": func() { r.Delay(faultconn.Up, 0); r.Limit(faultconn.Up, 100) }, // 6 bytes in 60 ms
	} {
		slow()
		start := time.Now()
		roundTrip(t, c, "abcdef")
		if took := time.Since(start); took < 60*time.Millisecond {
			t.Errorf("%s: took %v, want at least 60ms", name, took)
		}
	}
}

func TestADeadUpstreamResetsTheClient(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c, err := net.Dial("tcp", faultconn.New(t, l.Addr().String()).Addr().String())
	if err != nil {
		return // the reset came first
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Error("the client's connection stayed open")
	}
}
