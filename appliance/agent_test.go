package appliance_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance"
	"github.com/zdmproject/terraform-provider-zdm/appliance/access"
	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/adminhttp"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/appliance/recent"
	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
	"github.com/zdmproject/terraform-provider-zdm/appliance/supervise"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const (
	testToken = "token-of-the-tests-0123456789"
	readToken = "token-of-one-who-reads-0123456789"
	// Secrets of the test configuration: they must be nowhere but in the records.
	originPassword = "hunter2-origin-Zq8"
	targetPassword = "hunter2-target-Kw3"
)

// clock is moved by tests.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// logBuffer is safe for the agent and the test.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// instance is an agent with its folder; the agent in it can be ended and started
// again.
type instance struct {
	t     *testing.T
	dir   string
	port  int
	clock clock
	log   logBuffer
	boot  string      // the machine's start, as the agent sees it
	full  atomic.Bool // the disk
	// fullAfter: so many records still have room; 0 for all.
	fullAfter atomic.Int32
	node      string // where node_exporter answers

	// Of the agent that runs.
	cancel context.CancelFunc
	served chan error
	store  *store.Store
	server *httptest.Server
	c      *client.Client
}

// newInstance starts an agent on an empty folder. Everything ends with the test.
func newInstance(t *testing.T) *instance {
	t.Helper()
	dir, err := os.MkdirTemp("", "zdm") // short, for the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	in := &instance{t: t, dir: dir, port: freePort(t)}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Cleanup(in.killAll)
	in.start()
	return in
}

// freePort is one that the kernel would give; the fake binds it a moment later.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (in *instance) start() {
	in.t.Helper()
	self, err := os.Executable()
	if err != nil {
		in.t.Fatal(err)
	}
	records := filepath.Join(in.dir, "state", "records")
	if err := os.MkdirAll(records, 0o700); err != nil {
		in.t.Fatal(err)
	}
	if in.store, err = store.OpenFS(fullFS{store.Dir(records), in}); err != nil {
		in.t.Fatal(err)
	}
	program := filepath.Join(in.dir, "program")
	if _, err := os.Stat(program); err != nil {
		in.install("exec " + self + ` "$@"`)
	}
	maker, err := supervise.NewExec(in.run(), program, func(socket string) []string { return []string{"-control", socket} }, []string{fakeVariable + "=1"})
	if err != nil {
		in.t.Fatal(err)
	}
	events, err := recent.OpenEvents(filepath.Join(in.dir, "state", "events"), in.clock.now)
	if err != nil {
		in.t.Fatal(err)
	}
	logs := recent.NewLogs(in.clock.now)
	log := slog.New(slog.NewJSONHandler(io.MultiWriter(&in.log, logs.Writer(adminapi.SourceAgent)), nil))
	agent, err := appliance.New(appliance.Options{
		Store: in.store, Maker: maker, Log: log, Version: "test", Events: events, Logs: logs, BootID: in.boot,
		ReadyTimeout: 2 * time.Second, DrainTimeout: 2 * time.Second, Now: in.clock.now,
	})
	if err != nil {
		in.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	in.cancel, in.served = cancel, make(chan error, 1)
	go func() { in.served <- agent.Serve(ctx) }()
	rules, err := access.Parse([]byte("tokens: [{name: reader, role: read, sha256: " + access.HashToken(readToken) + "}]"))
	if err != nil {
		in.t.Fatal(err)
	}
	rules = rules.WithToken("tests", testToken)
	handler := adminhttp.New(adminhttp.Options{
		Agent: agent, Events: events, Logs: logs, Log: log, Metrics: adminhttp.NewMetrics(agent), NodeMetrics: in.node, Now: in.clock.now,
		Gate: &access.Gate{Rules: func() *access.Rules { return rules }, Now: in.clock.now},
	})
	in.server = httptest.NewUnstartedServer(contract(in.t, handler))
	in.server.StartTLS()
	in.c = in.client(testToken)
}

// fullFS is a disk that may be full.
type fullFS struct {
	store.FS
	in *instance
}

func (f fullFS) Create(name string) (store.File, error) {
	if f.in.full.Load() {
		return nil, syscall.ENOSPC
	}
	if f.in.fullAfter.Load() > 0 && f.in.fullAfter.Add(-1) == 0 {
		f.in.full.Store(true) // from the next one on
	}
	return f.FS.Create(name)
}

// install puts a program in the place of the proxy's, a script.
func (in *instance) install(script string) {
	in.t.Helper()
	name := filepath.Join(in.dir, "program")
	if err := os.WriteFile(name+".new", []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		in.t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		in.t.Fatal(err)
	}
}

func (in *instance) run() string { return filepath.Join(in.dir, "run") }

func (in *instance) client(token string) *client.Client {
	in.t.Helper()
	c, err := client.New(client.Options{URL: in.server.URL, CA: pemOf(in.server), Token: secret.New(token)})
	if err != nil {
		in.t.Fatal(err)
	}
	return c
}

// stop ends the agent; its processes run on.
func (in *instance) stop() {
	in.t.Helper()
	in.cancel()
	if err := <-in.served; err != nil {
		in.t.Errorf("Serve: %v", err)
	}
	in.c.Close()
	in.server.Close()
	in.store.Close()
	in.cancel = nil
}

func (in *instance) killAll() {
	if in.cancel != nil {
		in.stop()
	}
	for _, pid := range in.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// processes are the pids of this instance's proxy processes.
func (in *instance) processes() []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		args, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		var pid int
		if strings.Contains(string(args), in.run()+"/") {
			if _, err := fmt.Sscan(e.Name(), &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func (in *instance) config(host string) *adminapi.Config {
	return &adminapi.Config{
		ClusterID: "cluster-1", Instance: "one",
		Settings: map[string]string{
			"origin_contact_points": host, "origin_username": "app",
			"target_contact_points": hostGood, "target_username": "app",
			"proxy_listen_address": "127.0.0.1", "proxy_listen_port": fmt.Sprint(in.port),
		},
		Secrets: map[string]string{"origin_password": originPassword, "target_password": targetPassword},
	}
}

// put changes the configuration and fails the test if that fails.
func (in *instance) put(host string, etag uint64) *adminapi.Config {
	in.t.Helper()
	got, err := in.c.PutConfig(in.t.Context(), in.config(host), etag)
	if err != nil {
		in.t.Fatalf("PUT of %s: %v\n%s", host, err, &in.log)
	}
	return got
}

func (in *instance) prepare(p phase.Phase, epoch uint64) string {
	in.t.Helper()
	got, err := in.c.Prepare(in.t.Context(), adminapi.PrepareRequest{Phase: p}, epoch)
	if err != nil {
		in.t.Fatalf("prepare %s: %v\n%s", p, err, &in.log)
	}
	return got.Prepared.Token
}

// step takes the instance to a phase.
func (in *instance) step(p phase.Phase, epoch uint64) {
	in.t.Helper()
	if _, err := in.c.Commit(in.t.Context(), in.prepare(p, epoch)); err != nil {
		in.t.Fatalf("commit %s: %v\n%s", p, err, &in.log)
	}
}

func (in *instance) status() *adminapi.Status {
	in.t.Helper()
	st, err := in.c.Status(in.t.Context())
	if err != nil {
		in.t.Fatal(err)
	}
	return st
}

// await polls the status.
func (in *instance) await(what string, is func(*adminapi.Status) bool) *adminapi.Status {
	in.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		st := in.status()
		if is(st) {
			return st
		}
		if time.Now().After(deadline) {
			in.t.Fatalf("not %s: %+v\n%s", what, st, &in.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func ready(st *adminapi.Status) bool { return st.Ready }

// session is a client of the fake proxy.
type session struct {
	conn net.Conn
	r    *bufio.Reader
}

func (in *instance) connect() *session {
	in.t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", in.port))
	if err != nil {
		in.t.Fatal(err)
	}
	in.t.Cleanup(func() { conn.Close() })
	return &session{conn, bufio.NewReader(conn)}
}

// ask returns "GENERATION PHASE EPOCH".
func (s *session) ask(t *testing.T) string {
	t.Helper()
	_ = s.conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(s.conn, "?"); err != nil {
		t.Fatal(err)
	}
	line, err := s.r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// wantProblem fails the test unless err is a problem of the type.
func wantProblem(t *testing.T, err error, kind string, status int) *adminapi.Problem {
	t.Helper()
	var p *adminapi.Problem
	if !errors.As(err, &p) {
		t.Fatalf("got %v (%T), want a problem of type %s", err, err, kind)
	}
	if string(p.Kind()) != kind || p.Status != status {
		t.Fatalf("got %d %s (%s), want %d %s", p.Status, p.Type, p.Detail, status, kind)
	}
	return p
}

func TestInstanceGoesFromLockedToConfiguredToServing(t *testing.T) {
	t.Parallel()
	in := newInstance(t)
	if st := in.status(); st.State != adminapi.Locked || st.Ready {
		t.Fatalf("a new instance is %s, ready %t", st.State, st.Ready)
	}
	if got := in.put(hostGood, 0); got.Generation != 1 || got.Running != 1 {
		t.Fatalf("PUT: generation %d, running %d; want 1 and 1", got.Generation, got.Running)
	}
	st := in.status()
	if st.State != adminapi.Configured || !st.Ready || st.Proxy.State != control.Ready {
		t.Fatalf("after PUT: %s, ready %t (%q), process %s", st.State, st.Ready, st.NotReady, st.Proxy.State)
	}
	if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", in.port)); err == nil {
		conn.Close()
		t.Fatal("the client port is open without a phase")
	}
	in.step(phase.DualWrite, 0)
	if got, want := in.connect().ask(t), "1 dual_write 1"; got != want {
		t.Fatalf("a client is told %q, want %q", got, want)
	}
	if st := in.status(); st.State != adminapi.Serving || !st.Ready || st.Phase.Epoch != 1 {
		t.Fatalf("after the first phase: %s, ready %t (%q), epoch %d", st.State, st.Ready, st.NotReady, st.Phase.Epoch)
	}
}
