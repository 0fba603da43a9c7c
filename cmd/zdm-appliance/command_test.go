package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/appliance/access"
	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/internal/certtest"
)

// person runs commands on the machine of an instance.
type person struct {
	t      *testing.T
	socket string
}

func (p person) run(args ...string) (string, error) {
	p.t.Helper()
	var out, told bytes.Buffer
	err := run(p.t.Context(), append(args, "-socket", p.socket), &out, &told)
	if err == nil && told.Len() > 0 {
		p.t.Errorf("%v says %s", args, &told)
	}
	return out.String(), err
}

// sees runs a command and wants every text in what it prints.
func (p person) sees(args []string, want ...string) string {
	p.t.Helper()
	out, err := p.run(args...)
	if err != nil {
		p.t.Errorf("%v: %v", args, err)
	}
	for _, text := range want {
		if !strings.Contains(out, text) {
			p.t.Errorf("%v prints no %q:\n%s", args, text, out)
		}
	}
	return out
}

// refused runs a command and wants every text in its error.
func (p person) refused(args []string, want ...string) {
	p.t.Helper()
	out, err := p.run(args...)
	if err == nil {
		p.t.Errorf("%v is done:\n%s", args, out)
		return
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			p.t.Errorf("%v: %v, want %q in it", args, err, text)
		}
	}
}

func TestInstanceIsLookedAfterFromTheCommandLine(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	p := person{t, filepath.Join(r.dir, "s")}
	p.sees([]string{"status"}, "locked, not ready", "none: the client port is closed")
	p.sees([]string{"config", "get"}, "the instance is locked")
	file := filepath.Join(r.dir, "config.json")
	b, err := json.Marshal(r.config())
	if err != nil {
		t.Fatal(err)
	}
	certtest.Write(t, file, b)
	p.sees([]string{"config", "diff", "-file", file}, "+ cluster_id = c", "+ origin_username = app", "+ origin_password = (given)")
	out := p.sees([]string{"config", "set", "-file", file}, "generation 1 runs")
	if strings.Contains(out, originPassword) {
		t.Error("config set prints a secret")
	}
	// What get prints can be given back, with one thing changed or none.
	saved := p.sees([]string{"config", "get", "-json"}, `"sha256:`)
	certtest.Write(t, file, []byte(saved))
	p.sees([]string{"config", "set", "-file", file}, "nothing would change")
	p.sees([]string{"config", "diff", "proxy_max_client_connections=77"}, "+ proxy_max_client_connections = 77", "the running proxy process would take it")
	p.sees([]string{"config", "get"}, "one of c", "1 wanted, 1 running", "origin_password", "(secret)")
	p.sees([]string{"config", "set", "proxy_max_client_connections=77"}, "generation 2 runs")
	p.sees([]string{"config", "set", "proxy_max_client_connections="}, "- proxy_max_client_connections = 77", "generation 3 runs")
	p.sees([]string{"config", "diff", "proxy_max_stream_ids=77"}, "a new proxy process would run it")
	p.refused([]string{"config", "set", "proxy_max_client_connections=no"}, "proxy_max_client_connections")
	p.refused([]string{"config", "set", "origin_password=x"}, "-secret origin_password=FILE")
	secret := filepath.Join(r.dir, "secret")
	certtest.Write(t, secret, []byte(originPassword+"\n"))
	p.sees([]string{"config", "set", "-secret", "origin_password=" + secret}, "generation 3 runs") // it is the same one
	certtest.Write(t, file, []byte(strings.Replace(saved, `"sha256:`, `"sha256:0`, 1)))
	p.refused([]string{"config", "set", "-file", file}, "is a digest")

	p.sees([]string{"phase"}, "none")
	p.sees([]string{"phase", "dual_write"}, "dual_write, epoch 1")
	p.sees([]string{"phase", "dual_write"}, "dual_write, epoch 1")
	p.refused([]string{"phase", "cut_over"}, "dual_read")
	p.refused([]string{"phase", "half"}, "dual_read")
	p.sees([]string{"phase", "dual_read"}, "dual_read, epoch 2", "before", "dual_write")
	p.sees([]string{"status"}, "serving, ready", "old (", "new (5.0.5)", "lately")

	p.sees([]string{"mark"}, "no marks")
	p.refused([]string{"mark", "backfill-done"}, "-reason")
	p.sees([]string{"mark", "backfill-done", "-reason", "run 17", "-author", "ann"}, "says ann: run 17")
	p.sees([]string{"mark", "backfill-done", "-reason", "run 18", "-time", "2026-01-02T15:04:05Z"}, "since 2026-01-02T15:04:05Z", "run 18")
	p.sees([]string{"mark", "-remove", "backfill-done"}, "no marks")

	p.sees([]string{"drain", "-reason", "new kernel"}, "drained, not ready", "new kernel", "closed")
	p.sees([]string{"resume"}, "serving, ready")
	p.sees([]string{"restart", "-reason", "to see it"}, "serving, ready")
	p.sees([]string{"events"}, "new kernel", "to see it", "mark backfill-done is set by ann")
	p.sees([]string{"logs", "-tail", "5", "-source", "agent"}, "agent", `"msg":`)
	p.refused([]string{"status", "now"}, `"now"`)
}

func TestStepOfOneInstanceOfSeveralIsLeftToTerraform(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	conf := r.config()
	conf.Settings["proxy_topology_addresses"] = "127.0.0.1,127.0.0.2"
	if _, err := r.c.PutConfig(t.Context(), conf, 0); err != nil {
		t.Fatal(err)
	}
	person{t, filepath.Join(r.dir, "s")}.refused([]string{"phase", "dual_write"}, "one of 2 instances", "zdm_migration_phase", "Terraform")
}

func TestSupportBundleHasEverythingButSecrets(t *testing.T) {
	t.Parallel()
	r := serving(t)
	p := person{t, filepath.Join(r.dir, "s")}
	lease, err := r.c.Prepare(t.Context(), adminapi.PrepareRequest{Phase: 3}, 1)
	if err != nil {
		t.Fatal(err)
	}
	// People write what they should not.
	if _, err := r.c.PutMark(t.Context(), "mine", adminapi.MarkRequest{Reason: "logged in with password=hunter2-in-a-reason and token: abc-secret-abc"}, 0); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.dir, "bundle.tar.gz")
	p.sees([]string{"support-bundle", "-out", file}, "wrote "+file, "look at it before you pass it on")
	p.refused([]string{"support-bundle", "-out", file}, "-out")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{}
	for archive := tar.NewReader(zipped); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		parts[strings.TrimPrefix(h.Name, "zdm-support/")] = string(b)
	}
	for part, want := range map[string]string{
		"status.json": `"dual_write"`, "config.json": `"origin_contact_points"`, "marks.json": `"mine"`, "events.json": "in phase dual_write",
		"logs.txt": `"msg":"audit"`, "metrics.txt": "zdm_appliance_ready 1", "proxy-metrics.txt": "zdm_client_connections_total", "about.txt": "made ",
	} {
		if !strings.Contains(parts[part], want) {
			t.Errorf("%s has no %s: %.300s", part, want, parts[part])
		}
	}
	for part, text := range parts {
		for _, secret := range []string{originPassword, targetPassword, token, lease.Prepared.Token, "sha256:", "hunter2-in-a-reason", "abc-secret-abc", `"app"`} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %q", part, secret)
			}
		}
	}
}

func TestEventsAreFollowedUntilInterrupted(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"events", "-follow", "-json", "-socket", filepath.Join(g.dir, "s")}, pw, io.Discard)
		pw.Close()
		ended <- err
	}()
	api, err := client.New(client.Options{Socket: filepath.Join(g.dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	if _, err := api.PutMark(ctx, "mine", adminapi.MarkRequest{Reason: "r"}, 0); err != nil {
		t.Fatal(err)
	}
	var e adminapi.Event
	for d := json.NewDecoder(pr); e.Kind != adminapi.EventMark; {
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	go io.Copy(io.Discard, pr)
	if err := <-ended; err != nil {
		t.Errorf("interrupted: %v", err)
	}
	if !strings.HasPrefix(markCaller(t, api), "uid ") {
		t.Errorf("a caller on the socket is %q", markCaller(t, api))
	}
}

func markCaller(t *testing.T, api *client.Client) string {
	t.Helper()
	marks, err := api.Marks(t.Context())
	if err != nil || len(marks.Marks) != 1 {
		t.Fatal(marks, err)
	}
	return marks.Marks[0].Caller
}

func TestSocketThatIsNamedCountsBeforeTheVariable(t *testing.T) {
	t.Setenv("ZDM_ADMIN_URL", "https://127.0.0.1:1")
	g := newGuarded(t)
	person{t, filepath.Join(g.dir, "s")}.sees([]string{"status"}, "locked")
}

func TestTokenThatWasMadeLetsItsOwnerIn(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	var text, entry bytes.Buffer
	if err := run(t.Context(), []string{"token", "-name", "new", "-role", "write", "-expires-in", "1h"}, &text, &entry); err != nil {
		t.Fatal(err)
	}
	made := strings.TrimSpace(text.String())
	if err := access.CheckToken(made); err != nil {
		t.Fatal(err)
	}
	_, yaml, _ := strings.Cut(entry.String(), "\n\n")
	if strings.Contains(entry.String(), made) {
		t.Error("the entry has the token itself")
	}
	certtest.Write(t, filepath.Join(g.dir, "access.yaml"), []byte("tokens:\n"+yaml))
	// From elsewhere, by the variables that the provider has too.
	tokenFile := filepath.Join(g.dir, "made")
	certtest.Write(t, tokenFile, text.Bytes())
	var out bytes.Buffer
	if err := run(t.Context(), []string{"mark", "mine", "-reason", "r", "-url", "https://" + g.address, "-ca", filepath.Join(g.dir, "cert.pem"), "-token-file", tokenFile}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "says new: r") {
		t.Errorf("the mark is not by the token's name: %s", &out)
	}
	for _, args := range [][]string{{"token"}, {"token", "-name", "x", "-role", "admin"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v is done", args)
		}
	}
}
