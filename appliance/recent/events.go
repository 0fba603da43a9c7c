package recent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

const (
	// eventsKept bounds the events.
	eventsKept = 512
	// maxEvent bounds the text of one, in bytes.
	maxEvent = 4 << 10
)

// Events is the ring of events.
type Events struct {
	ring ring[adminapi.Event]
	now  func() time.Time
	path string // "" for events that are in memory only

	// Guarded by mu, which is locked before the ring's and held while the file is
	// written, so that the file has the order of the numbers.
	mu      sync.Mutex
	file    *os.File
	written int   // lines in file
	failed  error // why the file is not written any more
}

// NewEvents is a ring that ends with the process.
func NewEvents(now func() time.Time) *Events {
	return &Events{now: now, ring: ring[adminapi.Event]{size: eventsKept, seqOf: func(e adminapi.Event) uint64 { return e.Seq }, next: 1}}
}

// OpenEvents is a ring whose events are in a file, one JSON document to a line.
// An event is written when it happens and not synced: it survives a kill of the
// agent, and the last ones may be lost when the power is cut. Lines that are
// damaged are passed over.
func OpenEvents(path string, now func() time.Time) (*Events, error) {
	e := NewEvents(now)
	e.path = path
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read events: %w", err)
	}
	for line := range bytes.Lines(b) {
		var event adminapi.Event
		if json.Unmarshal(line, &event) != nil || event.Seq < e.ring.next {
			continue
		}
		e.ring.next = event.Seq
		e.ring.add(func(uint64) adminapi.Event { return event })
	}
	// Written anew, so that a line that was cut is not the beginning of the next.
	if err := e.rewrite(); err != nil {
		return nil, fmt.Errorf("open events: %w", err)
	}
	return e, nil
}

// rewrite makes the file what the ring is, and opens it for more. The ring's
// entries are read without its lock: only who holds mu changes them.
func (e *Events) rewrite() error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, event := range e.ring.entries {
		if err := enc.Encode(event); err != nil {
			return err
		}
	}
	if err := renameio.WriteFile(e.path, b.Bytes(), 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(e.path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if e.file != nil {
		e.file.Close()
	}
	e.file, e.written = f, len(e.ring.entries)
	return nil
}

// Reserve sees to it that the next event has at least this number.
func (e *Events) Reserve(seq uint64) {
	e.ring.mu.Lock()
	defer e.ring.mu.Unlock()
	e.ring.next = max(e.ring.next, seq)
}

// Next is the number that the next event will have.
func (e *Events) Next() uint64 {
	e.ring.mu.Lock()
	defer e.ring.mu.Unlock()
	return e.ring.next
}

// Add tells that something has happened. It returns an error once when the file
// cannot be written any more; from then on events are kept in memory, until
// that goes well again.
func (e *Events) Add(kind adminapi.EventKind, text string) error {
	if len(text) > maxEvent {
		text = strings.ToValidUTF8(text[:maxEvent], "") + "..."
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	event := e.ring.add(func(seq uint64) adminapi.Event {
		return adminapi.Event{Seq: seq, Time: e.now().UTC(), Kind: kind, Text: text}
	})
	if e.path == "" {
		return nil
	}
	err := e.append(event)
	before := e.failed
	e.failed = err
	if err != nil && before == nil {
		return fmt.Errorf("keep events in %s: %w", e.path, err)
	}
	return nil
}

// append runs under mu.
func (e *Events) append(event adminapi.Event) error {
	if e.failed != nil || e.written >= 2*eventsKept {
		return e.rewrite()
	}
	line, err := json.Marshal(event)
	if err != nil {
		return err
	}
	e.written++
	_, err = e.file.Write(append(line, '\n'))
	return err
}

// After returns the events with a higher number than seq, and a channel that is
// closed when there are more.
func (e *Events) After(seq uint64) (adminapi.Events, <-chan struct{}) {
	events, oldest, more := e.ring.after(seq)
	return adminapi.Events{Oldest: oldest, Events: events}, more
}

// Errors returns the last n errors.
func (e *Events) Errors(n int) []adminapi.Event {
	all, _, _ := e.ring.after(0)
	var out []adminapi.Event
	for _, event := range all {
		if event.Kind == adminapi.EventError {
			out = append(out, event)
		}
	}
	return out[max(0, len(out)-n):]
}

// Close closes the file.
func (e *Events) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.file != nil {
		e.file.Close()
	}
}
