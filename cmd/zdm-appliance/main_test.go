package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

const token = "0123456789abcdef-of-the-command"

// files makes what the command needs, in a short folder.
func files(t *testing.T) (dir string, args []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "zdm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	writeCertificate(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, []string{
		"serve", "-state", filepath.Join(dir, "state"), "-listen", "127.0.0.1:0",
		"-tls-cert", filepath.Join(dir, "cert.pem"), "-tls-key", filepath.Join(dir, "key.pem"),
		"-token-file", filepath.Join(dir, "token"), "-proxy-binary", "/bin/true", "-socket", filepath.Join(dir, "s"),
	}
}

func writeCertificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// output is safe for the command and the test.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func TestAgentServesOverTLSAndItsSocketUntilItIsTold(t *testing.T) {
	t.Parallel()
	dir, args := files(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log output
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, args, &log, &log) }()
	// The log's first line tells the port.
	var started struct{ Listen string }
	for deadline := time.Now().Add(10 * time.Second); started.Listen == ""; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the agent does not start: %s", &log)
		}
		line, _, _ := strings.Cut(log.String(), "\n")
		_ = json.Unmarshal([]byte(line), &started)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Options{URL: "https://" + started.Listen, CA: ca, Token: secret.New(token)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if st, err := c.Status(ctx); err != nil || st.State != adminapi.Locked {
		t.Errorf("over TLS: %+v, %v", st, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "s")); err != nil || info.Mode().Perm() != 0o600 || info.Mode()&fs.ModeSocket == 0 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	var table, doc bytes.Buffer
	if err := run(ctx, []string{"status", "-socket", filepath.Join(dir, "s")}, &table, &log); err != nil || !strings.Contains(table.String(), "locked") {
		t.Errorf("status: %v\n%s", err, &table)
	}
	var st adminapi.Status
	if err := run(ctx, []string{"status", "-json", "-socket", filepath.Join(dir, "s")}, &doc, &log); err != nil || json.Unmarshal(doc.Bytes(), &st) != nil || st.State != adminapi.Locked {
		t.Errorf("status -json: %v\n%s", err, &doc)
	}

	// A renewed certificate is shown without a restart.
	writeCertificate(t, dir)
	if renewed, err := os.ReadFile(filepath.Join(dir, "cert.pem")); err != nil {
		t.Fatal(err)
	} else if c, err := client.New(client.Options{URL: "https://" + started.Listen, CA: renewed, Token: secret.New(token)}); err != nil {
		t.Fatal(err)
	} else if _, err := c.Status(ctx); err != nil {
		t.Errorf("with the renewed certificate: %v", err)
	}

	// A second agent on the same port, and on the same folder.
	second := slices.Clone(args)
	second[slices.Index(second, "127.0.0.1:0")] = started.Listen
	if err := run(ctx, second, &log, &log); err == nil || !strings.Contains(err.Error(), "in use by another agent") {
		t.Errorf("the same folder: %v", err)
	}
	second[slices.Index(second, "-state")+1] = filepath.Join(dir, "other")
	if err := run(ctx, second, &log, &log); err == nil || !strings.Contains(err.Error(), "the port is in use; ") {
		t.Errorf("the same port: %v", err)
	}

	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	if strings.Contains(log.String(), token) {
		t.Error("the log has the token")
	}
}

func TestWhatIsMissingIsToldWithTheFlagToGive(t *testing.T) {
	t.Parallel()
	dir, args := files(t)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct{ flag, value, want string }{
		{"-token-file", "", "with -token-file"},
		{"-token-file", filepath.Join(dir, "none"), "no such file"},
		{"-token-file", write("short", "abc"), "the token has 3 bytes"},
		{"-token-file", write("spaces", "one two three four five"), "has spaces"},
		{"-tls-cert", "", "-tls-cert and -tls-key"},
		{"-tls-cert", filepath.Join(dir, "none"), "no such file"},
		{"-tls-cert", write("bad", "not a certificate"), "give a PEM certificate and its key"},
		{"-client-ca", filepath.Join(dir, "bad"), "no PEM certificate"},
		{"-proxy-binary", filepath.Join(dir, "none"), "-proxy-binary"},
		{"-node-exporter", filepath.Join(dir, "none"), "-node-exporter"},
		{"-proxy-memory", "plenty", "4GiB"},
		{"-client-auth", "sometimes", "neither required nor optional"},
		{"-access-file", filepath.Join(dir, "none"), "-access-file"},
		{"-listen", "256.0.0.1:1", "-listen"},
		{"-socket", dir, "something else than a socket"},
		{"-run-dir", filepath.Join(dir, strings.Repeat("x", 100)), "-run-dir"},
	} {
		var log bytes.Buffer
		err := run(t.Context(), append(slices.Clone(args), test.flag, test.value), &log, &log)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %q: got %v, want %q in it", test.flag, test.value, err, test.want)
		}
	}
}

func TestCommandLineErrorsAreTold(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), nil, &out, &out); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "status") {
		t.Errorf("no command: %v, %s", err, &out)
	}
	if err := run(t.Context(), []string{"fly"}, &out, &out); err == nil || !strings.Contains(err.Error(), "fly") {
		t.Errorf("unknown command: %v", err)
	}
	if err := run(t.Context(), []string{"status", "now"}, &out, &out); err == nil || !strings.Contains(err.Error(), `"now"`) {
		t.Errorf("an argument: %v", err)
	}
	if err := run(t.Context(), []string{"status", "-socket", "/no/such.sock"}, &out, &out); err == nil || !strings.Contains(err.Error(), "look whether the agent runs") {
		t.Errorf("no agent: %v", err)
	}
	out.Reset()
	if err := run(t.Context(), []string{"version"}, &out, &out); err != nil || out.Len() < 2 {
		t.Errorf("version: %v, %q", err, &out)
	}
}

func TestProxyGetsNoVariableThatCouldBeASecret(t *testing.T) {
	t.Parallel()
	got := environment([]string{"PATH=/bin", "ZDM_ORIGIN_PASSWORD=hunter2", "AWS_SECRET_ACCESS_KEY=x", "GOMAXPROCS=2", "LISTEN_FDS=1"})
	if want := []string{"PATH=/bin", "GOMAXPROCS=2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
