package proxy_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestATracedRequestHasOneIDOnBothSides(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"tracing_enabled": "true", "tracing_request_id_key": "trace"})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	id := prepare(t, c, insert)
	for _, m := range []message.Message{
		&message.Query{Query: insert, Options: &message.QueryOptions{}},
		&message.Execute{QueryId: id, Options: &message.QueryOptions{}},
		&message.Batch{Children: []*message.BatchChild{{Query: insert}, {Id: id}}},
	} {
		mustVoid(t, c.Ask(t, m))
	}
	own := gcnp.NewFrame(primitive.ProtocolVersion4, 0, &message.Query{Query: insert, Options: &message.QueryOptions{}})
	own.SetCustomPayload(map[string][]byte{"trace": {7}})
	mustVoid(t, c.Await(t, c.SendFrame(own)).Frame.Body.Message)
	var ids [2][][]byte
	for _, s := range phase.Sides {
		for _, r := range w.side(s).WaitFor(t, 5, cqltest.NotSystem) {
			ids[s] = append(ids[s], r.Payload["trace"])
		}
	}
	seen := map[string]bool{}
	for i, id := range ids[phase.Origin] {
		if other := ids[phase.Target][i]; !bytes.Equal(id, other) {
			t.Errorf("request %d came with %x to Origin and %x to Target", i, id, other)
		}
		if last := i == len(ids[phase.Origin])-1; last != bytes.Equal(id, []byte{7}) || !last && len(id) != 16 {
			t.Errorf("request %d came with %x", i, id)
		}
		seen[hex.EncodeToString(id)] = true
	}
	if len(seen) != 5 {
		t.Errorf("5 requests have the ids %v", seen)
	}
	for _, f := range scrape(t, w) {
		if f.GetName() != "zdm_proxy_request_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, b := range m.GetHistogram().GetBucket() {
				if e := b.GetExemplar(); e != nil && seen[e.GetLabel()[0].GetValue()] {
					return
				}
			}
		}
	}
	t.Error("no latency has the id of a request as its exemplar")
}
