package frame

import (
	"bytes"
	"fmt"
	"testing"
)

func TestSegmentsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector drops pooled buffers")
	}
	_, mixed := mixedFrames()
	bothHeaders(t, func(t *testing.T, compressed bool) {
		wire := AppendSegments(nil, mixed, compressed)
		for name, src := range map[string]Source{"plain": readerOnly{&loop{b: wire}}, "lazy": &loop{b: wire}} {
			rd := NewReader(NewSegmentReader(src, compressed), MaxBody)
			if n := testing.AllocsPerRun(200, func() {
				if _, err := rd.Next(); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%s: %v allocations for each frame", name, n)
			}
		}
		var out []byte
		if n := testing.AllocsPerRun(20, func() { out = AppendSegments(out[:0], mixed, compressed) }); n != 0 {
			t.Errorf("%v allocations to write %d bytes", n, len(mixed))
		}
	})
}

// benchFrames are an ordinary request, a page of text, and one that is noise.
func benchFrames() map[string]Frame {
	page := Frame(AppendHeader(nil, V5, true, 0, 1, OpResult, 0))
	for i := range 200 {
		page = fmt.Appendf(page, "\x00\x00\x00\x10user-%011d\x00\x00\x00\x08%08x\x00\x00\x00\x20name of user %d, somewhere in %d", i, i*7919, i, i%13)
	}
	PutLength(page)
	request := Frame(AppendHeader(nil, V5, false, 0, 1, OpQuery, 0))
	request = append(AppendLongString(request, "INSERT INTO shop.orders (id, customer, total, state) VALUES (?, ?, ?, ?)"), page[9:60]...)
	PutLength(request)
	return map[string]Frame{"request": request, "page": page, "noise": noiseFrame(1, 4000)}
}

func BenchmarkSegments(b *testing.B) {
	for _, compressed := range []bool{false, true} {
		for name, f := range benchFrames() {
			if compressed {
				name += "/LZ4"
			}
			burst := bytes.Repeat(f, 8)
			wire := AppendSegments(nil, burst, compressed)
			b.Run("append8/"+name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(burst)))
				var out []byte
				for b.Loop() {
					out = AppendSegments(out[:0], burst, compressed)
				}
			})
			b.Run("read8/"+name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(burst)))
				rd := NewReader(NewSegmentReader(&loop{b: wire}, compressed), MaxBody)
				for b.Loop() {
					for range 8 {
						if _, err := rd.Next(); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}
