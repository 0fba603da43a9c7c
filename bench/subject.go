package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
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
	name, version string
	at            netip.AddrPort
	cmd           *exec.Cmd
	log           *tail // of its stderr
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

// resident is VmRSS in bytes.
func (p *process) resident() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no VmRSS of %s", p.name)
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

func freePort(address string) (netip.AddrPort, error) {
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return netip.ParseAddrPort(l.Addr().String())
}

var errMissing = errors.New("not installed")

func startHAProxy(dir string, origin netip.AddrPort) (*process, error) {
	path, err := exec.LookPath("haproxy")
	if err != nil {
		path = "/usr/sbin/haproxy" // often not in a user's PATH
		if _, err := os.Stat(path); err != nil {
			return nil, errMissing
		}
	}
	at, err := freePort(underTest)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "haproxy.cfg")
	config := fmt.Sprintf(`global
  maxconn 4096
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen bench
  bind %s
  server origin %s
`, at, origin)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	p := command("haproxy", path, "-db", "-f", file)
	p.at = at
	if out, err := exec.Command(path, "-v").Output(); err == nil {
		p.version = strings.Fields(strings.TrimPrefix(string(out), "HAProxy version "))[0]
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start haproxy: %w", err)
	}
	return p, p.await(func() error {
		c, err := net.Dial("tcp", at.String())
		if err == nil {
			c.Close()
		}
		return err
	})
}

func startProxy(name, path string, origin, target netip.AddrPort) (*process, error) {
	at, err := freePort(underTest)
	if err != nil {
		return nil, err
	}
	metrics, err := freePort(underTest)
	if err != nil {
		return nil, err
	}
	p := command(name, path)
	p.at = at
	set := func(name string, value any) { p.cmd.Env = append(p.cmd.Env, fmt.Sprintf("ZDM_%s=%v", name, value)) }
	set("ORIGIN_CONTACT_POINTS", origin.Addr())
	set("ORIGIN_PORT", origin.Port())
	set("ORIGIN_USERNAME", "bench")
	set("ORIGIN_PASSWORD", "bench")
	set("TARGET_CONTACT_POINTS", target.Addr())
	set("TARGET_PORT", target.Port())
	set("TARGET_USERNAME", "bench")
	set("TARGET_PASSWORD", "bench")
	set("PROXY_LISTEN_ADDRESS", at.Addr())
	set("PROXY_LISTEN_PORT", at.Port())
	set("PROXY_MAX_CLIENT_CONNECTIONS", 10_000)
	set("METRICS_ADDRESS", metrics.Addr())
	set("METRICS_PORT", metrics.Port())
	for _, v := range os.Environ() { // so that a setting can be tried out
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "ZDM_") || strings.HasPrefix(name, "GO") {
			p.cmd.Env = append(p.cmd.Env, v)
		}
	}
	if out, err := exec.Command(path, "-version").Output(); err == nil && len(out) > 0 {
		words := strings.Fields(string(out))
		p.version = words[len(words)-1]
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, p.await(func() error {
		answer, err := http.Get(fmt.Sprintf("http://%s/health/readiness", metrics))
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("readiness is %s", answer.Status)
		}
		return nil
	})
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
