package adminhttp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance"
	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/recent"
	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
	"github.com/zdmproject/terraform-provider-zdm/appliance/supervise"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// noProcesses is for agents that do not come to start one.
type noProcesses struct{}

func (noProcesses) Start() (supervise.Process, error)       { return nil, errors.New("none here") }
func (noProcesses) StartProven() (supervise.Process, error) { return nil, errors.New("none here") }
func (noProcesses) Prove(supervise.Process) error           { return nil }
func (noProcesses) Running() ([]supervise.Process, error)   { return nil, nil }

// newHandler is that of an agent that does not run.
func newHandler(t *testing.T) *Handler {
	t.Helper()
	s, err := store.OpenFS(store.Dir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Events: recent.NewEvents(time.Now), Logs: recent.NewLogs(time.Now), Log: slog.New(slog.DiscardHandler)}
	if o.Agent, err = appliance.New(appliance.Options{Store: s, Maker: noProcesses{}, Log: o.Log, Events: o.Events, Logs: o.Logs}); err != nil {
		t.Fatal(err)
	}
	o.Metrics = NewMetrics(o.Agent)
	return New(o)
}

func TestEveryCallHasAHandler(t *testing.T) {
	t.Parallel()
	for _, c := range adminapi.Calls {
		if handlers[c.ID] == nil {
			t.Errorf("%s %s has none", c.Method, c.Path)
		}
	}
	if len(handlers) != len(adminapi.Calls) {
		t.Errorf("%d handlers for %d calls", len(handlers), len(adminapi.Calls))
	}
}

func TestBodyThatDoesNotComeIsGivenUp(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newHandler(t).NewServer()
	if s.ReadTimeout == 0 || s.ReadHeaderTimeout == 0 || s.WriteTimeout == 0 || s.MaxHeaderBytes == 0 {
		t.Error("the server has no bounds")
	}
	s.ReadTimeout = 100 * time.Millisecond // nobody waits for the real one
	go s.Serve(l)
	defer s.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: x\r\nIf-Match: \"0\"\r\nContent-Length: 100\r\n\r\n{\"cluster_id\":", adminapi.PathConfig)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusRequestTimeout || !strings.Contains(string(b), "did not come in time") {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}

func TestErrorsBecomeProblems(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err    error
		kind   adminapi.Kind
		detail string
	}{
		{fmt.Errorf("wrapped: %w", adminapi.NewProblem(adminapi.Stale, "x")), adminapi.Stale, "x"},
		{&config.Error{Problems: []string{"a: bad", "b: bad"}}, adminapi.InvalidConfig, "2 settings"},
		{&config.Error{Problems: []string{"a: bad"}}, adminapi.InvalidConfig, "a setting"},
		{phase.CheckMove(phase.DualWrite, phase.TargetOnly, false), adminapi.IllegalMove, "dual_write"},
		{errors.New("no space left on device"), adminapi.Internal, "no space left on device"},
	} {
		if p := asProblem(test.err); p.Kind() != test.kind || !strings.Contains(p.Detail, test.detail) {
			t.Errorf("%v became %s: %s", test.err, p.Kind(), p.Detail)
		}
	}
}

func TestFollowersAreBounded(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	for range maxFollowers {
		h.followers <- struct{}{}
	}
	r, _ := http.NewRequest(http.MethodGet, adminapi.PathEvents+"?follow=true", nil)
	if got := h.readEvents(&request{Request: r}); !adminapi.IsProblem(got.err, adminapi.TooMany) {
		t.Errorf("one more follower gets %+v", got)
	}
}
