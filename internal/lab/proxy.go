package lab

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// proxyTimeout bounds a proxy's start; it waits for both clusters.
const proxyTimeout = 45 * time.Second

// ProxyOptions say how a proxy without an agent is started.
type ProxyOptions struct {
	// Env is added to what the proxy needs for the lab's clusters, and wins:
	// ZDM_PHASE=dual_read, say.
	Env map[string]string
	// ListenAddress is one of 127.x.y.z; by default it is an unused address of
	// the lab, so that many proxies may run beside each other.
	ListenAddress string
	// Args are given to the program.
	Args []string
	// NoWait returns as soon as the process runs: for starts that are to fail,
	// or whose cluster is down.
	NoWait bool
}

// Proxy is a zdm-proxy process without an agent. Whoever starts it ends it; the
// end of the lab does so too.
type Proxy struct {
	Name          string // alone-17
	ListenAddress string
	Port          int
	// MetricsURL is the root of the HTTP side: /metrics, /health/readiness.
	MetricsURL string

	dir string
}

// StartProxy starts a proxy between the lab's clusters and waits until it is
// ready.
func (l *Lab) StartProxy(ctx context.Context, o ProxyOptions) (*Proxy, error) {
	path, err := l.programs.path(ctx, "zdm-proxy")
	if err != nil {
		return nil, err
	}
	p, err := l.newProxy(o.ListenAddress)
	if err != nil {
		return nil, err
	}
	env := map[string]string{
		"ZDM_PROXY_LISTEN_ADDRESS": p.ListenAddress,
		"ZDM_PROXY_LISTEN_PORT":    strconv.Itoa(p.Port),
		"ZDM_METRICS_ADDRESS":      p.ListenAddress,
		"ZDM_METRICS_PORT":         strconv.Itoa(metricsPort),
	}
	for _, c := range l.Clusters() {
		maps.Copy(env, c.ProxySettings())
	}
	maps.Copy(env, o.Env)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	if _, err := (command{dir: p.dir, log: p.LogPath(), lab: l.Dir, path: path, args: o.Args, env: list}).start(); err != nil {
		return nil, err
	}
	if o.NoWait {
		return p, nil
	}
	if err := p.Await(ctx); err != nil {
		_ = p.Kill()
		return nil, err
	}
	return p, nil
}

// ProxySettings are a proxy's environment variables for this side.
func (c *Cluster) ProxySettings() map[string]string {
	prefix := "ZDM_" + strings.ToUpper(c.Side.String()) + "_"
	return map[string]string{
		prefix + "CONTACT_POINTS": strings.Join(c.ContactPoints(), ","),
		prefix + "PORT":           strconv.Itoa(c.Port),
		prefix + "USERNAME":       c.Username,
		prefix + "PASSWORD":       c.Password,
	}
}

// newProxy chooses an address and makes the folder that stands for its name.
func (l *Lab) newProxy(at string) (*Proxy, error) {
	for range 100 {
		n, err := rand.Int(rand.Reader, big.NewInt(254))
		if err != nil {
			return nil, err
		}
		number := int(n.Int64()) + 1
		p := &Proxy{Name: "alone-" + strconv.Itoa(number), ListenAddress: at, Port: clientPort}
		if at == "" {
			p.ListenAddress = address(l.BaseAddress, groupAlone, number)
		}
		p.MetricsURL = "http://" + p.ListenAddress + ":" + strconv.Itoa(metricsPort)
		p.dir = filepath.Join(l.Dir, p.Name)
		// Only one caller, in whatever process, makes the folder; it has the
		// address from then on.
		switch err := os.Mkdir(p.dir, 0o700); {
		case os.IsExist(err):
			continue
		case err != nil:
			return nil, err
		}
		return p, nil
	}
	return nil, fmt.Errorf("no address for another proxy in %s; bring the lab down and up, or remove its folders alone-*", l.Dir)
}

// PID returns the process id, or 0 if the proxy has ended.
func (p *Proxy) PID() int { return runningPID(p.dir) }

// LogPath is where its standard output and error are.
func (p *Proxy) LogPath() string { return filepath.Join(p.dir, "log") }

// Await returns when the proxy is ready, by its own account.
func (p *Proxy) Await(ctx context.Context) error {
	return await(ctx, awaited{name: p.Name, dir: p.dir, log: p.LogPath(), what: "be ready", within: proxyTimeout}, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.MetricsURL+"/health/readiness", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", r.URL, resp.Status)
		}
		return nil
	})
}

// Kill ends the proxy with SIGKILL and returns when it is gone.
func (p *Proxy) Kill() error { return killProcess(p.Name, p.dir) }

// Terminate asks the proxy to end, and returns when it is gone; one that does
// not listen is killed after 15 s.
func (p *Proxy) Terminate(ctx context.Context) error {
	if err := readIdentity(p.dir).end(ctx, endGrace); err != nil {
		return fmt.Errorf("end %s: %w", p.Name, err)
	}
	return removeIdentity(p.dir)
}

// Remove ends the proxy and frees its address and log for others.
func (p *Proxy) Remove() error {
	if err := p.Kill(); err != nil {
		return err
	}
	return os.RemoveAll(p.dir)
}
