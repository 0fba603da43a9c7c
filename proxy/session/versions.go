package session

import (
	"fmt"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// refuseVersion tells a client which versions are served, in Cassandra's words:
// gocql reads the greatest version out of them, others look for the beginning,
// and all look at the version of this very frame. The stream id is 0, as of all
// protocol errors: gocql steps down only then (CASSGO-97).
func (s *Session) refuseVersion(got byte) {
	lowest, greatest := s.env.bounds(s.ctx)
	s.client.Version = max(greatest, frame.V3)
	s.client.RespondError(&s.batch, 0, frame.ErrorBody{
		Code:    frame.ErrProtocol,
		Message: fmt.Sprintf("Invalid or unsupported protocol version (%d); the lowest supported version is %d and the greatest is %d", got, lowest, greatest),
	})
}

// respondSupported answers OPTIONS.
func (s *Session) respondSupported(f frame.Frame) {
	compression := []string{frame.LZ4.String()}
	if s.client.Version != frame.V5 {
		compression = append(compression, frame.Snappy.String())
	}
	var versions []string
	for _, v := range known {
		if v <= frame.V5 && s.env.serves(s.ctx, v) {
			versions = append(versions, fmt.Sprintf("%d/v%d", v, v))
		}
	}
	out := frame.AppendHeader(nil, s.client.Version, true, 0, f.Stream(), frame.OpSupported, 0)
	out = frame.AppendShort(out, 3)
	for _, option := range []struct {
		name   string
		values []string
	}{{"CQL_VERSION", []string{cqlVersion}}, {"COMPRESSION", compression}, {"PROTOCOL_VERSIONS", versions}} {
		out = frame.AppendString(out, option.name)
		out = frame.AppendStringList(out, option.values)
	}
	frame.PutLength(out)
	s.client.Respond(&s.batch, f.Stream(), out)
}

// cqlVersion is what SUPPORTED tells: that of the oldest Cassandra served.
const cqlVersion = "3.4.5"
