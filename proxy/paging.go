package proxy

import (
	"encoding/binary"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// A paging state that a client gets carries a tag of the side that made it, so
// that the next page comes from there whatever the phase is by then: a state
// means nothing to the other cluster. The tag stands in front of the state:
//
//	offset 0  4 bytes  "zdm\x01"
//	offset 4  1 byte   0 origin, 1 target
//	offset 5  1 byte   the complement of byte 4
//
// A state without a tag, which an application may have kept from before it used
// the proxy, goes to the side that answers reads.
const pageTagLen = 6

var pageTags = [2][pageTagLen]byte{
	phase.Origin: {'z', 'd', 'm', 1, 0, 0xFF},
	phase.Target: {'z', 'd', 'm', 1, 1, 0xFE},
}

// pageIssuer tells which side made a state.
func pageIssuer(state []byte) (phase.Side, bool) {
	if len(state) < pageTagLen {
		return 0, false
	}
	for _, s := range phase.Sides {
		if string(state[:pageTagLen]) == string(pageTags[s][:]) {
			return s, true
		}
	}
	return 0, false
}

// appendTagged appends the RESULT Rows frame f with side's tag put into its
// paging state, whose [int] length begins at the offset at of the frame.
func appendTagged(dst []byte, f frame.Frame, at int, side phase.Side) []byte {
	start := len(dst)
	n := binary.BigEndian.Uint32(f[at:])
	dst = append(dst, f[:at]...)
	dst = binary.BigEndian.AppendUint32(dst, n+pageTagLen)
	dst = append(dst, pageTags[side][:]...)
	dst = append(dst, f[at+4:]...)
	frame.PutLength(dst[start:])
	return dst
}

// appendUntagged appends the request frame f without the tag of its paging
// state, whose [int] length begins at the offset at of the frame.
func appendUntagged(dst []byte, f frame.Frame, at int) []byte {
	start := len(dst)
	n := binary.BigEndian.Uint32(f[at:])
	dst = append(dst, f[:at]...)
	dst = binary.BigEndian.AppendUint32(dst, n-pageTagLen)
	dst = append(dst, f[at+4+pageTagLen:]...)
	frame.PutLength(dst[start:])
	return dst
}
