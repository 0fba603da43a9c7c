package session

import (
	"errors"

	"github.com/zdmproject/terraform-provider-zdm/proxy/metrics"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// countLoss records a leg without an answer in its node's metrics.
func (ex *exchange) countLoss(l *leg, err error) {
	if !ex.counted && !ex.shadow {
		return
	}
	node := ""
	failure := metrics.OtherFailure
	var e *upstream.LostError
	if errors.As(err, &e) {
		node = e.Node
		if e.Sent && errors.Is(e, upstream.ErrTimeout) {
			failure = metrics.NoAnswer
		}
	}
	if node != "" {
		ex.s.env.Metrics.Node(l.side, node).Failed(ex.shadow, failure)
	}
}
