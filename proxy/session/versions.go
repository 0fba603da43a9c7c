package session

import (
	"fmt"
	"slices"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// refuseVersion tells a client which versions are served, in Cassandra's words:
// gocql reads the greatest version out of them, others look for the beginning,
// and all look at the version of this very frame. The stream id is 0, as of all
// protocol errors: gocql steps down only then (CASSGO-97). It returns errRefused, or
// why nothing was told: what is served is not known, and the client is to come again.
func (s *Session) refuseVersion(got byte) error {
	lowest, greatest, err := s.env.bounds(s.ctx)
	if err != nil {
		return err
	}
	s.client.Version = max(greatest, frame.V3)
	s.client.RespondError(&s.batch, 0, frame.ErrorBody{
		Code:    frame.ErrProtocol,
		Message: fmt.Sprintf("Invalid or unsupported protocol version (%d); the lowest supported version is %d and the greatest is %d", got, lowest, greatest),
	})
	return errRefused
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
	for _, v := range standard {
		// What cannot be asked now is left out.
		if served, err := s.env.serves(s.ctx, v); err == nil && served {
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
	options := []frame.Option{{Name: "CQL_VERSION", Values: cql}, {Name: "COMPRESSION", Values: compression}, {Name: "PROTOCOL_VERSIONS", Values: versions}}
	if len(product) > 0 {
		options = append(options, frame.Option{Name: "PRODUCT_TYPE", Values: product})
	}
	s.client.Respond(&s.batch, f.Stream(), frame.Supported(s.client.Version, options))
}

// cqlVersion is told while no cluster was asked: that of the oldest Cassandra
// served.
const cqlVersion = "3.4.5"
