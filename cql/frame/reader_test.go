package frame

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"

	"github.com/zdmproject/terraform-provider-zdm/internal/buffer"
)

func testFrame(stream int16, bodyLen int) Frame {
	f := AppendHeader(nil, V4, false, 0, stream, OpQuery, bodyLen)
	for i := range bodyLen {
		f = append(f, byte(i))
	}
	return f
}

// chunks is a source that gives one chunk for each read.
type chunks struct {
	left  [][]byte
	err   error // in the end; nil: io.EOF
	with  bool  // err comes together with the last bytes
	reads int
}

func (c *chunks) Read(p []byte) (int, error) {
	c.reads++
	if len(c.left) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		return 0, io.EOF
	}
	n := copy(p, c.left[0])
	if c.left[0] = c.left[0][n:]; len(c.left[0]) == 0 {
		c.left = c.left[1:]
	}
	if c.with && len(c.left) == 0 {
		return n, c.err
	}
	return n, nil
}

// lazyChunks takes memory, finds nothing, gives it back, and takes it again.
type lazyChunks struct {
	chunks
	idle func()
}

func (c *lazyChunks) ReadLazily(buf func() []byte, release func()) (int, error) {
	buf()
	release()
	c.idle()
	return c.Read(buf())
}

func TestReaderCutsAStreamHoweverItArrives(t *testing.T) {
	var stream []byte
	sizes := []int{0, 1, 100, 16<<10 - HeaderLen, 16 << 10, 5, 200 << 10, 3, 3 << 20, 40, 17 << 10, 0}
	for i, n := range sizes {
		stream = append(stream, testFrame(int16(i), n)...)
	}
	random := rand.New(rand.NewPCG(1, 2))
	var cut [][]byte
	for rest := stream; len(rest) > 0; {
		n := min(len(rest), 1+random.IntN(30<<10))
		cut, rest = append(cut, rest[:n]), rest[n:]
	}
	for name, src := range map[string]io.Reader{
		"at once":   bytes.NewReader(stream),
		"in pieces": &chunks{left: cut},
		"by halves": iotest.HalfReader(bytes.NewReader(stream)),
		"end early": iotest.DataErrReader(bytes.NewReader(stream)),
		"lazily":    &lazyChunks{chunks{left: append([][]byte(nil), cut...)}, func() {}},
	} {
		t.Run(name, func(t *testing.T) {
			rd := NewReader(src, MaxBody)
			defer rd.Release()
			for i, n := range sizes {
				f, err := rd.Next()
				if err != nil || !bytes.Equal(f, testFrame(int16(i), n)) {
					t.Fatalf("frame %d of %d bytes: got %d bytes, error %v", i, n, len(f), err)
				}
			}
			if _, err := rd.Next(); err != io.EOF {
				t.Errorf("after the last frame: %v, want EOF", err)
			}
		})
	}
}

func TestReaderWorksByteByByte(t *testing.T) {
	rd := NewReader(iotest.OneByteReader(bytes.NewReader(append(testFrame(1, 20), testFrame(2, 0)...))), MaxBody)
	for want := int16(1); want <= 2; want++ {
		if f, err := rd.Next(); err != nil || f.Stream() != want {
			t.Fatalf("frame %d: error %v", want, err)
		}
	}
}

func TestReaderReturnsSeveralFramesOfOneRead(t *testing.T) {
	stream := append(append(append([]byte(nil), testFrame(1, 10)...), testFrame(2, 0)...), testFrame(3, 10)[:12]...)
	src := &chunks{left: [][]byte{stream, testFrame(3, 10)[12:]}}
	rd := NewReader(src, MaxBody)
	if rd.HasNext() {
		t.Error("a frame before the first read")
	}
	for i, want := range []struct {
		reads   int
		hasNext bool
	}{{1, true}, {1, false}, {2, false}} {
		f, err := rd.Next()
		if err != nil || f.Stream() != int16(i+1) || src.reads != want.reads || rd.HasNext() != want.hasNext {
			t.Errorf("frame %d: error %v, %d reads, has next %v", i+1, err, src.reads, rd.HasNext())
		}
		if i == 1 && len(rd.Buffered()) != 12 {
			t.Errorf("%d bytes buffered, want 12", len(rd.Buffered()))
		}
	}
}

func TestReaderHoldsNoBufferWhileALazySourceWaits(t *testing.T) {
	var rd *Reader
	idle := func() {
		if rd.buf != nil {
			t.Error("a buffer is held while the source waits")
		}
	}
	rd = NewReader(&lazyChunks{chunks{left: [][]byte{testFrame(1, 30), testFrame(2, 30<<10)}}, idle}, MaxBody)
	for range 2 {
		if _, err := rd.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := rd.Next(); err != io.EOF {
		t.Errorf("got %v, want EOF", err)
	}
	if rd.buf != nil {
		t.Error("a buffer is held after the end")
	}
}

func TestReaderShrinksAfterALargeFrame(t *testing.T) {
	rd := NewReader(&chunks{left: [][]byte{testFrame(1, 300<<10), testFrame(2, 10)}}, MaxBody)
	if _, err := rd.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := rd.Next(); err != nil || len(rd.buf) != buffer.Ordinary {
		t.Errorf("buffer of %d bytes, error %v", len(rd.buf), err)
	}
	// Also when the small frame began in the buffer of the large one.
	stream := append(testFrame(1, 300<<10), testFrame(2, 100)[:50]...)
	rd = NewReader(&chunks{left: [][]byte{stream, testFrame(2, 100)[50:]}}, MaxBody)
	for range 2 {
		if _, err := rd.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if len(rd.buf) != buffer.Ordinary {
		t.Errorf("buffer of %d bytes after a small frame", len(rd.buf))
	}
}

func TestReaderTakesMemoryForWhatArrivedNotForWhatIsClaimed(t *testing.T) {
	claim := AppendHeader(nil, V4, false, 0, 1, OpQuery, 200<<20)
	rd := NewReader(&chunks{left: [][]byte{claim, make([]byte, 20<<10)}, err: os.ErrDeadlineExceeded}, MaxBody)
	if _, err := rd.Next(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v, want the source's error", err)
	}
	if len(rd.buf) > buffer.Segment {
		t.Errorf("buffer of %d bytes for 20 KB", len(rd.buf))
	}
}

func TestReaderTellsWhyThereIsNoFrame(t *testing.T) {
	header := func(v Version, n int) []byte { return AppendHeader(nil, v, false, 0, 0x0102, OpOptions, n) }
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"nothing":               {nil, io.EOF},
		"part of a header":      {header(V4, 0)[:5], io.ErrUnexpectedEOF},
		"part of a body":        {append(header(V4, 10), 1, 2), io.ErrUnexpectedEOF},
		"oversized":             {header(V4, 1001), &LimitError{Limit: 1000, Got: 1001, Stream: 0x0102}},
		"negative":              {header(V4, -1), &MalformedError{What: "frame length"}},
		"v1":                    {[]byte{1, 0, 7, 5, 0, 0, 0, 0}, &VersionError{Got: 1, Stream: 7}},
		"v2, negative stream":   {[]byte{2, 0, 0xFF, 5, 0xFF, 0xFF, 0xFF, 0xFF}, &VersionError{Got: 2, Stream: -1}},
		"v6":                    {header(6, 1<<30), &VersionError{Got: 6, Stream: 0x0102}},
		"v6 response":           {append([]byte{0x86}, header(6, 0)[1:]...), &VersionError{Got: 6, Stream: 0x0102}},
		"a version alone":       {[]byte{9}, &VersionError{Got: 9}},
		"v2 without a stream":   {[]byte{2, 0}, &VersionError{Got: 2}},
		"another protocol":      {[]byte("GET / HTTP/1.1\r\n"), &VersionError{Got: 'G', Stream: 'T'<<8 | ' '}},
		"TLS":                   {[]byte{0x16, 3, 1, 2, 0}, &VersionError{Got: 0x16, Stream: 0x0102}},
		"a frame of most bytes": {append(header(V4, 1000), make([]byte, 1000)...), nil},
	} {
		t.Run(name, func(t *testing.T) {
			rd := NewReader(iotest.OneByteReader(bytes.NewReader(c.in)), 1000)
			_, err := rd.Next()
			if c.want == nil || errors.Is(c.want, io.EOF) || errors.Is(c.want, io.ErrUnexpectedEOF) {
				if err != c.want {
					t.Errorf("got %v, want %v", err, c.want)
				}
				return
			}
			if err == nil || err.Error() != c.want.Error() {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			switch want := c.want.(type) {
			case *VersionError:
				var got *VersionError
				if !errors.As(err, &got) || *got != *want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			case *LimitError:
				var got *LimitError
				if !errors.As(err, &got) || *got != *want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			}
			if rd.HasNext() {
				t.Error("has a next frame after the error")
			}
			if _, again := rd.Next(); again == nil {
				t.Error("a frame after the error")
			}
		})
	}
}

func TestReaderGoesOnAfterADeadline(t *testing.T) {
	f := testFrame(1, 10)
	src := &chunks{left: [][]byte{f[:12]}, err: os.ErrDeadlineExceeded}
	rd := NewReader(src, MaxBody)
	if _, err := rd.Next(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	src.left = [][]byte{f[12:]}
	if got, err := rd.Next(); err != nil || !bytes.Equal(got, f) {
		t.Errorf("got % x, error %v", []byte(got), err)
	}
}

func TestReaderTellsAnErrorAfterTheBytesThatCameWithIt(t *testing.T) {
	broken := errors.New("broken")
	rd := NewReader(&chunks{left: [][]byte{testFrame(1, 5)}, err: broken, with: true}, MaxBody)
	if _, err := rd.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := rd.Next(); err != broken {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestReaderGivesUpOnASourceThatReadsNothing(t *testing.T) {
	rd := NewReader(iotest.ErrReader(nil), MaxBody)
	if _, err := rd.Next(); err != io.ErrNoProgress {
		t.Errorf("got %v", err)
	}
}

func TestAReleasedReaderReturnsNothing(t *testing.T) {
	rd := NewReader(bytes.NewReader(append(testFrame(1, 5), testFrame(2, 5)...)), MaxBody)
	if _, err := rd.Next(); err != nil {
		t.Fatal(err)
	}
	rd.Release()
	if _, err := rd.Next(); err == nil || rd.HasNext() {
		t.Errorf("error %v, has next %v", err, rd.HasNext())
	}
}

// loop is a lazy source without end that repeats its bytes.
type loop struct {
	b []byte
	i int
}

func (l *loop) Read(p []byte) (int, error) {
	n := copy(p, l.b[l.i:])
	l.i = (l.i + n) % len(l.b)
	return n, nil
}

func (l *loop) ReadLazily(buf func() []byte, _ func()) (int, error) { return l.Read(buf()) }

func TestReaderDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector drops pooled buffers")
	}
	var burst []byte
	for i := range int16(16) {
		burst = append(burst, testFrame(i, 100)...)
	}
	large := append(testFrame(1, 40<<10), testFrame(2, 900<<10)...)
	for name, src := range map[string]Source{
		"plain": &chunks{}, "lazy": &loop{b: burst}, "large": &loop{b: large},
	} {
		if name == "plain" {
			src = readerOnly{&loop{b: burst}}
		}
		rd := NewReader(src, MaxBody)
		if n := testing.AllocsPerRun(200, func() {
			if _, err := rd.Next(); err != nil {
				t.Fatal(err)
			}
			rd.HasNext()
		}); n != 0 {
			t.Errorf("%s: %v allocations for each frame", name, n)
		}
		rd.Release()
	}
}

type readerOnly struct{ io.Reader }

func BenchmarkReader(b *testing.B) {
	var burst []byte
	for i := range int16(16) {
		burst = append(burst, testFrame(i, 130)...)
	}
	rd := NewReader(&loop{b: burst}, MaxBody)
	b.ReportAllocs()
	b.SetBytes(int64(len(burst) / 16))
	for b.Loop() {
		if _, err := rd.Next(); err != nil {
			b.Fatal(err)
		}
	}
}
