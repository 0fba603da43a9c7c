// Package metrics is the proxy's Prometheus metrics: those of ZDM Proxy by its
// names (gauges that end in _total are its, and dashboards need them), and our own
// beside them.
//
// Floor 2. Hot paths hold the handles that New and Node resolve, so that a
// request costs a few atomic additions and no look-up. All methods may be
// called from any goroutine; none is started.
package metrics

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

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
	// Failures since start, for the status.
	Failures atomic.Uint64
	// CacheMisses counts EXECUTEs of ids that the cache does not know.
	CacheMisses prometheus.Counter

	duration     [types]prometheus.Histogram
	failedReads  [2]prometheus.Counter
	failedWrites [3]prometheus.Counter
	// When a write and a copy of a read last failed, by side.
	lastFailedWrite, lastFailedCopy [2]moment

	failedConns [2]prometheus.Counter

	requests  [phases][statements]atomic.Uint64
	mended    [2]prometheus.Counter
	again     [2]prometheus.Counter
	opened    [2]prometheus.Counter
	unstamped [requests]prometheus.Counter
	stamped   [requests]prometheus.Counter
	rejected  [limits]prometheus.Counter
	moved     prometheus.Counter
	drained   prometheus.Counter

	prefix  string
	cluster [2]clusterVectors
	async   clusterVectors
	copies  [2]atomic.Bool // a side gets copies of reads now

	mu    sync.Mutex
	nodes map[nodeKey]*Node
}

// both is the index of failed writes that failed on both sides.
const both = 2

// New registers the metrics. Every series that has no node label exists from
// the start, with 0.
func New(o Options) *Metrics {
	m := &Metrics{Registry: prometheus.NewRegistry(), nodes: make(map[nodeKey]*Node), prefix: o.Prefix + "_"}
	m.registerZDM(o)
	m.registerNodes(o)
	m.registerOwn()
	return m
}

// registerZDM makes what ZDM Proxy has, apart from nodes.
func (m *Metrics) registerZDM(o Options) {
	perType := [types][]time.Duration{ReadsOrigin: o.OriginBuckets, ReadsTarget: o.TargetBuckets, Writes: o.OriginBuckets}
	for t := range types {
		m.duration[t] = prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: m.prefix + "proxy_request_duration_seconds", Help: "Latency of client requests, by kind.",
			Buckets: seconds(perType[t]), ConstLabels: prometheus.Labels{"type": typeNames[t]},
		})
		m.Registry.MustRegister(m.duration[t])
		m.gauge("proxy_inflight_requests_total", "Client requests in flight, by kind.", prometheus.Labels{"type": typeNames[t]},
			func() float64 { return float64(m.InFlight[t].Load()) })
	}
	reads := m.counters("proxy_failed_reads_total", "Reads that failed, by the cluster that failed them.", "cluster")
	writes := m.counters("proxy_failed_writes_total", "Writes that failed, by the cluster that failed them.", "failed_on")
	conns := m.counters("proxy_failed_connections_total", "Client logins that failed, by the cluster that failed them.", "cluster")
	for _, s := range phase.Sides {
		m.failedReads[s] = reads.WithLabelValues(s.String())
		m.failedWrites[s] = writes.WithLabelValues(s.String())
		m.failedConns[s] = conns.WithLabelValues(s.String())
	}
	m.failedWrites[both] = writes.WithLabelValues("both")
	m.gauge("client_connections_total", "Client connections.", nil, func() float64 { return float64(m.Clients.Load()) })
	m.CacheMisses = m.counters("pscache_miss_total", "EXECUTEs of statements that the proxy does not know.").WithLabelValues()
}

// registerOwn makes what ZDM Proxy does not have.
func (m *Metrics) registerOwn() {
	m.Registry.MustRegister(&requestCollector{m, prometheus.NewDesc(m.prefix+"proxy_requests_total",
		"Client requests, by the phase in which they were routed and what they do.", []string{"phase", "statement"}, nil)})
	mended := m.counters("proxy_reprepared_total", "UNPREPARED answers that the proxy mended on the node that gave them.", "cluster")
	again := m.counters("proxy_sent_again_total", "Requests that went to another connection since theirs broke before anything was sent.", "cluster")
	opened := m.counters("upstream_connections_opened_total", "Connections to nodes that were opened.", "cluster")
	for _, s := range phase.Sides {
		m.mended[s] = mended.WithLabelValues(s.String())
		m.again[s] = again.WithLabelValues(s.String())
		m.opened[s] = opened.WithLabelValues(s.String())
	}
	unstamped := m.counters("proxy_requests_without_timestamp_total",
		"Writes of which neither the request nor the text has a timestamp, by request.", "kind")
	stamped := m.counters("proxy_timestamps_set_total", "Writes that got their timestamp from the proxy, by request.", "kind")
	for i, name := range requestNames {
		m.unstamped[i] = unstamped.WithLabelValues(name)
		m.stamped[i] = stamped.WithLabelValues(name)
	}
	rejected := m.counters("proxy_rejected_total", "Clients and requests that were refused or made to wait because of a limit.", "limit")
	for i, name := range limitNames {
		m.rejected[i] = rejected.WithLabelValues(name)
	}
	m.moved = m.counters("proxy_clients_moved_total", "Clients that went on with the process that took over.").WithLabelValues()
	m.drained = m.counters("proxy_clients_drained_total", "Clients that were closed between two requests because the proxy drains.").WithLabelValues()
	m.gauge("build_info", "1, with the version of the proxy and of Go.",
		prometheus.Labels{"version": buildinfo.Version(), "go_version": runtime.Version()}, func() float64 { return 1 })
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.prefix + name, Help: help}, labels)
	m.Registry.MustRegister(v)
	return v
}

func (m *Metrics) histograms(name, help string, buckets []time.Duration, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: m.prefix + name, Help: help, Buckets: seconds(buckets)}, labels)
	m.Registry.MustRegister(v)
	return v
}

func (m *Metrics) gauge(name, help string, labels prometheus.Labels, f func() float64) {
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: m.prefix + name, Help: help, ConstLabels: labels}, f))
}

// Gauge registers a gauge that is read at each scrape. cluster is its label; ""
// for none.
func (m *Metrics) Gauge(name, help, cluster string, f func() float64) {
	m.gauge(name, help, ofCluster(cluster), f)
}

// Counter registers a counter that is read at each scrape, as Gauge does.
func (m *Metrics) Counter(name, help, cluster string, f func() float64) {
	m.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: m.prefix + name, Help: help, ConstLabels: ofCluster(cluster)}, f))
}

func ofCluster(cluster string) prometheus.Labels {
	if cluster == "" {
		return nil
	}
	return prometheus.Labels{"cluster": cluster}
}

func seconds(buckets []time.Duration) []float64 {
	out := make([]float64, len(buckets))
	for i, b := range buckets {
		out[i] = b.Seconds()
	}
	return out
}

// Began counts a client request in.
func (m *Metrics) Began(t Type, p phase.Phase, s Statement) {
	m.InFlight[t].Add(1)
	m.requests[p][s].Add(1)
}

// Requests is how many client requests there were since the start.
func (m *Metrics) Requests() uint64 {
	var n uint64
	for p := range m.requests {
		for s := range m.requests[p] {
			n += m.requests[p][s].Load()
		}
	}
	return n
}

// maxExemplar is how long a trace id may be to be kept as an exemplar: OpenMetrics
// allows 128 characters for all of its labels.
const maxExemplar = 100

// Ended counts it out. Its latency counts also if it failed. trace is the id that
// the request is traced by, "" if it is not.
func (m *Metrics) Ended(t Type, latency time.Duration, trace string) {
	m.InFlight[t].Add(-1)
	if trace == "" || len(trace) > maxExemplar {
		m.duration[t].Observe(latency.Seconds())
		return
	}
	m.duration[t].(prometheus.ExemplarObserver).ObserveWithExemplar(latency.Seconds(), prometheus.Labels{"trace_id": trace})
}

// FailedRead counts a read that a side failed.
func (m *Metrics) FailedRead(side phase.Side) {
	m.Failures.Add(1)
	m.failedReads[side].Inc()
}

// FailedWrite counts a write that the sides of the set failed.
func (m *Metrics) FailedWrite(sides phase.Set) {
	m.Failures.Add(1)
	for _, side := range sides.Each() {
		m.lastFailedWrite[side].now()
	}
	switch {
	case sides == phase.Both:
		m.failedWrites[both].Inc()
	case sides.Has(phase.Target):
		m.failedWrites[phase.Target].Inc()
	default:
		m.failedWrites[phase.Origin].Inc()
	}
}

// FailedLogin counts a client that a side refused.
func (m *Metrics) FailedLogin(side phase.Side) { m.failedConns[side].Inc() }

// Unstamped counts a write without a timestamp, and Stamped one that got the
// proxy's.
func (m *Metrics) Unstamped(r Request) { m.unstamped[r].Inc() }

// Stamped counts a write that got its timestamp from the proxy.
func (m *Metrics) Stamped(r Request) { m.stamped[r].Inc() }

// Mended counts an UNPREPARED that the client did not see.
func (m *Metrics) Mended(side phase.Side) { m.mended[side].Inc() }

// SentAgain counts a request that went to another connection.
func (m *Metrics) SentAgain(side phase.Side) { m.again[side].Inc() }

// Rejected counts what was refused, or made to wait, because of a limit.
func (m *Metrics) Rejected(l Limit) { m.rejected[l].Inc() }

// HeldBack counts a client that is not read for a while: because of its own bytes,
// or because those of all are too many.
func (m *Metrics) HeldBack(all bool) {
	if all {
		m.Rejected(Memory)
	} else {
		m.Rejected(ClientBytes)
	}
}

// Moved counts a client that another process goes on with.
func (m *Metrics) Moved() { m.moved.Inc() }

// Drained counts a client that was closed since the proxy drains.
func (m *Metrics) Drained() { m.drained.Inc() }

// requestCollector tells the requests of every phase.
type requestCollector struct {
	m    *Metrics
	desc *prometheus.Desc
}

func (c *requestCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *requestCollector) Collect(ch chan<- prometheus.Metric) {
	for _, p := range phase.All {
		for s, name := range statementNames {
			ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(c.m.requests[p][s].Load()), p.String(), name)
		}
	}
}

// WatchPhase registers what tells the phase, read at each scrape.
func (m *Metrics) WatchPhase(look func() (p phase.Phase, epoch uint64)) {
	m.Registry.MustRegister(&phaseCollector{look: look,
		info:  prometheus.NewDesc(m.prefix+"proxy_phase_info", "1 for the phase that is served now.", []string{"phase"}, nil),
		epoch: prometheus.NewDesc(m.prefix+"proxy_phase_epoch", "Number of the change that led to the phase; it never falls.", nil, nil)})
}

type phaseCollector struct {
	look        func() (phase.Phase, uint64)
	info, epoch *prometheus.Desc
}

func (c *phaseCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.info
	ch <- c.epoch
}

func (c *phaseCollector) Collect(ch chan<- prometheus.Metric) {
	p, epoch := c.look()
	ch <- prometheus.MustNewConstMetric(c.info, prometheus.GaugeValue, 1, p.String())
	ch <- prometheus.MustNewConstMetric(c.epoch, prometheus.GaugeValue, float64(epoch))
}

// WatchClocks registers how the clusters' clocks stand to this machine's, read at
// each scrape. A clock that was not measured has no series.
func (m *Metrics) WatchClocks(look func(phase.Side) (ahead, uncertainty time.Duration, ok bool)) {
	m.Registry.MustRegister(&clockCollector{look: look,
		skew: prometheus.NewDesc(m.prefix+"cluster_clock_skew_seconds", "How far a cluster's clock is ahead of the proxy's.", []string{"cluster"}, nil),
		uncertainty: prometheus.NewDesc(m.prefix+"cluster_clock_skew_uncertainty_seconds",
			"How far the truth may be from that skew.", []string{"cluster"}, nil)})
}

type clockCollector struct {
	look              func(phase.Side) (ahead, uncertainty time.Duration, ok bool)
	skew, uncertainty *prometheus.Desc
}

func (c *clockCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.skew
	ch <- c.uncertainty
}

func (c *clockCollector) Collect(ch chan<- prometheus.Metric) {
	for _, side := range phase.Sides {
		if ahead, uncertainty, ok := c.look(side); ok {
			ch <- prometheus.MustNewConstMetric(c.skew, prometheus.GaugeValue, ahead.Seconds(), side.String())
			ch <- prometheus.MustNewConstMetric(c.uncertainty, prometheus.GaugeValue, uncertainty.Seconds(), side.String())
		}
	}
}
