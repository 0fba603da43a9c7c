package appliance_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func pemOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// raw makes a call without the client, which would not make wrong ones.
func (in *instance) raw(method, path, body string, header ...string) (*http.Response, adminapi.Problem) {
	in.t.Helper()
	req, err := http.NewRequestWithContext(in.t.Context(), method, in.server.URL+path, strings.NewReader(body))
	if err != nil {
		in.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pemOf(in.server))
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		in.t.Fatal(err)
	}
	defer resp.Body.Close()
	var p adminapi.Problem
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		in.t.Fatal(err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(b))
	if resp.StatusCode > 399 {
		if got := resp.Header.Get("Content-Type"); got != adminapi.ProblemType {
			in.t.Errorf("%s %s: %d is %s, want a problem document", method, path, resp.StatusCode, got)
		}
		if err := json.Unmarshal(b, &p); err != nil {
			in.t.Errorf("%s %s: %v in %s", method, path, err, b)
		}
	}
	return resp, p
}

func TestEveryErrorIsAProblemDocument(t *testing.T) {
	t.Parallel()
	in := newInstance(t)
	match := []string{"If-Match", `"0"`}
	for _, test := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		kind, detail             string
	}{
		{"no such path", "GET", "/v1/nothing", "", nil, 404, "not-found", adminapi.PathStatus},
		{"root", "GET", "/", "", nil, 404, "not-found", ""},
		{"wrong method", "DELETE", adminapi.PathConfig, "", nil, 405, "method", "GET, PUT"},
		{"no token", "GET", adminapi.PathStatus, "", []string{"Authorization", ""}, 401, "unauthorized", "no bearer token"},
		{"wrong token", "GET", adminapi.PathStatus, "", []string{"Authorization", "Bearer nope"}, 401, "unauthorized", "a wrong bearer token"},
		{"wrong token and path", "GET", "/v1/nothing", "", []string{"Authorization", "Bearer nope"}, 401, "unauthorized", ""},
		{"no If-Match on PUT", "PUT", adminapi.PathConfig, "{}", nil, 428, "precondition", adminapi.PathConfig},
		{"no If-Match on prepare", "POST", adminapi.PathPhasePrepare, "{}", nil, 428, "precondition", adminapi.PathPhase},
		{"any ETag", "PUT", adminapi.PathConfig, "{}", []string{"If-Match", "*"}, 428, "precondition", ""},
		{"unknown field", "PUT", adminapi.PathConfig, `{"colour":"red"}`, match, 400, "body", "colour"},
		{"not JSON", "PUT", adminapi.PathConfig, `hello`, match, 400, "body", ""},
		{"empty", "POST", adminapi.PathPhaseCommit, ``, nil, 400, "body", "empty"},
		{"two documents", "POST", adminapi.PathPhaseCommit, `{} {}`, nil, 400, "body", "more"},
		{"too long", "PUT", adminapi.PathConfig, `{"cluster_id":"` + strings.Repeat("x", 1<<20) + `"}`, match, 413, "body", "1048576"},
		{"no phase", "POST", adminapi.PathPhasePrepare, `{}`, match, 400, "body", "dual_write"},
		{"no such phase", "POST", adminapi.PathPhasePrepare, `{"phase":"half"}`, match, 400, "body", "dual_write"},
		{"long lease", "POST", adminapi.PathPhasePrepare, `{"phase":"dual_write","lease_seconds":601}`, match, 400, "body", "600"},
		{"bad sequence", "GET", adminapi.PathEvents + "?after=x", "", nil, 400, "body", "seq"},
		{"invalid", "PUT", adminapi.PathConfig, "{}", match, 422, "invalid-config", ""},
	} {
		resp, p := in.raw(test.method, test.path, test.body, test.header...)
		if resp.StatusCode != test.status || p.Status != test.status || string(p.Kind()) != test.kind || !strings.Contains(p.Detail, test.detail) || p.Title == "" {
			t.Errorf("%s: %d %+v, want %d %s with %q", test.name, resp.StatusCode, p, test.status, test.kind, test.detail)
		}
	}
	if resp, _ := in.raw("DELETE", adminapi.PathConfig, ""); resp.Header.Get("Allow") != "GET, PUT" {
		t.Errorf("Allow is %q", resp.Header.Get("Allow"))
	}
}

func TestETagIsGenerationOrEpoch(t *testing.T) {
	t.Parallel()
	in := serving(t)
	in.step(phase.DualRead, 1)
	for path, want := range map[string]string{adminapi.PathConfig: `"1"`, adminapi.PathPhase: `"2"`} {
		resp, _ := in.raw("GET", path, "")
		if got := resp.Header.Get("ETag"); got != want {
			t.Errorf("ETag of %s is %s, want %s", path, got, want)
		}
	}
}

func TestEventsTellTheStoryAndGoOnAfterARestart(t *testing.T) {
	t.Parallel()
	in := serving(t)
	first, err := in.c.Events(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for i, e := range first.Events {
		kinds = append(kinds, string(e.Kind))
		if i > 0 && e.Seq != first.Events[i-1].Seq+1 {
			t.Errorf("sequence %d follows %d", e.Seq, first.Events[i-1].Seq)
		}
	}
	for _, want := range []string{"config", "process", "phase"} {
		if !strings.Contains(strings.Join(kinds, " "), want) {
			t.Errorf("no event of kind %s in %v", want, kinds)
		}
	}
	last := first.Events[len(first.Events)-1].Seq
	if rest, err := in.c.Events(t.Context(), last); err != nil || len(rest.Events) != 0 {
		t.Errorf("after the last: %+v, %v", rest, err)
	}
	in.stop()
	in.start()
	in.await("ready", ready)
	again, err := in.c.Events(t.Context(), last)
	if err != nil || len(again.Events) == 0 || again.Oldest != first.Oldest {
		t.Errorf("after a restart of the agent: %+v, %v; want what was there, and more after %d", again, err, last)
	}
}

func TestMutationsAreAudited(t *testing.T) {
	t.Parallel()
	in := serving(t)
	_, err := in.c.PutConfig(t.Context(), in.config("other.example"), 9)
	wantProblem(t, err, "stale", 412)
	var paths []string
	for line := range strings.Lines(in.log.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("a log line is not JSON: %s", line)
		}
		if entry["msg"] == "audit" {
			if entry["from"] == "" || entry["status"] == nil {
				t.Errorf("an audit line without who or how: %s", line)
			}
			paths = append(paths, entry["path"].(string))
		}
	}
	want := []string{adminapi.PathConfig, adminapi.PathPhasePrepare, adminapi.PathPhaseCommit, adminapi.PathConfig}
	if strings.Join(paths, " ") != strings.Join(want, " ") {
		t.Errorf("audited %v, want %v", paths, want)
	}
}

func TestSecretsAreInTheRecordsOnly(t *testing.T) {
	t.Parallel()
	in := serving(t)
	_, err := in.c.PutConfig(t.Context(), in.config(hostRefused), 1)
	wantProblem(t, err, "apply-failed", 502)
	if _, err := in.c.Restart(t.Context(), "look for secrets"); err != nil {
		t.Fatal(err)
	}
	clean := func(where, text string) {
		t.Helper()
		for _, s := range []string{originPassword, targetPassword, testToken} {
			if strings.Contains(text, s) {
				t.Errorf("%s has a secret", where)
			}
		}
	}
	clean("the error", err.Error())
	clean("the log", in.log.String())
	for _, path := range []string{adminapi.PathConfig, adminapi.PathStatus, adminapi.PathEvents, adminapi.PathPhase} {
		req, _ := http.NewRequest("GET", in.server.URL+path, nil)
		req.Header.Set("Authorization", "Bearer "+testToken)
		resp, err := in.server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		clean("GET "+path, string(b))
		if path == adminapi.PathConfig && !strings.Contains(string(b), "sha256:") {
			t.Errorf("GET %s shows no digest: %s", path, b)
		}
	}
	for _, pid := range in.processes() {
		for _, file := range []string{"cmdline", "environ"} {
			b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
			clean(file+" of the proxy", string(b))
		}
	}
	records := filepath.Join(in.dir, "state", "records")
	found := false
	err = filepath.WalkDir(in.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if d.Name() == "program" || d.Name() == "proven" { // this test itself
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		b, err := os.ReadFile(path)
		if filepath.Dir(path) == records {
			found = found || strings.Contains(string(b), originPassword)
			return err
		}
		clean(path, string(b))
		return err
	})
	if err != nil || !found {
		t.Errorf("the records hold the secrets: %t; %v", found, err)
	}
}
