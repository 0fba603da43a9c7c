package load

import (
	"context"
	"sync"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
)

// Window is what happened since the window before it. P50 and P99 are of
// successes.
type Window struct {
	Requests, Failures int
	P50, P99, Max      time.Duration
}

// Meter counts requests by the host that answered, or did not: the proxy, or
// the node, that the driver chose. It observes, and changes nothing of what the
// driver does. It is safe for concurrent use.
type Meter struct {
	mu    sync.Mutex
	hosts map[string]*hostWindow
}

type hostWindow struct {
	Window
	hist histogram
}

// Take returns the windows of all hosts seen so far, and begins new ones. A
// host of "" stands for requests that reached none.
func (m *Meter) Take() map[string]Window {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]Window, len(m.hosts))
	for host, w := range m.hosts {
		w.P50, w.P99 = min(w.hist.quantile(0.50), w.Max), min(w.hist.quantile(0.99), w.Max)
		out[host] = w.Window
		*w = hostWindow{}
	}
	return out
}

func (m *Meter) add(host *gocql.HostInfo, latency time.Duration, err error) {
	name := ""
	if host != nil {
		name = host.ConnectAddress().String()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.hosts[name]
	if w == nil {
		if m.hosts == nil {
			m.hosts = make(map[string]*hostWindow)
		}
		w = new(hostWindow)
		m.hosts[name] = w
	}
	w.Requests++
	if err != nil {
		w.Failures++
	} else {
		w.hist.add(latency)
	}
	w.Max = max(w.Max, latency)
}

// ObserveQuery serves gocql.QueryObserver.
func (m *Meter) ObserveQuery(_ context.Context, q gocql.ObservedQuery) {
	m.add(q.Host, q.End.Sub(q.Start), q.Err)
}

// ObserveBatch serves gocql.BatchObserver.
func (m *Meter) ObserveBatch(_ context.Context, b gocql.ObservedBatch) {
	m.add(b.Host, b.End.Sub(b.Start), b.Err)
}
