package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/cassandra"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// startTimeout bounds one node's start. It takes 8 to 11 s alone on a machine
// of two cores; six at once on a busy one took 90.
const startTimeout = 4 * time.Minute

// endGrace is how long a process may take to end by itself. Cassandra drains in
// two or three seconds.
const endGrace = 15 * time.Second

// pollInterval is how often a starting process is looked at.
const pollInterval = 150 * time.Millisecond

// Cluster is one side.
type Cluster struct {
	Side    phase.Side
	Version string
	Nodes   []*Node
	Port    int
	// Username and Password of the application's role; it is a superuser, so
	// that tests can make keyspaces with it. The password differs by side.
	Username, Password string
}

// ContactPoints returns the addresses of all nodes, without the port.
func (c *Cluster) ContactPoints() []string {
	var out []string
	for _, n := range c.Nodes {
		out = append(out, n.Address)
	}
	return out
}

// Replication returns how many copies a test keyspace has: 3, or one for each
// node if there are fewer.
func (c *Cluster) Replication() int { return min(3, len(c.Nodes)) }

// Node is one Cassandra process. Its faults are real: they are signals.
type Node struct {
	Name    string // origin-1
	Side    phase.Side
	Address string
	Port    int
	Version string

	lab   *Lab
	dir   string
	index int // in the cluster, from 0
}

// PID returns the process id, or 0 if the node does not run.
func (n *Node) PID() int { return runningPID(n.dir) }

// LogPath is where the node's log is.
func (n *Node) LogPath() string { return filepath.Join(n.dir, "log") }

// Kill ends the node with SIGKILL and returns when it is gone.
func (n *Node) Kill() error { return killProcess(n.Name, n.dir) }

// Stop pauses the node with SIGSTOP: its connections stay open, and nobody
// answers.
func (n *Node) Stop() error { return signalProcess(n.Name, n.dir, syscall.SIGSTOP) }

// Continue ends the pause.
func (n *Node) Continue() error { return signalProcess(n.Name, n.dir, syscall.SIGCONT) }

// Start starts the node on its data, and returns when the application can log
// in. A node that runs is only waited for.
func (n *Node) Start(ctx context.Context) error {
	if err := n.launch(); err != nil {
		return err
	}
	return n.awaitLogin(ctx, n.cluster().Username, n.cluster().Password)
}

func (n *Node) cluster() *Cluster { return n.lab.Cluster(n.Side) }

// launch starts the process without waiting for it.
func (n *Node) launch() error {
	switch readIdentity(n.dir).state() {
	case processRunning:
		return nil
	case processPaused:
		return fmt.Errorf("start %s: it is paused; continue it", n.Name)
	}
	if err := n.checkFree(); err != nil {
		return err
	}
	v, err := cassandra.ParseVersion(n.Version)
	if err != nil {
		return err
	}
	c := cassandra.Config{
		Side: n.Side, Version: v, Address: n.Address, Seeds: n.cluster().ContactPoints(),
		Token: cassandra.Token(n.index, len(n.cluster().Nodes)), Dir: n.dir,
	}
	if err := os.MkdirAll(filepath.Join(n.dir, "tmp"), 0o700); err != nil {
		return err
	}
	if err := c.Write(); err != nil {
		return err
	}
	args, err := c.JavaArgs(n.lab.state.Jars[n.Side])
	if err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	_, err = command{
		dir: n.dir, log: n.LogPath(), lab: n.lab.Dir,
		path: filepath.Join(n.lab.state.Java, "bin", "java"), args: args,
	}.start()
	return err
}

// checkFree reports who has one of the node's addresses, if anyone.
func (n *Node) checkFree() error {
	for _, port := range []int{n.Port, cassandra.StoragePort} {
		if err := checkFree(n.Address, port); err != nil {
			return fmt.Errorf("start %s: %w", n.Name, err)
		}
	}
	return nil
}

// awaitPort returns when the node accepts connections.
func (n *Node) awaitPort(ctx context.Context) error {
	at := net.JoinHostPort(n.Address, strconv.Itoa(n.Port))
	return n.await(ctx, "accept connections", func(ctx context.Context) error {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", at)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// awaitLogin returns when the role can log in at this node.
func (n *Node) awaitLogin(ctx context.Context, username, password string) error {
	if err := n.awaitPort(ctx); err != nil {
		return err
	}
	return n.await(ctx, "let "+username+" log in", func(ctx context.Context) error {
		s, err := n.session(username, password)
		if err != nil {
			return err
		}
		s.Close()
		return nil
	})
}

func (n *Node) await(ctx context.Context, what string, try func(context.Context) error) error {
	return await(ctx, awaited{name: n.Name, dir: n.dir, log: n.LogPath(), what: what, within: startTimeout}, try)
}

// awaited is what is waited for, for the error that tells why it never came.
type awaited struct {
	name, dir, log string
	what           string // "accept connections"
	within         time.Duration
}

// await tries until it succeeds, and tells from the process and its log why it
// never will.
func await(ctx context.Context, a awaited, try func(context.Context) error) error {
	tooLate := fmt.Errorf("not within %s", a.within)
	ctx, cancel := context.WithTimeoutCause(ctx, a.within, tooLate)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if readIdentity(a.dir).state() == processGone {
			return fmt.Errorf("start %s: the process ended before it could %s; its log (%s) ends with:\n%s", a.name, a.what, a.log, tail(a.log, 25))
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, tooLate) {
				return fmt.Errorf("start %s: wait for it to %s: %w", a.name, a.what, cause)
			}
			return fmt.Errorf("start %s: it did not %s within %s: %w; its log (%s) ends with:\n%s", a.name, a.what, a.within, err, a.log, tail(a.log, 25))
		case <-tick.C:
		}
	}
}

// The following serve every kind of process that has a folder with a pid file.

func runningPID(dir string) int {
	id := readIdentity(dir)
	if id.state() == processGone {
		return 0
	}
	return id.PID
}

// signalProcess sends a signal, and returns when a pause has begun or ended.
func signalProcess(name, dir string, s syscall.Signal) error {
	id := readIdentity(dir)
	if err := id.signal(s); err != nil {
		return fmt.Errorf("signal %s: %w", name, err)
	}
	var want threads
	switch s {
	case syscall.SIGSTOP:
		want = allThreads
	case syscall.SIGCONT:
		want = noThread
	default:
		return nil
	}
	// A thread stops when it next comes to the kernel or is interrupted, which is
	// at once unless it sits in a disk access.
	for end := time.Now().Add(endGrace); id.stoppedThreads() != want && id.state() != processGone; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("signal %s: %s did not take effect in %s", name, s, endGrace)
		}
	}
	return nil
}

func killProcess(name, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), endGrace)
	defer cancel()
	if err := readIdentity(dir).end(ctx, 0); err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	return removeIdentity(dir)
}
