// Package labtest gives a test binary a lab: one for all its tests, brought up
// on first use and removed at the end, and fresh keyspaces for each test.
//
// Floor 5, for tests only. A binary uses it so:
//
//	func TestMain(m *testing.M) { labtest.Main(m, lab.Options{}) }
//
//	func TestRowsReachBothClusters(t *testing.T) {
//		l := labtest.Lab(t)
//		keyspace := labtest.Keyspace(t, l)
//		origin := labtest.Session(t, l.Origin, keyspace)
//		...
//	}
//
// If ZDM_LAB_DIR names the folder of a running lab, that one is used and left
// running, which saves its start: "zdm-lab up" once, then as many runs as one
// likes, also of several test binaries at once. A test that kills or pauses
// nodes therefore takes Own, a lab that nobody else sees.
//
// It has no goroutine. Labs that it makes are guarded by a process, which is
// the test binary once more: it ends them when the binary is killed or times
// out, so that Main never gets to it.
package labtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
)

// guardVariable makes the test binary the guard of the folder that it names.
const guardVariable = "LABTEST_GUARD"

// purgeTimeout bounds the end of a lab; its processes are killed, so it takes
// well under a second.
const purgeTimeout = 30 * time.Second

// shared is the lab of this binary. Main sets options before any test runs.
var shared struct {
	options lab.Options
	inMain  bool
	once    sync.Once
	lab     *lab.Lab
	guard   *guard
	err     error
}

// Main runs the tests and exits. The lab that they ask for is like o; its
// folder, address and progress are chosen here if they are not given.
func Main(m *testing.M, o lab.Options) {
	if dir := os.Getenv(guardVariable); dir != "" {
		os.Exit(watch(dir))
	}
	shared.options, shared.inMain = o, true
	code := m.Run()
	if shared.guard != nil {
		if err := shared.guard.purge(); err != nil {
			fmt.Fprintf(os.Stderr, "labtest: %v\n", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// Lab returns the lab of this binary, and brings it up the first time. Without
// Java or Maven the test is skipped and says so; with CI=true it fails.
func Lab(t testing.TB) *lab.Lab {
	t.Helper()
	if !shared.inMain {
		t.Fatal("labtest.Lab needs func TestMain(m *testing.M) { labtest.Main(m, lab.Options{}) }")
	}
	shared.once.Do(func() {
		if dir := os.Getenv("ZDM_LAB_DIR"); dir != "" {
			shared.lab, shared.err = reuse(dir, shared.options)
			return
		}
		need(t)
		shared.lab, shared.guard, shared.err = bringUp(shared.options)
	})
	need(t)
	if shared.err != nil {
		t.Fatalf("bring the lab up: %v", shared.err)
	}
	return shared.lab
}

// Own returns a lab for this test alone, which may do to it what it likes. It
// is removed at the end of the test.
func Own(t testing.TB, o lab.Options) *lab.Lab {
	t.Helper()
	if !shared.inMain {
		t.Fatal("labtest.Own needs func TestMain(m *testing.M) { labtest.Main(m, lab.Options{}) }")
	}
	need(t)
	l, g, err := bringUp(o)
	if err != nil {
		t.Fatalf("bring a lab up: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the logs of %s end with:\n%s", l.Dir, logs(l))
		}
		if err := g.purge(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// need skips the test if this machine cannot run a lab.
func need(t testing.TB) {
	t.Helper()
	if os.Getenv("ZDM_LAB_DIR") != "" && shared.err == nil && shared.lab != nil {
		return
	}
	err := lab.Check()
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("this test needs real Cassandra, and CI=true forbids to skip it: %v", err)
	}
	t.Skipf("SKIPPED, needs real Cassandra: %v", err)
}

// reuse opens a lab that runs, and refuses one that is too small.
func reuse(dir string, o lab.Options) (*lab.Lab, error) {
	l, err := lab.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("use the lab of ZDM_LAB_DIR: %w", err)
	}
	if len(l.Origin.Nodes) < o.Nodes || len(l.Appliances) < o.Proxies {
		return nil, fmt.Errorf("use the lab of ZDM_LAB_DIR=%s: it has %d nodes a side and %d appliances, these tests need %d and %d; unset ZDM_LAB_DIR, or make a larger lab",
			dir, len(l.Origin.Nodes), len(l.Appliances), o.Nodes, o.Proxies)
	}
	for _, p := range l.Status(context.Background()).Processes {
		if p.State != lab.Ready {
			return nil, fmt.Errorf("use the lab of ZDM_LAB_DIR=%s: %s is %s; run zdm-lab up --dir %s", dir, p.Name, p.State, dir)
		}
	}
	return l, nil
}

// bringUp makes a lab in a new folder, guarded from before its first process.
func bringUp(o lab.Options) (*lab.Lab, *guard, error) {
	if o.Dir == "" {
		dir, err := os.MkdirTemp("", "zdm-lab-test-")
		if err != nil {
			return nil, nil, err
		}
		o.Dir = dir
	}
	g, err := newGuard(o.Dir)
	if err != nil {
		return nil, nil, err
	}
	if o.Progress == nil && (testing.Verbose() || os.Getenv("CI") == "true") {
		o.Progress = os.Stderr
	}
	addressGiven := o.BaseAddress.IsValid()
	var l *lab.Lab
	for range 5 {
		if !addressGiven {
			o.BaseAddress = randomBase()
		}
		if l, err = lab.Up(context.Background(), o); err == nil {
			return l, g, nil
		}
		var busy *lab.AddressError
		if addressGiven || !errors.As(err, &busy) {
			break
		}
		// Somebody has that address; the folder is made anew for another one.
		if err := lab.Purge(context.Background(), o.Dir); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, errors.Join(err, g.purge())
}

// randomBase keeps labs of test binaries that run at the same time apart; they
// are in 127.128.0.0/9, where no default of ours is.
func randomBase() netip.Addr {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails
	return netip.AddrFrom4([4]byte{127, 128 | b[0], b[1] &^ 3, 0})
}

// guard is the process that ends a lab when this one dies: its standard input
// is a pipe that nobody writes to and that closes with us.
type guard struct {
	dir  string
	pipe io.Closer
	cmd  *exec.Cmd
}

func newGuard(dir string) (*guard, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), guardVariable+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the lab's guard: %w", err)
	}
	return &guard{dir: dir, pipe: pipe, cmd: cmd}, nil
}

// purge removes the lab and lets the guard go.
func (g *guard) purge() error {
	ctx, cancel := context.WithTimeout(context.Background(), purgeTimeout)
	defer cancel()
	err := lab.Purge(ctx, g.dir)
	_ = g.pipe.Close()
	return errors.Join(err, g.cmd.Wait())
}

// watch is the guard's life.
func watch(dir string) int {
	_, _ = io.Copy(io.Discard, os.Stdin)
	// Without a lab (purged in the ordinary way) this does nothing. A lab that
	// was being brought up when its process died is not locked any more.
	ctx, cancel := context.WithTimeout(context.Background(), purgeTimeout)
	defer cancel()
	if err := lab.Purge(ctx, dir); err != nil {
		return 1
	}
	return 0
}

func logs(l *lab.Lab) string {
	var b strings.Builder
	for _, p := range l.Status(context.Background()).Processes {
		fmt.Fprintf(&b, "%s is %s\n", p.Name, p.State)
		_ = l.CopyLog(context.Background(), &b, p.Name, 10, false)
	}
	return b.String()
}

// Keyspace makes a keyspace of that test alone on both clusters, and drops it
// at its end. It returns the name, which needs no quotes.
func Keyspace(t testing.TB, l *lab.Lab) string {
	t.Helper()
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	name := keyspaceName(t.Name(), hex.EncodeToString(b[:]))
	for _, c := range l.Clusters() {
		s := Session(t, c, "")
		text := fmt.Sprintf("CREATE KEYSPACE %s WITH replication = {'class': 'SimpleStrategy', 'replication_factor': %d}", name, c.Replication())
		if err := s.Query(text).Exec(); err != nil {
			t.Fatalf("make keyspace %s on %s: %v", name, c.Side, err)
		}
		t.Cleanup(func() {
			if err := s.Query("DROP KEYSPACE IF EXISTS " + name).Exec(); err != nil {
				// The test may have killed the cluster; what is left over harms
				// nobody, since names are not used twice.
				t.Logf("drop keyspace %s on %s: %v", name, c.Side, err)
			}
		})
	}
	return name
}

// keyspaceName is at most 48 characters, which is Cassandra's limit, and tells
// the test.
func keyspaceName(test, unique string) string {
	const limit = 48
	var b strings.Builder
	b.WriteString("t_")
	for _, r := range strings.ToLower(strings.TrimPrefix(test, "Test")) {
		if b.Len() == limit-len(unique)-1 {
			break
		}
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			r = '_'
		}
		b.WriteRune(r)
	}
	return b.String() + "_" + unique
}

// ClusterConfig returns the driver's configuration for one side, directly and
// not through a proxy, as the application's role; keyspace may be empty.
func ClusterConfig(c *lab.Cluster, keyspace string) *gocql.ClusterConfig {
	cfg := gocql.NewCluster(c.ContactPoints()...)
	cfg.Port = c.Port
	cfg.Keyspace = keyspace
	cfg.Authenticator = gocql.PasswordAuthenticator{Username: c.Username, Password: c.Password}
	cfg.ConnectTimeout = 10 * time.Second
	cfg.Timeout = 20 * time.Second
	return cfg
}

// Session connects to one side directly; it is closed at the end of the test.
func Session(t testing.TB, c *lab.Cluster, keyspace string) *gocql.Session {
	t.Helper()
	s, err := ClusterConfig(c, keyspace).CreateSession()
	if err != nil {
		t.Fatalf("connect to the %s cluster at %s: %v", c.Side, strings.Join(c.ContactPoints(), ", "), err)
	}
	t.Cleanup(s.Close)
	return s
}
