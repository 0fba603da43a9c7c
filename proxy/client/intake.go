package client

import (
	"sync/atomic"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/proxy/upstream"
)

// intake watches a client's bytes come in. A frame reader that waits for a new
// frame reads its source lazily, and one that has begun a frame does not: so what
// is read otherwise belongs to a frame (or segment) that is incomplete.
type intake struct {
	conn *Conn
	// since is the Nanotime when the frame that is incomplete began, and later by
	// the time in which the client was not read; 0: none is, or it is not read.
	since atomic.Int64
	large int64 // bytes read of it, as far as the account knows; owned by the serve goroutine
}

// source is a frame.Source and frame.LazySource.
type source interface {
	frame.Source
	frame.LazySource
}

// watched is a source under an intake.
type watched struct {
	source
	*intake
}

func (w watched) Read(p []byte) (int, error) {
	if w.since.Load() == 0 {
		w.since.Store(upstream.Nanotime())
	}
	// What comes after a first buffer's worth is memory that only this client uses.
	large := len(p) > budgetSlack
	if large && w.conn.account.budget.over() {
		w.awaitRoom()
	}
	n, err := w.source.Read(p)
	if large {
		w.large += int64(n)
		w.conn.account.add(int64(n))
	}
	return n, err
}

// awaitRoom leaves the client unread while there is no room. That time is not the
// client's.
func (in *intake) awaitRoom() {
	begun := in.since.Swap(0)
	from := upstream.Nanotime()
	in.conn.owner.AwaitRoom(in.conn.account.budget.over)
	in.since.Store(begun + upstream.Nanotime() - from)
}

// overdue reports whether a frame has been incomplete for longer than limit.
func (in *intake) overdue(now, limit int64) bool {
	since := in.since.Load()
	return since != 0 && now-since > limit
}

// whole notes that the frame is complete.
func (in *intake) whole() {
	if in.since.Load() != 0 {
		in.since.Store(0)
	}
}

// forget notes that the frame is not held any more.
func (in *intake) forget() {
	if in.large > 0 {
		in.conn.account.add(-in.large)
		in.large = 0
	}
}
