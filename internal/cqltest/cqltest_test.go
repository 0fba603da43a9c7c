package cqltest_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
)

func connect(t *testing.T, n *cqltest.Node) *cqltest.Client {
	t.Helper()
	return cqltest.Dial(t, n.Addr().String(), cqltest.Login{})
}

func ask(t *testing.T, c *cqltest.Client, m message.Message) message.Message {
	t.Helper()
	return c.Ask(t, m)
}

func query(text string) *message.Query {
	return &message.Query{Query: text, Options: &message.QueryOptions{Consistency: primitive.ConsistencyLevelLocalQuorum}}
}

func TestLoginChecksUserAndPassword(t *testing.T) {
	t.Parallel()
	n := cqltest.Start(t, cqltest.Options{Username: "app", Password: "right"})
	cqltest.Dial(t, n.Addr().String(), cqltest.Login{Username: "app", Password: "right"})
	var refused *cqltest.Refused
	if _, err := cqltest.Connect(t, n.Addr().String(), cqltest.Login{Username: "app", Password: "wrong"}); !errors.As(err, &refused) {
		t.Errorf("a wrong password: %v, want a refusal", err)
	}
	if got := n.Requests(cqltest.WithOpcode(primitive.OpCodeAuthResponse)); len(got) != 2 {
		t.Errorf("logins %v, want two", got)
	}
}

func TestOtherVersionsAreRefusedInV4(t *testing.T) {
	t.Parallel()
	n := cqltest.Start(t, cqltest.Options{})
	for _, v := range []primitive.ProtocolVersion{primitive.ProtocolVersion2, primitive.ProtocolVersion5, primitive.ProtocolVersionDse2} {
		nc := raw(t, n)
		var b bytes.Buffer
		frame.NewCodec().EncodeFrame(frame.NewFrame(v, 0, message.NewStartup()), &b)
		nc.Write(b.Bytes())
		f, err := frame.NewCodec().DecodeFrame(nc)
		if err != nil || f.Header.Version != primitive.ProtocolVersion4 || f.Header.OpCode != primitive.OpCodeError {
			t.Errorf("%v: %v, %v; want an ERROR of v4", v, f, err)
		}
	}
}

func TestSystemTablesShowTheClusterWithOnePort(t *testing.T) {
	t.Parallel()
	c := cqltest.StartCluster(t, "127.67.1.1", 3, cqltest.Options{Datacenter: "east", Release: "5.0.4"})
	conn := connect(t, c.Nodes[1])
	local := ask(t, conn, query("SELECT data_center, release_version FROM system.local WHERE key='local'")).(*message.RowsResult)
	if got := string(local.Data[0][0]) + " " + string(local.Data[0][1]); got != "east 5.0.4" {
		t.Errorf("system.local: %q", got)
	}
	peers := ask(t, conn, query("SELECT * FROM system.peers")).(*message.RowsResult)
	if len(peers.Data) != 2 || net.IP(peers.Data[0][0]).String() != "127.67.1.1" || net.IP(peers.Data[1][0]).String() != "127.67.1.3" {
		t.Errorf("system.peers: %v", peers.Data)
	}
	if e, ok := ask(t, conn, query("SELECT * FROM system.peers_v2")).(*message.Invalid); !ok {
		t.Errorf("system.peers_v2: %v", e)
	}
}

func TestExecuteOfAForgottenStatementIsUnprepared(t *testing.T) {
	t.Parallel()
	n := cqltest.Start(t, cqltest.Options{Salt: "origin"})
	conn := connect(t, n)
	ask(t, conn, query("USE shop"))
	p := ask(t, conn, &message.Prepare{Query: "SELECT * FROM t WHERE k = ?"}).(*message.PreparedResult)
	if len(p.VariablesMetadata.Columns) != 1 || len(p.ResultMetadata.Columns) != 2 {
		t.Errorf("metadata: %v %v", p.VariablesMetadata, p.ResultMetadata)
	}
	execute := &message.Execute{QueryId: p.PreparedQueryId, Options: &message.QueryOptions{
		Consistency: primitive.ConsistencyLevelOne, PositionalValues: []*primitive.Value{primitive.NewValue([]byte("a"))}, PagingState: []byte("next")}}
	rows := ask(t, conn, execute).(*message.RowsResult)
	if string(rows.Data[0][1]) != n.Host() {
		t.Errorf("row %q, want the node's address", rows.Data[0])
	}
	got := n.Requests(cqltest.WithOpcode(primitive.OpCodeExecute))[0]
	if got.Text != "SELECT * FROM t WHERE k = ?" || got.Keyspace != "shop" || got.Consistency != primitive.ConsistencyLevelOne || string(got.PagingState) != "next" {
		t.Errorf("recorded %+v", got)
	}
	n.Forget(p.PreparedQueryId)
	if u, ok := ask(t, conn, execute).(*message.Unprepared); !ok || string(u.Id) != string(p.PreparedQueryId) {
		t.Errorf("answer %v, want Unprepared with the id", u)
	}
	batch := &message.Batch{Consistency: primitive.ConsistencyLevelOne, Children: []*message.BatchChild{{Id: p.PreparedQueryId}}}
	if m, ok := ask(t, conn, batch).(*message.Unprepared); !ok {
		t.Errorf("batch: %v, want Unprepared", m)
	}
}

func TestADelayedReplyHoldsNoOtherBack(t *testing.T) {
	t.Parallel()
	n := cqltest.Start(t, cqltest.Options{})
	conn := connect(t, n)
	release := make(chan struct{})
	n.Handle(func(r cqltest.Request) cqltest.Reply {
		if strings.HasPrefix(r.Text, "INSERT") {
			return cqltest.Error(primitive.ErrorCodeWriteTimeout, "late").After(release)
		}
		return cqltest.Ordinary()
	})
	late := conn.Send(query("INSERT INTO t (k) VALUES (1)"))
	n.WaitFor(t, 1, cqltest.WithText("INSERT"))
	ask(t, conn, query("SELECT * FROM t"))
	close(release)
	got := conn.Await(t, late).Message()
	if e, ok := got.(*message.WriteTimeout); !ok || e.ErrorMessage != "late" {
		t.Errorf("answer %v, want the write time-out", got)
	}
}

// raw speaks without a client library, to see the bytes.
func raw(t *testing.T, n *cqltest.Node) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

var optionsFrame = []byte{4, 0, 0, 7, 5, 0, 0, 0, 0} // OPTIONS on stream 7

func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reply cqltest.Reply
		check func(t *testing.T, got []byte, err error)
	}{
		"truncated": {cqltest.Ordinary().Truncated(11).ThenClose(), func(t *testing.T, got []byte, err error) {
			if len(got) != 11 || err != nil {
				t.Errorf("%d bytes, %v; want 11 and a clean end", len(got), err)
			}
		}},
		"wrong stream": {cqltest.Void().OnStream(99).ThenClose(), func(t *testing.T, got []byte, err error) {
			if len(got) != 13 || got[3] != 99 {
				t.Errorf("got % x, want a frame on stream 99", got)
			}
		}},
		"twice": {cqltest.Void().Twice().ThenClose(), func(t *testing.T, got []byte, err error) {
			if len(got) != 26 {
				t.Errorf("got %d bytes, want two frames of 13", len(got))
			}
		}},
		"reset": {cqltest.ResetConnection(), func(t *testing.T, got []byte, err error) {
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("error %v, want a reset", err)
			}
		}},
		"raw": {cqltest.Raw([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")).ThenClose(), func(t *testing.T, got []byte, err error) {
			if !strings.HasPrefix(string(got), "HTTP/1.1") {
				t.Errorf("got %q", got)
			}
		}},
		"paged": {cqltest.Rows([]string{"k"}, []string{"a"}).Page([]byte("more")).WithWarnings("slow").ThenClose(), func(t *testing.T, got []byte, _ error) {
			f, err := frame.NewCodec().DecodeFrame(strings.NewReader(string(got)))
			if err != nil || string(f.Body.Message.(*message.RowsResult).Metadata.PagingState) != "more" || len(f.Body.Warnings) != 1 {
				t.Errorf("got %v, %v", f, err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			n := cqltest.Start(t, cqltest.Options{})
			n.Handle(func(cqltest.Request) cqltest.Reply { return c.reply })
			nc := raw(t, n)
			nc.Write(optionsFrame)
			got, err := io.ReadAll(nc)
			c.check(t, got, err)
		})
	}
}

func TestStopRestartAndFreezeBehaveLikeAProcess(t *testing.T) {
	t.Parallel()
	n := cqltest.Start(t, cqltest.Options{})
	conn := connect(t, n)
	n.Stop()
	n.WaitConnections(t, 0)
	if _, err := net.Dial("tcp", n.Addr().String()); err == nil {
		t.Error("a stopped node accepted a connection")
	}
	conn.Close()
	n.Restart()
	n.Freeze()
	nc := raw(t, n) // the kernel accepts
	nc.Write(optionsFrame)
	nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a frozen node: %v, want nothing to read", err)
	}
	n.Thaw()
	nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := nc.Read(make([]byte, 1)); err != nil {
		t.Errorf("after Thaw: %v", err)
	}
}

func TestEventsReachRegisteredConnectionsOnly(t *testing.T) {
	t.Parallel()
	n := cqltest.Start(t, cqltest.Options{})
	registered, other := connect(t, n), connect(t, n)
	ask(t, registered, &message.Register{EventTypes: []primitive.EventType{primitive.EventTypeSchemaChange}})
	if got := n.Emit(&message.SchemaChangeEvent{ChangeType: primitive.SchemaChangeTypeCreated, Target: primitive.SchemaChangeTargetTable, Keyspace: "ks", Object: "t"}); got != 1 {
		t.Errorf("sent to %d connections, want 1", got)
	}
	<-registered.Events
	ask(t, other, query("SELECT * FROM t")) // still in step
}

// failures counts what a node would have failed the test with.
type failures struct {
	testing.TB
	seen chan string
}

func (f *failures) Errorf(format string, args ...any) { f.seen <- format }

func TestAPeerThatBreaksTheProtocolFailsTheTest(t *testing.T) {
	t.Parallel()
	watched := &failures{TB: t, seen: make(chan string, 4)}
	n := cqltest.Start(watched, cqltest.Options{})
	n.Handle(func(cqltest.Request) cqltest.Reply { return cqltest.Silence() })
	nc := raw(t, n)
	for name, c := range map[string]struct {
		sent []byte
		want string
	}{
		"stream id in use": {append(append([]byte{}, optionsFrame...), optionsFrame...), "stream id"},
		"bytes left over":  {[]byte{4, 0, 0, 8, 5, 0, 0, 0, 1, 0}, "bytes after the message"},
		"malformed":        {[]byte{4, 0, 0, 9, 7, 0, 0, 0, 1, 0}, "malformed"},
	} {
		nc.Write(c.sent)
		select {
		case got := <-watched.seen:
			if !strings.Contains(got, c.want) {
				t.Errorf("%s: complaint %q, want %q", name, got, c.want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: no complaint", name)
		}
	}
}

func TestClientAndNodeAgreeOnSegmentsInVersion5(t *testing.T) {
	t.Parallel()
	n := cqltest.Start(t, cqltest.Options{Versions: []primitive.ProtocolVersion{primitive.ProtocolVersion5}})
	large := "INSERT INTO ks.t (k) VALUES ('" + strings.Repeat("x", 400_000) + "')" // more than one segment holds
	for _, compressed := range []bool{false, true} {
		c := cqltest.Dial(t, n.Addr().String(), cqltest.Login{Version: primitive.ProtocolVersion5, LZ4: compressed})
		if m, ok := c.Query(t, large).(*message.VoidResult); !ok {
			t.Errorf("compressed %v: got %v, want a void result", compressed, m)
		}
		p, ok := c.Ask(t, &message.Prepare{Query: "SELECT k, node FROM ks.t"}).(*message.PreparedResult)
		if !ok || len(p.ResultMetadataId) == 0 {
			t.Fatalf("PREPARE: got %v, want an id of the result metadata", p)
		}
		for _, id := range [][]byte{p.ResultMetadataId, []byte("another")} {
			m := c.Ask(t, &message.Execute{QueryId: p.PreparedQueryId, ResultMetadataId: id, Options: &message.QueryOptions{SkipMetadata: true}})
			rows, ok := m.(*message.RowsResult)
			if current := bytes.Equal(id, p.ResultMetadataId); !ok || current == bytes.Equal(rows.Metadata.NewResultMetadataId, p.ResultMetadataId) || current == (len(rows.Metadata.Columns) > 0) {
				t.Errorf("EXECUTE with the result metadata id %x: got %v", id, rows)
			}
		}
	}
}
