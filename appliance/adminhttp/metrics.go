package adminhttp

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/zdmproject/terraform-provider-zdm/appliance"
	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Metrics are the agent's. One is shared by all handlers of an agent.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
}

// NewMetrics registers the metrics of an agent. All names begin with
// zdm_appliance_.
func NewMetrics(a *appliance.Agent) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "zdm_appliance_calls_total",
			Help: "Calls of the admin API, by call (refused and unknown are none) and status."}, []string{"call", "status"}),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m.calls, instance{a})
	return m
}

// instance tells a status as metrics.
type instance struct{ agent *appliance.Agent }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("zdm_appliance_"+name, help, labels, nil)
}

var (
	descInfo       = desc("info", "1, with what the instance is.", "version", "cluster_id", "instance")
	descReady      = desc("ready", "1 if the proxy runs what is wanted and has what its phase needs.")
	descGeneration = desc("generation", "Generation of the configuration that is wanted.")
	descRunning    = desc("generation_running", "Generation that the proxy runs.")
	descPhase      = desc("phase", "1 for the phase that is stored, 0 for the others.", "phase")
	descEpoch      = desc("phase_epoch", "Epoch of the phase: it grows with each step.")
	descSince      = desc("phase_since_seconds", "When the phase was entered, in seconds since 1970.")
	descDrained    = desc("drained", "1 while the client port is closed because somebody asked for that.")
	descCrashes    = desc("proxy_crashes_total", "Proxy processes that ended without being asked to.")
	descProxy      = desc("proxy_up", "1 if a proxy process answers.")
	descMark       = desc("mark_seconds", "Since when a mark holds, in seconds since 1970.", "mark")
)

func (i instance) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descInfo, descReady, descGeneration, descRunning, descPhase, descEpoch, descSince, descDrained, descCrashes, descProxy, descMark} {
		out <- d
	}
}

func (i instance) Collect(out chan<- prometheus.Metric) {
	st := i.agent.Status(context.Background()) // it is bounded by itself
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descInfo, 1, st.Version, st.ClusterID, st.Instance)
	gauge(descReady, number01(st.Ready))
	gauge(descGeneration, float64(st.Generation))
	gauge(descRunning, float64(st.Running))
	for _, p := range phase.All {
		gauge(descPhase, number01(p == st.Phase.Phase), p.String())
	}
	gauge(descEpoch, float64(st.Phase.Epoch))
	if !st.Phase.Since.IsZero() {
		gauge(descSince, float64(st.Phase.Since.UnixMilli())/1000)
	}
	gauge(descDrained, number01(st.Drain != nil))
	out <- prometheus.MustNewConstMetric(descCrashes, prometheus.CounterValue, float64(st.Restarts))
	gauge(descProxy, number01(st.Proxy != nil))
	for _, m := range st.Marks {
		gauge(descMark, float64(m.Time.Unix()), m.Name)
	}
}

func number01(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (h *Handler) readMetrics(r *request) answer {
	promhttp.HandlerFor(h.o.Metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(r.w, r.Request)
	return answer{written: true}
}

// readProxyMetrics passes on what the proxy process says.
func (h *Handler) readProxyMetrics(r *request) answer {
	text, media, err := h.o.Agent.ProxyMetrics(r.Context())
	if err != nil {
		return answer{err: adminapi.NewProblem(adminapi.NotReady, "%v; look at %s", err, adminapi.PathStatus)}
	}
	return passOn(r, text, media)
}

const (
	// nodeTimeout and maxNodeMetrics bound what is asked of node_exporter.
	nodeTimeout    = 10 * time.Second
	maxNodeMetrics = 16 << 20
)

// readNodeMetrics passes on what node_exporter says.
func (h *Handler) readNodeMetrics(r *request) answer {
	if h.o.NodeMetrics == "" {
		return answer{err: adminapi.NewProblem(adminapi.NotReady, "no node_exporter runs here; name its program with -node-exporter of zdm-appliance serve")}
	}
	ctx, cancel := context.WithTimeout(r.Context(), nodeTimeout)
	defer cancel()
	text, media, err := fetch(ctx, h.o.NodeMetrics)
	if err != nil {
		return answer{err: adminapi.NewProblem(adminapi.NotReady, "%v; look at its lines in %s", err, adminapi.PathLogs)}
	}
	return passOn(r, text, media)
}

func fetch(ctx context.Context, url string) (text []byte, media string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("get %s: %s", url, resp.Status)
	}
	text, err = io.ReadAll(io.LimitReader(resp.Body, maxNodeMetrics))
	return text, resp.Header.Get("Content-Type"), err
}

func passOn(r *request, text []byte, media string) answer {
	r.w.Header().Set("Content-Type", media)
	r.w.WriteHeader(http.StatusOK)
	_, _ = r.w.Write(text)
	return answer{written: true}
}
