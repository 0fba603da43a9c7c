package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
)

// Client is what the application asks of its database. It is safe for
// concurrent use. An error of a write means that its outcome is unknown.
type Client interface {
	Write(ctx context.Context, w Write) error
	// Read returns nil for a row that is not there.
	Read(ctx context.Context, k journal.Key, s Style) (*journal.Found, error)
	// ReadBucket returns the rows of a bucket, read page by page.
	ReadBucket(ctx context.Context, bucket string, s Style) ([]journal.Found, error)
}

// Style is how a statement is sent.
type Style uint8

// Prepared statements carry bound values; Simple ones carry literals in their
// text and are not prepared.
const (
	Prepared Style = iota
	Simple
)

func (s Style) String() string {
	if s == Simple {
		return "simple"
	}
	return "prepared"
}

// Verb of one statement.
type Verb uint8

// The statements that change a row.
const (
	Insert Verb = iota
	Update
	Delete
)

func (v Verb) String() string { return [...]string{"insert", "update", "delete"}[v] }

// Change is one statement of a write.
type Change struct {
	Verb Verb
	journal.Mutation
}

// Batch says how the changes of a write are sent together.
type Batch uint8

// NoBatch has exactly one change. An Unlogged batch stays in one bucket.
const (
	NoBatch Batch = iota
	Logged
	Unlogged
)

// Write is one request that changes rows.
type Write struct {
	Batch   Batch
	Style   Style
	Changes []Change
}

// Op names the request in the journal.
func (w Write) Op() string {
	switch w.Batch {
	case Logged:
		return "logged batch, " + w.Style.String()
	case Unlogged:
		return "unlogged batch, " + w.Style.String()
	}
	return w.Changes[0].Verb.String() + ", " + w.Style.String()
}

// Config of a load.
type Config struct {
	Client  Client
	Journal *journal.Writer
	// Rate is requests a second over all workers; 0 is as many as possible.
	Rate float64
	// Workers is also the largest number of requests in flight; 0 means 16.
	Workers int
	// Buckets a worker fills before it only changes rows that it has; 0 means
	// 200, which bounds the rows at 200 x 20 a worker.
	Buckets int
	// Run is the prefix of the buckets; it must be new for the journal and the
	// cluster. "" takes one from the clock.
	Run string
	// Seed of the choices; 0 takes one from the clock.
	Seed uint64
	// Phase is the first one; SetPhase changes it.
	Phase string
}

// A request that is due is not sent later than this because of a pause of the
// database: the schedule is shifted instead, and what was not sent is counted.
const maxBacklog = time.Second

// Load is one run of the application.
type Load struct {
	// Set by New, then read only.
	cfg   Config
	stats *stats
	gate  gate
	pace  pacer
}

// New checks the configuration and notes the run in the journal; it sends
// nothing.
func New(cfg Config) (*Load, error) {
	now := time.Now()
	if cfg.Workers == 0 {
		cfg.Workers = 16
	}
	if cfg.Buckets == 0 {
		cfg.Buckets = 200
	}
	if cfg.Run == "" {
		cfg.Run = "r" + now.UTC().Format("20060102t150405.000") + "-"
	}
	if cfg.Seed == 0 {
		cfg.Seed = uint64(now.UnixNano())
	}
	switch {
	case cfg.Client == nil || cfg.Journal == nil:
		return nil, errors.New("load: client and journal are needed")
	case cfg.Rate < 0:
		return nil, fmt.Errorf("load: rate %v is below 0", cfg.Rate)
	case cfg.Workers < 1 || cfg.Workers > 10_000:
		return nil, fmt.Errorf("load: %d workers are not between 1 and 10000", cfg.Workers)
	case cfg.Buckets < 1:
		return nil, fmt.Errorf("load: %d buckets are below 1", cfg.Buckets)
	}
	l := &Load{cfg: cfg, stats: newStats(cfg.Phase, now), pace: pacer{backlog: maxBacklog}}
	if cfg.Rate > 0 {
		l.pace.interval = time.Duration(float64(time.Second) / cfg.Rate)
	}
	return l, cfg.Journal.Append(journal.Record{Time: now, Kind: journal.Run, Run: cfg.Run, Phase: cfg.Phase})
}

// Serve sends requests until ctx ends, lets those in flight be answered (the
// driver's time-out bounds that), and returns. Its error is one of the journal
// or of the load itself, never one of a request: those are counted.
func (l *Load) Serve(ctx context.Context) error {
	l.stats.resume(time.Now())
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	for id := range l.cfg.Workers {
		w := newWorker(l, id)
		workers.Go(func() {
			if err := w.serve(ctx); err != nil {
				cancel(err)
			}
		})
	}
	workers.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return l.note(journal.Record{Kind: journal.End})
}

// Pause keeps new requests back and returns when none is in flight. When ctx
// ends first the load goes on.
func (l *Load) Pause(ctx context.Context) error {
	if err := l.gate.shut(ctx); err != nil {
		return fmt.Errorf("pause the load: %w", err)
	}
	l.stats.pause()
	return l.note(journal.Record{Kind: journal.Paused})
}

// Resume ends a pause.
func (l *Load) Resume() {
	l.pace.restart()
	l.stats.resume(time.Now())
	l.gate.open()
}

// SetPhase begins a visit of a phase: requests sent from now on count for it.
func (l *Load) SetPhase(name string) error {
	l.stats.enter(name, time.Now())
	return l.note(journal.Record{Kind: journal.Phase, Phase: name})
}

// Stats tells how it goes.
func (l *Load) Stats() Stats {
	s := l.stats.snapshot(time.Now())
	s.Shed = l.pace.shedSoFar()
	return s
}

func (l *Load) note(rec journal.Record) error {
	if rec.Time.IsZero() {
		rec.Time = time.Now()
	}
	rec.Run = l.cfg.Run
	return l.cfg.Journal.Append(rec)
}
