package drivers_test

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/certtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/faultconn"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m, lab.Options{Proxies: proxies}) }

// proxies is how many there are in front of the clusters.
const proxies = 3

// every is all that a program can do, but for the load.
var every = []string{"connect", "types", "paging", "batches", "lwt", "schema", "tokens"}

// short is what shows whether a way to connect carries requests.
var short = []string{"connect", "types", "paging"}

//go:embed schema.cql
var schema string

// makeTables makes a keyspace with the tables of the programs on both clusters.
func makeTables(t *testing.T, l *lab.Lab) string {
	t.Helper()
	keyspace := labtest.Keyspace(t, l)
	for _, c := range l.Clusters() {
		s := labtest.Session(t, c, keyspace)
		for statement := range strings.SplitSeq(strings.TrimSpace(schema), ";\n") {
			if err := s.Query(strings.TrimSuffix(statement, ";")).Exec(); err != nil {
				t.Fatalf("%s: %s: %v", c.Side, statement, err)
			}
		}
	}
	return keyspace
}

// TestEveryDriverDoesThroughProxiesWhatItDoesDirectly runs each program on a
// cluster, so that what fails through proxies is the proxies' and not the
// driver's, and then through proxies in each way that the driver can connect.
func TestEveryDriverDoesThroughProxiesWhatItDoesDirectly(t *testing.T) {
	l := labtest.Lab(t)
	keyspace := makeTables(t, l)
	plain := startRing(t, l, proxies, nil)
	ca := certtest.NewAuthority(t, "authority of the drivers' tests")
	secret := startSecureRing(t, l, ca, map[string]string{})
	mutual := startSecureRing(t, l, ca, map[string]string{"ZDM_PROXY_TLS_REQUIRE_CLIENT_AUTH": "true"})
	cert := ca.Issue(t, "application")

	for _, d := range selected(t) {
		t.Run(d.name, func(t *testing.T) {
			p := d.build(t)
			direct := job{Contacts: l.Origin.ContactPoints(), Keyspace: keyspace, Cases: every}.as(l.Origin)
			t.Run("directly", func(t *testing.T) {
				p.run(t, direct).check(t, d.newest, 1)
			})
			through := job{Contacts: plain.addresses, Keyspace: keyspace, Cases: every}.as(l.Target)
			t.Run("as it is", func(t *testing.T) {
				p.run(t, through).check(t, d.newest, proxies)
			})
			for _, version := range d.versions {
				j := through
				j.Version, j.Cases = version, slices.DeleteFunc(slices.Clone(every), func(name string) bool { return slices.Contains(d.lacks[version], name) })
				t.Run(fmt.Sprintf("v%d", version), func(t *testing.T) {
					p.run(t, j).check(t, version, proxies)
				})
			}
			for _, compression := range d.compressions {
				j := through
				j.Cases, j.Compression, j.Version = short, compression, d.newest
				if compression == "snappy" {
					j.Version = min(j.Version, 4) // v5 has only LZ4
				}
				t.Run(compression, func(t *testing.T) {
					p.run(t, j).check(t, j.Version, proxies)
				})
			}
			t.Run("TLS", func(t *testing.T) {
				j := through
				j.Contacts, j.Cases, j.TLS = secret.addresses, short, &tlsFiles{CA: ca.File}
				p.run(t, j).check(t, d.newest, 1)
			})
			t.Run("TLS with a client certificate", func(t *testing.T) {
				j := through
				j.Contacts, j.Cases, j.TLS = mutual.addresses, short, &tlsFiles{CA: ca.File, Cert: cert.CertFile, Key: cert.KeyFile}
				p.run(t, j).check(t, d.newest, 1)
			})
		})
	}
}

// TestEveryDriverStepsDownToAVersionThatIsServed counts the connections that it
// takes: one for each version that is refused, besides those of a driver that
// begins with the right one.
func TestEveryDriverStepsDownToAVersionThatIsServed(t *testing.T) {
	l := labtest.Lab(t)
	keyspace := makeTables(t, l)
	upTo := map[int]*ring{
		5: startRing(t, l, 1, nil),
		4: startRing(t, l, 1, map[string]string{"ZDM_BLOCKED_PROTOCOL_VERSIONS": "5,DseV1,DseV2"}),
		3: startRing(t, l, 1, map[string]string{"ZDM_BLOCKED_PROTOCOL_VERSIONS": "4,5,DseV1,DseV2"}),
	}
	for _, d := range selected(t) {
		t.Run(d.name, func(t *testing.T) {
			p := d.build(t)
			for _, served := range []int{5, 4, 3} {
				if !slices.Contains(d.versions, served) {
					continue
				}
				r := upTo[served]
				before := r.accepted()
				j := job{Contacts: r.addresses, Keyspace: keyspace, Cases: []string{"connect"}}.as(l.Target)
				p.run(t, j).check(t, min(served, d.newest), 1)
				negotiated := r.accepted() - before
				// The same driver told the version from the start.
				before = r.accepted()
				j.Version = min(served, d.newest)
				p.run(t, j).check(t, j.Version, 1)
				told := r.accepted() - before
				t.Logf("up to v%d: %d connections, %d when told the version", served, negotiated, told)
				if steps := negotiated - told; steps > d.steps[served] {
					t.Errorf("up to v%d: %d connections more than when told the version (%d), want at most %d", served, steps, told, d.steps[served])
				}
			}
		})
	}
}

// ring is some proxies, each behind a relay that drivers take for the proxy.
type ring struct {
	addresses []string
	relays    []*faultconn.Relay
}

// accepted is how many connections were made to the ring so far.
func (r *ring) accepted() int {
	n := 0
	for _, relay := range r.relays {
		n += relay.Accepted()
	}
	return n
}

// open is how many of them are open.
func (r *ring) open() int {
	n := 0
	for _, relay := range r.relays {
		n += relay.Open()
	}
	return n
}

// startRing starts proxies without an agent.
func startRing(t *testing.T, l *lab.Lab, n int, env map[string]string) *ring {
	t.Helper()
	hosts := freeHosts(t, n)
	r := &ring{}
	for i := range n {
		settings := map[string]string{
			"ZDM_PROXY_TOPOLOGY_ADDRESSES": strings.Join(hosts, ","), "ZDM_PROXY_TOPOLOGY_INDEX": fmt.Sprint(i),
		}
		for name, value := range env {
			settings[name] = value
		}
		p, err := l.StartProxy(t.Context(), lab.ProxyOptions{Env: settings})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("the log of %s ends with:\n%s", p.Name, tail(p.LogPath()))
			}
			if err := p.Remove(); err != nil {
				t.Error(err)
			}
		})
		r.addRelay(t, hosts[i], p.ListenAddress)
	}
	return r
}

// startSecureRing is one proxy that serves clients over TLS.
func startSecureRing(t *testing.T, l *lab.Lab, ca *certtest.Authority, env map[string]string) *ring {
	t.Helper()
	server := ca.Issue(t, "proxy")
	env["ZDM_PROXY_TLS_CA_PATH"], env["ZDM_PROXY_TLS_CERT_PATH"], env["ZDM_PROXY_TLS_KEY_PATH"] = ca.File, server.CertFile, server.KeyFile
	return startRing(t, l, 1, env)
}

func tail(path string) string {
	b, _ := os.ReadFile(path)
	return string(b[max(0, len(b)-2000):])
}

// patience bounds what is only asked to come about; the machine may be busy.
const patience = 2 * time.Minute

// eventually tries until there is no error.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
	}
}
