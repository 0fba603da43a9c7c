package virtual

import (
	"bytes"
	"crypto/md5" //nolint:gosec // Cassandra's prepared ids are made with it.
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/datastax/go-cassandra-native-protocol/datatype"
	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// Values are the bound values of a request; the zero value is none.
type Values struct {
	cells []cell
	// names is parallel to cells if the values were sent by name.
	names []string
}

type cell struct {
	bytes []byte // nil for null
	unset bool
}

// ReadValues decodes count values as they stand in a QUERY or EXECUTE body:
// [value], or [string][value] if named. The values point into raw.
func ReadValues(raw []byte, count int, named bool, v frame.Version) (Values, error) {
	in := frame.NewCursor(raw)
	var out Values
	for range count {
		if named {
			out.names = append(out.names, string(in.String("name of a value")))
		}
		var c cell
		n := in.Int("value")
		if n >= 0 {
			c.bytes = in.Take(int(n), "value")
		}
		c.unset = n == -2 && v >= frame.V4
		if err := in.Err(); err != nil {
			return Values{}, err
		}
		out.cells = append(out.cells, c)
	}
	return out, nil
}

// BoundValues reads the values of a QUERY or EXECUTE with that body.
func BoundValues(body []byte, params frame.Params, v frame.Version) (Values, error) {
	if params.ValuesCount == 0 {
		return Values{}, nil
	}
	if params.ValuesOffset > len(body) {
		return Values{}, fmt.Errorf("values begin at %d of %d bytes", params.ValuesOffset, len(body))
	}
	return ReadValues(body[params.ValuesOffset:], params.ValuesCount, params.Flags&frame.QueryValueNames != 0, v)
}

// Prepared is what a PREPARE answered. It outlives the Tables that made it.
type Prepared struct {
	// ID is the MD5 of the statement and the keyspace, so every proxy gives the
	// same.
	ID [16]byte
	// Select is the statement.
	Select *Select
	// metadata is the digest of the result columns that the client was told.
	metadata [16]byte
}

// Query answers a QUERY: the body of a RESULT, or the error.
func (t *Tables) Query(s *Select, values Values, v frame.Version) ([]byte, *frame.ErrorBody) {
	plan, problem := t.plan(s)
	if problem != nil {
		return nil, problem
	}
	return plan.answer(values, false, nil, v)
}

// Prepare answers a PREPARE of text under a session keyspace ("" for none).
func (t *Tables) Prepare(s *Select, text, keyspace string, v frame.Version) (*Prepared, []byte, *frame.ErrorBody) {
	plan, problem := t.plan(s)
	if problem != nil {
		return nil, nil, problem
	}
	p := &Prepared{ID: md5.Sum([]byte(text + keyspace)), Select: s, metadata: plan.digest()} //nolint:gosec // see the import
	bound := &message.VariablesMetadata{Columns: plan.variables()}
	for i, m := range s.markers {
		// The routing key, if it is one value.
		if m.column == plan.table.key && m.equal && bound.PkIndices == nil {
			bound.PkIndices = []uint16{uint16(i)}
		}
	}
	return p, encode(v, &message.PreparedResult{
		PreparedQueryId:   p.ID[:],
		ResultMetadataId:  p.metadata[:],
		VariablesMetadata: bound,
		ResultMetadata:    &message.RowsMetadata{ColumnCount: int32(len(plan.result)), Columns: plan.result},
	}), nil
}

// Execute answers an EXECUTE. The client's wish to skip the metadata is met
// only while they are what it was told: those of the id known, or in a version
// without such ids those of Prepare.
func (t *Tables) Execute(p *Prepared, known []byte, values Values, skipMetadata bool, v frame.Version) ([]byte, *frame.ErrorBody) {
	plan, problem := t.plan(p.Select)
	if problem != nil {
		return nil, problem
	}
	var changed []byte
	digest := plan.digest()
	if primitive.ProtocolVersion(v).SupportsResultMetadataId() {
		if !bytes.Equal(known, digest[:]) {
			skipMetadata, changed = false, digest[:]
		}
	} else if digest != p.metadata {
		skipMetadata = false
	}
	return plan.answer(values, skipMetadata, changed, v)
}

// plan is a statement whose names were found in a table.
type plan struct {
	*Select
	table *table
	// columns are those selected; result is the same, or the one of JSON.
	columns, result []*message.ColumnMetadata
	values          []evaluation // of each column
	// where is the table's column of each relation.
	where []int
}

// plan checks the names of a statement.
func (t *Tables) plan(s *Select) (*plan, *frame.ErrorBody) {
	p := &plan{Select: s, table: &t.local}
	if s.table == "peers" {
		p.table = &t.peers
	}
	selectors := s.selectors
	if s.star {
		for _, c := range p.table.columns {
			selectors = append(selectors, selector{expression: expression{column: c.Name}})
		}
	}
	for _, sel := range selectors {
		value, problem := t.evaluate(sel.expression, p.table)
		if problem != nil {
			return nil, problem
		}
		name := value.name
		if sel.alias != "" {
			name = sel.alias
		}
		p.values = append(p.values, value)
		p.columns = append(p.columns, &message.ColumnMetadata{
			Keyspace: "system", Table: p.table.name, Name: name, Index: int32(len(p.columns)), Type: value.kind,
		})
	}
	for _, r := range s.relations {
		i, problem := p.table.find(r.column)
		if problem != nil {
			return nil, problem
		}
		p.where = append(p.where, i)
	}
	if problem := p.check(); problem != nil {
		return nil, problem
	}
	p.result = p.columns
	if p.json {
		p.result = []*message.ColumnMetadata{{Keyspace: "system", Table: p.table.name, Name: "[json]", Type: datatype.Varchar}}
	}
	return p, nil
}

func (t *table) find(column string) (int, *frame.ErrorBody) {
	i := slices.IndexFunc(t.columns, func(c *message.ColumnMetadata) bool { return c.Name == column })
	if i < 0 {
		return 0, invalid("Undefined column name %s in table system.%s", quoteName(column), t.name)
	}
	return i, nil
}

// check refuses what the real table refuses too.
func (p *plan) check() *frame.ErrorBody {
	if p.distinct {
		for i, v := range p.values {
			if v.over != nil || slices.ContainsFunc(v.columns, func(name string) bool { return name != p.table.key }) {
				return invalid("SELECT DISTINCT queries must only request partition key columns and/or static columns (not %s)", p.columns[i].Name)
			}
		}
	}
	for _, r := range p.relations {
		if r.column != p.table.key && !p.filtering {
			return invalid("Cannot execute this query as it might involve data filtering and thus may have unpredictable performance. If you want to execute this query despite the performance unpredictability, use ALLOW FILTERING")
		}
	}
	return nil
}

// digest identifies the result columns.
func (p *plan) digest() [16]byte {
	var text []byte
	for _, c := range p.result {
		text = fmt.Appendf(text, "%s.%s %q %s\n", c.Keyspace, c.Table, c.Name, c.Type.AsCql())
	}
	return md5.Sum(text) //nolint:gosec // an identity, not a secret
}

// variables describes the bind markers.
func (p *plan) variables() []*message.ColumnMetadata {
	columns := []*message.ColumnMetadata{}
	for _, m := range p.markers {
		c := &message.ColumnMetadata{Keyspace: "system", Table: p.table.name, Name: m.name, Type: datatype.Int}
		if m.column != "" {
			i, _ := p.table.find(m.column)
			c.Type = p.table.columns[i].Type
			if m.list {
				c.Type = datatype.NewList(c.Type)
			}
		}
		columns = append(columns, c)
	}
	return columns
}

// answer renders the rows that match.
func (p *plan) answer(values Values, skipMetadata bool, changed []byte, v frame.Version) ([]byte, *frame.ErrorBody) {
	bound, problem := p.bind(values)
	if problem != nil {
		return nil, problem
	}
	limit := -1
	if p.limit != nil {
		if limit, problem = p.limitOf(bound); problem != nil {
			return nil, problem
		}
	}
	// wanted holds, for each relation, the values that it takes.
	wanted := make([][][]byte, len(p.relations))
	for i, r := range p.relations {
		if wanted[i], problem = p.wanted(r, p.table.columns[p.where[i]], bound); problem != nil {
			return nil, problem
		}
	}
	var rows []message.Row
	for _, row := range p.table.rows {
		matches := true
		for i := range wanted {
			have := row[p.where[i]]
			matches = matches && have != nil && slices.ContainsFunc(wanted[i], func(w []byte) bool { return bytes.Equal(w, have) })
		}
		if matches {
			rows = append(rows, row)
		}
	}
	result := &message.RowsResult{
		Metadata: &message.RowsMetadata{ColumnCount: int32(len(p.result)), Columns: p.result, NewResultMetadataId: changed},
		Data:     message.RowSet{},
	}
	if skipMetadata {
		result.Metadata.Columns = nil
	}
	if slices.ContainsFunc(p.values, func(v evaluation) bool { return v.over != nil }) {
		result.Data = append(result.Data, p.aggregate(rows))
	} else {
		for _, row := range rows {
			out := make(message.Row, len(p.values))
			for i, v := range p.values {
				out[i] = v.of(row)
			}
			result.Data = append(result.Data, out)
		}
	}
	if p.json {
		for i, row := range result.Data {
			result.Data[i] = message.Row{jsonObject(p.columns, row)}
		}
	}
	if limit >= 0 && len(result.Data) > limit {
		result.Data = result.Data[:limit]
	}
	return encode(v, result), nil
}

// aggregate makes the one row of a statement with an aggregate. What is none
// has the value of the first row.
func (p *plan) aggregate(rows []message.Row) message.Row {
	out := make(message.Row, len(p.values))
	for i, v := range p.values {
		if v.over != nil {
			out[i] = v.over(rows)
		} else if len(rows) > 0 {
			out[i] = v.of(rows[0])
		}
	}
	return out
}

// bind orders the values as the markers stand.
func (p *plan) bind(values Values) ([]cell, *frame.ErrorBody) {
	if values.names == nil {
		if len(values.cells) != len(p.markers) {
			return nil, invalid("there were %d markers(?) in CQL but %d bound variables", len(p.markers), len(values.cells))
		}
		return values.cells, nil
	}
	bound := make([]cell, len(p.markers))
	for i, m := range p.markers {
		at := slices.Index(values.names, m.name)
		if at < 0 {
			return nil, invalid("Invalid unset value for %s", m.name)
		}
		bound[i] = values.cells[at]
	}
	return bound, nil
}

func (p *plan) limitOf(bound []cell) (int, *frame.ErrorBody) {
	var n int64
	if p.limit.kind == tokMarker {
		c := bound[p.limit.marker]
		switch {
		case c.unset:
			return -1, nil
		case c.bytes == nil:
			return 0, invalid("Invalid null value of LIMIT")
		case len(c.bytes) != 4:
			return 0, invalid("Invalid 32-bits integer value of LIMIT: %d bytes", len(c.bytes))
		}
		n = int64(int32(binary.BigEndian.Uint32(c.bytes)))
	} else {
		var err error
		if n, err = strconv.ParseInt(p.limit.text, 10, 32); err != nil || p.limit.kind != tokNumber {
			return 0, invalid("Invalid value of LIMIT: %s", p.limit.text)
		}
	}
	if n <= 0 {
		return 0, invalid("LIMIT must be strictly positive")
	}
	return int(n), nil
}

// wanted evaluates the right side of a relation on a column.
func (p *plan) wanted(r relation, c *message.ColumnMetadata, bound []cell) ([][]byte, *frame.ErrorBody) {
	var out [][]byte
	for _, t := range r.terms {
		if t.kind != tokMarker {
			value, problem := literal(t, c)
			if problem != nil {
				return nil, problem
			}
			out = append(out, value)
			continue
		}
		switch value := bound[t.marker]; {
		case value.unset:
			return nil, invalid("Invalid unset value for column %s", c.Name)
		case value.bytes == nil:
			return nil, invalid("Invalid null value in condition for column %s", c.Name)
		case r.whole:
			elements, ok := listOf(value.bytes, 1)
			if !ok {
				return nil, invalid("Invalid list of values for column %s", c.Name)
			}
			out = append(out, elements...)
		default:
			out = append(out, value.bytes)
		}
	}
	return out, nil
}

// literal encodes a constant as a value of a column's type.
func literal(t term, c *message.ColumnMetadata) ([]byte, *frame.ErrorBody) {
	switch kind := c.Type.Code(); {
	case isText(kind) && t.kind == tokString:
		return []byte(t.text), nil
	case kind == datatype.Inet.Code() && t.kind == tokString:
		if addr, err := netip.ParseAddr(t.text); err == nil {
			return addr.Unmap().AsSlice(), nil
		}
		return nil, invalid("Unable to make inet address from '%s'", t.text)
	case isUUID(kind) && t.kind == tokUUID:
		if id, err := primitive.ParseUuid(t.text); err == nil {
			return id.Bytes(), nil
		}
	case kind == datatype.Int.Code() && t.kind == tokNumber:
		if n, err := strconv.ParseInt(t.text, 10, 32); err == nil {
			return binary.BigEndian.AppendUint32(nil, uint32(n)), nil
		}
	case kind == datatype.Bigint.Code() && t.kind == tokNumber:
		if n, err := strconv.ParseInt(t.text, 10, 64); err == nil {
			return binary.BigEndian.AppendUint64(nil, uint64(n)), nil
		}
	case kind == datatype.Boolean.Code() && t.kind == tokWord:
		if t.text == "true" {
			return []byte{1}, nil
		}
		return []byte{0}, nil
	}
	constant := map[tokenKind]string{tokString: "STRING", tokNumber: "INTEGER", tokUUID: "UUID", tokWord: "BOOLEAN"}[t.kind]
	return nil, invalid("Invalid %s constant (%s) for \"%s\" of type %s", constant, t.text, c.Name, typeName(c.Type))
}

func isText(kind primitive.DataTypeCode) bool {
	return kind == primitive.DataTypeCodeVarchar || kind == primitive.DataTypeCodeAscii
}

func isUUID(kind primitive.DataTypeCode) bool {
	return kind == primitive.DataTypeCodeUuid || kind == primitive.DataTypeCodeTimeuuid
}

// typeName is a type as CQL calls it.
func typeName(kind datatype.DataType) string {
	return strings.ReplaceAll(kind.AsCql(), "varchar", "text")
}

// quoteName writes a name as it must be written in CQL.
func quoteName(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

var plainName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// listOf splits a collection: [int] n, then n times as many [bytes] as an entry
// has: one in a list or set, two in a map.
func listOf(value []byte, per int) ([][]byte, bool) {
	in := frame.NewCursor(value)
	var out [][]byte
	for n := int64(in.Int("collection")) * int64(per); n > 0; n-- {
		element := in.Bytes("element")
		if element == nil || in.Failed() {
			return nil, false
		}
		out = append(out, element)
	}
	return out, !in.Failed()
}

// encode renders the body of a RESULT. It cannot fail: every field was made
// here.
func encode(v frame.Version, m message.Message) []byte {
	raw, err := gcnp.NewRawCodec().ConvertToRawFrame(gcnp.NewFrame(primitive.ProtocolVersion(v), 0, m))
	if err != nil {
		panic("virtual: " + err.Error())
	}
	return raw.Body
}
