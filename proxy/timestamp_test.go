package proxy_test

import (
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestWritesWithoutATimestampAreCounted(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	stamp := int64(1)
	ids := map[string][]byte{}
	for _, text := range []string{insert, insert + " USING TIMESTAMP 5", insert + " IF NOT EXISTS", "UPDATE ks.t SET c = c + 1 WHERE k = 1", sel, "TRUNCATE ks.t"} {
		ids[text] = prepare(t, c, text)
		for _, at := range []*int64{nil, &stamp} {
			c.Ask(t, &message.Query{Query: text, Options: &message.QueryOptions{DefaultTimestamp: at}})
			c.Ask(t, &message.Execute{QueryId: ids[text], Options: &message.QueryOptions{DefaultTimestamp: at}})
		}
	}
	stamped := &message.BatchChild{Query: insert + " USING TIMESTAMP 5"}
	for _, b := range []*message.Batch{
		{Children: []*message.BatchChild{stamped, {Query: insert}}},
		{Children: []*message.BatchChild{stamped, {Id: ids[insert]}}},
		{Children: []*message.BatchChild{stamped}},
		{Children: []*message.BatchChild{{Query: insert}}, DefaultTimestamp: &stamp},
		{Children: []*message.BatchChild{{Query: insert}, {Query: insert + " IF NOT EXISTS"}}},
		{Children: []*message.BatchChild{{Id: ids[insert]}}, Type: primitive.BatchTypeCounter},
	} {
		mustVoid(t, c.Ask(t, b))
	}
	got := map[string]float64{}
	families, err := w.srv.Metrics().Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "zdm_proxy_requests_without_timestamp_total" {
			for _, m := range f.GetMetric() {
				got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if diff := cmp.Diff(map[string]float64{"query": 1, "execute": 1, "batch": 2}, got); diff != "" {
		t.Errorf("writes without timestamp (-want +got):\n%s", diff)
	}
}
