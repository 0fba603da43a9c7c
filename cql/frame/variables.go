package frame

// Variables are the bind metadata of a PREPARED answer:
//
//	<flags><columns>[<pk count><pk index>...][<keyspace><table>]<column specs>
//
// with the indices since v4, and keyspace and table in front of the specs if the
// flag RowsGlobalTable is set and there are columns.
type Variables struct {
	Flags   uint32
	Columns int
	// KeyIndices are [short]s; nil in v3.
	KeyIndices []byte
	// Table is keyspace and table as they are, each a [string]; nil if the specs
	// have their own.
	Table []byte

	specs []byte
}

// ParseVariables reads Prepared.Variables.
func ParseVariables(raw []byte, v Version) (m Variables, err error) {
	c := NewCursor(raw)
	m.Flags = uint32(c.Int("metadata flags"))
	m.Columns = max(0, int(c.Int("column count")))
	if v != V3 {
		at := c.Offset()
		n := int64(c.Int("number of partition key indices"))
		if n < 0 || n > int64(c.Len()/2) {
			c.fail("number of partition key indices", at)
		}
		m.KeyIndices = c.Take(int(2*n), "partition key indices")
	}
	if m.Flags&RowsGlobalTable != 0 && m.Columns > 0 {
		at := c.Offset()
		c.String("keyspace of the columns")
		c.String("table of the columns")
		m.Table = raw[at:c.Offset()]
	}
	m.specs = c.Rest()
	return m, c.Err()
}

// Specs iterates over the columns.
func (m *Variables) Specs() ColumnSpecs {
	return ColumnSpecs{c: NewCursor(m.specs), left: m.Columns, global: m.Flags&RowsGlobalTable != 0}
}

// ColumnSpecs is an iterator over column specs.
type ColumnSpecs struct {
	Raw  []byte // the spec as it is
	Name []byte
	// Type is the [option] id; what may follow it is in Raw.
	Type uint16

	c      Cursor
	left   int
	global bool
}

// Next goes to the next column, and reports whether there is one.
func (i *ColumnSpecs) Next() bool {
	if i.left == 0 {
		return false
	}
	i.left--
	at := i.c.Offset()
	if !i.global {
		i.c.String("keyspace of a column")
		i.c.String("table of a column")
	}
	i.Name = i.c.String("name of a column")
	kind := i.c
	i.Type = kind.Short("type of a column")
	skipType(&i.c, 0)
	i.Raw = i.c.b[at:i.c.Offset()]
	return !i.c.Failed()
}

// Err tells what was wrong with the column at which Next returned false early.
func (i *ColumnSpecs) Err() error { return i.c.Err() }
