package load

import (
	"math/bits"
	"sync"
	"time"
)

// Stats is a look at the load.
type Stats struct {
	Visits []Visit
	Total  Visit
	// Shed counts requests that were due and not sent, because all workers
	// waited for answers.
	Shed uint64
	// Problems are the first failures and wrong reads, at most 20.
	Problems []Problem
}

// Visit is the time from one change of phase to the next. Requests count where
// they were sent.
type Visit struct {
	Phase    string
	Began    time.Time
	Requests int
	Failures int
	// Wrong counts reads that were answered with something else than the last
	// acknowledged write.
	Wrong int
	// Acked are the acknowledged writes, AckedRows the rows that they changed.
	Acked, AckedRows int
	// P50 and P99 are latencies of successes, right to 3%; Max is of all
	// requests, since a failure may come after the longest wait.
	P50, P99, Max time.Duration
	// LongestPause is the longest time in which no request succeeded, while
	// the load was not paused. One that spans visits counts where it ends.
	LongestPause time.Duration
}

// Problem is one failure or wrong read.
type Problem struct {
	Time  time.Time
	Phase string
	Op    string
	Text  string
}

type outcome struct {
	at      time.Time
	latency time.Duration
	write   bool
	rows    int
	op      string
	err     error
	wrong   string // "" is right
}

type stats struct {
	mu       sync.Mutex
	visits   []*visit
	success  time.Time // the last one, or when the load was resumed; zero while paused
	problems []Problem
}

type visit struct {
	Visit
	hist histogram
}

func newStats(phase string, now time.Time) *stats {
	s := new(stats)
	s.enter(phase, now)
	return s
}

func (s *stats) enter(phase string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.visits); n > 0 && s.visits[n-1].Requests == 0 && s.visits[n-1].Phase == "" {
		s.visits = s.visits[:n-1] // the load has not begun yet
	}
	s.visits = append(s.visits, &visit{Visit: Visit{Phase: phase, Began: now}})
}

// begin returns the visit that a request counts for.
func (s *stats) begin() (n int, phase string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = len(s.visits) - 1
	s.visits[n].Requests++
	return n, s.visits[n].Phase
}

func (s *stats) done(n int, o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.visits[n]
	v.Max = max(v.Max, o.latency)
	if o.err == nil {
		v.hist.add(o.latency)
	}
	text := o.wrong
	switch {
	case o.err != nil:
		v.Failures++
		text = o.err.Error()
	case o.wrong != "":
		v.Wrong++
	case o.write:
		v.Acked++
		v.AckedRows += o.rows
	}
	if text != "" && len(s.problems) < 20 {
		s.problems = append(s.problems, Problem{Time: o.at, Phase: v.Phase, Op: o.op, Text: text})
	}
	if o.err == nil && !s.success.IsZero() {
		now := s.visits[len(s.visits)-1]
		now.LongestPause = max(now.LongestPause, o.at.Sub(s.success))
		s.success = o.at
	}
}

func (s *stats) pause() {
	s.mu.Lock()
	s.success = time.Time{}
	s.mu.Unlock()
}

func (s *stats) resume(now time.Time) {
	s.mu.Lock()
	s.success = now
	s.mu.Unlock()
}

func (s *stats) snapshot(now time.Time) Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Stats{Problems: append([]Problem(nil), s.problems...)}
	var all histogram
	for i, v := range s.visits {
		row := v.Visit
		if i == len(s.visits)-1 && !s.success.IsZero() {
			row.LongestPause = max(row.LongestPause, now.Sub(s.success)) // one that lasts
		}
		row.P50, row.P99 = min(v.hist.quantile(0.50), v.Max), min(v.hist.quantile(0.99), v.Max)
		out.Visits = append(out.Visits, row)
		all.merge(&v.hist)
		t := &out.Total
		t.Requests += row.Requests
		t.Failures += row.Failures
		t.Wrong += row.Wrong
		t.Acked += row.Acked
		t.AckedRows += row.AckedRows
		t.Max = max(t.Max, row.Max)
		t.LongestPause = max(t.LongestPause, row.LongestPause)
	}
	out.Total.Began = out.Visits[0].Began
	out.Total.P50, out.Total.P99 = min(all.quantile(0.50), out.Total.Max), min(all.quantile(0.99), out.Total.Max)
	return out
}

// histogram counts latencies in microseconds: 32 buckets for each power of
// two, so a value read back is at most 1/32 too high. 16 KB, 2^37 us at most.
type histogram struct {
	count [37 * 32]uint64
	total uint64
}

func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < 64 {
		return int(us)
	}
	shift := bits.Len64(us) - 6
	return min(shift*32+int(us>>shift), len(histogram{}.count)-1)
}

// upperBound is the largest latency that bucketOf puts into bucket i.
func upperBound(i int) time.Duration {
	if i < 64 {
		return time.Duration(i) * time.Microsecond
	}
	shift := i/32 - 1
	return time.Duration((uint64(i-shift*32)+1)<<shift-1) * time.Microsecond
}

func (h *histogram) add(d time.Duration) {
	h.count[bucketOf(d)]++
	h.total++
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.count {
		h.count[i] += n
	}
	h.total += o.total
}

// quantile returns 0 for an empty histogram.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.total))
	var seen uint64
	for i, n := range h.count {
		seen += n
		if n > 0 && seen > rank {
			return upperBound(i)
		}
	}
	return 0
}
