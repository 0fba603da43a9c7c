package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/zdmproject/terraform-provider-zdm/proxy"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
)

// health is the HTTP side: metrics, readiness and liveness, by ZDM's paths and
// bodies. It is up before the proxy is.
type health struct {
	srv      *proxy.Server
	cfg      *config.Config
	started  atomic.Bool // the client port is open
	draining atomic.Bool
	all      http.Handler // the metrics
	http     http.Server
}

func newHealth(srv *proxy.Server, cfg *config.Config) *health {
	h := &health{srv: srv, cfg: cfg}
	mux := http.NewServeMux()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	h.all = promhttp.HandlerFor(prometheus.Gatherers{registry, srv.Metrics().Registry}, promhttp.HandlerOpts{EnableOpenMetrics: true})
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		if !cfg.Metrics.Enabled {
			http.NotFound(w, r) // health goes on: probes need it
			return
		}
		if !h.started.Load() {
			http.Error(w, "Proxy metrics haven't been initialized yet.", http.StatusServiceUnavailable)
			return
		}
		h.all.ServeHTTP(w, r)
	})
	mux.HandleFunc("/health/liveness", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK")) })
	mux.HandleFunc("/health/readiness", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			http.NotFound(w, r)
			return
		}
		h.readiness(w)
	})
	if cfg.Metrics.Pprof {
		for path, f := range map[string]http.HandlerFunc{"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace} {
			mux.HandleFunc("/debug/pprof/"+path, f)
		}
	}
	h.http = http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	return h
}

// sideStatus and readinessReport are ZDM's JSON.
type sideStatus struct {
	Addr                  string
	CurrentFailureCount   int
	FailureCountThreshold int
	Status                string
}

type readinessReport struct {
	OriginStatus *sideStatus
	TargetStatus *sideStatus
	Status       string
}

func (h *health) readiness(w http.ResponseWriter) {
	report := readinessReport{Status: "STARTUP"}
	if h.started.Load() {
		st := h.srv.Status()
		report.OriginStatus, report.TargetStatus = h.side(st.Origin, 0), h.side(st.Target, 1)
		report.Status = "UP"
		if !st.Ready || h.draining.Load() {
			report.Status = "DOWN"
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if report.Status != "UP" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(report) // the client may be gone
}

func (h *health) side(c control.Cluster, i int) *sideStatus {
	s := &sideStatus{Addr: c.Node, FailureCountThreshold: h.cfg.Heartbeat.FailureThreshold, Status: "UP"}
	s.CurrentFailureCount = h.srv.ControlFailures(i)
	if s.CurrentFailureCount >= s.FailureCountThreshold {
		s.Status = "DOWN"
	}
	return s
}

// serve answers on l until ctx ends. A nil listener is bound first; that it
// cannot be is only logged, as with ZDM: the proxy is worth more than its
// metrics.
func (h *health) serve(ctx context.Context, l net.Listener, log *slog.Logger) {
	if l == nil {
		var err error
		if l, err = h.listen(); err != nil {
			log.Error("metrics and health are not served; free the port, or set metrics_port", "cause", err)
			return
		}
	}
	log.Info("metrics and health are served", "address", l.Addr())
	stop := context.AfterFunc(ctx, func() {
		short, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = h.http.Shutdown(short) // the process ends anyway
	})
	defer stop()
	if err := h.http.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		log.Error("metrics and health", "cause", err)
	}
}

func (h *health) listen() (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort(h.cfg.Metrics.Address, strconv.Itoa(h.cfg.Metrics.Port)))
}
