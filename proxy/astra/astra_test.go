package astra

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/internal/astratest"
	"github.com/zdmproject/terraform-provider-zdm/internal/certtest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
)

const hostID = "6f2c4c1e-0c6e-4d41-8b0e-52c2f5a9b0c1"

func open(t *testing.T, path string) *Database {
	t.Helper()
	d, err := Open("target_secure_connect_bundle_path", path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestABundleLeadsToTheNodesOfTheMetadataService(t *testing.T) {
	t.Parallel()
	s := astratest.Start(t, "east")
	s.Add(hostID, "127.0.0.1:1")
	d := open(t, s.Bundle)
	if _, err := d.Dial(t.Context(), hostID); err == nil {
		t.Error("Dial before the first Lookup: no error")
	}
	ids, dc, err := d.Lookup(t.Context())
	if err != nil || dc != "east" || len(ids) != 1 || ids[0] != hostID {
		t.Fatalf("Lookup: %q, %q, %v", ids, dc, err)
	}
	nc, err := d.Dial(t.Context(), hostID)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, _ = io.Copy(io.Discard, nc) // the router closes: there is no such node
	if s.Routed(hostID) != 1 {
		t.Error("the router was not asked for the host id")
	}
}

func TestARouterOfAnotherAuthorityIsNotTrusted(t *testing.T) {
	t.Parallel()
	s, other := astratest.Start(t, "east"), astratest.Start(t, "east")
	s.Add(hostID, "127.0.0.1:1")
	d := open(t, s.Bundle)
	if _, _, err := d.Lookup(t.Context()); err != nil {
		t.Fatal(err)
	}
	stranger := open(t, other.Bundle)
	stranger.router.Store(d.router.Load())
	_, err := stranger.Dial(t.Context(), hostID)
	if err == nil || !strings.Contains(Advice("target", err), "download it again") {
		t.Errorf("Dial: %v, advice %q; want a refusal with advice", err, Advice("target", err))
	}
}

func TestARouterIsTrustedForItsOwnNameOnly(t *testing.T) {
	t.Parallel()
	s := astratest.Start(t, "east")
	s.Add(hostID, "127.0.0.1:1")
	d := open(t, s.Bundle)
	if _, _, err := d.Lookup(t.Context()); err != nil {
		t.Fatal(err)
	}
	byAddress := strings.Replace(*d.router.Load(), astratest.RouterName, "127.0.0.1", 1)
	d.router.Store(&byAddress)
	if _, err := d.Dial(t.Context(), hostID); err == nil {
		t.Error("a certificate for localhost was taken for 127.0.0.1")
	}
}

func TestADatabaseThatSleepsIsTold(t *testing.T) {
	t.Parallel()
	s := astratest.Start(t, "east")
	s.Hibernate(true)
	_, _, err := open(t, s.Bundle).Lookup(t.Context())
	var asked *MetadataError
	if !errors.As(err, &asked) || !strings.Contains(err.Error(), "503") || !strings.Contains(Advice("target", err), "hibernated") {
		t.Errorf("Lookup: %v, advice %q", err, Advice("target", err))
	}
}

func TestABadBundleIsToldWithItsSettingAndWhatToDo(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	a, b := ca.Issue(t, "a"), ca.Issue(t, "b")
	whole := func(change string, text []byte) map[string][]byte {
		files := map[string][]byte{"config.json": []byte(`{"host": "db.example", "port": 29080}`), "ca.crt": ca.PEM, "cert": a.CertPEM, "key": a.KeyPEM}
		if change != "" {
			files[change] = text
		}
		if change != "" && text == nil {
			delete(files, change)
		}
		return files
	}
	for _, test := range []struct {
		name  string
		files map[string][]byte
		want  string // "": it is good
	}{
		{"good", whole("", nil), ""},
		{"no configuration", whole("config.json", nil), "has no config.json; download the bundle again"},
		{"no port", whole("config.json", []byte(`{"host": "db.example"}`)), "names no host and port"},
		{"no JSON", whole("config.json", []byte(`host: x`)), "config.json in"},
		{"no key", whole("key", nil), "has no key; download"},
		{"another key", whole("key", b.KeyPEM), "private key does not match public key; download"},
		{"no authority", whole("ca.crt", []byte("x")), "holds no certificate in PEM"},
		{"huge", whole("cert", make([]byte, maxMember+1)), "larger than"},
	} {
		path := filepath.Join(t.TempDir(), "b.zip")
		astratest.WriteBundle(t, path, test.files)
		_, err := Open("target_secure_connect_bundle_path", path, slog.New(slog.DiscardHandler))
		var e *config.Error
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.want != "" && (!errors.As(err, &e) || !strings.HasPrefix(e.Problems[0], "target_secure_connect_bundle_path: ") || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want a problem of the setting with %q", test.name, err, test.want)
		}
	}
	path := filepath.Join(t.TempDir(), "b.zip")
	if err := os.WriteFile(path, []byte("not a zip"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("x", path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "is not a zip file; download") {
		t.Errorf("no zip: %v", err)
	}
}
