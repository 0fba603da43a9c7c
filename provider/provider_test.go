package provider

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/tfjsonpath"

	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
)

func TestCredentialsComeFromTheBlockBeforeTheEnvironment(t *testing.T) {
	t.Parallel()
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	all := map[string]string{EnvToken: "env", EnvTokenFile: file("env-file"), EnvCAFile: file("env-ca")}
	text := types.StringValue
	for _, test := range []struct {
		name      string
		block     credentialsModel
		env       map[string]string
		ca, token string
	}{
		{"environment", credentialsModel{}, all, "env-ca", "env"},
		{"environment, file", credentialsModel{}, map[string]string{EnvTokenFile: all[EnvTokenFile]}, "", "env-file"},
		{"block", credentialsModel{CAPEM: text("pem"), Token: text("own")}, all, "pem", "own"},
		{"files", credentialsModel{CAFile: text(file("ca")), TokenFile: text(file(" own\n"))}, all, "ca", "own"},
		{"nothing", credentialsModel{}, nil, "", ""},
	} {
		z := &zdm{env: func(name string) (string, bool) { v, ok := test.env[name]; return v, ok }}
		var diags diag.Diagnostics
		z.fromEnvironment(&test.block)
		c := test.block.resolve(path.Empty(), &admin{}, &diags)
		if string(c.ca) != test.ca || c.token.Reveal() != test.token || diags.HasError() {
			t.Errorf("%s: CA %q, token %q, %v; want %q and %q", test.name, c.ca, c.token.Reveal(), diags, test.ca, test.token)
		}
	}
}

func TestMissingFilesAndUnknownValuesAreTold(t *testing.T) {
	t.Parallel()
	var diags diag.Diagnostics
	m := credentialsModel{TokenFile: types.StringValue("/does/not/exist")}
	m.resolve(path.Empty(), &admin{}, &diags)
	if len(diags) != 1 || diags[0].Summary() != "File cannot be read" {
		t.Errorf("diagnostics are %v, want that the file cannot be read", diags)
	}
	a := &admin{}
	m = credentialsModel{Token: types.StringUnknown()}
	m.resolve(path.Empty(), a, &diags)
	if a.unknown != "token" {
		t.Errorf("unknown is %q, want token", a.unknown)
	}
}

func TestEverySettingIsSomewhere(t *testing.T) {
	t.Parallel()
	places := map[string]int{}
	for _, fs := range []fields{settingFields, sideFields[0], sideFields[1], instanceFields} {
		for _, f := range fs {
			places[f.key()]++
		}
	}
	for _, key := range elsewhere {
		places[key] = max(places[key], 1)
	}
	for _, s := range config.Settings() {
		want := 1
		if s.Secret || s.Support != config.Honoured {
			want = 0
		}
		if got := places[s.Key()]; got != want && s.Key() != "forward_client_credentials_to_origin" {
			t.Errorf("%s is in %d places, want %d", s.Key(), got, want)
		}
	}
}

func TestSettingsGoToTextAndBack(t *testing.T) {
	t.Parallel()
	list := types.ListValueMust(types.StringType, []attr.Value{types.StringValue("a"), types.StringValue("b")})
	for key, v := range map[string]attr.Value{
		"log_level": types.StringValue("DEBUG"), "proxy_max_stream_ids": types.Int64Value(7), "metrics_enabled": types.BoolValue(false),
		"heartbeat_retry_backoff_factor": types.Float64Value(1.5), "origin_contact_points": list,
	} {
		f := lookUp(key)
		if got := f.value(textOf(v)); !got.Equal(v) {
			t.Errorf("%s: %v became %q and then %v", key, v, textOf(v), got)
		}
		if got := f.value(""); !got.IsNull() {
			t.Errorf("%s: no text became %v, want null", key, got)
		}
	}
	if !same("log_level", "debug", "DEBUG") || same("log_level", "debug", "INFO") || same("log_level", "", "INFO") {
		t.Error("same does not tell what means the same")
	}
}

// Machines and cluster come with one apply: their addresses are not known when
// it is planned. The token is an ephemeral value.
func TestAccEndpointsMayBeUnknownAtPlanTime(t *testing.T) {
	d := deploy(t, "a")
	a := d.agents[0]
	t.Setenv("TF_VAR_token", fakeToken)
	text := fmt.Sprintf(`
variable "token" {
  type      = string
  ephemeral = true
}
provider "zdm" {
  ca_pem    = %q
  token     = "wrong"
  instances = { a = { token = var.token } }
}
resource "terraform_data" "machine" {
  input = { a = { endpoint = %q, address = "127.0.0.97" } }
}
resource "terraform_data" "origin" {
  input = ["10.0.0.1"]
}
resource "zdm_proxy_cluster" "test" {
  instances = { for name, m in terraform_data.machine.output : name => { admin_endpoint = m.endpoint, listen_address = m.address } }
  origin    = { contact_points = terraform_data.origin.output }
  target    = { contact_points = ["10.0.0.2"] }
}
resource "zdm_migration_phase" "test" {
  cluster_id = zdm_proxy_cluster.test.id
  instances  = zdm_proxy_cluster.test.admin_endpoints
  phase      = "origin_only"
}
`, d.ca, a.server.URL)
	unknown := func(name, key string) plancheck.PlanCheck {
		return plancheck.ExpectUnknownValue(name, tfjsonpath.New(key))
	}
	acceptance(t,
		after(resource.TestStep{
			Config: text,
			ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{
				unknown(clusterName, "id"), unknown(clusterName, "admin_endpoints"), unknown(phaseName, "instance_phases")}},
			Check: attribute(phaseName, "instance_phases.a", "origin_only"),
		}, told(t, "a: put, prepare origin_only, commit origin_only", a)),
	)
}
