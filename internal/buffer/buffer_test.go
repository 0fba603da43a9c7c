package buffer

import (
	"bytes"
	"testing"
)

func TestABufferIsAsLargeAsAsked(t *testing.T) {
	for _, size := range []int{0, 1, Small, Small + 1, Ordinary, Segment, Page, Page + 1} {
		for range 2 { // the second time out of the pool
			b := Take(size)
			if len(b) < size || len(b) == 0 {
				t.Errorf("Take(%d) has %d bytes", size, len(b))
			}
			Give(b)
		}
	}
}

func TestGrowKeepsWhatIsThereAndDoesNotMoveItWithoutNeed(t *testing.T) {
	b := Take(Small)
	b = b[:copy(b, "abc")]
	first := &b[0]
	if b = Grow(b, Small-3); &b[0] != first {
		t.Error("moved though there was room")
	}
	b = Grow(b, Small)
	if !bytes.Equal(b, []byte("abc")) || cap(b) != Ordinary {
		t.Errorf("got %q of %d bytes, want abc of %d", b, cap(b), Ordinary)
	}
}

func TestForeignBuffersAreNotLent(t *testing.T) {
	foreign := make([]byte, 5000)
	Give(foreign)
	Give(nil)
	for range 3 {
		if b := Take(5000); &b[0] == &foreign[0] {
			t.Fatal("a buffer of another size was lent")
		}
	}
}

func TestALargeCopyIsNotKept(t *testing.T) {
	small := Copy(nil, []byte("abc"))
	first := &small[0]
	if small = Copy(Empty(small), []byte("de")); &small[0] != first || string(small) != "de" {
		t.Errorf("got %q, want de in the memory of the copy before", small)
	}
	src := bytes.Repeat([]byte("x"), Ordinary+1)
	large := Copy(small, src)
	if !bytes.Equal(large, src) || cap(large) != Segment {
		t.Errorf("a large copy has room for %d bytes, want %d", cap(large), Segment)
	}
	if large = Empty(large); large != nil {
		t.Error("a large copy was kept")
	}
}
