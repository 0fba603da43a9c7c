package frame

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/golang/snappy"
	"github.com/pierrec/lz4/v4"
)

// Compression is what a STARTUP asks for with its option COMPRESSION. Up to v4
// it is for the bodies of single frames, each with FlagCompressed; in v5 it is
// for segments, and only LZ4 is left.
type Compression byte

// The compressions; the zero value is none.
const (
	NoCompression Compression = iota
	LZ4
	Snappy
)

// ParseCompression reads the value of the option COMPRESSION, which is not case
// sensitive. ok is false for one that is not known; none given is "".
func ParseCompression(name string) (c Compression, ok bool) {
	switch strings.ToLower(name) {
	case "", "none":
		return NoCompression, true
	case "lz4":
		return LZ4, true
	case "snappy":
		return Snappy, true
	}
	return NoCompression, false
}

// String is the value of the option; "" for none.
func (c Compression) String() string {
	switch c {
	case NoCompression:
		return ""
	case LZ4:
		return "lz4"
	case Snappy:
		return "snappy"
	}
	return fmt.Sprintf("compression %d", byte(c))
}

// In LZ4, the compressed body has the length of the other in front, an [int].
const lz4Length = 4

// AppendCompressed appends f with its body compressed and FlagCompressed set; or
// f as it is if its body would not get smaller, is compressed already, or
// belongs to a message that is never compressed: a peer knows by the flag.
func (c Compression) AppendCompressed(dst []byte, f Frame) []byte {
	body := f.Body()
	if c == NoCompression || len(body) < minCompressed || f.Flags()&FlagCompressed != 0 ||
		f.Opcode() == OpStartup || f.Opcode() == OpOptions {
		return append(dst, f...)
	}
	start := len(dst)
	at := start + HeaderLen
	n := 0
	switch c {
	case LZ4:
		dst = slices.Grow(dst, len(f))
		out := dst[at : at+len(body)]
		if n = compressLZ4(out[lz4Length:], body); n > 0 {
			binary.BigEndian.PutUint32(out, uint32(len(body)))
			n += lz4Length
		}
	case Snappy:
		bound := snappy.MaxEncodedLen(len(body))
		dst = slices.Grow(dst, HeaderLen+bound)
		n = len(snappy.Encode(dst[at:at+bound], body))
	}
	if n == 0 || n >= len(body) {
		return append(dst, f...)
	}
	dst = append(dst, f[:HeaderLen]...)[:at+n]
	PutLength(dst[start:])
	dst[start+1] |= FlagCompressed
	return dst
}

// AppendDecompressed appends f with its body decompressed and FlagCompressed
// cleared; f as it is if it has not that flag. It returns *LimitError for a body
// that claims to be larger than MaxBody, and *MalformedError for one that is not
// compressed like this; both before more memory is taken than what arrived can
// decompress to, and with dst as it was.
func (c Compression) AppendDecompressed(dst []byte, f Frame) ([]byte, error) {
	if f.Flags()&FlagCompressed == 0 {
		return append(dst, f...), nil
	}
	body := f.Body()
	n, err := c.claimed(body)
	if err != nil {
		return dst, err
	}
	if n > MaxBody {
		return dst, &LimitError{Limit: MaxBody, Got: n, Stream: f.Stream()}
	}
	start := len(dst)
	at := start + HeaderLen
	out := append(slices.Grow(dst, HeaderLen+n), f[:HeaderLen]...)[:at+n]
	plain := out[at : at+n : at+n]
	if c == Snappy {
		_, err = snappy.Decode(plain, body)
	} else if n > 0 {
		// For nothing, peers write one more byte, or none.
		err = decompressLZ4(plain, body[lz4Length:])
	}
	if err != nil {
		return dst, errCompressed
	}
	PutLength(out[start:])
	out[start+1] &^= FlagCompressed
	return out, nil
}

// The most that one compressed byte can stand for: in LZ4 it is one more byte of
// a match's length; in Snappy a copy of 64 bytes takes three.
const (
	maxLZ4Ratio    = 255
	maxSnappyRatio = 22
)

// errCompressed is one value: it says the same of every body.
var errCompressed error = &MalformedError{What: "compressed body"}

// claimed is the length that body says it decompresses to, if that is possible.
func (c Compression) claimed(body []byte) (int, error) {
	var n, ratio int
	switch c {
	case LZ4:
		if len(body) < lz4Length {
			return 0, errCompressed
		}
		claim := binary.BigEndian.Uint32(body)
		if claim > 1<<31-1 {
			return 0, errCompressed
		}
		n, ratio = int(claim), maxLZ4Ratio
	case Snappy:
		claim, err := snappy.DecodedLen(body)
		if err != nil {
			return 0, errCompressed
		}
		n, ratio = claim, maxSnappyRatio
	default:
		return 0, errCompressed // none was agreed on
	}
	if int64(n) > int64(ratio)*int64(len(body)) {
		return 0, errCompressed
	}
	return n, nil
}

// compressLZ4 compresses src into dst. It returns 0 if the result would not be
// smaller than src, or does not fit.
func compressLZ4(dst, src []byte) int {
	if len(src) < minCompressed {
		return 0
	}
	if len(dst) >= len(src) {
		dst = dst[: len(src)-1 : len(src)-1]
	}
	// The library keeps its tables in a pool; what does not fit is an error.
	n, err := lz4.CompressBlock(src, dst, nil)
	if err != nil {
		return 0
	}
	return n
}

// decompressLZ4 decompresses src into all of dst.
func decompressLZ4(dst, src []byte) error {
	if n, err := lz4.UncompressBlock(src, dst); err != nil || n != len(dst) {
		return errCompressed
	}
	return nil
}

// AppendAllCompressed appends whole frames, each with its body compressed where
// that makes it smaller.
func (c Compression) AppendAllCompressed(dst, frames []byte) []byte {
	for len(frames) >= HeaderLen {
		n := min(HeaderLen+int(binary.BigEndian.Uint32(frames[5:])), len(frames))
		dst = c.AppendCompressed(dst, Frame(frames[:n]))
		frames = frames[n:]
	}
	return dst
}
