package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
)

// asProxy has the test binary run as zdm-proxy: the tests of this file start it
// as an operator does, with flags and an environment, and look from outside.
const asProxy = "RUN_AS_ZDM_PROXY"

func TestMain(m *testing.M) {
	if os.Getenv(asProxy) != "" {
		main()
	}
	os.Exit(m.Run())
}

// waitLimit bounds what a correct process does within milliseconds.
const waitLimit = 30 * time.Second

// process is a running zdm-proxy. Its methods are for the test's goroutine.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has been waited for

	// Guarded by mu.
	mu     sync.Mutex
	output bytes.Buffer // both streams
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// launch starts zdm-proxy with nothing but this environment, and kills it when
// the test ends.
func launch(t *testing.T, environ []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, ended: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Env = append([]string{asProxy + "=1"}, environ...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the code is in ProcessState
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		if t.Failed() {
			t.Logf("zdm-proxy %q wrote:\n%s", args, p.text())
		}
	})
	return p
}

// exit waits for the end and returns the code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(waitLimit):
		p.t.Fatal("the process goes on, want it to end")
		return 0
	}
}

func (p *process) await(what string, done func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(waitLimit); !done(); {
		select {
		case <-p.ended:
			p.t.Fatalf("the process has ended before this: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("not within %v: %s", waitLimit, what)
		}
	}
}

// logged waits for a line of the log with this message, and returns one of its
// attributes.
func (p *process) logged(msg, attribute string) (value string) {
	p.t.Helper()
	p.await("the log says "+msg, func() bool {
		for line := range strings.Lines(p.text()) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == msg {
				value = fmt.Sprint(entry[attribute])
				return true
			}
		}
		return false
	})
	return value
}

// pair is two scripted clusters, and the settings of a proxy in front of them on
// free ports of an address.
func pair(t *testing.T, address string) (origin, target *cqltest.Node, settings map[string]string) {
	t.Helper()
	origin = cqltest.Start(t, cqltest.Options{Cluster: "old", HostID: primitive.UUID{1}})
	target = cqltest.Start(t, cqltest.Options{Cluster: "new", HostID: primitive.UUID{2}})
	return origin, target, map[string]string{
		"origin_contact_points": origin.Host(), "origin_port": fmt.Sprint(origin.Port()), "origin_username": "u", "origin_password": "p",
		"target_contact_points": target.Host(), "target_port": fmt.Sprint(target.Port()), "target_username": "u", "target_password": "p",
		"proxy_listen_address": address, "proxy_listen_port": "0", "metrics_address": address, "metrics_port": "0",
		"log_format": "json", "heartbeat_retry_interval_min_ms": "20", "heartbeat_retry_interval_max_ms": "100",
	}
}

func environment(settings map[string]string) (environ []string) {
	for key, value := range settings {
		environ = append(environ, "ZDM_"+strings.ToUpper(key)+"="+value)
	}
	return environ
}

func writeFile(t *testing.T, path string, settings map[string]string) {
	t.Helper()
	var b strings.Builder
	for key, value := range settings {
		fmt.Fprintf(&b, "%s: %q\n", key, value)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// get asks the HTTP side.
func get(t *testing.T, address, path string) (code int, body string) {
	t.Helper()
	resp, err := http.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestVersionAndUsageAreTold(t *testing.T) {
	t.Parallel()
	version := launch(t, nil, "-version")
	if code := version.exit(); code != 0 || !strings.HasPrefix(version.text(), "ZDM proxy version ") {
		t.Errorf("-version: code %d, output %q; want 0 and the version in ZDM's words", code, version.text())
	}
	for _, args := range [][]string{{"-no-such-flag"}, {"serve"}} {
		p := launch(t, nil, args...)
		if code := p.exit(); code != exitUsage {
			t.Errorf("%q: code %d, want %d", args, code, exitUsage)
		}
	}
}

func TestPrintConfigShowsWhatIsInForceWithoutSecrets(t *testing.T) {
	t.Parallel()
	_, _, settings := pair(t, "127.0.0.1")
	settings["target_password"] = "between-us"
	p := launch(t, environment(settings), "-print-config")
	if code := p.exit(); code != 0 {
		t.Fatalf("code %d, want 0", code)
	}
	for _, line := range []string{`target_password: "[redacted]"`, `proxy_request_timeout_ms: "10000"`, `proxy_listen_address: "127.0.0.1"`} {
		if !strings.Contains(p.text(), line+"\n") {
			t.Errorf("no line %s in:\n%s", line, p.text())
		}
	}
	if strings.Contains(p.text(), "between-us") {
		t.Errorf("the password is shown:\n%s", p.text())
	}
}

func TestABadConfigurationEndsTheProcessWith255AndIsToldWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yml")
	writeFile(t, bad, map[string]string{"primary_cluster": "BOTH", "proxy_listen_port": "-1"})
	for name, c := range map[string]struct {
		environ, args, told []string
	}{
		"environment": {
			environ: []string{"ZDM_ORIGIN_PORT=0", "ZDM_LOG_LEVEL=loud", "ZDM_TARGET_TLS_SERVER_CA_PATH="},
			told:    []string{"origin_port: ", "log_level: ", "origin_contact_points: ", "target_contact_points: "},
		},
		"file":         {args: []string{"-config", bad}, told: []string{"primary_cluster: ", "proxy_listen_port: "}},
		"no such file": {args: []string{"-config", filepath.Join(dir, "none.yml")}, told: []string{"none.yml"}},
	} {
		p := launch(t, c.environ, c.args...)
		if code := p.exit(); code != exitBadConfig {
			t.Errorf("%s: code %d, want %d", name, code, exitBadConfig)
		}
		for _, part := range c.told {
			if !strings.Contains(p.text(), part) {
				t.Errorf("%s: %q is not told of in:\n%s", name, part, p.text())
			}
		}
	}
}

func TestWithAFileTheEnvironmentIsNotRead(t *testing.T) {
	t.Parallel()
	_, _, settings := pair(t, "127.0.0.1")
	settings["proxy_request_timeout_ms"] = "7000"
	path := filepath.Join(t.TempDir(), "zdm.yml")
	writeFile(t, path, settings)
	p := launch(t, []string{"ZDM_PROXY_REQUEST_TIMEOUT_MS=9000", "ZDM_PRIMARY_CLUSTER=nonsense"}, "-config", path, "-print-config")
	if code := p.exit(); code != 0 || !strings.Contains(p.text(), `proxy_request_timeout_ms: "7000"`) {
		t.Errorf("code %d, want 0 and the file's value in:\n%s", code, p.text())
	}
}

func TestClientsAndProbesAreServedOnTheGivenAddressOnly(t *testing.T) {
	t.Parallel()
	_, _, settings := pair(t, "127.73.0.1")
	p := launch(t, environment(settings))
	cql, probes := p.logged("serving", "address"), p.logged("metrics and health are served", "address")
	c := cqltest.Dial(t, cql, cqltest.Login{})
	if m := c.Query(t, "SELECT k FROM ks.t"); !isRows(m) {
		t.Errorf("a read: got %v, want rows", m)
	}
	if code, _ := get(t, probes, "/health/liveness"); code != http.StatusOK {
		t.Errorf("liveness: %d, want 200", code)
	}
	for _, address := range []string{cql, probes} {
		host, port, err := net.SplitHostPort(address)
		if err != nil || host != "127.73.0.1" {
			t.Fatalf("served on %s, want 127.73.0.1", address)
		}
		if nc, err := net.Dial("tcp", net.JoinHostPort("127.73.0.2", port)); err == nil {
			nc.Close()
			t.Errorf("port %s is open on an address that was not given", port)
		}
	}
}

func isRows(m message.Message) bool { _, ok := m.(*message.RowsResult); return ok }

func TestWithoutMetricsTheProbesGoOn(t *testing.T) {
	t.Parallel()
	_, _, settings := pair(t, "127.0.0.1")
	settings["metrics_enabled"] = "false"
	p := launch(t, environment(settings))
	p.logged("serving", "address")
	address := p.logged("metrics and health are served", "address")
	for path, want := range map[string]int{"/metrics": http.StatusNotFound, "/health/readiness": http.StatusOK, "/health/liveness": http.StatusOK} {
		if code, _ := get(t, address, path); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
}

func TestReadinessFollowsTheThresholdOfFailuresInARow(t *testing.T) {
	t.Parallel()
	_, target, settings := pair(t, "127.0.0.1")
	settings["heartbeat_failure_threshold"] = "3"
	p := launch(t, environment(settings))
	p.logged("serving", "address")
	address := p.logged("metrics and health are served", "address")
	look := func() (int, readinessReport) {
		code, body := get(t, address, "/health/readiness")
		var report readinessReport
		if err := json.Unmarshal([]byte(body), &report); err != nil || report.OriginStatus == nil || report.TargetStatus == nil {
			t.Fatalf("readiness says %s: %v", body, err)
		}
		down := report.TargetStatus.CurrentFailureCount >= 3
		if (report.TargetStatus.Status == "DOWN") != down || report.TargetStatus.FailureCountThreshold != 3 || report.OriginStatus.Status != "UP" {
			t.Errorf("readiness says %s, want Target DOWN from three failures on, and Origin UP", body)
		}
		return code, report
	}
	if code, report := look(); code != http.StatusOK || report.Status != "UP" {
		t.Errorf("while both are up: %d %s, want 200 UP", code, report.Status)
	}
	target.Stop()
	p.await("readiness is 503", func() bool { code, r := look(); return code == http.StatusServiceUnavailable && r.Status == "DOWN" })
	target.Restart()
	p.await("readiness is 200 again", func() bool { code, r := look(); return code == http.StatusOK && r.Status == "UP" })
}

func TestSIGHUPTakesTheNextPhaseFromTheFileAndNothingElse(t *testing.T) {
	t.Parallel()
	origin, target, settings := pair(t, "127.0.0.1")
	path := filepath.Join(t.TempDir(), "zdm.yml")
	writeFile(t, path, settings)
	p := launch(t, nil, "-config", path)
	c := cqltest.Dial(t, p.logged("serving", "address"), cqltest.Login{})
	hangUp := func() {
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	read := func(text string) {
		if m := c.Query(t, text); !isRows(m) {
			t.Fatalf("%s: got %v, want rows", text, m)
		}
	}

	settings["read_mode"] = "nonsense"
	writeFile(t, path, settings)
	hangUp()
	p.logged("SIGHUP: the file is not used", "cause")
	read("SELECT k FROM ks.before")
	if got := target.Requests(cqltest.WithText("ks.before")); len(got) > 0 {
		t.Errorf("target got %v though the file is bad", got)
	}

	settings["read_mode"] = "DUAL_ASYNC_ON_SECONDARY"
	writeFile(t, path, settings)
	hangUp()
	p.logged("SIGHUP: phase and log level were read again; other settings need a restart", "phase")
	read("SELECT k FROM ks.after")
	origin.WaitFor(t, 1, cqltest.WithText("ks.after"))
	target.WaitFor(t, 1, cqltest.WithText("ks.after"))
}

func TestClustersThatAreDownAreWaitedForAndASignalEndsTheWait(t *testing.T) {
	t.Parallel()
	origin, _, settings := pair(t, "127.0.0.1")
	origin.Stop()
	p := launch(t, environment(settings))
	address := p.logged("metrics and health are served", "address")
	for path, want := range map[string]string{
		"/metrics":          "Proxy metrics haven't been initialized yet.",
		"/health/readiness": `{"OriginStatus":null,"TargetStatus":null,"Status":"STARTUP"}`,
	} {
		if code, body := get(t, address, path); code != http.StatusServiceUnavailable || strings.TrimSpace(body) != want {
			t.Errorf("%s: %d %s, want 503 %s", path, code, body, want)
		}
	}
	if strings.Contains(p.text(), `"msg":"serving"`) {
		t.Errorf("the client port is open while Origin is down:\n%s", p.text())
	}
	origin.Restart()
	p.logged("serving", "address")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("code %d after SIGTERM, want 0", code)
	}
}

func TestOneClusterOnBothSidesIsWarnedOf(t *testing.T) {
	t.Parallel()
	origin, _, settings := pair(t, "127.0.0.1")
	settings["target_contact_points"], settings["target_port"] = origin.Host(), fmt.Sprint(origin.Port())
	p := launch(t, environment(settings))
	if node := p.logged("origin and target are the same cluster, and each write is applied twice; correct the contact points of one side", "node"); node != origin.Addr().String() {
		t.Errorf("node %s, want %s", node, origin.Addr())
	}
}

func TestSIGTERMTellsProbesAnswersWhatIsInFlightAndEnds(t *testing.T) {
	t.Parallel()
	_, target, settings := pair(t, "127.0.0.1")
	release := make(chan struct{})
	const insert = "INSERT INTO ks.t (k) VALUES (1)"
	target.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == insert {
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
	p := launch(t, environment(settings))
	cql, probes := p.logged("serving", "address"), p.logged("metrics and health are served", "address")
	c := cqltest.Dial(t, cql, cqltest.Login{})
	answer := c.Send(&message.Query{Query: insert})
	target.WaitFor(t, 1, cqltest.WithText(insert))
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await("readiness is 503", func() bool {
		code, body := get(t, probes, "/health/readiness")
		return code == http.StatusServiceUnavailable && strings.HasSuffix(strings.TrimSpace(body), `"Status":"DOWN"}`)
	})
	if code, _ := get(t, probes, "/health/liveness"); code != http.StatusOK {
		t.Errorf("liveness while draining: %d, want 200", code)
	}
	p.await("the client port is closed", func() bool {
		nc, err := net.Dial("tcp", cql)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	close(release)
	if m := c.Await(t, answer).Message(); m.GetOpCode() != primitive.OpCodeResult {
		t.Errorf("what was in flight: got %v, want its RESULT", m)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("code %d, want 0", code)
	}
}

func TestADrainWaitsNoLongerThanForARequestAndASecond(t *testing.T) {
	t.Parallel()
	_, target, settings := pair(t, "127.0.0.1")
	settings["proxy_request_timeout_ms"] = "1000"
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	const insert = "INSERT INTO ks.t (k) VALUES (1)"
	target.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == insert {
			return cqltest.Ordinary().After(never)
		}
		return cqltest.Ordinary()
	})
	p := launch(t, environment(settings))
	c := cqltest.Dial(t, p.logged("serving", "address"), cqltest.Login{})
	c.Send(&message.Query{Query: insert})
	target.WaitFor(t, 1, cqltest.WithText(insert))
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := p.logged("draining", "at_most"); got != "2s" {
		t.Errorf("the drain is to end within %s, want 2s", got)
	}
	p.exit() // though the node never answers
}

func TestSIGTERMTellsDriversThatOneOfSeveralProxiesIsDown(t *testing.T) {
	t.Parallel()
	_, target, settings := pair(t, "127.0.0.1")
	settings["proxy_topology_addresses"], settings["proxy_topology_index"] = "10.9.0.1,10.9.0.2", "1"
	release := make(chan struct{})
	const insert = "INSERT INTO ks.t (k) VALUES (1)"
	target.Handle(func(r cqltest.Request) cqltest.Reply {
		if r.Text == insert {
			return cqltest.Ordinary().After(release)
		}
		return cqltest.Ordinary()
	})
	p := launch(t, environment(settings))
	cql, probes := p.logged("serving", "address"), p.logged("metrics and health are served", "address")
	told, pool := cqltest.Dial(t, cql, cqltest.Login{}), cqltest.Dial(t, cql, cqltest.Login{})
	told.Ask(t, &message.Register{EventTypes: []primitive.EventType{primitive.EventTypeStatusChange}})
	answer := pool.Send(&message.Query{Query: insert})
	target.WaitFor(t, 1, cqltest.WithText(insert))
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await("readiness is 503", func() bool {
		code, _ := get(t, probes, "/health/readiness")
		return code == http.StatusServiceUnavailable
	})
	close(release)
	if m := pool.Await(t, answer).Message(); m.GetOpCode() != primitive.OpCodeResult {
		t.Errorf("what was in flight: got %v, want its RESULT", m)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("code %d, want 0", code)
	}
	<-told.Done()
	for _, want := range []primitive.StatusChangeType{primitive.StatusChangeTypeUp, primitive.StatusChangeTypeDown} {
		select {
		case m := <-told.Events:
			if e, ok := m.(*message.StatusChangeEvent); !ok || e.ChangeType != want || e.Address.Addr.String() != "10.9.0.2" {
				t.Errorf("told %v, want %s of 10.9.0.2", m, want)
			}
		default:
			t.Errorf("not told %s", want)
		}
	}
}

// asRendered is an environment file with every variable of ZDM Proxy as its
// automation renders them: words of Ansible, blanks, and empty values.
func asRendered(t *testing.T, origin, target *cqltest.Node) []string {
	t.Helper()
	text, err := os.ReadFile("testdata/zdm.env")
	if err != nil {
		t.Fatal(err)
	}
	filled := strings.NewReplacer(
		"=ORIGIN_HOST", "="+origin.Host(), "=ORIGIN_PORT", "="+fmt.Sprint(origin.Port()),
		"=TARGET_HOST", "="+target.Host(), "=TARGET_PORT", "="+fmt.Sprint(target.Port()),
	).Replace(string(text))
	return append(strings.Split(strings.TrimSpace(filled), "\n"), "ZDM_LOG_FORMAT=json")
}

func TestWhatZDMsAutomationRendersStartsTheProxyAsItIs(t *testing.T) {
	t.Parallel()
	origin := cqltest.Start(t, cqltest.Options{Cluster: "old", HostID: primitive.UUID{1}})
	login := cqltest.Login{Username: "zdm", Password: `p#ss = "word"`}
	target := cqltest.Start(t, cqltest.Options{Cluster: "new", HostID: primitive.UUID{2}, Username: login.Username, Password: login.Password})
	environ := asRendered(t, origin, target)
	var lines strings.Builder
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if strings.Contains(value, "#") {
			value = "'" + value + "'"
		}
		fmt.Fprintf(&lines, "%s: %s\n\n", strings.ToLower(strings.TrimPrefix(name, "ZDM_")), value)
	}
	path := filepath.Join(t.TempDir(), "zdm-config.yml")
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for how, p := range map[string]*process{"environment": launch(t, environ), "file": launch(t, nil, "-config", path)} {
		c := cqltest.Dial(t, p.logged("serving", "address"), login)
		if m := c.Query(t, "SELECT k FROM ks.t"); !isRows(m) {
			t.Errorf("%s: a read: got %v, want rows", how, m)
		}
		for line := range strings.Lines(p.text()) {
			if !strings.Contains(line, `"level":"INFO"`) {
				t.Errorf("%s: the operator is told %s", how, line)
			}
		}
	}
}
