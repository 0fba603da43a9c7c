package metrics

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

type clusterVectors struct {
	failed   *prometheus.CounterVec
	duration *prometheus.HistogramVec
	connFail *prometheus.CounterVec
}

type nodeKey struct {
	side phase.Side
	node string
}

func (m *Metrics) registerNodes(o Options) {
	for _, s := range phase.Sides {
		buckets := o.OriginBuckets
		if s == phase.Target {
			buckets = o.TargetBuckets
		}
		m.cluster[s] = clusterVectors{
			failed:   m.counters(s.String()+"_requests_failed_total", "Requests that a node failed, by error.", "node", "error"),
			duration: m.histograms(s.String()+"_request_duration_seconds", "Latency of a node.", buckets, "node", "type"),
			connFail: m.counters(s.String()+"_failed_connections_total", "Connections to a node that could not be opened.", "node"),
		}
	}
	m.async = clusterVectors{
		failed:   m.counters("async_requests_failed_total", "Copies of reads that a node failed, by error.", "node", "error"),
		duration: m.histograms("async_request_duration_seconds", "Latency of a node for copies of reads.", o.AsyncBuckets, "node", "type"),
		connFail: m.counters("async_failed_connections_total", "Connections that could not be opened to a node while it is to get copies of reads.", "node"),
	}
}

// handles are the series of one node.
type handles struct {
	reads, writes prometheus.Observer
	failed        [failures]prometheus.Counter
	connFail      prometheus.Counter
}

func (v clusterVectors) handles(node string) *handles {
	h := &handles{
		reads: v.duration.WithLabelValues(node, "reads"), writes: v.duration.WithLabelValues(node, "writes"),
		connFail: v.connFail.WithLabelValues(node),
	}
	for i, name := range failureNames {
		h.failed[i] = v.failed.WithLabelValues(node, name)
	}
	return h
}

// Node is the handles of one node.
type Node struct {
	m    *Metrics
	side phase.Side
	node string
	own  *handles
	// async are those for copies of reads: nil until the side gets copies for the
	// first time, as those series are not there before.
	async  atomic.Pointer[handles]
	copies atomic.Int64 // in flight
	// Copies of reads that were answered, and that failed. A series for copies is of
	// both sides, where both have a node of the address.
	copied, failedCopies atomic.Uint64
}

// Node returns the handles of a node, the same ones for each call. Its series
// exist from then on.
func (m *Metrics) Node(side phase.Side, node string) *Node {
	// A label of bytes that are no UTF-8 would fail the whole scrape.
	node = strings.ToValidUTF8(node, "?")
	m.mu.Lock()
	defer m.mu.Unlock()
	key := nodeKey{side, node}
	n := m.nodes[key]
	if n == nil {
		n = &Node{m: m, side: side, node: node, own: m.cluster[side].handles(node)}
		m.nodes[key] = n
		if m.copies[side].Load() {
			n.forCopies()
		}
	}
	return n
}

// SetCopies says whether a side gets copies of reads. The series of its nodes for
// them exist from the first time on.
func (m *Metrics) SetCopies(side phase.Side, on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.copies[side].Store(on)
	for _, n := range m.nodes {
		if on && n.side == side {
			n.forCopies()
		}
	}
}

// forCopies returns the series for copies of reads, and makes them if need be.
func (n *Node) forCopies() *handles {
	if n.async.Load() == nil {
		n.async.CompareAndSwap(nil, n.m.async.handles(n.node))
	}
	return n.async.Load()
}

func (n *Node) handles(shadow bool) *handles {
	if shadow {
		return n.forCopies()
	}
	return n.own
}

// Answered records the latency of a node.
func (n *Node) Answered(write, shadow bool, latency time.Duration) {
	h := n.handles(shadow)
	if shadow {
		n.copied.Add(1)
	}
	if write {
		h.writes.Observe(latency.Seconds())
	} else {
		h.reads.Observe(latency.Seconds())
	}
}

// Failed counts an error of a node.
func (n *Node) Failed(shadow bool, f Failure) {
	n.handles(shadow).failed[f].Inc()
	if shadow {
		n.failedCopies.Add(1)
		n.m.lastFailedCopy[n.side].now()
	}
}

// CopyBegan counts a copy of a read in that is sent to the node, and CopyEnded out.
func (n *Node) CopyBegan() { n.copies.Add(1) }

// CopyEnded counts it out.
func (n *Node) CopyEnded() { n.copies.Add(-1) }

// ConnectionOpened counts a connection that was opened.
func (n *Node) ConnectionOpened() { n.m.opened[n.side].Inc() }

// ConnectionFailed counts one that could not be. While the side gets copies of
// reads, it was to serve those too.
func (n *Node) ConnectionFailed() {
	n.own.connFail.Inc()
	if n.m.copies[n.side].Load() {
		n.forCopies().connFail.Inc()
	}
}

// NodeGauges is what a scrape asks of a side.
type NodeGauges struct {
	Node        string
	Connections int
	StreamIDs   int
}

// WatchNodes registers the gauges of each node of both sides, read at each scrape.
// Nodes that look does not tell, and that were there once, have 0.
func (m *Metrics) WatchNodes(look func(phase.Side) []NodeGauges) {
	c := &nodeCollector{m: m, look: look, async: asyncDescs{
		connections: prometheus.NewDesc(m.prefix+"async_connections_total",
			"Connections to a node that copies of reads may take: those that other requests take too.", []string{"node"}, nil),
		streams:  prometheus.NewDesc(m.prefix+"async_used_stream_ids_total", "Stream ids that copies of reads wait on.", []string{"node"}, nil),
		inFlight: prometheus.NewDesc(m.prefix+"async_inflight_requests_total", "Copies of reads in flight on a node.", []string{"node"}, nil),
	}}
	for _, s := range phase.Sides {
		c.connections[s] = prometheus.NewDesc(m.prefix+s.String()+"_connections_total", "Open connections to a node.", []string{"node"}, nil)
		c.streams[s] = prometheus.NewDesc(m.prefix+s.String()+"_used_stream_ids_total",
			"Stream ids in use on a node, those of late answers included.", []string{"node"}, nil)
	}
	m.Registry.MustRegister(c)
}

type asyncDescs struct{ connections, streams, inFlight *prometheus.Desc }

type nodeCollector struct {
	m                    *Metrics
	look                 func(phase.Side) []NodeGauges
	connections, streams [2]*prometheus.Desc
	async                asyncDescs
}

func (c *nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, s := range phase.Sides {
		ch <- c.connections[s]
		ch <- c.streams[s]
	}
	ch <- c.async.connections
	ch <- c.async.streams
	ch <- c.async.inFlight
}

// asyncGauges add up: where both sides have a node of the same address, it is one
// series.
type asyncGauges struct{ connections, copies float64 }

func (c *nodeCollector) Collect(ch chan<- prometheus.Metric) {
	async := make(map[string]asyncGauges)
	for _, side := range phase.Sides {
		now := make(map[string]NodeGauges)
		for _, g := range c.look(side) {
			now[strings.ToValidUTF8(g.Node, "?")] = g
		}
		for _, n := range c.m.nodesOf(side) {
			g := now[n.node]
			ch <- prometheus.MustNewConstMetric(c.connections[side], prometheus.GaugeValue, float64(g.Connections), n.node)
			ch <- prometheus.MustNewConstMetric(c.streams[side], prometheus.GaugeValue, float64(g.StreamIDs), n.node)
			if n.async.Load() == nil {
				continue
			}
			a := async[n.node]
			a.copies += float64(n.copies.Load())
			if c.m.copies[side].Load() {
				a.connections += float64(g.Connections)
			}
			async[n.node] = a
		}
	}
	for node, a := range async {
		ch <- prometheus.MustNewConstMetric(c.async.connections, prometheus.GaugeValue, a.connections, node)
		ch <- prometheus.MustNewConstMetric(c.async.streams, prometheus.GaugeValue, a.copies, node)
		ch <- prometheus.MustNewConstMetric(c.async.inFlight, prometheus.GaugeValue, a.copies, node)
	}
}

func (m *Metrics) nodesOf(side phase.Side) []*Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*Node
	for key, n := range m.nodes {
		if key.side == side {
			out = append(out, n)
		}
	}
	return out
}
