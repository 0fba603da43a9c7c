package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// ownerVariable is in the environment of every process of a lab, with the
// lab's folder as its value. It does not begin with ZDM_, because the proxy
// reads those and refuses names that it does not know.
const ownerVariable = "LAB_OF_ZDM"

// identity tells one process from every other that ever had its pid.
type identity struct {
	PID int `json:"pid"`
	// Start is the start time in clock ticks since boot: field 22 of
	// /proc/PID/stat.
	Start uint64 `json:"start"`
	Boot  string `json:"boot"`
}

// processState is the letter of /proc/PID/stat that matters to us.
type processState int

const (
	processGone processState = iota
	processRunning
	processPaused // by SIGSTOP
)

var bootID = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
})

// readStat returns the state letter and the start time of a pid.
func readStat(pid int) (state byte, start uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The command name is in parentheses and may hold anything, so the fields
	// are counted from the last one: the state is field 3.
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return 0, 0, fmt.Errorf("read /proc/%d/stat: no command name", pid)
	}
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields)+2)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0][0], start, err
}

// identify returns the identity of a running pid.
func identify(pid int) (identity, error) {
	_, start, err := readStat(pid)
	return identity{PID: pid, Start: start, Boot: bootID()}, err
}

// state looks at the process. A child of ours that has ended is reaped here:
// nobody else waits for it.
func (id identity) state() processState {
	if id.PID <= 0 || id.Boot != bootID() {
		return processGone
	}
	letter, start, err := readStat(id.PID)
	if err != nil || start != id.Start {
		return processGone
	}
	switch letter {
	case 'Z', 'X', 'x':
		// The letter is the first thread's. The others may still hold files and
		// sockets; the process is gone when all have ended.
		fd, err := unix.PidfdOpen(id.PID, 0)
		if err != nil {
			return processGone
		}
		defer func() { _ = unix.Close(fd) }()
		if ended, err := hasEnded(fd, 0); err == nil && !ended {
			return processRunning
		}
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(id.PID, &status, syscall.WNOHANG, nil)
		return processGone
	case 'T', 't':
		return processPaused
	}
	return processRunning
}

// threads is how many of a process's threads are stopped.
type threads int

const (
	noThread threads = iota
	someThreads
	allThreads
)

func (id identity) stoppedThreads() threads {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", id.PID))
	var all, stopped int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // ended meanwhile
		}
		all++
		if end := bytes.LastIndexByte(b, ')'); end >= 0 && len(b) > end+2 && b[end+2] == 'T' {
			stopped++
		}
	}
	switch stopped {
	case 0:
		return noThread
	case all:
		return allThreads
	}
	return someThreads
}

// hasEnded waits for the end of the process that a pid descriptor stands for.
func hasEnded(fd int, within time.Duration) (bool, error) {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(within.Milliseconds()))
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return n > 0, err
}

// signal sends s, and never to another process that got the pid meanwhile. A
// process that is gone is errGone.
func (id identity) signal(s syscall.Signal) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		return errGone
	}
	defer func() { _ = unix.Close(fd) }()
	// The descriptor stands for whoever has the pid now; only if that is the
	// one we mean, it is the right one from here on.
	if id.state() == processGone {
		return errGone
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return errGone
		}
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(s), id.PID, err)
	}
	return nil
}

var errGone = errors.New("process is gone")

// wait returns nil once the process is gone.
func (id identity) wait(ctx context.Context) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		id.state()
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	for id.state() != processGone {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for the end of process %d: %w", id.PID, err)
		}
		// 100 ms is how late the end of ctx may be noticed.
		if _, err := hasEnded(fd, 100*time.Millisecond); err != nil {
			return fmt.Errorf("wait for the end of process %d: %w", id.PID, err)
		}
	}
	return nil
}

// end asks the process to end, gives it grace, then kills it. A grace of 0
// kills at once. A paused process cannot hear SIGTERM, so it is continued.
func (id identity) end(ctx context.Context, grace time.Duration) error {
	if grace > 0 {
		if err := id.signal(unix.SIGTERM); errors.Is(err, errGone) {
			return nil
		}
		_ = id.signal(unix.SIGCONT)
		patience, cancel := context.WithTimeout(ctx, grace)
		err := id.wait(patience)
		cancel()
		if err == nil {
			return nil
		}
	}
	if err := id.signal(unix.SIGKILL); errors.Is(err, errGone) {
		return nil
	} else if err != nil {
		return err
	}
	return id.wait(ctx)
}

// command is a process to be started. It is not an exec.Cmd, since nobody
// waits for it: it outlives the caller.
type command struct {
	dir  string // its folder: working directory, and where "pid" and log are
	log  string // standard output and error are appended to this file
	path string
	args []string // without the program's name
	env  []string // added to a small environment
	lab  string
}

// start starts the process in a session of its own, and writes its pid file.
func (c command) start() (identity, error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return identity{}, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return identity{}, err
	}
	defer func() { _ = null.Close() }()
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return identity{}, err
	}
	defer func() { _ = log.Close() }()
	p, err := os.StartProcess(c.path, append([]string{c.path}, c.args...), &os.ProcAttr{
		Dir:   c.dir,
		Env:   append(append(baseEnvironment(), c.env...), ownerVariable+"="+c.lab),
		Files: []*os.File{null, log, log},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return identity{}, fmt.Errorf("start %s: %w", c.path, err)
	}
	id, err := identify(p.Pid)
	if err == nil {
		err = writeIdentity(c.dir, id)
	}
	if err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return identity{}, fmt.Errorf("start %s: %w", c.path, err)
	}
	return id, p.Release()
}

// baseEnvironment is what every process gets: enough to run, nothing that could
// change what it does (ZDM_ variables, JAVA_TOOL_OPTIONS and the like).
func baseEnvironment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "USER"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func writeIdentity(dir string, id identity) error {
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, "pid"), append(b, '\n'), 0o600)
}

// readIdentity returns the zero identity, which is gone, when there is no pid
// file. A file that cannot be understood counts as none: Down finds what it
// stood for by its environment.
func readIdentity(dir string) identity {
	var id identity
	b, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil || json.Unmarshal(b, &id) != nil {
		return identity{}
	}
	return id
}

func removeIdentity(dir string) error {
	err := os.Remove(filepath.Join(dir, "pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// strays finds every process that belongs to the lab in dir, whether or not a
// pid file knows it: by the mark in its environment, which children inherit,
// or, should one have been given another environment, by the folder in the
// command line of one of the programs that a lab runs. An editor or a pager
// that looks at a file of the lab is neither.
func strays(dir string) ([]identity, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes of the lab: %w", err)
	}
	var found []identity
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The identity first: should the pid change hands while it is looked at,
		// the signal will not go out.
		id, err := identify(pid)
		if err != nil || !belongs(pid, dir) || id.state() == processGone {
			continue
		}
		found = append(found, id)
	}
	return found, nil
}

func belongs(pid int, dir string) bool {
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false // gone, or another user's
	}
	mark := []byte(ownerVariable + "=" + dir)
	for v := range bytes.SplitSeq(environ, []byte{0}) {
		if bytes.Equal(v, mark) {
			return true
		}
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	program, rest, _ := bytes.Cut(cmdline, []byte{0})
	switch filepath.Base(string(program)) {
	case "java", "zdm-appliance", "zdm-proxy":
		return bytes.Contains(rest, []byte(dir+"/")) || bytes.Contains(rest, []byte(shortDir(dir)+"/"))
	}
	return false
}

// memory returns the resident bytes of a process, 0 if it is gone.
func (id identity) memory() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", id.PID))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
