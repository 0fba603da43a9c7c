// Package supervise keeps one child process: start, adopt, output, stop,
// back-off. How a process is made is behind Maker; Exec is the maker for labs and
// laptops, and units of systemd can be another.
//
// Floor 1: it knows processes, not what they say: readiness and draining are the
// caller's, over the socket that each process is given by its maker. Goroutines:
// one for each Process, which waits for its end; it ends with the process, or
// with Release.
package supervise

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// A Maker starts processes and finds those that an earlier agent started.
type Maker interface {
	// Start starts a new process of the newest program, which outlives the agent.
	Start() (Process, error)
	// StartProven starts one of the program that was proven last; if none was, of the
	// newest.
	StartProven() (Process, error)
	// Prove has the program of a running process kept, to start it again whatever
	// becomes of the newest. It copies a file.
	Prove(Process) error
	// Running returns the processes of an earlier life that still run, in the
	// order in which they were started. It is called once, before Start.
	Running() ([]Process, error)
}

// Process is one process. Its methods are safe for concurrent use.
type Process interface {
	// Name is unique among the processes of a Maker, and for people.
	Name() string
	PID() int
	// Socket is where its control socket is, or will be.
	Socket() string
	// Done is closed when the process has ended.
	Done() <-chan struct{}
	// Exit says how it ended; "" before Done.
	Exit() string
	Signal(syscall.Signal) error
	// Output returns its last lines of output.
	Output() []string
	// Follow calls line for each line of output, from the last ones there are, until
	// the process has ended and all is read, or ctx ends.
	Follow(ctx context.Context, line func(string))
	// Release stops watching a process that goes on without the agent.
	Release()
}

// Grace bounds the steps of Stop.
type Grace struct {
	// Drain is how long the process may take after it was asked to drain, Term
	// after SIGTERM. Zero skips the step.
	Drain, Term time.Duration
}

// Stop ends a process: drain, SIGTERM, SIGKILL, each after the grace of the one
// before; drain is told its own, so that both sides give up at the same time. It
// returns when the process has ended, or with ctx's error, which leaves it as it is
// then.
func Stop(ctx context.Context, p Process, drain func(ctx context.Context, within time.Duration) error, g Grace) error {
	if drain != nil && g.Drain > 0 {
		if err := drain(ctx, g.Drain); err == nil {
			if ended, err := await(ctx, p, g.Drain); ended || err != nil {
				return err
			}
		} else if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if g.Term > 0 {
		if err := p.Signal(syscall.SIGTERM); err == nil {
			if ended, err := await(ctx, p, g.Term); ended || err != nil {
				return err
			}
		}
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		select {
		case <-p.Done():
			return nil
		default:
			return fmt.Errorf("kill %s (pid %d): %w", p.Name(), p.PID(), err)
		}
	}
	_, err := await(ctx, p, 0)
	return err
}

// await waits for the end; d 0 means without bound.
func await(ctx context.Context, p Process, d time.Duration) (ended bool, err error) {
	var late <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-p.Done():
		return true, nil
	case <-late:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Backoff spaces starts of a process that keeps crashing. The zero value is
// ready: 0, 100 ms, doubling to 5 s. It is used by one goroutine.
type Backoff struct{ next time.Duration }

// The bounds, and how long a process must have run for its crash to count as
// the first.
const (
	BackoffFirst = 100 * time.Millisecond
	BackoffMax   = 5 * time.Second
	Stable       = 30 * time.Second
)

// Next returns how long to wait before the next start, after a process that ran
// for the given time. The first crash of a stable process costs no wait.
func (b *Backoff) Next(ran time.Duration) time.Duration {
	if ran >= Stable {
		b.next = 0
	}
	wait := b.next
	b.next = min(max(2*wait, BackoffFirst), BackoffMax)
	return wait
}

// Reset forgets the crashes.
func (b *Backoff) Reset() { b.next = 0 }
