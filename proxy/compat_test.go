package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// The tests of this file prove rows of docs/compatibility.md that no other test
// is about.

func TestAClientWithTooMuchInFlightIsToldOverloaded(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_max_stream_ids": "2"})
	release := make(chan struct{})
	w.target.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == insert {
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	first, second := c.Send(&message.Query{Query: insert}), c.Send(&message.Query{Query: insert})
	w.target.WaitFor(t, 2, cqltest.WithText(insert))
	e, ok := c.Query(t, count).(*message.Overloaded)
	if !ok || !strings.Contains(e.ErrorMessage, "proxy_max_stream_ids") {
		t.Errorf("the third request: got %v, want OVERLOADED that names the setting", e)
	}
	if got := w.origin.Requests(cqltest.WithText(count)); len(got) != 0 {
		t.Errorf("origin got %v, want nothing of a request that was refused", got)
	}
	close(release)
	mustVoid(t, c.Await(t, first).Message())
	mustVoid(t, c.Await(t, second).Message())
	mustVoid(t, c.Query(t, count))
}

func TestAClientOverTheLimitIsClosedAtOnceAndTheOthersAreNot(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_max_client_connections": "1"})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	if _, err := cqltest.Connect(t, w.addr, cqltest.Login{}); err == nil {
		t.Error("a second client was taken, want it closed")
	}
	mustVoid(t, c.Query(t, insert))
	c.Close()
	eventually(t, "there is room again", func() bool {
		_, err := cqltest.Connect(t, w.addr, cqltest.Login{})
		return err == nil
	})
}

func TestABodyThatCannotBeReadIsAnsweredAndTheConnectionGoesOn(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	nc, in := rawClient(t, w.addr)
	for _, op := range []frame.Opcode{frame.OpQuery, frame.OpPrepare, frame.OpExecute, frame.OpBatch, frame.OpRegister} {
		f := frame.AppendHeader(nil, frame.V4, false, 0, 5, op, 0)
		f = append(f, 0, 1) // breaks off
		frame.PutLength(f)
		if _, err := nc.Write(append(f, queryFrame(6, insert)...)); err != nil {
			t.Fatal(err)
		}
		got := map[int16]frame.Opcode{}
		for range 2 {
			answer, err := in.Next()
			if err != nil {
				t.Fatalf("opcode 0x%02X: %v", byte(op), err)
			}
			got[answer.Stream()] = answer.Opcode()
		}
		if diff := cmp.Diff(got, map[int16]frame.Opcode{5: frame.OpError, 6: frame.OpResult}); diff != "" {
			t.Errorf("opcode 0x%02X: answers by stream (-got +want):\n%s", byte(op), diff)
		}
	}
}

func TestANegativeStreamIDAndAnUnknownOpcodeEndTheConnectionWithAProtocolError(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	unknown := frame.Frame(queryFrame(3, insert))
	unknown[4] = 0x6F
	for name, request := range map[string][]byte{"stream -1": queryFrame(-1, insert), "opcode 0x6F": unknown} {
		nc, in := rawClient(t, w.addr)
		if _, err := nc.Write(request); err != nil {
			t.Fatal(err)
		}
		f, err := in.Next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if e, err := frame.ParseError(f.Body(), frame.V4); err != nil || f.Stream() != 0 || e.Code != frame.ErrProtocol {
			t.Errorf("%s: got % x, want PROTOCOL_ERROR on stream 0", name, f)
		}
		if f, err := in.Next(); err == nil {
			t.Errorf("%s: then % x, want the end of the connection", name, f)
		}
	}
	if n := len(w.seen(phase.Origin)) + len(w.seen(phase.Target)); n != 0 {
		t.Errorf("%d requests reached a node, want none", n)
	}
}

func TestPayloadsAndWarningsPassAsTheyAre(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	w.origin.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.System() {
			return cqltest.Ordinary()
		}
		return cqltest.Void().WithWarnings("batch too large").WithPayload(map[string][]byte{"answer": {2}})
	})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	for _, m := range []message.Message{
		&message.Query{Query: insert, Options: &message.QueryOptions{}},
		&message.Batch{Type: primitive.BatchTypeUnlogged, Children: []*message.BatchChild{{Query: insert}}},
	} {
		f := gcnp.NewFrame(primitive.ProtocolVersion4, 0, m)
		f.SetCustomPayload(map[string][]byte{"request-id": {1}})
		got := c.Await(t, c.SendFrame(f)).Frame.Body
		if _, ok := got.Message.(*message.VoidResult); !ok || !bytes.Equal(got.CustomPayload["answer"], []byte{2}) || !slices.Equal(got.Warnings, []string{"batch too large"}) {
			t.Errorf("%v: got %v with payload %v and warnings %v", m, got.Message, got.CustomPayload, got.Warnings)
		}
	}
	for _, s := range phase.Sides {
		for _, r := range w.side(s).WaitFor(t, 2, cqltest.NotSystem) {
			if !bytes.Equal(r.Payload["request-id"], []byte{1}) {
				t.Errorf("%s: %s came with the payload %v", s, r, r.Payload)
			}
		}
	}
}

func TestTheClientIsAskedForTheLoginOfWhateverSideWantsOne(t *testing.T) {
	t.Parallel()
	const name, word = "app", "sesame"
	closed := cqltest.Options{Username: name, Password: word}
	for _, tt := range []struct {
		what           string
		origin, target cqltest.Options
		login          bool
		want           [2]string // who serves, by side
	}{
		{"only Origin", closed, cqltest.Options{}, true, [2]string{name, ""}},
		{"only Target", cqltest.Options{}, closed, true, [2]string{"", name}},
		{"neither", cqltest.Options{}, cqltest.Options{}, false, [2]string{}},
	} {
		w := start(t, phase.DualWrite, tt.origin, tt.target, nil)
		mustVoid(t, cqltest.Dial(t, w.addr, cqltest.Login{Username: name, Password: word}).Query(t, insert))
		for _, s := range phase.Sides {
			if got := w.side(s).Requests(cqltest.WithText(insert))[0].Username; got != tt.want[s] {
				t.Errorf("%s wants a login: %s served the write as %q, want %q", tt.what, s, got, tt.want[s])
			}
		}
		if _, err := cqltest.Connect(t, w.addr, cqltest.Login{Username: name, Password: "wrong"}); (err != nil) != tt.login {
			t.Errorf("%s wants a login: a wrong password gives %v", tt.what, err)
		}
	}
}

func TestSystemQueriesGoWhereTheSettingSaysAndHaveNoCopy(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]phase.Side{"": phase.Origin, "TARGET": phase.Target} {
		w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"system_queries_mode": mode})
		c := cqltest.Dial(t, w.addr, cqltest.Login{})
		for _, p := range []phase.Phase{phase.DualWrite, phase.DualRead, phase.CutOver} {
			w.setPhase(t, p)
			for i, table := range []string{"system_schema.keyspaces", "system_traces.sessions", "dse_system.x", "SYSTEM.paxos"} {
				// The client's own statements are told apart by the alias.
				text := fmt.Sprintf("SELECT a AS %s_%d FROM %s", p, i, table)
				c.Query(t, text)
				for _, s := range phase.Sides {
					n := 0
					if s == want {
						n = 1
					}
					if got := len(w.side(s).Requests(cqltest.WithText(text))); got != n {
						t.Errorf("system_queries_mode %q, %s: %s got %s %d times, want %d", mode, p, s, table, got, n)
					}
				}
			}
		}
	}
}

func TestStatementsWithAnAnswerOfTheProxysOwnAreAnswered(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	for text, want := range map[string]primitive.OpCode{
		"SELECT * FROM system.local WHERE key = 'local'":                      primitive.OpCodeResult,
		"SELECT JSON * FROM system.local":                                     primitive.OpCodeResult,
		"SELECT DISTINCT key FROM system.local":                               primitive.OpCodeResult,
		"SELECT count(*) AS n FROM system.peers":                              primitive.OpCodeResult,
		"SELECT sum(rpc_port), blobAsText(textAsBlob(key)) FROM system.local": primitive.OpCodeError,
		"SELECT nothing_of_the_kind FROM system.local":                        primitive.OpCodeError,
		"SELECT * FROM system.peers_v2":                                       primitive.OpCodeError,
		"CALL InsightsRpc.reportInsight('{}')":                                primitive.OpCodeError,
		"SELECT /* what */ key -- this\nFROM system . local;":                 primitive.OpCodeResult,
	} {
		if m := c.Query(t, text); m.GetOpCode() != want {
			t.Errorf("%s: got %v, want %s", text, m, want)
		}
		if m := c.Ask(t, &message.Prepare{Query: text}); m.GetOpCode() != want {
			t.Errorf("PREPARE %s: got %v, want %s", text, m, want)
		}
	}
	e, ok := c.Query(t, "SELECT * FROM system.peers_v2").(*message.Invalid)
	if !ok || e.ErrorMessage != "unconfigured table peers_v2" {
		t.Errorf("system.peers_v2: got %v, want INVALID in the words that drivers know", e)
	}
	for _, s := range phase.Sides {
		if got := w.side(s).Requests(cqltest.WithText("FROM system . local")); len(got) != 0 {
			t.Errorf("%s got %v, want the proxy to answer it", s, got)
		}
	}
}

func TestAClientMayCompressThoughTheClustersAreSpokenToWithout(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	long := "SELECT v FROM ks.t WHERE k = '" + strings.Repeat("compressible ", 200) + "'"
	for _, name := range []string{"lz4", "snappy"} {
		compression, ok := frame.ParseCompression(name)
		if !ok {
			t.Fatalf("%s is not known", name)
		}
		nc, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(30 * time.Second)) // an error shows in the read
		startup := frame.AppendHeader(nil, frame.V4, false, 0, 0, frame.OpStartup, 0)
		startup = frame.AppendShort(startup, 2)
		for _, s := range []string{"CQL_VERSION", "3.0.0", "COMPRESSION", name} {
			startup = frame.AppendString(startup, s)
		}
		frame.PutLength(startup)
		if _, err := nc.Write(startup); err != nil {
			t.Fatal(err)
		}
		in := frame.NewReader(bufio.NewReader(nc), frame.MaxBody)
		if f, err := in.Next(); err != nil || f.Opcode() != frame.OpReady {
			t.Fatalf("%s: STARTUP: got % x, %v; want READY", name, f, err)
		}
		sent := compression.AppendAllCompressed(nil, queryFrame(9, long))
		if frame.Frame(sent).Flags()&frame.FlagCompressed == 0 {
			t.Fatalf("%s: the request is not compressed", name)
		}
		if _, err := nc.Write(sent); err != nil {
			t.Fatal(err)
		}
		f, err := in.Next()
		if err == nil && f.Flags()&frame.FlagCompressed != 0 {
			f, err = compression.AppendDecompressed(nil, f)
		}
		if err != nil || f.Stream() != 9 || f.Opcode() != frame.OpResult {
			t.Errorf("%s: got % x, %v; want a RESULT", name, f, err)
		}
	}
	for _, r := range w.origin.WaitFor(t, 2, cqltest.WithText("compressible")) {
		if r.Flags.Contains(primitive.HeaderFlagCompressed) || r.Text != long {
			t.Errorf("origin got a frame with flags %#x, want the plain request", r.Flags)
		}
	}
}

func TestBothSidesFailingIsToldAsThePrimaryToldIt(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	for _, s := range phase.Sides {
		w.side(s).Handle(func(r cqltest.Request) cqltest.Reply {
			if r.Text == insert {
				return cqltest.Error(primitive.ErrorCodeInvalid, "refused by "+s.String())
			}
			return cqltest.Ordinary()
		})
	}
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	for _, p := range []phase.Phase{phase.DualWrite, phase.DualRead, phase.CutOver} {
		w.setPhase(t, p)
		e, ok := c.Query(t, insert).(*message.Invalid)
		if want := "refused by " + p.Rule().Primary.String(); !ok || e.ErrorMessage != want {
			t.Errorf("%s: got %v, want %q", p, e, want)
		}
	}
}

func TestTheCompatibilityPageNamesTestsThatThereAre(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`((?:[a-z][a-z0-9-]*/)*[a-z][a-z0-9-]*)\\.((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(page), -1)
	if len(names) < 100 {
		t.Errorf("the page names %d tests; it has a row for each behaviour", len(names))
	}
	sources := map[string]string{}
	for _, m := range names {
		if _, read := sources[m[1]]; !read {
			files, _ := filepath.Glob(filepath.Join("..", m[1], "*_test.go"))
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				sources[m[1]] += string(text)
			}
		}
		if !strings.Contains(sources[m[1]], "\nfunc "+m[2]+"(") {
			t.Errorf("the page names %s, and package %s has no such test", m[0], m[1])
		}
	}
}
