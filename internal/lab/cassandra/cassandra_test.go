package cassandra

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// fakeJava makes a Java home of a version, told by its release file or by what
// the program says.
func fakeJava(t *testing.T, version string, release bool) string {
	t.Helper()
	home := filepath.Join(t.TempDir(), "java-"+version)
	write(t, filepath.Join(home, "bin", "java"), "#!/bin/sh\necho 'openjdk version \""+version+"\" 2025-01-01' >&2\n", 0o755)
	if release {
		write(t, filepath.Join(home, "release"), "IMPLEMENTOR=\"x\"\nJAVA_VERSION=\""+version+"\"\n", 0o644)
	}
	return home
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestTheFirstJava17IsTaken(t *testing.T) {
	t.Parallel()
	for _, release := range []bool{true, false} {
		want := fakeJava(t, "17.0.15", release)
		got, err := chooseJava([]string{t.TempDir(), fakeJava(t, "25-ea", release), fakeJava(t, "1.8.0_402", release), want, fakeJava(t, "17.0.1", release)})
		if err != nil || got != want {
			t.Errorf("release file %v: chose %q, %v; want %q", release, got, err, want)
		}
	}
}

func TestWithoutJava17TheErrorNamesWhatWasRefusedAndWhatToInstall(t *testing.T) {
	t.Parallel()
	new, old := fakeJava(t, "25.0.3", true), fakeJava(t, "1.8.0_402", false)
	_, err := chooseJava([]string{new, old, new, t.TempDir()})
	var java *JavaError
	if !errors.As(err, &java) || len(java.Refused) != 2 {
		t.Fatalf("error %#v, want a *JavaError with two refused", err)
	}
	for _, want := range []string{new + " is Java 25", old + " is Java 8", "openjdk-17-jre-headless", "JAVA_HOME"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not have %q", err, want)
		}
	}
}

func TestAWrongJavaHomeIsTold(t *testing.T) {
	home := filepath.Join(t.TempDir(), "gone")
	t.Setenv("JAVA_HOME", home)
	_, err := chooseJava([]string{home})
	if err == nil || !strings.Contains(err.Error(), home) {
		t.Errorf("error %v, want one that names %s", err, home)
	}
}

func TestAConfigurationIsValidYAMLForEachVersion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"4.0.17": {"enable_user_defined_functions", "commitlog_segment_size_in_mb"},
		"4.1.8":  {"user_defined_functions_enabled", "auth_read_consistency_level"},
		"5.0.4":  {"materialized_views_enabled", "commitlog_segment_size"},
	} {
		v, err := ParseVersion(text)
		if err != nil {
			t.Fatal(err)
		}
		c := Config{Side: phase.Target, Version: v, Address: "127.61.2.1", Seeds: []string{"127.61.2.1", "127.61.2.2"}, Token: Token(1, 3), Dir: t.TempDir()}
		if err := c.Write(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(c.Dir, "conf", "cassandra.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := yaml.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s: %v in\n%s", text, err, b)
		}
		for _, key := range append(want, "cluster_name", "seed_provider") {
			if got[key] == nil {
				t.Errorf("%s: no %s", text, key)
			}
		}
		if got["authenticator"] != "PasswordAuthenticator" || got["commitlog_sync"] != "batch" || got["initial_token"] != "-3074457345618258603" {
			t.Errorf("%s: authenticator %v, commitlog_sync %v, initial_token %v", text, got["authenticator"], got["commitlog_sync"], got["initial_token"])
		}
	}
}

func TestOnlyKnownVersionsAreAccepted(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "4.1", "3.11.17", "5.1.0", "4.1.8;rm", "../4.1.8"} {
		if v, err := ParseVersion(text); err == nil {
			t.Errorf("version %q was accepted as %+v", text, v)
		}
	}
}

func TestTokensAreSpreadEvenly(t *testing.T) {
	t.Parallel()
	for i, want := range []string{"-9223372036854775808", "-4611686018427387904", "0", "4611686018427387904"} {
		if got := Token(i, 4); got != want {
			t.Errorf("token %d of 4 is %s, want %s", i, got, want)
		}
	}
}
