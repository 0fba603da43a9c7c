package virtual

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
)

// expression is what a selector selects: a column, the call of a function, or
// the cast of another expression, a call of "cast".
type expression struct {
	column   string
	function string // in lower case; "" for a column
	all      bool   // of count(*)
	args     []expression
	to       string // the type of a cast
}

// maxDepth bounds calls within calls; toTimestamp(now()) is two.
const maxDepth = 8

// evaluation is an expression whose names and types were found.
type evaluation struct {
	name string
	kind datatype.DataType
	// columns are those of the table that it reads.
	columns []string
	// of gives the value in a row, nil for null. An aggregate has over instead,
	// which gives the value of all rows.
	of   func(message.Row) []byte
	over func([]message.Row) []byte
}

// generators are the functions without arguments.
var generators = map[string]struct {
	function scan.Functions
	kind     datatype.DataType
}{
	"now":               {scan.Now, datatype.Timeuuid},
	"currenttimeuuid":   {scan.CurrentTimeUUID, datatype.Timeuuid},
	"current_timeuuid":  {scan.CurrentTimeUUID, datatype.Timeuuid},
	"uuid":              {scan.NewUUID, datatype.Uuid},
	"currenttimestamp":  {scan.CurrentTimestamp, datatype.Timestamp},
	"current_timestamp": {scan.CurrentTimestamp, datatype.Timestamp},
	"currentdate":       {scan.CurrentDate, datatype.Date},
	"current_date":      {scan.CurrentDate, datatype.Date},
	"currenttime":       {scan.CurrentTime, datatype.Time},
	"current_time":      {scan.CurrentTime, datatype.Time},
}

// timeFunctions make another type of a time.
var timeFunctions = map[string]datatype.DataType{
	"totimestamp": datatype.Timestamp, "to_timestamp": datatype.Timestamp, "dateof": datatype.Timestamp,
	"todate": datatype.Date, "to_date": datatype.Date,
	"tounixtimestamp": datatype.Bigint, "to_unix_timestamp": datatype.Bigint, "unixtimestampof": datatype.Bigint,
}

// castTypes are the types that a cast may name here. Cassandra too refuses
// varchar.
var castTypes = map[string]datatype.DataType{
	"text": datatype.Varchar, "int": datatype.Int, "bigint": datatype.Bigint, "timestamp": datatype.Timestamp, "date": datatype.Date,
}

// evaluate finds the names and types of an expression on a table.
func (t *Tables) evaluate(e expression, on *table) (evaluation, *frame.ErrorBody) {
	if e.function == "" {
		i, problem := on.find(e.column)
		if problem != nil {
			return evaluation{}, problem
		}
		return evaluation{name: e.column, kind: on.columns[i].Type, columns: []string{e.column}, of: func(row message.Row) []byte { return row[i] }}, nil
	}
	if e.all {
		return evaluation{name: "count", kind: datatype.Bigint, over: func(rows []message.Row) []byte { return bigint(int64(len(rows))) }}, nil
	}
	if g, ok := generators[e.function]; ok && len(e.args) == 0 {
		return evaluation{name: "system." + e.function + "()", kind: g.kind, of: func(message.Row) []byte { return t.values.Value(g.function) }}, nil
	}
	if len(e.args) != 1 {
		return evaluation{}, unsupported(on.name, "the function "+e.function+" with such arguments")
	}
	arg, problem := t.evaluate(e.args[0], on)
	if problem != nil {
		return evaluation{}, problem
	}
	if arg.over != nil {
		return evaluation{}, unsupported(on.name, "the function "+e.function+" of an aggregate")
	}
	out := evaluation{name: "system." + e.function + "(" + arg.name + ")", columns: arg.columns}
	switch e.function {
	case "count":
		out.kind, out.over = datatype.Bigint, arg.count
	case "min", "max":
		order := orderOf(arg.kind)
		if order == nil {
			return evaluation{}, unsupported(on.name, "the function "+e.function+" of a "+typeName(arg.kind))
		}
		out.kind, out.over = arg.kind, arg.extreme(order, e.function == "max")
	case "token":
		if key, _ := on.find(on.key); on.columns[key].Type.Code() != arg.kind.Code() {
			return evaluation{}, unsupported(on.name, "the token of a "+typeName(arg.kind))
		}
		out.kind = datatype.Bigint
		out.of = func(row message.Row) []byte { return bigint(murmur3(arg.of(row))) }
	case "tojson", "to_json":
		out.name = "system.tojson(" + arg.name + ")"
		out.kind = datatype.Varchar
		out.of = func(row message.Row) []byte { return []byte(jsonValue(arg.kind, arg.of(row))) }
	case "ttl", "writetime":
		return e.metadata(arg, on)
	case "cast":
		return e.cast(arg, on)
	default:
		to, ok := timeFunctions[e.function]
		if ok {
			out.kind, out.of = to, convert(arg, to)
		}
		if out.of == nil {
			return evaluation{}, unsupported(on.name, "the function "+e.function+" of a "+typeName(arg.kind))
		}
	}
	return out, nil
}

// metadata evaluates ttl and writetime: null, for these rows were never written.
func (e expression) metadata(arg evaluation, on *table) (evaluation, *frame.ErrorBody) {
	column := e.args[0].column
	switch arg.kind.(type) {
	case *datatype.List, *datatype.Set, *datatype.Map:
		return evaluation{}, invalid("Cannot use selection function %s on non-frozen collection %s", e.function, column)
	}
	switch column {
	case "":
		return evaluation{}, unsupported(on.name, "the function "+e.function+" of anything but a column")
	case on.key:
		return evaluation{}, invalid("Cannot use selection function %s on PRIMARY KEY part %s", e.function, column)
	}
	out := evaluation{name: e.function + "(" + arg.name + ")", kind: datatype.Int, columns: arg.columns, of: func(message.Row) []byte { return nil }}
	if e.function == "writetime" {
		out.kind = datatype.Bigint
	}
	return out, nil
}

// cast evaluates CAST. One to the type that the value has anyway leaves no trace
// in the name, as in Cassandra.
func (e expression) cast(arg evaluation, on *table) (evaluation, *frame.ErrorBody) {
	to, ok := castTypes[e.to]
	if !ok {
		return evaluation{}, unsupported(on.name, "a cast to "+e.to)
	}
	if to.Code() == arg.kind.Code() {
		return arg, nil
	}
	out := evaluation{name: "cast(" + arg.name + " as " + e.to + ")", kind: to, columns: arg.columns, of: convert(arg, to)}
	if out.of == nil {
		return evaluation{}, unsupported(on.name, "a cast of a "+typeName(arg.kind)+" to "+e.to)
	}
	return out, nil
}

// convert gives the value as one of another type, or nil if it has none.
func convert(arg evaluation, to datatype.DataType) func(message.Row) []byte {
	from := arg.kind.Code()
	var value func([]byte) []byte
	switch {
	case to == datatype.Varchar:
		if !slices.Contains([]primitive.DataTypeCode{primitive.DataTypeCodeInt, primitive.DataTypeCodeBigint, primitive.DataTypeCodeBoolean,
			primitive.DataTypeCodeInet, primitive.DataTypeCodeUuid, primitive.DataTypeCodeTimeuuid, primitive.DataTypeCodeDate}, from) {
			return nil
		}
		value = func(cell []byte) []byte { return []byte(strings.Trim(jsonValue(arg.kind, cell), `"`)) }
	case to == datatype.Int && from == primitive.DataTypeCodeBigint:
		value = func(cell []byte) []byte { return cell[4:] }
	case to == datatype.Bigint && from == primitive.DataTypeCodeInt:
		value = func(cell []byte) []byte { return bigint(int64(int32(binary.BigEndian.Uint32(cell)))) }
	case from == primitive.DataTypeCodeTimeuuid, from == primitive.DataTypeCodeTimestamp, from == primitive.DataTypeCodeDate:
		value = func(cell []byte) []byte { return timeAs(to, timeOf(from, cell)) }
	default:
		return nil
	}
	return func(row message.Row) []byte {
		cell := arg.of(row)
		if size := sizes[from]; cell == nil || size > 0 && len(cell) != size {
			return nil
		}
		return value(cell)
	}
}

// sizes are those of the values that are read as numbers. Cassandra lets an
// empty one stand for null.
var sizes = map[primitive.DataTypeCode]int{
	primitive.DataTypeCodeInt: 4, primitive.DataTypeCodeBigint: 8, primitive.DataTypeCodeTimestamp: 8,
	primitive.DataTypeCodeDate: 4, primitive.DataTypeCodeTimeuuid: 16,
}

// dateShift is the day 0 in a date.
const dateShift = 1 << 31

// timeOf reads a timeuuid, timestamp or date.
func timeOf(kind primitive.DataTypeCode, cell []byte) time.Time {
	switch kind {
	case primitive.DataTypeCodeTimeuuid:
		ticks := int64(binary.BigEndian.Uint32(cell)) | int64(binary.BigEndian.Uint16(cell[4:]))<<32 | int64(binary.BigEndian.Uint16(cell[6:])&0x0FFF)<<48
		const gregorian = 0x01B21DD213814000 // 15 October 1582, before Unix's epoch in 100 ns
		return time.UnixMilli((ticks - gregorian) / 10_000).UTC()
	case primitive.DataTypeCodeDate:
		return time.Unix((int64(binary.BigEndian.Uint32(cell))-dateShift)*24*60*60, 0).UTC()
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(cell))).UTC()
}

// timeAs encodes a time as a date, or in milliseconds.
func timeAs(kind datatype.DataType, at time.Time) []byte {
	if kind == datatype.Date {
		return binary.BigEndian.AppendUint32(nil, uint32(at.Unix()/(24*60*60)+dateShift))
	}
	return bigint(at.UnixMilli())
}

func bigint(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// count is count(argument): of the rows where it is not null.
func (v evaluation) count(rows []message.Row) []byte {
	n := int64(0)
	for _, row := range rows {
		if v.of(row) != nil {
			n++
		}
	}
	return bigint(n)
}

// extreme is min or max of the argument; null if it is null in all rows.
func (v evaluation) extreme(order func(a, b []byte) int, greatest bool) func([]message.Row) []byte {
	return func(rows []message.Row) []byte {
		var best []byte
		for _, row := range rows {
			if cell := v.of(row); len(cell) > 0 && (best == nil || (order(cell, best) > 0) == greatest) {
				best = cell
			}
		}
		return best
	}
}

// orderOf compares values of a type as Cassandra does; nil for types whose
// order is more than that of numbers or bytes.
func orderOf(kind datatype.DataType) func(a, b []byte) int {
	switch kind.Code() {
	case primitive.DataTypeCodeInt, primitive.DataTypeCodeBigint, primitive.DataTypeCodeTimestamp:
		// Two's complement of the same length: only the sign is the wrong way round.
		return func(a, b []byte) int {
			if a[0]&0x80 != b[0]&0x80 {
				return -bytes.Compare(a, b)
			}
			return bytes.Compare(a, b)
		}
	case primitive.DataTypeCodeVarchar, primitive.DataTypeCodeInet, primitive.DataTypeCodeDate:
		return bytes.Compare
	}
	return nil
}
