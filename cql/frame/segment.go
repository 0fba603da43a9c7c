package frame

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
)

// In v5 frames travel in segments, in both directions, from the first byte after
// the STARTUP and its READY or AUTHENTICATE, which have none around them
// (native_protocol_v5.spec, section 2):
//
//	header   3 bytes, little endian: 17 bits length of the payload, 1 bit
//	         self-contained, 6 bits padding;
//	         with LZ4 5 bytes: 17 bits length of the payload as it is, 17 bits
//	         of what it decompresses to (0: it is not compressed), 1 bit
//	         self-contained, 5 bits padding
//	         + 3 bytes CRC-24 of them, little endian
//	payload
//	trailer  4 bytes CRC-32 of the payload as it is, little endian
//
// A self-contained segment holds whole frames, one or several. A frame that is
// larger than a segment is cut into several that are not self-contained.
const (
	// MaxSegmentPayload is what 17 bits can tell.
	MaxSegmentPayload = 1<<17 - 1

	plainSegmentHeader      = 3
	compressedSegmentHeader = 5
	headerCRCLen            = 3
	segmentTrailer          = 4
	// maxSegment is the longest segment, with LZ4.
	maxSegment = compressedSegmentHeader + headerCRCLen + MaxSegmentPayload + segmentTrailer
)

// minCompressed is the shortest payload or body that compression is tried on. A
// single void result is 13 bytes, and LZ4 finds nothing in less than 14; up to
// here the search costs more than the few bytes that it may save.
const minCompressed = 64

// CRCError says that a segment is not what was sent. Nothing after it can be
// read; the connection must be closed.
type CRCError struct {
	Part      string // "header" or "payload"
	Got, Want uint32 // Got came with the segment, Want is that of what arrived
}

func (e *CRCError) Error() string {
	return fmt.Sprintf("checksum of a segment's %s is %08x, want %08x", e.Part, e.Got, e.Want)
}

// AppendSegments appends frames, which are one or several whole ones, as
// segments: as many frames in each as fit. With compressed, segments have the
// header for LZ4, and a payload is compressed if that makes it smaller. Each
// segment should reach the socket in one write: some drivers do not stand a
// header in two pieces.
func AppendSegments(dst, frames []byte, compressed bool) []byte {
	for len(frames) > 0 {
		n := wholeFrames(frames)
		if n <= MaxSegmentPayload {
			dst = appendSegment(dst, frames[:n], true, compressed)
		} else {
			dst = appendParts(dst, frames[:n], compressed)
		}
		frames = frames[n:]
	}
	return dst
}

// appendParts appends b as segments that are not self-contained.
func appendParts(dst, b []byte, compressed bool) []byte {
	for part := range slices.Chunk(b, MaxSegmentPayload) {
		dst = appendSegment(dst, part, false, compressed)
	}
	return dst
}

// wholeFrames is the length of the frames that go into one segment, or that of
// the first one if it alone is too large. Bytes that are no whole frame count as
// one, so that nothing is lost.
func wholeFrames(b []byte) int {
	n := 0
	for n < len(b) {
		next := len(b)
		if rest := b[n:]; len(rest) >= HeaderLen {
			if body := binary.BigEndian.Uint32(rest[5:]); uint64(body) < uint64(len(rest)-HeaderLen) {
				next = n + HeaderLen + int(body)
			}
		}
		if n > 0 && next > MaxSegmentPayload {
			break
		}
		n = next
	}
	return n
}

func appendSegment(dst, payload []byte, selfContained, compressed bool) []byte {
	header := uint64(len(payload))
	if !compressed {
		if selfContained {
			header |= 1 << 17
		}
		dst = slices.Grow(dst, plainSegmentHeader+headerCRCLen+len(payload)+segmentTrailer)
		sum := crc24(header, plainSegmentHeader)
		dst = append(dst, byte(header), byte(header>>8), byte(header>>16), byte(sum), byte(sum>>8), byte(sum>>16))
		dst = append(dst, payload...)
		return binary.LittleEndian.AppendUint32(dst, crcPayload(payload))
	}
	const headerLen = compressedSegmentHeader + headerCRCLen
	dst = slices.Grow(dst, headerLen+len(payload)+segmentTrailer)
	start := len(dst)
	dst = dst[:start+headerLen+len(payload)]
	if n := compressLZ4(dst[start+headerLen:], payload); n > 0 {
		header = uint64(n) | uint64(len(payload))<<17
		dst = dst[:start+headerLen+n]
	} else {
		copy(dst[start+headerLen:], payload)
	}
	if selfContained {
		header |= 1 << 34
	}
	// The sum is three bytes right after five of header: one word.
	sum := crc24(header, compressedSegmentHeader)
	binary.LittleEndian.PutUint64(dst[start:], header|uint64(sum)<<40)
	return binary.LittleEndian.AppendUint32(dst, crcPayload(dst[start+headerLen:]))
}

// segmentHeader is what a header says.
type segmentHeader struct {
	total  int // length of the whole segment; 0: too few bytes to tell
	begin  int // where the payload begins
	length int // of the payload as it is
	plain  int // of what it decompresses to; 0: it is not compressed
}

// readSegmentHeader reads the header that b begins with. Whether a segment is
// self-contained makes no difference to who reads frames from a stream.
func readSegmentHeader(b []byte, compressed bool) (h segmentHeader, err error) {
	n := plainSegmentHeader
	if compressed {
		n = compressedSegmentHeader
	}
	h.begin = n + headerCRCLen
	if len(b) < h.begin {
		return h, nil
	}
	var header uint64
	for i := range n {
		header |= uint64(b[i]) << (8 * i)
	}
	got := uint32(b[n]) | uint32(b[n+1])<<8 | uint32(b[n+2])<<16
	if want := crc24(header, n); got != want {
		return h, &CRCError{Part: "header", Got: got, Want: want}
	}
	h.length = int(header & MaxSegmentPayload)
	if compressed {
		h.plain = int(header >> 17 & MaxSegmentPayload)
	}
	h.total = h.begin + h.length + segmentTrailer
	return h, nil
}

// crcSeed is the CRC-32 of the bytes that Cassandra puts in front of a payload.
var crcSeed = crc32.ChecksumIEEE([]byte{0xFA, 0x2D, 0x55, 0xCA})

func crcPayload(payload []byte) uint32 { return crc32.Update(crcSeed, crc32.IEEETable, payload) }

// The CRC-24 of headers is Koopman's, which finds all errors of up to seven bits
// in so few bytes. (It is not the CRC-24 of OpenPGP.)
const (
	crc24Start = 0x875060
	crc24Poly  = 0x1974F0B
)

var crc24Table = func() (table [256]uint32) {
	for i := range table {
		c := uint32(i) << 16
		for range 8 {
			if c <<= 1; c&0x1000000 != 0 {
				c ^= crc24Poly
			}
		}
		table[i] = c
	}
	return table
}()

// crc24 is the sum of the n low bytes of header, the lowest first.
func crc24(header uint64, n int) uint32 {
	c := uint32(crc24Start)
	for range n {
		c = c<<8&0xFFFFFF ^ crc24Table[byte(c>>16)^byte(header)]
		header >>= 8
	}
	return c
}
