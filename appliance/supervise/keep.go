package supervise

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// Helper is a child that nobody misses for a moment, such as an exporter of
// metrics: it is started again whenever it ends, and ends with the agent.
type Helper struct {
	Path string
	Args []string
	// Env is the whole environment.
	Env []string
	// Output gets what it writes.
	Output io.Writer
	// Ended is told how it ended, and when it is started again.
	Ended func(how error, again time.Duration)
}

// Run keeps the child running until ctx ends.
func (h *Helper) Run(ctx context.Context) {
	// The kernel ends the child when the thread that started it does, so that a kill
	// of the agent leaves none.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var backoff Backoff
	for {
		cmd := exec.CommandContext(ctx, h.Path, h.Args...)
		cmd.Env, cmd.Stdout, cmd.Stderr = slices.Clone(h.Env), h.Output, h.Output
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = helperGrace
		started := time.Now()
		err := cmd.Run()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = fmt.Errorf("%s ended", h.Path)
		}
		again := max(backoff.Next(time.Since(started)), BackoffFirst)
		h.Ended(err, again)
		timer := time.NewTimer(again)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// helperGrace is between SIGTERM and SIGKILL.
const helperGrace = 2 * time.Second
