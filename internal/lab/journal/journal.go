package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Kind of a record.
type Kind string

// Write comes before the request is sent, so that a write in flight when the
// application is killed is known. It is followed by Acked or Failed with the
// same ID. Reads are recorded only when they fail or are wrong.
const (
	Run    Kind = "run"    // an application starts: Run is its name, the prefix of its buckets
	Phase  Kind = "phase"  // the requests sent from here on count for this phase
	Write  Kind = "write"  // about to be sent
	Acked  Kind = "acked"  // acknowledged
	Failed Kind = "failed" // answered with an error, or not at all
	Wrong  Kind = "wrong"  // a read was answered with something else than what was acknowledged
	Paused Kind = "paused" // nothing is in flight
	End    Kind = "end"    // the application ended in order
)

// Record is one line of the file.
type Record struct {
	Time  time.Time  `json:"t"`
	Kind  Kind       `json:"kind"`
	Run   string     `json:"run"`
	Phase string     `json:"phase,omitempty"`
	ID    uint64     `json:"id,omitempty"`
	Op    string     `json:"op,omitempty"`
	Rows  []Mutation `json:"rows,omitempty"`
	// Micros is the latency in microseconds.
	Micros int64 `json:"us,omitempty"`
	// Text is the error, or what was wrong.
	Text string `json:"text,omitempty"`
}

// Writer appends records to a file, each with one write call: what Append
// returned for survives a kill of the application (not of the machine).
// It is safe for concurrent use.
type Writer struct {
	mu   sync.Mutex
	f    *os.File
	buf  bytes.Buffer
	fail error // the first error; every later Append returns it
}

// Create opens a journal for appending. A torn last line, left by an
// application that was killed while it wrote, is cut off.
func Create(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	end, err := lastLineEnd(f)
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	return &Writer{f: f}, nil
}

// lastLineEnd returns the offset behind the last newline.
func lastLineEnd(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	chunk := make([]byte, 64<<10)
	for end := info.Size(); end > 0; {
		start := max(0, end-int64(len(chunk)))
		part := chunk[:end-start]
		if _, err := f.ReadAt(part, start); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return start + int64(i) + 1, nil
		}
		end = start
	}
	return 0, nil
}

// Append writes one record.
func (w *Writer) Append(rec Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return w.fail
	}
	w.buf.Reset()
	err := json.NewEncoder(&w.buf).Encode(rec)
	if err == nil {
		_, err = w.f.Write(w.buf.Bytes())
	}
	if err != nil {
		w.fail = fmt.Errorf("append to journal: %w", err)
	}
	return w.fail
}

// Close closes the file; the records are already in it.
func (w *Writer) Close() error { return w.f.Close() }

// Read calls each for every record, in order. A last line without its newline
// is passed over: it was never returned for.
func Read(r io.Reader, each func(Record)) error {
	in := bufio.NewReaderSize(r, 64<<10)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var rec Record
		if err := json.Unmarshal(line, &rec); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		each(rec)
	}
}

// Load replays a file into a model. Writes without an outcome become doubts,
// so it is exact only when the application rests or has ended.
func Load(path string) (*Model, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	m := NewModel()
	if err := Read(f, m.Add); err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	m.settle()
	return m, nil
}
