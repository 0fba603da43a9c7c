package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/supervise"
)

// The test binary is the supervised process, or an agent that starts one and
// dies, as this variable says.
const roleVariable = "SUPERVISE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		os.Exit(m.Run())
	case "agent":
		os.Exit(beAgent(os.Args[1]))
	default:
		os.Exit(beProcess(role, os.Args[len(os.Args)-1]))
	}
}

func beProcess(role, socket string) int {
	if role == "deaf" {
		signal.Ignore(syscall.SIGTERM)
	}
	for i := range 30 {
		fmt.Println("line", i)
	}
	if role == "crash" {
		fmt.Fprintln(os.Stderr, "panic: told to")
		return 3
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for { // a connection asks it to drain
		if conn, err := l.Accept(); err != nil {
			return 1
		} else if b := make([]byte, 1); readOne(conn, b) && b[0] == 'd' {
			return 0
		}
	}
}

func readOne(conn net.Conn, b []byte) bool {
	defer conn.Close()
	_, err := conn.Read(b)
	return err == nil
}

func newExec(t *testing.T, dir, role string) *supervise.Exec {
	t.Helper()
	e, err := execOf(dir, role)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func execOf(dir, role string) (*supervise.Exec, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return supervise.NewExec(dir, self, func(socket string) []string { return []string{"-control", socket} }, []string{roleVariable + "=" + role})
}

// beAgent starts two processes and dies without a word to them; the pidfile of
// the second gets lost.
func beAgent(dir string) int {
	e, err := execOf(dir, "good")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for i := range 2 {
		p, err := e.Start()
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(p.Name(), p.PID())
		if i == 1 {
			os.Remove(strings.TrimSuffix(p.Socket(), ".sock") + ".pid")
		}
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	return 1
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "zdm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, e *supervise.Exec) supervise.Process {
	t.Helper()
	p, err := e.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Signal(syscall.SIGKILL); awaitEnd(t, p) })
	return p
}

func awaitEnd(t *testing.T, p supervise.Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatalf("%s does not end", p.Name())
	}
}

// awaitSocket waits until the process listens, when its handlers are set too.
func awaitSocket(t *testing.T, p supervise.Process) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if conn, err := net.Dial("unix", p.Socket()); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen: %q", p.Name(), p.Output())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func drain(p supervise.Process) func(context.Context, time.Duration) error {
	return func(context.Context, time.Duration) error {
		conn, err := net.Dial("unix", p.Socket())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("d"))
		return err
	}
}

func TestProcessHasItsOwnSessionAndOnlyTheGivenEnvironment(t *testing.T) {
	t.Setenv("ZDM_ORIGIN_PASSWORD", "hunter2")
	p := start(t, newExec(t, shortDir(t), "good"))
	awaitSocket(t, p)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
	if session := fields[3]; session != fmt.Sprint(p.PID()) {
		t.Errorf("session %s, want its own, %d", session, p.PID())
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID()))
	if err != nil || strings.TrimRight(string(environ), "\x00") != roleVariable+"=good" {
		t.Errorf("environment %q, %v", environ, err)
	}
}

func TestCrashIsToldWithItsLastLines(t *testing.T) {
	t.Parallel()
	p := start(t, newExec(t, shortDir(t), "crash"))
	awaitEnd(t, p)
	if got := p.Exit(); got != "exit status 3" {
		t.Errorf("exit %q", got)
	}
	lines := p.Output()
	if len(lines) != 20 || lines[19] != "panic: told to" || lines[18] != "line 29" {
		t.Errorf("last lines %q", lines)
	}
	if _, err := os.Stat(p.Socket()); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket is still there")
	}
}

func TestStopDrainsThenTerminatesThenKills(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, role string
		drain      func(p supervise.Process) func(context.Context, time.Duration) error
		grace      supervise.Grace
		exit       string
	}{
		{"drains", "good", drain, supervise.Grace{Drain: 10 * time.Second, Term: 10 * time.Second}, "exit status 0"},
		{"does not drain", "good", func(supervise.Process) func(context.Context, time.Duration) error {
			return func(context.Context, time.Duration) error { return nil }
		}, supervise.Grace{Drain: 20 * time.Millisecond, Term: 10 * time.Second}, "signal: terminated"},
		{"cannot be asked", "good", func(supervise.Process) func(context.Context, time.Duration) error {
			return func(context.Context, time.Duration) error { return errors.New("no answer") }
		}, supervise.Grace{Drain: time.Hour, Term: 10 * time.Second}, "signal: terminated"},
		{"deaf", "deaf", func(supervise.Process) func(context.Context, time.Duration) error { return nil }, supervise.Grace{Term: 50 * time.Millisecond}, "signal: killed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, newExec(t, shortDir(t), test.role))
			awaitSocket(t, p)
			if err := supervise.Stop(t.Context(), p, test.drain(p), test.grace); err != nil {
				t.Fatal(err)
			}
			if got := p.Exit(); got != test.exit {
				t.Errorf("exit %q, want %q", got, test.exit)
			}
		})
	}
}

func TestStopThatIsCancelledLeavesTheProcess(t *testing.T) {
	t.Parallel()
	p := start(t, newExec(t, shortDir(t), "good"))
	awaitSocket(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	var told time.Duration
	err := supervise.Stop(ctx, p, func(_ context.Context, within time.Duration) error {
		told = within
		cancel()
		return nil
	}, supervise.Grace{Drain: time.Hour})
	if !errors.Is(err, context.Canceled) || p.Exit() != "" {
		t.Errorf("Stop: %v; exit %q", err, p.Exit())
	}
	if told != time.Hour {
		t.Errorf("the process was told to drain within %s, want the hour that Stop waits", told)
	}
}

func TestProcessesOfADeadAgentAreAdopted(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	agent := exec.Command(self, dir)
	agent.Env = append(os.Environ(), roleVariable+"=agent")
	out, _ := agent.Output() // it kills itself
	e := newExec(t, dir, "good")
	found, err := e.Running()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, p := range found {
			if p.Exit() == "" { // by pid, since a released one takes no signal
				_ = syscall.Kill(p.PID(), syscall.SIGKILL)
			}
		}
	})
	var told strings.Builder
	for _, p := range found {
		fmt.Fprintln(&told, p.Name(), p.PID())
	}
	if told.String() != string(out) || len(found) != 2 {
		t.Fatalf("adopted %q, want %q", told.String(), out)
	}
	if p := start(t, e); slices.ContainsFunc(found, func(o supervise.Process) bool { return o.Name() == p.Name() }) {
		t.Errorf("a new process has the name of an adopted one, %s", p.Name())
	}
	for i, p := range found {
		awaitSocket(t, p)
		if i == 0 {
			p.Release()
			if p.Exit() != "" {
				t.Error("a released process has ended")
			}
			continue
		}
		if err := supervise.Stop(t.Context(), p, drain(p), supervise.Grace{Drain: 10 * time.Second}); err != nil {
			t.Error(err)
		}
	}
	again, err := newExec(t, dir, "good").Running()
	if err != nil || len(again) != 2 || again[0].PID() != found[0].PID() { // and that of start
		t.Errorf("the third life adopts %v, %v", again, err)
	}
}

func TestProcessHasTheDescriptorsThatAreAskedFor(t *testing.T) {
	t.Parallel()
	e := newExec(t, shortDir(t), "good")
	e.Descriptors = 77
	p := start(t, e)
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if rest, found := strings.CutPrefix(line, "Max open files"); found {
			if fields := strings.Fields(rest); fields[0] != "77" || fields[1] != "77" {
				t.Errorf("limits are %v, want 77", fields)
			}
			return
		}
	}
	t.Errorf("no limit of open files in %s", limits)
}

func TestPidfileOfAnotherProcessIsNotTrusted(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	// This very process, but with another start time.
	text := fmt.Sprintf(`{"pid":%d,"start":1,"boot":"x"}`, os.Getpid())
	if err := os.WriteFile(filepath.Join(dir, "proxy-4.pid"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e := newExec(t, dir, "good")
	if found, err := e.Running(); err != nil || len(found) != 0 {
		t.Fatalf("adopted %v, %v", found, err)
	}
	if p := start(t, e); p.Name() != "proxy-5" {
		t.Errorf("the next is %s", p.Name())
	}
}

func TestLongFolderAndMissingBinaryAreToldAtOnce(t *testing.T) {
	t.Parallel()
	none := func(string) []string { return nil }
	if _, err := supervise.NewExec("/tmp/"+strings.Repeat("x", 100), "sh", none, nil); err == nil || !strings.Contains(err.Error(), "-run-dir") {
		t.Errorf("long folder: %v", err)
	}
	if _, err := supervise.NewExec(shortDir(t), "/no/such/binary", none, nil); err == nil || !strings.Contains(err.Error(), "-proxy-binary") {
		t.Errorf("no binary: %v", err)
	}
}

func TestOutputsOfOldProcessesAreRemoved(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	e := newExec(t, dir, "crash")
	for range 9 {
		awaitEnd(t, start(t, e))
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	if len(logs) > 6 {
		t.Errorf("%d output files are kept", len(logs))
	}
}

func TestBackoffDoublesAndForgetsAfterAStableRun(t *testing.T) {
	t.Parallel()
	var b supervise.Backoff
	var got []time.Duration
	for range 8 {
		got = append(got, b.Next(0))
	}
	const ms = time.Millisecond
	if want := []time.Duration{0, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5000 * ms}; !slices.Equal(got, want) {
		t.Errorf("waits %v, want %v", got, want)
	}
	if got := b.Next(supervise.Stable); got != 0 {
		t.Errorf("after a stable run: %s", got)
	}
}
