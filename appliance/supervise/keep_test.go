package supervise

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHelperIsStartedAgainAndEndsWithTheAgent(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	read, write := io.Pipe()
	ends := 0
	h := Helper{
		// The first two end at once.
		Path: "/bin/sh", Args: []string{"-c", `echo $$ >> ` + pids + `; [ $(wc -l < ` + pids + `) -gt 2 ] || exit 7; echo up; exec sleep 1000`},
		Env: []string{"PATH=/usr/bin:/bin"}, Output: write,
		Ended: func(how error, again time.Duration) {
			ends++
			if !strings.Contains(how.Error(), "7") || again < BackoffFirst {
				t.Errorf("ended with %v, started again in %s", how, again)
			}
		},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Run(ctx)
	}()
	if _, err := io.ReadFull(read, make([]byte, len("up\n"))); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	if ends != 2 {
		t.Errorf("it ended %d times, want 2", ends)
	}
	b, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b))
	if _, err := os.Stat("/proc/" + fields[len(fields)-1]); err == nil {
		t.Error("the child is still there")
	}
}
