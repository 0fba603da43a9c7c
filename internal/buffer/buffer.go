// Package buffer lends byte buffers in a few sizes, so that what is moving costs
// no allocation and what waits holds no memory.
//
// Floor 0: a leaf. All functions may be called from any goroutine; it has none.
package buffer

import (
	"sync"
	"unsafe"
)

// Sizes. Small is what an answer or a few begin with. Ordinary holds a hundred
// ordinary requests. Segment is enough for any segment of protocol v5 (128 KB and
// what is around them), Page for a page of 5,000 rows of 200 bytes or a value of
// 1 MB. Beyond that the garbage collector is the pool: such frames are rare.
const (
	Small    = 4 << 10
	Ordinary = 16 << 10
	Segment  = 136 << 10
	Page     = 1<<20 + 64<<10
)

var sizes = [...]int{Small, Ordinary, Segment, Page}

// pools hold the first bytes of buffers: a pointer fits an interface, where a
// slice would be an allocation.
var pools [len(sizes)]sync.Pool

// Take returns a buffer of at least size bytes, all of them usable and none of
// them cleared.
func Take(size int) []byte {
	for i, n := range sizes {
		if size > n {
			continue
		}
		if first, ok := pools[i].Get().(*byte); ok {
			return unsafe.Slice(first, n)
		}
		return make([]byte, n)
	}
	return make([]byte, size)
}

// Give takes back a buffer of Take, whole or cut at its end, which nobody uses
// any more. Others are left to the garbage collector, and nil is nothing.
func Give(b []byte) {
	for i, n := range sizes {
		if cap(b) == n {
			pools[i].Put(unsafe.SliceData(b))
			return
		}
	}
}

// Grow returns b with room for n more bytes behind its end: itself, or a copy in
// a larger buffer when b is given back.
func Grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	larger := Take(len(b) + n)
	larger = larger[:copy(larger, b)]
	Give(b)
	return larger
}

// Copy returns a copy of src in the memory of dst, whose owner keeps it for the
// next one; or in a lent buffer, if src is more than should be kept so.
func Copy(dst, src []byte) []byte {
	dst = dst[:0]
	if len(src) > Ordinary {
		dst = Grow(dst, len(src))
	}
	return append(dst, src...)
}

// Empty returns what is to be kept of a slice that Copy filled and nobody uses
// any more.
func Empty(b []byte) []byte {
	if cap(b) > Ordinary {
		Give(b)
		return nil
	}
	return b[:0]
}
