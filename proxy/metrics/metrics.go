// Package metrics is the proxy's Prometheus metrics, by the names of ZDM Proxy
// (gauges that end in _total are its, and dashboards need them).
//
// Floor 2. Hot paths hold the handles that New and Node resolve, so that a
// request costs a few atomic additions and no look-up. All methods may be
// called from any goroutine; none is started.
package metrics

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Type is a kind of client request, as the label "type" tells it.
type Type uint8

// The kinds.
const (
	ReadsOrigin Type = iota
	ReadsTarget
	Writes
	types
)

var typeNames = [types]string{"reads_origin", "reads_target", "writes"}

// TypeOf is the kind of a request by who answers it.
func TypeOf(write bool, answer phase.Side) Type {
	switch {
	case write:
		return Writes
	case answer == phase.Target:
		return ReadsTarget
	}
	return ReadsOrigin
}

// Request is a kind of frame, as the label "kind" tells it.
type Request uint8

// The kinds.
const (
	Query Request = iota
	Execute
	Batch
)

var requestNames = [...]string{"query", "execute", "batch"}

// Options name the metrics and their buckets.
type Options struct {
	Prefix                                     string
	OriginBuckets, TargetBuckets, AsyncBuckets []time.Duration
}

// Metrics is the whole set, registered in its own registry.
type Metrics struct {
	Registry *prometheus.Registry

	// InFlight counts client requests by Type.
	InFlight [types]atomic.Int64
	// Clients counts client connections.
	Clients atomic.Int64
	// Requests and Failures since start, for the status.
	Requests, Failures atomic.Uint64
	// CacheMisses counts EXECUTEs of ids that the cache does not know.
	CacheMisses prometheus.Counter

	duration     [types]prometheus.Observer
	failedReads  [2]prometheus.Counter
	failedWrites [3]prometheus.Counter
	failedConns  [2]prometheus.Counter
	mended       [2]prometheus.Counter
	unstamped    [len(requestNames)]prometheus.Counter

	cluster [2]clusterVectors
	async   clusterVectors

	mu    sync.Mutex
	nodes map[nodeKey]*Node
}

type clusterVectors struct {
	failed   *prometheus.CounterVec
	duration *prometheus.HistogramVec
	connFail *prometheus.CounterVec
}

type nodeKey struct {
	side phase.Side
	node string
}

// Both is the index of failed writes that failed on both sides.
const Both = 2

// New registers the metrics. Every series that has no node label exists from
// the start, with 0.
func New(o Options) *Metrics {
	m := &Metrics{Registry: prometheus.NewRegistry(), nodes: make(map[nodeKey]*Node)}
	p := o.Prefix + "_"
	counterVec := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: p + name, Help: help}, labels)
		m.Registry.MustRegister(v)
		return v
	}
	histVec := func(name, help string, buckets []time.Duration, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: p + name, Help: help, Buckets: seconds(buckets)}, labels)
		m.Registry.MustRegister(v)
		return v
	}
	gauge := func(name, help string, labels prometheus.Labels, f func() float64) {
		m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: p + name, Help: help, ConstLabels: labels}, f))
	}
	perType := [types][]time.Duration{ReadsOrigin: o.OriginBuckets, ReadsTarget: o.TargetBuckets, Writes: o.OriginBuckets}
	for t := range types {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: p + "proxy_request_duration_seconds", Help: "Latency of client requests, by kind.",
			Buckets: seconds(perType[t]), ConstLabels: prometheus.Labels{"type": typeNames[t]},
		})
		m.Registry.MustRegister(h)
		m.duration[t] = h
		gauge("proxy_inflight_requests_total", "Client requests in flight, by kind.", prometheus.Labels{"type": typeNames[t]},
			func() float64 { return float64(m.InFlight[t].Load()) })
	}
	reads := counterVec("proxy_failed_reads_total", "Reads that failed, by the cluster that failed them.", "cluster")
	writes := counterVec("proxy_failed_writes_total", "Writes that failed, by the cluster that failed them.", "failed_on")
	conns := counterVec("proxy_failed_connections_total", "Client logins that failed, by the cluster that failed them.", "cluster")
	mended := counterVec("proxy_reprepared_total", "UNPREPARED answers that the proxy mended on the node that gave them.", "cluster")
	for _, s := range phase.Sides {
		m.failedReads[s] = reads.WithLabelValues(s.String())
		m.failedWrites[s] = writes.WithLabelValues(s.String())
		m.failedConns[s] = conns.WithLabelValues(s.String())
		m.mended[s] = mended.WithLabelValues(s.String())
	}
	unstamped := counterVec("proxy_requests_without_timestamp_total",
		"Writes that each cluster gives a timestamp of its own, since neither the request nor its text has one, by request.", "kind")
	for i, name := range requestNames {
		m.unstamped[i] = unstamped.WithLabelValues(name)
	}
	m.failedWrites[Both] = writes.WithLabelValues("both")
	gauge("client_connections_total", "Client connections.", nil, func() float64 { return float64(m.Clients.Load()) })
	m.CacheMisses = prometheus.NewCounter(prometheus.CounterOpts{Name: p + "pscache_miss_total", Help: "EXECUTEs of statements that the proxy does not know."})
	m.Registry.MustRegister(m.CacheMisses)
	for _, s := range phase.Sides {
		buckets := o.OriginBuckets
		if s == phase.Target {
			buckets = o.TargetBuckets
		}
		m.cluster[s] = clusterVectors{
			failed:   counterVec(s.String()+"_requests_failed_total", "Requests that a node failed, by error.", "node", "error"),
			duration: histVec(s.String()+"_request_duration_seconds", "Latency of a node.", buckets, "node", "type"),
			connFail: counterVec(s.String()+"_failed_connections_total", "Connections to a node that could not be opened.", "node"),
		}
	}
	m.async = clusterVectors{
		failed:   counterVec("async_requests_failed_total", "Copies of reads that a node failed, by error.", "node", "error"),
		duration: histVec("async_request_duration_seconds", "Latency of a node for copies of reads.", o.AsyncBuckets, "node", "type"),
	}
	return m
}

// Gauge registers a gauge of one node-less value, such as the cache's size.
func (m *Metrics) Gauge(o Options, name, help string, f func() float64) {
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: o.Prefix + "_" + name, Help: help}, f))
}

func seconds(buckets []time.Duration) []float64 {
	out := make([]float64, len(buckets))
	for i, b := range buckets {
		out[i] = b.Seconds()
	}
	return out
}

// Began counts a client request in.
func (m *Metrics) Began(t Type) {
	m.InFlight[t].Add(1)
	m.Requests.Add(1)
}

// Ended counts it out. Its latency counts also if it failed.
func (m *Metrics) Ended(t Type, latency time.Duration) {
	m.InFlight[t].Add(-1)
	m.duration[t].Observe(latency.Seconds())
}

// FailedRead counts a read that a side failed.
func (m *Metrics) FailedRead(side phase.Side) {
	m.Failures.Add(1)
	m.failedReads[side].Inc()
}

// FailedWrite counts a write that the sides of the set failed.
func (m *Metrics) FailedWrite(sides phase.Set) {
	m.Failures.Add(1)
	switch {
	case sides == phase.Both:
		m.failedWrites[Both].Inc()
	case sides.Has(phase.Target):
		m.failedWrites[phase.Target].Inc()
	default:
		m.failedWrites[phase.Origin].Inc()
	}
}

// FailedLogin counts a client that a side refused.
func (m *Metrics) FailedLogin(side phase.Side) { m.failedConns[side].Inc() }

// Unstamped counts a write without a timestamp.
func (m *Metrics) Unstamped(r Request) { m.unstamped[r].Inc() }

// Mended counts an UNPREPARED that the client did not see.
func (m *Metrics) Mended(side phase.Side) { m.mended[side].Inc() }

// Node is the handles of one node.
type Node struct {
	reads, writes prometheus.Observer
	asyncReads    prometheus.Observer
	failed        *prometheus.CounterVec
	asyncFailed   *prometheus.CounterVec
	connFail      prometheus.Counter
	node          string
}

// Node returns the handles of a node, the same ones for each call.
func (m *Metrics) Node(side phase.Side, node string) *Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := nodeKey{side, node}
	n := m.nodes[key]
	if n == nil {
		v := m.cluster[side]
		n = &Node{
			reads: v.duration.WithLabelValues(node, "reads"), writes: v.duration.WithLabelValues(node, "writes"),
			asyncReads: m.async.duration.WithLabelValues(node, "reads"),
			failed:     v.failed, asyncFailed: m.async.failed,
			connFail: v.connFail.WithLabelValues(node), node: node,
		}
		m.nodes[key] = n
	}
	return n
}

// Answered records the latency of a node.
func (n *Node) Answered(write, shadow bool, latency time.Duration) {
	switch {
	case shadow:
		n.asyncReads.Observe(latency.Seconds())
	case write:
		n.writes.Observe(latency.Seconds())
	default:
		n.reads.Observe(latency.Seconds())
	}
}

// Failed counts an error of a node by ZDM's word for it.
func (n *Node) Failed(shadow bool, word string) {
	v := n.failed
	if shadow {
		v = n.asyncFailed
	}
	v.WithLabelValues(n.node, word).Inc()
}

// ConnectionFailed counts a connection that could not be opened.
func (n *Node) ConnectionFailed() { n.connFail.Inc() }

// ErrorWord is ZDM's label for an error code.
func ErrorWord(code frame.ErrorCode) string {
	switch code {
	case frame.ErrReadTimeout:
		return "read_timeout"
	case frame.ErrReadFailure:
		return "read_failure"
	case frame.ErrWriteTimeout:
		return "write_timeout"
	case frame.ErrWriteFailure:
		return "write_failure"
	case frame.ErrOverloaded:
		return "overloaded"
	case frame.ErrUnavailable:
		return "unavailable"
	case frame.ErrUnprepared:
		return "unprepared"
	}
	return "other"
}

// NoAnswer is the label for a node that did not answer in time.
const NoAnswer = "client_timeout"

// NodeGauges is what a scrape asks of a side.
type NodeGauges struct {
	Node        string
	Connections int
	InFlight    int
}

// WatchNodes registers the gauges of each node of a side, read at each scrape.
func (m *Metrics) WatchNodes(o Options, side phase.Side, look func() []NodeGauges) {
	p := o.Prefix + "_" + side.String() + "_"
	m.Registry.MustRegister(&nodeCollector{
		look:        look,
		connections: prometheus.NewDesc(p+"connections_total", "Open connections to a node.", []string{"node"}, nil),
		streams:     prometheus.NewDesc(p+"used_stream_ids_total", "Stream ids in use on a node.", []string{"node"}, nil),
	})
}

type nodeCollector struct {
	look                 func() []NodeGauges
	connections, streams *prometheus.Desc
}

func (c *nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.connections
	ch <- c.streams
}

func (c *nodeCollector) Collect(ch chan<- prometheus.Metric) {
	for _, g := range c.look() {
		// A label of bytes that are no UTF-8 would fail the whole scrape.
		node := strings.ToValidUTF8(g.Node, "?")
		ch <- prometheus.MustNewConstMetric(c.connections, prometheus.GaugeValue, float64(g.Connections), node)
		ch <- prometheus.MustNewConstMetric(c.streams, prometheus.GaugeValue, float64(g.InFlight), node)
	}
}
