package frame

import "encoding/binary"

// Cursor reads primitives of the protocol one after the other. The first one
// that does not fit stops it: all later reads return zero values, and Err tells
// what it was and where. What a method is given is the name for that error.
// Slices point into the bytes that the cursor reads; a [bytes] that is null or
// unset is nil, an empty one is not.
type Cursor struct {
	b     []byte
	off   int
	what  string // not empty: stopped
	badAt int
}

// NewCursor returns a cursor at the start of b.
func NewCursor(b []byte) Cursor { return Cursor{b: b} }

// Offset is where the next read begins.
func (c *Cursor) Offset() int { return c.off }

// Len is the number of bytes left; 0 after an error.
func (c *Cursor) Len() int { return len(c.b) - c.off }

// Rest returns the bytes left without reading them.
func (c *Cursor) Rest() []byte { return c.b[c.off:] }

// Failed reports whether a read did not fit.
func (c *Cursor) Failed() bool { return c.what != "" }

// Err returns nil or a *MalformedError.
func (c *Cursor) Err() error {
	if c.what == "" {
		return nil
	}
	return &MalformedError{What: c.what, Offset: c.badAt}
}

func (c *Cursor) fail(what string, at int) {
	if c.what == "" {
		c.what, c.badAt = what, at
		c.off = len(c.b)
	}
}

// Take reads n bytes.
func (c *Cursor) Take(n int, what string) []byte {
	if n < 0 || n > len(c.b)-c.off {
		c.fail(what, c.off)
		return nil
	}
	p := c.b[c.off : c.off+n : c.off+n]
	c.off += n
	return p
}

// Byte reads a [byte].
func (c *Cursor) Byte(what string) byte {
	if c.off >= len(c.b) {
		c.fail(what, c.off)
		return 0
	}
	c.off++
	return c.b[c.off-1]
}

// Short reads a [short].
func (c *Cursor) Short(what string) uint16 {
	if len(c.b)-c.off < 2 {
		c.fail(what, c.off)
		return 0
	}
	c.off += 2
	return binary.BigEndian.Uint16(c.b[c.off-2:])
}

// Int reads an [int].
func (c *Cursor) Int(what string) int32 {
	if len(c.b)-c.off < 4 {
		c.fail(what, c.off)
		return 0
	}
	c.off += 4
	return int32(binary.BigEndian.Uint32(c.b[c.off-4:]))
}

// Long reads a [long].
func (c *Cursor) Long(what string) int64 {
	if len(c.b)-c.off < 8 {
		c.fail(what, c.off)
		return 0
	}
	c.off += 8
	return int64(binary.BigEndian.Uint64(c.b[c.off-8:]))
}

// String reads a [string].
func (c *Cursor) String(what string) []byte {
	at := c.off
	n := int(c.Short(what))
	if n > len(c.b)-c.off {
		c.fail(what, at)
		return nil
	}
	return c.Take(n, what)
}

// ShortBytes reads a [short bytes].
func (c *Cursor) ShortBytes(what string) []byte { return c.String(what) }

// LongString reads a [long string].
func (c *Cursor) LongString(what string) []byte {
	at := c.off
	n := int(c.Int(what))
	if n < 0 || n > len(c.b)-c.off {
		c.fail(what, at)
		return nil
	}
	return c.Take(n, what)
}

// Bytes reads a [bytes] or a [value]: any negative length is null (or unset).
func (c *Cursor) Bytes(what string) []byte {
	at := c.off
	n := int(c.Int(what))
	if n < 0 {
		return nil
	}
	if n > len(c.b)-c.off {
		c.fail(what, at)
		return nil
	}
	return c.Take(n, what)
}

// SkipStringList reads over a [string list].
func (c *Cursor) SkipStringList(what string) {
	for n := c.Short(what); n > 0 && !c.Failed(); n-- {
		c.String(what)
	}
}

// SkipBytesMap reads over a [bytes map].
func (c *Cursor) SkipBytesMap(what string) {
	for n := c.Short(what); n > 0 && !c.Failed(); n-- {
		c.String(what)
		c.Bytes(what)
	}
}

// maxString is the longest [string]: its length is a [short].
const maxString = 1<<16 - 1

// AppendShort appends a [short].
func AppendShort(dst []byte, n uint16) []byte { return binary.BigEndian.AppendUint16(dst, n) }

// AppendInt appends an [int].
func AppendInt(dst []byte, n int32) []byte { return binary.BigEndian.AppendUint32(dst, uint32(n)) }

// AppendLong appends a [long].
func AppendLong(dst []byte, n int64) []byte { return binary.BigEndian.AppendUint64(dst, uint64(n)) }

// AppendString appends a [string], cut at 65,535 bytes (between characters),
// which is as long as one can be.
func AppendString(dst []byte, s string) []byte {
	if len(s) > maxString {
		n := maxString
		for n > maxString-3 && s[n]&0xC0 == 0x80 {
			n--
		}
		s = s[:n]
	}
	return append(AppendShort(dst, uint16(len(s))), s...)
}

// AppendLongString appends a [long string].
func AppendLongString(dst []byte, s string) []byte {
	return append(AppendInt(dst, int32(len(s))), s...)
}

// AppendBytes appends a [bytes]; nil is null.
func AppendBytes(dst, b []byte) []byte {
	if b == nil {
		return AppendInt(dst, -1)
	}
	return append(AppendInt(dst, int32(len(b))), b...)
}

// AppendShortBytes appends a [short bytes], of at most 65,535 bytes.
func AppendShortBytes(dst, b []byte) []byte {
	return append(AppendShort(dst, uint16(len(b))), b...)
}

// AppendStringList appends a [string list].
func AppendStringList(dst []byte, list []string) []byte {
	dst = AppendShort(dst, uint16(len(list)))
	for _, s := range list {
		dst = AppendString(dst, s)
	}
	return dst
}

// AppendStringMap appends a [string map] of the pairs key, value, key, value...
// in their order.
func AppendStringMap(dst []byte, pairs ...string) []byte {
	dst = AppendShort(dst, uint16(len(pairs)/2))
	for i := 0; i+1 < len(pairs); i += 2 {
		dst = AppendString(AppendString(dst, pairs[i]), pairs[i+1])
	}
	return dst
}
