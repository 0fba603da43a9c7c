package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"

	"github.com/zdmproject/terraform-provider-zdm/internal/faultconn"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/verify"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// The proxy reaches each node by a relay: its contact point, with host
// assignment off, so that it asks for no other address. Faults are those of the
// wire between proxy and node; nodes and proxy themselves are well.

// wired is an application on a proxy whose wires are relays.
type wired struct {
	*load.Load
	proxy  *lab.Proxy
	wires  [2]*faultconn.Relay // by side
	nodes  [2]*gocql.Session   // by side, past proxy and wire
	silent *unanswered
}

// aFault is how long a fault lasts that is not over at once; the proxy waits
// for an answer for shortTimeout.
const (
	aFault       = 3 * time.Second
	shortTimeout = 5 * time.Second
	// maxGrowth is how much more a proxy may hold after a fault than before it.
	// Of 24 requests in flight it is a thousand times what they need.
	maxGrowth = 64 << 20
)

func TestNoAcknowledgedWriteIsLostByAWireThat(t *testing.T) {
	target := phase.Target
	for _, c := range []struct {
		name     string
		protocol int
		strike   func(t *testing.T, w *wired)
		// unseen: nothing on the wire tells that bytes are others, so that a
		// request may be taken for answered by what was the answer to another one.
		unseen bool
	}{
		{"is cut again and again", 0, func(t *testing.T, w *wired) {
			for i := range 10 {
				w.awaitRequests(t, 20)
				w.wires[phase.Sides[i%2]].Cut()
			}
		}, false},
		{"is cut within a frame", 0, func(t *testing.T, w *wired) {
			for i := range int64(10) {
				w.wires[target].CutAfter(faultconn.Both[i%2], 1000+7*i)
				w.awaitRequests(t, 20)
			}
		}, false},
		{"is half open", 0, func(t *testing.T, w *wired) {
			for _, dir := range faultconn.Both {
				w.wires[target].Stall(dir)
				wait(t, aFault)
				w.wires[target].Cut()
				w.wires[target].Resume(dir)
				w.awaitRequests(t, 20)
			}
		}, false},
		{"is closed in one direction", 0, func(t *testing.T, w *wired) {
			for _, dir := range faultconn.Both {
				w.wires[target].HalfClose(dir)
				w.awaitRequests(t, 20)
			}
		}, false},
		{"is slow", 0, func(t *testing.T, w *wired) {
			takes := medianAnswer(t, w.nodes[target])
			// The answer's own time is the tenth; an answer may be in several chunks,
			// of which each is late, so that this is the least.
			delay := 9 * takes
			t.Logf("an answer of Target takes %s, the wire adds %s", takes, delay)
			w.wires[target].Delay(faultconn.Down, delay)
			wait(t, aFault)
			w.wires[target].Delay(faultconn.Down, 0)
		}, false},
		{"inverts a byte in one of a hundred segments", 5, func(t *testing.T, w *wired) { w.corrupt(t, faultconn.Both...) }, false},
		// Only what the proxy gets: the node dies of it, since a length that is
		// wrong has it ask for more memory than it has.
		{"inverts a byte in one of a hundred frames of answers", 4, func(t *testing.T, w *wired) { w.corrupt(t, faultconn.Down) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := labtest.Lab(t)
			keyspace := labtest.Keyspace(t, l)
			w, path := wire(t, l, keyspace, c.protocol)
			before := w.resident(t)
			c.strike(t, w)
			w.awaitHealthy(t)
			if after := w.resident(t); after > before+maxGrowth {
				t.Errorf("the proxy holds %d MB, %d MB before", after>>20, before>>20)
			}
			model := w.end(t, path)
			for _, r := range verified(t, l, keyspace, model) {
				if c.unseen && r.Side == target {
					continue
				}
				for _, finding := range r.Findings {
					t.Error(finding)
				}
				if r.Rows != len(model.Rows) || model.Acked == 0 {
					t.Errorf("%s: compared %d rows of %d, %d writes acknowledged", r.Side, r.Rows, len(model.Rows), model.Acked)
				}
			}
		})
	}
}

// medianAnswer is how long a node takes for a read, asked without proxy and wire,
// under the load that runs.
func medianAnswer(t *testing.T, node *gocql.Session) time.Duration {
	t.Helper()
	var took []time.Duration
	for range 101 {
		began := time.Now()
		if err := node.Query("SELECT release_version FROM system.local").ExecContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// corrupt inverts a byte of one in a hundred segments or frames of this load: a
// request has some 250 bytes, the answer to a write some 15.
func (w *wired) corrupt(t *testing.T, directions ...faultconn.Direction) {
	t.Helper()
	every := map[faultconn.Direction]int64{faultconn.Up: 25_000, faultconn.Down: 1_500}
	before := w.Stats().Total.Failures
	for _, dir := range directions {
		w.wires[phase.Target].CorruptEach(dir, every[dir])
	}
	wait(t, 2*aFault)
	for _, dir := range directions {
		w.wires[phase.Target].CorruptEach(dir, 0)
	}
	if w.Stats().Total.Failures == before {
		t.Error("no request failed, so that nothing was wrong on the wire")
	}
	w.wires[phase.Target].Cut() // what a connection still waits for may never come
}

// wait is for a fault to last.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// wire starts the proxy and the load through it. The journal is at path.
func wire(t *testing.T, l *lab.Lab, keyspace string, protocol int) (w *wired, path string) {
	t.Helper()
	w = &wired{silent: new(unanswered)}
	env := map[string]string{"ZDM_PHASE": "dual_write", "ZDM_PROXY_REQUEST_TIMEOUT_MS": fmt.Sprint(shortTimeout.Milliseconds())}
	for _, c := range l.Clusters() {
		w.nodes[c.Side] = labtest.Session(t, c, "")
		if err := load.Setup(t.Context(), w.nodes[c.Side], keyspace, c.Replication()); err != nil {
			t.Fatal(err)
		}
		relay := faultconn.New(t, fmt.Sprintf("%s:%d", c.ContactPoints()[0], c.Port))
		w.wires[c.Side] = relay
		prefix := map[phase.Side]string{phase.Origin: "ZDM_ORIGIN_", phase.Target: "ZDM_TARGET_"}[c.Side]
		env[prefix+"CONTACT_POINTS"], env[prefix+"PORT"] = relay.Addr().Addr().String(), fmt.Sprint(relay.Addr().Port())
		env[prefix+"ENABLE_HOST_ASSIGNMENT"] = "false"
	}
	var err error
	if w.proxy, err = l.StartProxy(t.Context(), lab.ProxyOptions{Env: env}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if log, err := os.ReadFile(w.proxy.LogPath()); t.Failed() && err == nil {
			t.Logf("the proxy's log ends with:\n%s", log[max(0, len(log)-4000):])
		}
		if err := w.proxy.Remove(); err != nil {
			t.Error(err)
		}
	})
	s, err := load.Connect(load.Endpoint{Hosts: []string{w.proxy.ListenAddress}, Port: w.proxy.Port, Username: l.Target.Username,
		Password: secret.New(l.Target.Password), Keyspace: keyspace, Protocol: protocol})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w.silent.Client = load.NewCQL(s)
	path = filepath.Join(t.TempDir(), "journal.ndjson")
	records, err := journal.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	if w.Load, err = load.New(load.Config{Client: w.silent, Journal: records, Rate: 300, Workers: 24, Buckets: 4, Phase: phase.DualWrite.String()}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- w.Serve(ctx) }()
	w.silent.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = w.silent.stop() })
	w.awaitRequests(t, 200)
	return w, path
}

// end stops the load, and returns what it was told.
func (w *wired) end(t *testing.T, path string) *journal.Model {
	t.Helper()
	if err := w.silent.stop(); err != nil {
		t.Fatal(err)
	}
	s := w.Stats()
	t.Logf("%d requests, %d failed, %d wrong, %d writes acknowledged; longest pause %s", s.Total.Requests, s.Total.Failures, s.Total.Wrong, s.Total.Acked, s.Total.LongestPause)
	if s.Total.Wrong > 0 {
		t.Errorf("%d wrong reads: %v", s.Total.Wrong, s.Problems)
	}
	if n, last := w.silent.count(); n > 0 {
		t.Errorf("%d requests had no answer, or lost their connection to the proxy; the last one: %v", n, last)
	}
	model, err := journal.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if model.Unanswered > 0 {
		t.Errorf("%d writes have no outcome in the journal", model.Unanswered)
	}
	return model
}

// unanswered counts the requests that ended in another way than by an answer of
// the proxy: a fault behind it closes no client's connection.
type unanswered struct {
	load.Client
	stop func() error

	mu   sync.Mutex
	n    int
	last error
}

func (u *unanswered) note(err error) {
	var answer gocql.RequestError
	if err == nil || errors.As(err, &answer) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.n, u.last = u.n+1, err
}

func (u *unanswered) count() (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.n, u.last
}

func (u *unanswered) Write(ctx context.Context, req load.Write) error {
	err := u.Client.Write(ctx, req)
	u.note(err)
	return err
}

func (u *unanswered) Read(ctx context.Context, k journal.Key, s load.Style) (*journal.Found, error) {
	found, err := u.Client.Read(ctx, k, s)
	u.note(err)
	return found, err
}

func (u *unanswered) ReadBucket(ctx context.Context, bucket string, s load.Style) ([]journal.Found, error) {
	found, err := u.Client.ReadBucket(ctx, bucket, s)
	u.note(err)
	return found, err
}

// awaitRequests waits for so many more requests, failed or not.
func (w *wired) awaitRequests(t *testing.T, n int) {
	t.Helper()
	want := w.Stats().Total.Requests + n
	w.await(t, fmt.Sprintf("%d more requests", n), func(load.Stats) bool { return w.Stats().Total.Requests >= want })
}

// awaitHealthy waits until 100 writes in a row were acknowledged and nothing
// failed meanwhile: nobody but the proxy does anything for it.
func (w *wired) awaitHealthy(t *testing.T) {
	t.Helper()
	before := w.Stats()
	w.await(t, "100 acknowledged writes without a failure", func(now load.Stats) bool {
		if now.Total.Failures != before.Total.Failures {
			before = now
		}
		return now.Total.Acked >= before.Total.Acked+100
	})
}

func (w *wired) await(t *testing.T, what string, done func(load.Stats) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(w.Stats()); {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s; %v", what, w.Stats().Problems)
		}
		wait(t, 10*time.Millisecond)
	}
}

var vmRSS = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

// resident is the proxy's memory in bytes.
func (w *wired) resident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.proxy.PID()))
	if err != nil {
		t.Fatal(err)
	}
	m := vmRSS.FindSubmatch(status)
	if m == nil {
		t.Fatalf("no VmRSS of process %d", w.proxy.PID())
	}
	kb, _ := strconv.Atoi(string(m[1]))
	return kb << 10
}

func verified(t *testing.T, l *lab.Lab, keyspace string, model *journal.Model) []*verify.Report {
	t.Helper()
	sources := make(map[phase.Side]verify.Source)
	for _, side := range phase.Sides {
		sources[side] = verify.Scan{Session: labtest.Session(t, l.Cluster(side), ""), Keyspace: keyspace}
	}
	reports, err := verify.Both(t.Context(), sources, model, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return reports
}
