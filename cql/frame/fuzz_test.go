package frame

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/zdmproject/terraform-provider-zdm/internal/buffer"
)

// FuzzReader: whatever arrives, however it is cut, there is no panic, the frames
// are the bytes that came, and memory stays near to what came.
func FuzzReader(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add([]byte(append(testFrame(1, 20), testFrame(2, 0)...)), uint8(1))
	f.Add([]byte{2, 0, 0xFF, 5}, uint8(0))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint8(2))
	f.Add(AppendHeader(nil, V5, true, 0, -1, OpEvent, 1<<28), uint8(1))
	f.Add(AppendHeader(nil, DSE1, false, 0, 1, OpOptions, -1), uint8(2))
	f.Fuzz(func(t *testing.T, in []byte, how uint8) {
		const maxBody = 1 << 28
		var src io.Reader = bytes.NewReader(in)
		switch how % 3 {
		case 1:
			src = iotest.HalfReader(src)
		case 2:
			src = &loopOnce{bytes.NewReader(in)}
		}
		rd := NewReader(src, maxBody)
		defer rd.Release()
		rest := in
		for {
			hasNext := rd.HasNext()
			frame, err := rd.Next()
			if hasNext && err != nil {
				t.Fatalf("has a next frame, but %v", err)
			}
			if len(rd.buf) > max(buffer.Ordinary, 16*len(in)) {
				t.Fatalf("buffer of %d bytes for %d", len(rd.buf), len(in))
			}
			if err != nil {
				var version *VersionError
				var limit *LimitError
				var malformed *MalformedError
				switch {
				case err == io.EOF && len(rest) == 0, err == io.ErrUnexpectedEOF && len(rest) > 0:
				case errors.As(err, &version) && version.Got == rest[0]&0x7F && !Version(version.Got).Known():
				case errors.As(err, &limit), errors.As(err, &malformed):
				default:
					t.Fatalf("%v with %d bytes left", err, len(rest))
				}
				return
			}
			if !bytes.HasPrefix(rest, frame) || len(frame) < HeaderLen {
				t.Fatalf("frame % x is not the start of % x", []byte(frame), rest)
			}
			rest = rest[len(frame):]
			splitAny(t, frame)
		}
	})
}

type loopOnce struct{ io.Reader }

func (l *loopOnce) ReadLazily(buf func() []byte, _ func()) (int, error) { return l.Read(buf()) }

func splitAny(t *testing.T, f Frame) {
	if r, err := SplitResponse(f); err == nil && !bytes.Equal(f[r.BodyOffset:], r.Body) {
		t.Fatalf("body of % x is not at %d", []byte(f), r.BodyOffset)
	}
	if body, at, err := SplitRequest(f); err == nil && !bytes.Equal(f[at:], body) {
		t.Fatalf("body of % x is not at %d", []byte(f), at)
	}
}

// FuzzViews: no body makes a view panic, and offsets point at what they say.
func FuzzViews(f *testing.F) {
	for _, v := range versions {
		for _, view := range views {
			f.Add(view.sample(f, v).Body(), byte(v))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, version byte) {
		v := versions[int(version)%len(versions)]
		for _, known := range versions {
			if known == Version(version) {
				v = known
			}
		}
		for _, view := range views {
			_ = view.read(body, v)
		}
		at := func(what string, offset int, part []byte) {
			if part != nil && (offset < 0 || offset+len(part) > len(body) || !bytes.Equal(body[offset:offset+len(part)], part)) {
				t.Fatalf("%s is not at %d", what, offset)
			}
		}
		if e, err := ParseExecute(body, v); err == nil {
			at("id", e.IDOffset, e.ID)
			at("result metadata id", e.ResultMetadataIDOffset, e.ResultMetadataID)
			at("paging state", e.Params.PagingStateOffset+4, e.Params.PagingState)
			at("flags", e.Params.FlagsOffset, []byte{byte(e.Params.Flags)})
			at("consistency", e.Params.ConsistencyOffset, AppendShort(nil, uint16(e.Params.Consistency)))
			if e.Params.HasTimestamp {
				at("timestamp", e.Params.TimestampOffset, AppendLong(nil, e.Params.Timestamp))
			}
			n := 0
			for it := e.Params.Values(body); it.Next(); n++ {
			}
			if n != e.Params.ValuesCount {
				t.Fatalf("%d values of %d", n, e.Params.ValuesCount)
			}
		}
		if b, err := ParseBatch(body, v); err == nil {
			n := 0
			it := b.Children()
			for ; it.Next(); n++ {
				at("id", it.IDOffset, it.ID)
			}
			if n != b.Count || it.Err() != nil {
				t.Fatalf("%d children of %d, error %v", n, b.Count, it.Err())
			}
		}
		if p, err := ParsePrepared(body, v); err == nil {
			at("id", p.IDOffset, p.ID)
			at("result metadata", len(body)-len(p.Rest)-len(p.Result), p.Result)
		}
		if state, offset, ok := RowsPaging(body); ok {
			at("paging state", offset, AppendBytes(nil, state))
		}
		_, _ = SetKeyspace(body)
	})
}

// FuzzSegments: whatever arrives, however it is cut, there is no panic and
// memory is bounded; and whatever is sent comes back.
func FuzzSegments(f *testing.F) {
	for _, compressed := range []bool{false, true} {
		whole := AppendSegments(nil, append(testFrame(1, 20), testFrame(2, 900)...), compressed)
		f.Add(whole, compressed, uint8(0))
		f.Add(whole[:len(whole)-9], compressed, uint8(1))
	}
	f.Add(sealed([]byte{0xFF, 0xFF, 0xFF, 0xFF}, MaxSegmentPayload), true, uint8(2))
	f.Add([]byte{0x1F, 1, 1, 0, 20, 0x50, 1, 2, 3, 4, 5}, true, uint8(4)) // sealed below
	f.Add([]byte(testFrame(1, 100)), false, uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, compressed bool, how uint8) {
		wire := in
		if how&4 != 0 && compressed { // right sums around anything
			wire = sealed(in[:min(len(in), MaxSegmentPayload)], 40*len(in)%MaxSegmentPayload)
		}
		var src io.Reader = bytes.NewReader(wire)
		switch how % 3 {
		case 1:
			src = iotest.HalfReader(src)
		case 2:
			src = &loopOnce{bytes.NewReader(wire)}
		}
		s := NewSegmentReader(src, compressed)
		rd := NewReader(s, MaxBody)
		var err error
		for err == nil {
			_, err = rd.Next()
			if len(s.buf) > buffer.Segment || len(s.plain) > buffer.Segment || len(rd.buf) > max(buffer.Ordinary, 16*256*len(wire)) {
				t.Fatalf("buffers of %d, %d and %d bytes for %d", len(s.buf), len(s.plain), len(rd.buf), len(wire))
			}
		}
		rd.Release()
		s.Release()
		var sum *CRCError
		var malformed *MalformedError
		var version *VersionError
		var limit *LimitError
		if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.As(err, &sum) && !errors.As(err, &malformed) &&
			!errors.As(err, &version) && !errors.As(err, &limit) {
			t.Fatalf("got %v", err)
		}
		back, err := io.ReadAll(NewSegmentReader(bytes.NewReader(AppendSegments(nil, in, compressed)), compressed))
		if err != nil || !bytes.Equal(back, in) {
			t.Fatalf("%d bytes came back of %d: %v", len(back), len(in), err)
		}
	})
}

// FuzzCompression: no body makes decompression panic, or take more memory than
// what came can stand for; what it gives comes back from compression.
func FuzzCompression(f *testing.F) {
	for _, c := range []Compression{LZ4, Snappy} {
		f.Add(byte(c), Frame(c.AppendCompressed(nil, testFrame(1, 300))).Body())
		f.Add(byte(c), claiming(c, 1<<20, 1, 2, 3).Body())
		f.Add(byte(c), claiming(c, 0).Body())
	}
	f.Fuzz(func(t *testing.T, which byte, body []byte) {
		c := LZ4 + Compression(which%2)
		in := append(Frame(AppendHeader(nil, V4, false, FlagCompressed, 1, OpQuery, len(body))), body...)
		// Bytes behind dst are somebody else's.
		guarded := append(make([]byte, 0, 4096), bytes.Repeat([]byte{0xA5}, 4096)...)
		out, err := c.AppendDecompressed(guarded[:0:2048], in)
		if bytes.Count(guarded[2048:], []byte{0xA5}) != 2048 {
			t.Fatal("bytes behind the buffer are changed")
		}
		if err != nil {
			return
		}
		if len(out) > HeaderLen+256*len(body) || cap(out) > 2*(2048+len(out)) {
			t.Fatalf("%d bytes, capacity %d, of %d", len(out), cap(out), len(body))
		}
		again, err := c.AppendDecompressed(nil, c.AppendCompressed(nil, out))
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%d bytes do not come back: %v", len(out), err)
		}
	})
}
