package frame

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/zdmproject/terraform-provider-zdm/internal/buffer"
)

// Source is what a Reader reads; it may also be a LazySource.
type Source = io.Reader

// LazySource is a source that waits without a buffer, so that an idle connection
// costs none: ReadLazily calls buf for memory, reads into it once, and gives the
// memory back with release when it finds that it must wait. It calls buf again
// before it tries again.
type LazySource interface {
	ReadLazily(buf func() []byte, release func()) (int, error)
}

// errReleased is for a Reader that is used after Release.
var errReleased = errors.New("frame reader is used after its release")

// maxEmptyReads is how many reads in a row may bring nothing, as in bufio.
const maxEmptyReads = 100

// Reader cuts a stream into frames. It holds a buffer of 16 KB while it has
// bytes of a frame (larger while a larger frame comes in), and none while a lazy
// source waits between frames. It is not safe for concurrent use.
type Reader struct {
	src     Source
	lazy    LazySource // src, if it is one
	maxBody int

	buf  []byte // nil: none held
	r, w int    // buf[r:w] is read but not yet returned

	broken  error // the stream cannot be cut any more
	pending error // came together with bytes; told after them

	take func() []byte // made once: a closure for each read would be an allocation
	give func()
}

// NewReader returns a reader of frames whose bodies have at most maxBody bytes.
func NewReader(src Source, maxBody int) *Reader {
	r := &Reader{src: src, maxBody: maxBody}
	r.lazy, _ = src.(LazySource)
	r.take = func() []byte {
		if r.buf == nil {
			r.buf = buffer.Take(buffer.Ordinary)
		}
		return r.buf[r.w:]
	}
	r.give = r.releaseIfEmpty
	return r
}

// SetMaxBody changes the bound of NewReader, for frames that Next has not begun
// to read.
func (r *Reader) SetMaxBody(n int) { r.maxBody = n }

// Next returns the next frame. The slice is valid, and may be changed, until
// the following call to Next or Release; a caller that keeps it must copy.
// It returns io.EOF only between frames, io.ErrUnexpectedEOF inside one,
// *LimitError before reading an oversized body, and *VersionError for a version
// that is not known; after these the connection must be closed. Any other error
// is the source's own (a deadline for one): Next may be called again, and goes
// on where it was.
func (r *Reader) Next() (Frame, error) {
	for {
		total, err := r.peek()
		if err != nil {
			return nil, err
		}
		if total > 0 && r.w-r.r >= total {
			f := Frame(r.buf[r.r : r.r+total : r.r+total])
			r.r += total
			return f, nil
		}
		if err := r.fill(total); err != nil {
			return nil, err
		}
	}
}

// HasNext reports whether a whole frame is in the buffer, so that Next returns
// it without reading the source. It is false for one that Next refuses.
func (r *Reader) HasNext() bool {
	b := r.buf[r.r:r.w]
	if len(b) < HeaderLen || !Frame(b).Version().Known() {
		return false
	}
	n := int64(binary.BigEndian.Uint32(b[5:]))
	return n <= int64(len(b)-HeaderLen) && n <= int64(r.maxBody)
}

// Buffered returns what was read from the source but not yet returned by Next.
// It is valid as long as a frame would be.
func (r *Reader) Buffered() []byte { return r.buf[r.r:r.w] }

// Release gives the buffer back; frames and bytes not returned yet are lost.
// The reader must not be used afterwards.
func (r *Reader) Release() {
	r.r, r.w = 0, 0
	r.releaseIfEmpty()
	r.broken = errReleased
}

// peek returns the length of the frame that begins at r.r, 0 if there are too
// few bytes to tell, or why there is no frame.
func (r *Reader) peek() (int, error) {
	if r.broken != nil {
		return 0, r.broken
	}
	b := r.buf[r.r:r.w]
	if len(b) == 0 {
		return 0, nil
	}
	if !Frame(b).Version().Known() {
		return 0, r.refuseVersion(b)
	}
	if len(b) < HeaderLen {
		return 0, nil
	}
	n := binary.BigEndian.Uint32(b[5:])
	switch {
	case n > 1<<31-1:
		r.broken = &MalformedError{What: "frame length"}
		return 0, r.broken
	case int64(n) > int64(r.maxBody):
		r.broken = &LimitError{Limit: r.maxBody, Got: int(n), Stream: Frame(b).Stream()}
		return 0, r.broken
	}
	return HeaderLen + int(n), nil
}

// refuseVersion returns nil while the stream id is not there yet. It is at byte
// 2 in all versions: one byte in v1 and v2, two since.
func (r *Reader) refuseVersion(b []byte) error {
	e := &VersionError{Got: byte(Frame(b).Version())}
	switch {
	case e.Got < byte(V3) && len(b) >= 3:
		e.Stream = int16(int8(b[2]))
	case len(b) >= 4:
		e.Stream = Frame(b).Stream()
	default:
		return nil
	}
	r.broken = e
	return e
}

// fill reads once from the source. total is the length of the frame that is
// begun in the buffer, 0 if that is not known yet.
func (r *Reader) fill(total int) error {
	if err := r.pending; err != nil {
		r.pending = nil
		return r.end(err)
	}
	for range maxEmptyReads {
		n, err := r.read(total)
		r.w += n
		if n > 0 {
			r.pending = err
			return nil
		}
		if err != nil {
			r.releaseIfEmpty()
			return r.end(err)
		}
	}
	return io.ErrNoProgress
}

func (r *Reader) read(total int) (int, error) {
	if r.r == r.w {
		r.r, r.w = 0, 0
		if r.lazy != nil || len(r.buf) > buffer.Ordinary {
			r.releaseIfEmpty()
		}
		if r.lazy != nil {
			return r.lazy.ReadLazily(r.take, r.give)
		}
		return r.src.Read(r.take())
	}
	r.makeRoom(total)
	return r.src.Read(r.buf[r.w:])
}

// makeRoom moves the begun frame to the front of a buffer with room for more of
// it. A frame that does not fit gets four times the memory that it has filled,
// never at once what its header claims: memory is bounded by what the peer has
// sent. A large buffer is left when what is begun fits a small one.
func (r *Reader) makeRoom(total int) {
	have := r.w - r.r
	size := len(r.buf)
	switch {
	case have == size:
		size = min(4*size, max(total, size+1))
	case size > buffer.Ordinary && total > 0 && total <= buffer.Ordinary && have <= buffer.Ordinary/2:
		size = buffer.Ordinary
	case r.r == 0:
		return
	}
	if size == len(r.buf) {
		copy(r.buf, r.buf[r.r:r.w])
	} else {
		b := buffer.Take(size)
		copy(b, r.buf[r.r:r.w])
		buffer.Give(r.buf)
		r.buf = b
	}
	r.r, r.w = 0, have
}

func (r *Reader) releaseIfEmpty() {
	if r.r == r.w && r.buf != nil {
		buffer.Give(r.buf)
		r.buf, r.r, r.w = nil, 0, 0
	}
}

// end is what the caller hears when the source says err now.
func (r *Reader) end(err error) error {
	if err != io.EOF || r.r == r.w {
		return err
	}
	if v := Frame(r.buf[r.r:r.w]).Version(); !v.Known() {
		return &VersionError{Got: byte(v)}
	}
	return io.ErrUnexpectedEOF
}
