package config

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEnvironmentKeepsSettingsAndWarnsOfOthers(t *testing.T) {
	t.Parallel()
	values, warnings := FromEnvironment([]string{"HOME=/home/x", "ZDM_ORIGIN_PORT=9043", "ZDM_ORIGIN_PASSWORD=a=b", "ZDM_ORIGIN_CONTACT_POINT=x", "ZDM_COLOUR=red", "zdm_target_port=1", "ZDM_LOG_LEVEL="})
	if diff := cmp.Diff(map[string]string{"origin_port": "9043", "origin_password": "a=b", "log_level": ""}, values); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	want := []string{"ZDM_COLOUR: not a setting, and ignored", "ZDM_ORIGIN_CONTACT_POINT: not a setting, and ignored; did you mean ZDM_ORIGIN_CONTACT_POINTS?"}
	if diff := cmp.Diff(want, warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestYAMLTakesScalarsAndLists(t *testing.T) {
	t.Parallel()
	got, err := FromYAML([]byte(`
# a comment
origin_contact_points: [10.0.0.1, "::1"]
target_contact_points: a,b
origin_port: 9043
metrics_enabled: false
target_password: "p: w"
origin_local_datacenter:
metrics_origin_latency_buckets_ms:
  - 1
  - 2.5
`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"origin_contact_points": "10.0.0.1, ::1", "target_contact_points": "a,b", "origin_port": "9043", "metrics_enabled": "false",
		"target_password": "p: w", "origin_local_datacenter": "", "metrics_origin_latency_buckets_ms": "1, 2.5"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}

func TestYAMLProblemsCarryTheirLine(t *testing.T) {
	t.Parallel()
	_, err := FromYAML([]byte("origin_prot: 1\norigin_port: [1]\norigin_port: 2\ntarget_port: {a: 1}\norigin_contact_points: [[a]]\ntarget_contact_points: {a: b}\n"))
	e, ok := err.(*Error)
	if !ok {
		t.Fatalf("error is %v, want *Error", err)
	}
	want := []string{
		"origin_prot: unknown setting; did you mean origin_port? (line 1)",
		"origin_port (line 2): holds a list or mapping; give one plain value",
		"origin_port (line 3): given twice; leave one of them out",
		"target_port (line 4): holds a list or mapping; give one plain value",
		"origin_contact_points (line 5): entry 1 is not a plain value; give text without commas",
		"target_contact_points (line 6): holds a mapping; give a list, or one text with commas",
	}
	if diff := cmp.Diff(want, e.Problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestYAMLIsMendedInOneGo(t *testing.T) {
	t.Parallel()
	_, err := FromYAML([]byte("no_such: 1\norigin_port: 70000\norigin_contact_points: {a: b}\ntarget_contact_points: b\n"))
	var bad *Error
	if !errors.As(err, &bad) {
		t.Fatalf("error %v, want an *Error", err)
	}
	if len(bad.Problems) != 3 || !strings.Contains(err.Error(), "origin_port: 70000 is above 65535") || strings.Contains(err.Error(), "missing") {
		t.Errorf("problems %q, want the unknown key, the mapping and the port, and nothing twice", bad.Problems)
	}
}

func TestYAMLThatIsNoMappingIsTold(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"- a\n":                           "not a YAML mapping",
		"just words":                      "not a YAML mapping",
		"a: [":                            "mend the file's YAML",
		"origin_port: 1\n---\nphase: x\n": "a second YAML document",
	} {
		if _, err := FromYAML([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("FromYAML(%q): error %v, want one with %q", text, err, want)
		}
	}
	for _, text := range []string{"", "# nothing\n", "---\n", "{}\n"} {
		if values, err := FromYAML([]byte(text)); err != nil || len(values) != 0 {
			t.Errorf("FromYAML(%q) = %v, %v, want nothing", text, values, err)
		}
	}
}

func TestNearestFindsTypingErrors(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{"pase": "phase", "origin_contact_point": "origin_contact_points", "qwertyuiop": "", "": ""} {
		if got := nearest(key); got != want {
			t.Errorf("nearest(%q) = %q, want %q", key, got, want)
		}
	}
}

func FuzzFromYAMLThenParse(f *testing.F) {
	f.Add([]byte("origin_port: 1\n"))
	f.Add([]byte("origin_contact_points: [a, &x b, *x]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		values, err := FromYAML(b)
		if err != nil {
			return
		}
		if c, err := Parse(values); err == nil {
			if _, err := Parse(c.Values()); err != nil && !slices.ContainsFunc(err.(*Error).Problems, func(p string) bool { return strings.Contains(p, "password") }) {
				t.Errorf("Values of %q do not parse: %v", b, err)
			}
		}
	})
}
