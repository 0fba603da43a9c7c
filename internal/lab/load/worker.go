package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
)

// slots is the rows of a bucket: with readPage it makes a read of a bucket
// several pages long.
const slots = 20

// worker owns its buckets. All of it belongs to the goroutine of serve.
type worker struct {
	l    *Load
	id   int
	rand *rand.Rand
	rows map[journal.Key]*journal.Row
	// keys that were written at least once, in the order of their first write.
	keys    []journal.Key
	version int64
	request uint64
}

func newWorker(l *Load, id int) *worker {
	return &worker{l: l, id: id, rand: rand.New(rand.NewPCG(l.cfg.Seed, uint64(id))), rows: make(map[journal.Key]*journal.Row)}
}

func (w *worker) serve(ctx context.Context) error {
	for sleepUntil(ctx, w.l.pace.reserve(time.Now())) {
		if w.l.gate.enter(ctx) != nil {
			return nil
		}
		// A request that was begun is not cut off: that would count as a failure.
		err := w.one(context.WithoutCancel(ctx))
		w.l.gate.leave()
		if err != nil {
			return err
		}
	}
	return nil
}

// one sends one request of the mix.
func (w *worker) one(ctx context.Context) error {
	style := Style(w.rand.IntN(2))
	switch n := w.rand.IntN(100); {
	case len(w.keys) < 2 || n < 22:
		return w.write(ctx, Write{Style: style, Changes: []Change{w.change(Insert, w.fresh())}})
	case n < 38:
		return w.write(ctx, Write{Style: style, Changes: []Change{w.change(Update, w.any())}})
	case n < 44:
		return w.write(ctx, Write{Style: style, Changes: []Change{w.change(Delete, w.any())}})
	case n < 50:
		return w.write(ctx, w.logged(style))
	case n < 56:
		return w.write(ctx, w.unlogged(style))
	case n < 90:
		return w.read(ctx, w.any(), style)
	}
	return w.readBucket(ctx, w.any().Bucket, style)
}

// any is a key that was written before.
func (w *worker) any() journal.Key { return w.keys[w.rand.IntN(len(w.keys))] }

// fresh is a key that was never written, or any once all buckets are full.
func (w *worker) fresh() journal.Key {
	n := len(w.keys)
	if n >= w.l.cfg.Buckets*slots {
		return w.any()
	}
	k := journal.Key{Bucket: fmt.Sprintf("%sw%03d-%04d", w.l.cfg.Run, w.id, n/slots), Slot: n % slots}
	w.keys = append(w.keys, k)
	w.rows[k] = new(journal.Row)
	return k
}

func (w *worker) change(v Verb, k journal.Key) Change {
	w.version++
	return Change{Verb: v, Mutation: journal.Mutation{Key: k, Version: w.version, Deleted: v == Delete}}
}

// logged changes rows of several buckets.
func (w *worker) logged(style Style) Write {
	keys := []journal.Key{w.fresh(), w.any(), w.any()}
	return w.batch(Logged, style, keys)
}

// unlogged changes rows of one bucket.
func (w *worker) unlogged(style Style) Write {
	k := w.any()
	var same []journal.Key
	for slot := range slots {
		o := journal.Key{Bucket: k.Bucket, Slot: slot}
		if w.rows[o] != nil && len(same) < 4 {
			same = append(same, o)
		}
	}
	return w.batch(Unlogged, style, same)
}

// batch changes each key once, since two changes of a row in one batch have
// one timestamp.
func (w *worker) batch(b Batch, style Style, keys []journal.Key) Write {
	out := Write{Batch: b, Style: style}
	for i, k := range keys {
		if !slices.Contains(keys[:i], k) {
			verb := [...]Verb{Insert, Update, Update, Delete}[w.rand.IntN(4)]
			out.Changes = append(out.Changes, w.change(verb, k))
		}
	}
	return out
}

func (w *worker) write(ctx context.Context, req Write) error {
	w.request++
	rec := journal.Record{
		Time: time.Now(), Kind: journal.Write, ID: w.requestID(), Op: req.Op(),
		Rows: make([]journal.Mutation, len(req.Changes)),
	}
	for i, c := range req.Changes {
		rec.Rows[i] = c.Mutation
	}
	var visit int
	visit, rec.Phase = w.l.stats.begin()
	if err := w.l.note(rec); err != nil {
		return err
	}
	sent := time.Now()
	err := w.l.cfg.Client.Write(ctx, req)
	rec.Time = time.Now()
	latency := rec.Time.Sub(sent)
	rec.Micros = latency.Microseconds()
	w.l.stats.done(visit, outcome{at: rec.Time, latency: latency, write: true, rows: len(rec.Rows), op: rec.Op, err: err})
	if err != nil {
		rec.Kind, rec.Text = journal.Failed, err.Error()
	} else {
		rec.Kind = journal.Acked
	}
	for _, m := range rec.Rows {
		if err != nil {
			w.rows[m.Key].Doubt(m, rec.Time)
		} else {
			w.rows[m.Key].Acknowledge(m, rec.Time)
		}
	}
	return w.l.note(rec)
}

func (w *worker) read(ctx context.Context, k journal.Key, style Style) error {
	return w.check(ctx, "read, "+style.String(), []journal.Key{k}, func() ([]journal.Found, error) {
		found, err := w.l.cfg.Client.Read(ctx, k, style)
		if err != nil || found == nil {
			return nil, err
		}
		return []journal.Found{*found}, nil
	})
}

func (w *worker) readBucket(ctx context.Context, bucket string, style Style) error {
	keys := make([]journal.Key, slots)
	for slot := range slots {
		keys[slot] = journal.Key{Bucket: bucket, Slot: slot}
	}
	return w.check(ctx, "read of a bucket, "+style.String(), keys, func() ([]journal.Found, error) {
		return w.l.cfg.Client.ReadBucket(ctx, bucket, style)
	})
}

// check sends a read and compares the answer, row by row, with what must be
// there: a row that is missing, stale, back from the dead or there twice makes
// the answer wrong.
func (w *worker) check(ctx context.Context, op string, keys []journal.Key, send func() ([]journal.Found, error)) error {
	w.request++
	visit, phase := w.l.stats.begin()
	sent := time.Now()
	found, err := send()
	now := time.Now()
	o := outcome{at: now, latency: now.Sub(sent), op: op, err: err}
	rec := journal.Record{Time: now, ID: w.requestID(), Op: op, Phase: phase, Micros: o.latency.Microseconds()}
	if err != nil {
		rec.Kind, rec.Text = journal.Failed, err.Error()
	} else if o.wrong = w.judge(keys, found); o.wrong != "" {
		rec.Kind, rec.Text = journal.Wrong, o.wrong
	}
	w.l.stats.done(visit, o)
	if rec.Kind == "" {
		return nil
	}
	return w.l.note(rec)
}

// judge says what is wrong with an answer; "" is nothing.
func (w *worker) judge(keys []journal.Key, found []journal.Found) string {
	byKey := make(map[journal.Key]*journal.Found, len(found))
	for i := range found {
		f := &found[i]
		if byKey[f.Key] != nil {
			return fmt.Sprintf("%s came twice", f.Key)
		}
		if !slices.Contains(keys, f.Key) {
			return fmt.Sprintf("%s was not asked for", f.Key)
		}
		byKey[f.Key] = f
	}
	for _, k := range keys {
		row := w.rows[k]
		if row == nil {
			row = new(journal.Row)
		}
		if m := row.Check(byKey[k]); m != journal.Matches {
			got := "no row"
			if f := byKey[k]; f != nil {
				got = fmt.Sprintf("version %d", f.Version)
			}
			return fmt.Sprintf("%s is %s: expected %s, got %s", k, m, row.Expected(), got)
		}
	}
	return ""
}

// requestID is unique in the run.
func (w *worker) requestID() uint64 { return uint64(w.id)<<40 | w.request }
