package demo

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/verify"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestTheWalkTakesAdjacentStepsAndEndsInTargetOnly(t *testing.T) {
	at := phase.None
	for _, p := range walk {
		if err := phase.CheckMove(at, p, false); err != nil {
			t.Error(err)
		}
		at = p
	}
	if at != phase.TargetOnly {
		t.Errorf("the walk ends in %s, want target_only", at)
	}
}

// fakeTerraform is a terraform whose program is a shell script.
func fakeTerraform(t *testing.T, script string, log *bytes.Buffer) *terraform {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"terraform": "#!/bin/sh\n" + script, "main.tf": "", "terraform-provider-zdm": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	tf, err := newTerraform(filepath.Join(dir, "terraform"), dir, filepath.Join(dir, "work"), dir, map[string]string{"password": "hush-hush"}, log)
	if err != nil {
		t.Fatal(err)
	}
	return tf
}

func TestApplyPassesThePhaseAsArgumentAndSecretsByEnvironmentOnly(t *testing.T) {
	t.Setenv("TF_CLI_ARGS", "-destroy")
	var log bytes.Buffer
	tf := fakeTerraform(t, `echo "args: $*"; echo "cli args: $TF_CLI_ARGS"; cat $TF_CLI_CONFIG_FILE; [ "$TF_VAR_password" = hush-hush ] && echo "Apply complete! Resources: 0 added, 1 changed, 0 destroyed."`, &log)
	summary, err := tf.apply(t.Context(), "dual_read")
	if err != nil {
		t.Fatal(err)
	}
	if want := "0 added, 1 changed, 0 destroyed"; summary != want {
		t.Errorf("summary is %q, want %q", summary, want)
	}
	text := log.String()
	for _, want := range []string{"-var phase=dual_read", "-auto-approve", "cli args: \n", `"zdmproject/zdm" = "`} {
		if !strings.Contains(text, want) {
			t.Errorf("the log has no %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "hush-hush") {
		t.Error("the password is among the arguments or in the configuration")
	}
}

func TestAFailedApplyTellsTheErrorsThatTerraformTold(t *testing.T) {
	var log bytes.Buffer
	tf := fakeTerraform(t, "echo Planning; echo; echo 'Error: skips a phase'; echo '  go to dual_read first'; exit 1", &log)
	_, err := tf.apply(t.Context(), "cut_over")
	want := "terraform apply -var phase=cut_over: exit status 1\nError: skips a phase\n  go to dual_read first"
	if err == nil || err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
}

func TestAnInterruptedApplyInterruptsTerraformAndWaitsForIt(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	var log bytes.Buffer
	done := filepath.Join(t.TempDir(), "done")
	started := filepath.Join(t.TempDir(), "started")
	tf := fakeTerraform(t, "trap 'echo > "+done+"; exit 1' INT; echo > "+started+"; while :; do sleep 0.01; done", &log)
	stop := errors.New("stop")
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(started); err == nil {
				cancel(stop)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := tf.apply(ctx, "cut_over"); !errors.Is(err, stop) {
		t.Errorf("error is %v, want %v", err, stop)
	}
	if _, err := os.Stat(done); err != nil {
		t.Errorf("terraform did not end in order: %v", err)
	}
}

func TestAMissingExampleOrProviderIsToldWithWhatToDo(t *testing.T) {
	dir := t.TempDir()
	_, err := newTerraform("terraform", dir, dir, dir, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "--example") {
		t.Errorf("error is %v, want one that names --example", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "main.tf"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = newTerraform("terraform", dir, dir, dir, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("error is %v, want one that names make build", err)
	}
}

func TestALiveScreenRedrawsItsBlockBelowTheLinesThatStay(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, live: true, width: func() int { return 10 }}
	s.draw("one", "a line that is too long")
	s.say("stays")
	s.draw()
	want := "one\na line th\n" + "\x1b[2A\x1b[Jstays\none\na line th\n" + "\x1b[2A\x1b[J"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("output differs (-want +got):\n%s", d)
	}
}

func TestAPlainScreenHasNoEscapesAndWritesWholeLines(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, width: func() int { return 80 }}
	s.draw("never seen")
	for _, part := range []string{"two ", "parts\nand", " more\n", "no end"} {
		if _, err := s.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if want := "two parts\nand more\n"; out.String() != want {
		t.Errorf("output is %q, want %q", out.String(), want)
	}
}

func TestReportsPrintTheFirstTwentyFindingsAndAreNotClean(t *testing.T) {
	r := &verify.Report{Side: phase.Target, Rows: 30, Live: 5, Writes: 8}
	for slot := range 22 {
		r.Findings = append(r.Findings, verify.Finding{Side: phase.Target, Key: journal.Key{Bucket: "b", Slot: slot}, Mismatch: journal.Missing, Expected: "version 1", Found: "no row"})
	}
	var out bytes.Buffer
	if PrintReports(&out, journal.NewModel(), []*verify.Report{{Side: phase.Origin}, r}) {
		t.Error("a report with findings is clean")
	}
	text := out.String()
	if n := strings.Count(text, " is missing: "); n != 20 || !strings.Contains(text, "and 2 more") || !strings.Contains(text, "22 NOT as acknowledged: 22 missing") {
		t.Errorf("%d findings are printed, want 20 and the number of the others:\n%s", n, text)
	}
	if !PrintReports(&out, journal.NewModel(), []*verify.Report{{}}) {
		t.Error("a report without findings is not clean")
	}
}

func TestTheTableHasARowForEachVisitAndOneForAll(t *testing.T) {
	s := load.Stats{
		Visits: []load.Visit{{Phase: "dual_write", Requests: 10, P50: 1234 * time.Microsecond}, {Phase: "dual_read", Requests: 5, LongestPause: 2345 * time.Millisecond}},
		Total:  load.Visit{Requests: 15},
	}
	var out bytes.Buffer
	PrintVisits(&out, s)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 4 || !strings.Contains(lines[1], "1.23ms") || !strings.Contains(lines[2], "2.35s") || !strings.Contains(lines[3], "all") {
		t.Errorf("table is\n%s", out.String())
	}
}
