package access

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// freeAttempts may fail in a row before a source has to wait; then it waits
	// firstWait, and twice as long after each that fails.
	freeAttempts = 5
	firstWait    = time.Second
	longestWait  = time.Minute
	// forgotten is when a source that has stopped trying is new again.
	forgotten = 10 * time.Minute
	// maxSources bounds what is remembered.
	maxSources = 4096
)

// throttle slows attempts down by where they come from. The zero value is ready.
type throttle struct {
	mu      sync.Mutex
	sources map[string]*attempts
}

type attempts struct {
	failed      int
	last, until time.Time
}

// sourceOf is what an address counts as: itself, or for IPv6 its network, in
// which a caller may take any address.
func sourceOf(addr string) string {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return "unix socket"
	}
	ip := ap.Addr().Unmap()
	if ip.Is6() {
		if network, err := ip.Prefix(64); err == nil {
			return network.Masked().String()
		}
	}
	return ip.String()
}

// wait is how long a source has to wait before it may try.
func (t *throttle) wait(source string, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.sources[source]; a != nil {
		return a.until.Sub(now)
	}
	return 0
}

func (t *throttle) failed(source string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.sources[source]
	if a == nil || now.Sub(a.last) > forgotten {
		t.room(now)
		a = &attempts{}
		t.sources[source] = a
	}
	a.failed++
	a.last = now
	if over := a.failed - freeAttempts; over >= 0 {
		a.until = now.Add(min(firstWait<<min(over, 10), longestWait))
	}
}

// room makes place for one more source: those that are forgotten go, and if
// there are none, the one that tried least lately.
func (t *throttle) room(now time.Time) {
	if t.sources == nil {
		t.sources = map[string]*attempts{}
	}
	if len(t.sources) < maxSources {
		return
	}
	oldest, when := "", now
	for source, a := range t.sources {
		if now.Sub(a.last) > forgotten {
			delete(t.sources, source)
		} else if !a.last.After(when) {
			oldest, when = source, a.last
		}
	}
	if len(t.sources) >= maxSources {
		delete(t.sources, oldest)
	}
}

func (t *throttle) forget(source string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sources, source)
}
