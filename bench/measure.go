package main

import (
	"fmt"
	"slices"
	"time"
)

// row is one line of the table: a shape of load, or one of two other figures.
type row struct {
	Name     string // for -rows
	Title    string
	Unit     string
	clients  int
	inFlight int
	simple   bool
	burst    int64
	AtMost   float64 // for zdm-proxy, design section 8; 0: none
	// Relay is the dual relay's figure there. The design's load came in smaller
	// batches on another machine, so AtMost / Relay is the bound that carries over.
	Relay   float64
	measure func(row, *process, time.Duration) (sample, error)
}

// sample is one measurement.
type sample struct {
	Value float64
	// Rate is requests a second, Batch how many answers the load found in one
	// read: a busy machine makes both processes and batches wait, and a large
	// batch makes every subject cheap.
	Rate, Batch float64
}

// rows are the table of design section 8, as far as it concerns protocol v4,
// and the latency of a lone request.
var rows = []row{
	{Name: "16x16", Title: "16 x 16", Unit: "us", clients: 16, inFlight: 16, AtMost: 3, Relay: 2.35, measure: cpuPerRequest},
	{Name: "16x16-query", Title: "16 x 16, simple QUERY", Unit: "us", clients: 16, inFlight: 16, simple: true, AtMost: 5, measure: cpuPerRequest},
	{Name: "512x16", Title: "512 x 16", Unit: "us", clients: 512, inFlight: 16, AtMost: 4, Relay: 3.2, measure: cpuPerRequest},
	{Name: "512x1", Title: "512 x 1", Unit: "us", clients: 512, inFlight: 1, AtMost: 32, Relay: 32, measure: cpuPerRequest},
	{Name: "idle", Title: "idle memory per client", Unit: "KB", clients: 2000, AtMost: 8, Relay: 31, measure: idleMemory},
	{Name: "latency", Title: "latency at 1 x 1, p50", Unit: "us", clients: 1, inFlight: 1, measure: latency},
}

// warmUp is how long a load runs before the clock starts: buffers and stacks
// have grown and connections to the nodes are open.
const warmUp = 500 * time.Millisecond

// cpuPerRequest is in microseconds of the process under test.
func cpuPerRequest(r row, p *process, d time.Duration) (sample, error) {
	w, err := connectLoad(p.at, r.clients, r.simple)
	if err != nil {
		return sample{}, err
	}
	defer w.loop.close()
	w.burst = r.burst
	w.start(r.inFlight)
	if _, err := w.run(warmUp); err != nil {
		return sample{}, err
	}
	reads := w.loop.reads
	before, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	requests, err := w.run(d)
	if err != nil {
		return sample{}, err
	}
	after, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	if requests == 0 {
		return sample{}, fmt.Errorf("no request was answered in %v", d)
	}
	return sample{
		Value: float64((after - before).Nanoseconds()) / 1000 / float64(requests),
		Rate:  float64(requests) / d.Seconds(),
		Batch: float64(requests) / float64(w.loop.reads-reads),
	}, w.stop()
}

// latency is the median of a lone request, in microseconds.
func latency(r row, p *process, d time.Duration) (sample, error) {
	w, err := connectLoad(p.at, 1, false)
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
	var open []clientFD
	defer func() {
		for _, c := range open {
			c.close()
		}
	}()
	connect := func(n int) (int64, error) {
		for range n {
			c, err := dialClient(p.at)
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

// settled is the resident set once it has not changed by more than 64 KB for
// half a second, at most five seconds later.
func (p *process) settled() (int64, error) {
	last, err := p.resident()
	for range 10 {
		if err != nil {
			break
		}
		time.Sleep(500 * time.Millisecond)
		var now int64
		now, err = p.resident()
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
