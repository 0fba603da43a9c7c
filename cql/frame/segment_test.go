package frame

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	oraclelz4 "github.com/datastax/go-cassandra-native-protocol/compression/lz4"
	"github.com/datastax/go-cassandra-native-protocol/crc"
	"github.com/datastax/go-cassandra-native-protocol/segment"

	"github.com/zdmproject/terraform-provider-zdm/internal/buffer"
)

func oracleSegments(compressed bool) segment.Codec {
	if compressed {
		return segment.NewCodecWithCompression(oraclelz4.Compressor{})
	}
	return segment.NewCodec()
}

func bothHeaders(t *testing.T, f func(t *testing.T, compressed bool)) {
	t.Helper()
	t.Run("plain", func(t *testing.T) { f(t, false) })
	t.Run("LZ4", func(t *testing.T) { f(t, true) })
}

// noiseFrame has a body that does not compress.
func noiseFrame(stream int16, bodyLen int) Frame {
	f := AppendHeader(nil, V5, false, 0, stream, OpQuery, bodyLen)
	random := rand.New(rand.NewPCG(uint64(stream), uint64(bodyLen)))
	for range bodyLen {
		f = append(f, byte(random.Uint32()))
	}
	return f
}

// mixedFrames are frames of sizes around every edge there is.
func mixedFrames() (frames []Frame, stream []byte) {
	sizes := []int{0, 1, 4, 50, 54, 55, 56, 200, 16<<10 - HeaderLen, 16 << 10, 100 << 10, 30 << 10, 8,
		MaxSegmentPayload - HeaderLen, MaxSegmentPayload - HeaderLen + 1, 2*MaxSegmentPayload - HeaderLen, 700 << 10, 0, 3}
	for i, n := range sizes {
		f := testFrame(int16(i), n)
		if i%3 == 2 {
			f = noiseFrame(int16(i), n)
		}
		frames = append(frames, f)
		stream = append(stream, f...)
	}
	return frames, stream
}

func TestTheOracleReadsSegments(t *testing.T) {
	t.Parallel()
	frames, stream := mixedFrames()
	bothHeaders(t, func(t *testing.T, compressed bool) {
		wire := AppendSegments([]byte("before"), stream, compressed)
		if !bytes.HasPrefix(wire, []byte("before")) {
			t.Fatal("dst is not kept")
		}
		src := bytes.NewReader(wire[len("before"):])
		left := frames
		var parts []byte
		smaller := 0
		for src.Len() > 0 {
			seg, err := oracleSegments(compressed).DecodeSegment(src)
			if err != nil {
				t.Fatal(err)
			}
			payload := seg.Payload.UncompressedData
			if len(payload) == 0 || len(payload) > MaxSegmentPayload {
				t.Errorf("payload of %d bytes", len(payload))
			}
			if seg.Header.CompressedPayloadLength > 0 {
				if smaller++; int(seg.Header.CompressedPayloadLength) >= len(payload) {
					t.Errorf("%d bytes were compressed to %d", len(payload), seg.Header.CompressedPayloadLength)
				}
			}
			if !seg.Header.IsSelfContained {
				if parts = append(parts, payload...); len(parts) == len(left[0]) {
					if !bytes.Equal(parts, left[0]) || len(left[0]) <= MaxSegmentPayload {
						t.Fatalf("frame of %d bytes in parts differs, or needs none", len(left[0]))
					}
					left, parts = left[1:], nil
				}
				continue
			}
			if parts != nil {
				t.Fatal("a self-contained segment in the middle of a frame")
			}
			for len(payload) > 0 {
				if !bytes.HasPrefix(payload, left[0]) {
					t.Fatalf("frame %d is not whole", len(frames)-len(left))
				}
				payload, left = payload[len(left[0]):], left[1:]
			}
			if len(left) > 0 && len(seg.Payload.UncompressedData)+len(left[0]) <= MaxSegmentPayload {
				t.Error("the next frame fits too")
			}
		}
		if len(left) > 0 || parts != nil {
			t.Errorf("%d frames are missing", len(left))
		}
		if compressed != (smaller > 0) {
			t.Errorf("%d segments are compressed", smaller)
		}
	})
}

func TestSegmentReaderReadsWhatTheOracleWrites(t *testing.T) {
	t.Parallel()
	frames, stream := mixedFrames()
	bothHeaders(t, func(t *testing.T, compressed bool) {
		var wire bytes.Buffer
		for _, part := range cutAnyhow(stream, MaxSegmentPayload) {
			seg := &segment.Segment{Header: &segment.Header{}, Payload: &segment.Payload{UncompressedData: part}}
			if err := oracleSegments(compressed).EncodeSegment(seg, &wire); err != nil {
				t.Fatal(err)
			}
		}
		expectFrames(t, NewSegmentReader(bytes.NewReader(wire.Bytes()), compressed), frames)
	})
}

func TestAppendSegmentsLosesNothingThatIsNoFrame(t *testing.T) {
	t.Parallel()
	bothHeaders(t, func(t *testing.T, compressed bool) {
		for name, in := range map[string][]byte{
			"nothing":             nil,
			"part of a header":    testFrame(1, 0)[:5],
			"part of a body":      testFrame(1, 100)[:50],
			"a frame and a part":  append(testFrame(1, 10), testFrame(2, 10)[:3]...),
			"a claim of too much": AppendHeader(nil, V5, false, 0, 1, OpQuery, -1),
			"a lot of nothing":    bytes.Repeat([]byte{0xFF}, 300<<10),
		} {
			got, err := io.ReadAll(NewSegmentReader(bytes.NewReader(AppendSegments(nil, in, compressed)), compressed))
			if err != nil || !bytes.Equal(got, in) {
				t.Errorf("%s: got %d bytes of %d, error %v", name, len(got), len(in), err)
			}
		}
	})
}

func TestCRC24IsThatOfTheOracle(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		header, n := random.Uint64(), random.IntN(9)
		if got, want := crc24(header, n), crc.ChecksumKoopman(header, n); got != want {
			t.Fatalf("%d bytes of %x: got %x, want %x", n, header, got, want)
		}
	}
}

// cutAnyhow cuts b into random parts of at most most bytes.
func cutAnyhow(b []byte, most int) (parts [][]byte) {
	random := rand.New(rand.NewPCG(3, 4))
	for len(b) > 0 {
		n := min(len(b), 1+random.IntN(most))
		if random.IntN(2) == 0 {
			n = min(n, 1+random.IntN(40))
		}
		parts, b = append(parts, b[:n]), b[n:]
	}
	return parts
}

// expectFrames reads frames from src and then its end.
func expectFrames(t *testing.T, src Source, frames []Frame) {
	t.Helper()
	rd := NewReader(src, MaxBody)
	defer rd.Release()
	for i, want := range frames {
		if got, err := rd.Next(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("frame %d of %d bytes: got %d bytes, error %v", i, len(want), len(got), err)
		}
	}
	if _, err := rd.Next(); err != io.EOF {
		t.Errorf("after the last frame: %v, want EOF", err)
	}
}

func TestSegmentReaderReadsAStreamHoweverItArrives(t *testing.T) {
	t.Parallel()
	frames, stream := mixedFrames()
	bothHeaders(t, func(t *testing.T, compressed bool) {
		wire := AppendSegments(nil, stream, compressed)
		cut := cutAnyhow(wire, 40<<10)
		pieces := func() chunks { return chunks{left: append([][]byte(nil), cut...)} }
		sure := pieces()
		sure.with, sure.err = true, io.EOF
		lazy := &lazyChunks{pieces(), nil}
		for name, src := range map[string]Source{
			"at once": bytes.NewReader(wire), "in pieces": &sure, "lazily": lazy,
		} {
			t.Run(name, func(t *testing.T) {
				s := NewSegmentReader(src, compressed)
				lazy.idle = func() {
					if s.r == s.w && (s.buf != nil || s.plain != nil) {
						t.Error("a buffer is held while the source waits")
					}
				}
				expectFrames(t, s, frames)
				if s.buf != nil || s.plain != nil {
					t.Error("a buffer is held after the end")
				}
			})
		}
		t.Run("into little room", func(t *testing.T) {
			s := NewSegmentReader(bytes.NewReader(wire), compressed)
			var got []byte
			for p := make([]byte, 1000); ; {
				n, err := s.Read(p)
				if got = append(got, p[:n]...); err == io.EOF {
					break
				} else if err != nil || n == 0 {
					t.Fatalf("%d bytes, error %v", n, err)
				}
			}
			if !bytes.Equal(got, stream) || s.buf != nil || s.plain != nil {
				t.Errorf("got %d bytes, want %d; or a buffer is held", len(got), len(stream))
			}
		})
	})
}

func TestNeitherReaderHoldsABufferWhileALazySourceWaits(t *testing.T) {
	t.Parallel()
	bothHeaders(t, func(t *testing.T, compressed bool) {
		var s *SegmentReader
		var rd *Reader
		src := &lazyChunks{chunks{left: [][]byte{
			AppendSegments(nil, testFrame(1, 30), compressed),
			appendSegment(nil, nil, true, compressed), // an empty one
			AppendSegments(nil, append(testFrame(2, 300), testFrame(3, 20<<10)...), compressed),
		}}, func() {
			if rd.buf != nil || s.plain != nil || (s.buf != nil && s.r == s.w) {
				t.Error("a buffer is held while the source waits")
			}
		}}
		s = NewSegmentReader(src, compressed)
		rd = NewReader(s, MaxBody)
		for want := int16(1); want <= 3; want++ {
			if f, err := rd.Next(); err != nil || f.Stream() != want {
				t.Fatalf("frame %d: error %v", want, err)
			}
		}
		if _, err := rd.Next(); err != io.EOF {
			t.Errorf("got %v, want EOF", err)
		}
	})
}

func TestSegmentReaderGivesSeveralSegmentsInOneRead(t *testing.T) {
	t.Parallel()
	bothHeaders(t, func(t *testing.T, compressed bool) {
		var wire []byte
		for i := range int16(5) {
			wire = AppendSegments(wire, testFrame(i, 200), compressed)
		}
		rd := NewReader(NewSegmentReader(&chunks{left: [][]byte{wire}}, compressed), MaxBody)
		for i := range int16(5) {
			if f, err := rd.Next(); err != nil || f.Stream() != i || rd.HasNext() != (i < 4) {
				t.Fatalf("frame %d: error %v, has next %v", i, err, rd.HasNext())
			}
		}
	})
}

func TestABrokenSegmentIsToldAndNothingAfterItIsRead(t *testing.T) {
	t.Parallel()
	bothHeaders(t, func(t *testing.T, compressed bool) {
		first := AppendSegments(nil, testFrame(1, 100), compressed)
		second := AppendSegments(nil, testFrame(2, 100), compressed)
		headerLen := 6
		if compressed {
			headerLen = 8
		}
		for i := range second {
			for bit := range 8 {
				broken := append([]byte(nil), second...)
				broken[i] ^= 1 << bit
				s := NewSegmentReader(bytes.NewReader(append(append(first[:len(first):len(first)], broken...), first...)), compressed)
				rd := NewReader(s, MaxBody)
				if _, err := rd.Next(); err != nil {
					t.Fatal(err)
				}
				part := "payload"
				if i < headerLen {
					part = "header"
				}
				for range 2 {
					var sum *CRCError
					if _, err := rd.Next(); !errors.As(err, &sum) || sum.Part != part || sum.Got == sum.Want {
						t.Fatalf("byte %d: got %v, want a CRCError of the %s", i, err, part)
					}
				}
				s.Release()
			}
		}
	})
}

func TestATruncatedSegmentIsUnexpectedEOF(t *testing.T) {
	t.Parallel()
	bothHeaders(t, func(t *testing.T, compressed bool) {
		wire := AppendSegments(nil, testFrame(1, 100), compressed)
		for n := range wire {
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if _, err := NewReader(NewSegmentReader(bytes.NewReader(wire[:n]), compressed), MaxBody).Next(); err != want {
				t.Errorf("%d bytes: got %v, want %v", n, err, want)
			}
		}
		wire = AppendSegments(nil, testFrame(1, 300<<10), compressed)
		h, err := readSegmentHeader(wire, compressed)
		if err != nil {
			t.Fatal(err)
		}
		rd := NewReader(NewSegmentReader(bytes.NewReader(wire[:h.total]), compressed), MaxBody)
		if _, err := rd.Next(); err != io.ErrUnexpectedEOF {
			t.Errorf("between the segments of one frame: got %v", err)
		}
	})
}

// sealed is an LZ4 segment whose sums are right whatever it says.
func sealed(payload []byte, plain int) []byte {
	b := appendSegment(nil, payload, true, true)
	header := uint64(len(payload)) | uint64(plain)<<17
	sum := crc24(header, compressedSegmentHeader)
	for i := range 5 {
		b[i] = byte(header >> (8 * i))
	}
	b[5], b[6], b[7] = byte(sum), byte(sum>>8), byte(sum>>16)
	return b
}

func TestASegmentThatCannotBeDecompressedIsMalformed(t *testing.T) {
	t.Parallel()
	plain := testFrame(1, 1000)
	good := make([]byte, 1000)
	good = good[:compressLZ4(good, plain)]
	for name, wire := range map[string][]byte{
		"nothing":        sealed(nil, 100),
		"too little":     sealed(good, len(plain)+1),
		"too much":       sealed(good, len(plain)-1),
		"cut":            sealed(good[:len(good)-1], len(plain)),
		"another one":    sealed([]byte{0xFF, 0xFF, 0xFF}, MaxSegmentPayload),
		"a far distance": sealed([]byte{0x10, 1, 0xFF, 0xFF, 0}, 50),
	} {
		for _, room := range []int{1, 10, MaxSegmentPayload} {
			var malformed *MalformedError
			s := NewSegmentReader(bytes.NewReader(wire), true)
			if n, err := s.Read(make([]byte, room)); n != 0 || !errors.As(err, &malformed) {
				t.Errorf("%s: %d bytes, error %v", name, n, err)
			}
			s.Release()
		}
	}
	got, err := io.ReadAll(NewSegmentReader(bytes.NewReader(sealed(good, len(plain))), true))
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("the good one: %d bytes, error %v", len(got), err)
	}
}

func TestSegmentReaderGoesOnAfterADeadline(t *testing.T) {
	t.Parallel()
	bothHeaders(t, func(t *testing.T, compressed bool) {
		wire := AppendSegments(nil, testFrame(1, 100), compressed)
		deadline := errors.New("deadline")
		src := &chunks{err: deadline}
		rd := NewReader(NewSegmentReader(src, compressed), MaxBody)
		for i := range wire {
			if _, err := rd.Next(); err != deadline {
				t.Fatalf("after %d bytes: got %v", i, err)
			}
			src.left = [][]byte{wire[i : i+1]}
		}
		if f, err := rd.Next(); err != nil || !bytes.Equal(f, testFrame(1, 100)) {
			t.Errorf("%d bytes, error %v", len(f), err)
		}
	})
}

func TestASuccessorGoesOnWhereverAReaderStopped(t *testing.T) {
	t.Parallel()
	frames := []Frame{testFrame(1, 40), testFrame(2, 0), noiseFrame(3, 200<<10), testFrame(4, 150<<10), testFrame(5, 20)}
	var stream []byte
	for _, f := range frames {
		stream = append(stream, f...)
	}
	stopped := errors.New("stopped")
	bothHeaders(t, func(t *testing.T, compressed bool) {
		wire := AppendSegments(nil, stream, compressed)
		random := rand.New(rand.NewPCG(5, 6))
		for try := range 200 {
			at := random.IntN(len(wire))
			if try < 60 {
				at = try
			}
			src := &chunks{left: [][]byte{wire[:at:at]}, err: stopped}
			s := NewSegmentReader(src, compressed)
			rd := NewReader(s, MaxBody)
			left := frames
			// Sometimes it stops before it has used what it has read.
			for n := random.IntN(2 * len(frames)); n > 0; n-- {
				f, err := rd.Next()
				if err == stopped {
					break
				}
				if err != nil || !bytes.Equal(f, left[0]) {
					t.Fatalf("cut at %d: %d bytes, error %v", at, len(f), err)
				}
				left = left[1:]
			}
			unread := s.AppendUnread(nil, rd.Buffered())
			if len(src.left) > 0 {
				unread = append(unread, src.left[0]...)
			}
			rd.Release()
			s.Release()
			next := NewSegmentReader(io.MultiReader(bytes.NewReader(unread), bytes.NewReader(wire[at:])), compressed)
			expectFrames(t, next, left)
		}
	})
}

func TestAReleasedSegmentReaderReturnsNothing(t *testing.T) {
	t.Parallel()
	s := NewSegmentReader(bytes.NewReader(AppendSegments(nil, testFrame(1, 100), false)), false)
	if _, err := s.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if decoded, raw := s.Buffered(); len(decoded) != 99 || len(raw) != 0 {
		t.Errorf("%d bytes decoded, %d raw", len(decoded), len(raw))
	}
	s.Release()
	if n, err := s.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("%d bytes, error %v", n, err)
	}
}

func TestSegmentReaderTakesMemoryForWhatArrived(t *testing.T) {
	t.Parallel()
	wire := AppendSegments(nil, noiseFrame(1, 100<<10), false)
	s := NewSegmentReader(&chunks{left: [][]byte{wire[:10]}, err: io.ErrClosedPipe}, false)
	if _, err := s.Read(make([]byte, 10)); err != io.ErrClosedPipe || len(s.buf) > buffer.Ordinary {
		t.Errorf("buffer of %d bytes for 10, error %v", len(s.buf), err)
	}
}
