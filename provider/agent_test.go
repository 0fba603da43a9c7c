package provider

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

const fakeToken = "let-me-in-2718"

// fakeAgent is an agent without a proxy: it keeps what it is told and checks it
// as the real one does. Tests make it misbehave.
type fakeAgent struct {
	name   string
	server *httptest.Server

	mu      sync.Mutex
	cfg     adminapi.Config // with the secrets' values
	phase   adminapi.Phase
	pid     int
	clients int
	calls   []string // that changed something
	tokens  int

	// What tests set.
	refuse     string // why it refuses to prepare
	dropCommit bool   // it closes the connection at a commit
	failPut    string // why the proxy does not come up with a configuration
	down       bool   // it closes every connection
	// failRestart is why it does not restart.
	failRestart string
	recent      adminapi.Recent
	marks       []adminapi.Mark
	notReady    string
}

func newFakeAgent(t *testing.T, name string) *fakeAgent {
	t.Helper()
	a := &fakeAgent{name: name, pid: 1000}
	a.server = httptest.NewTLSServer(a)
	a.server.Config.ErrorLog = nil
	t.Cleanup(a.server.Close)
	return a
}

// set changes what tests set.
func (a *fakeAgent) set(change func(*fakeAgent)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

// took returns what it was told to do since the last call of took.
func (a *fakeAgent) took() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := a.calls
	a.calls = nil
	return calls
}

func (a *fakeAgent) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.server.Certificate().Raw}))
}

func refusal(status int, kind, format string, args ...any) *adminapi.Problem {
	p := adminapi.NewProblem(adminapi.Kind(kind), format, args...)
	p.Status, p.Title = status, strings.ReplaceAll(kind, "-", " ")
	return p
}

func (a *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down || a.dropCommit && r.URL.Path == adminapi.PathPhaseCommit {
		panic(http.ErrAbortHandler)
	}
	out, err := a.answer(r)
	if err != nil {
		w.Header().Set("Content-Type", adminapi.ProblemType)
		w.WriteHeader(err.Status)
		_ = json.NewEncoder(w).Encode(err)
		return
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (a *fakeAgent) answer(r *http.Request) (any, *adminapi.Problem) {
	if r.Header.Get("Authorization") != "Bearer "+fakeToken {
		return nil, refusal(401, "unauthorized", "the token is not known; give the agent's")
	}
	match := func(want uint64) *adminapi.Problem {
		if got := r.Header.Get("If-Match"); got != strconv.Quote(strconv.FormatUint(want, 10)) {
			return refusal(412, "stale", "it is %d, the request was for %s; read it again", want, got)
		}
		return nil
	}
	read := func(to any) *adminapi.Problem {
		if err := json.NewDecoder(r.Body).Decode(to); err != nil {
			return refusal(400, "body", "%v", err)
		}
		return nil
	}
	switch r.Method + " " + r.URL.Path {
	case "GET " + adminapi.PathStatus:
		return a.status(), nil
	case "GET " + adminapi.PathConfig:
		return a.shown(), nil
	case "PUT " + adminapi.PathConfig:
		var in adminapi.Config
		if p := read(&in); p != nil {
			return nil, p
		}
		return a.put(in, match(a.cfg.Generation))
	case "POST " + adminapi.PathRestart:
		if a.failRestart != "" {
			return nil, refusal(502, "apply-failed", "%s; the process that ran before runs on", a.failRestart)
		}
		a.pid++
		a.calls = append(a.calls, "restart")
		return a.status(), nil
	case "POST " + adminapi.PathPhasePrepare:
		var in adminapi.PrepareRequest
		if p := read(&in); p != nil {
			return nil, p
		}
		return a.prepare(in, match(a.phase.Epoch))
	case "POST " + adminapi.PathPhaseCommit:
		var in adminapi.CommitRequest
		if p := read(&in); p != nil {
			return nil, p
		}
		p := a.phase.Prepared
		if p == nil || p.Token != in.Token {
			return nil, refusal(409, "conflict", "nothing is prepared under this token; prepare again")
		}
		a.move(p.Phase)
		return a.phase, nil
	case "POST " + adminapi.PathPhaseAbort:
		a.phase.Prepared = nil
		a.calls = append(a.calls, "abort")
		return a.phase, nil
	}
	return nil, refusal(404, "not-found", "%s %s", r.Method, r.URL.Path)
}

// move takes a step; tests use it to change an instance behind Terraform's back.
func (a *fakeAgent) move(to phase.Phase) {
	a.phase = adminapi.Phase{Phase: to, Previous: a.phase.Phase, Epoch: a.phase.Epoch + 1, Since: time.Now().UTC().Truncate(time.Second)}
	a.calls = append(a.calls, "commit "+to.String())
}

func (a *fakeAgent) shown() adminapi.Config {
	c := a.cfg
	c.Running = c.Generation
	c.Secrets = map[string]string{}
	for key, text := range a.cfg.Secrets {
		c.Secrets[key] = secret.New(text).Digest(a.name)
	}
	return c
}

func (a *fakeAgent) put(in adminapi.Config, stale *adminapi.Problem) (any, *adminapi.Problem) {
	secrets := map[string]string{}
	maps.Copy(secrets, a.cfg.Secrets)
	maps.Copy(secrets, in.Secrets)
	maps.DeleteFunc(secrets, func(_, text string) bool { return text == "" })
	switch {
	case a.cfg.ClusterID != "" && a.cfg.ClusterID != in.ClusterID:
		return nil, refusal(409, "conflict", "this instance belongs to cluster %q", a.cfg.ClusterID)
	case a.cfg.ClusterID != "" && maps.Equal(in.Settings, a.cfg.Settings) && maps.Equal(secrets, a.cfg.Secrets):
		a.calls = append(a.calls, "put, nothing new")
		return a.shown(), nil
	case stale != nil:
		return nil, stale
	}
	values := maps.Clone(in.Settings)
	maps.Copy(values, secrets)
	if _, err := config.Parse(values); err != nil {
		p := refusal(422, "invalid-config", "correct the settings")
		p.Problems = err.(*config.Error).Problems
		return nil, p
	}
	if a.failPut != "" {
		return nil, refusal(502, "apply-failed", "%s; generation %d runs on", a.failPut, a.cfg.Generation)
	}
	in.Generation, in.Secrets = a.cfg.Generation+1, secrets
	a.cfg = in
	a.pid++
	a.calls = append(a.calls, "put")
	return a.shown(), nil
}

func (a *fakeAgent) prepare(in adminapi.PrepareRequest, stale *adminapi.Problem) (any, *adminapi.Problem) {
	if stale != nil {
		return nil, stale
	}
	if err := phase.CheckMove(a.phase.Phase, in.Phase, in.ForceReason != ""); err != nil {
		return nil, refusal(409, "illegal-move", "%v", err)
	}
	if a.cfg.Generation == 0 {
		return nil, refusal(409, "not-ready", "the instance is locked; PUT a configuration first")
	}
	if a.refuse != "" {
		return nil, refusal(409, "not-ready", "%s", a.refuse)
	}
	a.tokens++
	a.phase.Prepared = &adminapi.Prepared{Phase: in.Phase, Token: fmt.Sprint(a.name, a.tokens), Expires: time.Now().Add(time.Duration(in.LeaseSeconds) * time.Second)}
	a.calls = append(a.calls, "prepare "+in.Phase.String())
	return a.phase, nil
}

func (a *fakeAgent) status() adminapi.Status {
	s := adminapi.Status{State: adminapi.Locked, ClusterID: a.cfg.ClusterID, Instance: a.cfg.Instance, Version: "fake",
		Generation: a.cfg.Generation, Running: a.cfg.Generation, Phase: a.phase}
	if a.cfg.Generation == 0 {
		s.NotReady = []string{"no configuration"}
		return s
	}
	s.State, s.Ready = adminapi.Configured, a.notReady == ""
	s.Recent, s.Marks = a.recent, a.marks
	if a.notReady != "" {
		s.NotReady = []string{a.notReady}
	}
	if a.phase.Phase != phase.None {
		s.State = adminapi.Serving
	}
	s.Proxy = &control.Status{PID: a.pid, Clients: a.clients, Requests: 42,
		Origin: control.Cluster{Connected: true, ClusterName: "old", Nodes: 3, NodesUp: 3, SchemaVersion: "o", Clock: &control.Clock{}},
		Target: control.Cluster{SchemaVersion: "t", Clock: &control.Clock{}}}
	return s
}
