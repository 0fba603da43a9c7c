package verify

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Source gives every row of one cluster, in any order, each once. It may call
// each from several goroutines at a time.
type Source interface {
	Each(ctx context.Context, each func(journal.Found)) error
}

// Finding is one row that is not as acknowledged.
type Finding struct {
	Side     phase.Side
	Key      journal.Key
	Mismatch journal.Mismatch
	Expected string
	Found    string
	// Acked is when the row was written or deleted last.
	Acked time.Time
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: row %s is %s: expected %s, found %s (last written %s)",
		f.Side, f.Key, f.Mismatch, f.Expected, f.Found, f.Acked.UTC().Format(time.RFC3339Nano))
}

// Report of one side.
type Report struct {
	Side phase.Side
	// Writes are the acknowledged row changes that were verified: the last one
	// of each row by its value, those before it by having given way to it.
	Writes int
	// Rows were compared, of which Live exist and Uncertain have several states
	// that are right, because the outcome of a write is unknown.
	Rows, Live, Uncertain int
	// Foreign rows are of no run of the journal, and were passed over.
	Foreign int
	// Findings are all of them, sorted by key.
	Findings []Finding
}

// Count tells how many findings there are of each kind, as "2 missing, 1
// stale"; "" without findings.
func (r *Report) Count() string {
	var n [journal.Unwritten + 1]int
	for _, f := range r.Findings {
		n[f.Mismatch]++
	}
	var parts []string
	for m, count := range n {
		if count > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count, journal.Mismatch(m)))
		}
	}
	return strings.Join(parts, ", ")
}

// Side compares all rows of one cluster with the model, or only those whose
// last write was sent or answered at since or later. The model must rest: no
// write may be in flight.
func Side(ctx context.Context, side phase.Side, src Source, model *journal.Model, since time.Time) (*Report, error) {
	c := comparer{
		report: &Report{Side: side},
		model:  model,
		since:  since,
		seen:   make(map[journal.Key]bool, len(model.Rows)),
	}
	if err := src.Each(ctx, c.take); err != nil {
		return nil, fmt.Errorf("read all rows of %s: %w", side, err)
	}
	c.absent()
	slices.SortFunc(c.report.Findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Key.Bucket, b.Key.Bucket), cmp.Compare(a.Key.Slot, b.Key.Slot))
	})
	return c.report, nil
}

// Both verifies several sides at the same time.
func Both(ctx context.Context, sources map[phase.Side]Source, model *journal.Model, since time.Time) ([]*Report, error) {
	reports := make([]*Report, 2)
	g, ctx := errgroup.WithContext(ctx)
	for side, src := range sources {
		g.Go(func() (err error) {
			reports[side], err = Side(ctx, side, src, model, since)
			return err
		})
	}
	err := g.Wait()
	return slices.DeleteFunc(reports, func(r *Report) bool { return r == nil }), err
}

type comparer struct {
	// Set once.
	model *journal.Model
	since time.Time

	mu     sync.Mutex
	report *Report
	seen   map[journal.Key]bool
}

func (c *comparer) take(f journal.Found) {
	c.mu.Lock()
	defer c.mu.Unlock()
	row := c.model.Rows[f.Key]
	if row == nil {
		if !c.ours(f.Key) {
			c.report.Foreign++
			return
		}
		row = new(journal.Row) // the run is ours, and the row was never written
	}
	c.seen[f.Key] = true
	if row.Touched.Before(c.since) {
		return
	}
	c.report.Live++
	c.compare(f.Key, row, &f)
}

// absent compares the rows that the cluster did not give.
func (c *comparer) absent() {
	for k, row := range c.model.Rows {
		if !c.seen[k] && !row.Touched.Before(c.since) {
			c.compare(k, row, nil)
		}
	}
}

func (c *comparer) compare(k journal.Key, row *journal.Row, f *journal.Found) {
	r := c.report
	r.Rows++
	if !row.Certain() {
		r.Uncertain++
	}
	m := row.Check(f)
	if m == journal.Matches {
		r.Writes += row.Writes
		return
	}
	found := "no row"
	switch {
	case f != nil && m == journal.Corrupt:
		found = fmt.Sprintf("version %d with the value %q", f.Version, f.Value)
	case f != nil:
		found = fmt.Sprintf("version %d", f.Version)
	}
	r.Findings = append(r.Findings, Finding{Side: r.Side, Key: k, Mismatch: m, Expected: row.Expected(), Found: found, Acked: row.Touched})
}

// ours reports whether the key's bucket is of a run of the journal.
func (c *comparer) ours(k journal.Key) bool {
	return slices.ContainsFunc(c.model.Runs, func(run string) bool { return strings.HasPrefix(k.Bucket, run) })
}
