package store_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const childVariable = "STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		os.Exit(saveForever(dir))
	}
	os.Exit(m.Run())
}

// document n says n in each field, so that a mixed one shows.
func document(n uint64) *store.Document {
	text := fmt.Sprint(n)
	return &store.Document{
		Generation: n, ClusterID: "c" + text, Instance: "i" + text,
		Settings: map[string]string{"origin_port": text, "padding": strings.Repeat(text, 200)},
		Secrets:  map[string]secret.String{"origin_password": secret.New("s" + text)},
	}
}

func recordOf(before store.Record, n uint64) store.Record {
	before.LastGeneration, before.EventSequence = n, n
	before.Committed, before.Wanted = document(n), document(n+1)
	before.Phase = store.Phase{Phase: phase.All[n%5], Previous: phase.All[(n+1)%5], Epoch: n, Since: time.Unix(int64(n), 0).UTC(), Token: fmt.Sprint(n),
		Prepared: &store.Prepared{Phase: phase.CutOver, Token: "t", Expires: time.Unix(9, 0).UTC()}}
	return before
}

// number returns n of a record that recordOf made, and fails if it is mixed.
func number(t *testing.T, r store.Record) uint64 {
	t.Helper()
	if r.LastGeneration == 0 {
		return 0
	}
	if diff := cmp.Diff(recordOf(store.Record{Salt: r.Salt}, r.LastGeneration), r, cmp.Comparer(secret.String.Equal)); diff != "" {
		t.Fatalf("a mixed record (-want +got):\n%s", diff)
	}
	return r.LastGeneration
}

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestRecordSurvivesReopening(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	salt := s.Record().Salt
	if salt == "" {
		t.Fatal("a new store has no salt")
	}
	for n := range uint64(40) {
		if err := s.Save(recordOf(s.Record(), n+1)); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	s = open(t, dir)
	if got := number(t, s.Record()); got != 40 || s.Record().Salt != salt || len(s.Reports()) != 0 {
		t.Errorf("reopened: record %d, salt kept %t, reports %q", got, s.Record().Salt == salt, s.Reports())
	}
	names, _ := os.ReadDir(filepath.Join(dir, "records"))
	if len(names) != store.Keep {
		t.Errorf("%d records are kept, want %d", len(names), store.Keep)
	}
	for _, e := range names {
		if info, _ := e.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", e.Name(), info.Mode().Perm())
		}
	}
}

func TestFolderIsForOneAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir)
	if _, err := store.Open(dir); err == nil || !strings.Contains(err.Error(), "in use by another agent") {
		t.Errorf("a second Open: %v", err)
	}
}

func TestDamagedNewestRecordIsPassedOverAndReported(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		damage func([]byte) []byte
	}{
		{"empty", func([]byte) []byte { return nil }},
		{"half", func(b []byte) []byte { return b[:len(b)/2] }},
		{"a bit", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		{"header", func(b []byte) []byte { b[3] ^= 1; return b }},
		{"longer", func(b []byte) []byte { return append(b, "{}"...) }},
		{"newer format", func(b []byte) []byte {
			return bytes.Replace(b, []byte("record 1 "), []byte("record 2 "), 1)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := open(t, dir)
			for n := range uint64(3) {
				if err := s.Save(recordOf(s.Record(), n+1)); err != nil {
					t.Fatal(err)
				}
			}
			s.Close()
			name := filepath.Join(dir, "records", "record-000000000003")
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, test.damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir)
			if got := number(t, s.Record()); got != 2 || len(s.Reports()) != 1 || !strings.Contains(s.Reports()[0], "record-000000000003") {
				t.Fatalf("record %d, reports %q", got, s.Reports())
			}
			if err := s.Save(recordOf(s.Record(), 7)); err != nil {
				t.Fatal(err)
			}
			s.Close()
			if s = open(t, dir); number(t, s.Record()) != 7 || len(s.Reports()) != 0 {
				t.Errorf("after the next save: record %d, reports %q", number(t, s.Record()), s.Reports())
			}
		})
	}
}

func TestStoreWithoutAnyGoodRecordIsNotAnEmptyOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "records"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "records", "record-000000000001"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(dir); err == nil || !strings.Contains(err.Error(), "none of 1 records") {
		t.Errorf("Open: %v", err)
	}
}

// faultFS fails, or stops for good, at a step.
type faultFS struct {
	store.FS
	steps   *int
	at      *int  // 0: never
	crashed *bool // nothing works any more from the step on
	crash   bool
	partial bool // a write does half of its work before it fails
}

var errFault = errors.New("input/output error")

func (f faultFS) step() error {
	if *f.crashed {
		return errFault
	}
	*f.steps++
	if *f.steps == *f.at {
		*f.crashed = f.crash
		return errFault
	}
	return nil
}

func (f faultFS) Create(name string) (store.File, error) {
	if err := f.step(); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name)
	return faultFile{file, f}, err
}

func (f faultFS) Rename(from, to string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f faultFS) Remove(name string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

func (f faultFS) SyncDir() error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.SyncDir()
}

type faultFile struct {
	store.File
	fs faultFS
}

func (f faultFile) Write(b []byte) (int, error) {
	if err := f.fs.step(); err != nil {
		n := 0
		if f.fs.partial {
			n, _ = f.File.Write(b[:len(b)/2])
		}
		return n, err
	}
	return f.File.Write(b)
}

func (f faultFile) Sync() error {
	if err := f.fs.step(); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f faultFile) Close() error {
	err := f.fs.step()
	if closed := f.File.Close(); err == nil {
		err = closed
	}
	return err
}

func TestFaultAtAnyStepLeavesTheRecordBeforeOrTheNewOne(t *testing.T) {
	t.Parallel()
	for _, crash := range []bool{false, true} {
		for at := 1; ; at++ {
			dir := t.TempDir()
			s, err := store.OpenFS(store.Dir(dir))
			if err != nil {
				t.Fatal(err)
			}
			for n := range uint64(store.Keep + 1) { // so that the next save prunes
				if err := s.Save(recordOf(s.Record(), n+1)); err != nil {
					t.Fatal(err)
				}
			}
			steps, crashed, fault := 0, false, at
			s, err = store.OpenFS(faultFS{FS: store.Dir(dir), steps: &steps, at: &fault, crashed: &crashed, crash: crash, partial: true})
			if err != nil {
				t.Fatal(err)
			}
			const before, after = store.Keep + 1, store.Keep + 2
			failed := s.Save(recordOf(s.Record(), after))
			over := steps < at
			fault = 0 // from here on the disk is well
			if got := number(t, s.Record()); (failed == nil) != (got == after) {
				t.Errorf("step %d: Save says %v, and the record is %d", at, failed, got)
			}
			again, err := store.OpenFS(store.Dir(dir))
			if err != nil {
				t.Fatalf("step %d, crash %t: %v", at, crash, err)
			}
			switch got := number(t, again.Record()); {
			case len(again.Reports()) != 0:
				t.Errorf("step %d, crash %t: %q", at, crash, again.Reports())
			case failed == nil && got != after:
				t.Errorf("step %d, crash %t: an acknowledged record is lost; %d is there", at, crash, got)
			case failed != nil && !crash && got != before:
				t.Errorf("step %d: a failed save left record %d", at, got)
			case got != before && got != after:
				t.Errorf("step %d, crash %t: record %d", at, crash, got)
			}
			if !crash {
				if err := s.Save(recordOf(s.Record(), 99)); err != nil {
					t.Errorf("step %d: the save after: %v", at, err)
				}
				if again, err := store.OpenFS(store.Dir(dir)); err != nil || number(t, again.Record()) != 99 {
					t.Errorf("step %d: the save after is not there: %v", at, err)
				}
			}
			if over {
				if at < 7 {
					t.Fatalf("only %d steps were seen", steps)
				}
				break
			}
		}
	}
}

// saveForever is the child of the next test: it saves 1, 2, 3... and says so.
func saveForever(dir string) int {
	s, err := store.Open(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for n := s.Record().LastGeneration + 1; ; n++ {
		if err := s.Save(recordOf(s.Record(), n)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(n)
	}
}

func TestKillAtAnyMomentLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	var last uint64
	for round := range rounds {
		child := exec.Command(self)
		child.Env = append(os.Environ(), childVariable+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var problems bytes.Buffer
		child.Stderr = &problems
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		// Killed a random while after a random save, then read to the end.
		for range 1 + rand.IntN(6) {
			lines.Scan()
		}
		timer := time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() { _ = child.Process.Kill() })
		acknowledged := last
		for ok := true; ok; ok = lines.Scan() {
			var n uint64
			if _, err := fmt.Sscan(lines.Text(), &n); err == nil {
				acknowledged = max(acknowledged, n)
			}
		}
		timer.Stop()
		_ = child.Wait()
		if problems.Len() > 0 {
			t.Fatalf("round %d: the child: %s", round, &problems)
		}
		s, err := store.Open(dir)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		got := number(t, s.Record())
		if got < acknowledged || got > acknowledged+1 || len(s.Reports()) > 0 {
			t.Fatalf("round %d: %d was acknowledged, %d is there, reports %q", round, acknowledged, got, s.Reports())
		}
		last = got
		s.Close()
	}
	if last < uint64(rounds) {
		t.Errorf("only %d saves in %d rounds", last, rounds)
	}
}

func TestDocumentsPrintNoSecret(t *testing.T) {
	t.Parallel()
	r := recordOf(store.Record{}, 5)
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, *r.Committed); strings.Contains(text, "s5") {
			t.Errorf("%s shows the secret: %s", format, text)
		}
	}
}
