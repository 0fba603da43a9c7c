package appliance_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

func TestProgramThatCannotServeIsNotTakenAndNotStartedAfterACrash(t *testing.T) {
	t.Parallel()
	in := serving(t)
	old := in.connect()
	pid := in.status().Proxy.PID
	in.await("the program is kept", func(*adminapi.Status) bool {
		_, err := os.Stat(filepath.Join(in.run(), "proven"))
		return err == nil
	})
	in.install("echo this version does not start here; exit 1")
	_, err := in.c.Restart(t.Context(), "upgrade")
	if p := wantProblem(t, err, "apply-failed", 502); !strings.Contains(p.Detail, "this version does not start here") || !strings.Contains(p.Detail, "runs on") {
		t.Errorf("the problem does not say why, and what runs: %s", p.Detail)
	}
	if got, want := old.ask(t), "1 dual_write 1"; got != want || in.status().Proxy.PID != pid {
		t.Errorf("a client is told %q, want %q by the same process", got, want)
	}
	// The bad one is still at the path. A crash must not bring it up.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	st := in.await("serving again", func(st *adminapi.Status) bool { return st.Ready && st.Proxy.PID != pid })
	if st.Restarts != 1 {
		t.Errorf("%d processes have crashed, want the one", st.Restarts)
	}
	if got, want := in.connect().ask(t), "1 dual_write 1"; got != want {
		t.Errorf("a client is told %q, want %q", got, want)
	}
	// A good one is taken by the next restart.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in.install("echo the new version >&2; exec " + self + ` "$@"`)
	if st, err := in.c.Restart(t.Context(), "upgrade"); err != nil || !st.Ready {
		t.Errorf("with a good program: %+v, %v", st, err)
	}
}
