package frame

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
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
			if len(rd.buf) > max(smallBuffer, 16*len(in)) {
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
