package tlsconf

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// lookEvery bounds how often files are looked at: a storm of reconnects must not
// become one of system calls, and a second is soon enough for a certificate.
const lookEvery = time.Second

// Reloaded is a value made of files, and made anew when they change. Current may
// be called from any goroutine.
type Reloaded[T any] struct {
	// Set by Load, then read only.
	paths []string
	read  func() (T, error)
	log   *slog.Logger
	every time.Duration

	value  atomic.Pointer[T]
	looked atomic.Int64 // when the files were last looked at, in Unix nanoseconds

	// Guarded by mu, which is held while files are read; who finds it taken uses
	// the value as it is.
	mu        sync.Mutex
	stamp     string // of the files that value was made of
	complaint string // what was last logged; "" after a success
}

// Load makes the value for the first time. read makes it of what is in paths
// now. Empty paths are left out.
func Load[T any](log *slog.Logger, read func() (T, error), paths ...string) (*Reloaded[T], error) {
	r := &Reloaded[T]{read: read, log: log, every: lookEvery}
	for _, p := range paths {
		if p != "" {
			r.paths = append(r.paths, p)
		}
	}
	r.stamp = r.stampNow() // before the read: what changes meanwhile is seen later
	v, err := read()
	if err != nil {
		return nil, err
	}
	r.value.Store(&v)
	r.looked.Store(time.Now().UnixNano())
	return r, nil
}

// Current is the value of the files as they are, or were up to a second ago.
func (r *Reloaded[T]) Current() T {
	if time.Now().UnixNano()-r.looked.Load() >= int64(r.every) && r.mu.TryLock() {
		r.refresh()
		r.mu.Unlock()
	}
	return *r.value.Load()
}

// refresh runs under mu.
func (r *Reloaded[T]) refresh() {
	defer func() { r.looked.Store(time.Now().UnixNano()) }()
	stamp := r.stampNow()
	if stamp == r.stamp {
		return
	}
	v, err := r.read()
	if err != nil {
		// The stamp stays the old one, so that the files are tried again: a pair
		// is replaced one file after the other.
		if text := err.Error(); text != r.complaint {
			r.complaint = text
			r.log.Error("changed TLS files are not used; the ones before stay in use", "cause", err)
		}
		return
	}
	r.value.Store(&v)
	r.stamp, r.complaint = stamp, ""
	r.log.Info("TLS files read again; new connections use them", "files", strings.Join(r.paths, " "))
}

// stampNow tells versions of the files apart. Stat follows links, as they are
// replaced in mounted secrets.
func (r *Reloaded[T]) stampNow() string {
	var b strings.Builder
	for _, p := range r.paths {
		if info, err := os.Stat(p); err != nil {
			fmt.Fprintf(&b, "%v;", err)
		} else {
			fmt.Fprintf(&b, "%d %d %d;", info.ModTime().UnixNano(), info.Size(), inode(info))
		}
	}
	return b.String()
}

func inode(info os.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
