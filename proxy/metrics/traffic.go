package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Traffic is a side's part of the metrics, for those who look at a status.
type Traffic struct {
	Reads, Writes                   uint64
	FailedReads, FailedWrites       uint64
	Copies, FailedCopies            uint64
	LastFailedWrite, LastFailedCopy time.Time
}

// moment is when something last happened; zero for never.
type moment struct{ unix atomic.Int64 } // in nanoseconds

func (m *moment) now() { m.unix.Store(time.Now().UnixNano()) }

func (m *moment) time() time.Time {
	if n := m.unix.Load(); n != 0 {
		return time.Unix(0, n).UTC()
	}
	return time.Time{}
}

// Traffic adds the series of a side up. It costs more than to count.
func (m *Metrics) Traffic(side phase.Side) Traffic {
	out := Traffic{
		FailedReads:     uint64(valueOf(m.failedReads[side]).GetCounter().GetValue()),
		FailedWrites:    uint64(valueOf(m.failedWrites[side]).GetCounter().GetValue() + valueOf(m.failedWrites[both]).GetCounter().GetValue()),
		LastFailedWrite: m.lastFailedWrite[side].time(),
		LastFailedCopy:  m.lastFailedCopy[side].time(),
	}
	for _, n := range m.nodesOf(side) {
		out.Reads += samples(n.own.reads)
		out.Writes += samples(n.own.writes)
		out.Copies += n.copied.Load()
		out.FailedCopies += n.failedCopies.Load()
	}
	return out
}

func valueOf(c prometheus.Metric) *dto.Metric {
	out := &dto.Metric{}
	if err := c.Write(out); err != nil {
		panic(err) // it has no reason to
	}
	return out
}

func samples(o prometheus.Observer) uint64 {
	return valueOf(o.(prometheus.Metric)).GetHistogram().GetSampleCount()
}
