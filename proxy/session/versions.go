package session

import (
	"fmt"
	"slices"

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

// respondSupported answers OPTIONS. Of what the clusters offer it passes on the
// versions of CQL, one of which cqlsh -cqlversion must find there, and the
// product: Astra's has drivers write at LOCAL_QUORUM, without which it refuses.
// The rest is about one node, such as the shard of a ScyllaDB connection.
func (s *Session) respondSupported(f frame.Frame) {
	compression := []string{frame.LZ4.String()}
	if s.client.Version != frame.V5 {
		compression = append(compression, frame.Snappy.String())
	}
	var versions, cql, product []string
	for _, v := range known {
		if v <= frame.V5 && s.env.serves(s.ctx, v) {
			versions = append(versions, fmt.Sprintf("%d/v%d", v, v))
		}
	}
	for _, offer := range s.env.offers() {
		for _, v := range offer["CQL_VERSION"] {
			if !slices.Contains(cql, v) {
				cql = append(cql, v)
			}
		}
		if len(product) == 0 {
			product = offer["PRODUCT_TYPE"]
		}
	}
	if len(cql) == 0 {
		cql = []string{cqlVersion}
	}
	type option struct {
		name   string
		values []string
	}
	options := []option{{"CQL_VERSION", cql}, {"COMPRESSION", compression}, {"PROTOCOL_VERSIONS", versions}}
	if len(product) > 0 {
		options = append(options, option{"PRODUCT_TYPE", product})
	}
	out := frame.AppendHeader(nil, s.client.Version, true, 0, f.Stream(), frame.OpSupported, 0)
	out = frame.AppendShort(out, uint16(len(options)))
	for _, o := range options {
		out = frame.AppendString(out, o.name)
		out = frame.AppendStringList(out, o.values)
	}
	frame.PutLength(out)
	s.client.Respond(&s.batch, f.Stream(), out)
}

// cqlVersion is told while no cluster was asked: that of the oldest Cassandra
// served.
const cqlVersion = "3.4.5"
