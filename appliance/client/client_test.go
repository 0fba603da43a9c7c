package client_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const token = "token-of-the-client-tests"

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func caOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func dial(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestCallsCarryTokenETagAndBody(t *testing.T) {
	t.Parallel()
	var got []string
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = append(got, strings.Join([]string{r.Method, r.URL.String(), r.Header.Get("If-Match"), string(b)}, " "))
		if r.Header.Get("Authorization") != "Bearer "+token {
			t.Errorf("Authorization is %q", r.Header.Get("Authorization"))
		}
		_, _ = io.WriteString(w, "{}")
	})
	c := dial(t, client.Options{URL: s.URL, CA: caOf(s), Token: secret.New(token)})
	ctx := t.Context()
	calls := []func() error{
		func() error { _, err := c.Status(ctx); return err },
		func() error { _, err := c.Config(ctx); return err },
		func() error { _, err := c.PutConfig(ctx, &adminapi.Config{ClusterID: "c"}, 7); return err },
		func() error { _, err := c.Phase(ctx); return err },
		func() error {
			_, err := c.Prepare(ctx, adminapi.PrepareRequest{Phase: phase.CutOver}, 3)
			return err
		},
		func() error { _, err := c.Commit(ctx, "tok"); return err },
		func() error { _, err := c.Abort(ctx, "tok"); return err },
		func() error { _, err := c.Restart(ctx, "why"); return err },
		func() error { _, err := c.Events(ctx, 12); return err },
		func() error { _, err := c.CheckConfig(ctx, &adminapi.Config{ClusterID: "c"}, 7); return err },
		func() error { _, err := c.Drain(ctx, adminapi.DrainRequest{UntilReboot: true}); return err },
		func() error { _, err := c.Resume(ctx, adminapi.ResumeRequest{Reason: "why"}); return err },
		func() error { _, err := c.Marks(ctx); return err },
		func() error { _, err := c.PutMark(ctx, "done", adminapi.MarkRequest{Reason: "r"}, 4); return err },
		func() error { _, err := c.DeleteMark(ctx, "a/b", 5); return err },
		func() error { _, err := c.Logs(ctx, client.LogFilter{After: 3, Tail: 4, Source: "proxy"}); return err },
		func() error {
			_ = c.FollowEvents(ctx, 6, func(adminapi.Event) error { return nil })
			return nil
		},
	}
	for i, call := range calls {
		if err := call(); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	want := []string{
		`GET /v1/status  `, `GET /v1/config  `,
		`PUT /v1/config "7" {"cluster_id":"c","instance":"","settings":null,"generation":0,"running":0}`,
		`GET /v1/phase  `,
		`POST /v1/phase/prepare "3" {"phase":"cut_over"}`,
		`POST /v1/phase/commit  {"token":"tok"}`, `POST /v1/phase/abort  {"token":"tok"}`,
		`POST /v1/restart  {"reason":"why"}`, `GET /v1/events?after=12  `,
		`PUT /v1/config?dry_run=true "7" {"cluster_id":"c","instance":"","settings":null,"generation":0,"running":0}`,
		`POST /v1/drain  {"until_reboot":true}`, `POST /v1/resume  {"reason":"why"}`,
		`GET /v1/marks  `, `PUT /v1/marks/done "4" {"reason":"r"}`, `DELETE /v1/marks/a%2Fb "5" `,
		`GET /v1/logs?after=3&source=proxy&tail=4  `, `GET /v1/events?after=6&follow=true  `,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestProblemsAreTyped(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", adminapi.ProblemType+"; charset=utf-8")
		w.WriteHeader(422)
		_ = json.NewEncoder(w).Encode(&adminapi.Problem{Type: adminapi.NewProblem(adminapi.InvalidConfig, "").Type, Status: 422, Problems: []string{"origin_port: no"}})
	})
	c := dial(t, client.Options{URL: s.URL, CA: caOf(s)})
	_, err := c.PutConfig(t.Context(), &adminapi.Config{}, 0)
	var p *adminapi.Problem
	if !errors.As(err, &p) || p.Kind() != adminapi.InvalidConfig || len(p.Problems) != 1 {
		t.Errorf("got %v (%T)", err, err)
	}
}

func TestAnswersOfSomethingElseAreNotBelieved(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"an error page", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) }, "without a problem document"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) }, "302"},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "compare the versions"},
	} {
		s := serve(t, test.answer)
		c := dial(t, client.Options{URL: s.URL, CA: caOf(s), Token: secret.New(token)})
		if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q in it", test.name, err, test.want)
		}
	}
}

func TestUnreachableInstanceIsToldWithTheNextStep(t *testing.T) {
	t.Parallel()
	good := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "{}") })
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	cut := serve(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "https://" + l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(good.Listener.Addr().String())
	for _, test := range []struct {
		name string
		o    client.Options
		want string
		sent bool
	}{
		{"nobody listens", client.Options{URL: closed}, "look whether the agent runs there", false},
		{"another CA", client.Options{URL: good.URL}, "give the CA", false},
		{"another name", client.Options{URL: "https://127.0.0.2:" + port, CA: caOf(good)}, "", false},
		{"no TLS", client.Options{URL: strings.Replace(plain.URL, "http:", "https:", 1)}, "does not speak TLS", false},
		{"silent", client.Options{URL: slow.URL, CA: caOf(slow), Timeout: 50 * time.Millisecond}, "read the status", true},
		{"cut", client.Options{URL: cut.URL, CA: caOf(cut)}, "closed before the answer", true},
		{"no socket", client.Options{Socket: filepath.Join(t.TempDir(), "no.sock")}, "socket's path", false},
	} {
		c := dial(t, test.o)
		_, err := c.Status(t.Context())
		var e *client.UnreachableError
		if !errors.As(err, &e) {
			t.Errorf("%s: got %v (%T)", test.name, err, err)
			continue
		}
		if e.Sent != test.sent || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "GET /v1/status") {
			t.Errorf("%s: sent %t, %v; want %t and %q", test.name, e.Sent, err, test.sent, test.want)
		}
	}
}

func TestContextEndsACall(t *testing.T) {
	t.Parallel()
	began := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server see the client go
		close(began)
		<-r.Context().Done()
	})
	c := dial(t, client.Options{URL: s.URL, CA: caOf(s)})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	if _, err := c.Restart(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestBadOptionsAreToldBeforeAnyCall(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		o    client.Options
		want string
	}{
		{client.Options{URL: "http://10.0.0.1"}, "over TLS only"},
		{client.Options{URL: "10.0.0.1:8443"}, "https://"},
		{client.Options{URL: "https://me:pw@10.0.0.1"}, "remove the rest"},
		{client.Options{URL: "https://10.0.0.1/v1"}, "remove the rest"},
		{client.Options{URL: "https://10.0.0.1", CA: []byte("/etc/ca.pem")}, "no PEM certificate"},
		{client.Options{URL: "https://10.0.0.1", Key: secret.New("key")}, "client certificate"},
	} {
		if _, err := client.New(test.o); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "pw") {
			t.Errorf("%s: got %v, want %q in it", test.o.URL, err, test.want)
		}
	}
	if got := dial(t, client.Options{URL: "https://[::1]"}).String(); got != "https://[::1]:8443" {
		t.Errorf("the default port: %s", got)
	}
}

func TestErrorsShowNoToken(t *testing.T) {
	t.Parallel()
	c := dial(t, client.Options{URL: "https://127.0.0.1:1", Token: secret.New(token)})
	if _, err := c.Status(t.Context()); err == nil || strings.Contains(err.Error(), token) {
		t.Errorf("got %v", err)
	}
}

func TestUnixSocketNeedsNoTLS(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "zdm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{"state":"locked"}`) }))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	st, err := dial(t, client.Options{Socket: path}).Status(t.Context())
	if err != nil || st.State != adminapi.Locked {
		t.Errorf("got %+v, %v", st, err)
	}
}
