package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// mayHold are the files of a lab that are there to hold secrets: the agents'
// records, the admin token that the agents are given, and what the lab itself
// remembers. Their mode must be 0600.
var mayHold = regexp.MustCompile(`^(proxy-\d+/state/records/[^/]+|tls/token|state\.json)$`)

func TestSecretsAreInNoLogNoFileNoArgumentAndNoAnswer(t *testing.T) {
	f := ready(t)
	// What is done with secrets in ordinary life has been done: documents were
	// stored, clients have logged in. Here are the ways to get it wrong.
	secrets := f.secrets(t)
	for _, in := range f.all {
		misplaced := f.document(0)
		have, err := in.api.Config(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		misplaced.ClusterID = have.ClusterID
		for _, side := range phase.Sides {
			misplaced.Settings[side.String()+"_password"] = misplaced.Secrets[side.String()+"_password"]
		}
		_, err = in.api.PutConfig(t.Context(), misplaced, have.Generation)
		if err == nil {
			t.Errorf("%s took a secret under settings", in.Name)
		} else {
			secrets.lookIn(t, in.Name+"'s refusal", []byte(err.Error()))
		}
		secrets.lookInAnswers(t, in)
	}
	looked := secrets.lookInFiles(t, f.Dir)
	for _, in := range f.all {
		dir, err := in.runDir()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(dir, f.Dir+"/") {
			looked += secrets.lookInFiles(t, dir)
		}
	}
	processes := secrets.lookInProcesses(t)
	if looked < 20 || processes < 6 {
		t.Errorf("looked in %d files and %d processes; there must be more", looked, processes)
	}
	t.Logf("looked in %d files and %d processes", looked, processes)
}

// secretTexts are secrets by what they are; a test must not print them.
type secretTexts map[string][]byte

func (f *fleet) secrets(t *testing.T) secretTexts {
	t.Helper()
	out := secretTexts{}
	for _, c := range f.Clusters() {
		out["the password of "+c.Side.String()] = []byte(c.Password)
	}
	for _, in := range f.all {
		token, err := os.ReadFile(in.TokenFile)
		if err != nil {
			t.Fatal(err)
		}
		out["the admin token of "+in.Name] = bytes.TrimSpace(token)
	}
	for what, text := range out {
		if len(text) < 8 {
			t.Fatalf("%s is too short to look for", what)
		}
	}
	return out
}

// in returns the first secret that b holds, "" if none.
func (s secretTexts) in(b []byte) string {
	for _, what := range slices.Sorted(maps.Keys(s)) {
		if bytes.Contains(b, s[what]) {
			return what
		}
	}
	return ""
}

func (s secretTexts) lookIn(t *testing.T, where string, b []byte) {
	t.Helper()
	if what := s.in(b); what != "" {
		t.Errorf("%s is in %s", what, where)
	}
}

// lookInAnswers looks in what an agent and its proxy tell of themselves.
func (s secretTexts) lookInAnswers(t *testing.T, in *instance) {
	t.Helper()
	status := in.status(t)
	conf, err := in.api.Config(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	events, err := in.api.Events(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	sums, err := in.metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range []any{status, conf, events, sums} {
		b, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		s.lookIn(t, fmt.Sprintf("%s's answer %T", in.Name, answer), b)
	}
	if len(conf.Secrets) != 2 {
		t.Errorf("%s tells of %d secrets, want a digest of 2", in.Name, len(conf.Secrets))
	}
}

// lookInFiles looks in every file below dir.
func (s secretTexts) lookInFiles(t *testing.T, dir string) (looked int) {
	t.Helper()
	holders := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil // Cassandra removes files all the time
			}
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if inBinaries := strings.HasPrefix(name, "bin/"); inBinaries {
			return nil
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		looked++
		what := s.in(b)
		if what == "" {
			return nil
		}
		info, err := d.Info()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !mayHold.MatchString(name):
			t.Errorf("%s is in %s", what, path)
		case info.Mode().Perm() != 0o600:
			t.Errorf("%s holds %s and has mode %s, want 0600", path, what, info.Mode().Perm())
		default:
			holders++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Without a hit where one must be, the search is worth nothing.
	if _, err := os.Stat(filepath.Join(dir, "state.json")); err == nil && holders < 4 {
		t.Errorf("%d files hold a secret; the records of two agents, the token and state.json do", holders)
	}
	return looked
}

// lookInProcesses looks in the arguments and the environment of every process
// that this user may look at.
func (s secretTexts) lookInProcesses(t *testing.T) (looked int) {
	t.Helper()
	for _, part := range []string{"cmdline", "environ"} {
		files, err := filepath.Glob("/proc/[0-9]*/" + part)
		if err != nil {
			t.Fatal(err)
		}
		looked = 0
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				continue // gone, or another user's
			}
			looked++
			if what := s.in(b); what != "" {
				program, _ := os.Readlink(filepath.Join(filepath.Dir(file), "exe"))
				t.Errorf("%s is in %s of %s", what, file, program)
			}
		}
	}
	return looked
}
