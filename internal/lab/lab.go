package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/cassandra"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Defaults of Options.
const (
	DefaultDir           = ".lab"
	DefaultOriginVersion = "4.1.8"
	DefaultTargetVersion = "5.0.4"
)

// maxNodes is on one side; one node takes up to 900 MB.
const maxNodes = 9

// maxProxies is how many appliances have names and addresses.
const maxProxies = 99

// Options say what lab is wanted. A zero field means the default for a new lab,
// and "as it is" for one that exists.
type Options struct {
	Dir string // DefaultDir
	// BaseAddress is 127.50.0.0 by default: origin nodes are on base+0.0.1.N,
	// target nodes on base+0.0.2.N, appliances on base+0.0.3.N.
	BaseAddress   netip.Addr
	Nodes         int // of each cluster; 1
	Proxies       int // appliances; none
	OriginVersion string
	TargetVersion string
	// Binaries is a folder with zdm-proxy and zdm-appliance. By default they
	// are built, if the working directory is in the checkout, or else taken
	// from beside the running program.
	Binaries string
	// Progress gets a line for each step. It may be nil.
	Progress io.Writer
}

// Lab is a lab that exists; its processes may run or not.
type Lab struct {
	Dir            string // absolute
	BaseAddress    netip.Addr
	Origin, Target *Cluster
	Appliances     []*Appliance

	state    *state
	programs *binaries
}

// Clusters returns both sides, indexed by phase.Side.
func (l *Lab) Clusters() [2]*Cluster { return [2]*Cluster{l.Origin, l.Target} }

// Cluster returns one side.
func (l *Lab) Cluster(s phase.Side) *Cluster { return l.Clusters()[s] }

// Up brings the lab up: it makes it if the folder has none, and starts whatever
// does not run. A second Up changes nothing. It returns a *DiffersError if
// there is a lab that is not the one asked for, and a *cassandra.JavaError without Java.
// Should it fail, the processes that it has started are ended, and their logs
// stay.
func Up(ctx context.Context, o Options) (*Lab, error) {
	dir, err := absolute(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	held, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = held.Close() }()

	s, err := readState(dir)
	switch {
	case errors.Is(err, errNoLab):
		if err := o.complete(); err != nil {
			return nil, err
		}
		s = newState(o)
		if err := s.checkFree(dir); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if err := s.adopt(dir, o); err != nil {
			return nil, err
		}
	}
	p := newProgress(o.Progress)
	if err := s.locate(ctx, p); err != nil {
		return nil, err
	}
	if o.Binaries != "" {
		if s.Binaries, err = filepath.Abs(o.Binaries); err != nil {
			return nil, err
		}
	}
	if err := s.write(dir); err != nil {
		return nil, err
	}
	l := fromState(dir, s)
	p.warnMemory(l)
	if err := l.start(ctx, p); err != nil {
		return nil, err
	}
	return l, nil
}

// complete fills the defaults of a new lab in, and tells every wrong option.
func (o *Options) complete() error {
	if !o.BaseAddress.IsValid() {
		o.BaseAddress = defaultBase
	}
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if o.OriginVersion == "" {
		o.OriginVersion = DefaultOriginVersion
	}
	if o.TargetVersion == "" {
		o.TargetVersion = DefaultTargetVersion
	}
	var problems []error
	problems = append(problems, checkBase(o.BaseAddress))
	if o.Nodes < 1 || o.Nodes > maxNodes {
		problems = append(problems, fmt.Errorf("nodes: %d is not between 1 and %d", o.Nodes, maxNodes))
	}
	if o.Proxies < 0 || o.Proxies > maxProxies {
		problems = append(problems, fmt.Errorf("proxies: %d is not between 0 and %d", o.Proxies, maxProxies))
	}
	for _, v := range []string{o.OriginVersion, o.TargetVersion} {
		_, err := cassandra.ParseVersion(v)
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// checkFree tells that an address of a new lab is in use, before the folder is
// that lab's for good: the way out is another base address.
func (s *state) checkFree(dir string) error {
	l := fromState(dir, s)
	for _, c := range l.Clusters() {
		for _, n := range c.Nodes {
			if err := n.checkFree(); err != nil {
				return err
			}
		}
	}
	return nil
}

// locate finds Java and the jars, again at each Up: they may have moved.
func (s *state) locate(ctx context.Context, p *progress) error {
	java, err := cassandra.FindJava()
	if err != nil {
		return err
	}
	s.Java = java
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	for side, text := range s.Versions {
		v, err := cassandra.ParseVersion(text)
		if err != nil {
			return err
		}
		// One after the other: Maven's repository is not made for two at once.
		if s.Jars[side], err = cassandra.Jars(ctx, cache, java, v, p.say); err != nil {
			return err
		}
	}
	return nil
}

// fromState makes the values that stand for a lab.
func fromState(dir string, s *state) *Lab {
	l := &Lab{
		Dir: dir, BaseAddress: s.BaseAddress, state: s,
		programs: &binaries{given: s.Binaries, dir: filepath.Join(dir, "bin"), built: map[string]bool{}},
	}
	cluster := func(side phase.Side, group int) *Cluster {
		c := &Cluster{Side: side, Version: s.Versions[side], Port: cassandra.NativePort, Username: appRole, Password: s.Passwords[side]}
		for i := range s.Nodes {
			name := fmt.Sprintf("%s-%d", side, i+1)
			c.Nodes = append(c.Nodes, &Node{
				Name: name, Side: side, Address: address(s.BaseAddress, group, i+1), Port: cassandra.NativePort,
				Version: s.Versions[side], lab: l, dir: filepath.Join(dir, name), index: i,
			})
		}
		return c
	}
	l.Origin, l.Target = cluster(phase.Origin, groupOrigin), cluster(phase.Target, groupTarget)
	for i := range s.Proxies {
		l.Appliances = append(l.Appliances, newAppliance(l, i))
	}
	return l
}

// start starts what does not run, and waits until all of it is ready. Should it
// fail, it ends what it has started.
func (l *Lab) start(ctx context.Context, p *progress) (err error) {
	u := &starting{p: p, wait: p.wait()}
	defer func() {
		u.wait.end()
		if err != nil {
			u.undo()
		}
	}()
	g, gctx := errgroup.WithContext(ctx)
	for _, c := range l.Clusters() {
		g.Go(func() error { return c.start(gctx, u) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := l.startAppliances(ctx, u); err != nil {
		return err
	}
	if len(u.dirs) == 0 {
		p.say("everything runs already; nothing to do")
	} else {
		p.say("ready")
	}
	return nil
}

// starting is what one Up has started.
type starting struct {
	p    *progress
	wait *waiting

	mu   sync.Mutex
	dirs []string
}

func (u *starting) add(dir string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dirs = append(u.dirs, dir)
}

func (u *starting) undo() {
	for _, dir := range u.dirs {
		_ = killProcess(filepath.Base(dir), dir)
	}
}

// start starts the nodes of a cluster that do not run. The first one is up
// before the others begin: two that start at the same moment may hear of each
// other before they listen to what they hear, and then never list each other
// in system.peers.
func (c *Cluster) start(ctx context.Context, u *starting) error {
	if err := c.startNodes(ctx, u, c.Nodes[:1]); err != nil {
		return err
	}
	if err := c.startNodes(ctx, u, c.Nodes[1:]); err != nil {
		return err
	}
	what := c.Side.String() + " to let the application log in"
	u.wait.add(what)
	defer u.wait.done(what)
	return c.prepare(ctx)
}

func (c *Cluster) startNodes(ctx context.Context, u *starting, nodes []*Node) error {
	for _, n := range nodes {
		if n.PID() != 0 {
			continue
		}
		if err := n.launch(); err != nil {
			return err
		}
		u.add(n.dir)
		u.p.say("starting %s: Cassandra %s on %s", n.Name, n.Version, n.Address)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range nodes {
		g.Go(func() error {
			u.wait.add(n.Name)
			defer u.wait.done(n.Name)
			return n.awaitPort(gctx)
		})
	}
	return g.Wait()
}

// Open returns the lab in a folder, whether its processes run or not.
func Open(dir string) (*Lab, error) {
	dir, err := absolute(dir)
	if err != nil {
		return nil, err
	}
	s, err := readState(dir)
	if err != nil {
		return nil, err
	}
	return fromState(dir, s), nil
}

func absolute(dir string) (string, error) {
	if dir == "" {
		dir = DefaultDir
	}
	if strings.ContainsAny(dir, "\x00\n'\"*:, ") {
		return "", fmt.Errorf("lab folder %q: its name must do without spaces, quotes, colons, commas and asterisks, which Cassandra's command line cannot hold", dir)
	}
	return filepath.Abs(dir)
}

// Down ends every process of the lab and keeps its files: a later Up goes on
// with the same data.
func (l *Lab) Down(ctx context.Context) error { return down(ctx, l.Dir, endGrace) }

// Down ends every process of the lab in dir, also if its state file is broken
// or gone.
func Down(ctx context.Context, dir string) error {
	dir, err := absolute(dir)
	if err != nil {
		return err
	}
	return down(ctx, dir, endGrace)
}

// Purge kills every process of the lab in dir and removes the folder. A folder
// that holds no lab is an error, so that a wrong name removes nothing; one that
// does not exist is none.
func Purge(ctx context.Context, dir string) error {
	dir, err := absolute(dir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return down(ctx, dir, 0)
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(statePath(dir)); err != nil && len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, "lock")); err != nil {
			return fmt.Errorf("purge %s: it is not a lab's folder (no state.json); give the right one with --dir", dir)
		}
	}
	if err := down(ctx, dir, 0); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(dir), os.RemoveAll(shortDir(dir)))
}

// down ends all processes of the folder. The agents go first, since they would
// bring their proxies back; what no pid file knows is found in /proc.
func down(ctx context.Context, dir string, grace time.Duration) error {
	if _, err := os.Stat(dir); err == nil {
		held, err := lock(dir)
		if err != nil {
			return err
		}
		defer func() { _ = held.Close() }()
	}
	agents, _ := filepath.Glob(filepath.Join(dir, proxyPrefix+"*"))
	for _, agent := range agents {
		if err := readIdentity(agent).end(ctx, grace); err != nil {
			return err
		}
	}
	// Twice: a process may have started another one while it was looked for.
	for range 2 {
		left, err := strays(dir)
		if err != nil {
			return err
		}
		g, gctx := errgroup.WithContext(ctx)
		for _, id := range left {
			g.Go(func() error { return id.end(gctx, grace) })
		}
		if err := g.Wait(); err != nil {
			return fmt.Errorf("bring the lab in %s down: %w", dir, err)
		}
	}
	pids, _ := filepath.Glob(filepath.Join(dir, "*", "pid"))
	for _, pid := range pids {
		if err := removeIdentity(filepath.Dir(pid)); err != nil {
			return err
		}
	}
	return nil
}
