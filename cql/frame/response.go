package frame

// Response is what stands in front of the body proper of a response:
// [<tracing id>][<warnings>][<custom payload>]<body>, each with its header flag.
type Response struct {
	TracingID  []byte // 16 bytes; nil: none
	Warnings   []byte // raw [string list]; nil: none
	Payload    []byte // raw [bytes map]; nil: none
	Body       []byte
	BodyOffset int // in the frame
}

// SplitResponse finds the body proper of a response.
func SplitResponse(f Frame) (r Response, err error) {
	flags := f.Flags()
	r.Body, r.BodyOffset = f.Body(), HeaderLen
	if flags&(FlagTracing|FlagWarning|FlagCustomPayload|FlagCompressed) == 0 {
		return r, nil
	}
	if flags&FlagCompressed != 0 {
		return r, &MalformedError{What: "compressed body"}
	}
	c := NewCursor(r.Body)
	if flags&FlagTracing != 0 {
		r.TracingID = c.Take(16, "tracing id")
	}
	if flags&FlagWarning != 0 {
		at := c.Offset()
		c.SkipStringList("warnings")
		r.Warnings = f.Body()[at:c.Offset()]
	}
	if flags&FlagCustomPayload != 0 {
		at := c.Offset()
		c.SkipBytesMap("custom payload")
		r.Payload = f.Body()[at:c.Offset()]
	}
	r.Body, r.BodyOffset = c.Rest(), HeaderLen+c.Offset()
	return r, c.Err()
}

// Result is the kind of a RESULT.
type Result int32

// The kinds of RESULT; 0 is none of them.
const (
	ResultVoid         Result = 1
	ResultRows         Result = 2
	ResultSetKeyspace  Result = 3
	ResultPrepared     Result = 4
	ResultSchemaChange Result = 5
)

// ResultKind returns the kind that the body of a RESULT begins with, 0 if it is
// too short or not a known one.
func ResultKind(body []byte) Result {
	c := NewCursor(body)
	if k := Result(c.Int("kind of result")); k >= ResultVoid && k <= ResultSchemaChange {
		return k
	}
	return 0
}

// The flags of the metadata of rows.
const (
	RowsGlobalTable     uint32 = 0x01
	RowsHasMorePages    uint32 = 0x02
	RowsNoMetadata      uint32 = 0x04
	RowsMetadataChanged uint32 = 0x08       // v5, DSE_V2
	RowsContinuous      uint32 = 0x40000000 // DSE
)

// Rows is the head of a RESULT of kind Rows:
//
//	<kind><flags><columns>[<paging_state>][<new_metadata_id>][<page number>]<column specs><rows>
type Rows struct {
	Flags       uint32
	ColumnCount int32
	PagingState []byte // nil: last page
	// PagingStateOffset is that of the [int] length in front of it, in the body.
	PagingStateOffset int
	NewMetadataID     []byte
	// SpecsOffset is where the column specs begin, or the rows if there are none
	// (RowsNoMetadata).
	SpecsOffset int
}

// ParseRows reads the head of a RESULT of kind Rows.
func ParseRows(body []byte) (r Rows, err error) {
	c := NewCursor(body)
	if Result(c.Int("kind of result")) != ResultRows {
		c.fail("kind of result", 0)
	}
	r.readHead(&c)
	r.SpecsOffset = c.Offset()
	return r, c.Err()
}

func (r *Rows) readHead(c *Cursor) {
	r.Flags = uint32(c.Int("metadata flags"))
	r.ColumnCount = c.Int("column count")
	if r.Flags&RowsHasMorePages != 0 {
		r.PagingStateOffset = c.Offset()
		r.PagingState = c.Bytes("paging state")
	}
	if r.Flags&RowsMetadataChanged != 0 {
		r.NewMetadataID = c.ShortBytes("new result metadata id")
	}
	if r.Flags&RowsContinuous != 0 {
		c.Int("continuous page number")
	}
}

// RowsPaging returns the paging state of the body of a RESULT, and the offset of
// the [int] length in front of it. ok is false for other kinds than Rows, for a
// last page, and for what cannot be read.
func RowsPaging(body []byte) (state []byte, lengthOffset int, ok bool) {
	if ResultKind(body) != ResultRows {
		return nil, 0, false
	}
	r, err := ParseRows(body)
	if err != nil || r.PagingState == nil {
		return nil, 0, false
	}
	return r.PagingState, r.PagingStateOffset, true
}

// SchemaChange is the body of an EVENT of kind SCHEMA_CHANGE. Its slices point
// into the body.
//
//	<"SCHEMA_CHANGE"><change><target><keyspace>[<object>...]
type SchemaChange struct {
	Change   []byte // CREATED, UPDATED, DROPPED
	Target   []byte // KEYSPACE, TABLE, TYPE; from v4 on also FUNCTION, AGGREGATE
	Keyspace []byte
	Object   []byte // nil for a keyspace
}

// ParseSchemaChange reads the body of an EVENT.
func ParseSchemaChange(body []byte) (e SchemaChange, err error) {
	c := NewCursor(body)
	if string(c.String("event type")) != "SCHEMA_CHANGE" {
		c.fail("event type", 0)
	}
	e.Change, e.Target, e.Keyspace = c.String("change"), c.String("target"), c.String("keyspace")
	if string(e.Target) != "KEYSPACE" {
		e.Object = c.String("object")
	}
	return e, c.Err()
}

// Prepared is a RESULT of kind Prepared:
//
//	<kind><id>[<result_metadata_id>]<bind metadata><result metadata>
type Prepared struct {
	ID               []byte
	IDOffset         int // in the body, of its first byte
	ResultMetadataID []byte
	// ResultMetadataIDOffset is that of its first byte; 0 if the version has none.
	ResultMetadataIDOffset int
	Variables              []byte // the bind metadata as they are
	Result                 []byte // the result metadata as they are
	Rest                   []byte // what follows; nothing, as far as known
}

// ParsePrepared reads a RESULT of kind Prepared.
func ParsePrepared(body []byte, v Version) (p Prepared, err error) {
	c := NewCursor(body)
	if Result(c.Int("kind of result")) != ResultPrepared {
		c.fail("kind of result", 0)
	}
	p.ID = c.ShortBytes("prepared id")
	p.IDOffset = c.Offset() - len(p.ID)
	if v.hasResultMetadataID() {
		p.ResultMetadataID = c.ShortBytes("result metadata id")
		p.ResultMetadataIDOffset = c.Offset() - len(p.ResultMetadataID)
	}
	at := c.Offset()
	skipVariables(&c, v)
	p.Variables = body[at:c.Offset()]
	at = c.Offset()
	skipResultMetadata(&c)
	p.Result = body[at:c.Offset()]
	p.Rest = c.Rest()
	return p, c.Err()
}

// skipVariables: <flags><columns>[<pk count><pk index>...]<column specs>, the
// indices since v4.
func skipVariables(c *Cursor, v Version) {
	flags := uint32(c.Int("metadata flags"))
	columns := c.Int("column count")
	if v != V3 {
		at := c.Offset()
		n := int64(c.Int("number of partition key indices"))
		if n < 0 || n > int64(c.Len()/2) {
			c.fail("number of partition key indices", at)
			return
		}
		c.Take(int(2*n), "partition key indices")
	}
	if columns > 0 {
		skipColumnSpecs(c, flags, columns)
	}
}

func skipResultMetadata(c *Cursor) {
	var r Rows
	r.readHead(c)
	// A statement that returns no rows has no columns and, with the flag
	// RowsNoMetadata or not, no specs.
	if r.Flags&RowsNoMetadata == 0 && r.ColumnCount > 0 {
		skipColumnSpecs(c, r.Flags, r.ColumnCount)
	}
}

func skipColumnSpecs(c *Cursor, flags uint32, columns int32) {
	global := flags&RowsGlobalTable != 0
	if global {
		c.String("keyspace of the columns")
		c.String("table of the columns")
	}
	for ; columns > 0 && !c.Failed(); columns-- {
		if !global {
			c.String("keyspace of a column")
			c.String("table of a column")
		}
		c.String("name of a column")
		skipType(c, 0)
	}
}

// maxTypeDepth bounds the nesting of a column's type, which costs stack; the
// deepest that Cassandra's own parser takes is far below.
const maxTypeDepth = 256

// The [option] ids of types that have a value.
const (
	typeCustom = 0x00
	typeList   = 0x20
	typeMap    = 0x21
	typeSet    = 0x22
	typeUDT    = 0x30
	typeTuple  = 0x31
)

func skipType(c *Cursor, depth int) {
	const what = "type of a column"
	if depth > maxTypeDepth {
		c.fail(what, c.Offset())
		return
	}
	switch c.Short(what) {
	case typeCustom:
		// Also what a stopped cursor reads: nothing more happens.
		c.String(what)
	case typeList, typeSet:
		skipType(c, depth+1)
	case typeMap:
		skipType(c, depth+1)
		skipType(c, depth+1)
	case typeUDT:
		c.String(what)
		c.String(what)
		for n := c.Short(what); n > 0 && !c.Failed(); n-- {
			c.String(what)
			skipType(c, depth+1)
		}
	case typeTuple:
		for n := c.Short(what); n > 0 && !c.Failed(); n-- {
			skipType(c, depth+1)
		}
	}
}

// SetKeyspace returns the keyspace of a RESULT of kind Set_keyspace.
func SetKeyspace(body []byte) (keyspace string, err error) {
	c := NewCursor(body)
	if Result(c.Int("kind of result")) != ResultSetKeyspace {
		c.fail("kind of result", 0)
	}
	keyspace = string(c.String("keyspace"))
	return keyspace, c.Err()
}
