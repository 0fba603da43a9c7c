package tracing_test

import (
	"bytes"
	"encoding/hex"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	oracle "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/tracing"
)

var client = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}

func encode(t *testing.T, v primitive.ProtocolVersion, m message.Message, payload map[string][]byte) frame.Frame {
	t.Helper()
	f := oracle.NewFrame(v, 7, m)
	if payload != nil {
		f.SetCustomPayload(payload)
	}
	var b bytes.Buffer
	if err := oracle.NewCodec().EncodeFrame(f, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decode(t *testing.T, f frame.Frame) *oracle.Frame {
	t.Helper()
	out, err := oracle.NewCodec().DecodeFrame(bytes.NewReader(f))
	if err != nil {
		t.Fatalf("the oracle cannot read % x: %v", f, err)
	}
	return out
}

func TestARequestGetsAnIDUnlessItsClientGaveOne(t *testing.T) {
	t.Parallel()
	query := &message.Query{Query: "SELECT 1", Options: &message.QueryOptions{}}
	for name, tt := range map[string]struct {
		version primitive.ProtocolVersion
		m       message.Message
		payload map[string][]byte
		own     bool // the client's id stays
		traced  bool
	}{
		"QUERY":                      {primitive.ProtocolVersion4, query, nil, false, true},
		"QUERY in v5":                {primitive.ProtocolVersion5, query, nil, false, true},
		"QUERY in DSE_V2":            {primitive.ProtocolVersionDse2, query, nil, false, true},
		"QUERY in v3":                {primitive.ProtocolVersion3, query, nil, false, false},
		"PREPARE":                    {primitive.ProtocolVersion4, &message.Prepare{Query: "SELECT 1"}, nil, false, true},
		"EXECUTE":                    {primitive.ProtocolVersion4, &message.Execute{QueryId: []byte{1}, Options: &message.QueryOptions{}}, nil, false, true},
		"BATCH":                      {primitive.ProtocolVersion4, &message.Batch{}, nil, false, true},
		"OPTIONS":                    {primitive.ProtocolVersion4, &message.Options{}, nil, false, false},
		"another payload":            {primitive.ProtocolVersion4, query, map[string][]byte{"graph-source": {9}}, false, true},
		"the client's own id":        {primitive.ProtocolVersion4, query, map[string][]byte{"id": {0xAB, 0xCD}, "x": {1}}, true, true},
		"a client's id that is null": {primitive.ProtocolVersion4, query, map[string][]byte{"x": nil}, false, true},
	} {
		var log strings.Builder
		tr := tracing.New(tracing.Options{Key: "id", Log: slog.New(slog.NewTextHandler(&log, nil))})
		f := encode(t, tt.version, tt.m, tt.payload)
		var r tracing.Request
		out := tr.Trace(&r, f, client)
		id := r.ID
		got := decode(t, out)
		if !tt.traced {
			if id != "" || !bytes.Equal(out, f) || log.Len() > 0 {
				t.Errorf("%s: traced as %q, and logged %q", name, id, log.String())
			}
			continue
		}
		if hex.EncodeToString(got.Body.CustomPayload["id"]) != id {
			t.Errorf("%s: the payload is %v, and the id was said to be %q", name, got.Body.CustomPayload, id)
		}
		if tt.own != (id == "abcd") || !tt.own && (len(id) != 32 || id[12] != '4') {
			t.Errorf("%s: got the id %q", name, id)
		}
		for key, value := range tt.payload {
			if !bytes.Equal(got.Body.CustomPayload[key], value) {
				t.Errorf("%s: the payload has %s = %v, want %v", name, key, got.Body.CustomPayload[key], value)
			}
		}
		if got.Header.StreamId != 7 || !strings.Contains(log.String(), "level=INFO") || !strings.Contains(log.String(), "request_id="+id+" stream=7") {
			t.Errorf("%s: stream %d, log %q", name, got.Header.StreamId, log.String())
		}
	}
}

func TestBeyondTheRateRequestsPassAsTheyAre(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := tracing.New(tracing.Options{Key: "id", RateLimit: 3, Log: slog.New(slog.DiscardHandler)})
		own := encode(t, primitive.ProtocolVersion4, &message.Query{Query: "q", Options: &message.QueryOptions{}}, map[string][]byte{"id": {1}})
		traced := func() (n int) {
			for range 10 {
				var r tracing.Request
				out := tr.Trace(&r, own, client)
				if !bytes.Equal(out, own) {
					t.Errorf("a client's id is not passed on: % x became % x", own, out)
				}
				if r.ID != "" {
					n++
				}
			}
			return n
		}
		if got := traced(); got != 3 {
			t.Errorf("%d of 10 requests at once are traced, want 3", got)
		}
		time.Sleep(time.Second)
		if got := traced(); got != 3 {
			t.Errorf("a second later %d of 10 are traced, want 3", got)
		}
	})
}

// A body that cannot be read is not touched: the session answers it.
func TestAPayloadThatCannotBeReadIsLeftAlone(t *testing.T) {
	t.Parallel()
	tr := tracing.New(tracing.Options{Key: "id", Log: slog.New(slog.DiscardHandler)})
	f := frame.Frame(frame.AppendHeader(nil, frame.V4, false, frame.FlagCustomPayload, 1, frame.OpQuery, 0))
	f = append(f, 0, 9, 0, 200, 'x')
	frame.PutLength(f)
	r := tracing.Request{ID: "that of the one before"}
	if out := tr.Trace(&r, f, client); r.ID != "" || !bytes.Equal(out, f) {
		t.Errorf("got % x with id %q, want it as it was", out, r.ID)
	}
}

func TestAFullPayloadIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, entries := range []uint16{1<<16 - 2, 1<<16 - 1} {
		tr := tracing.New(tracing.Options{Key: "id", Log: slog.New(slog.DiscardHandler)})
		f := frame.Frame(frame.AppendHeader(nil, frame.V4, false, frame.FlagCustomPayload, 1, frame.OpQuery, 0))
		f = frame.AppendShort(f, entries)
		for range entries {
			f = frame.AppendBytes(frame.AppendString(f, "k"), nil)
		}
		f = frame.AppendPlainQuery(f, frame.V4, "SELECT 1")
		frame.PutLength(f)
		var r tracing.Request
		out := tr.Trace(&r, f, client)
		if full := entries == 1<<16-1; full != (r.ID == "") || full != bytes.Equal(out, f) {
			t.Errorf("%d entries: the id is %q, and the frame of %d bytes has %d", entries, r.ID, len(f), len(out))
		}
		if _, err := oracle.NewCodec().DecodeFrame(bytes.NewReader(out)); err != nil {
			t.Errorf("%d entries: the oracle cannot read it any more: %v", entries, err)
		}
	}
}

func TestALongIDOfAClientIsCutInTheLogAndGoesOnWhole(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	tr := tracing.New(tracing.Options{Key: "id", Log: slog.New(slog.NewTextHandler(&log, nil))})
	own := encode(t, primitive.ProtocolVersion4, &message.Query{Query: "q", Options: &message.QueryOptions{}}, map[string][]byte{"id": bytes.Repeat([]byte{0xAB}, 1000)})
	var r tracing.Request
	if out := tr.Trace(&r, own, client); !bytes.Equal(out, own) {
		t.Errorf("a frame of %d bytes became one of %d", len(own), len(out))
	}
	if want := strings.Repeat("ab", 100); r.ID != want || !strings.Contains(log.String(), "request_id="+want+" ") {
		t.Errorf("got the id %q, and logged %q", r.ID, log.String())
	}
}
