package proxy

import (
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/metrics"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/timestamp"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// watch registers what is read at each scrape.
func (s *Server) watch() {
	m := s.env.Metrics
	m.Gauge("pscache_entries_total", "Prepared statements that the proxy remembers.", "", func() float64 { return float64(s.env.Cache.Len()) })
	m.Gauge("proxy_client_waiting_bytes", "Bytes of answers that wait for clients to read them.", "", func() float64 {
		n := 0
		for _, ses := range s.snapshot() {
			n += ses.WaitingBytes()
		}
		return float64(n)
	})
	m.Gauge("proxy_memory_bytes", "Bytes of requests and answers on their way, of all clients.", "", func() float64 { return float64(s.env.Budget.Used()) })
	m.Gauge("proxy_memory_limit_bytes", "Bytes that they may be: proxy_max_memory_bytes, or its default here.", "",
		func() float64 { return float64(s.env.Budget.Limit()) })
	for _, side := range phase.Sides {
		m.Gauge("upstream_pools", "Pools of connections: one for each credentials, keyspace and protocol version in use.", side.String(),
			func() float64 { return float64(s.env.Clusters[side].Len()) })
		m.Counter("upstream_connections_grown_total", "Connections that were added to pools because of their load.", side.String(),
			func() float64 { return float64(s.env.Clusters[side].Grown()) })
		m.Counter("upstream_connections_shrunk_total", "Connections that were taken from pools since fewer carry their load.", side.String(),
			func() float64 { return float64(s.env.Clusters[side].Shrunk()) })
		m.Gauge("upstream_waiting_bytes", "Bytes of requests that wait for nodes to read them.", side.String(), func() float64 {
			n := 0
			for _, node := range s.env.Clusters[side].Stats() {
				n += node.WaitingBytes
			}
			return float64(n)
		})
	}
	m.WatchNodes(func(side phase.Side) []metrics.NodeGauges { return nodeGauges(s.env.Clusters[side].Stats()) })
	m.WatchPhase(s.Phase)
	m.WatchClocks(func(side phase.Side) (ahead, uncertainty time.Duration, ok bool) {
		skew, ok := s.skew(side)
		return skew.Ahead, skew.Uncertainty, ok
	})
	m.Gauge("proxy_timestamps_active", "1 while writes that come without a timestamp get the proxy's.", "", func() float64 {
		if s.env.Timestamps != nil && s.env.Timestamps.Active() {
			return 1
		}
		return 0
	})
}

// skew is how a side's clock stands to this machine's.
func (s *Server) skew(side phase.Side) (timestamp.Skew, bool) {
	m, ok := s.env.Clusters[side].Control().Clock()
	return timestamp.Skew{Ahead: m.Ahead, Uncertainty: m.Uncertainty}, ok
}

// timestampsChanged tells that writes get timestamps, or no more.
func (s *Server) timestampsChanged(active bool, why string) {
	if active {
		s.env.Log.Info("writes get timestamps", "because", why)
		return
	}
	s.env.Faults.Add(why)
	s.env.Log.Warn("writes get no timestamps; each cluster gives its own", "because", why)
}

func nodeGauges(stats []upstream.NodeStats) []metrics.NodeGauges {
	out := make([]metrics.NodeGauges, len(stats))
	for i, n := range stats {
		out[i] = metrics.NodeGauges{Node: n.Node, Connections: n.Connections, StreamIDs: n.StreamIDs}
	}
	return out
}
