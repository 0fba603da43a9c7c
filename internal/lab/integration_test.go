package lab_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestMain(m *testing.M) { labtest.Main(m, lab.Options{}) }

// The story of one lab, told once: a lab takes half a minute to start.
func TestALabLivesThroughFaultsAndLeavesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts two Cassandra clusters")
	}
	l := labtest.Own(t, lab.Options{Proxies: 1})
	ctx := t.Context()

	// Both sides are what they should be, and take the application's role only
	// with its own password.
	for _, c := range l.Clusters() {
		s := labtest.Session(t, c, "")
		var version string
		if err := s.Query("SELECT release_version FROM system.local").Scan(&version); err != nil || version != c.Version {
			t.Errorf("%s is version %q, %v; want %s", c.Side, version, err, c.Version)
		}
		wrong := labtest.ClusterConfig(c, "")
		wrong.Authenticator = gocql.PasswordAuthenticator{Username: c.Username, Password: l.Cluster(c.Side.Other()).Password}
		wrong.Logger = gocql.NewLogger(gocql.LogLevelNone)
		if s, err := wrong.CreateSession(); err == nil {
			s.Close()
			t.Errorf("%s took the other side's password", c.Side)
		}
	}
	for _, p := range l.Status(ctx).Processes {
		if p.State != lab.Ready {
			t.Errorf("%s is %s (%s), want up", p.Name, p.State, p.Detail)
		}
	}

	// A second Up changes nothing; a different one says why it cannot be.
	before := pids(l)
	var progress bytes.Buffer
	if _, err := lab.Up(ctx, lab.Options{Dir: l.Dir, Progress: &progress}); err != nil {
		t.Fatalf("second up: %v", err)
	}
	if after := pids(l); after != before || !strings.Contains(progress.String(), "nothing to do") {
		t.Errorf("the second up made %s of %s and said %q", after, before, progress.String())
	}
	if _, err := lab.Up(ctx, lab.Options{Dir: l.Dir, Nodes: 2}); err == nil || !strings.Contains(err.Error(), "nodes: it has 1, asked for 2") {
		t.Errorf("up with other nodes: %v, want what differs", err)
	}

	// A write that was acknowledged just before a kill is there after it.
	keyspace := labtest.Keyspace(t, l)
	node := l.Target.Nodes[0]
	s := labtest.Session(t, l.Target, keyspace)
	exec(t, s, "CREATE TABLE t (k int PRIMARY KEY)")
	const rows = 50
	for k := range rows {
		exec(t, s, fmt.Sprintf("INSERT INTO t (k) VALUES (%d)", k))
	}
	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	if pid := node.PID(); pid != 0 {
		t.Errorf("the killed node has pid %d", pid)
	}
	if err := node.Start(ctx); err != nil {
		t.Fatal(err)
	}
	again := labtest.Session(t, l.Target, keyspace)
	var count int
	if err := again.Query("SELECT count(*) FROM t").Scan(&count); err != nil || count != rows {
		t.Errorf("%d of %d rows after the kill, %v", count, rows, err)
	}

	// A paused node keeps its port and answers nobody.
	if err := node.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(ctx); err == nil || !strings.Contains(err.Error(), "paused") {
		t.Errorf("start of a paused node: %v, want that it is paused", err)
	}
	if state := stateOf(l, node.Name); state != lab.Paused {
		t.Errorf("state %q after SIGSTOP, want %q", state, lab.Paused)
	}
	if err := node.Continue(); err != nil {
		t.Fatal(err)
	}

	// The agent comes back on its state.
	a := l.Appliances[0]
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(a.TokenFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("token file: %v, %v; want mode 0600", info, err)
	}

	// Configured, it runs a proxy; should that be killed, another one.
	serveDualWrite(t, l, a)
	first, err := a.KillProxy(ctx)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "another proxy serves", func() error {
		pid, err := a.ProxyPID(ctx)
		if err == nil && (pid == 0 || pid == first) {
			err = fmt.Errorf("proxy pid %d, was %d", pid, first)
		}
		return err
	})
	eventually(t, "status shows it", func() error {
		if state := stateOf(l, a.Name+"/proxy"); state != lab.Ready {
			return fmt.Errorf("state %q", state)
		}
		return nil
	})

	// A proxy of its own serves between the two.
	p, err := l.StartProxy(ctx, lab.ProxyOptions{Env: map[string]string{"ZDM_PHASE": "dual_write"}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := labtest.ClusterConfig(l.Target, keyspace)
	cfg.Hosts, cfg.Port, cfg.ProtoVersion = []string{p.ListenAddress}, p.Port, 4
	through, err := cfg.CreateSession()
	if err != nil {
		t.Fatalf("through the proxy: %v; its log:\n%s", err, read(t, p.LogPath()))
	}
	exec(t, labtest.Session(t, l.Origin, keyspace), "CREATE TABLE t (k int PRIMARY KEY)")
	exec(t, through, "INSERT INTO t (k) VALUES (1000)")
	for _, c := range l.Clusters() {
		var k int
		if err := labtest.Session(t, c, keyspace).Query("SELECT k FROM t WHERE k = 1000").Scan(&k); err != nil {
			t.Errorf("the row written through the proxy is not on %s: %v", c.Side, err)
		}
	}
	through.Close()
	if err := p.Terminate(ctx); err != nil {
		t.Fatal(err)
	}

	// Down leaves nothing, not even what lost its pid file.
	if err := os.Remove(filepath.Join(l.Dir, l.Origin.Nodes[0].Name, "pid")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := lab.Down(ctx, l.Dir); err != nil {
		t.Fatal(err)
	}
	t.Logf("down took %s", time.Since(began).Round(time.Millisecond))
	if left := mentioning(t, l.Dir); len(left) > 0 {
		t.Errorf("still there after down: %q", left)
	}
}

// serveDualWrite gives the agent what Terraform would.
func serveDualWrite(t *testing.T, l *lab.Lab, a *lab.Appliance) {
	t.Helper()
	c, err := a.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	doc := &adminapi.Config{
		ClusterID: "lab", Instance: a.Name,
		Settings: map[string]string{"proxy_listen_address": a.ListenAddress, "proxy_listen_port": strconv.Itoa(a.Port), "metrics_address": a.ListenAddress},
		Secrets:  map[string]string{},
	}
	for _, c := range l.Clusters() {
		for name, value := range c.ProxySettings() {
			name = strings.ToLower(strings.TrimPrefix(name, "ZDM_"))
			if strings.HasSuffix(name, "_password") {
				doc.Secrets[name] = value
			} else {
				doc.Settings[name] = value
			}
		}
	}
	if _, err := c.PutConfig(t.Context(), doc, 0); err != nil {
		t.Fatalf("configure %s: %v", a.Name, err)
	}
	now, err := c.Phase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	prepared, err := c.Prepare(t.Context(), adminapi.PrepareRequest{Phase: phase.DualWrite}, now.Epoch)
	if err != nil {
		t.Fatalf("prepare dual_write: %v", err)
	}
	if _, err := c.Commit(t.Context(), prepared.Prepared.Token); err != nil {
		t.Fatalf("commit dual_write: %v", err)
	}
}

// eventually waits for other processes, which tell nobody when they are done.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func exec(t *testing.T, s *gocql.Session, text string) {
	t.Helper()
	if err := s.Query(text).Exec(); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func pids(l *lab.Lab) string {
	return fmt.Sprint(l.Origin.Nodes[0].PID(), l.Target.Nodes[0].PID(), l.Appliances[0].AgentPID())
}

func stateOf(l *lab.Lab, name string) lab.ProcessState {
	for _, p := range l.Status(context.Background()).Processes {
		if p.Name == name {
			return p.State
		}
	}
	return ""
}

// mentioning looks for processes of the lab without the lab's own means.
func mentioning(t *testing.T, dir string) (found []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), dir+"/") {
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}
