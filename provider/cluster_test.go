package provider

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestAccClusterIsConfiguredOneInstanceAfterTheOther(t *testing.T) {
	d := deploy(t, "a", "b")
	a, b := d.agents[0], d.agents[1]
	noPlan := resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plancheck.ExpectEmptyPlan()}}
	acceptance(t,
		after(resource.TestStep{Config: d.String(), Check: attribute(clusterName, "generations.b", "1")}, func() {
			told(t, "a: put; b: put", a, b)()
			want := map[string]string{
				"origin_contact_points": "10.0.0.1,10.0.0.2", "origin_username": "app", "target_contact_points": "10.0.0.1,10.0.0.2", "target_username": "app",
				"proxy_listen_address": "127.0.0.98", "proxy_topology_addresses": "127.0.0.97,127.0.0.98", "proxy_topology_index": "1",
			}
			if diff := cmp.Diff(want, b.cfg.Settings); diff != "" {
				t.Errorf("settings of b (-want +got):\n%s", diff)
			}
			if got := b.cfg.Secrets["target_password"]; got != targetPassword+"1" {
				t.Errorf("b's target_password is %q", got)
			}
		}),
		resource.TestStep{Config: d.String(), ConfigPlanChecks: noPlan},
		after(resource.TestStep{
			Config: d.with(func(d *deployment) {
				d.cluster = "settings = {\n proxy_request_timeout_ms = 5000\n log_level = \"DEBUG\"\n metrics_origin_latency_buckets_ms = [1, 2.5]\n}\nclient_credentials = \"same\""
			}),
			Check: attribute(clusterName, "generations.a", "2"),
		}, func() {
			told(t, "a: put; b: put", a, b)()
			if s := a.cfg.Settings; s["proxy_request_timeout_ms"] != "5000" || s["metrics_origin_latency_buckets_ms"] != "1,2.5" || s["client_credentials"] != "same" {
				t.Errorf("settings of a are %v", s)
			}
		}),
		// What is not given any more is gone.
		after(resource.TestStep{Config: d.String(), Check: attribute(clusterName, "generations.a", "3")}, func() {
			told(t, "a: put; b: put", a, b)()
			if _, there := a.cfg.Settings["log_level"]; there {
				t.Error("log_level is still set")
			}
		}),
		// Restarts.
		after(resource.TestStep{Config: d.with(func(d *deployment) { d.cluster = "restart_triggers = { image = \"2\" }" }), Check: attribute(clusterName, "generations.a", "3")},
			told(t, "a: restart; b: restart", a, b)),
		// A new version pushes the secrets; the old ones stay otherwise.
		after(resource.TestStep{Config: d.with(func(d *deployment) { d.cluster, d.version = "restart_triggers = { image = \"2\" }", 2 })}, func() {
			told(t, "a: put; b: put", a, b)()
			if got := a.cfg.Secrets["origin_password"]; got != originPassword+"2" {
				t.Errorf("a's origin_password is %q", got)
			}
		}),
	)
}

func TestAccClusterKeepsIndexesWhenInstancesComeAndGo(t *testing.T) {
	d := deploy(t, "b", "c", "a")
	all := d.agents
	acceptance(t,
		resource.TestStep{Config: d.with(func(d *deployment) { d.agents = all[:2] }), Check: attribute(clusterName, "topology_indexes.b", "0")},
		after(resource.TestStep{Config: d.String(), Check: attribute(clusterName, "topology_indexes.a", "2")}, func() {
			if got, want := all[0].cfg.Settings["proxy_topology_addresses"], "127.0.0.98,127.0.0.99,127.0.0.97"; got != want {
				t.Errorf("topology is %s, want %s", got, want)
			}
			if all[2].cfg.Secrets["origin_password"] == "" {
				t.Error("the new instance was not given the password")
			}
		}),
		// b leaves: the last fills the gap, c stays where it is.
		resource.TestStep{Config: d.with(func(d *deployment) { d.agents = all[1:] }), Check: resource.ComposeTestCheckFunc(
			attribute(clusterName, "topology_indexes.a", "0"), attribute(clusterName, "topology_indexes.c", "1"))},
	)
}

func TestAccClusterSeesWhatWasChangedBehindItsBack(t *testing.T) {
	d := deploy(t, "a", "b")
	b := d.agents[1]
	changed := resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plancheck.ExpectResourceAction(clusterName, plancheck.ResourceActionUpdate)}}
	behind := func(change func(*adminapi.Config)) func() {
		return func() {
			b.set(func(b *fakeAgent) {
				b.cfg.Settings, b.cfg.Secrets = maps.Clone(b.cfg.Settings), maps.Clone(b.cfg.Secrets)
				change(&b.cfg)
				b.cfg.Generation++
				b.calls = nil
			})
		}
	}
	restored := func(key, want string) func() {
		return func() {
			told(t, "b: put", b)()
			if got := b.cfg.Settings[key]; got != want {
				t.Errorf("%s is %q, want %q", key, got, want)
			}
		}
	}
	acceptance(t,
		resource.TestStep{Config: d.String()},
		after(resource.TestStep{PreConfig: behind(func(c *adminapi.Config) { c.Settings["origin_port"] = "9999" }), Config: d.String(), ConfigPlanChecks: changed},
			restored("origin_port", "")),
		after(resource.TestStep{PreConfig: behind(func(c *adminapi.Config) { c.Settings["proxy_topology_addresses"] = "10.9.9.9,127.0.0.98" }), Config: d.String(), ConfigPlanChecks: changed},
			restored("proxy_topology_addresses", "127.0.0.97,127.0.0.98")),
		after(resource.TestStep{PreConfig: behind(func(c *adminapi.Config) { c.Settings["read_max_workers"] = "8" }), Config: d.String(), ConfigPlanChecks: changed},
			restored("read_max_workers", "")),
		after(resource.TestStep{PreConfig: behind(func(c *adminapi.Config) { c.Secrets["target_password"] = "other" }), Config: d.String(), ConfigPlanChecks: changed}, func() {
			restored("", "")()
			if got := b.cfg.Secrets["target_password"]; got != targetPassword+"1" {
				t.Errorf("target_password is %q", got)
			}
		}),
		// The machine was made anew, with an empty store.
		after(resource.TestStep{PreConfig: func() { b.set(func(b *fakeAgent) { b.cfg, b.calls = adminapi.Config{}, nil }) }, Config: d.String(), ConfigPlanChecks: changed}, func() {
			restored("proxy_topology_index", "1")()
			if got := b.cfg.Secrets["origin_password"]; got != originPassword+"1" {
				t.Errorf("origin_password is %q", got)
			}
		}),
	)
}

func TestAccClusterKeepsTheStateOfAnInstanceThatIsDown(t *testing.T) {
	d := deploy(t, "a", "b")
	b := d.agents[1]
	acceptance(t,
		resource.TestStep{Config: d.String()},
		resource.TestStep{PreConfig: func() { b.set(func(b *fakeAgent) { b.down = true }) }, RefreshState: true, Check: attribute(clusterName, "instances.%", "2")},
		resource.TestStep{Config: d.with(func(d *deployment) { d.cluster = "settings = { log_level = \"DEBUG\" }" }), ExpectError: expect("Instance b does not answer")},
		// What is about no instance needs none.
		resource.TestStep{Config: d.with(func(d *deployment) { d.cluster = "allow_destroy_with_clients = true" }), Check: attribute(clusterName, "allow_destroy_with_clients", "true")},
		resource.TestStep{PreConfig: func() {
			if generation := d.agents[0].shown().Generation; generation != 1 {
				t.Errorf("a was changed while b is down: generation %d", generation)
			}
			b.set(func(b *fakeAgent) { b.down = false })
		}, Config: d.String()},
	)
}

func TestAccClusterGoesOnWhereItStopped(t *testing.T) {
	d := deploy(t, "a", "b")
	a, b := d.agents[0], d.agents[1]
	debug := d.with(func(d *deployment) { d.cluster = "settings = { log_level = \"DEBUG\" }" })
	restart := d.with(func(d *deployment) {
		d.cluster = "settings = { log_level = \"DEBUG\" }\nrestart_triggers = { x = \"1\" }"
	})
	acceptance(t,
		resource.TestStep{Config: d.String()},
		resource.TestStep{PreConfig: func() {
			told(t, "a: put; b: put", a, b)()
			b.set(func(b *fakeAgent) { b.failPut = "target: no node answers" })
		}, Config: debug, ExpectError: expect("could not run the configuration")},
		after(resource.TestStep{PreConfig: func() {
			told(t, "a: put; b: ", a, b)()
			b.set(func(b *fakeAgent) { b.failPut = "" })
		}, Config: debug, Check: attribute(clusterName, "settings.log_level", "DEBUG")}, told(t, "a: ; b: put", a, b)),
		resource.TestStep{PreConfig: func() { b.set(func(b *fakeAgent) { b.failRestart = "no memory" }) },
			Config: restart, ExpectError: expect("no memory")},
		after(resource.TestStep{PreConfig: func() {
			told(t, "a: restart; b: ", a, b)()
			b.set(func(b *fakeAgent) { b.failRestart = "" })
		}, Config: restart}, told(t, "a: ; b: restart", a, b)),
	)
}

func TestAccFailedCreateKeepsNoStateAndIsTakenUp(t *testing.T) {
	d := deploy(t, "a", "b")
	a, b := d.agents[0], d.agents[1]
	var id string
	acceptance(t,
		resource.TestStep{PreConfig: func() { b.set(func(b *fakeAgent) { b.failPut = "origin: wrong password" }) }, Config: d.String(), ExpectError: expect("wrong password")},
		after(resource.TestStep{PreConfig: func() {
			told(t, "a: put; b: ", a, b)()
			id = a.cfg.ClusterID
			b.set(func(b *fakeAgent) { b.failPut = "" })
		}, Config: d.String(), ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plancheck.ExpectResourceAction(clusterName, plancheck.ResourceActionCreate)}}},
			func() {
				told(t, "a: put, nothing new; b: put", a, b)()
				if b.cfg.ClusterID != id {
					t.Errorf("b is of cluster %s, a of %s", b.cfg.ClusterID, id)
				}
			}),
	)
}

func TestAccClusterImport(t *testing.T) {
	d := deploy(t, "a", "b")
	d.cluster = "settings = {\n proxy_request_timeout_ms = 5000\n}\nclient_credentials = \"same\""
	importID := fmt.Sprintf("a=%s,b=%s", d.agents[0].server.URL, d.agents[1].server.URL)
	acceptance(t,
		resource.TestStep{Config: d.String()},
		resource.TestStep{ResourceName: clusterName, ImportState: true, ImportStateId: importID, ImportStateVerify: true,
			ImportStateVerifyIgnore: []string{"rollout", "origin.password_wo_version", "target.password_wo_version"}},
		resource.TestStep{ResourceName: clusterName, ImportState: true, ImportStateId: "a:https://x", ExpectError: expect("is not NAME=ENDPOINT")},
	)
}

func TestAccClusterDestroy(t *testing.T) {
	d := deploy(t, "a")
	a := d.agents[0]
	provider := fmt.Sprintf("provider \"zdm\" {\n ca_pem = %q\n token = %q\n}\n", d.ca, d.token)
	acceptance(t,
		resource.TestStep{Config: d.String()},
		resource.TestStep{PreConfig: func() { a.set(func(a *fakeAgent) { a.clients = 3 }) }, Config: provider, ExpectError: expect("3 clients are connected to it")},
		resource.TestStep{Config: d.with(func(d *deployment) { d.cluster = "allow_destroy_with_clients = true" })},
		after(resource.TestStep{Config: provider}, told(t, "a: put", a)), // that of the creation
	)
}

func TestAccClusterDiagnostics(t *testing.T) {
	d := deploy(t, "a")
	a := d.agents[0]
	localhost := "https://localhost:" + a.server.URL[len("https://127.0.0.1:"):]
	bad := func(text, want string) resource.TestStep {
		return resource.TestStep{Config: d.with(func(d *deployment) { d.cluster = text }), ExpectError: expect(want), PlanOnly: true}
	}
	acceptance(t,
		resource.TestStep{Config: d.with(func(d *deployment) { d.token = "wrong" }), ExpectError: expect("Instance a refuses the token")},
		resource.TestStep{Config: d.with(func(d *deployment) { d.endpoint = localhost }), ExpectError: expect("Certificate of instance a does not match")},
		resource.TestStep{Config: d.with(func(d *deployment) { d.ca = otherCA }), ExpectError: expect("Certificate of instance a is not trusted")},
		resource.TestStep{Config: d.with(func(d *deployment) { d.endpoint = "https://127.0.0.1:1" }), ExpectError: expect("Instance a does not answer")},
		resource.TestStep{Config: d.with(func(d *deployment) { d.endpoint = "10.0.0.7:8443" }), ExpectError: expect("does not begin with https://")},
		bad("settings = { proxy_request_timeout_ms = 0 }", "proxy_request_timeout_ms: 0 is below 1"),
		bad("settings = { log_level = \"loud\" }", `"loud" is not known`),
		bad("settings = { heartbeat_retry_interval_min_ms = 60000 }", "heartbeat_retry_interval_min_ms: 60000 is above heartbeat_retry_interval_max_ms"),
		bad("client_credentials = \"both\"", `"both" is not known`),
		resource.TestStep{PreConfig: func() {
			a.set(func(a *fakeAgent) { a.cfg = adminapi.Config{ClusterID: "x", Instance: "z", Generation: 4} })
		},
			Config: d.String(), ExpectError: expect(`is "z", not "a"`)},
	)
	if took := a.took(); took != nil {
		t.Errorf("the agent was told %v", took)
	}
}

func TestAccClusterRefusesToOverwriteWhatThePlanDidNotSee(t *testing.T) {
	d := deploy(t, "a")
	a := d.agents[0]
	acceptance(t,
		resource.TestStep{Config: d.String()},
		resource.TestStep{
			Config: d.with(func(d *deployment) { d.cluster = "settings = { log_level = \"DEBUG\" }" }),
			ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{
				planHook(func() { a.set(func(a *fakeAgent) { a.cfg.Generation = 7 }) })}},
			ExpectError: expect("was changed since the plan"),
		},
	)
}

func TestAccRemovedInstanceServesOn(t *testing.T) {
	d := deploy(t, "a", "b")
	d.phase = "dual_write"
	b := d.agents[1]
	acceptance(t,
		resource.TestStep{Config: d.String()},
		after(resource.TestStep{Config: d.with(func(d *deployment) { d.agents = d.agents[:1] }), Check: attribute(phaseName, "instance_phases.%", "1")}, func() {
			if b.phase.Phase != phase.DualWrite || b.cfg.Generation != 1 {
				t.Errorf("the removed instance is in %s with generation %d, want it untouched", b.phase.Phase, b.cfg.Generation)
			}
		}),
	)
}

func TestTopologyIndexesMoveAsFewAsTheyCan(t *testing.T) {
	t.Parallel()
	type m = map[string]int64
	for _, test := range []struct {
		old   m
		names []string
		want  m
	}{
		{nil, []string{"a", "b"}, m{"a": 0, "b": 1}},
		{m{"b": 0}, []string{"a", "b"}, m{"b": 0, "a": 1}},
		{m{"a": 0, "b": 1, "c": 2}, []string{"b", "c"}, m{"b": 1, "c": 0}},
		{m{"a": 0, "b": 1, "c": 2}, []string{"b", "c", "d"}, m{"d": 0, "b": 1, "c": 2}},
		{m{"a": 0, "b": 0}, []string{"a", "b"}, m{"a": 0, "b": 1}},
	} {
		if diff := cmp.Diff(test.want, topologyIndexes(test.old, test.names)); diff != "" {
			t.Errorf("indexes of %v after %v (-want +got):\n%s", test.names, test.old, diff)
		}
	}
}

func TestAccABundleStandsInForContactPoints(t *testing.T) {
	d := deploy(t, "a")
	points := "contact_points = [\"10.0.0.1\", \"10.0.0.2\"]\n"
	without := func(with string) string { return strings.Replace(d.String(), points, with, 1) }
	acceptance(t,
		resource.TestStep{Config: without(""), ExpectError: expect("origin_contact_points: missing")},
		resource.TestStep{Config: without(points + "secure_connect_bundle_path = \"/b.zip\"\n"), ExpectError: expect("cannot be given together")},
		after(resource.TestStep{Config: without("secure_connect_bundle_path = \"/b.zip\"\n"), Check: attribute(clusterName, "generations.a", "1")}, func() {
			if s := d.agents[0].cfg.Settings; s["origin_secure_connect_bundle_path"] != "/b.zip" || s["origin_contact_points"] != "" {
				t.Errorf("settings of a are %v", s)
			}
		}),
	)
}
