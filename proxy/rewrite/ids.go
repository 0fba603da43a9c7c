package rewrite

import "github.com/zdmproject/terraform-provider-zdm/cql/frame"

// BatchIDs returns a BATCH with other ids for its prepared children, which it
// numbers from 0.
func BatchIDs(f frame.Frame, id func(i int) []byte) (frame.Frame, error) {
	body, at, err := frame.SplitRequest(f)
	if err != nil {
		return nil, err
	}
	b, err := frame.ParseBatch(body, f.Version())
	if err != nil {
		return nil, err
	}
	out, from, n := make(frame.Frame, 0, len(f)+16), 0, 0
	for it := b.Children(); it.Next(); {
		if !it.Prepared {
			continue
		}
		out = append(out, f[from:at+it.IDOffset-2]...)
		out = frame.AppendShortBytes(out, id(n))
		from = at + it.IDOffset + len(it.ID)
		n++
	}
	out = append(out, f[from:]...)
	frame.PutLength(out)
	return out, nil
}

// ExecuteIDs returns an EXECUTE with other ids than those of n bytes at idAt, and
// of resultLen at resultAt, which is 0 if it has none of result metadata.
func ExecuteIDs(f frame.Frame, idAt, n int, id []byte, resultAt, resultLen int, resultID []byte) frame.Frame {
	out := append(make(frame.Frame, 0, len(f)+len(id)+len(resultID)), f[:idAt-2]...)
	out = frame.AppendShortBytes(out, id)
	from := idAt + n
	if resultAt > 0 {
		out = frame.AppendShortBytes(out, resultID)
		from = resultAt + resultLen
	}
	out = append(out, f[from:]...)
	frame.PutLength(out)
	return out
}
