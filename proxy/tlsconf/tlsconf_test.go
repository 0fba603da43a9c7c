package tlsconf

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/internal/certtest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
)

var quiet = slog.New(slog.DiscardHandler)

func filesOf(ca *certtest.Authority, p *certtest.Pair) Files {
	f := Files{CA: File{"ca_path", ca.File}}
	if p != nil {
		f.Cert, f.Key = File{"cert_path", p.CertFile}, File{"key_path", p.KeyFile}
	}
	return f
}

// serveTLS answers each connection with the common name of the client's
// certificate, "-" without one.
func serveTLS(t *testing.T, addr string, conf *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", addr, conf)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				if nc.(*tls.Conn).Handshake() != nil {
					return
				}
				name := "-"
				if certs := nc.(*tls.Conn).ConnectionState().PeerCertificates; len(certs) > 0 {
					name = certs[0].Subject.CommonName
				}
				_, _ = io.WriteString(nc, name)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// ask dials and returns what the server says.
func ask(t *testing.T, c *Client, addr string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	nc, err := c.Dial(ctx, addr)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	b, err := io.ReadAll(nc)
	return string(b), err
}

func newClient(t *testing.T, f Files, names []string, verify bool) *Client {
	t.Helper()
	c, err := NewClient(f, names, verify, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestANodeIsTrustedByItsAuthorityAndIfAskedForByItsName(t *testing.T) {
	t.Parallel()
	ca, stranger := certtest.NewAuthority(t, "nodes"), certtest.NewAuthority(t, "stranger")
	for _, test := range []struct {
		name   string
		server *certtest.Pair
		names  []string
		verify bool
		want   Problem
	}{
		{"any name without the check", ca.Issue(t, "somebody.example"), nil, false, None},
		{"another authority", stranger.Issue(t, "127.0.0.1"), nil, false, Untrusted},
		{"another authority, name checked", stranger.Issue(t, "127.0.0.1"), nil, true, Untrusted},
		{"its address", ca.Issue(t, "127.0.0.1"), nil, true, None},
		{"another address", ca.Issue(t, "127.0.0.9"), nil, true, WrongName},
		{"a contact point's name", ca.Issue(t, "db.example"), []string{"other.example", "db.example"}, true, None},
		{"a wildcard", ca.Issue(t, "*.db.example"), []string{"a.db.example"}, true, None},
		{"no contact point's name", ca.Issue(t, "db.example"), []string{"other.example"}, true, WrongName},
		{"ended", ca.IssueUntil(t, time.Now().Add(-time.Hour), "127.0.0.1"), nil, false, Expired},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			addr := serveTLS(t, "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{test.server.TLS}})
			_, err := ask(t, newClient(t, filesOf(ca, nil), test.names, test.verify), addr)
			if got := ProblemOf(err); got != test.want || (err == nil) != (test.want == None) {
				t.Errorf("got %v (problem %d), want problem %d", err, got, test.want)
			}
			if err != nil && Advice("origin", err) == "" {
				t.Errorf("no advice for %v", err)
			}
		})
	}
}

func TestAPublicAuthorityAloneIsNotTrustedWithoutTheNameCheck(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "nodes")
	c := newClient(t, filesOf(ca, nil), nil, false)
	if !c.files.Current().pool.Equal(ca.Pool) {
		t.Error("more authorities are trusted than those of the file")
	}
}

func TestANodeThatSpeaksPlainIsTold(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if nc, err := l.Accept(); err == nil {
			_, _ = nc.Write([]byte{0x84, 0, 0, 0, 0, 0, 0, 0, 0, 0})
			_, _ = io.Copy(io.Discard, nc)
			nc.Close()
		}
	}()
	_, err = ask(t, newClient(t, filesOf(certtest.NewAuthority(t, "x"), nil), nil, false), l.Addr().String())
	if got := Advice("target", err); !strings.Contains(got, "target_port") {
		t.Errorf("error %v, advice %q; want one about target_port", err, got)
	}
}

func TestTheListenerTakesTLS12And13AndNothingOlder(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "proxies")
	conf, err := NewServer(filesOf(ca, ca.Issue(t, "127.0.0.1")), false, quiet)
	if err != nil {
		t.Fatal(err)
	}
	addr := serveTLS(t, "127.0.0.1:0", conf)
	for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		nc, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.Pool, MinVersion: version, MaxVersion: version})
		if (err == nil) != want {
			t.Errorf("%s: error %v, want success %t", tls.VersionName(version), err, want)
		}
		if err == nil {
			nc.Close()
		}
	}
}

func TestAListenerThatRequiresACertificateTakesItsAuthoritysOnly(t *testing.T) {
	t.Parallel()
	ca, stranger := certtest.NewAuthority(t, "both"), certtest.NewAuthority(t, "stranger")
	conf, err := NewServer(filesOf(ca, ca.Issue(t, "127.0.0.1")), true, quiet)
	if err != nil {
		t.Fatal(err)
	}
	addr := serveTLS(t, "127.0.0.1:0", conf)
	good := newClient(t, filesOf(ca, ca.Issue(t, "client")), nil, true)
	if got, err := ask(t, good, addr); err != nil || got != "client" {
		t.Errorf("with a certificate: %q, %v; want the name client", got, err)
	}
	for name, p := range map[string]*certtest.Pair{"none": nil, "a stranger's": stranger.Issue(t, "client")} {
		_, err := ask(t, newClient(t, filesOf(ca, p), nil, true), addr)
		if ProblemOf(err) != Rejected || !strings.Contains(Advice("origin", err), "origin_tls_client_cert_path") {
			t.Errorf("with the certificate %s: %v, want a rejection with advice", name, err)
		}
	}
}

func TestNewFilesServeNewConnectionsAndBrokenOnesDoNot(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	first, second := ca.Issue(t, "first"), ca.Issue(t, "second")
	var log strings.Builder
	var mu sync.Mutex
	c, err := NewClient(filesOf(ca, first), nil, false, slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	c.files.every = 0
	addr := serveTLS(t, "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{ca.Issue(t, "127.0.0.1").TLS}, ClientAuth: tls.RequestClientCert})
	expect := func(want string) {
		t.Helper()
		if got, err := ask(t, c, addr); err != nil || got != want {
			t.Errorf("the server saw %q, %v; want %q", got, err, want)
		}
	}
	expect("first")
	certtest.Write(t, first.CertFile, second.CertPEM) // without its key yet
	expect("first")
	certtest.Write(t, first.KeyFile, second.KeyPEM)
	expect("second")
	certtest.Write(t, first.KeyFile, []byte("garbage"))
	expect("second")
	expect("second")
	if err := os.Remove(first.KeyFile); err != nil {
		t.Fatal(err)
	}
	expect("second")
	certtest.Write(t, first.CertFile, first.CertPEM)
	certtest.Write(t, first.KeyFile, first.KeyPEM)
	expect("first")
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Count(log.String(), "changed TLS files are not used"); got != 3 {
		t.Errorf("%d complaints, want one for each of the 3 bad states:\n%s", got, log.String())
	}
	if strings.Contains(log.String(), "garbage") {
		t.Errorf("the log shows what is in a file:\n%s", log.String())
	}
}

func TestFilesAreLookedAtOnlyNowAndThen(t *testing.T) {
	t.Parallel()
	reads := 0
	path := filepath.Join(t.TempDir(), "f")
	r, err := Load(quiet, func() (int, error) { reads++; return reads, nil }, path, "")
	if err != nil {
		t.Fatal(err)
	}
	r.every = time.Hour
	certtest.Write(t, path, []byte("new"))
	if got := r.Current(); got != 1 {
		t.Errorf("within the interval: version %d, want 1", got)
	}
	r.looked.Store(0)
	if got := r.Current(); got != 2 {
		t.Errorf("after the interval: version %d, want 2", got)
	}
}

func TestEachBadFileIsToldWithItsSettingAndWhatToDo(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	pair, other := ca.Issue(t, "a"), ca.Issue(t, "b")
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		certtest.Write(t, path, []byte(text))
		return path
	}
	encrypted := put("enc.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
	store := put("store.jks", "\xfe\xed\xfe\xed\x00\x00")
	bad := put("bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	missing := filepath.Join(dir, "missing.pem")
	for _, test := range []struct {
		name          string
		ca, cert, key string
		want          []string
	}{
		{"missing, both", missing, missing, pair.KeyFile, []string{
			"ca_path: open " + missing + ": no such file or directory; give a PEM file that the proxy may read",
			"cert_path: open " + missing + ": no such file or directory; give a PEM file that the proxy may read"}},
		{"key where the authority should be", pair.KeyFile, "", "", []string{
			"ca_path: " + pair.KeyFile + ` holds no certificate in PEM; give a file with "-----BEGIN CERTIFICATE-----"`}},
		{"Java key store", store, "", "", []string{
			"ca_path: " + store + " holds no certificate in PEM; it is a Java key store: convert it with keytool -importkeystore to PKCS #12, and that with openssl pkcs12 -nodes"}},
		{"certificate where the key should be", ca.File, pair.CertFile, pair.CertFile, []string{
			"key_path: " + pair.CertFile + ` holds no private key in PEM; give a file with "-----BEGIN PRIVATE KEY-----"`}},
		{"encrypted key", ca.File, pair.CertFile, encrypted, []string{
			"key_path: " + encrypted + " holds an encrypted key; decrypt it with openssl pkey, and protect the file by its mode"}},
		{"key of another certificate", ca.File, pair.CertFile, other.KeyFile, []string{
			"key_path: " + other.KeyFile + " is not the key of the certificate in " + pair.CertFile + "; give the two that belong together"}},
		{"damaged certificate", bad, "", "", []string{
			"ca_path: " + bad + " holds a certificate (the 1.) that cannot be read: x509: malformed certificate; export it again"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := NewClient(Files{CA: File{"ca_path", test.ca}, Cert: File{"cert_path", test.cert}, Key: File{"key_path", test.key}}, nil, false, quiet)
			var e *config.Error
			if !errors.As(err, &e) {
				t.Fatalf("error is %T (%v), want *config.Error", err, err)
			}
			if diff := cmp.Diff(test.want, e.Problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestACertificateThatEndsSoonIsWarnedOf(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	for days, want := range map[int]bool{1: true, 60: false} {
		var log strings.Builder
		p := ca.IssueUntil(t, time.Now().Add(time.Duration(days)*24*time.Hour), "a")
		if _, err := NewServer(filesOf(ca, p), false, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log.String(), "setting=cert_path"); got != want {
			t.Errorf("%d days left: warned %t, want %t: %s", days, got, want, log.String())
		}
	}
}

func TestErrorsOfOtherKindsGetNoAdvice(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, io.EOF, context.DeadlineExceeded, &net.OpError{Op: "dial", Err: errors.New("connection refused")}, x509.ErrUnsupportedAlgorithm} {
		if Advice("origin", err) != "" || ClientAdvice(err) != "" {
			t.Errorf("%v: got TLS advice", err)
		}
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}
