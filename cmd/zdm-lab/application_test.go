package main_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/verify"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const (
	workers = 24
	rate    = 200
	// atOnce is what "at once" and "fast" mean here. The proxy's request time-out
	// is 10 s and the driver's 11 s, so what hangs is far from it.
	atOnce = 3 * time.Second
)

// nobodys is a row that is never written.
var nobodys = journal.Key{Bucket: "nobody's"}

// application is the load through both instances.
type application struct {
	*load.Load
	t       *testing.T
	f       *fleet
	session *gocql.Session
	meter   *load.Meter
	watch   *watched
	journal string
	// stop ends the load, waits for what is in flight, and disconnects.
	stop func()
}

// application starts the load; it is ended with the test at the latest.
func (f *fleet) application(t *testing.T) *application {
	t.Helper()
	a := &application{t: t, f: f, journal: filepath.Join(t.TempDir(), "journal.ndjson"), meter: new(load.Meter)}
	to := load.Endpoint{
		Port: f.all[0].Port, Username: f.Target.Username, Password: secret.New(f.Target.Password), Keyspace: keyspace, Meter: a.meter,
	}
	for _, in := range f.all {
		to.Hosts = append(to.Hosts, in.ListenAddress)
	}
	var err error
	if a.session, err = load.Connect(to); err != nil {
		t.Fatal(err)
	}
	a.watch = &watched{Client: load.NewCQL(a.session)}
	records, err := journal.Create(a.journal)
	if err != nil {
		t.Fatal(err)
	}
	if a.Load, err = load.New(load.Config{Client: a.watch, Journal: records, Rate: rate, Workers: workers, Buckets: 4, Phase: phase.DualWrite.String()}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ctx) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		// No request outlives the driver's time-out of 11 s.
		if err := await(ended, 20*time.Second); err != nil {
			t.Errorf("end the load: %v", err)
		}
		a.session.Close()
		if err := records.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(a.stop)
	// The driver goes round the instances, so that each has prepared the
	// statement of a read now, and most of the others.
	for range 16 {
		if _, err := a.watch.Read(t.Context(), nobodys, load.Prepared); err != nil {
			t.Fatal(err)
		}
	}
	a.awaitAcked(150)
	return a
}

func await(ended <-chan error, within time.Duration) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		return fmt.Errorf("requests are still in flight after %s", within)
	}
}

// awaitAcked waits until so many more writes were acknowledged.
func (a *application) awaitAcked(n int) {
	a.t.Helper()
	before := a.Stats().Total.Acked
	eventually(a.t, patience, fmt.Sprintf("%d more acknowledged writes", n), func() error {
		s := a.Stats()
		if s.Total.Acked >= before+n {
			return nil
		}
		return fmt.Errorf("%d so far; %d failures, the last ones: %v", s.Total.Acked-before, s.Total.Failures, a.watch.last(3))
	})
}

// awaitHealthy waits until 50 writes in a row were acknowledged and nothing
// failed meanwhile.
func (a *application) awaitHealthy() {
	a.t.Helper()
	before := a.Stats().Total
	eventually(a.t, patience, "50 acknowledged writes without a failure", func() error {
		now := a.Stats().Total
		if now.Failures != before.Failures {
			before = now
		}
		if now.Acked >= before.Acked+50 {
			return nil
		}
		return fmt.Errorf("%d since the last failure; the last ones: %v", now.Acked-before.Acked, a.watch.last(3))
	})
}

// conclude ends the load and proves what holds after every fault: each request
// has ended with an answer or a closed connection, each acknowledged write is on
// both clusters, no read was wrong, and the instances hold nothing.
func (a *application) conclude() {
	a.t.Helper()
	t := a.t
	a.stop()
	s := a.Stats()
	t.Logf("%d requests, %d failed (%s), %d wrong, %d writes acknowledged, p50 %s, p99 %s, longest pause %s", s.Total.Requests, s.Total.Failures,
		a.watch.summary(), s.Total.Wrong, s.Total.Acked, ms(s.Total.P50), ms(s.Total.P99), ms(s.Total.LongestPause))
	if s.Total.Wrong > 0 {
		t.Errorf("%d wrong reads: %v", s.Total.Wrong, s.Problems)
	}
	for _, f := range a.watch.all() {
		if f.kind() == silent {
			t.Errorf("a request never got an answer: %s", f)
		}
	}
	a.verify()
	a.f.atRest(t)
}

func (a *application) verify() {
	a.t.Helper()
	t := a.t
	model, err := journal.Load(a.journal)
	if err != nil {
		t.Fatal(err)
	}
	if model.Unanswered > 0 {
		t.Errorf("%d writes have no outcome in the journal", model.Unanswered)
	}
	sources := make(map[phase.Side]verify.Source)
	for _, side := range phase.Sides {
		sources[side] = verify.Scan{Session: labtest.Session(t, a.f.Cluster(side), ""), Keyspace: keyspace}
	}
	reports, err := verify.Both(t.Context(), sources, model, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reports {
		for i, finding := range r.Findings {
			if i == 10 {
				t.Errorf("and %d more on %s", len(r.Findings)-i, r.Side)
				break
			}
			t.Error(finding)
		}
		if r.Rows != len(model.Rows) || model.Acked == 0 {
			t.Errorf("%s: compared %d rows of %d, %d writes acknowledged; want all, and some", r.Side, r.Rows, len(model.Rows), model.Acked)
		}
		t.Logf("%s: %d acknowledged changes of %d rows are there, %d rows with an unknown outcome", r.Side, r.Writes, r.Rows, r.Uncertain)
	}
}

func ms(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// kind of a failure, by what the application learns from it.
type kind string

const (
	closed   kind = "connection closed"
	noHost   kind = "no host"
	silent   kind = "no answer"
	answered kind = "answered" // followed by the error code
)

// failure is a request without a success.
type failure struct {
	op      string
	began   time.Time
	latency time.Duration
	err     error
}

func (f failure) String() string {
	return fmt.Sprintf("%s: %s after %s: %s: %v", f.began.Format("15:04:05.000"), f.op, ms(f.latency), f.kind(), f.err)
}

func (f failure) kind() kind {
	var answer gocql.RequestError
	switch {
	case errors.As(f.err, &answer):
		return kind(fmt.Sprintf("%s 0x%04x", answered, answer.Code()))
	case errors.Is(f.err, gocql.ErrTimeoutNoResponse), errors.Is(f.err, context.DeadlineExceeded):
		return silent
	case errors.Is(f.err, gocql.ErrNoConnections):
		return noHost
	}
	return closed
}

// watched notes every failure; the load keeps the first few only.
type watched struct {
	load.Client
	mu       sync.Mutex
	failures []failure
}

func (w *watched) Write(ctx context.Context, req load.Write) error {
	began := time.Now()
	err := w.Client.Write(ctx, req)
	w.note(req.Op(), began, err)
	return err
}

func (w *watched) Read(ctx context.Context, k journal.Key, s load.Style) (*journal.Found, error) {
	began := time.Now()
	found, err := w.Client.Read(ctx, k, s)
	w.note("read", began, err)
	return found, err
}

func (w *watched) ReadBucket(ctx context.Context, bucket string, s load.Style) ([]journal.Found, error) {
	began := time.Now()
	found, err := w.Client.ReadBucket(ctx, bucket, s)
	w.note("read of a bucket", began, err)
	return found, err
}

func (w *watched) note(op string, began time.Time, err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures = append(w.failures, failure{op, began, time.Since(began), err})
}

func (w *watched) all() []failure {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.failures)
}

// since returns those that ended at a time or later.
func (w *watched) since(at time.Time) []failure {
	return slices.DeleteFunc(w.all(), func(f failure) bool { return f.began.Add(f.latency).Before(at) })
}

func (w *watched) last(n int) []failure {
	all := w.all()
	return all[max(0, len(all)-n):]
}

// summary counts the failures of each kind, with the longest one.
func (w *watched) summary() string {
	count, longest, example := map[kind]int{}, map[kind]time.Duration{}, map[kind]error{}
	for _, f := range w.all() {
		k := f.kind()
		count[k]++
		if f.latency >= longest[k] {
			longest[k], example[k] = f.latency, f.err
		}
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, fmt.Sprintf("%d %s, at most %s, as %q", count[k], k, ms(longest[k]), example[k]))
	}
	return strings.Join(parts, "; ")
}
