// Package faults_test runs the application through our real appliances, onto
// real clusters, while processes are killed and paused under it.
package faults_test

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/appliance/rollout"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/demo"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestMain(m *testing.M) { labtest.Main(m, lab.Options{}) }

// answerTime bounds how long a request may be in flight: the driver's ordinary
// time-out is 11 s.
const answerTime = 15 * time.Second

func TestAfterEachFaultEveryAcknowledgedWriteIsOnBothClusters(t *testing.T) {
	s := start(t)
	target := s.lab.Target.Nodes[0]
	for _, fault := range []struct {
		name  string
		phase phase.Phase // changed at the same time; None is no change
		do    func()
	}{
		{"nothing happens", phase.None, func() { s.requests(200) }},
		{"a proxy process is killed", phase.None, func() { s.killProxy(s.lab.Appliances[0])() }},
		{"a proxy process is killed during a phase change", phase.DualRead, func() { s.killProxy(s.lab.Appliances[1])() }},
		{"the target node is paused for 5 s", phase.None, func() { s.pause(target, 5*time.Second) }},
		{"the target node is paused during a phase change", phase.CutOver, func() { s.pause(target, 2*time.Second) }},
		{"the target node is killed and started again", phase.None, func() {
			s.must(target.Kill())
			s.must(target.Start(t.Context()))
		}},
		{"all at once", phase.DualRead, func() {
			s.must(target.Stop())
			back := s.killProxy(s.lab.Appliances[0])
			s.must(target.Kill())
			s.must(target.Start(t.Context()))
			back() // it cannot serve without the target
		}},
	} {
		before := s.app.Stats().Total
		changed := make(chan error, 1)
		go func() { changed <- s.change(fault.phase) }()
		fault.do()
		if err := <-changed; err != nil {
			t.Fatalf("%s: change of the phase to %s: %v", fault.name, fault.phase, err)
		}
		s.recover(fault.name)
		after := s.verify(fault.name)
		t.Logf("%s: %d requests, %d failed", fault.name, after.Requests-before.Requests, after.Failures-before.Failures)
	}
	for _, p := range s.app.Stats().Problems {
		t.Logf("%s: %s", p.Op, p.Text)
	}
}

// scene is a lab in phase dual_write with an application connected.
type scene struct {
	t       *testing.T
	lab     *lab.Lab
	fleet   map[string]agent
	app     *load.Load
	journal string
}

func start(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, lab: labtest.Own(t, lab.Options{Proxies: 2}), fleet: map[string]agent{}, journal: filepath.Join(t.TempDir(), "journal.ndjson")}
	s.must(demo.Setup(t.Context(), s.lab))
	for i, a := range s.lab.Appliances {
		c, err := a.Client()
		s.must(err)
		t.Cleanup(c.Close)
		_, err = c.PutConfig(t.Context(), config(s.lab, i), 0)
		s.must(err)
		s.fleet[a.Name] = agent{c}
	}
	s.must(s.change(phase.DualWrite))

	to, err := demo.Endpoint(s.lab, "proxies")
	s.must(err)
	// An application waits for up to a minute until it uses a proxy again that
	// it has lost; the test has no time for that, and nothing depends on it.
	to.Reconnect = time.Second
	session, err := load.Connect(to)
	s.must(err)
	t.Cleanup(session.Close)
	records, err := journal.Create(s.journal)
	s.must(err)
	s.app, err = load.New(load.Config{Client: load.NewCQL(session), Journal: records, Rate: 200})
	s.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.app.Serve(ctx) }()
	t.Cleanup(func() {
		s.app.Resume()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("load: %v", err)
		}
	})
	return s
}

// config is the whole configuration of one appliance.
func config(l *lab.Lab, i int) *adminapi.Config {
	var addresses []string
	for _, a := range l.Appliances {
		addresses = append(addresses, a.ListenAddress)
	}
	a := l.Appliances[i]
	c := &adminapi.Config{ClusterID: "faults", Instance: a.Name, Secrets: map[string]string{}, Settings: map[string]string{
		"proxy_listen_address": a.ListenAddress, "proxy_listen_port": strconv.Itoa(a.Port), "metrics_address": a.ListenAddress,
		"proxy_topology_addresses": strings.Join(addresses, ","), "proxy_topology_index": strconv.Itoa(i),
	}}
	for _, side := range phase.Sides {
		of, name := l.Cluster(side), side.String()
		c.Settings[name+"_contact_points"] = strings.Join(of.ContactPoints(), ",")
		c.Settings[name+"_port"] = strconv.Itoa(of.Port)
		c.Settings[name+"_username"] = of.Username
		c.Secrets[name+"_password"] = of.Password
	}
	return c
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// until polls, since real processes are waited for.
func (s *scene) until(what string, within time.Duration, done func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(within)
	for !done() {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %s: %s; load: %+v", within, what, s.app.Stats().Total)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// requests returns after n more requests.
func (s *scene) requests(n int) {
	s.t.Helper()
	n += s.app.Stats().Total.Requests
	s.until("requests go on", time.Minute, func() bool { return s.app.Stats().Total.Requests >= n })
}

// killProxy kills a proxy process; what it returns waits until the next one
// serves. The agent has two seconds for that; a busy machine gets more.
func (s *scene) killProxy(a *lab.Appliance) (back func()) {
	s.t.Helper()
	old, err := a.KillProxy(s.t.Context())
	s.must(err)
	killed := time.Now()
	return func() {
		s.t.Helper()
		s.until(a.Name+" has another proxy", time.Minute, func() bool {
			status, err := a.Status(s.t.Context())
			return err == nil && status.Proxy != nil && status.Proxy.PID != old && status.Proxy.ListenAddress != ""
		})
		s.t.Logf("%s serves again %s after its proxy was killed", a.Name, time.Since(killed).Round(time.Millisecond))
	}
}

func (s *scene) pause(n *lab.Node, d time.Duration) {
	s.t.Helper()
	s.must(n.Stop())
	begin := time.Now()
	s.until("the pause is over", 2*d, func() bool { return time.Since(begin) >= d })
	s.must(n.Continue())
}

// change takes all instances to a phase; a step that is refused because of a
// fault is tried again until the fault is over.
func (s *scene) change(to phase.Phase) error {
	if to == phase.None {
		return nil
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		_, err := rollout.ChangePhase(s.t.Context(), s.fleet, to, "", rollout.Timing{Patience: time.Minute, Poll: 100 * time.Millisecond})
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// recover waits until a hundred requests in a row succeeded.
func (s *scene) recover(fault string) {
	s.t.Helper()
	last := s.app.Stats().Total
	s.until("after "+fault+" requests succeed again", time.Minute, func() bool {
		now := s.app.Stats().Total
		if now.Failures != last.Failures {
			last = now
		}
		return now.Requests >= last.Requests+100
	})
	s.until("after "+fault+" the driver is connected to both proxies", time.Minute, func() bool {
		for _, a := range s.fleet {
			if status, err := a.Status(s.t.Context()); err != nil || status.Proxy == nil || status.Proxy.Clients == 0 {
				return false
			}
		}
		return true
	})
}

// verify pauses the load, which proves that every request ended, and compares
// both clusters with what the application was told.
func (s *scene) verify(fault string) load.Visit {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), answerTime)
	defer cancel()
	if err := s.app.Pause(ctx); err != nil {
		s.t.Fatalf("after %s not every request has ended: %v", fault, err)
	}
	for name, a := range s.fleet {
		status, err := a.Status(s.t.Context())
		s.must(err)
		if status.Proxy.InFlight != 0 {
			s.t.Errorf("after %s, %s has %d requests in flight while the application has none", fault, name, status.Proxy.InFlight)
		}
	}
	model, err := journal.Load(s.journal)
	s.must(err)
	reports, err := demo.Verify(s.t.Context(), s.lab, model, phase.Both, time.Time{})
	s.must(err)
	for _, r := range reports {
		if len(r.Findings) > 0 {
			s.t.Errorf("after %s, %s has %s of %d rows; the first: %s", fault, r.Side, r.Count(), r.Rows, r.Findings[0])
		}
	}
	total := s.app.Stats().Total
	if total.Wrong > 0 {
		s.t.Errorf("after %s, %d reads were wrong: %v", fault, total.Wrong, s.app.Stats().Problems)
	}
	s.app.Resume()
	return total
}

// agent makes a client of the admin API what rollout wants.
type agent struct{ c *client.Client }

func value[T any](v *T, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return *v, nil
}

func (a agent) Status(ctx context.Context) (adminapi.Status, error) { return value(a.c.Status(ctx)) }
func (a agent) Prepare(ctx context.Context, r adminapi.PrepareRequest, epoch uint64) (adminapi.Phase, error) {
	return value(a.c.Prepare(ctx, r, epoch))
}
func (a agent) Commit(ctx context.Context, token string) (adminapi.Phase, error) {
	return value(a.c.Commit(ctx, token))
}
func (a agent) Abort(ctx context.Context, token string) (adminapi.Phase, error) {
	return value(a.c.Abort(ctx, token))
}
