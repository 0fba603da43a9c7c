package proxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// rawClient is a client past its handshake, of which a test sends and reads
// each byte itself. The fakes behind it ask for no login.
func rawClient(t testing.TB, addr string) (net.Conn, *frame.Reader) {
	t.Helper()
	return rawClientOf(t, addr, frame.V4)
}

// rawClientOf is rawClient in another version. In v5 what is written must be
// segments.
func rawClientOf(t testing.TB, addr string, v frame.Version) (net.Conn, *frame.Reader) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	startup := frame.AppendHeader(nil, v, false, 0, 0, frame.OpStartup, 0)
	startup = frame.AppendShort(startup, 1)
	startup = frame.AppendString(startup, "CQL_VERSION")
	startup = frame.AppendString(startup, "3.0.0")
	frame.PutLength(startup)
	if _, err := nc.Write(startup); err != nil {
		t.Fatal(err)
	}
	from := bufio.NewReader(nc)
	in := frame.NewReader(from, frame.MaxBody)
	f, err := in.Next()
	if err != nil || f.Opcode() != frame.OpReady {
		t.Fatalf("STARTUP: got % x, %v; want READY", f, err)
	}
	if v == frame.V5 {
		in = frame.NewReader(frame.NewSegmentReader(from, false), frame.MaxBody)
	}
	return nc, in
}

// queryFrame is a QUERY at ONE without values.
func queryFrame(stream int16, text string) []byte {
	f := frame.AppendHeader(nil, frame.V4, false, 0, stream, frame.OpQuery, 0)
	f = frame.AppendLongString(f, text)
	f = append(f, 0, 1, 0)
	frame.PutLength(f)
	return f
}

func TestDrainDoesNotResetAClientThatHasSentMore(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	release := make(chan struct{})
	w.target.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == insert {
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
	nc, in := rawClient(t, w.addr)
	if _, err := nc.Write(queryFrame(1, insert)); err != nil {
		t.Fatal(err)
	}
	w.target.WaitFor(t, 1, cqltest.WithText(insert))
	drained := make(chan error, 1)
	go func() { drained <- w.srv.Drain(context.Background(), nil) }()
	eventually(t, "new clients are refused", func() bool {
		_, err := cqltest.Connect(t, w.addr, cqltest.Login{})
		return err != nil
	})
	// The proxy need not read this one. Closing a socket with unread input would
	// reset it, and the answer to the first could be lost.
	if _, err := nc.Write(queryFrame(2, sel)); err != nil {
		t.Fatal(err)
	}
	close(release)
	f, err := in.Next()
	if err != nil || f.Stream() != 1 || f.Opcode() != frame.OpResult {
		t.Fatalf("got % x, %v; want the RESULT of stream 1", f, err)
	}
	f, err = in.Next()
	if err == nil && f.Stream() == 2 {
		f, err = in.Next() // the proxy was about to read when the drain began, and did
	}
	if err != io.EOF {
		t.Errorf("after the answer: % x, %v; want the end of the stream without a reset", f, err)
	}
	nc.Close()
	if err := <-drained; err != nil {
		t.Errorf("Drain: %v", err)
	}
}
