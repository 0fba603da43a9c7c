package demo

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
)

// How often the view changes: on a terminal, and as plain lines.
const (
	liveInterval  = 500 * time.Millisecond
	plainInterval = 2 * time.Second
)

// statusTimeout bounds one look at an agent.
const statusTimeout = time.Second

// instance is one appliance as the view sees it.
type instance struct {
	name, address string
	status        func(context.Context) (*adminapi.Status, error)
}

func instances(l *lab.Lab) ([]instance, error) {
	var out []instance
	for _, a := range l.Appliances {
		status, err := statusOf(a)
		if err != nil {
			return nil, err
		}
		out = append(out, instance{name: a.Name, address: a.ListenAddress, status: status})
	}
	return out, nil
}

// look is one answer of an agent, or why there was none.
type look struct {
	status *adminapi.Status
	err    error
}

// lookAt asks all agents at the same time.
func lookAt(ctx context.Context, all []instance) []look {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	out := make([]look, len(all))
	var wait sync.WaitGroup
	for i, in := range all {
		wait.Go(func() { out[i].status, out[i].err = in.status(ctx) })
	}
	wait.Wait()
	return out
}

const noAnswer = "no answer"

// phaseText is the phase, or what is in its place.
func (l look) phaseText() string {
	switch {
	case l.err != nil:
		return noAnswer
	case l.status.State != adminapi.Serving:
		return string(l.status.State)
	}
	return l.status.Phase.Phase.String()
}

// view shows the load and the instances until its context ends.
type view struct {
	screen    *screen
	app       *load.Load
	meter     *load.Meter
	instances []instance
	begin     time.Time

	mu     sync.Mutex
	doing  string
	since  time.Time
	before int // requests at the last look
	at     time.Time
}

// now tells what is being done.
func (v *view) now(doing string) {
	v.mu.Lock()
	v.doing, v.since = doing, time.Now()
	v.mu.Unlock()
}

func (v *view) serve(ctx context.Context) {
	interval := plainInterval
	if v.screen.live {
		interval = liveInterval
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	defer v.screen.draw()
	v.at = time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			looks := lookAt(ctx, v.instances)
			if ctx.Err() != nil {
				return
			}
			if v.screen.live {
				v.screen.draw(v.block(looks)...)
			} else {
				v.screen.say("%s", v.line(looks))
			}
		}
	}
}

// rates returns what happened since the last call.
func (v *view) rates() (perSecond func(n int) int, windows map[string]load.Window, s load.Stats, delta int) {
	now := time.Now()
	elapsed := now.Sub(v.at)
	v.at = now
	s = v.app.Stats()
	delta = s.Total.Requests - v.before
	v.before = s.Total.Requests
	perSecond = func(n int) int { return int(float64(n)/elapsed.Seconds() + 0.5) }
	return perSecond, v.meter.Take(), s, delta
}

func (v *view) block(looks []look) []string {
	perSecond, windows, s, delta := v.rates()
	v.mu.Lock()
	defer v.mu.Unlock()
	lines := []string{
		"",
		fmt.Sprintf("  %s  (%s)", v.doing, time.Since(v.since).Round(100*time.Millisecond)),
		fmt.Sprintf("  %-10s %-12s %9s %7s %9s %9s %8s", "instance", "phase", "rate", "failed", "p50", "p99", "clients"),
	}
	for i, in := range v.instances {
		w := windows[in.address]
		clients := "-"
		if st := looks[i].status; st != nil && st.Proxy != nil {
			clients = fmt.Sprint(st.Proxy.Clients)
		}
		lines = append(lines, fmt.Sprintf("  %-10s %-12s %7d/s %7d %9v %9v %8s", in.name, looks[i].phaseText(),
			perSecond(w.Requests), w.Failures, Round(w.P50), Round(w.P99), clients))
	}
	t := s.Total
	return append(lines, fmt.Sprintf("  application %d/s; so far %d requests, %d failed, %d wrong reads, longest pause %v",
		perSecond(delta), t.Requests, t.Failures, t.Wrong, Round(t.LongestPause)))
}

func (v *view) line(looks []look) string {
	perSecond, windows, s, delta := v.rates()
	var b strings.Builder
	fmt.Fprintf(&b, "%5.0fs  %4d/s  %d requests, %d failed, %d wrong", time.Since(v.begin).Seconds(),
		perSecond(delta), s.Total.Requests, s.Total.Failures, s.Total.Wrong)
	for i, in := range v.instances {
		w := windows[in.address]
		fmt.Fprintf(&b, " | %s %s %d/s p99 %v", in.name, looks[i].phaseText(), perSecond(w.Requests), Round(w.P99))
		if w.Failures > 0 {
			fmt.Fprintf(&b, " %d failed", w.Failures)
		}
	}
	return b.String()
}
