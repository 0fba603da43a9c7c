package proxy_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestAClientThatHasNotLoggedInCannotFillTheMemory(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// The header alone: the answer must not wait for what it promises.
	const large = 1 << 20
	if _, err := nc.Write(frame.AppendHeader(nil, frame.V4, false, 0, 1, frame.OpStartup, large)); err != nil {
		t.Fatal(err)
	}
	f, err := frame.NewReader(nc, frame.MaxBody).Next()
	if err != nil {
		t.Fatal(err)
	}
	if e, err := frame.ParseError(f.Body(), frame.V4); err != nil || e.Code != frame.ErrProtocol {
		t.Errorf("got % x, %v; want a protocol error", f, err)
	}
	// After the login the same size is an ordinary request.
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	text := "INSERT INTO ks.t (k, v) VALUES (1, '" + strings.Repeat("x", large) + "')"
	mustVoid(t, c.Ask(t, &message.Query{Query: text, Options: &message.QueryOptions{}}))
}
