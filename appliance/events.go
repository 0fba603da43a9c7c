package appliance

import (
	"fmt"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

// Kinds of events.
const (
	kindConfig  = "config"
	kindPhase   = "phase"
	kindProcess = "process"
	kindAuth    = "auth"
	kindError   = "error"
)

const (
	// ringSize bounds the events that are kept.
	ringSize = 512
	// statusErrors is how many of the last errors a status shows.
	statusErrors = 10
	// sequenceStep is how many numbers are stored as given out at once, so that
	// an event costs no write.
	sequenceStep = 4096
)

// ring is the last events. Safe for concurrent use.
type ring struct {
	now func() time.Time

	// Guarded by mu.
	mu     sync.Mutex
	events []adminapi.Event // at most ringSize, oldest first
	next   uint64
}

func (r *ring) add(kind, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) == ringSize {
		r.events = append(r.events[:0:0], r.events[1:]...)
	}
	r.events = append(r.events, adminapi.Event{Seq: r.next, Time: r.now().UTC(), Kind: kind, Text: fmt.Sprintf(format, args...)})
	r.next++
}

// sequence is the number of the next event.
func (r *ring) sequence() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next
}

func (r *ring) after(seq uint64) adminapi.Events {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := adminapi.Events{Oldest: r.next, Events: []adminapi.Event{}}
	if len(r.events) > 0 {
		out.Oldest = r.events[0].Seq
	}
	for _, e := range r.events {
		if e.Seq > seq {
			out.Events = append(out.Events, e)
		}
	}
	return out
}

func (r *ring) errors() []adminapi.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []adminapi.Event
	for _, e := range r.events {
		if e.Kind == kindError {
			out = append(out, e)
		}
	}
	return out[max(0, len(out)-statusErrors):]
}
