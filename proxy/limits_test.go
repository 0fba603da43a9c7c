package proxy_test

import (
	"bytes"
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

func TestStatementsPastTheSizeOfTheCacheArePreparedAgain(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_max_prepared_statement_cache_size": "2"})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	texts := []string{insert, count, "INSERT INTO ks.t (k, v) VALUES (3, 4)"}
	var ids [][]byte
	for _, text := range texts {
		ids = append(ids, prepare(t, c, text))
	}
	var forgotten []int
	for i, id := range ids {
		if m, ok := execute(t, c, id).(*message.Unprepared); ok {
			forgotten = append(forgotten, i)
			if !bytes.Equal(m.Id, id) {
				t.Errorf("statement %d is UNPREPARED under the id %x, want %x", i, m.Id, id)
			}
		}
	}
	if len(forgotten) != 1 || forgotten[0] == 2 {
		t.Fatalf("statements %v of 3 are forgotten, want one of the first two", forgotten)
	}
	i := forgotten[0]
	if again := prepare(t, c, texts[i]); !bytes.Equal(again, ids[i]) {
		t.Errorf("prepared again, statement %d has the id %x, want %x", i, again, ids[i])
	}
	mustVoid(t, execute(t, c, ids[i]))
}

func TestAKeyspaceBeyondTheBoundOfPoolsIsRefusedAndCounted(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"upstream_max_pools": "1"})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	if _, ok := c.Query(t, "USE ks").(*message.Overloaded); !ok {
		t.Error("a keyspace that needs one pool too many is not refused as OVERLOADED")
	}
	if got := value(t, w, "zdm_proxy_rejected_total", "pools"); got != 1 {
		t.Errorf("%v requests are counted as refused for pools, want 1", got)
	}
	mustVoid(t, c.Query(t, insert)) // goes on with what it has
}
