package cqltest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/datastax/go-cassandra-native-protocol/compression/lz4"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"github.com/datastax/go-cassandra-native-protocol/segment"
)

const (
	headerLen = 9 // version, flags, stream id (2), opcode, body length (4): native_protocol_v4.spec section 2
	maxBody   = 256 << 20
	// maxPayload is the largest of a segment: native_protocol_v5.spec section 2.2.
	maxPayload = 128<<10 - 1
)

// wire reads and writes the whole frames of one connection: bare ones, or in the
// segments of v5 once that was agreed on. Reading is for one goroutine.
type wire struct {
	nc net.Conn

	// Owned by the goroutine that reads.
	from    *bufio.Reader
	payload []byte // of the segments that were read, and not returned as frames

	writeMu sync.Mutex // held while frames are written, so that they stay whole

	segments atomic.Pointer[segment.Codec] // nil: bare frames
}

func newWire(nc net.Conn) *wire { return &wire{nc: nc, from: bufio.NewReader(nc)} }

// agreed has both directions go over to what STARTUP agreed on, after READY or
// AUTHENTICATE: native_protocol_v5.spec section 2.3.1.
func (w *wire) agreed(v primitive.ProtocolVersion, compressed bool) {
	if !v.SupportsModernFramingLayout() {
		return
	}
	codec := segment.NewCodec()
	if compressed {
		codec = segment.NewCodecWithCompression(lz4.Compressor{})
	}
	w.segments.Store(&codec)
}

// read returns the next whole frame, of an unknown version too.
func (w *wire) read() ([]byte, error) {
	for {
		if len(w.payload) > 0 {
			source := bytes.NewReader(w.payload)
			if raw, err := readFrame(source); err != io.EOF && err != io.ErrUnexpectedEOF {
				w.payload = w.payload[len(w.payload)-source.Len():]
				return raw, err
			}
		}
		// What follows may have been agreed on while this goroutine waits for it.
		if _, err := w.from.Peek(1); err != nil {
			return nil, err
		}
		codec := w.segments.Load()
		if codec == nil {
			return readFrame(w.from)
		}
		s, err := (*codec).DecodeSegment(w.from)
		if err != nil {
			return nil, fmt.Errorf("segment: %w", err)
		}
		if s.Header.IsSelfContained && len(w.payload) > 0 {
			return nil, fmt.Errorf("segment: self-contained, though %d bytes of a frame came before it", len(w.payload))
		}
		w.payload = append(w.payload, s.Payload.UncompressedData...)
	}
}

// readFrame returns one whole frame, of an unknown version too.
func readFrame(r io.Reader) ([]byte, error) {
	header := make([]byte, headerLen)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := int32(binary.BigEndian.Uint32(header[5:]))
	if header[0] < 3 { // v1 and v2: a stream id of one byte
		size = int32(binary.BigEndian.Uint32(header[4:])) - 1
	}
	if size < 0 || size > maxBody {
		return nil, fmt.Errorf("frame with a body of %d bytes", size)
	}
	raw := make([]byte, headerLen+int(size))
	copy(raw, header)
	_, err := io.ReadFull(r, raw[headerLen:])
	return raw, err
}

// write writes one frame, or the beginning of one, in one write.
func (w *wire) write(frame []byte) error {
	if codec := w.segments.Load(); codec != nil {
		var out bytes.Buffer
		whole := len(frame) <= maxPayload
		for len(frame) > 0 {
			n := min(len(frame), maxPayload)
			s := segment.Segment{Header: &segment.Header{IsSelfContained: whole}, Payload: &segment.Payload{UncompressedData: frame[:n]}}
			if err := (*codec).EncodeSegment(&s, &out); err != nil {
				return fmt.Errorf("segment: %w", err)
			}
			frame = frame[n:]
		}
		frame = out.Bytes()
	}
	return w.writeBytes(frame)
}

func (w *wire) writeBytes(b []byte) error {
	w.writeMu.Lock()
	defer w.writeMu.Unlock()
	_, err := w.nc.Write(b)
	return err
}
