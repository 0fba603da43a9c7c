package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net"

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

// The tests of this file say what a client sees of what one node said.

// errorsOfNodes are the errors of native_protocol_v4.spec section 9, each with
// every field that it has, and one more that the specification does not know.
func errorsOfNodes() []message.Error {
	quorum := primitive.ConsistencyLevelEachQuorum
	all := []message.Error{
		&message.ServerError{ErrorMessage: "java.lang.AssertionError"},
		&message.ProtocolError{ErrorMessage: "frame of no kind"},
		&message.AuthenticationError{ErrorMessage: "who are you"},
		&message.Unavailable{ErrorMessage: "Cannot achieve", Consistency: quorum, Required: 3, Alive: 2},
		&message.Overloaded{ErrorMessage: "too much"},
		&message.IsBootstrapping{ErrorMessage: "not yet"},
		&message.TruncateError{ErrorMessage: "no truncation"},
		&message.ReadTimeout{ErrorMessage: "timed out", Consistency: quorum, Received: 1, BlockFor: 2, DataPresent: true},
		&message.ReadFailure{ErrorMessage: "failed", Consistency: quorum, Received: 1, BlockFor: 3, NumFailures: 2, DataPresent: true},
		&message.FunctionFailure{ErrorMessage: "broke", Keyspace: "ks", Function: "f", Arguments: []string{"int", "frozen<list<text>>"}},
		&message.SyntaxError{ErrorMessage: "line 1:0 no viable alternative at input 'SELEC'"},
		&message.Unauthorized{ErrorMessage: "no rights"},
		&message.Invalid{ErrorMessage: "unconfigured table t — Ü"},
		&message.ConfigError{ErrorMessage: "no such option"},
		&message.AlreadyExists{ErrorMessage: "there", Keyspace: "ks", Table: "t"},
		&message.AlreadyExists{ErrorMessage: "there", Keyspace: "ks"},
		&message.Unprepared{ErrorMessage: "never heard of", Id: []byte{1, 2, 3}},
	}
	for _, kind := range []primitive.WriteType{
		primitive.WriteTypeSimple, primitive.WriteTypeBatch, primitive.WriteTypeUnloggedBatch, primitive.WriteTypeCounter,
		primitive.WriteTypeBatchLog,
	} {
		all = append(all,
			&message.WriteTimeout{ErrorMessage: "timed out", Consistency: quorum, Received: 1, BlockFor: 2, WriteType: kind},
			&message.WriteFailure{ErrorMessage: "failed", Consistency: quorum, Received: 1, BlockFor: 3, NumFailures: 2, WriteType: kind})
	}
	return all
}

func TestEveryErrorOfANodeReachesTheClientByteForByte(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	for _, version := range []primitive.ProtocolVersion{primitive.ProtocolVersion3, primitive.ProtocolVersion4} {
		c := cqltest.Dial(t, w.addr, cqltest.Login{Version: version})
		for _, e := range errorsOfNodes() {
			if version == primitive.ProtocolVersion3 && inV4Only(e.GetErrorCode()) {
				continue
			}
			for text, sides := range map[string][]phase.Side{sel: {phase.Origin}, insert: {phase.Origin, phase.Target}} {
				for _, side := range sides {
					refuse(w, side, text, cqltest.Message(e))
					got := c.Await(t, c.Send(&message.Query{Query: text})).Raw
					if want := encoded(t, version, e); !bytes.Equal(got[headerLen:], want[headerLen:]) || got[4] != want[4] {
						t.Errorf("%v, %s, of %s: got %x, want %x", version, text, side, got, want)
					}
				}
			}
		}
	}
}

const headerLen = 9 // native_protocol_v4.spec section 2

// inV4Only tells the errors that v3 does not have.
func inV4Only(code primitive.ErrorCode) bool {
	return code == primitive.ErrorCodeReadFailure || code == primitive.ErrorCodeWriteFailure || code == primitive.ErrorCodeFunctionFailure
}

func TestErrorsThatTheirVersionDoesNotHaveReachTheClientByteForByte(t *testing.T) {
	t.Parallel()
	lenient := cqltest.Options{Lenient: true} // it does not see that Raw answers a request
	w := start(t, phase.DualWrite, lenient, lenient, nil)
	nc, in := rawClient(t, w.addr)
	failed := func(code uint16, kind string) []byte { // EACH_QUORUM, 1 of 2 received
		body := frame.AppendString([]byte{0, 0, byte(code >> 8), byte(code)}, "said by the node")
		return frame.AppendString(append(body, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2), kind)
	}
	for what, body := range map[string][]byte{
		"WRITE_TIMEOUT CAS":  failed(0x1100, "CAS"),
		"WRITE_TIMEOUT VIEW": failed(0x1100, "VIEW"),
		"WRITE_TIMEOUT CDC":  failed(0x1100, "CDC"),
		"CAS_WRITE_UNKNOWN":  failed(0x1700, "")[:4+2+len("said by the node")+10],
		"CDC_WRITE_FAILURE":  frame.AppendString([]byte{0, 0, 0x16, 0}, "no room"),
		"a code of tomorrow": append(frame.AppendString([]byte{0, 0, 0x77, 0x77}, "of a later day"), 1, 2, 3),
	} {
		for _, side := range phase.Sides {
			w.side(side.Other()).Handle(nil)
			w.side(side).Handle(func(r cqltest.Request) cqltest.Reply {
				if r.Text != insert {
					return cqltest.Ordinary()
				}
				f := frame.AppendHeader(nil, frame.V4, true, 0, r.Stream, frame.OpError, 0)
				f = append(f, body...)
				frame.PutLength(f)
				return cqltest.Raw(f)
			})
			if _, err := nc.Write(queryFrame(4, insert)); err != nil {
				t.Fatal(err)
			}
			f, err := in.Next()
			if err != nil || f.Opcode() != frame.OpError || !bytes.Equal(f.Body(), body) {
				t.Errorf("%s of %s: got % x, %v; want the body % x", what, side, f, err, body)
			}
		}
	}
}

// refuse has one side answer a statement with a reply, and the other one as it
// does.
func refuse(w *world, side phase.Side, text string, reply cqltest.Reply) {
	w.side(side.Other()).Handle(nil)
	w.side(side).Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == text {
			return reply
		}
		return cqltest.Ordinary()
	})
}

func encoded(t *testing.T, v primitive.ProtocolVersion, m message.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := gcnp.NewRawCodec().EncodeFrame(gcnp.NewFrame(v, 0, m), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAProtocolErrorOfANodeEndsItsRequestOnly(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	release := make(chan struct{})
	w.origin.Handle(func(r cqltest.Request) cqltest.Reply {
		switch r.Text {
		case insert:
			return cqltest.Error(primitive.ErrorCodeProtocolError, "what is this")
		case sel:
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	before := c.Send(&message.Query{Query: sel})
	w.origin.WaitFor(t, 1, cqltest.WithText(sel))
	if e, ok := c.Query(t, insert).(*message.ProtocolError); !ok || e.ErrorMessage != "what is this" {
		t.Errorf("got %v, want the node's PROTOCOL_ERROR on the request's stream", e)
	}
	close(release)
	if m := c.Await(t, before).Message(); m.GetOpCode() != primitive.OpCodeResult {
		t.Errorf("what was in flight: got %v, want rows", m)
	}
	mustVoid(t, c.Query(t, count))
}

func TestATruncateErrorOfOneSideDoesNotHaveADriverTruncateTheOtherAgain(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	const truncate = "TRUNCATE ks.t"
	refuse(w, phase.Target, truncate, cqltest.Error(primitive.ErrorCodeTruncateError, "a node is down"))
	e, ok := c.Query(t, truncate).(*message.WriteTimeout)
	if !ok || e.WriteType != primitive.WriteTypeSimple || !strings.Contains(e.ErrorMessage, "target") {
		t.Errorf("one side truncated: got %v, want WRITE_TIMEOUT SIMPLE that names the side", e)
	}
	w.origin.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == truncate {
			return cqltest.Error(primitive.ErrorCodeTruncateError, "here too")
		}
		return cqltest.Ordinary()
	})
	if e, ok := c.Query(t, truncate).(*message.TruncateError); !ok || e.ErrorMessage != "here too" {
		t.Errorf("neither side truncated: got %v, want the primary's TRUNCATE_ERROR", e)
	}
}

func TestALightweightTransactionShowsWhatThePrimaryDecided(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	const lwt = "INSERT INTO ks.t (k, v) VALUES (1, 2) IF NOT EXISTS"
	applied := map[phase.Side][]byte{phase.Origin: {1}, phase.Target: {0}}
	for _, s := range phase.Sides {
		w.side(s).Handle(func(r cqltest.Request) cqltest.Reply {
			if r.Text == lwt && r.Opcode != primitive.OpCodePrepare {
				return cqltest.TypedRows(cqltest.TextColumns("[applied]"), message.Row{applied[s]})
			}
			return cqltest.Ordinary()
		})
	}
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	id := prepare(t, c, lwt)
	for _, p := range []phase.Phase{phase.DualWrite, phase.DualRead, phase.CutOver} {
		w.setPhase(t, p)
		for how, m := range map[string]message.Message{"QUERY": c.Query(t, lwt), "EXECUTE": execute(t, c, id)} {
			rows, ok := m.(*message.RowsResult)
			if want := applied[p.Rule().Primary]; !ok || len(rows.Data) != 1 || !bytes.Equal(rows.Data[0][0], want) {
				t.Errorf("%s, %s: got %v, want [applied] = %x", p, how, m, want)
			}
		}
	}
	for _, s := range phase.Sides {
		w.side(s).WaitFor(t, 6, func(r cqltest.Request) bool { return r.Text == lwt && r.Opcode != primitive.OpCodePrepare })
	}
}

func TestAGraphTraversalIsAWriteAndASearchARead(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	const traversal = "g.V().hasLabel('person').values('name')"
	f := gcnp.NewFrame(primitive.ProtocolVersion4, 0, &message.Query{Query: traversal})
	f.SetCustomPayload(map[string][]byte{"graph-language": []byte("gremlin-groovy"), "graph-name": []byte("g")})
	mustVoid(t, c.Await(t, c.SendFrame(f)).Message())
	for _, s := range phase.Sides {
		r := w.side(s).WaitFor(t, 1, cqltest.WithText(traversal))[0]
		if string(r.Payload["graph-name"]) != "g" || len(r.Payload) != 2 {
			t.Errorf("%s got the traversal with the payload %v", s, r.Payload)
		}
	}
	const search = "SELECT * FROM ks.t WHERE solr_query = 'name:a*'"
	c.Query(t, search)
	if n := len(w.origin.Requests(cqltest.WithText(search))); n != 1 {
		t.Errorf("origin got the search %d times, want once", n)
	}
	if n := len(w.target.Requests(cqltest.WithText(search))); n != 0 {
		t.Errorf("target got the search %d times, want never", n)
	}
}

// say sends one frame on a connection of its own and returns all that comes back
// before the proxy closes.
func say(t *testing.T, addr string, f []byte) []byte {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write(f); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(nc)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestABlockedVersionIsRefusedAndTheOthersAreServed(t *testing.T) {
	t.Parallel()
	for blocked, want := range map[string]struct {
		refused, served frame.Version
		told            string
	}{
		"v4": {frame.V4, frame.V3, "the lowest supported version is 3 and the greatest is 3"},
		"3":  {frame.V3, frame.V4, "the lowest supported version is 4 and the greatest is 4"},
	} {
		w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"blocked_protocol_versions": blocked})
		f := frame.Frame(say(t, w.addr, frame.AppendHeader(nil, want.refused, false, 0, 7, frame.OpStartup, 0)))
		e, err := frame.ParseError(f.Body(), f.Version())
		if err != nil || f.Version() != want.served || f.Stream() != 0 || e.Code != frame.ErrProtocol ||
			string(e.Message) != fmt.Sprintf("Invalid or unsupported protocol version (%d); %s", want.refused, want.told) {
			t.Errorf("blocked %s: got % x", blocked, f)
		}
		c := cqltest.Dial(t, w.addr, cqltest.Login{Version: primitive.ProtocolVersion(want.served)})
		mustVoid(t, c.Query(t, insert))
	}
}

func TestAChangeOfVersionWithinAConnectionIsAProtocolError(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	nc, in := rawClient(t, w.addr)
	f := frame.Frame(queryFrame(1, insert))
	f[0] = byte(frame.V3)
	if _, err := nc.Write(f); err != nil {
		t.Fatal(err)
	}
	answer, err := in.Next()
	if err != nil {
		t.Fatal(err)
	}
	if e, err := frame.ParseError(answer.Body(), answer.Version()); err != nil || e.Code != frame.ErrProtocol || answer.Version() != frame.V4 {
		t.Errorf("got % x, want PROTOCOL_ERROR in v4", answer)
	}
	if _, err := in.Next(); err == nil {
		t.Error("the connection goes on, want it closed")
	}
	for _, s := range phase.Sides {
		if got := w.seen(s); len(got) > 0 {
			t.Errorf("%s got %v", s, got)
		}
	}
}

func TestFlagsThatTheProxyDoesNotUseArePassedOn(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	nc, in := rawClient(t, w.addr)
	const unknown byte = 0x40
	f := frame.Frame(queryFrame(1, insert))
	f.SetFlags(frame.FlagBeta | unknown)
	if _, err := nc.Write(f); err != nil {
		t.Fatal(err)
	}
	if answer, err := in.Next(); err != nil || answer.Opcode() != frame.OpResult {
		t.Fatalf("got % x, %v; want a RESULT", answer, err)
	}
	for _, s := range phase.Sides {
		if r := w.side(s).WaitFor(t, 1, cqltest.WithText(insert))[0]; byte(r.Flags) != frame.FlagBeta|unknown {
			t.Errorf("%s got the flags %#x, want %#x", s, r.Flags, frame.FlagBeta|unknown)
		}
	}
}

func TestOptionsTellWhatTheClustersInUseOffer(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{
		"blocked_protocol_versions": "3", "system_queries_mode": "TARGET",
	})
	offer := func(side phase.Side, options map[string][]string) {
		w.side(side).Handle(func(r cqltest.Request) cqltest.Reply {
			if r.Opcode == primitive.OpCodeOptions {
				return cqltest.Message(&message.Supported{Options: options})
			}
			return cqltest.Ordinary()
		})
		w.side(side).DropConnections() // so that it is asked again
	}
	offer(phase.Origin, map[string][]string{"CQL_VERSION": {"3.4.4"}, "PROTOCOL_VERSIONS": {"4/v4"}})
	offer(phase.Target, map[string][]string{"CQL_VERSION": {"3.4.7"}, "PRODUCT_TYPE": {"DATASTAX_APOLLO"}, "SCYLLA_SHARD": {"1"}})
	want := map[string][]string{
		"CQL_VERSION": {"3.4.7", "3.4.4"}, "PRODUCT_TYPE": {"DATASTAX_APOLLO"},
		"COMPRESSION": {"lz4", "snappy"}, "PROTOCOL_VERSIONS": {"4/v4"},
	}
	ask := func(nc net.Conn, in *frame.Reader) map[string][]string {
		if _, err := nc.Write(frame.AppendHeader(nil, frame.V4, false, 0, 3, frame.OpOptions, 0)); err != nil {
			t.Fatal(err)
		}
		f, err := in.Next()
		if err != nil || f.Stream() != 3 {
			t.Fatalf("OPTIONS: got % x, %v", f, err)
		}
		decoded, err := gcnp.NewRawCodec().DecodeFrame(bytes.NewReader(f))
		if err != nil {
			t.Fatal(err)
		}
		m, ok := decoded.Body.Message.(*message.Supported)
		if !ok {
			t.Fatalf("got %v, want SUPPORTED", decoded)
		}
		return m.Options
	}
	fresh, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	before := frame.NewReader(fresh, frame.MaxBody)
	eventually(t, "the clusters were asked again", func() bool { return cmp.Equal(ask(fresh, before), want) })
	eventually(t, "clients can log in", func() bool { _, err := cqltest.Connect(t, w.addr, cqltest.Login{}); return err == nil })
	nc, in := rawClient(t, w.addr)
	if diff := cmp.Diff(ask(nc, in), want); diff != "" {
		t.Errorf("after the login (-got +want):\n%s", diff)
	}
}
