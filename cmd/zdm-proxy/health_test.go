package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/message"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
)

// ask is get with any method and header.
func ask(t *testing.T, method, address, path, accept string) (code int, contentType, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), b.String()
}

func TestEachPathOfTheHTTPSideAnswersAsWithZDM(t *testing.T) {
	t.Parallel()
	_, _, settings := pair(t, "127.0.0.1")
	p := launch(t, environment(settings))
	p.logged("serving", "address")
	address := p.logged("metrics and health are served", "address")
	for _, tt := range []struct {
		method, path string
		code         int
		body         string // the beginning
	}{
		{"GET", "/health/readiness", 200, `{"OriginStatus":{"Addr":"`},
		{"HEAD", "/health/readiness", 404, ""},
		{"POST", "/health/readiness", 404, "404"},
		{"DELETE", "/health/readiness", 404, "404"},
		{"GET", "/health/liveness", 200, "OK"},
		{"POST", "/health/liveness", 200, "OK"},
		{"DELETE", "/health/liveness", 200, "OK"},
		{"GET", "/health/liveliness", 404, "404"},
		{"GET", "/health", 404, "404"},
		{"GET", "/", 404, "404"},
		{"GET", "/metrics", 200, "# HELP "},
		{"GET", "/debug/pprof/", 404, "404"},
		{"GET", "/debug/pprof/cmdline", 404, "404"},
	} {
		code, _, body := ask(t, tt.method, address, tt.path, "")
		if code != tt.code || !strings.HasPrefix(body, tt.body) {
			t.Errorf("%s %s: %d %.80q, want %d and %q", tt.method, tt.path, code, body, tt.code, tt.body)
		}
	}
	_, _, body := ask(t, "GET", address, "/health/readiness", "")
	var report map[string]any
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		t.Fatalf("readiness says %s: %v", body, err)
	}
	for _, side := range []string{"OriginStatus", "TargetStatus"} {
		s, _ := report[side].(map[string]any)
		if len(s) != 4 || s["Addr"] == "" || s["CurrentFailureCount"] != 0.0 || s["FailureCountThreshold"] != 1.0 || s["Status"] != "UP" {
			t.Errorf("%s is %v", side, report[side])
		}
	}
	if len(report) != 3 || report["Status"] != "UP" {
		t.Errorf("readiness says %s", body)
	}
}

func TestMetricsComeAsTextOrOpenMetricsWithThoseOfGo(t *testing.T) {
	t.Parallel()
	_, _, settings := pair(t, "127.0.0.1")
	settings["tracing_enabled"], settings["metrics_prefix"] = "true", "own"
	p := launch(t, environment(settings))
	c := cqltest.Dial(t, p.logged("serving", "address"), cqltest.Login{})
	address := p.logged("metrics and health are served", "address")
	c.Query(t, "INSERT INTO ks.t (k) VALUES (1)")
	_, contentType, body := ask(t, "GET", address, "/metrics", "")
	if !strings.HasPrefix(contentType, "text/plain; version=0.0.4") {
		t.Errorf("by default the type is %q", contentType)
	}
	for _, series := range []string{"go_goroutines ", "process_open_fds ", "own_client_connections_total 1", `own_proxy_requests_total{phase="dual_write",statement="insert"} 1`} {
		if !strings.Contains(body, "\n"+series) {
			t.Errorf("no series %s", series)
		}
	}
	if strings.Contains(body, "\nzdm_") {
		t.Error("there are metrics without the prefix")
	}
	_, contentType, body = ask(t, "GET", address, "/metrics", "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(contentType, "application/openmetrics-text") || !strings.Contains(body, ` # {trace_id="`+p.logged("request traced", "request_id")) || !strings.HasSuffix(body, "# EOF\n") {
		t.Errorf("OpenMetrics have the type %q, and no latency with the request's id", contentType)
	}
}

func TestATakenMetricsPortIsOnlyLogged(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, _, settings := pair(t, "127.0.0.1")
	settings["metrics_port"] = fmt.Sprint(taken.Addr().(*net.TCPAddr).Port)
	p := launch(t, environment(settings))
	if cause := p.logged("metrics and health are not served; free the port, or set metrics_port", "cause"); !strings.Contains(cause, "address already in use") {
		t.Errorf("the cause is %q", cause)
	}
	if m := cqltest.Dial(t, p.logged("serving", "address"), cqltest.Login{}).Query(t, "SELECT k FROM ks.t"); !isRows(m) {
		t.Errorf("a read: got %v, want rows", m)
	}
}

func TestProfilesAreServedWhereTheirSwitchIsOn(t *testing.T) {
	t.Parallel()
	_, _, settings := pair(t, "127.0.0.1")
	settings["metrics_pprof"], settings["metrics_enabled"] = "true", "false"
	p := launch(t, environment(settings))
	address := p.logged("metrics and health are served", "address")
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/goroutine?debug=1", "/debug/pprof/heap"} {
		if code, body := get(t, address, path); code != http.StatusOK || body == "" {
			t.Errorf("%s: %d %.80q, want 200", path, code, body)
		}
	}
}

func TestReadinessIs503WhileTheProxyDrains(t *testing.T) {
	t.Parallel()
	origin, _, settings := pair(t, "127.0.0.1")
	answer := make(chan struct{})
	var once sync.Once
	release := func() { once.Do(func() { close(answer) }) }
	t.Cleanup(release)
	origin.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.IsSelect() && !r.System() {
			<-answer
		}
		return cqltest.Ordinary()
	})
	p := launch(t, environment(settings))
	c := cqltest.Dial(t, p.logged("serving", "address"), cqltest.Login{})
	address := p.logged("metrics and health are served", "address")
	stream := c.Send(&message.Query{Query: "SELECT k FROM ks.t", Options: &message.QueryOptions{}})
	origin.WaitFor(t, 1, cqltest.WithText("SELECT k FROM ks.t"))
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await("readiness is 503", func() bool {
		code, body := get(t, address, "/health/readiness")
		return code == http.StatusServiceUnavailable && strings.Contains(body, `"Status":"DOWN"}`)
	})
	if code, _ := get(t, address, "/health/liveness"); code != http.StatusOK {
		t.Errorf("liveness: %d, want 200", code)
	}
	release()
	if m := c.Await(t, stream).Frame.Body.Message; !isRows(m) {
		t.Errorf("what was in flight: got %v, want rows", m)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("code %d after SIGTERM, want 0", code)
	}
}
