package rewrite

import (
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// The functions of this file return new frames, and leave the given ones as they
// are. at is where the body proper begins in a request, as frame.SplitRequest
// tells.

// Text returns a QUERY or PREPARE with another text. n is the length of the one
// that it has.
func Text(f frame.Frame, at, n int, text []byte) frame.Frame {
	out := make(frame.Frame, 0, len(f)-n+len(text))
	out = append(out, f[:at]...)
	out = frame.AppendInt(out, int32(len(text)))
	out = append(out, text...)
	out = append(out, f[at+4+n:]...)
	frame.PutLength(out)
	return out
}

// Query returns a QUERY with literals for the calls in its text, and what is read
// of it; both as they are if there is none. q is of the body of f.
func (r Rule) Query(f frame.Frame, at int, q frame.Query, src *Source) (frame.Frame, frame.Query) {
	text := r.Inline(q.Text, src)
	if text == nil {
		return f, q
	}
	f = Text(f, at, len(q.Text), text)
	q, _ = frame.ParseQuery(f[at:], f.Version()) // all but the text was read before
	return f, q
}

// maxValues is what the [short] in front of values counts to.
const maxValues = 1<<16 - 1

// AmbiguousError says that values came by name, and that one for a hidden marker
// would be taken for another's too.
type AmbiguousError struct{ Marker Marker }

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("values by name cannot be told from that of %s(), which has the name of another bind marker; send them by position, or name the markers", e.Marker.Function)
}

// Execute returns an EXECUTE with the calls of its statement replaced, or the
// QUERY that stands for it, and its parameters. e is of the body of f, and text is
// the statement.
func (r Rule) Execute(f frame.Frame, at int, e frame.Execute, text string, rep *Replacement, src *Source) (frame.Frame, frame.Params, error) {
	if !rep.Literal() {
		return execute(f, at, e.Params, rep.Markers, src)
	}
	params := at + e.IDOffset + len(e.ID)
	if e.ResultMetadataIDOffset > 0 {
		params = at + e.ResultMetadataIDOffset + len(e.ResultMetadataID)
	}
	inline := r.Inline([]byte(text), src)
	out := make(frame.Frame, 0, len(f)+len(inline))
	out = append(out, f[:at]...)
	out[4] = byte(frame.OpQuery) // of the header
	out = append(frame.AppendInt(out, int32(len(inline))), inline...)
	shift := len(out) - params
	out = append(out, f[params:]...)
	// What the client knows of the columns, the node may not.
	out[at+e.Params.FlagsOffset+shift] &^= byte(frame.QuerySkipMetadata)
	frame.PutLength(out)
	q, err := frame.ParseQuery(out[at:], out.Version())
	return out, q.Params, err
}

// execute fills in the values of the hidden markers.
func execute(f frame.Frame, at int, p frame.Params, markers []Marker, src *Source) (frame.Frame, frame.Params, error) {
	named := p.Flags&frame.QueryValueNames != 0
	if named {
		for i := range markers {
			if markers[i].Name == "" {
				return f, p, &AmbiguousError{markers[i]}
			}
		}
	}
	if p.ValuesCount+len(markers) > maxValues {
		return f, p, &frame.MalformedError{What: "number of values", Offset: p.ValuesOffset}
	}
	flags := at + p.FlagsOffset
	values := flags + 1
	if p.Flags&frame.QueryValues != 0 {
		values += 2
	}
	out := make(frame.Frame, 0, len(f)+2+48*len(markers))
	out = append(out, f[:flags+1]...)
	out[flags] |= byte(frame.QueryValues)
	out = frame.AppendShort(out, uint16(p.ValuesCount+len(markers)))
	out, n := appendValues(out, f[values:], p.ValuesCount, named, markers, src)
	out = append(out, f[values+n:]...)
	frame.PutLength(out)
	e, err := frame.ParseExecute(out[at:], out.Version())
	return out, e.Params, err
}

// appendValues appends count values with those of the markers among them, and
// returns how many bytes of values they were. Where too few are given, the
// markers' come last, and the node tells what it misses.
func appendValues(dst, values []byte, count int, named bool, markers []Marker, src *Source) ([]byte, int) {
	c := frame.NewCursor(values)
	for i := 0; count > 0; i++ {
		if !named && len(markers) > 0 && markers[0].Index == i {
			dst = appendValue(dst, markers[0], named, src)
			markers = markers[1:]
			continue
		}
		from := c.Offset()
		if named {
			c.String("name of a value")
		}
		c.Bytes("value")
		dst = append(dst, values[from:c.Offset()]...)
		count--
	}
	for _, m := range markers {
		dst = appendValue(dst, m, named, src)
	}
	return dst, c.Offset()
}

func appendValue(dst []byte, m Marker, named bool, src *Source) []byte {
	if named {
		dst = frame.AppendString(dst, m.Name)
	}
	at := len(dst)
	dst = src.appendValue(frame.AppendInt(dst, 0), m.Function)
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

// Batch returns a BATCH with the calls in its children replaced. statement tells
// text and replacement of its prepared children, which it numbers from 0. Where
// literals stand for the calls, the child is no longer prepared.
func (r Rule) Batch(f frame.Frame, at int, b *frame.Batch, statement func(i int) (string, *Replacement), src *Source) (frame.Frame, error) {
	out, from, child := make(frame.Frame, 0, len(f)+64*b.Count), 0, 0
	for it := b.Children(); it.Next(); {
		count := at + it.ValuesOffset - 2
		if !it.Prepared {
			if text := r.Inline(it.Text, src); text != nil {
				out = append(out, f[from:count-len(it.Text)-4]...)
				out = append(frame.AppendInt(out, int32(len(text))), text...)
				from = count
			}
			continue
		}
		text, rep := statement(child)
		child++
		if rep == nil {
			continue
		}
		if rep.Literal() {
			inline := r.Inline([]byte(text), src)
			out = append(out, f[from:at+it.IDOffset-3]...) // less kind and length of the id
			out = append(out, 0)                           // a string
			out = append(frame.AppendInt(out, int32(len(inline))), inline...)
			from = count
			continue
		}
		hidden := rep.Markers
		if it.ValuesCount+len(hidden) > maxValues {
			return nil, &frame.MalformedError{What: "number of values", Offset: it.ValuesOffset - 2}
		}
		out = append(out, f[from:count]...)
		out = frame.AppendShort(out, uint16(it.ValuesCount+len(hidden)))
		var n int
		out, n = appendValues(out, f[count+2:], it.ValuesCount, false, hidden, src)
		from = count + 2 + n
	}
	out = append(out, f[from:]...)
	frame.PutLength(out)
	return out, nil
}

// Refusal is what a client is told that cannot have a statement replaced.
func Refusal(err error) frame.ErrorBody {
	e := frame.ErrorBody{Code: frame.ErrServer, Message: err.Error()}
	var wrongType *TypeError
	var ambiguous *AmbiguousError
	var malformed *frame.MalformedError
	switch {
	case errors.As(err, &wrongType), errors.As(err, &ambiguous):
		e.Code = frame.ErrInvalid
	case errors.As(err, &malformed):
		e.Code = frame.ErrProtocol
	}
	return e
}

// ID is the id of a statement whose calls are replaced: what a node would give to
// the statement as it was, so that it stays when replacing is turned on or off.
func ID(keyspace, text string) []byte {
	id := md5.Sum([]byte(keyspace + text))
	return id[:]
}

// TypeError says that a function's value does not fit where it was called.
type TypeError struct {
	Function string
	Column   string
}

func (e *TypeError) Error() string {
	return fmt.Sprintf("Type error: cannot assign result of function system.%s to %s", e.Function, e.Column)
}

// Answer returns the answer to a PREPARE as the client is to see it: with the
// given id, and without the hidden markers. It fills in their names. A
// *TypeError is what a node would have said to the statement as it was.
func Answer(f frame.Frame, id []byte, rep *Replacement) (frame.Frame, error) {
	r, err := frame.SplitResponse(f)
	if err != nil {
		return nil, err
	}
	p, err := frame.ParsePrepared(r.Body, f.Version())
	if err != nil {
		return nil, err
	}
	out := make(frame.Frame, 0, len(f))
	out = append(out, f[:r.BodyOffset+4]...)
	out = frame.AppendShortBytes(out, id)
	variables := r.BodyOffset + p.IDOffset + len(p.ID)
	if p.ResultMetadataIDOffset > 0 {
		out = append(out, f[variables:r.BodyOffset+p.ResultMetadataIDOffset+len(p.ResultMetadataID)]...)
	}
	if rep.Literal() {
		out = append(out, p.Variables...)
	} else if out, err = rep.appendVariables(out, p.Variables, f.Version()); err != nil {
		return nil, err
	}
	out = append(append(out, p.Result...), p.Rest...)
	frame.PutLength(out)
	return out, nil
}

// appendVariables appends bind metadata without the hidden markers. Where one is
// part of the partition key, no key is left: drivers could not make it.
func (rep *Replacement) appendVariables(dst, raw []byte, v frame.Version) ([]byte, error) {
	m, err := frame.ParseVariables(raw, v)
	if err != nil {
		return nil, err
	}
	left := m.Columns - len(rep.Markers)
	if left < 0 || rep.Markers[len(rep.Markers)-1].Index >= m.Columns {
		return nil, &frame.MalformedError{What: "column count"}
	}
	flags := m.Flags
	if left == 0 {
		flags &^= frame.RowsGlobalTable
	}
	dst = frame.AppendInt(frame.AppendInt(dst, int32(flags)), int32(left))
	if v != frame.V3 {
		dst = rep.appendKey(dst, m.KeyIndices)
	}
	if left > 0 {
		dst = append(dst, m.Table...)
	}
	visible := make(map[string]bool, left)
	hidden := rep.Markers
	specs := m.Specs()
	for i := 0; specs.Next(); i++ {
		if len(hidden) == 0 || hidden[0].Index != i {
			visible[string(specs.Name)] = true
			dst = append(dst, specs.Raw...)
			continue
		}
		if !fits(hidden[0].Function, specs.Type) {
			return nil, &TypeError{Function: hidden[0].Function.String(), Column: string(specs.Name)}
		}
		hidden[0].Name = string(specs.Name)
		hidden = hidden[1:]
	}
	for i := range rep.Markers {
		name := &rep.Markers[i].Name
		if visible[*name] {
			*name = ""
			continue
		}
		visible[*name] = true // and no other of the hidden ones
	}
	return dst, specs.Err()
}

func (rep *Replacement) appendKey(dst, indices []byte) []byte {
	for at := 0; at < len(indices); at += 2 {
		if _, hidden := rep.below(int(binary.BigEndian.Uint16(indices[at:]))); hidden {
			return frame.AppendInt(dst, 0)
		}
	}
	dst = frame.AppendInt(dst, int32(len(indices)/2))
	for at := 0; at < len(indices); at += 2 {
		index := binary.BigEndian.Uint16(indices[at:])
		n, _ := rep.below(int(index))
		dst = frame.AppendShort(dst, index-uint16(n))
	}
	return dst
}

// below counts the markers in front of index, and tells whether one is there.
func (rep *Replacement) below(index int) (n int, hidden bool) {
	for _, m := range rep.Markers {
		if m.Index >= index {
			return n, m.Index == index
		}
		n++
	}
	return n, false
}
