package main

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses of the parts; ports are chosen free.
const (
	originAddress = "127.68.1.1"
	targetAddress = "127.68.2.1"
	underTest     = "127.68.3.1"
)

// process is one part of the benchmark.
type process struct {
	name string
	at   netip.AddrPort
	cmd  *exec.Cmd
	log  *tail // of its stderr
}

// tail keeps the last few KB written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-2000):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

func (p *process) stop() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// cpu is the CPU time that the process has used so far, user and system, from
// its own clock (clock_getcpuclockid(3) makes the id the same way).
func (p *process) cpu() (time.Duration, error) {
	var ts unix.Timespec
	const processClock = 2 // CPUCLOCK_SCHED of the whole process
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|processClock), &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of %s: %w", p.name, err)
	}
	return time.Duration(ts.Nano()), nil
}

// memory is a figure of /proc/PID/status in bytes: VmRSS is the resident set,
// VmHWM the largest that it has been.
func (p *process) memory(figure string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no %s of %s", figure, p.name)
}

func command(name, path string, args ...string) *process {
	p := &process{name: name, cmd: exec.Command(path, args...), log: &tail{}}
	p.cmd.Stderr = p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing outlives the harness
	return p
}

// startSelf starts another part of this binary, which prints where it listens.
func startSelf(name string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := command(name, self, args...)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err == nil {
		p.at, err = netip.ParseAddrPort(strings.TrimSpace(line))
	}
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("start %s: %w: %s", name, err, p.log)
	}
	return p, nil
}

// await polls until the process is ready, and ends it when it does not become so.
func (p *process) await(ready func() error) error {
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = ready(); err == nil {
			return nil
		}
	}
	p.stop()
	return fmt.Errorf("%s did not become ready: %w\n%s", p.name, err, p.log)
}
