package frame

import (
	"errors"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
)

func sampleQuery(t testing.TB, v Version) Frame {
	timestamp := int64(5)
	return encode(t, v, 1, &message.Query{Query: "INSERT INTO ks.t (k, v) VALUES (?, ?)", Options: &message.QueryOptions{
		Consistency: primitive.ConsistencyLevelLocalQuorum, PositionalValues: []*primitive.Value{value("key"), value("some text")},
		PageSize: 5000, PagingState: []byte("state"), DefaultTimestamp: &timestamp}})
}

func sampleExecute(t testing.TB, v Version) Frame {
	timestamp := int64(5)
	return encode(t, v, 1, &message.Execute{QueryId: []byte("0123456789abcdef"), ResultMetadataId: []byte("fedcba9876543210"), Options: &message.QueryOptions{
		Consistency: primitive.ConsistencyLevelLocalQuorum, PositionalValues: []*primitive.Value{value("key"), value("some text")},
		SkipMetadata: true, PageSize: 5000, PagingState: []byte("state"), DefaultTimestamp: &timestamp}})
}

func sampleBatch(t testing.TB, v Version) Frame {
	timestamp := int64(5)
	return encode(t, v, 1, &message.Batch{Children: []*message.BatchChild{
		{Query: "INSERT INTO t (k) VALUES (1)"}, {Id: []byte("0123456789abcdef"), Values: []*primitive.Value{value("key"), value("v")}},
	}, DefaultTimestamp: &timestamp})
}

func samplePrepared(t testing.TB, v Version) Frame {
	return encode(t, v, 1, &message.PreparedResult{PreparedQueryId: []byte("0123456789abcdef"), ResultMetadataId: []byte("fedcba9876543210"),
		VariablesMetadata: &message.VariablesMetadata{PkIndices: []uint16{0}, Columns: columns(t, v)},
		ResultMetadata:    &message.RowsMetadata{ColumnCount: int32(len(columns(t, v))), Columns: columns(t, v)}})
}

func sampleRows(t testing.TB, v Version) Frame {
	return encode(t, v, 1, &message.RowsResult{Metadata: &message.RowsMetadata{ColumnCount: 1, PagingState: []byte("next")}, Data: message.RowSet{{[]byte("x")}}})
}

// view reads a body; it must not allocate when it succeeds.
type view struct {
	name   string
	sample func(testing.TB, Version) Frame
	read   func(body []byte, v Version) error
}

var views = []view{
	{"query", sampleQuery, func(b []byte, v Version) error {
		q, err := ParseQuery(b, v)
		for it := q.Params.Values(b); err == nil && it.Next(); {
		}
		return err
	}},
	{"execute", sampleExecute, func(b []byte, v Version) error {
		e, err := ParseExecute(b, v)
		for it := e.Params.Values(b); err == nil && it.Next(); {
		}
		return err
	}},
	{"prepare", func(t testing.TB, v Version) Frame {
		return encode(t, v, 1, &message.Prepare{Query: "SELECT 1", Keyspace: "ks"})
	}, func(b []byte, v Version) error { _, err := ParsePrepare(b, v); return err }},
	{"batch", sampleBatch, func(b []byte, v Version) error {
		batch, err := ParseBatch(b, v)
		it := batch.Children()
		for it.Next() {
			for values := it.Values(); values.Next(); {
			}
		}
		return errors.Join(err, it.Err())
	}},
	{"prepared", samplePrepared, func(b []byte, v Version) error { _, err := ParsePrepared(b, v); return err }},
	{"rows", sampleRows, func(b []byte, _ Version) error { RowsPaging(b); _, err := ParseRows(b); return err }},
	{"error", func(t testing.TB, v Version) Frame {
		return AppendError(nil, v, 1, ErrorBody{Code: ErrUnprepared, Message: "m", ID: []byte("id")})
	}, func(b []byte, v Version) error {
		e, err := ParseError(b, v)
		UnpreparedID(e.Tail)
		return err
	}},
}

func TestViewsDoNotAllocate(t *testing.T) {
	for _, v := range versions {
		for _, view := range views {
			body := view.sample(t, v).Body()
			if n := testing.AllocsPerRun(100, func() {
				if err := view.read(body, v); err != nil {
					t.Fatalf("%v %s: %v", v, view.name, err)
				}
			}); n != 0 {
				t.Errorf("%v %s: %v allocations", v, view.name, n)
			}
		}
	}
	f := sampleRows(t, V4)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := SplitResponse(f); err != nil {
			t.Fatal(err)
		}
		if _, _, err := SplitRequest(f); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("split: %v allocations", n)
	}
}

func TestAppendErrorDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 256)
	e := ErrorBody{Code: ErrWriteTimeout, Message: "no answer in time", WriteType: WriteTypeSimple, Required: 1}
	if n := testing.AllocsPerRun(100, func() { buf = AppendError(buf[:0], V4, 1, e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestABodyThatBreaksOffIsMalformedAtEveryByte(t *testing.T) {
	for _, v := range versions {
		for _, view := range views {
			if view.name == "rows" || view.name == "error" {
				continue // what they read ends before the body does
			}
			body := view.sample(t, v).Body()
			for n := range body {
				err := view.read(body[:n:n], v)
				var malformed *MalformedError
				if !errors.As(err, &malformed) {
					t.Fatalf("%v %s: %d bytes of %d: error %v", v, view.name, n, len(body), err)
				}
				if malformed.Offset > n || malformed.What == "" {
					t.Errorf("%v %s: %d bytes: %v", v, view.name, n, malformed)
				}
			}
		}
	}
}

func TestAMalformedBodySaysWhatAndWhere(t *testing.T) {
	for _, c := range []struct {
		name string
		err  func() error
		want string
	}{
		{"negative text length", func() error { _, err := ParseQuery(AppendInt(nil, -1), V4); return err }, "malformed query text at byte 0 of the body"},
		{"value longer than the body", func() error {
			body := append(AppendLongString(nil, "x"), 0, 1, 1, 0, 1, 0x7F, 0xFF, 0xFF, 0xFF)
			_, err := ParseQuery(body, V4)
			return err
		}, "malformed value at byte 10 of the body"},
		{"child of a third kind", func() error { _, err := ParseBatch([]byte{0, 0, 1, 2}, V4); return err }, "malformed kind of a batch child at byte 3 of the body"},
		{"rows of another kind", func() error { _, err := ParseRows(AppendInt(nil, 1)); return err }, "malformed kind of result at byte 0 of the body"},
		{"negative index count", func() error {
			body := AppendShortBytes(AppendInt(nil, 4), []byte("id"))
			_, err := ParsePrepared(AppendInt(AppendInt(AppendInt(body, 0), 0), -1), V4)
			return err
		}, "malformed number of partition key indices at byte 16 of the body"},
	} {
		if err := c.err(); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

func TestAFlagThatTheVersionLacksIsNotActedOn(t *testing.T) {
	body := append(AppendLongString(nil, "x"), 0, 1, byte(QueryKeyspace))
	q, err := ParseQuery(body, V4)
	if err != nil || q.Params.Keyspace != nil || q.Params.Flags != QueryKeyspace {
		t.Errorf("%+v, error %v", q.Params, err)
	}
}

func TestPrimitivesReadBackWhatWasAppended(t *testing.T) {
	b := AppendShort(nil, 0xFFFE)
	b = AppendInt(b, -7)
	b = AppendLong(b, -1<<40)
	b = AppendString(b, "é")
	b = AppendLongString(b, "")
	b = AppendBytes(AppendBytes(b, nil), []byte{})
	b = AppendShortBytes(b, []byte{9})
	b = AppendStringMap(b, "k", "v", "a", "b")
	c := NewCursor(b)
	if n := c.Short("a"); n != 0xFFFE {
		t.Errorf("short %d", n)
	}
	if n := c.Int("b"); n != -7 {
		t.Errorf("int %d", n)
	}
	if n := c.Long("c"); n != -1<<40 {
		t.Errorf("long %d", n)
	}
	if s := c.String("d"); string(s) != "é" {
		t.Errorf("string %q", s)
	}
	if s := c.LongString("e"); s == nil || len(s) != 0 {
		t.Errorf("long string %v", s)
	}
	if s := c.Bytes("f"); s != nil {
		t.Errorf("null %v", s)
	}
	if s := c.Bytes("g"); s == nil {
		t.Error("empty bytes are null")
	}
	if s := c.ShortBytes("h"); string(s) != "\x09" {
		t.Errorf("short bytes %v", s)
	}
	if n := c.Short("i"); n != 2 || string(c.String("j")) != "k" {
		t.Errorf("map of %d", n)
	}
	c.String("k")
	c.String("l")
	c.String("m")
	if c.Failed() || c.Len() != 0 || c.Offset() != len(b) {
		t.Errorf("failed %v, %d left", c.Failed(), c.Len())
	}
	if c.Byte("end"); c.Err() == nil || c.Err().Error() != "malformed end at byte 47 of the body" {
		t.Errorf("got %v", c.Err())
	}
}

func BenchmarkParseExecute(b *testing.B) {
	body := sampleExecute(b, V4).Body()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseExecute(body, V4); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseQuery(b *testing.B) {
	body := sampleQuery(b, V4).Body()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseQuery(body, V4); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseBatch(b *testing.B) {
	body := sampleBatch(b, V4).Body()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseBatch(body, V4); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendError(b *testing.B) {
	buf := make([]byte, 0, 256)
	e := ErrorBody{Code: ErrWriteTimeout, Message: "no answer in time", WriteType: WriteTypeSimple, Required: 1}
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendError(buf[:0], V4, 1, e)
	}
}

func TestTimedOutWriteReadsTheWriteTypeOfAnAnswer(t *testing.T) {
	t.Parallel()
	for _, v := range []Version{V3, V4, V5} {
		f := AppendError(nil, v, 0, ErrorBody{Code: ErrWriteTimeout, Message: "m", WriteType: WriteTypeBatchLog, Required: 1})
		e, err := ParseError(Frame(f).Body(), v)
		if got := TimedOutWrite(e.Tail); err != nil || got != WriteTypeBatchLog {
			t.Errorf("%s: %q, %v; want BATCH_LOG", v, got, err)
		}
		if got := TimedOutWrite(e.Tail[:5]); got != "" {
			t.Errorf("%s: a tail that breaks off gives %q, want none", v, got)
		}
	}
}
