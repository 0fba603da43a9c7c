package virtual

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// murmur3 is the token of a partition key: the first half of MurmurHash3's
// x64 128 bit variant with seed 0, except that Cassandra extends the sign of
// the bytes after the last whole block, and has no lowest token.
func murmur3(key []byte) int64 {
	const c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F
	var h1, h2 uint64
	length := uint64(len(key))
	for ; len(key) >= 16; key = key[16:] {
		h1 ^= bits.RotateLeft64(binary.LittleEndian.Uint64(key)*c1, 31) * c2
		h1 = (bits.RotateLeft64(h1, 27)+h2)*5 + 0x52DCE729
		h2 ^= bits.RotateLeft64(binary.LittleEndian.Uint64(key[8:])*c2, 33) * c1
		h2 = (bits.RotateLeft64(h2, 31)+h1)*5 + 0x38495AB5
	}
	var k [2]uint64
	for i, b := range key {
		k[i/8] ^= uint64(int64(int8(b))) << (i % 8 * 8)
	}
	h1 ^= bits.RotateLeft64(k[0]*c1, 31) * c2
	h2 ^= bits.RotateLeft64(k[1]*c2, 33) * c1
	h1 ^= length
	h2 ^= length
	h1 += h2
	h2 += h1
	h1, h2 = mix(h1), mix(h2)
	if token := int64(h1 + h2); token != math.MinInt64 {
		return token
	}
	return math.MaxInt64
}

// mix is the hash's finalizer.
func mix(k uint64) uint64 {
	k = (k ^ k>>33) * 0xFF51AFD7ED558CCD
	k = (k ^ k>>33) * 0xC4CEB9FE1A85EC53
	return k ^ k>>33
}
