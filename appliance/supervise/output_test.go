package supervise

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOutputIsTurnedOverWhileTheProcessWrites(t *testing.T) {
	t.Parallel()
	base := filepath.Join(t.TempDir(), "proxy-1")
	f, err := os.OpenFile(base+".log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := strings.Repeat("x", 1023) + "\n"
	for range maxOutput / len(line) {
		if _, err := f.WriteString(line); err != nil {
			t.Fatal(err)
		}
	}
	p := &execProcess{base: base}
	for range 2 { // the second time there is nothing to do
		if err := p.TurnOutput(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteString("after\n"); err != nil {
		t.Fatal(err)
	}
	if got := p.Output(); len(got) != 1 || got[0] != "after" {
		t.Errorf("after the turn: %q", got)
	}
	if info, err := os.Stat(base + ".log.old"); err != nil || info.Size() != maxOutput || info.Mode().Perm() != 0o600 {
		t.Errorf("the old output: %v, %v", info, err)
	}
}
