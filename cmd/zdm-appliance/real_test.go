package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const (
	originPassword = "hunter2-origin-Pq1"
	targetPassword = "hunter2-target-Lm9"
)

// binaries are both commands, built once.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "zdm-bin")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir, "../zdm-proxy", ".").CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, _ := binaries(); dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// real is an agent process with a proxy process between two fake nodes.
type real struct {
	dir            string
	args           []string
	listen         string // of the admin API
	port           int    // of the proxy
	origin, target *cqltest.Node
	log            output
	agent          *exec.Cmd
	c              *client.Client
}

func newReal(t *testing.T) *real {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: real processes take seconds")
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir, args := files(t)
	r := &real{dir: dir, port: free(t), listen: fmt.Sprintf("127.0.0.1:%d", free(t))}
	r.args = slices.Concat(args, []string{"-listen", r.listen, "-proxy-binary", filepath.Join(bin, "zdm-proxy"), "-ready-timeout", "5s", "-drain-timeout", "5s"})
	r.origin = cqltest.Start(t, cqltest.Options{Username: "app", Password: originPassword, Cluster: "old"})
	r.target = cqltest.Start(t, cqltest.Options{Username: "app", Password: targetPassword, Cluster: "new", Release: "5.0.5"})
	ca, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if r.c, err = client.New(client.Options{URL: "https://" + r.listen, CA: ca, Token: secret.New(token)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.c.Close()
		if r.agent != nil {
			_ = r.agent.Process.Kill()
			_ = r.agent.Wait()
		}
		for _, pid := range r.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if t.Failed() {
			t.Logf("log of the agent:\n%s", &r.log)
		}
	})
	r.start(t)
	return r
}

func free(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (r *real) start(t *testing.T) {
	t.Helper()
	bin, _ := binaries()
	r.agent = exec.Command(filepath.Join(bin, "zdm-appliance"), r.args...)
	r.agent.Stderr = &r.log
	if err := r.agent.Start(); err != nil {
		t.Fatal(err)
	}
	r.await(t, "answering", func(*adminapi.Status) bool { return true })
}

// end ends the agent with a signal; its proxy runs on.
func (r *real) end(t *testing.T, s syscall.Signal) {
	t.Helper()
	_ = r.agent.Process.Signal(s)
	err := r.agent.Wait()
	if s == syscall.SIGTERM && err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	r.agent = nil
}

// processes are the proxies of this agent.
func (r *real) processes() (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		var pid int
		if _, err := fmt.Sscan(filepath.Base(dir), &pid); err == nil && bytes.Contains(args, []byte("-control\x00"+r.dir+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (r *real) await(t *testing.T, what string, is func(*adminapi.Status) bool) *adminapi.Status {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		st, err := r.c.Status(t.Context())
		if err == nil && is(st) {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("not %s: %+v, %v", what, st, err)
		}
	}
}

func (r *real) config() *adminapi.Config {
	return &adminapi.Config{
		ClusterID: "c", Instance: "one",
		Settings: map[string]string{
			"origin_contact_points": r.origin.Host(), "origin_port": fmt.Sprint(r.origin.Port()), "origin_username": "app",
			"target_contact_points": r.target.Host(), "target_port": fmt.Sprint(r.target.Port()), "target_username": "app",
			"proxy_listen_address": "127.0.0.1", "proxy_listen_port": fmt.Sprint(r.port), "metrics_enabled": "false",
		},
		Secrets: map[string]string{"origin_password": originPassword, "target_password": targetPassword},
	}
}

func (r *real) step(t *testing.T, p phase.Phase) {
	t.Helper()
	now, err := r.c.Phase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	prepared, err := r.c.Prepare(t.Context(), adminapi.PrepareRequest{Phase: p}, now.Epoch)
	if err != nil {
		t.Fatalf("prepare %s: %v", p, err)
	}
	if _, err := r.c.Commit(t.Context(), prepared.Prepared.Token); err != nil {
		t.Fatalf("commit %s: %v", p, err)
	}
}

// serving is an instance in dual_write.
func serving(t *testing.T) *real {
	t.Helper()
	r := newReal(t)
	if _, err := r.c.PutConfig(t.Context(), r.config(), 0); err != nil {
		t.Fatal(err)
	}
	r.step(t, phase.DualWrite)
	return r
}

func (r *real) connect(t *testing.T) (*cqltest.Client, error) {
	return cqltest.Connect(t, fmt.Sprintf("127.0.0.1:%d", r.port), cqltest.Login{Username: "app", Password: targetPassword})
}

// write sends a write and tells whether it succeeded.
func write(t *testing.T, c *cqltest.Client, key int) error {
	a := c.Await(t, c.Send(&message.Query{Query: fmt.Sprintf("INSERT INTO ks.t (k) VALUES (%d)", key), Options: &message.QueryOptions{}}))
	switch m := a.Message().(type) {
	case nil:
		return errors.Join(errors.New("no answer"), a.Err)
	case message.Error:
		return errors.New(m.GetErrorMessage())
	}
	return nil
}

// load writes, one at a time, until stop is called, which tells how many writes
// there were and which failed. A closed connection is opened again, as a driver
// would.
func (r *real) load(t *testing.T) (stop func() (sent int, failed []error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var sent int
	var failed []error
	go func() {
		defer close(done)
		var c *cqltest.Client
		for ctx.Err() == nil {
			if c == nil {
				var err error
				if c, err = r.connect(t); err != nil {
					failed, c = append(failed, fmt.Errorf("connect: %w", err)), nil
					time.Sleep(time.Millisecond)
					continue
				}
			}
			select {
			case <-c.Done():
				c = nil
				continue
			default:
			}
			sent++
			if err := write(t, c, sent); err != nil {
				failed = append(failed, fmt.Errorf("write %d: %w", sent, err))
				c.Close()
				c = nil
			}
		}
	}()
	return func() (int, []error) { cancel(); <-done; return sent, failed }
}

func TestRealProxyWalksThroughAllPhases(t *testing.T) {
	t.Parallel()
	r := serving(t)
	c, err := r.connect(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []phase.Phase{phase.DualRead, phase.CutOver, phase.DualRead, phase.CutOver, phase.TargetOnly} {
		r.step(t, p)
		if err := write(t, c, 1); err != nil {
			t.Fatalf("in %s: %v", p, err)
		}
	}
	st := r.await(t, "ready", func(st *adminapi.Status) bool { return st.Ready })
	if st.Proxy.Phase != phase.TargetOnly || st.Proxy.Epoch != 6 || st.Proxy.Target.ReleaseVersion != "5.0.5" {
		t.Errorf("the proxy's own status: %+v", st.Proxy)
	}
	// Origin may be gone, also for a process that begins then.
	r.origin.Stop()
	if st, err = r.c.Restart(t.Context(), "without Origin"); err != nil || !st.Ready {
		t.Fatalf("restart without Origin: %+v, %v", st, err)
	}
	if c, err = r.connect(t); err != nil {
		t.Fatal(err)
	}
	if err := write(t, c, 2); err != nil {
		t.Error(err)
	}
}

func TestRealProxyRestartFailsFewRequests(t *testing.T) {
	t.Parallel()
	r := serving(t)
	stop := r.load(t)
	const restarts = 5
	for range restarts {
		if _, err := r.c.Restart(t.Context(), "rolling"); err != nil {
			t.Error(err)
		}
	}
	sent, failed := stop()
	t.Logf("%d restarts failed %d of %d requests of a client that has one in flight", restarts, len(failed), sent)
	// A request that meets the close of its connection is one at most for each
	// restart, until established connections are handed over too.
	if len(failed) > restarts {
		t.Errorf("more than one for each restart: %v", failed)
	}
	for _, err := range failed {
		if strings.Contains(err.Error(), "connect:") {
			t.Errorf("a connection was refused: %v", err)
		}
	}
	r.await(t, "rid of old processes", func(st *adminapi.Status) bool { return st.Ready && len(r.processes()) == 1 })
}

func TestRealProxyKilledIsBackWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	r := serving(t)
	pid := r.await(t, "ready", func(st *adminapi.Status) bool { return st.Ready }).Proxy.PID
	begin := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for {
		if c, err := r.connect(t); err == nil {
			if err := write(t, c, 1); err != nil {
				t.Error(err)
			}
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("not back")
		}
		time.Sleep(5 * time.Millisecond)
	}
	took := time.Since(begin)
	t.Logf("a client was served again %s after kill -9", took.Round(time.Millisecond))
	if took > 2*time.Second {
		t.Errorf("back after %s, want 2 s at most", took)
	}
}

func TestRealConfigurationThatCannotWorkLeavesTheOldOneAndSaysWhy(t *testing.T) {
	t.Parallel()
	r := serving(t)
	for _, test := range []struct {
		name   string
		change func(*adminapi.Config)
		want   string
	}{
		{"wrong password", func(c *adminapi.Config) { c.Secrets["target_password"] = "wrong-one" }, "target"},
		{"unreachable", func(c *adminapi.Config) { c.Settings["origin_port"] = fmt.Sprint(free(t)) }, "connection refused"},
	} {
		conf := r.config()
		test.change(conf)
		_, err := r.c.PutConfig(t.Context(), conf, 1)
		var p *adminapi.Problem
		if !errors.As(err, &p) || p.Kind() != adminapi.ApplyFailed || !strings.Contains(p.Error(), test.want) {
			t.Errorf("%s: got %v, want an apply-failed with %q", test.name, err, test.want)
			continue
		}
		t.Logf("%s: %v", test.name, p)
		if strings.Contains(p.Error(), "wrong-one") {
			t.Errorf("%s: the problem shows a secret", test.name)
		}
		if st := r.await(t, "ready", func(st *adminapi.Status) bool { return st.Ready }); st.Generation != 1 || st.Running != 1 {
			t.Errorf("%s: generation %d, running %d", test.name, st.Generation, st.Running)
		}
	}
	c, err := r.connect(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := write(t, c, 1); err != nil {
		t.Error(err)
	}
}

func TestRealAgentKilledAtAnyMomentLeavesAGoodGenerationServing(t *testing.T) {
	t.Parallel()
	r := serving(t)
	rounds := 8
	for round := range rounds {
		now, err := r.c.Config(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conf := r.config()
		conf.Settings["proxy_max_stream_ids"] = fmt.Sprint(500 + round)
		answered := make(chan error, 1)
		go func() {
			_, err := r.c.PutConfig(context.WithoutCancel(t.Context()), conf, now.Generation)
			answered <- err
		}()
		timer := time.NewTimer(time.Duration(rand.IntN(400)) * time.Millisecond)
		<-timer.C
		r.end(t, syscall.SIGKILL)
		put := <-answered
		r.start(t)
		st := r.await(t, "ready", func(st *adminapi.Status) bool { return st.Ready && len(r.processes()) == 1 })
		after, err := r.c.Config(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if put == nil && after.Generation == now.Generation {
			t.Errorf("round %d: a generation that was answered is lost", round)
		}
		if st.Running != after.Generation || st.Phase.Phase != phase.DualWrite || st.Restarts != 0 {
			t.Errorf("round %d: running %d of %d in %s", round, st.Running, after.Generation, st.Phase.Phase)
		}
		c, err := r.connect(t)
		if err != nil {
			t.Fatal(err)
		}
		if err := write(t, c, round); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		c.Close()
	}
}

func TestRealAgentRestartTouchesNoConnection(t *testing.T) {
	t.Parallel()
	r := serving(t)
	stop := r.load(t)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM} {
		r.end(t, s)
		r.start(t)
		r.await(t, "ready", func(st *adminapi.Status) bool { return st.Ready })
	}
	if sent, failed := stop(); len(failed) > 0 || sent == 0 {
		t.Errorf("%d of %d requests failed: %v", len(failed), sent, failed)
	}
}

func TestRealProcessesShowNoSecret(t *testing.T) {
	t.Parallel()
	r := serving(t)
	clean := func(where string, text []byte) {
		t.Helper()
		for _, s := range []string{originPassword, targetPassword, token} {
			if bytes.Contains(text, []byte(s)) {
				t.Errorf("%s has a secret", where)
			}
		}
	}
	for _, pid := range append(r.processes(), r.agent.Process.Pid) {
		for _, name := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			if err != nil {
				t.Fatal(err)
			}
			clean(fmt.Sprintf("%s of %d", name, pid), b)
		}
	}
	st, err := r.c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(st)
	clean("the status", b)
	clean("the agent's log", []byte(r.log.String()))
	kept := []string{filepath.Join(r.dir, "state", "records"), filepath.Join(r.dir, "token")}
	err = filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || slices.Contains(kept, path) || slices.Contains(kept, filepath.Dir(path)) || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		clean(path, b)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
