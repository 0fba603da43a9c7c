// Package faults keeps the last errors that the proxy made itself, and sees to
// it that a node that fails every request does not fill the log.
//
// Floor 2: it knows neither requests nor nodes. A Log may be used from any
// goroutine; it starts none.
package faults

import (
	"slices"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
)

const (
	kept     = 20
	logEvery = time.Second
)

// Log is a short memory of faults. The zero value is empty.
type Log struct {
	mu      sync.Mutex
	ring    []control.Fault
	logged  time.Time
	skipped int
}

// Add keeps a fault, and reports whether it should be logged (one in a second
// is), with how many were not since the last one that was.
func (l *Log) Add(text string) (skipped int, log bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().UTC()
	if len(l.ring) == kept {
		l.ring = slices.Delete(l.ring, 0, 1)
	}
	l.ring = append(l.ring, control.Fault{Time: now, Text: text})
	if now.Sub(l.logged) < logEvery {
		l.skipped++
		return 0, false
	}
	skipped, l.skipped, l.logged = l.skipped, 0, now
	return skipped, true
}

// Last returns the faults that are kept, the oldest first.
func (l *Log) Last() []control.Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.ring)
}
