package frame

import (
	"bytes"
	"encoding/binary"
	"testing"

	oracle "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
)

// The DataStax library is the oracle: it encodes what the views read, and
// decodes what this package writes.

var versions = []Version{V3, V4, V5, DSE1, DSE2}

func eachVersion(t *testing.T, f func(t *testing.T, v Version)) {
	t.Helper()
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) { f(t, v) })
	}
}

func encode(t testing.TB, v Version, stream int16, m message.Message, change ...func(*oracle.Frame)) Frame {
	t.Helper()
	f := oracle.NewFrame(primitive.ProtocolVersion(v), stream, m)
	for _, c := range change {
		c(f)
	}
	var b bytes.Buffer
	if err := oracle.NewCodec().EncodeFrame(f, &b); err != nil {
		t.Fatalf("encode %v: %v", m, err)
	}
	return b.Bytes()
}

func decode(t testing.TB, f Frame) *oracle.Frame {
	t.Helper()
	src := bytes.NewReader(f)
	out, err := oracle.NewCodec().DecodeFrame(src)
	if err != nil {
		t.Fatalf("the oracle cannot decode % x: %v", []byte(f), err)
	}
	if src.Len() != 0 {
		t.Fatalf("the oracle left %d bytes of % x", src.Len(), []byte(f))
	}
	return out
}

func value(s string) *primitive.Value { return primitive.NewValue([]byte(s)) }

// optionCases are sets of query parameters that v has.
func optionCases(v Version) map[string]*message.QueryOptions {
	serial := primitive.ConsistencyLevelLocalSerial
	timestamp := int64(-1234567890123)
	seconds := int32(86400)
	cases := map[string]*message.QueryOptions{
		"none":       {Consistency: primitive.ConsistencyLevelLocalQuorum},
		"positional": {Consistency: primitive.ConsistencyLevelOne, PositionalValues: []*primitive.Value{value("a"), value(""), primitive.NewNullValue()}},
		"no values":  {PositionalValues: []*primitive.Value{}},
		"named":      {NamedValues: map[string]*primitive.Value{"k": value("v")}},
		"paging":     {PageSize: 5000, PagingState: []byte("state"), SkipMetadata: true},
		"empty paging state": {
			PageSize: 1, PagingState: []byte{},
		},
		"serial":    {SerialConsistency: &serial},
		"timestamp": {DefaultTimestamp: &timestamp},
		"all": {
			Consistency: primitive.ConsistencyLevelEachQuorum, SkipMetadata: true, PageSize: 7, PagingState: []byte("p"),
			PositionalValues: []*primitive.Value{value("long enough to matter")}, SerialConsistency: &serial, DefaultTimestamp: &timestamp,
		},
	}
	if v != V3 {
		cases["unset"] = &message.QueryOptions{PositionalValues: []*primitive.Value{primitive.NewUnsetValue(), value("x")}}
	}
	if v == V5 || v == DSE2 {
		cases["keyspace"] = &message.QueryOptions{Keyspace: "ks", DefaultTimestamp: &timestamp}
	}
	if v == V5 {
		cases["now in seconds"] = &message.QueryOptions{NowInSeconds: &seconds, Keyspace: "ks"}
	}
	if v == DSE1 || v == DSE2 {
		cases["continuous"] = &message.QueryOptions{PageSize: 10, PageSizeInBytes: true, DefaultTimestamp: &timestamp,
			ContinuousPagingOptions: &message.ContinuousPagingOptions{MaxPages: 1, PagesPerSecond: 2, NextPages: 3}}
	}
	return cases
}

func checkParams(t *testing.T, body []byte, p *Params, v Version, o *message.QueryOptions) {
	t.Helper()
	if p.Consistency != Consistency(o.Consistency) || binary.BigEndian.Uint16(body[p.ConsistencyOffset:]) != uint16(o.Consistency) {
		t.Errorf("consistency %v at %d, want %v", p.Consistency, p.ConsistencyOffset, o.Consistency)
	}
	if p.Flags != uint32(o.Flags()) || body[p.FlagsOffset] != byte(o.Flags()) {
		t.Errorf("flags %#x at %d, want %#x", p.Flags, p.FlagsOffset, uint32(o.Flags()))
	}
	if p.PageSize != o.PageSize {
		t.Errorf("page size %d, want %d", p.PageSize, o.PageSize)
	}
	if !bytes.Equal(p.PagingState, o.PagingState) || (p.PagingState == nil) != (o.PagingState == nil) {
		t.Errorf("paging state %q, want %q", p.PagingState, o.PagingState)
	}
	if o.PagingState == nil {
		if p.PagingStateOffset != 0 {
			t.Errorf("offset %d of no paging state", p.PagingStateOffset)
		}
	} else if n := binary.BigEndian.Uint32(body[p.PagingStateOffset:]); int(n) != len(o.PagingState) {
		t.Errorf("length of the paging state at %d is %d, want %d", p.PagingStateOffset, n, len(o.PagingState))
	}
	if p.HasSerialConsistency != (o.SerialConsistency != nil) || p.HasSerialConsistency && p.SerialConsistency != Consistency(*o.SerialConsistency) {
		t.Errorf("serial consistency %v %v, want %v", p.HasSerialConsistency, p.SerialConsistency, o.SerialConsistency)
	}
	if p.HasTimestamp != (o.DefaultTimestamp != nil) {
		t.Errorf("has timestamp: %v", p.HasTimestamp)
	}
	if p.HasTimestamp && (p.Timestamp != *o.DefaultTimestamp || int64(binary.BigEndian.Uint64(body[p.TimestampOffset:])) != p.Timestamp) {
		t.Errorf("timestamp %d at %d, want %d", p.Timestamp, p.TimestampOffset, *o.DefaultTimestamp)
	}
	if string(p.Keyspace) != o.Keyspace {
		t.Errorf("keyspace %q, want %q", p.Keyspace, o.Keyspace)
	}
	if p.HasNowInSeconds != (o.NowInSeconds != nil) || p.HasNowInSeconds && p.NowInSeconds != *o.NowInSeconds {
		t.Errorf("now in seconds %v %v", p.HasNowInSeconds, p.NowInSeconds)
	}
	want := o.PositionalValues
	for name, v := range o.NamedValues {
		want = []*primitive.Value{v}
		it := p.Values(body)
		if !it.Next() || string(it.Name) != name {
			t.Errorf("name of the value is %q, want %q", it.Name, name)
		}
	}
	checkValues(t, p.Values(body), want)
}

func checkValues(t *testing.T, it Values, want []*primitive.Value) {
	t.Helper()
	for i, w := range want {
		if !it.Next() {
			t.Fatalf("%d values, want %d", i, len(want))
		}
		if !bytes.Equal(it.Value, w.Contents) || (it.Value == nil) != (w.Type != primitive.ValueTypeRegular) || it.Unset != (w.Type == primitive.ValueTypeUnset) {
			t.Errorf("value %d is %q unset=%v, want %v", i, it.Value, it.Unset, w)
		}
	}
	if it.Next() {
		t.Errorf("more than %d values", len(want))
	}
}

func TestParseQueryReadsWhatTheOracleWrote(t *testing.T) {
	eachVersion(t, func(t *testing.T, v Version) {
		for name, o := range optionCases(v) {
			t.Run(name, func(t *testing.T) {
				f := encode(t, v, 5, &message.Query{Query: "SELECT * FROM ks.t", Options: o})
				q, err := ParseQuery(f.Body(), v)
				if err != nil || string(q.Text) != "SELECT * FROM ks.t" {
					t.Fatalf("text %q, error %v", q.Text, err)
				}
				checkParams(t, f.Body(), &q.Params, v, o)
			})
		}
	})
}

func TestParseExecuteReadsWhatTheOracleWrote(t *testing.T) {
	eachVersion(t, func(t *testing.T, v Version) {
		for name, o := range optionCases(v) {
			t.Run(name, func(t *testing.T) {
				f := encode(t, v, 5, &message.Execute{QueryId: []byte("0123456789abcdef"), ResultMetadataId: []byte("result"), Options: o})
				body := f.Body()
				e, err := ParseExecute(body, v)
				if err != nil || string(e.ID) != "0123456789abcdef" || string(body[e.IDOffset:e.IDOffset+16]) != string(e.ID) {
					t.Fatalf("id %q at %d, error %v", e.ID, e.IDOffset, err)
				}
				if v == V5 || v == DSE2 {
					if at := e.ResultMetadataIDOffset; string(e.ResultMetadataID) != "result" || string(body[at:at+6]) != "result" {
						t.Errorf("result metadata id %q at %d", e.ResultMetadataID, at)
					}
				} else if e.ResultMetadataID != nil || e.ResultMetadataIDOffset != 0 {
					t.Errorf("result metadata id %q", e.ResultMetadataID)
				}
				checkParams(t, body, &e.Params, v, o)
			})
		}
	})
}

func TestParsePrepareReadsWhatTheOracleWrote(t *testing.T) {
	eachVersion(t, func(t *testing.T, v Version) {
		for _, keyspace := range []string{"", "ks"} {
			f := encode(t, v, 0, &message.Prepare{Query: "SELECT 1", Keyspace: keyspace})
			p, err := ParsePrepare(f.Body(), v)
			want := keyspace
			if v != V5 && v != DSE2 {
				want = ""
			}
			if err != nil || string(p.Text) != "SELECT 1" || string(p.Keyspace) != want {
				t.Errorf("%q in %q, error %v, want keyspace %q", p.Text, p.Keyspace, err, want)
			}
		}
	})
}

func TestParseBatchReadsWhatTheOracleWrote(t *testing.T) {
	serial := primitive.ConsistencyLevelSerial
	timestamp := int64(77)
	seconds := int32(9)
	eachVersion(t, func(t *testing.T, v Version) {
		m := &message.Batch{
			Type: primitive.BatchTypeUnlogged,
			Children: []*message.BatchChild{
				{Query: "INSERT INTO t (k) VALUES (1)"},
				{Id: []byte("fedcba9876543210"), Values: []*primitive.Value{value("a"), primitive.NewNullValue()}},
				{Query: "UPDATE t SET v = ? WHERE k = ?", Values: []*primitive.Value{value(""), value("b")}},
			},
			Consistency: primitive.ConsistencyLevelQuorum, SerialConsistency: &serial, DefaultTimestamp: &timestamp,
		}
		options := &message.QueryOptions{Consistency: m.Consistency, SerialConsistency: &serial, DefaultTimestamp: &timestamp}
		if v == V5 || v == DSE2 {
			m.Keyspace, options.Keyspace = "ks", "ks"
		}
		if v == V5 {
			m.NowInSeconds, options.NowInSeconds = &seconds, &seconds
		}
		body := encode(t, v, 0, m).Body()
		b, err := ParseBatch(body, v)
		if err != nil || b.Type != BatchUnlogged || b.Count != 3 {
			t.Fatalf("%v with %d children, error %v", b.Type, b.Count, err)
		}
		checkParams(t, body, &b.Params, v, options)
		it := b.Children()
		for i, want := range m.Children {
			if !it.Next() {
				t.Fatalf("%d children: %v", i, it.Err())
			}
			if string(it.Text) != want.Query || !bytes.Equal(it.ID, want.Id) || it.Prepared != (want.Id != nil) || it.ValuesCount != len(want.Values) {
				t.Errorf("child %d is %+v, want %+v", i, it.BatchChild, want)
			}
			if it.Prepared && !bytes.Equal(body[it.IDOffset:it.IDOffset+16], want.Id) {
				t.Errorf("no id of child %d at %d", i, it.IDOffset)
			}
			checkValues(t, it.Values(), want.Values)
		}
		if it.Next() || it.Err() != nil {
			t.Errorf("more children, or error %v", it.Err())
		}
	})
}

func TestSplitRequestReadsOverACustomPayload(t *testing.T) {
	m := &message.Query{Query: "SELECT 1"}
	f := encode(t, V4, 1, m, func(f *oracle.Frame) { f.SetCustomPayload(map[string][]byte{"k": []byte("v"), "null": nil}) })
	body, offset, err := SplitRequest(f)
	if err != nil || !bytes.Equal(body, f[offset:]) {
		t.Fatalf("offset %d, error %v", offset, err)
	}
	if q, err := ParseQuery(body, V4); err != nil || string(q.Text) != m.Query {
		t.Errorf("text %q, error %v", q.Text, err)
	}
	f = encode(t, V4, 1, m)
	if body, offset, err := SplitRequest(f); err != nil || offset != HeaderLen || !bytes.Equal(body, f.Body()) {
		t.Errorf("without payload: offset %d, error %v", offset, err)
	}
	f.SetFlags(FlagCompressed)
	if _, _, err := SplitRequest(f); err == nil {
		t.Error("a compressed body was split")
	}
}

func TestAHeaderIsWhatTheOracleReads(t *testing.T) {
	eachVersion(t, func(t *testing.T, v Version) {
		want := encode(t, v, 0x1234, &message.Ready{})
		f := Frame(AppendHeader([]byte("before"), v, true, 0, 0x1234, OpReady, 0))[len("before"):]
		if !bytes.Equal(f, want) {
			t.Errorf("got % x, want % x", []byte(f), []byte(want))
		}
		if f.Version() != v || !f.IsResponse() || f.Stream() != 0x1234 || f.Opcode() != OpReady || len(f.Body()) != 0 {
			t.Errorf("read back as %v response=%v stream %d %v", f.Version(), f.IsResponse(), f.Stream(), f.Opcode())
		}
		f = append(f, "body"...)
		PutLength(f)
		f.SetStream(-2)
		f.SetFlags(FlagTracing | FlagBeta)
		if f[8] != 4 || f.Stream() != -2 || f.Flags() != FlagTracing|FlagBeta || string(f.Body()) != "body" {
			t.Errorf("after changes % x", []byte(f))
		}
	})
}
