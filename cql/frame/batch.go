package frame

// BatchType is the type of a BATCH.
type BatchType byte

// The batch types.
const (
	BatchLogged   BatchType = 0
	BatchUnlogged BatchType = 1
	BatchCounter  BatchType = 2
)

func (t BatchType) String() string {
	switch t {
	case BatchLogged:
		return "LOGGED"
	case BatchUnlogged:
		return "UNLOGGED"
	case BatchCounter:
		return "COUNTER"
	}
	return "UNKNOWN"
}

// Batch is the body of a BATCH:
//
//	<type><n><child_1>...<child_n><consistency><flags>[<serial_consistency>]
//	[<timestamp>][<keyspace>][<now_in_seconds>]
//
// where a child is <kind><text or id><n><value_1>...<value_n>. Params has no
// values and no paging.
type Batch struct {
	Type   BatchType
	Count  int // of children
	Params Params

	children []byte // the body up to the end of the last child
}

// batchChildren is where the first child begins: after <type><n>.
const batchChildren = 3

// ParseBatch reads the whole body of a BATCH.
func ParseBatch(body []byte, v Version) (b Batch, err error) {
	c := NewCursor(body)
	b.Type = BatchType(c.Byte("batch type"))
	b.Count = int(c.Short("number of batch children"))
	var child BatchChild
	for n := b.Count; n > 0 && !c.Failed(); n-- {
		child.read(&c)
	}
	b.children = body[:c.Offset()]
	p := &b.Params
	p.ConsistencyOffset = c.Offset()
	p.Consistency = Consistency(c.Short("consistency"))
	p.readFlags(&c, v)
	p.readCommon(&c, v)
	return b, c.Err()
}

// BatchChild is one statement of a BATCH. Offsets are in the body.
type BatchChild struct {
	Prepared bool
	Text     []byte // if not Prepared
	ID       []byte // if Prepared
	IDOffset int    // of the first byte of ID; 0 if not Prepared
	// ValuesOffset is that of the first value; values in a BATCH have no names.
	ValuesOffset int
	ValuesCount  int
}

func (b *BatchChild) read(c *Cursor) {
	at := c.Offset()
	switch kind := c.Byte("kind of a batch child"); kind {
	case 0:
		*b = BatchChild{Text: c.LongString("text of a batch child")}
	case 1:
		*b = BatchChild{Prepared: true, ID: c.ShortBytes("id of a batch child")}
		b.IDOffset = c.Offset() - len(b.ID)
	default:
		c.fail("kind of a batch child", at)
	}
	b.ValuesCount = int(c.Short("number of values"))
	b.ValuesOffset = c.Offset()
	for n := b.ValuesCount; n > 0 && !c.Failed(); n-- {
		c.Bytes("value")
	}
}

// BatchChildren iterates over the children of a BATCH.
type BatchChildren struct {
	BatchChild

	c    Cursor
	left int
}

// Children returns an iterator over the children. It does not allocate.
func (b *Batch) Children() BatchChildren {
	it := BatchChildren{c: NewCursor(b.children), left: b.Count}
	if len(b.children) < batchChildren {
		it.left = 0
		return it
	}
	it.c.off = batchChildren
	return it
}

// Next goes to the next child, and reports whether there is one.
func (i *BatchChildren) Next() bool {
	if i.left == 0 {
		return false
	}
	i.left--
	i.read(&i.c)
	return !i.c.Failed()
}

// Err returns nil for a batch that ParseBatch found well formed.
func (i *BatchChildren) Err() error { return i.c.Err() }

// Values iterates over the bound values of the child.
func (i *BatchChildren) Values() Values {
	c := NewCursor(i.c.b)
	c.off = i.ValuesOffset
	return Values{c: c, left: i.ValuesCount}
}
