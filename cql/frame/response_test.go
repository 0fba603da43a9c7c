package frame

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	oracle "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"github.com/google/go-cmp/cmp"
)

func columns(t testing.TB, v Version) []*message.ColumnMetadata {
	t.Helper()
	udt, err := datatype.NewUserDefined("ks", "address", []string{"street", "codes"}, []datatype.DataType{datatype.Varchar, datatype.NewList(datatype.Int)})
	if err != nil {
		t.Fatal(err)
	}
	types := []datatype.DataType{
		datatype.Int, datatype.Varchar, datatype.NewList(datatype.NewSet(datatype.Bigint)), datatype.NewMap(datatype.Varchar, udt),
		datatype.NewTuple(datatype.Int, udt, datatype.NewTuple()), datatype.NewCustom("org.apache.cassandra.db.marshal.VectorType(...)"), udt,
	}
	if v != V3 {
		types = append(types, datatype.Smallint, datatype.Date)
	}
	var cols []*message.ColumnMetadata
	for i, typ := range types {
		cols = append(cols, &message.ColumnMetadata{Keyspace: "ks", Table: "t", Name: strings.Repeat("c", i+1), Type: typ})
	}
	return cols
}

func TestSplitResponseFindsTheBodyInTheServersOrder(t *testing.T) {
	inner := encode(t, V4, 1, &message.SetKeyspaceResult{Keyspace: "ks"}).Body()
	tracing := bytes.Repeat([]byte{7}, 16)
	warnings := AppendStringList(nil, []string{"careful", ""})
	payload := AppendBytes(AppendString(AppendShort(nil, 1), "k"), nil)
	for flags := range byte(16) {
		if flags&FlagCompressed != 0 {
			continue
		}
		f := Frame(AppendHeader(nil, V4, true, flags, 1, OpResult, 0))
		want := Response{}
		if flags&FlagTracing != 0 {
			f, want.TracingID = append(f, tracing...), tracing
		}
		if flags&FlagWarning != 0 {
			f, want.Warnings = append(f, warnings...), warnings
		}
		if flags&FlagCustomPayload != 0 {
			f, want.Payload = append(f, payload...), payload
		}
		want.BodyOffset, want.Body = len(f), inner
		f = append(f, inner...)
		PutLength(f)
		got, err := SplitResponse(f)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("flags %#x: error %v, (-want +got)\n%s", flags, err, diff)
		}
		for n := HeaderLen; n < want.BodyOffset; n++ {
			if _, err := SplitResponse(f[:n]); err == nil {
				t.Errorf("flags %#x: %d bytes of %d before the body were enough", flags, n, want.BodyOffset)
			}
		}
	}
	// The oracle agrees as long as warnings and payload do not come together.
	f := encode(t, V4, 1, &message.VoidResult{}, func(f *oracle.Frame) {
		id := primitive.UUID{1}
		f.SetTracingId(&id)
		f.SetWarnings([]string{"careful"})
	})
	if r, err := SplitResponse(f); err != nil || ResultKind(r.Body) != ResultVoid {
		t.Errorf("kind %v, error %v", ResultKind(r.Body), err)
	}
}

func TestRowsPagingFindsTheState(t *testing.T) {
	eachVersion(t, func(t *testing.T, v Version) {
		for name, metadata := range map[string]*message.RowsMetadata{
			"last page":   {ColumnCount: 1, Columns: columns(t, v)[:1]},
			"more pages":  {ColumnCount: 1, Columns: columns(t, v)[:1], PagingState: []byte("next")},
			"no metadata": {ColumnCount: 1, PagingState: []byte("next")},
		} {
			body := encode(t, v, 0, &message.RowsResult{Metadata: metadata, Data: message.RowSet{{[]byte{0, 0, 0, 1}}}}).Body()
			state, at, ok := RowsPaging(body)
			if ok != (metadata.PagingState != nil) || !bytes.Equal(state, metadata.PagingState) {
				t.Errorf("%s: state %q, %v", name, state, ok)
			}
			if ok && binary.BigEndian.Uint32(body[at:]) != 4 {
				t.Errorf("%s: no length at %d", name, at)
			}
			r, err := ParseRows(body)
			if err != nil || r.ColumnCount != 1 || r.Flags&RowsNoMetadata != 0 != (metadata.Columns == nil) {
				t.Errorf("%s: %+v, error %v", name, r, err)
			}
			if metadata.Columns == nil && binary.BigEndian.Uint32(body[r.SpecsOffset:]) != 1 {
				t.Errorf("%s: no row count at %d", name, r.SpecsOffset)
			}
		}
		if _, _, ok := RowsPaging(encode(t, v, 0, &message.VoidResult{}).Body()); ok {
			t.Error("a void result has a paging state")
		}
	})
	body := encode(t, V5, 0, &message.RowsResult{Metadata: &message.RowsMetadata{ColumnCount: 1, Columns: columns(t, V5)[:1], NewResultMetadataId: []byte("new")}}).Body()
	if r, err := ParseRows(body); err != nil || string(r.NewMetadataID) != "new" {
		t.Errorf("new metadata id %q, error %v", r.NewMetadataID, err)
	}
}

func TestParsePreparedPartsTheMetadata(t *testing.T) {
	eachVersion(t, func(t *testing.T, v Version) {
		mixed := columns(t, v)
		mixed[1].Table = "other" // no global table
		for name, m := range map[string]*message.PreparedResult{
			"nothing": {},
			"bound":   {VariablesMetadata: &message.VariablesMetadata{PkIndices: []uint16{0, 1}, Columns: columns(t, v)}},
			"rows":    {ResultMetadata: &message.RowsMetadata{ColumnCount: int32(len(mixed)), Columns: mixed}},
			"both": {VariablesMetadata: &message.VariablesMetadata{Columns: mixed},
				ResultMetadata: &message.RowsMetadata{ColumnCount: int32(len(mixed)), Columns: columns(t, v)}},
		} {
			m.PreparedQueryId, m.ResultMetadataId = []byte("0123456789abcdef"), []byte("metadata")
			body := encode(t, v, 0, m).Body()
			p, err := ParsePrepared(body, v)
			if err != nil || !bytes.Equal(p.ID, m.PreparedQueryId) || !bytes.Equal(body[p.IDOffset:p.IDOffset+16], p.ID) || len(p.Rest) != 0 {
				t.Fatalf("%s: %+v, error %v", name, p, err)
			}
			if v == V5 || v == DSE2 {
				if at := p.ResultMetadataIDOffset; string(p.ResultMetadataID) != "metadata" || string(body[at:at+8]) != "metadata" {
					t.Errorf("%s: result metadata id %q at %d", name, p.ResultMetadataID, at)
				}
			}
			// The oracle must read the same from the parts as from the whole.
			again := AppendInt(nil, int32(ResultPrepared))
			again = AppendShortBytes(again, p.ID)
			if v == V5 || v == DSE2 {
				again = AppendShortBytes(again, p.ResultMetadataID)
			}
			again = append(append(again, p.Variables...), p.Result...)
			if !bytes.Equal(again, body) {
				t.Errorf("%s: parts do not make the whole", name)
			}
			rows := append(AppendInt(nil, int32(ResultRows)), p.Result...)
			rows = AppendInt(rows, 0)
			f := Frame(AppendHeader(nil, v, true, 0, 0, OpResult, len(rows)))
			got := decode(t, append(f, rows...)).Body.Message.(*message.RowsResult)
			if want := m.ResultMetadata; want != nil && len(got.Metadata.Columns) != len(want.Columns) {
				t.Errorf("%s: %d result columns, want %d", name, len(got.Metadata.Columns), len(want.Columns))
			}
			for n := range body {
				if _, err := ParsePrepared(body[:n], v); err == nil {
					t.Errorf("%s: %d bytes of %d are enough", name, n, len(body))
				}
			}
		}
	})
}

func TestATypeNestedWithoutEndIsMalformed(t *testing.T) {
	body := AppendInt(nil, int32(ResultPrepared))
	body = AppendShortBytes(body, []byte("id"))
	body = AppendInt(AppendInt(body, 1), 1) // global table, one column
	body = AppendString(AppendString(AppendString(body, "ks"), "t"), "c")
	body = append(body, bytes.Repeat([]byte{0, typeList}, 1<<20)...)
	if _, err := ParsePrepared(body, V3); err == nil {
		t.Error("a million nested lists were read")
	}
}

func TestSetKeyspaceReadsTheName(t *testing.T) {
	body := encode(t, V4, 0, &message.SetKeyspaceResult{Keyspace: `My"Ks`}).Body()
	if got, err := SetKeyspace(body); err != nil || got != `My"Ks` {
		t.Errorf("%q, error %v", got, err)
	}
	if _, err := SetKeyspace(encode(t, V4, 0, &message.VoidResult{}).Body()); err == nil {
		t.Error("a void result has a keyspace")
	}
}

func TestAppendErrorWritesTheBodyOfEachCode(t *testing.T) {
	const text = "it did not work: é"
	cl := primitive.ConsistencyLevelLocalQuorum
	reasons := []FailureReason{{netip.MustParseAddr("10.0.0.1"), 1}, {netip.MustParseAddr("::1"), 2}, {netip.MustParseAddr("::ffff:10.0.0.2"), 0}}
	oracleReasons := []*primitive.FailureReason{
		{Endpoint: net.IPv4(10, 0, 0, 1).To4(), Code: 1}, {Endpoint: net.IPv6loopback, Code: 2}, {Endpoint: net.IPv4(10, 0, 0, 2).To4(), Code: 0}}
	whole := ErrorBody{Message: text, Consistency: LocalQuorum, Received: 1, Required: 2, NumFailures: 3, WriteType: WriteTypeBatch, DataPresent: true,
		Reasons: reasons, ID: []byte("id"), Keyspace: "ks", Table: "t", Function: "f", ArgumentTypes: []string{"int", "text"}, Contentions: 4}
	eachVersion(t, func(t *testing.T, v Version) {
		cas := &message.WriteTimeout{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, WriteType: primitive.WriteTypeCas}
		if v == V5 {
			cas.Contentions = 4
		}
		readFailure := &message.ReadFailure{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, DataPresent: true}
		writeFailure := &message.WriteFailure{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, WriteType: primitive.WriteTypeBatch}
		if v == V4 {
			readFailure.NumFailures, writeFailure.NumFailures = 3, 3
		} else {
			readFailure.FailureReasons, writeFailure.FailureReasons = oracleReasons, oracleReasons
		}
		readTimeout := &message.ReadTimeout{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, DataPresent: true}
		writeTimeout := &message.WriteTimeout{ErrorMessage: text, Consistency: cl, Received: 1, BlockFor: 2, WriteType: primitive.WriteTypeBatch}
		cases := map[ErrorCode]message.Message{
			ErrServer:          &message.ServerError{ErrorMessage: text},
			ErrProtocol:        &message.ProtocolError{ErrorMessage: text},
			ErrBadCredentials:  &message.AuthenticationError{ErrorMessage: text},
			ErrUnavailable:     &message.Unavailable{ErrorMessage: text, Consistency: cl, Required: 2, Alive: 1},
			ErrOverloaded:      &message.Overloaded{ErrorMessage: text},
			ErrIsBootstrapping: &message.IsBootstrapping{ErrorMessage: text},
			ErrTruncate:        &message.TruncateError{ErrorMessage: text},
			ErrWriteTimeout:    writeTimeout,
			ErrReadTimeout:     readTimeout,
			ErrReadFailure:     readFailure,
			ErrWriteFailure:    writeFailure,
			ErrFunctionFailure: &message.FunctionFailure{ErrorMessage: text, Keyspace: "ks", Function: "f", Arguments: []string{"int", "text"}},
			ErrSyntax:          &message.SyntaxError{ErrorMessage: text},
			ErrUnauthorized:    &message.Unauthorized{ErrorMessage: text},
			ErrInvalid:         &message.Invalid{ErrorMessage: text},
			ErrConfig:          &message.ConfigError{ErrorMessage: text},
			ErrAlreadyExists:   &message.AlreadyExists{ErrorMessage: text, Keyspace: "ks", Table: "t"},
			ErrUnprepared:      &message.Unprepared{ErrorMessage: text, Id: []byte("id")},
			ErrCASWriteUnknown: cas,
		}
		if v == V3 {
			cases[ErrReadFailure], cases[ErrWriteFailure] = readTimeout, writeTimeout
			cases[ErrFunctionFailure] = &message.Invalid{ErrorMessage: text}
			cases[ErrCDCWriteFailure] = &message.Invalid{ErrorMessage: text}
		}
		if v == V5 {
			delete(cases, ErrCASWriteUnknown) // not known to the oracle
		}
		for code, want := range cases {
			e := whole
			e.Code = code
			f := Frame(AppendError([]byte("before"), v, -3, e))[len("before"):]
			got := decode(t, f)
			if diff := cmp.Diff(want, got.Body.Message); diff != "" || got.Header.StreamId != -3 || got.Header.Version != primitive.ProtocolVersion(v) {
				t.Errorf("%v: (-want +got)\n%s", code, diff)
			}
			// And back with our own view.
			back, err := ParseError(f.Body(), v)
			if err != nil || string(back.Message) != text || back.Code != ErrorCode(want.(message.Error).GetErrorCode()) {
				t.Errorf("%v: read back as %v %q, error %v", code, back.Code, back.Message, err)
			}
			if id := UnpreparedID(back.Tail); code == ErrUnprepared && string(id) != "id" {
				t.Errorf("id %q", id)
			}
		}
		e := whole
		e.Code, e.WriteType = ErrWriteTimeout, WriteTypeCAS
		if diff := cmp.Diff(message.Message(cas), decode(t, AppendError(nil, v, 0, e)).Body.Message); diff != "" {
			t.Errorf("CAS timeout: (-want +got)\n%s", diff)
		}
	})
	f := Frame(AppendError(nil, V5, 0, ErrorBody{Code: ErrCASWriteUnknown, Message: "m", Consistency: Serial, Received: 1, Required: 2}))
	if want := "\x00\x00\x17\x00\x00\x01m\x00\x08\x00\x00\x00\x01\x00\x00\x00\x02"; string(f.Body()) != want {
		t.Errorf("CAS_WRITE_UNKNOWN: got %q, want %q", f.Body(), want)
	}
	f = AppendError(nil, V4, 0, ErrorBody{Code: ErrWriteTimeout, Message: "m"})
	if got := decode(t, f).Body.Message.(*message.WriteTimeout).WriteType; got != primitive.WriteTypeSimple {
		t.Errorf("a write type that is not set is told as %q", got)
	}
}

func TestALongMessageIsCutBetweenCharacters(t *testing.T) {
	f := Frame(AppendError(nil, V4, 0, ErrorBody{Message: "x" + strings.Repeat("é", 40000)}))
	got := decode(t, f).Body.Message.(*message.ServerError).ErrorMessage
	if want := "x" + strings.Repeat("é", 32767); got != want {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
}

func TestErrorsAndEnumsReadWell(t *testing.T) {
	for got, want := range map[string]string{
		(&LimitError{Limit: 268435456, Got: 300000000}).Error(): "frame body 300000000 bytes exceeds limit 268435456",
		(&VersionError{Got: 2}).Error():                         "protocol version 2 is not known",
		(&MalformedError{What: "page size", Offset: 9}).Error(): "malformed page size at byte 9 of the body",
		V4.String(): "v4", DSE2.String(): "DSE_V2", OpDSERevise.String(): "REVISE_REQUEST", OpAuthSuccess.String(): "AUTH_SUCCESS",
		Opcode(4).String(): "opcode 0x04", LocalOne.String(): "LOCAL_ONE", Consistency(99).String(): "UNKNOWN",
		BatchCounter.String(): "COUNTER", BatchType(9).String(): "UNKNOWN", ErrUnprepared.String(): "UNPREPARED", ErrorCode(1).String(): "error 0x0001",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
