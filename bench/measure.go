package main

import (
	"fmt"
	"slices"
	"time"
)

// warmUp is how long a load runs before the clock starts: buffers and stacks
// have grown and connections to the nodes are open. It is never longer than what
// is measured.
const warmUp = 500 * time.Millisecond

// cpuPerRequest is in microseconds of the process under test.
func cpuPerRequest(r row, p *process, d time.Duration) (sample, error) {
	w, err := connectLoad(r, p.at)
	if err != nil {
		return sample{}, err
	}
	defer w.loop.close()
	w.burst = r.burst
	w.start(r.inFlight)
	if _, err := w.run(min(warmUp, d)); err != nil {
		return sample{}, err
	}
	reads := w.loop.reads
	before, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	requests, err := w.run(d)
	if err != nil {
		return sample{}, err
	}
	took := time.Since(began)
	after, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	if requests == 0 {
		return sample{}, fmt.Errorf("no request was answered in %v", took)
	}
	return sample{
		Value: float64((after - before).Nanoseconds()) / 1000 / float64(requests),
		Rate:  float64(requests) / took.Seconds(),
		Batch: float64(requests) / float64(w.loop.reads-reads),
	}, w.stop()
}

// cpuPerMegabyte is in microseconds of the process under test for each MB of
// values that clients read or wrote.
func cpuPerMegabyte(r row, p *process, d time.Duration) (sample, error) {
	s, err := cpuPerRequest(r, p, d)
	s.Value /= float64(tables[r.table].value) / (1 << 20)
	return s, err
}

// latency is the median of a lone request, in microseconds.
func latency(r row, p *process, d time.Duration) (sample, error) {
	w, err := connectLoad(r, p.at)
	if err != nil {
		return sample{}, err
	}
	defer w.loop.close()
	w.start(1)
	if _, err := w.run(warmUp / 2); err != nil {
		return sample{}, err
	}
	w.timed = true
	if _, err := w.run(min(d, 2*time.Second)); err != nil {
		return sample{}, err
	}
	if len(w.took) > 0 {
		w.took = w.took[1:] // sent before the clock was on
	}
	return sample{Value: float64(w.median().Nanoseconds()) / 1000}, w.stop()
}

// idleMemory is the growth of the resident set for each of 2,000 clients that
// have logged in and wait, in KB. A hundred come first, so that what is paid
// once does not count.
func idleMemory(r row, p *process, _ time.Duration) (sample, error) {
	var open []*caller
	defer func() {
		for _, c := range open {
			c.close()
		}
	}()
	connect := func(n int) (int64, error) {
		for range n {
			c, err := dialClient(p.at, r.speech)
			if err != nil {
				return 0, err
			}
			open = append(open, c)
		}
		return p.settled()
	}
	before, err := connect(100)
	if err != nil {
		return sample{}, err
	}
	after, err := connect(r.clients)
	if err != nil {
		return sample{}, err
	}
	return sample{Value: float64(after-before) / 1024 / float64(r.clients)}, nil
}

// peakMemory is how far the resident set grows in MB beyond that with idle
// clients, while they all read at once.
func peakMemory(r row, p *process, d time.Duration) (sample, error) {
	w, err := connectLoad(r, p.at)
	if err != nil {
		return sample{}, err
	}
	defer w.loop.close()
	before, err := p.settled()
	if err != nil {
		return sample{}, err
	}
	w.start(r.inFlight)
	if _, err := w.run(warmUp + d); err != nil {
		return sample{}, err
	}
	peak, err := p.memory("VmHWM")
	if err != nil {
		return sample{}, err
	}
	return sample{Value: float64(peak-before) / (1 << 20)}, w.stop()
}

// settled is the resident set once it has not changed by more than 64 KB for
// half a second, at most five seconds later.
func (p *process) settled() (int64, error) {
	last, err := p.memory("VmRSS")
	for range 10 {
		if err != nil {
			break
		}
		time.Sleep(500 * time.Millisecond)
		var now int64
		now, err = p.memory("VmRSS")
		if still := max(now-last, last-now) <= 64<<10; still {
			return now, err
		}
		last = now
	}
	return last, err
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	if len(v)%2 == 0 {
		return (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return v[len(v)/2]
}
