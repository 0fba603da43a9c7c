package drivers_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/internal/certtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/faultconn"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// The load of each driver: so many workers, each of which pauses so long after a
// read, an idempotent write and another write.
const (
	workers     = 4
	pauseMillis = 20
)

// fleet is the lab's appliances, each with its proxy behind a relay.
type fleet struct {
	ring
	lab    *lab.Lab
	agents []*client.Client
}

func newFleet(t *testing.T, l *lab.Lab) *fleet {
	t.Helper()
	f := &fleet{lab: l}
	hosts := freeHosts(t, proxies)
	for i, a := range l.Appliances[:proxies] {
		api, err := a.Client()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(api.Close)
		f.agents = append(f.agents, api)
		f.addRelay(t, hosts[i], a.ListenAddress)
	}
	return f
}

// configure gives each agent its document, with more settings than it needs, and
// takes it to dual_write.
func (f *fleet) configure(t *testing.T, more map[string]string) {
	t.Helper()
	for i, api := range f.agents {
		a := f.lab.Appliances[i]
		doc := &adminapi.Config{ClusterID: "drivers", Instance: a.Name, Secrets: map[string]string{}, Settings: map[string]string{
			"proxy_listen_address": a.ListenAddress, "proxy_listen_port": strconv.Itoa(a.Port),
			"proxy_topology_addresses": strings.Join(f.addresses, ","), "proxy_topology_index": strconv.Itoa(i),
			"metrics_address": a.ListenAddress,
		}}
		maps.Copy(doc.Settings, more)
		for _, c := range f.lab.Clusters() {
			side := c.Side.String()
			doc.Settings[side+"_contact_points"] = strings.Join(c.ContactPoints(), ",")
			doc.Settings[side+"_port"] = strconv.Itoa(c.Port)
			doc.Settings[side+"_username"] = c.Username
			doc.Secrets[side+"_password"] = c.Password
		}
		have, err := api.Config(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if have.ClusterID != "" {
			doc.ClusterID = have.ClusterID
		}
		if _, err := api.PutConfig(t.Context(), doc, have.Generation); err != nil {
			t.Fatalf("%s: %v", a.Name, err)
		}
		f.serve(t, api)
	}
}

// serve takes one that has no phase yet to dual_write.
func (f *fleet) serve(t *testing.T, api *client.Client) {
	t.Helper()
	p, err := api.Phase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p.Phase != phase.DualWrite {
		if p, err = api.Prepare(t.Context(), adminapi.PrepareRequest{Phase: phase.DualWrite, LeaseSeconds: 60}, p.Epoch); err != nil {
			t.Fatalf("%s: %v", api, err)
		}
		if _, err := api.Commit(t.Context(), p.Prepared.Token); err != nil {
			t.Fatalf("%s: %v", api, err)
		}
	}
	eventually(t, api.String()+" ready", func() error {
		s, err := api.Status(t.Context())
		if err == nil && !s.Ready {
			err = fmt.Errorf("not ready: %s", strings.Join(s.NotReady, "; "))
		}
		return err
	})
}

// restart restarts one proxy after the other, each once the load has been seen to
// go through all of them since the one before.
func (f *fleet) restart(t *testing.T) {
	t.Helper()
	for _, api := range f.agents {
		if _, err := api.Restart(t.Context(), "a test of the drivers"); err != nil {
			t.Fatal(err)
		}
		f.awaitTraffic(t)
	}
}

// awaitTraffic waits until some proxies have answered more; all, if none is named.
func (f *fleet) awaitTraffic(t *testing.T, some ...*faultconn.Relay) {
	t.Helper()
	if len(some) == 0 {
		some = f.relays
	}
	for _, relay := range some {
		relay.WaitForwarded(t, faultconn.Down, relay.Forwarded(faultconn.Down)+2000)
	}
}

// loads is the load of all drivers at once.
type loads struct {
	drivers []driver
	running []*running
}

func (f *fleet) startLoads(t *testing.T, keyspace string, tls *tlsFiles) *loads {
	t.Helper()
	ls := &loads{}
	for _, d := range selected(t) {
		if err := d.missing(); err != nil && !mustRun() {
			t.Logf("SKIPPED %s: %v", d.name, err)
			continue
		}
		j := job{Contacts: f.addresses, Keyspace: keyspace, TLS: tls, Workers: workers, PauseMillis: pauseMillis, Cases: []string{"connect", "load"}}.as(f.lab.Target)
		r := d.build(t).start(t, j)
		for range 2 {
			if l := r.next(t); !l.OK {
				t.Fatalf("%s: %s: %s", d.name, l.Case, l.Detail)
			}
		}
		ls.drivers, ls.running = append(ls.drivers, d), append(ls.running, r)
	}
	if len(ls.running) == 0 {
		t.Skip("SKIPPED, no driver could be started")
	}
	return ls
}

// end ends all loads and returns what each driver counted.
func (ls *loads) end(t *testing.T) map[string]line {
	t.Helper()
	out := map[string]line{}
	for i, r := range ls.running {
		_ = r.stdin.Close()
		l := r.next(t)
		if !l.OK {
			t.Errorf("%s: %s", ls.drivers[i].name, l.Detail)
		}
		out[ls.drivers[i].name] = l
		t.Log(ls.drivers[i].name + ": " + l.summary())
	}
	return out
}

// summary is a row of the table in docs/design/drivers.md.
func (l line) summary() string {
	var b strings.Builder
	for _, kind := range []string{"read", "idempotent", "other"} {
		c := l.Counts[kind]
		fmt.Fprintf(&b, "%s: %d succeeded, %d failed; ", kind, c.OK, c.Failed)
	}
	fmt.Fprintf(&b, "%d retries by the driver", l.Retries)
	for _, text := range slices.Sorted(maps.Keys(l.Errors)) {
		fmt.Fprintf(&b, "\n\t%d x %s", l.Errors[text], text)
	}
	return b.String()
}

func TestARollingRestartIsNotNoticedOverPlainTCP(t *testing.T) {
	l := labtest.Lab(t)
	keyspace := makeTables(t, l)
	f := newFleet(t, l)
	f.configure(t, nil)
	ls := f.startLoads(t, keyspace, nil)
	f.awaitTraffic(t)
	before := f.accepted() - f.open()
	f.restart(t)
	if closed := f.accepted() - f.open() - before; closed != 0 {
		t.Errorf("%d connections were closed, want none", closed)
	}
	for name, l := range ls.end(t) {
		for kind, c := range l.Counts {
			if c.Failed > 0 || c.OK == 0 {
				t.Errorf("%s: %s: %d succeeded, %d failed, want no failure", name, kind, c.OK, c.Failed)
			}
		}
	}
}

// A TLS session cannot move: its connection is closed between two answers. What a
// driver had sent by then it may send again only if that is idempotent.
func TestARollingRestartFailsNothingIdempotentOverTLS(t *testing.T) {
	l := labtest.Lab(t)
	keyspace := makeTables(t, l)
	ca := certtest.NewAuthority(t, "authority of the rolling restart")
	server := ca.Issue(t, "proxy")
	f := newFleet(t, l)
	f.configure(t, map[string]string{"proxy_tls_ca_path": ca.File, "proxy_tls_cert_path": server.CertFile, "proxy_tls_key_path": server.KeyFile})
	// The next test's drivers speak plainly, and these files go with this one.
	defer f.configure(t, nil)
	ls := f.startLoads(t, keyspace, &tlsFiles{CA: ca.File})
	f.awaitTraffic(t)
	open, before := f.open(), f.accepted()-f.open()
	f.restart(t)
	eventually(t, "the old processes have let go of their clients", func() error {
		if closed := f.accepted() - f.open() - before; closed < open {
			return fmt.Errorf("%d of %d connections are closed", closed, open)
		}
		return nil
	})
	f.awaitTraffic(t)
	t.Logf("%d connections were closed, %d opened", f.accepted()-f.open()-before, f.accepted()-open-before)
	for name, l := range ls.end(t) {
		for _, kind := range []string{"read", "idempotent"} {
			if c := l.Counts[kind]; c.Failed > 0 || c.OK == 0 {
				t.Errorf("%s: %s: %d succeeded, %d failed, want no failure", name, kind, c.OK, c.Failed)
			}
		}
	}
}

// A proxy that is killed answers nothing of what it had in flight. What is
// idempotent the drivers send again, to another proxy.
func TestAKilledProxyFailsNothingIdempotent(t *testing.T) {
	l := labtest.Lab(t)
	keyspace := makeTables(t, l)
	f := newFleet(t, l)
	f.configure(t, nil)
	ls := f.startLoads(t, keyspace, nil)
	f.awaitTraffic(t)
	s, err := f.agents[0].Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.Proxy.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Drivers come back to it when they like, gocql after a minute.
	f.awaitTraffic(t, f.relays[1:]...)
	for name, l := range ls.end(t) {
		for _, kind := range []string{"read", "idempotent"} {
			if c := l.Counts[kind]; c.Failed > 0 || c.OK == 0 {
				t.Errorf("%s: %s: %d succeeded, %d failed, want no failure", name, kind, c.OK, c.Failed)
			}
		}
	}
}
