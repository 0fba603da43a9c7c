package recent

import (
	"bytes"
	"strings"
	"sync"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

const (
	// linesKept and maxLine bound the lines that are kept to 8 MiB.
	linesKept = 2000
	maxLine   = 4 << 10
)

// Logs is the ring of lines of output.
type Logs struct {
	ring ring[adminapi.LogLine]
	now  func() time.Time
}

// NewLogs is an empty ring.
func NewLogs(now func() time.Time) *Logs {
	return &Logs{now: now, ring: ring[adminapi.LogLine]{size: linesKept, seqOf: func(l adminapi.LogLine) uint64 { return l.Seq }, next: 1}}
}

// Add keeps one line of a source.
func (l *Logs) Add(source, text string) {
	if len(text) > maxLine {
		text = text[:maxLine] + "..."
	}
	text = strings.ToValidUTF8(text, "?")
	l.ring.add(func(seq uint64) adminapi.LogLine {
		return adminapi.LogLine{Seq: seq, Time: l.now().UTC(), Source: source, Text: text}
	})
}

// After returns the lines with a higher number than seq, and a channel that is
// closed when there are more.
func (l *Logs) After(seq uint64) (adminapi.Logs, <-chan struct{}) {
	lines, oldest, more := l.ring.after(seq)
	return adminapi.Logs{Oldest: oldest, Lines: lines}, more
}

// Writer keeps what is written to it as lines of a source.
func (l *Logs) Writer(source string) *Writer { return &Writer{logs: l, source: source} }

// Writer cuts text into lines. Safe for concurrent use.
type Writer struct {
	logs   *Logs
	source string

	mu      sync.Mutex
	partial []byte
}

// Write never fails.
func (w *Writer) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(b)
	for {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if len(w.partial) <= maxLine { // what is longer is cut anyway
			w.partial = append(w.partial, line...)
		}
		if !whole {
			return n, nil
		}
		w.logs.Add(w.source, string(w.partial))
		w.partial, b = w.partial[:0], rest
	}
}
