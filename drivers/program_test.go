package drivers_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
)

// driver is one of those that are tested, and what it can do.
type driver struct {
	name, folder string
	// tools must be in PATH to build and run the program.
	tools []string
	// versions of the protocol that it can be told to use; newest is the one
	// that it comes to by itself.
	versions []int
	newest   int
	// steps is how many versions it tries and drops before it comes to the
	// highest one that is served.
	steps        map[int]int
	compressions []string
	// lacks are cases that the driver cannot do in a version, through a proxy or not.
	lacks map[int][]string
	// make builds the program from its folder in another one, and returns how
	// to run it.
	make func(b *building) []string
}

var drivers = []driver{
	{
		name: "gocql1", folder: "gocql", tools: []string{"go"},
		versions: []int{3, 4}, newest: 4, steps: map[int]int{4: 1, 3: 1}, compressions: []string{"snappy"},
		lacks: map[int][]string{3: {"types"}}, // it takes date, time, smallint and tinyint for custom types
		make:  func(b *building) []string { return b.goProgram("gocql1") },
	},
	{
		name: "gocql2", folder: "gocql", tools: []string{"go"},
		versions: []int{3, 4, 5}, newest: 5, steps: map[int]int{5: 1, 4: 2, 3: 3}, compressions: []string{"lz4", "snappy"},
		make: func(b *building) []string { return b.goProgram("gocql2") },
	},
	{
		name: "java", folder: "java", tools: []string{"mvn", "java", "javac"},
		versions: []int{3, 4, 5}, newest: 5, steps: map[int]int{5: 2, 4: 3, 3: 4}, compressions: []string{"lz4", "snappy"},
		lacks: map[int][]string{3: {"types"}}, // it takes date, time, smallint and tinyint for custom types
		make: func(b *building) []string {
			b.once(func() {
				b.command(b.from, "mvn", "--quiet", "--batch-mode", "-Dout="+b.out, "compile", "dependency:copy-dependencies", "-DincludeScope=runtime",
					"-DoutputDirectory="+filepath.Join(b.out, "jars"))
			})
			return []string{"java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m",
				"-cp", filepath.Join(b.out, "classes") + ":" + filepath.Join(b.out, "jars", "*"), "drivers.Program"}
		},
	},
	{
		name: "node", folder: "node", tools: []string{"node", "npm"},
		versions: []int{3, 4}, newest: 4, steps: map[int]int{4: 1, 3: 1},
		lacks: map[int][]string{3: {"types"}}, // it knows no date, time, smallint and tinyint there
		make: func(b *building) []string {
			b.once(func() {
				if err := os.CopyFS(b.out, os.DirFS(b.from)); err != nil {
					b.t.Fatal(err)
				}
				b.command(b.out, "npm", "ci", "--no-audit", "--no-fund")
			})
			return []string{"node", filepath.Join(b.out, "program.js")}
		},
	},
	{
		name: "python", folder: "python", tools: []string{"python3"},
		versions: []int{3, 4, 5}, newest: 5, steps: map[int]int{5: 2, 4: 3, 3: 4}, compressions: []string{"lz4", "snappy"},
		make: func(b *building) []string {
			python := filepath.Join(b.out, "venv", "bin", "python")
			b.once(func() {
				b.command(b.from, "python3", "-m", "venv", filepath.Join(b.out, "venv"))
				b.command(b.from, python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", filepath.Join(b.from, "requirements.txt"))
			})
			return []string{python, filepath.Join(b.from, "program.py")}
		},
	},
	{
		name: "rust", folder: "rust", tools: []string{"cargo"},
		versions: []int{4}, newest: 4, compressions: []string{"lz4", "snappy"},
		make: func(b *building) []string {
			b.command(b.from, "cargo", "build", "--quiet", "--locked", "--target-dir", b.out)
			return []string{filepath.Join(b.out, "debug", "zdm-driver-program")}
		},
	},
}

// selected are the drivers of $DRIVERS, or all.
func selected(t *testing.T) []driver {
	t.Helper()
	names := strings.Fields(os.Getenv("DRIVERS"))
	if len(names) == 0 {
		return drivers
	}
	var out []driver
	for _, name := range names {
		i := slices.IndexFunc(drivers, func(d driver) bool { return d.name == name })
		if i < 0 {
			t.Fatalf("DRIVERS: there is no driver %q", name)
		}
		out = append(out, drivers[i])
	}
	return out
}

// missing tells what this machine lacks for the driver's program.
func (d *driver) missing() error {
	var problems []error
	for _, tool := range d.tools {
		if _, err := exec.LookPath(tool); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// mustRun forbids to skip a driver whose tools are missing.
func mustRun() bool { return os.Getenv("CI") == "true" }

// building is a program that is being built.
type building struct {
	t         *testing.T
	from, out string // folders
}

// build builds the program, unless that was done before, and skips the test if
// this machine cannot.
func (d *driver) build(t *testing.T) *program {
	t.Helper()
	if err := d.missing(); err != nil {
		if mustRun() {
			t.Fatalf("%s: %v, and CI=true forbids to skip it", d.name, err)
		}
		t.Skipf("SKIPPED %s: %v", d.name, err)
	}
	root := lab.Checkout()
	b := &building{t: t, from: filepath.Join(root, "drivers", d.folder), out: filepath.Join(root, ".cache", "drivers", d.name)}
	if err := os.MkdirAll(b.out, 0o700); err != nil {
		t.Fatal(err)
	}
	return &program{args: d.make(b)}
}

// once calls install, on an empty folder, if the program has changed since the
// last time.
func (b *building) once(install func()) {
	b.t.Helper()
	sum := sha256.New()
	err := filepath.WalkDir(b.from, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(sum, "%s %d\n%s", path, len(text), text)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	stamp, want := filepath.Join(b.out, "built-from"), fmt.Sprintf("%x\n", sum.Sum(nil))
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		return
	}
	if err := errors.Join(os.RemoveAll(b.out), os.MkdirAll(b.out, 0o700)); err != nil {
		b.t.Fatal(err)
	}
	install()
	if err := os.WriteFile(stamp, []byte(want), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// command runs one in a folder.
func (b *building) command(dir, name string, args ...string) {
	b.t.Helper()
	c := exec.CommandContext(b.t.Context(), name, args...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		b.t.Fatalf("%s: %v\n%s", c, err, out)
	}
}

func (b *building) goProgram(tag string) []string {
	b.t.Helper()
	path := filepath.Join(b.out, "program")
	b.command(b.from, "go", "build", "-tags", tag, "-o", path, ".")
	return []string{path}
}

// job is what a program reads as the first line of its standard input. See
// README.md.
type job struct {
	Contacts    []string  `json:"contacts"`
	Port        int       `json:"port"`
	Username    string    `json:"username"`
	Password    string    `json:"password"`
	Datacenter  string    `json:"datacenter"`
	Keyspace    string    `json:"keyspace"`
	Version     int       `json:"version"`
	Compression string    `json:"compression"`
	TLS         *tlsFiles `json:"tls"`
	Cases       []string  `json:"cases"`
	Run         string    `json:"run"`
	Table       string    `json:"table"`
	Workers     int       `json:"workers"`
	PauseMillis int       `json:"pause_ms"`
}

type tlsFiles struct {
	CA   string `json:"ca"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// as fills in the login of a cluster.
func (j job) as(c *lab.Cluster) job {
	j.Port, j.Username, j.Password, j.Datacenter = c.Port, c.Username, c.Password, "datacenter1"
	return j
}

// line is one line of a program's output.
type line struct {
	Case         string         `json:"case"`
	OK           bool           `json:"ok"`
	Detail       string         `json:"detail"`
	Version      int            `json:"version"`
	Hosts        int            `json:"hosts"`
	Coordinators []string       `json:"coordinators"`
	Counts       counts         `json:"counts"`
	Errors       map[string]int `json:"errors"`
	Retries      int            `json:"retries"`
}

// counts are how the requests of a load ended, by kind: read, idempotent, other.
type counts map[string]struct{ OK, Failed int }

// program is one that was built.
type program struct{ args []string }

// runTimeout bounds a program. It takes seconds, or a minute under a restart; the
// bound is for a busy machine.
const runTimeout = 5 * time.Minute

// running is a program at work.
type running struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	stdin  io.WriteCloser
	lines  chan line // closed at the end of the output
	stderr bytes.Buffer
	job    job
}

// start starts the program; it is killed at the test's end at the latest.
func (p *program) start(t *testing.T, j job) *running {
	t.Helper()
	name := strings.NewReplacer("/", " ", "_", " ").Replace(t.Name())
	unique := fmt.Sprintf("%x", sha256.Sum256([]byte(name+p.args[0])))[:12]
	j.Run = name[max(0, len(name)-60):] + " " + unique
	j.Table = "schema_" + unique
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), runTimeout)
	r := &running{cmd: exec.CommandContext(ctx, p.args[0], p.args[1:]...), cancel: cancel, lines: make(chan line, 64), job: j}
	r.cmd.Env = os.Environ()
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.cmd.Stderr = &r.stderr
	var err error
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(r.lines)
		in := bufio.NewScanner(stdout)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			var l line
			if err := json.Unmarshal(in.Bytes(), &l); err != nil {
				l = line{Case: "output", Detail: in.Text()}
			}
			select {
			case r.lines <- l:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-read
		_ = r.cmd.Wait()
		if t.Failed() {
			said := r.stderr.Bytes()
			t.Logf("%s said:\n%s", p.args[0], said[max(0, len(said)-4000):])
		}
	})
	if err := json.NewEncoder(r.stdin).Encode(j); err != nil {
		t.Fatal(err)
	}
	return r
}

// next returns the next line of output; the test fails if there is none.
func (r *running) next(t *testing.T) line {
	t.Helper()
	l, ok := <-r.lines
	if !ok {
		t.Fatal("the program has ended too early")
	}
	return l
}

// results are the lines of the cases that a program ran.
type results struct {
	lines []line
	job   job
}

// run runs the cases to their end.
func (p *program) run(t *testing.T, j job) results {
	t.Helper()
	r := p.start(t, j)
	_ = r.stdin.Close()
	out := results{job: r.job}
	for l := range r.lines {
		out.lines = append(out.lines, l)
	}
	return out
}

// check fails the test for each case that did not succeed, for another version
// than wanted, and for a driver that does not know all hosts or does not use
// them all.
func (r results) check(t *testing.T, version, hosts int) {
	t.Helper()
	missing := map[string]bool{}
	for _, name := range r.job.Cases {
		missing[name] = true
	}
	for _, l := range r.lines {
		delete(missing, l.Case)
		switch {
		case !l.OK:
			t.Errorf("%s: %s", l.Case, l.Detail)
		case l.Case == "connect" && (l.Version != version || l.Hosts != hosts):
			t.Errorf("connect: version %d and %d hosts, want %d and %d", l.Version, l.Hosts, version, hosts)
		case l.Case == "tokens" && len(l.Coordinators) != hosts:
			t.Errorf("tokens: requests went to %v, want %d hosts", l.Coordinators, hosts)
		}
	}
	if len(missing) > 0 {
		t.Errorf("no result of %v", slices.Sorted(maps.Keys(missing)))
	}
}
