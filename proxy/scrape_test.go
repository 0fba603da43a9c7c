package proxy_test

import (
	"flag"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/primitive"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

var update = flag.Bool("update", false, "write testdata/metrics.txt and the table of docs/design/metrics.md")

// startUsed brings a proxy up that has connections to both sides and has measured
// their clocks.
func startUsed(t *testing.T, p phase.Phase) *world {
	t.Helper()
	w := start(t, p, cqltest.Options{}, cqltest.Options{}, nil)
	mustVoid(t, cqltest.Dial(t, w.addr, cqltest.Login{}).Query(t, insert))
	eventually(t, "the clocks are measured", func() bool {
		st := w.srv.Status()
		return st.Origin.Clock != nil && st.Target.Clock != nil
	})
	return w
}

// scrape is every metric of the proxy, by name.
func scrape(t *testing.T, w *world) []*dto.MetricFamily {
	t.Helper()
	families, err := w.srv.Metrics().Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// seriesOf are the series of a scrape with their labels, in its order. Nodes are
// called by their side.
func (w *world) seriesOf(f *dto.MetricFamily) []string {
	var out []string
	for _, m := range f.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			value := l.GetValue()
			for _, s := range phase.Sides {
				value = strings.ReplaceAll(value, w.side(s).Addr().String(), s.String()+" node")
			}
			if name := l.GetName(); strings.HasSuffix(name, "version") {
				value = "of the build"
			}
			labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), value))
		}
		out = append(out, f.GetName()+"{"+strings.Join(labels, ",")+"}")
	}
	slices.Sort(out)
	return out
}

func render(w *world, families []*dto.MetricFamily) string {
	var b strings.Builder
	for _, f := range families {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n%s\n", f.GetName(), f.GetHelp(), f.GetName(), strings.ToLower(f.GetType().String()),
			strings.Join(w.seriesOf(f), "\n"))
	}
	return b.String()
}

// The whole scrape of a proxy in a phase with copies of reads, after one client's
// write: names, help, types and series, all of which somebody's dashboard or alert
// may name. Run with -update where a change is meant.
func TestTheScrapeHasTheMetricsThatItHad(t *testing.T) {
	t.Parallel()
	w := startUsed(t, phase.DualRead)
	got := render(w, scrape(t, w))
	golden(t, "testdata/metrics.txt", got)
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); if that is meant, run make generate:\n%s", file, diff)
	}
}

// The list between the marks in docs/design/metrics.md is that of the registry.
func TestTheMetricsPageListsEveryMetric(t *testing.T) {
	t.Parallel()
	w := startUsed(t, phase.DualRead)
	const file, begin, end = "../docs/design/metrics.md", "<!-- list: written by make generate -->\n", "<!-- end of the list -->\n"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(page), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no list between %q and %q", file, begin, end)
	}
	tables := [2]string{}
	for _, f := range scrape(t, w) {
		name := strings.TrimPrefix(f.GetName(), "zdm_")
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		table := &tables[0]
		if !ofZDM[name] {
			table = &tables[1]
		}
		*table += fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	const columns = "| name | type | labels | |\n| --- | --- | --- | --- |\n"
	golden(t, file, head+begin+"\n### Those of ZDM Proxy\n\n"+columns+tables[0]+"\n### Ours\n\n"+columns+tables[1]+"\n"+end+tail)
}

// ofZDM are the metrics of DataStax ZDM Proxy 2.4, without the prefix.
var ofZDM = func() map[string]bool {
	names := map[string]bool{
		"proxy_failed_connections_total": true, "proxy_failed_reads_total": true, "proxy_failed_writes_total": true,
		"proxy_request_duration_seconds": true, "proxy_inflight_requests_total": true, "pscache_entries_total": true,
		"pscache_miss_total": true, "client_connections_total": true, "async_inflight_requests_total": true,
	}
	for _, of := range []string{"origin_", "target_", "async_"} {
		for _, name := range []string{"requests_failed_total", "request_duration_seconds", "connections_total", "failed_connections_total", "used_stream_ids_total"} {
			names[of+name] = true
		}
	}
	return names
}()

func TestEveryMetricOfZDMHasItsTypeAndLabels(t *testing.T) {
	t.Parallel()
	w := startUsed(t, phase.DualRead)
	got := map[string]string{}
	for _, f := range scrape(t, w) {
		name := strings.TrimPrefix(f.GetName(), "zdm_")
		if !ofZDM[name] {
			continue
		}
		got[name] = strings.ToLower(f.GetType().String())
		for _, l := range f.GetMetric()[0].GetLabel() {
			got[name] += " " + l.GetName()
		}
	}
	want := map[string]string{
		"proxy_failed_connections_total": "counter cluster", "proxy_failed_reads_total": "counter cluster",
		"proxy_failed_writes_total": "counter failed_on", "proxy_request_duration_seconds": "histogram type",
		"proxy_inflight_requests_total": "gauge type", "pscache_entries_total": "gauge", "pscache_miss_total": "counter",
		"client_connections_total": "gauge", "async_inflight_requests_total": "gauge node",
	}
	for _, of := range []string{"origin_", "target_", "async_"} {
		want[of+"requests_failed_total"] = "counter error node"
		want[of+"request_duration_seconds"] = "histogram node type"
		want[of+"connections_total"] = "gauge node"
		want[of+"failed_connections_total"] = "counter node"
		want[of+"used_stream_ids_total"] = "gauge node"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics of ZDM Proxy (-want +got):\n%s", diff)
	}
}

// Gauges of ZDM Proxy end in _total, and there is no helping it; ours do as
// Prometheus has it.
func TestOurMetricsFollowTheConventions(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualRead, cqltest.Options{}, cqltest.Options{}, nil)
	problems, err := promlint.NewWithMetricFamilies(scrape(t, w)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if !ofZDM[strings.TrimPrefix(p.Metric, "zdm_")] {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestSeriesOfCopiesExistFromTheFirstPhaseThatHasThem(t *testing.T) {
	t.Parallel()
	w := startUsed(t, phase.DualWrite)
	async := func() (out []string) {
		for _, f := range scrape(t, w) {
			if strings.HasPrefix(f.GetName(), "zdm_async_") {
				out = append(out, w.seriesOf(f)...)
			}
		}
		return out
	}
	if got := async(); len(got) > 0 {
		t.Errorf("in dual_write there are %q, want none", got)
	}
	if got := value(t, w, "zdm_target_requests_failed_total", "overloaded"); got != 0 {
		t.Errorf("a node's failures begin with %v, want 0", got)
	}
	w.setPhase(t, phase.DualRead)
	if got, want := len(async()), 9+2+4; got != want { // failures, latencies, and one each of the others
		t.Errorf("in dual_read there are %d series of copies, want %d: %q", got, want, async())
	}
	if got := value(t, w, "zdm_async_connections_total"); got != 1 {
		t.Errorf("copies may take %v connections, want 1", got)
	}
	w.setPhase(t, phase.DualWrite)
	if got := value(t, w, "zdm_async_connections_total"); got != 0 {
		t.Errorf("without copies they may take %v connections, want 0", got)
	}
}

// value is that of the one series of a name that has all of these label values.
func value(t *testing.T, w *world, name string, labels ...string) float64 {
	t.Helper()
	for _, f := range scrape(t, w) {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			for _, want := range labels {
				if !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == want }) {
					continue series
				}
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				return m.GetCounter().GetValue()
			case dto.MetricType_HISTOGRAM:
				return float64(m.GetHistogram().GetSampleCount())
			}
			return m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no series %s %q", name, labels)
	return 0
}

func TestACopyOfAReadIsInFlightUntilItsAnswer(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualRead, cqltest.Options{}, cqltest.Options{}, nil)
	answer := make(chan struct{})
	w.target.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.IsSelect() && !r.System() {
			<-answer
		}
		return cqltest.Ordinary()
	})
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	mustVoid(t, c.Query(t, insert)) // a copy does not wait for connections
	c.Query(t, sel)
	for _, name := range []string{"zdm_async_inflight_requests_total", "zdm_async_used_stream_ids_total"} {
		eventually(t, "a copy is in flight", func() bool { return value(t, w, name, w.target.Addr().String()) == 1 })
	}
	close(answer)
	eventually(t, "the copy is counted out", func() bool {
		return value(t, w, "zdm_async_inflight_requests_total") == 0 && value(t, w, "zdm_async_request_duration_seconds", "reads") == 1
	})
}

// What goes to no cluster, or is not the application's, is in no metric of
// requests: neither of clients nor of nodes.
func TestWhatIsNotARequestOfTheApplicationIsNotCounted(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualRead, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	prepare(t, c, insert)
	prepare(t, c, sel)
	for _, text := range []string{"USE ks", "SELECT * FROM system.local", "SELECT * FROM system.peers", "SELECT * FROM system_schema.tables"} {
		c.Query(t, text)
	}
	counted := regexp.MustCompile(`^zdm_(proxy_requests_total|(proxy|origin|target|async)_request_duration_seconds|\w+_requests_failed_total)$`)
	for _, f := range scrape(t, w) {
		if !counted.MatchString(f.GetName()) {
			continue
		}
		for _, m := range f.GetMetric() {
			if n := m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount()); n != 0 {
				t.Errorf("%s %v is %v, want 0", f.GetName(), m.GetLabel(), n)
			}
		}
	}
}

func TestRequestsAreCountedByPhaseAndStatement(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	c := cqltest.Dial(t, w.addr, cqltest.Login{})
	c.Query(t, sel)
	execute(t, c, prepare(t, c, insert))
	for _, text := range []string{insert + " IF NOT EXISTS", "UPDATE ks.t SET c = c + 1 WHERE k = 1", "UPDATE ks.t SET v = 1 WHERE k = 1", "DELETE FROM ks.t WHERE k = 1", "TRUNCATE ks.t"} {
		c.Query(t, text)
	}
	w.setPhase(t, phase.DualRead)
	c.Query(t, sel)
	for _, want := range [][2]string{{"dual_write", "select"}, {"dual_write", "insert"}, {"dual_write", "lwt"}, {"dual_write", "counter"},
		{"dual_write", "update"}, {"dual_write", "delete"}, {"dual_write", "other"}, {"dual_read", "select"}} {
		if got := value(t, w, "zdm_proxy_requests_total", want[0], want[1]); got != 1 {
			t.Errorf("%v requests counted as %q in %s, want 1", got, want[1], want[0])
		}
	}
	if got := w.srv.Status().Requests; got != 8 {
		t.Errorf("the status tells %d requests, want 8", got)
	}
	if got := value(t, w, "zdm_proxy_phase_info", "dual_read"); got != 1 {
		t.Errorf("phase info is %v, want 1", got)
	}
	if got := value(t, w, "zdm_proxy_phase_epoch"); got != 2 {
		t.Errorf("the epoch is %v, want 2", got)
	}
}

func TestWhatALimitRefusesIsCounted(t *testing.T) {
	t.Parallel()
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, map[string]string{"proxy_max_client_connections": "1", "proxy_max_stream_ids": "1"})
	silent := make(chan struct{})
	t.Cleanup(func() { close(silent) })
	w.origin.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Opcode == primitive.OpCodeQuery && !r.System() {
			<-silent
		}
		return cqltest.Ordinary()
	})
	nc, _ := rawClient(t, w.addr)
	if _, err := nc.Write(append(queryFrame(1, sel), queryFrame(2, sel)...)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a request is refused", func() bool { return value(t, w, "zdm_proxy_rejected_total", "client_requests") == 1 })
	late, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	eventually(t, "a client is refused", func() bool { return value(t, w, "zdm_proxy_rejected_total", "clients") == 1 })
}
