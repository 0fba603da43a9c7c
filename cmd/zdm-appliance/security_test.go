package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/access"
	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/internal/certtest"
)

const (
	readerToken  = "fedcba9876543210-of-the-reader"
	expiredToken = "00112233445566778899-expired"
)

// guarded is an agent as an operator sets it up: an access file, an authority
// for callers, certificates if they like.
type guarded struct {
	dir, address string
	log          *output
	server       *x509.CertPool
	callers      *certtest.Authority
}

func accessText(extra string) string {
	return fmt.Sprintf(`
tokens:
  - {name: grafana, role: read, sha256: %s}
  - {name: old, role: write, sha256: %s, expires: 2020-01-01T00:00:00Z}
certificates:
  - {name: ops, role: write, san: ops.example}
  - {name: prometheus, role: read, subject: "CN=prometheus.example"}
%s`, access.HashToken(readerToken), access.HashToken(expiredToken), extra)
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	dir, args := files(t)
	g := &guarded{dir: dir, log: &output{}, callers: certtest.NewAuthority(t, "callers"), server: x509.NewCertPool()}
	certtest.Write(t, filepath.Join(dir, "callers.pem"), g.callers.PEM)
	certtest.Write(t, filepath.Join(dir, "access.yaml"), []byte(accessText("")))
	args = append(args, "-access-file", filepath.Join(dir, "access.yaml"), "-client-ca", filepath.Join(dir, "callers.pem"), "-client-auth", "optional")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, args, g.log, g.log) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		for _, secret := range []string{token, readerToken, expiredToken} {
			if strings.Contains(g.log.String(), secret) {
				t.Error("the log has a token")
			}
		}
	})
	var started struct{ Listen string }
	for deadline := time.Now().Add(10 * time.Second); started.Listen == ""; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the agent does not start: %s", g.log)
		}
		line, _, _ := strings.Cut(g.log.String(), "\n")
		_ = json.Unmarshal([]byte(line), &started)
	}
	g.address = started.Listen
	pem, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil || !g.server.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	return g
}

// call makes a call.
func (g *guarded) call(t *testing.T, method, path, body, bearer string, pair *certtest.Pair) (int, adminapi.Problem, error) {
	t.Helper()
	return g.callFrom(t, "127.0.0.1", method, path, body, bearer, pair)
}

func (g *guarded) callFrom(t *testing.T, from, method, path, body, bearer string, pair *certtest.Pair) (int, adminapi.Problem, error) {
	t.Helper()
	conf := &tls.Config{RootCAs: g.server}
	if pair != nil {
		conf.Certificates = []tls.Certificate{pair.TLS}
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true, DialContext: dialer.DialContext}}
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+g.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	req.Header.Set("If-Match", `"0"`)
	resp, err := c.Do(req)
	if err != nil {
		return 0, adminapi.Problem{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p adminapi.Problem
	_ = json.Unmarshal(b, &p)
	return resp.StatusCode, p, nil
}

// audited waits for an audit line that has all the parts.
func (g *guarded) audited(t *testing.T, parts ...string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		for line := range strings.Lines(g.log.String()) {
			if strings.Contains(line, `"msg":"audit"`) && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Errorf("no audit line has all of %q:\n%s", parts, g.log)
			return
		}
	}
}

const markPath = adminapi.PathMarks + "/checked"

func TestOnlyWhoIsKnownGetsInAndOnlyWithItsRole(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	ops, prometheus, unknown := g.callers.Issue(t, "ops.example"), g.callers.Issue(t, "prometheus.example"), g.callers.Issue(t, "nobody.example")
	for _, test := range []struct {
		name, method, path, bearer string
		pair                       *certtest.Pair
		status                     int
		kind                       adminapi.Kind
		audit                      []string // parts of a line; nil for none
	}{
		{"no token", "GET", adminapi.PathStatus, "", nil, 401, adminapi.Unauthorized, []string{`"caller":"nobody"`, "no bearer token"}},
		{"wrong token", "PUT", markPath, "wrong", nil, 401, adminapi.Unauthorized, []string{`"method":"PUT"`, "a wrong bearer token"}},
		{"expired token", "GET", adminapi.PathStatus, expiredToken, nil, 401, adminapi.Unauthorized, []string{"a token (old) that expired"}},
		{"reading by one who reads", "GET", adminapi.PathStatus, readerToken, nil, 200, "", nil},
		{"writing by one who reads", "PUT", markPath, readerToken, nil, 403, adminapi.Forbidden, []string{`"caller":"grafana (token)"`, `"problem":"forbidden"`}},
		{"a wrong token is not made good by a certificate", "GET", adminapi.PathStatus, "wrong", ops, 401, adminapi.Unauthorized, []string{"ops.example", "a wrong bearer token"}},
		{"a certificate that nobody is known by", "GET", adminapi.PathStatus, "", unknown, 401, adminapi.Unauthorized, []string{"nobody.example"}},
		{"reading by certificate", "GET", adminapi.PathMetrics, "", prometheus, 200, "", nil},
		{"writing by a certificate that reads", "PUT", markPath, "", prometheus, 403, adminapi.Forbidden, []string{`"caller":"prometheus (certificate)"`}},
		{"writing by certificate", "PUT", markPath, "", ops, 200, "", []string{`"caller":"ops (certificate)"`, `"status":200`, `"if_match":0`}},
		{"the one token", "DELETE", adminapi.PathMarks + "/none", token, nil, 200, "", []string{`"caller":"token-file (token)"`, `"method":"DELETE"`}},
	} {
		status, p, err := g.call(t, test.method, test.path, `{"reason":"r"}`, test.bearer, test.pair)
		if err != nil || status != test.status || p.Kind() != test.kind {
			t.Errorf("%s: %d %s, %v; want %d %s", test.name, status, p.Kind(), err, test.status, test.kind)
		}
		if test.audit != nil {
			g.audited(t, test.audit...)
		}
	}
}

func TestHandshakesThatAreNotGoodEnoughEndThere(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	foreign := certtest.NewAuthority(t, "callers") // another one of the same name
	for _, test := range []struct {
		name  string
		conf  *tls.Config
		audit string
	}{
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, "unsupported versions"},
		{"foreign certificate", &tls.Config{Certificates: []tls.Certificate{foreign.Issue(t, "ops.example").TLS}}, "unknown authority"},
		{"expired certificate", &tls.Config{Certificates: []tls.Certificate{g.callers.IssueUntil(t, time.Now().Add(-time.Minute), "ops.example").TLS}}, "expired"},
	} {
		test.conf.RootCAs = g.server
		conn, err := tls.Dial("tcp", g.address, test.conf)
		if err == nil { // in TLS 1.3 the client learns of it with its first read
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", adminapi.PathStatus, token)
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if err == nil {
			t.Errorf("%s: let in", test.name)
		}
		g.audited(t, `"problem":"tls"`, test.audit)
	}
}

func TestGuessingIsSlowedDownBySource(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	refused := 0
	for range 8 {
		status, p, err := g.callFrom(t, "127.0.0.7", "GET", adminapi.PathStatus, "", "wrong", nil)
		if err != nil || p.Kind() == "" {
			t.Fatal(status, err)
		}
		if status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("8 wrong tokens in a row were all looked at")
	}
	if status, _, _ := g.callFrom(t, "127.0.0.7", "GET", adminapi.PathStatus, "", token, nil); status != http.StatusTooManyRequests {
		t.Errorf("the right token from there, at once: %d", status)
	}
	if status, _, err := g.callFrom(t, "127.0.0.8", "GET", adminapi.PathStatus, "", token, nil); status != http.StatusOK {
		t.Errorf("the right token from elsewhere: %d, %v", status, err)
	}
	g.audited(t, `"problem":"too-many"`, "127.0.0.7")
}

func TestTokensAreRotatedByTheFileWithoutAGap(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	const next = "the-next-token-0123456789"
	write := func(text string) {
		t.Helper()
		certtest.Write(t, filepath.Join(g.dir, "access.yaml"), []byte(text))
	}
	status := func(bearer string) int {
		t.Helper()
		status, _, err := g.call(t, "GET", adminapi.PathStatus, "", bearer, nil)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	both := accessText("") // a name may have two tokens while one takes the other's place
	both = strings.Replace(both, "tokens:\n", "tokens:\n  - {name: grafana, role: read, sha256: "+access.HashToken(next)+"}\n", 1)
	write(both)
	if old, now := status(readerToken), status(next); old != 200 || now != 200 {
		t.Errorf("with both: %d and %d", old, now)
	}
	write(both + "\nnonsense")
	if old, now := status(readerToken), status(next); old != 200 || now != 200 {
		t.Errorf("with a file that cannot be read: %d and %d", old, now)
	}
	if n := strings.Count(g.log.String(), "the rules that were read before are in force"); n != 1 {
		t.Errorf("the bad file is told %d times, want once", n)
	}
	write(strings.Replace(both, access.HashToken(readerToken), access.HashToken("something-else-0123456789"), 1))
	if old, now := status(readerToken), status(next); old != 401 || now != 200 {
		t.Errorf("with the next alone: %d and %d", old, now)
	}
}

// raw sends bytes as they are and returns the status line of the answer.
func (g *guarded) raw(t *testing.T, request string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", g.address, &tls.Config{RootCAs: g.server, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		return err.Error()
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

func TestPathsAreWhatTheySay(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	for _, path := range []string{
		"//v1/status", "/v1//status", "/v1/./status", "/v1/x/../status", "/v1/%73tatus", "/v1/status/", "/v1/status%00", "/V1/STATUS", "/v1/marks/",
		"/v1/marks/../config", "/v1/marks/a%2f..%2f..%2fconfig", "/v1/marks/%2e%2e", "/v1/marks/{name}", "/v1/marks/a/b", "/", "*", "/etc/passwd", "/metrics/../v1/config",
	} {
		line := g.raw(t, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", path, token))
		if !strings.Contains(line, " 404 ") && !strings.Contains(line, " 400 ") {
			t.Errorf("GET %s: %s", path, line)
		}
		// Who is not let in learns nothing of what there is.
		line = g.raw(t, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path))
		if !strings.Contains(line, " 401 ") && !strings.Contains(line, " 400 ") {
			t.Errorf("GET %s without a token: %s", path, line)
		}
	}
}

func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	auth := "Authorization: Bearer " + token + "\r\nIf-Match: \"0\"\r\nHost: x\r\nConnection: close\r\n"
	for _, test := range []struct{ name, request, want string }{
		{"long headers", "GET /v1/status HTTP/1.1\r\n" + auth + "X-Long: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", " 431 "},
		{"a long body that is announced", "PUT /v1/config HTTP/1.1\r\n" + auth + "Content-Length: 2000000\r\n\r\n{\"cluster_id\":\"" + strings.Repeat("x", 1<<20) + `"}`, " 413 "},
		{"a long body in pieces", "PUT /v1/config HTTP/1.1\r\n" + auth + "Transfer-Encoding: chunked\r\n\r\n200000\r\n{\"cluster_id\":\"" + strings.Repeat("x", 2<<20-15) + "\r\n0\r\n\r\n", " 413 "},
		{"a long body without a token", "PUT /v1/config HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000000000\r\n\r\n", " 401 "},
	} {
		if line := g.raw(t, test.request); !strings.Contains(line, test.want) {
			t.Errorf("%s: %s, want %s", test.name, line, test.want)
		}
	}
	g.audited(t, `"status":413`, `"problem":"body"`)
}

func TestAnEarlierChangeCannotBeSentAgain(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	put := func(reason string) (int, adminapi.Problem) {
		t.Helper()
		status, p, err := g.call(t, "PUT", markPath, `{"reason":"`+reason+`"}`, token, nil) // If-Match is "0"
		if err != nil {
			t.Fatal(err)
		}
		return status, p
	}
	if status, _ := put("first"); status != 200 {
		t.Fatalf("the first: %d", status)
	}
	if status, p := put("second"); status != 412 || p.Kind() != adminapi.Stale {
		t.Errorf("another change of what was there before: %d %s", status, p.Kind())
	}
	g.audited(t, `"status":412`, `"problem":"stale"`, `"if_match":0`)
}
