package frame

import (
	"encoding/binary"
	"io"

	"github.com/zdmproject/terraform-provider-zdm/internal/buffer"
)

// SegmentReader reads segments and is the source of what is in them, so that a
// Reader of frames sits on top of it as it would on the connection. Both sums of
// a segment are right before a byte of it is told. It holds a buffer of 16 KB
// while it has bytes of a segment (of 136 KB while a larger one comes in, and
// one more while what it decompressed is not all read), and none while a lazy
// source waits between segments. It is not safe for concurrent use.
type SegmentReader struct {
	src        Source
	lazy       LazySource // src, if it is one
	compressed bool

	buf  []byte // nil: none held
	r, w int    // buf[r:w] is read but not yet decoded

	out   []byte // decoded but not yet told; in buf in front of r, or in plain
	plain []byte // nil: none held

	broken  error // the stream cannot be decoded any more
	pending error // came together with bytes; told after them

	take func() []byte // made once: a closure for each read would be an allocation
	give func()
}

// NewSegmentReader returns a reader of the segments that src has from its next
// byte on; compressed is whether LZ4 was agreed on.
func NewSegmentReader(src Source, compressed bool) *SegmentReader {
	s := &SegmentReader{src: src, compressed: compressed}
	s.lazy, _ = src.(LazySource)
	s.take = func() []byte {
		if s.buf == nil {
			s.buf = buffer.Take(buffer.Ordinary)
		}
		return s.buf[s.w:]
	}
	s.give = s.releaseIfEmpty
	return s
}

// Read reads what is in the segments that have arrived, as many of them as p has
// room for, and waits only if there is none. It returns io.EOF only between
// segments, io.ErrUnexpectedEOF inside one, and *CRCError or *MalformedError
// (which cannot be decompressed) for a broken one; after these the connection
// must be closed. Any other error is the source's own (a deadline for one): Read
// may be called again, and goes on where it was.
func (s *SegmentReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if err := s.wait(); err != nil {
			return 0, err
		}
		if n, err := s.deliver(p); n > 0 || err != nil {
			return n, err
		}
	}
}

// ReadLazily is Read for who has no buffer yet: it calls buf when there is
// something to read.
func (s *SegmentReader) ReadLazily(buf func() []byte, release func()) (int, error) {
	for {
		if err := s.wait(); err != nil {
			return 0, err
		}
		if n, err := s.deliver(buf()); n > 0 || err != nil {
			return n, err
		}
		release()
	}
}

// Buffered returns what was read from the source but not yet told: the decoded
// bytes, and the segments after them. Both are valid until the next read.
func (s *SegmentReader) Buffered() (decoded, raw []byte) { return s.out, s.buf[s.r:s.w] }

// AppendUnread appends all that was read from the source and not yet used, as
// the source would have given it: a successor reads it first, then the source,
// with a new SegmentReader. frames is what the Reader on top has read from s and
// not yet returned (its Buffered), nil if there is no such reader. What was
// decoded is put into segments again.
func (s *SegmentReader) AppendUnread(dst, frames []byte) []byte {
	dst = appendParts(dst, frames, s.compressed)
	dst = appendParts(dst, s.out, s.compressed)
	return append(dst, s.buf[s.r:s.w]...)
}

// Release gives the buffers back; what is in them is lost. The reader must not
// be used afterwards.
func (s *SegmentReader) Release() {
	s.r, s.w, s.out = 0, 0, nil
	s.releaseIfEmpty()
	s.broken = errReleased
}

// wait returns when there is something to deliver, or an error.
func (s *SegmentReader) wait() error {
	for len(s.out) == 0 {
		if s.broken != nil {
			return s.broken
		}
		h, err := readSegmentHeader(s.buf[s.r:s.w], s.compressed)
		if err != nil {
			s.broken = err
			return err
		}
		if h.total > 0 && s.w-s.r >= h.total {
			return nil
		}
		if err := s.fill(); err != nil {
			return err
		}
	}
	return nil
}

// deliver copies what there is to p, without reading the source. It may be
// nothing: segments may be empty.
func (s *SegmentReader) deliver(p []byte) (n int, err error) {
	n = copy(p, s.out)
	s.out = s.out[n:]
	for len(s.out) == 0 && n < len(p) {
		k, ok, err := s.decode(p[n:])
		if err != nil {
			s.broken = err
			if n == 0 {
				return 0, err
			}
			break // told after the bytes in front of it
		}
		if !ok {
			break
		}
		n += k
	}
	s.releaseIfEmpty()
	return n, nil
}

// decode decodes the next segment into p, and what does not fit there into out.
// It reports whether the buffer has a whole one.
func (s *SegmentReader) decode(p []byte) (n int, ok bool, err error) {
	b := s.buf[s.r:s.w]
	h, err := readSegmentHeader(b, s.compressed)
	if err != nil || h.total == 0 || len(b) < h.total {
		return 0, false, err
	}
	end := h.begin + h.length
	payload := b[h.begin:end]
	if got, want := binary.LittleEndian.Uint32(b[end:]), crcPayload(payload); got != want {
		return 0, false, &CRCError{Part: "payload", Got: got, Want: want}
	}
	s.r += h.total
	switch {
	case h.plain == 0:
		n = copy(p, payload)
		s.out = payload[n:]
		return n, true, nil
	case h.plain <= len(p):
		return h.plain, true, decompressLZ4(p[:h.plain:h.plain], payload)
	}
	s.releasePlain()
	s.plain = buffer.Take(h.plain)
	plain := s.plain[:h.plain:h.plain]
	if err := decompressLZ4(plain, payload); err != nil {
		return 0, false, err
	}
	n = copy(p, plain)
	s.out = plain[n:]
	return n, true, nil
}

// fill reads once from the source. There is nothing in out.
func (s *SegmentReader) fill() error {
	if err := s.pending; err != nil {
		s.pending = nil
		return s.end(err)
	}
	for range maxEmptyReads {
		n, err := s.read()
		s.w += n
		if n > 0 {
			s.pending = err
			return nil
		}
		if err != nil {
			s.releaseIfEmpty()
			return s.end(err)
		}
	}
	return io.ErrNoProgress
}

func (s *SegmentReader) read() (int, error) {
	if s.r == s.w {
		s.releaseIfEmpty()
		if s.lazy != nil {
			return s.lazy.ReadLazily(s.take, s.give)
		}
		return s.src.Read(s.take())
	}
	s.makeRoom()
	return s.src.Read(s.buf[s.w:])
}

// makeRoom moves the begun segment to the front of a buffer with room for more
// of it. One that fills the small buffer gets one that is enough for any.
func (s *SegmentReader) makeRoom() {
	have := s.w - s.r
	switch {
	case have == len(s.buf):
		b := buffer.Take(maxSegment)
		copy(b, s.buf[s.r:s.w])
		buffer.Give(s.buf)
		s.buf = b
	case s.r == 0:
		return
	default:
		copy(s.buf, s.buf[s.r:s.w])
	}
	s.r, s.w = 0, have
}

func (s *SegmentReader) releaseIfEmpty() {
	if len(s.out) > 0 {
		return
	}
	s.out = nil
	s.releasePlain()
	if s.r == s.w && s.buf != nil {
		buffer.Give(s.buf)
		s.buf, s.r, s.w = nil, 0, 0
	}
}

func (s *SegmentReader) releasePlain() {
	if s.plain != nil {
		buffer.Give(s.plain)
		s.plain = nil
	}
}

// end is what the caller hears when the source says err now.
func (s *SegmentReader) end(err error) error {
	if err == io.EOF && s.r != s.w {
		return io.ErrUnexpectedEOF
	}
	return err
}
