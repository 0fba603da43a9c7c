package lab

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// nodeMemory is what a node may come to use.
const nodeMemory = 900 << 20

// reportInterval is how often a wait tells that it still waits.
const reportInterval = 5 * time.Second

// progress writes plain lines with the seconds since it began.
type progress struct {
	begin time.Time
	// mu serializes the lines of concurrent waits.
	mu sync.Mutex
	w  io.Writer
}

func newProgress(w io.Writer) *progress {
	if w == nil {
		w = io.Discard
	}
	return &progress{begin: time.Now(), w: w}
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.w, "%4.0fs  %s\n", time.Since(p.begin).Seconds(), fmt.Sprintf(format, args...))
}

// warnMemory tells when the nodes to be started may not fit. It does not
// refuse: most never use all of it.
func (p *progress) warnMemory(l *Lab) {
	var need int64
	for _, c := range l.Clusters() {
		for _, n := range c.Nodes {
			if n.PID() == 0 {
				need += nodeMemory
			}
		}
	}
	if free := availableMemory(); free > 0 && need > free {
		p.say("warning: the nodes may use %d MB together, and only %d MB are free", need>>20, free>>20)
	}
}

// availableMemory is what the kernel could hand out without swapping, or 0.
func availableMemory() int64 {
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}

// waiting is a set of names that are waited for. Its goroutine reports them at
// intervals until end, which waits for it.
type waiting struct {
	p    *progress
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	mu    sync.Mutex
	names []string
}

func (p *progress) wait() *waiting {
	w := &waiting{p: p, stop: make(chan struct{})}
	w.wg.Go(func() {
		tick := time.NewTicker(reportInterval)
		defer tick.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-tick.C:
			}
			w.mu.Lock()
			names := strings.Join(w.names, ", ")
			w.mu.Unlock()
			if names != "" {
				p.say("waiting for %s", names)
			}
		}
	})
	return w
}

func (w *waiting) add(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names = append(w.names, name)
	slices.Sort(w.names)
}

func (w *waiting) done(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names = slices.DeleteFunc(w.names, func(n string) bool { return n == name })
}

func (w *waiting) end() {
	w.once.Do(func() { close(w.stop) })
	w.wg.Wait()
}
