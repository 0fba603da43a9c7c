package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sleeper starts a process of a lab in dir that does nothing.
func sleeper(t *testing.T, lab, name string, args ...string) (dir string, id identity) {
	t.Helper()
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	if args == nil {
		args = []string{"600"}
	}
	dir = filepath.Join(lab, name)
	id, err = command{dir: dir, log: filepath.Join(dir, "log"), lab: lab, path: path, args: args}.start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = id.end(context.Background(), 0) })
	return dir, id
}

func TestAProcessHasItsOwnSessionAndIsFoundByItsPidFile(t *testing.T) {
	t.Parallel()
	dir, id := sleeper(t, t.TempDir(), "a")
	if got := readIdentity(dir); got != id || got.state() != processRunning {
		t.Errorf("read identity %+v in state %v, want %+v running", got, got.state(), id)
	}
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(id.PID), 0, 0)
	if errno != 0 || int(sid) != id.PID {
		t.Errorf("session of process %d is %d (%v), want its own", id.PID, sid, errno)
	}
	if err := killProcess("a", dir); err != nil {
		t.Fatal(err)
	}
	if pid := runningPID(dir); pid != 0 || id.state() != processGone {
		t.Errorf("after the kill pid %d, state %v; want none", pid, id.state())
	}
}

func TestAReusedPidIsNotTakenForTheProcess(t *testing.T) {
	t.Parallel()
	_, id := sleeper(t, t.TempDir(), "a")
	for what, other := range map[string]identity{
		"an earlier start": {PID: id.PID, Start: id.Start - 1, Boot: id.Boot},
		"another boot":     {PID: id.PID, Start: id.Start, Boot: "other"},
		"nothing":          {},
	} {
		if got := other.state(); got != processGone {
			t.Errorf("%s: state %v, want gone", what, got)
		}
		if err := other.signal(syscall.SIGKILL); !errors.Is(err, errGone) {
			t.Errorf("%s: signal: %v, want %v", what, err, errGone)
		}
	}
	if got := id.state(); got != processRunning {
		t.Errorf("the process that has the pid now is in state %v, want running", got)
	}
}

func TestAPausedProcessShowsAndEndsByItself(t *testing.T) {
	t.Parallel()
	dir, id := sleeper(t, t.TempDir(), "a")
	if err := signalProcess("a", dir, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if got := id.state(); got != processPaused {
		t.Errorf("state %v after SIGSTOP, want paused", got)
	}
	began := time.Now()
	if err := id.end(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s to end, although it was asked and continued", took)
	}
}

func TestDownEndsWhatNoPidFileKnows(t *testing.T) {
	t.Parallel()
	lab, beside := t.TempDir(), t.TempDir()
	dir, id := sleeper(t, lab, "origin-1")
	_, other := sleeper(t, beside, "origin-1")
	if err := os.Remove(filepath.Join(dir, "pid")); err != nil {
		t.Fatal(err)
	}
	// One of our programs with an environment of its own.
	program := filepath.Join(t.TempDir(), "zdm-proxy")
	if err := os.Symlink("/bin/sh", program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", "read x", filepath.Join(lab, "proxy-1", "control"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// One that only looks at a file of the lab.
	reader := exec.Command("tail", "-f", filepath.Join(dir, "log"))
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = reader.Process.Kill(), reader.Wait() }()

	found, err := strays(lab)
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range found {
		pids = append(pids, f.PID)
	}
	slices.Sort(pids)
	want := []int{id.PID, cmd.Process.Pid}
	slices.Sort(want)
	if !slices.Equal(pids, want) {
		t.Errorf("strays %v, want %v", pids, want)
	}
	if err := Down(t.Context(), lab); err != nil {
		t.Fatal(err)
	}
	if id.state() != processGone {
		t.Error("the process without a pid file is still there")
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the program of the lab ended by itself, want it killed")
	}
	if other.state() != processRunning {
		t.Error("the process of the other lab was ended too")
	}
}

func TestProcessesDoNotInheritSettingsOfOurPrograms(t *testing.T) {
	t.Setenv("ZDM_PROXY_LISTEN_PORT", "1")
	t.Setenv("JAVA_TOOL_OPTIONS", "-Xmx1m")
	lab := t.TempDir()
	_, id := sleeper(t, lab, "a")
	environ, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(id.PID), "environ"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ZDM_PROXY_LISTEN_PORT", "JAVA_TOOL_OPTIONS"} {
		if slices.ContainsFunc(strings.Split(string(environ), "\x00"), func(v string) bool { return len(v) > len(name) && v[:len(name)+1] == name+"=" }) {
			t.Errorf("the process has %s of the environment of whoever started it", name)
		}
	}
	if !slices.Contains(strings.Split(string(environ), "\x00"), ownerVariable+"="+lab) {
		t.Errorf("the process does not carry its lab: %q", environ)
	}
}
