package supervise

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// maxSocketPath is what a unix socket's address holds, less the final zero.
const maxSocketPath = 107

// keepOutputs is how many ended processes' output files stay.
const keepOutputs = 5

// Exec makes processes as children in sessions of their own: a signal for the
// agent's group, or its end, does not reach them. A process PREFIX-N has three
// files in the folder: .sock, .pid and .log.
type Exec struct {
	dir    string
	binary string
	args   func(socket string) []string
	env    []string
	// Descriptors is how many files and sockets a process may have open; 0 leaves
	// that as it is. Set it before Start.
	Descriptors uint64

	// Guarded by mu.
	mu   sync.Mutex
	next uint64
}

const execPrefix = "proxy-"

// NewExec uses the folder, which is made if there is none. args makes the
// arguments; the socket's path is one of them. env is the whole environment; it
// and the arguments are no place for secrets.
func NewExec(dir, binary string, args func(socket string) []string, env []string) (*Exec, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if longest := filepath.Join(dir, execPrefix+"999999.sock"); len(longest) > maxSocketPath {
		return nil, fmt.Errorf("folder %s is too long for unix sockets by %d bytes; give a shorter one with -run-dir", dir, len(longest)-maxSocketPath)
	}
	if binary, err = exec.LookPath(binary); err != nil {
		return nil, fmt.Errorf("proxy binary: %w; give its path with -proxy-binary", err)
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for sockets: %w", err)
	}
	return &Exec{dir: dir, binary: binary, args: args, env: env, next: 1}, nil
}

func (e *Exec) file(n uint64, suffix string) string {
	return filepath.Join(e.dir, execPrefix+strconv.FormatUint(n, 10)+suffix)
}

// Start starts a process of the program that is at the path now.
func (e *Exec) Start() (Process, error) { return e.start(e.binary) }

// StartProven starts one of the copy. Without one, or when it cannot be run (the
// folder may be mounted so), it is Start.
func (e *Exec) StartProven() (Process, error) {
	if p, err := e.start(e.proven()); err == nil {
		return p, nil
	}
	return e.Start()
}

func (e *Exec) proven() string { return filepath.Join(e.dir, "proven") }

// Prove copies the program as it runs: the file at the path may be another one by
// now.
func (e *Exec) Prove(p Process) error {
	if err := keepProgram(fmt.Sprintf("/proc/%d/exe", p.PID()), e.proven()); err != nil {
		return fmt.Errorf("keep the program of %s: %w", p.Name(), err)
	}
	return nil
}

func (e *Exec) start(binary string) (Process, error) {
	e.mu.Lock()
	n := e.next
	e.next++
	e.mu.Unlock()
	e.prune()
	p := &execProcess{name: execPrefix + strconv.FormatUint(n, 10), base: e.file(n, ""), done: make(chan struct{})}
	out, err := os.OpenFile(p.base+".log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	defer out.Close()
	cmd := exec.Command(binary, e.args(p.Socket())...)
	cmd.Env = slices.Clone(e.env)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	if p.id, _, err = identify(cmd.Process.Pid); err == nil {
		err = p.writePID()
	}
	if err == nil && e.Descriptors > 0 {
		err = limitDescriptors(cmd.Process.Pid, e.Descriptors)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	p.signal = func(s syscall.Signal) error { return cmd.Process.Signal(s) }
	// Ends with the process. An agent that ends before leaves it to init.
	go func() {
		_ = cmd.Wait()
		p.ended(cmd.ProcessState.String())
	}()
	return p, nil
}

func limitDescriptors(pid int, n uint64) error {
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}, nil); err != nil {
		return fmt.Errorf("let it have %d descriptors: %w; raise the limit of the agent, or ask for fewer", n, err)
	}
	return nil
}

// Running finds the processes that an earlier agent left, and clears away what
// is left of those that have ended since.
func (e *Exec) Running() ([]Process, error) {
	entries, err := os.ReadDir(e.dir)
	if err != nil {
		return nil, fmt.Errorf("look for running processes: %w", err)
	}
	known := map[uint64]bool{}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, entry := range entries {
		if n, ok := execNumber(entry.Name()); ok {
			known[n] = true
			e.next = max(e.next, n+1)
		}
	}
	strays := controlling(func(arg string) bool {
		return filepath.Dir(arg) == e.dir && strings.HasSuffix(arg, ".sock")
	})
	for socket := range strays {
		if n, ok := execNumber(filepath.Base(socket)); ok {
			known[n] = true
			e.next = max(e.next, n+1)
		}
	}
	var out []Process
	for n := range known {
		p := &execProcess{name: execPrefix + strconv.FormatUint(n, 10), base: e.file(n, ""), number: n, done: make(chan struct{})}
		b, err := os.ReadFile(p.base + ".pid")
		if err != nil || json.Unmarshal(b, &p.id) != nil || !p.id.alive() {
			stray, ok := strays[p.Socket()]
			if !ok {
				_ = os.Remove(p.base + ".pid")
				_ = os.Remove(p.Socket())
				continue
			}
			p.id = stray
			if err := p.writePID(); err != nil {
				return nil, fmt.Errorf("adopt %s: %w", p.name, err)
			}
		}
		if err := p.watch(); err != nil {
			return nil, fmt.Errorf("adopt %s (pid %d): %w", p.name, p.id.PID, err)
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Process) int {
		return int(a.(*execProcess).number) - int(b.(*execProcess).number)
	})
	return out, nil
}

func execNumber(file string) (uint64, bool) {
	text, ok := strings.CutPrefix(file, execPrefix)
	text, _, _ = strings.Cut(text, ".")
	n, err := strconv.ParseUint(text, 10, 64)
	return n, ok && err == nil
}

// prune removes the output of processes that ended long ago.
func (e *Exec) prune() {
	logs, _ := filepath.Glob(filepath.Join(e.dir, execPrefix+"*.log"))
	var ended []uint64
	for _, name := range logs {
		n, ok := execNumber(filepath.Base(name))
		if !ok {
			continue
		}
		if _, err := os.Stat(e.file(n, ".pid")); os.IsNotExist(err) {
			ended = append(ended, n)
		}
	}
	slices.Sort(ended)
	for len(ended) > keepOutputs {
		for _, suffix := range []string{".log", ".log.old", ".sock"} {
			_ = os.Remove(e.file(ended[0], suffix))
		}
		ended = ended[1:]
	}
}

type execProcess struct {
	name   string
	base   string // path without suffix
	number uint64 // of an adopted one
	id     identity
	signal func(syscall.Signal) error
	// release is nil for a child: it must be waited for in any case.
	release func()

	done chan struct{}
	exit string // written before done is closed
}

func (p *execProcess) Name() string                  { return p.name }
func (p *execProcess) PID() int                      { return p.id.PID }
func (p *execProcess) Socket() string                { return p.base + ".sock" }
func (p *execProcess) Done() <-chan struct{}         { return p.done }
func (p *execProcess) Signal(s syscall.Signal) error { return p.signal(s) }

func (p *execProcess) Exit() string {
	select {
	case <-p.done:
		return p.exit
	default:
		return ""
	}
}

func (p *execProcess) Output() []string { return lastLines(p.base + ".log") }

func (p *execProcess) Release() {
	if p.release != nil {
		p.release()
	}
}

func (p *execProcess) writePID() error {
	b, err := json.Marshal(p.id)
	if err != nil {
		return err
	}
	return renameio.WriteFile(p.base+".pid", b, 0o600)
}

// ended is called once, by whoever waits for the process.
func (p *execProcess) ended(how string) {
	p.exit = how
	_ = os.Remove(p.base + ".pid")
	_ = os.Remove(p.Socket())
	close(p.done)
}
