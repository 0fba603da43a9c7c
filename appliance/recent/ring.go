package recent

import "sync"

// ring is the last entries of one kind.
type ring[T any] struct {
	size  int
	seqOf func(T) uint64

	// Guarded by mu.
	mu      sync.Mutex
	entries []T // at most size, oldest first
	next    uint64
	changed chan struct{} // closed by the next add; nil if nobody waits
}

// add gives the next number to the entry that make makes.
func (r *ring[T]) add(make func(seq uint64) T) T {
	r.mu.Lock()
	defer r.mu.Unlock()
	entry := make(r.next)
	r.next++
	if len(r.entries) == r.size {
		copy(r.entries, r.entries[1:])
		r.entries[len(r.entries)-1] = entry
	} else {
		r.entries = append(r.entries, entry)
	}
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
	return entry
}

// after returns what is kept with a higher number than seq, the number of the
// oldest that is kept, and a channel that is closed when there is more.
func (r *ring[T]) after(seq uint64) (entries []T, oldest uint64, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest = r.next
	if len(r.entries) > 0 {
		oldest = r.seqOf(r.entries[0])
	}
	entries = []T{}
	for i, e := range r.entries {
		if r.seqOf(e) > seq {
			entries = append(entries, r.entries[i:]...)
			break
		}
	}
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return entries, oldest, r.changed
}
