package session

import (
	"errors"
	"fmt"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// refuseVersion tells a client which versions are served, in Cassandra's words:
// gocql reads the greatest version out of them, others look for the beginning,
// and all look at the version of this very frame. The stream id is 0, as of all
// protocol errors: gocql steps down only then (CASSGO-97).
func (s *Session) refuseVersion(got byte) {
	lowest, greatest := s.env.bounds(s.ctx)
	s.version = max(greatest, frame.V3)
	s.respondError(&s.batch, 0, frame.ErrorBody{
		Code:    frame.ErrProtocol,
		Message: fmt.Sprintf("Invalid or unsupported protocol version (%d); the lowest supported version is %d and the greatest is %d", got, lowest, greatest),
	})
}

// respondSupported answers OPTIONS.
func (s *Session) respondSupported(f frame.Frame) {
	compression := []string{frame.LZ4.String()}
	if s.version != frame.V5 {
		compression = append(compression, frame.Snappy.String())
	}
	var versions []string
	for _, v := range known {
		if v <= frame.V5 && s.env.serves(s.ctx, v) {
			versions = append(versions, fmt.Sprintf("%d/v%d", v, v))
		}
	}
	out := frame.AppendHeader(nil, s.version, true, 0, f.Stream(), frame.OpSupported, 0)
	out = frame.AppendShort(out, 3)
	for _, option := range []struct {
		name   string
		values []string
	}{{"CQL_VERSION", []string{cqlVersion}}, {"COMPRESSION", compression}, {"PROTOCOL_VERSIONS", versions}} {
		out = frame.AppendString(out, option.name)
		out = frame.AppendStringList(out, option.values)
	}
	frame.PutLength(out)
	s.respond(&s.batch, f.Stream(), out)
}

// cqlVersion is what SUPPORTED tells: that of the oldest Cassandra served.
const cqlVersion = "3.4.5"

// agree has the session go over to what STARTUP agreed on, behind the answer to
// it: segments in v5, compression, or neither. Nodes are spoken to without
// compression whatever the client wants: they are near, and their pools are
// shared by clients that want different ones.
func (s *Session) agree(c frame.Compression) error {
	s.compression = c
	if s.version != frame.V5 && c == frame.NoCompression {
		return nil
	}
	s.endBurst()
	s.out.Drain()
	if s.version == frame.V5 {
		if len(s.in.Buffered()) > 0 {
			return errors.New("a client sent more before STARTUP was answered")
		}
		s.in.Release()
	}
	s.speak(s.nc)
	return nil
}

// speak sets up both directions for the version and compression of the session.
func (s *Session) speak(src frame.Source) {
	lz4 := s.compression == frame.LZ4
	switch {
	case s.version == frame.V5:
		s.segments = frame.NewSegmentReader(src, lz4)
		s.in = frame.NewReader(s.segments, frame.MaxBody)
		s.boundBody()
		s.out.SetEncode(func(dst, frames []byte) []byte { return frame.AppendSegments(dst, frames, lz4) })
	case s.compression != frame.NoCompression:
		s.out.SetEncode(s.compression.AppendAllCompressed)
	}
}

// decompress returns the frame as the rest of the session reads it, valid until
// the next one.
func (s *Session) decompress(f frame.Frame) (frame.Frame, error) {
	if s.compression == frame.NoCompression || s.version == frame.V5 {
		return nil, errors.New("compressed frame, but no compression was agreed on")
	}
	if cap(s.plain) > keepRequest {
		s.plain = nil
	}
	var err error
	s.plain, err = s.compression.AppendDecompressed(s.plain[:0], f)
	return s.plain, err
}

// unreadBytes is what was read from the client and not handled, as it came from
// the socket.
func (s *Session) unreadBytes() []byte {
	if s.segments != nil {
		return s.segments.AppendUnread(nil, s.in.Buffered())
	}
	return s.in.Buffered()
}
