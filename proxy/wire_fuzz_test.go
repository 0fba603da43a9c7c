package proxy_test

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// within bounds what one input may keep a client waiting for.
const within = 8 * time.Second

// bounded fails if the process has come to hold much more than at its start. The
// bound is far above what clients and nodes of one input hold, and far below what
// a length that an input claims (up to 256 MB a frame) would take.
func bounded(t testing.TB, w *world, start uint64) {
	t.Helper()
	w.origin.ClearRequests()
	w.target.ClearRequests()
	if now := heap(); now > start+64<<20 {
		t.Fatalf("%d MB in use, %d MB at the start", now>>20, start>>20)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// FuzzBytes: whatever comes to the client port, before a login or after it, the
// connection ends when the client says no more; nothing is taken for longer or
// for more than what came.
func FuzzBytes(f *testing.F) {
	w := start(f, phase.DualWrite, cqltest.Options{Lenient: true}, cqltest.Options{Lenient: true}, map[string]string{"proxy_request_timeout_ms": "1000"})
	query := queryFrame(3, sel)
	for _, in := range [][]byte{
		{}, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), {0x16, 3, 1, 2, 0, 1}, query, query[:11], append(bytes.Clone(query), query...),
		frame.AppendHeader(nil, frame.V4, false, 0, 1, frame.OpQuery, frame.MaxBody),
		frame.AppendHeader(nil, frame.V4, false, 0, 1, frame.OpStartup, -1),
		frame.AppendHeader(nil, frame.V5, false, 0, 1, frame.OpOptions, 0),
		frame.AppendHeader(nil, frame.V4, true, 0, 1, frame.OpResult, 0),
		frame.AppendHeader(nil, 66, false, 0, 1, frame.OpOptions, 0),
	} {
		f.Add(in, false)
		f.Add(in, true)
	}
	began, inputs := heap(), 0
	f.Fuzz(func(t *testing.T, in []byte, login bool) {
		var nc net.Conn
		if login {
			nc, _ = rawClient(t, w.addr)
		} else {
			var err error
			if nc, err = net.Dial("tcp", w.addr); err != nil {
				t.Fatal(err)
			}
		}
		defer nc.Close()
		if err := nc.SetDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		_, _ = nc.Write(in) // the proxy may have closed by then
		_ = nc.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, nc); err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Fatalf("the connection is still open after %s", within)
			}
		}
		if inputs++; inputs%500 == 0 {
			bounded(t, w, began)
		}
	})
}

// asked is what the client of FuzzAnswers asks, on streams 1, 2, ...
var asked = []string{insert, sel, "UPDATE ks.t SET v = 2 WHERE k = 1", sel, "USE ks", "DELETE FROM ks.t WHERE k = 1"}

// FuzzAnswers: whatever the nodes answer, each request of a client has one
// answer, and the client's connection stays. A script is read by both nodes, a
// record for each request:
//
//	kind  1 byte   what is done, see mangle
//	arg   1 byte
func FuzzAnswers(f *testing.F) {
	w := start(f, phase.DualWrite, cqltest.Options{Lenient: true}, cqltest.Options{Lenient: true}, map[string]string{"proxy_request_timeout_ms": "300"})
	for kind := range byte(mangles) {
		f.Add([]byte{kind, 3}, []byte{})
		f.Add([]byte{0, 0, kind, 200}, []byte{kind, 9, 0, 0, kind, 1})
	}
	began, inputs := heap(), 0
	f.Fuzz(func(t *testing.T, origin, target []byte) {
		for side, script := range map[*cqltest.Node][]byte{w.origin: origin, w.target: target} {
			side.Handle(mangler(script))
			defer side.Handle(nil)
		}
		eventually(t, "the proxy has both sides again", func() bool { return len(w.srv.NotReady()) == 0 })
		nc, in := rawClient(t, w.addr)
		defer nc.Close()
		if err := nc.SetDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		var out []byte
		for i, text := range asked {
			out = append(out, queryFrame(int16(i+1), text)...)
		}
		if _, err := nc.Write(out); err != nil {
			t.Fatal(err)
		}
		open := map[int16]bool{}
		for i := range asked {
			open[int16(i+1)] = true
		}
		for len(open) > 0 {
			r, err := in.Next()
			if err != nil {
				t.Fatalf("%d requests were not answered: %v", len(open), err)
			}
			if !open[r.Stream()] {
				t.Fatalf("an answer on stream %d, where nothing waits: % x", r.Stream(), r)
			}
			delete(open, r.Stream())
		}
		if inputs++; inputs%200 == 0 {
			bounded(t, w, began)
		}
	})
}

const mangles = 10

// mangler answers client requests as a script says, and all others as a healthy
// node does.
func mangler(script []byte) func(cqltest.Request) cqltest.Reply {
	var next int // guarded by turn
	turn := make(chan struct{}, 1)
	return func(r cqltest.Request) cqltest.Reply {
		if r.System() {
			return cqltest.Ordinary()
		}
		turn <- struct{}{}
		defer func() { <-turn }()
		if next+2 > len(script) {
			return cqltest.Ordinary()
		}
		kind, arg := script[next], script[next+1]
		next += 2
		rest := script[next:]
		raw := func(op frame.Opcode, length int) cqltest.Reply {
			return cqltest.Raw(append(frame.AppendHeader(nil, frame.V4, true, arg&0x0F, r.Stream, op, length), rest...))
		}
		switch kind % mangles {
		case 1:
			return cqltest.Ordinary().OnStream(int16(arg))
		case 2:
			return cqltest.Ordinary().Twice()
		case 3:
			return cqltest.Ordinary().Truncated(1 + int(arg)%12).ThenClose()
		case 4:
			return cqltest.CloseConnection()
		case 5:
			return raw(frame.OpResult, len(rest))
		case 6:
			return raw(frame.OpError, len(rest))
		case 7:
			return raw(frame.Opcode(arg), len(rest))
		case 8:
			return raw(frame.OpResult, frame.MaxBody+1)
		case 9:
			return cqltest.Silence()
		}
		return cqltest.Ordinary()
	}
}
