package frame

// Consistency is a consistency level.
type Consistency uint16

// The consistency levels (section 3 of the specification).
const (
	Any         Consistency = 0x00
	One         Consistency = 0x01
	Two         Consistency = 0x02
	Three       Consistency = 0x03
	Quorum      Consistency = 0x04
	All         Consistency = 0x05
	LocalQuorum Consistency = 0x06
	EachQuorum  Consistency = 0x07
	Serial      Consistency = 0x08
	LocalSerial Consistency = 0x09
	LocalOne    Consistency = 0x0A
)

var consistencyNames = [...]string{"ANY", "ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_QUORUM",
	"EACH_QUORUM", "SERIAL", "LOCAL_SERIAL", "LOCAL_ONE"}

func (c Consistency) String() string {
	if int(c) < len(consistencyNames) {
		return consistencyNames[c]
	}
	return "UNKNOWN"
}

// The flags of QUERY, EXECUTE and BATCH: a [byte] in v3 and v4, an [int] in v5
// and DSE. A flag that a version does not have is not acted on.
const (
	QueryValues            uint32 = 0x01
	QuerySkipMetadata      uint32 = 0x02
	QueryPageSize          uint32 = 0x04
	QueryPagingState       uint32 = 0x08
	QuerySerialConsistency uint32 = 0x10
	QueryDefaultTimestamp  uint32 = 0x20
	QueryValueNames        uint32 = 0x40
	QueryKeyspace          uint32 = 0x80       // v5, DSE_V2
	QueryNowInSeconds      uint32 = 0x100      // v5
	QueryPageSizeBytes     uint32 = 0x40000000 // DSE
	QueryContinuousPaging  uint32 = 0x80000000 // DSE
)

// SplitRequest reads over the custom payload in front of a request's body. It
// returns the body proper and where it begins in f, which is to be added to the
// offsets that the views tell.
func SplitRequest(f Frame) (body []byte, offset int, err error) {
	flags := f.Flags()
	if flags&FlagCompressed != 0 {
		return nil, 0, &MalformedError{What: "compressed body"}
	}
	c := NewCursor(f.Body())
	if flags&FlagCustomPayload != 0 {
		c.SkipBytesMap("custom payload")
	}
	return c.Rest(), HeaderLen + c.Offset(), c.Err()
}

// Query is the body of a QUERY: <query><params>.
type Query struct {
	Text   []byte
	Params Params
}

// ParseQuery reads the body of a QUERY.
func ParseQuery(body []byte, v Version) (q Query, err error) {
	c := NewCursor(body)
	q.Text = c.LongString("query text")
	q.Params.read(&c, v)
	return q, c.Err()
}

// Execute is the body of an EXECUTE: <id>[<result_metadata_id>]<params>, the
// second in v5 and DSE_V2 only.
type Execute struct {
	ID               []byte
	IDOffset         int // in the body, of the first byte of ID
	ResultMetadataID []byte
	// ResultMetadataIDOffset is that of its first byte; 0 if the version has none.
	ResultMetadataIDOffset int
	Params                 Params
}

// ParseExecute reads the body of an EXECUTE.
func ParseExecute(body []byte, v Version) (e Execute, err error) {
	c := NewCursor(body)
	e.ID = c.ShortBytes("prepared id")
	e.IDOffset = c.Offset() - len(e.ID)
	if v.hasResultMetadataID() {
		e.ResultMetadataID = c.ShortBytes("result metadata id")
		e.ResultMetadataIDOffset = c.Offset() - len(e.ResultMetadataID)
	}
	e.Params.read(&c, v)
	return e, c.Err()
}

// Prepare is the body of a PREPARE: <query>[<flags>[<keyspace>]], flags in v5
// and DSE_V2 only.
type Prepare struct {
	Text     []byte
	Keyspace []byte // nil: none given
}

const prepareKeyspace = 0x01

// AppendPlainQuery appends the body of a QUERY at consistency ONE without any
// parameter.
func AppendPlainQuery(dst []byte, v Version, text string) []byte {
	dst = AppendLongString(dst, text)
	dst = AppendShort(dst, uint16(One))
	if v.hasIntFlags() {
		return AppendInt(dst, 0)
	}
	return append(dst, 0)
}

// AppendPrepare appends the body of a PREPARE. A version that cannot name a
// keyspace prepares in that of the connection.
func AppendPrepare(dst []byte, v Version, text, keyspace string) []byte {
	dst = AppendLongString(dst, text)
	switch {
	case !v.hasPrepareFlags():
	case keyspace == "":
		dst = AppendInt(dst, 0)
	default:
		dst = AppendInt(dst, prepareKeyspace)
		dst = AppendString(dst, keyspace)
	}
	return dst
}

// ParsePrepare reads the body of a PREPARE.
func ParsePrepare(body []byte, v Version) (p Prepare, err error) {
	c := NewCursor(body)
	p.Text = c.LongString("query text")
	if v.hasPrepareFlags() && c.Int("prepare flags")&prepareKeyspace != 0 {
		p.Keyspace = c.String("keyspace")
	}
	return p, c.Err()
}

// Params are the query parameters of QUERY and EXECUTE, and of BATCH as far as
// it has them:
//
//	<consistency><flags>[<n>[name_1]<value_1>...][<page_size>][<paging_state>]
//	[<serial_consistency>][<timestamp>][<keyspace>][<now_in_seconds>]
//
// Offsets are in the body; those of what is not there are 0.
type Params struct {
	Consistency          Consistency
	SerialConsistency    Consistency
	HasSerialConsistency bool
	HasTimestamp         bool
	HasNowInSeconds      bool

	Flags    uint32
	PageSize int32 // 0: none given

	Timestamp    int64 // microseconds
	NowInSeconds int32

	PagingState []byte
	Keyspace    []byte // nil: none given

	ConsistencyOffset int
	// FlagsOffset is that of the byte with the eight lowest flags, which is the
	// last of the four in v5 and DSE.
	FlagsOffset int
	// PagingStateOffset is that of the [int] length in front of it.
	PagingStateOffset int
	// TimestampOffset is that of its [long], or of where one would be.
	TimestampOffset int
	// ValuesOffset is that of the first value, or of its name. Values reads them.
	ValuesOffset int
	ValuesCount  int
}

// AppendStamped appends a QUERY, EXECUTE or BATCH that has no timestamp with one. p
// was parsed from the body that begins at at. Offsets up to that of the timestamp
// stay as they were.
func (p *Params) AppendStamped(dst []byte, f Frame, at int, micros int64) Frame {
	from := len(dst)
	dst = append(dst, f[:at+p.TimestampOffset]...)
	dst = AppendLong(dst, micros)
	dst = append(dst, f[at+p.TimestampOffset:]...)
	out := dst[from:]
	out[at+p.FlagsOffset] |= byte(QueryDefaultTimestamp)
	PutLength(out)
	return dst
}

func (p *Params) read(c *Cursor, v Version) {
	p.ConsistencyOffset = c.Offset()
	p.Consistency = Consistency(c.Short("consistency"))
	p.readFlags(c, v)
	flags := p.Flags
	if flags&QueryValues != 0 {
		p.ValuesCount = int(c.Short("number of values"))
		p.ValuesOffset = c.Offset()
		named := flags&QueryValueNames != 0
		for n := p.ValuesCount; n > 0 && !c.Failed(); n-- {
			if named {
				c.String("name of a value")
			}
			c.Bytes("value")
		}
	}
	if flags&QueryPageSize != 0 {
		p.PageSize = c.Int("page size")
	}
	if flags&QueryPagingState != 0 {
		p.PagingStateOffset = c.Offset()
		p.PagingState = c.Bytes("paging state")
	}
	p.readCommon(c, v)
	if flags&QueryContinuousPaging != 0 && v.isDSE() {
		c.Int("continuous paging options")
		c.Int("continuous paging options")
		if v == DSE2 {
			c.Int("continuous paging options")
		}
	}
}

func (p *Params) readFlags(c *Cursor, v Version) {
	p.FlagsOffset = c.Offset()
	if v.hasIntFlags() {
		p.FlagsOffset += 3
		p.Flags = uint32(c.Int("query flags"))
	} else {
		p.Flags = uint32(c.Byte("query flags"))
	}
}

// readCommon reads the end, which BATCH has too.
func (p *Params) readCommon(c *Cursor, v Version) {
	flags := p.Flags
	if flags&QuerySerialConsistency != 0 {
		p.HasSerialConsistency = true
		p.SerialConsistency = Consistency(c.Short("serial consistency"))
	}
	p.TimestampOffset = c.Offset()
	if flags&QueryDefaultTimestamp != 0 {
		p.HasTimestamp = true
		p.Timestamp = c.Long("timestamp")
	}
	if flags&QueryKeyspace != 0 && v.hasKeyspace() {
		p.Keyspace = c.String("keyspace")
	}
	if flags&QueryNowInSeconds != 0 && v == V5 {
		p.HasNowInSeconds = true
		p.NowInSeconds = c.Int("now in seconds")
	}
}

// Values iterates over the bound values of the body that p was read from.
func (p *Params) Values(body []byte) Values {
	if p.ValuesCount == 0 || p.ValuesOffset > len(body) {
		return Values{}
	}
	c := NewCursor(body)
	c.off = p.ValuesOffset
	return Values{c: c, left: p.ValuesCount, named: p.Flags&QueryValueNames != 0}
}

// Values is an iterator over bound values.
type Values struct {
	Name  []byte // nil if the values have no names
	Value []byte // nil: null or unset
	Unset bool

	c     Cursor
	left  int
	named bool
}

// Next goes to the next value, and reports whether there is one.
func (i *Values) Next() bool {
	if i.left == 0 {
		return false
	}
	i.left--
	if i.named {
		i.Name = i.c.String("name of a value")
	}
	at := i.c.Offset()
	i.Value = i.c.Bytes("value")
	i.Unset = i.Value == nil && !i.c.Failed() && i.c.b[at+3] == 0xFE // -2
	return !i.c.Failed()
}
