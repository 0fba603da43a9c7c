package supervise

import (
	"os"
	"path/filepath"
	"slices"
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

func TestOutputIsFollowedOverItsTurning(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "x.log")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []string
	tl := tail{f: f, line: func(l string) { lines = append(lines, l) }}
	write := func(text string) {
		t.Helper()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		tl.read()
	}
	write("one\ntw")
	write("o\nthree\n")
	if err := f.Truncate(0); err != nil { // as when the output is turned over
		t.Fatal(err)
	}
	write("")
	write("four\n")
	write(strings.Repeat("x", followBytes) + "\nfive\n") // more than is kept of one time
	write("six\n")
	want := []string{"one", "two", "three", "four", "[6 bytes of output were not kept]", "five", "six"}
	if !slices.Equal(lines, want) {
		t.Errorf("got %.60q, want %q", lines, want)
	}
}

func TestProgramIsKeptAsItIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program, kept := filepath.Join(dir, "program"), filepath.Join(dir, "kept")
	for _, text := range []string{strings.Repeat("a", 200_000), strings.Repeat("a", 199_999) + "b", "short"} {
		if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := keepProgram(program, kept); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(kept)
		if err != nil || string(got) != text {
			t.Errorf("kept %d bytes of %d, %v", len(got), len(text), err)
		}
		before, err := os.Stat(kept)
		if err != nil || before.Mode().Perm() != 0o700 {
			t.Fatal(before, err)
		}
		if err := keepProgram(program, kept); err != nil {
			t.Fatal(err)
		}
		if after, err := os.Stat(kept); err != nil || !os.SameFile(before, after) {
			t.Errorf("what is there already was written again, %v", err)
		}
	}
}
