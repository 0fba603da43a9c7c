package client

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	// budgetSlack is how far one client's account may be from what the budget
	// knows of it, so that small requests do not all touch one number.
	budgetSlack = 64 << 10
	// budgetShare of the machine's memory is the default: the garbage collector
	// lets the heap grow to twice what lives, and buffers grow ahead of need.
	budgetShare = 4
	// budgetUnknown is the default where the machine's memory is not known.
	budgetUnknown = 1 << 30
	// roomEvery is how often a client that is not read looks for room again.
	roomEvery = 20 * time.Millisecond
)

// Budget is the memory that requests and answers on their way may take, of all
// clients together.
type Budget struct {
	limit int64
	used  atomic.Int64
	// towards are the bytes that wait for nodes; see upstream.Pools.Output.
	towards [2]func() int64
}

// NewBudget makes a budget of limit bytes; 0 is a quarter of the memory that this
// process may use. towards tell what waits for the nodes of each side.
func NewBudget(limit int64, towards [2]func() int64) *Budget {
	if limit == 0 {
		limit = budgetUnknown
		if n := machineMemory(os.ReadFile); n > 0 {
			limit = n / budgetShare
		}
	}
	return &Budget{limit: limit, towards: towards}
}

// Used is how much is taken.
func (b *Budget) Used() int64 {
	n := b.used.Load()
	for _, f := range b.towards {
		n += f()
	}
	return n
}

// Limit is how much may be.
func (b *Budget) Limit() int64 { return b.limit }

func (b *Budget) over() bool { return b.Used() > b.limit }

// machineMemory is what the container or else the machine has, 0 if that cannot
// be read.
func machineMemory(read func(string) ([]byte, error)) int64 {
	var least int64
	note := func(n int64) {
		if n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	// Version 2 of cgroups says "max" for no limit, version 1 a number above any
	// machine's.
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if text, err := read(path); err == nil {
			n, _ := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
			note(n)
		}
	}
	if text, err := read("/proc/meminfo"); err == nil {
		// MemTotal:       24689764 kB
		for line := range bytes.Lines(text) {
			if rest, ok := bytes.CutPrefix(line, []byte("MemTotal:")); ok {
				n, _ := strconv.ParseInt(string(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte(" kB"))), 10, 64)
				note(n << 10)
			}
		}
	}
	return least
}

// account is what one client has taken of the budget.
type account struct {
	budget *Budget
	held   atomic.Int64 // bytes of requests that are not answered, with their copies
	told   atomic.Int64 // what of held the budget knows
	unread atomic.Int64 // bytes that wait for the client, if they are many
	ended  atomic.Bool  // the budget is to know all of it
}

// add changes what the client's requests hold.
func (a *account) add(n int64) {
	a.held.Add(n)
	slack := int64(budgetSlack)
	if a.ended.Load() {
		slack = 0
	}
	for {
		told := a.told.Load()
		d := a.held.Load() - told
		if -slack <= d && d <= slack {
			return
		}
		if a.told.CompareAndSwap(told, told+d) {
			a.budget.used.Add(d)
			return
		}
	}
}

// setUnread tells how many bytes wait for the client.
func (a *account) setUnread(n int64) {
	if n < budgetSlack {
		n = 0
	}
	a.budget.used.Add(n - a.unread.Swap(n))
}

// end is for a session that has ended: what its requests in flight hold is given
// back as they end.
func (a *account) end() {
	a.setUnread(0)
	a.ended.Store(true)
	a.add(0)
}

// full reports whether the client has to wait before it may send more: it holds
// more than one client may, or holds anything while all of them hold too much.
// A client that holds nothing goes on, or a few would keep all others waiting.
func (a *account) full(limit int64) bool {
	held := a.held.Load() + a.unread.Load()
	return held > limit || held > 0 && a.budget.over()
}

// Await returns when wait is false, or when ctx has ended.
func Await(ctx context.Context, wait func() bool) {
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	for wait() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
