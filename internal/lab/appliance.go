package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

// proxyPrefix begins the folder names of appliances.
const proxyPrefix = "proxy-"

// agentTimeout bounds an agent's start; it waits for nothing and nobody.
const agentTimeout = 30 * time.Second

// statusTimeout bounds a question to an agent that may be paused.
const statusTimeout = 2 * time.Second

// maxRunDir leaves room in a unix socket's path (107 bytes) for the file name
// that the agent appends.
const maxRunDir = 85

// Appliance is one agent process with its proxy, on an address of its own. The
// agent starts locked: whoever uses the lab configures it.
type Appliance struct {
	Name     string // proxy-1
	AdminURL string
	// CAFile and TokenFile are the same for all appliances of a lab.
	CAFile, TokenFile string
	// ListenAddress and Port are where clients are to be served.
	ListenAddress string
	Port          int

	lab *Lab
	dir string
}

func newAppliance(l *Lab, i int) *Appliance {
	name := proxyPrefix + strconv.Itoa(i+1)
	at := address(l.BaseAddress, groupProxy, i+1)
	return &Appliance{
		Name: name, AdminURL: "https://" + net.JoinHostPort(at, strconv.Itoa(adminPort)),
		CAFile: filepath.Join(l.tlsDir(), "ca.pem"), TokenFile: filepath.Join(l.tlsDir(), "token"),
		ListenAddress: at, Port: clientPort, lab: l, dir: filepath.Join(l.Dir, name),
	}
}

func (l *Lab) tlsDir() string { return filepath.Join(l.Dir, "tls") }

// AgentPID returns the agent's process id, or 0 if it does not run.
func (a *Appliance) AgentPID() int { return runningPID(a.dir) }

// LogPath is where the agent's log is.
func (a *Appliance) LogPath() string { return filepath.Join(a.dir, "log") }

// Kill ends the agent with SIGKILL and returns when it is gone. Its proxy goes
// on serving.
func (a *Appliance) Kill() error { return killProcess(a.Name, a.dir) }

// Stop pauses the agent with SIGSTOP.
func (a *Appliance) Stop() error { return signalProcess(a.Name, a.dir, syscall.SIGSTOP) }

// Continue ends the pause.
func (a *Appliance) Continue() error { return signalProcess(a.Name, a.dir, syscall.SIGCONT) }

// Start starts the agent on its state, and returns when its API answers. It
// adopts a proxy that runs.
func (a *Appliance) Start(ctx context.Context) error {
	if err := a.launch(ctx); err != nil {
		return err
	}
	return a.awaitAgent(ctx)
}

// Client returns a client of the agent's API.
func (a *Appliance) Client() (*client.Client, error) {
	ca, err := os.ReadFile(a.CAFile)
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(a.TokenFile)
	if err != nil {
		return nil, err
	}
	return client.New(client.Options{URL: a.AdminURL, CA: ca, Token: secret.New(strings.TrimSpace(string(token)))})
}

// Status asks the agent.
func (a *Appliance) Status(ctx context.Context) (*adminapi.Status, error) {
	c, err := a.Client()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Status(ctx)
}

// ProxyPID returns the process id of the serving proxy, as the agent tells it;
// 0 if none runs.
func (a *Appliance) ProxyPID(ctx context.Context) (int, error) {
	s, err := a.Status(ctx)
	if err != nil || s.Proxy == nil {
		return 0, err
	}
	return s.Proxy.PID, nil
}

// KillProxy ends the serving proxy with SIGKILL, and returns the process id
// that it had when it is gone.
func (a *Appliance) KillProxy(ctx context.Context) (int, error) {
	return a.signalProxy(ctx, syscall.SIGKILL)
}

// StopProxy pauses the serving proxy with SIGSTOP, and returns its process id.
func (a *Appliance) StopProxy(ctx context.Context) (int, error) {
	return a.signalProxy(ctx, syscall.SIGSTOP)
}

// ContinueProxy ends the pause of a process that StopProxy returned. The agent
// cannot be asked for it: its question to the paused proxy has no answer.
func (a *Appliance) ContinueProxy(pid int) error { return syscall.Kill(pid, syscall.SIGCONT) }

func (a *Appliance) signalProxy(ctx context.Context, s syscall.Signal) (int, error) {
	pid, err := a.ProxyPID(ctx)
	if err != nil {
		return 0, err
	}
	if pid == 0 {
		return 0, fmt.Errorf("signal the proxy of %s: none runs", a.Name)
	}
	id, err := identify(pid)
	if err != nil {
		return 0, fmt.Errorf("signal the proxy of %s: %w", a.Name, errGone)
	}
	if err := id.signal(s); err != nil {
		return 0, fmt.Errorf("signal the proxy of %s: %w", a.Name, err)
	}
	if s == syscall.SIGKILL {
		return pid, id.wait(ctx)
	}
	return pid, nil
}

// runDir is where the agent has its sockets. The lab's own folder may be too
// deep for a unix socket's path; then it is in the folder for temporary files,
// under a name that Down can tell again.
func (a *Appliance) runDir() string {
	if dir := filepath.Join(a.dir, "run"); len(dir) <= maxRunDir {
		return dir
	}
	return filepath.Join(shortDir(a.lab.Dir), a.Name)
}

func shortDir(labDir string) string {
	sum := sha256.Sum256([]byte(labDir))
	return filepath.Join("/tmp", fmt.Sprintf("zdm-lab-%d-%s", os.Getuid(), hex.EncodeToString(sum[:6])))
}

// launch starts the agent without waiting for it.
func (a *Appliance) launch(ctx context.Context) error {
	switch readIdentity(a.dir).state() {
	case processRunning:
		return nil
	case processPaused:
		return fmt.Errorf("start %s: it is paused; continue it", a.Name)
	}
	if err := checkFree(a.ListenAddress, adminPort); err != nil {
		return fmt.Errorf("start %s: %w", a.Name, err)
	}
	agent, err := a.lab.programs.path(ctx, "zdm-appliance")
	if err != nil {
		return err
	}
	proxy, err := a.lab.programs.path(ctx, "zdm-proxy")
	if err != nil {
		return err
	}
	ca, err := openAuthority(a.lab.tlsDir())
	if err != nil {
		return err
	}
	cert, key := filepath.Join(a.dir, "tls.pem"), filepath.Join(a.dir, "tls.key")
	if err := ca.certify(cert, key, a.Name, a.ListenAddress); err != nil {
		return err
	}
	if err := makeToken(a.TokenFile); err != nil {
		return err
	}
	_, err = command{
		dir: a.dir, log: a.LogPath(), lab: a.lab.Dir, path: agent,
		args: []string{
			"serve", "-state", filepath.Join(a.dir, "state"), "-run-dir", a.runDir(), "-socket", filepath.Join(a.runDir(), "admin.sock"),
			"-listen", net.JoinHostPort(a.ListenAddress, strconv.Itoa(adminPort)),
			"-tls-cert", cert, "-tls-key", key, "-token-file", a.TokenFile, "-proxy-binary", proxy,
		},
	}.start()
	return err
}

// awaitAgent returns when the agent answers.
func (a *Appliance) awaitAgent(ctx context.Context) error {
	c, err := a.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	return await(ctx, awaited{name: a.Name, dir: a.dir, log: a.LogPath(), what: "answer", within: agentTimeout}, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		_, err := c.Status(ctx)
		return err
	})
}

func (l *Lab) startAppliances(ctx context.Context, u *starting) error {
	// One after the other: the first one makes the authority, the token and the
	// programs.
	for _, a := range l.Appliances {
		if a.AgentPID() != 0 {
			continue
		}
		if err := a.launch(ctx); err != nil {
			return err
		}
		u.add(a.dir)
		u.p.say("starting %s: agent %s, clients on %s", a.Name, a.AdminURL, net.JoinHostPort(a.ListenAddress, strconv.Itoa(a.Port)))
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, a := range l.Appliances {
		g.Go(func() error { return a.awaitAgent(gctx) })
	}
	return g.Wait()
}

// look returns the agent, and its proxy if it has one.
func (a *Appliance) look(ctx context.Context) []Process {
	agent := Process{Name: a.Name, Address: strings.TrimPrefix(a.AdminURL, "https://"), Log: a.LogPath()}
	if !agent.fromPidFile(a.dir) {
		return []Process{agent}
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	s, err := a.Status(ctx)
	if err != nil {
		agent.Detail = firstLine(err.Error())
		return []Process{agent}
	}
	agent.State, agent.Version, agent.Detail = Ready, s.Version, string(s.State)
	if s.Proxy == nil {
		return []Process{agent}
	}
	p := Process{
		Name: a.Name + proxyOfAgent, PID: s.Proxy.PID, State: Starting, Version: s.Proxy.Version, Address: s.Proxy.ListenAddress,
		MemoryBytes: identity{PID: s.Proxy.PID}.memory(), Log: a.proxyLog(),
	}
	if p.Address != "" {
		p.State, p.Detail = Ready, s.Proxy.Phase.String()
	}
	return []Process{agent, p}
}

// proxyOfAgent behind an appliance's name means its proxy process.
const proxyOfAgent = "/proxy"

// proxyLog is the output file of the youngest proxy process; "" if there was
// none yet.
func (a *Appliance) proxyLog() string {
	files, _ := filepath.Glob(filepath.Join(a.runDir(), "*.log"))
	var youngest string
	var when time.Time
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(when) {
			youngest, when = f, info.ModTime()
		}
	}
	return youngest
}
