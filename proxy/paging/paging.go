// Package paging marks paging states with the side that made them.
//
// Floor 2: pure; bytes in, bytes out. A paging state that a client gets carries
// a tag of the side that made it, so that the next page comes from there
// whatever the phase is by then: a state means nothing to the other cluster.
// The tag stands in front of the state:
//
//	offset 0  4 bytes  "zdm\x01"
//	offset 4  1 byte   0 origin, 1 target
//	offset 5  1 byte   the complement of byte 4
//
// A state without a tag, which an application may have kept from before it used
// the proxy, goes to the side that answers reads.
package paging

import (
	"encoding/binary"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// TagLen is how much longer a tagged state is.
const TagLen = 6

var tags = [2][TagLen]byte{
	phase.Origin: {'z', 'd', 'm', 1, 0, 0xFF},
	phase.Target: {'z', 'd', 'm', 1, 1, 0xFE},
}

// Issuer tells which side made a state.
func Issuer(state []byte) (phase.Side, bool) {
	if len(state) < TagLen {
		return 0, false
	}
	for _, s := range phase.Sides {
		if string(state[:TagLen]) == string(tags[s][:]) {
			return s, true
		}
	}
	return 0, false
}

// Offset returns where the [int] length of a paging state begins in a RESULT
// Rows frame that has more pages, and -1 in any other frame.
func Offset(f frame.Frame) int {
	if f.Opcode() != frame.OpResult {
		return -1
	}
	r, err := frame.SplitResponse(f)
	if err != nil {
		return -1
	}
	_, at, ok := frame.RowsPaging(r.Body)
	if !ok {
		return -1
	}
	return r.BodyOffset + at
}

// AppendTagged appends the response f with side's tag put into its paging state,
// whose length is at Offset(f).
func AppendTagged(dst []byte, f frame.Frame, at int, side phase.Side) []byte {
	start := len(dst)
	n := binary.BigEndian.Uint32(f[at:])
	dst = append(dst, f[:at]...)
	dst = binary.BigEndian.AppendUint32(dst, n+TagLen)
	dst = append(dst, tags[side][:]...)
	dst = append(dst, f[at+4:]...)
	frame.PutLength(dst[start:])
	return dst
}

// AppendUntagged appends the request f without the tag of its paging state,
// whose [int] length begins at an offset of the frame. dst may be f[:0].
func AppendUntagged(dst []byte, f frame.Frame, at int) []byte {
	start := len(dst)
	n := binary.BigEndian.Uint32(f[at:])
	dst = append(dst, f[:at]...)
	dst = binary.BigEndian.AppendUint32(dst, n-TagLen)
	dst = append(dst, f[at+4+TagLen:]...)
	frame.PutLength(dst[start:])
	return dst
}
