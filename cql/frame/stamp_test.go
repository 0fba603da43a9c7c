package frame

import (
	"bytes"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/message"
)

// A stamped request is, byte by byte, what the oracle writes for the same one with
// a timestamp.
func TestAStampedRequestIsWhatTheOracleWrites(t *testing.T) {
	const micros = int64(1_700_000_000_123_456)
	eachVersion(t, func(t *testing.T, v Version) {
		check := func(name string, f Frame, parse func([]byte) (Params, error), want Frame) {
			t.Helper()
			p, err := parse(f.Body())
			if err != nil {
				t.Fatal(err)
			}
			got := p.AppendStamped(nil, f, HeaderLen, micros)
			if !bytes.Equal(got, want) {
				t.Errorf("%s:\ngot  % x\nwant % x", name, []byte(got), []byte(want))
			}
		}
		for name, o := range optionCases(v) {
			if o.DefaultTimestamp != nil {
				continue
			}
			stamped := *o
			ts := micros
			stamped.DefaultTimestamp = &ts
			check("QUERY "+name, encode(t, v, 5, &message.Query{Query: "q", Options: o}),
				func(b []byte) (Params, error) { q, err := ParseQuery(b, v); return q.Params, err },
				encode(t, v, 5, &message.Query{Query: "q", Options: &stamped}))
			check("EXECUTE "+name, encode(t, v, 5, &message.Execute{QueryId: []byte("id"), ResultMetadataId: []byte("m"), Options: o}),
				func(b []byte) (Params, error) { e, err := ParseExecute(b, v); return e.Params, err },
				encode(t, v, 5, &message.Execute{QueryId: []byte("id"), ResultMetadataId: []byte("m"), Options: &stamped}))
			batch := message.Batch{
				Children:    []*message.BatchChild{{Query: "q"}, {Id: []byte("id"), Values: o.PositionalValues}},
				Consistency: o.Consistency, SerialConsistency: o.SerialConsistency, Keyspace: o.Keyspace, NowInSeconds: o.NowInSeconds,
			}
			with := batch
			with.DefaultTimestamp = &ts
			check("BATCH "+name, encode(t, v, 5, &batch),
				func(b []byte) (Params, error) { q, err := ParseBatch(b, v); return q.Params, err }, encode(t, v, 5, &with))
		}
	})
}
