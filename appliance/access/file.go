package access

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// File is rules in a file that may be replaced while it is in use.
type File struct {
	path   string
	report func(error)

	// Guarded by mu.
	mu    sync.Mutex
	rules *Rules
	state fileState
}

// fileState is by what a change of a file is seen.
type fileState struct {
	modified time.Time
	size     int64
}

// OpenFile reads the file once now, so that a bad one is told at once. Later, a
// file that has become bad is reported, and the last good rules go on.
func OpenFile(path string, report func(error)) (*File, error) {
	f := &File{path: path, report: report}
	if err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

// Rules are those of the file as it is now. They are the last good ones if it has
// become bad.
func (f *File) Rules() *Rules {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.read(); err != nil {
		f.report(fmt.Errorf("%w; the rules that were read before are in force", err))
	}
	return f.rules
}

// read takes a file that has changed. A bad one is an error once.
func (f *File) read() error {
	info, err := os.Stat(f.path)
	if err != nil {
		if f.rules != nil && f.state == (fileState{}) {
			return nil // told already
		}
		f.state = fileState{}
		return fmt.Errorf("access file: %w; give a readable one with -access-file", err)
	}
	state := fileState{info.ModTime(), info.Size()}
	if state == f.state {
		return nil
	}
	f.state = state
	text, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("access file: %w; give a readable one with -access-file", err)
	}
	rules, err := Parse(text)
	if err != nil {
		return fmt.Errorf("access file %s: %w", f.path, err)
	}
	f.rules = rules
	return nil
}
