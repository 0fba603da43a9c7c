package provider

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
)

// example reads an example, with the fake agents' endpoints in place of those
// that it names.
func example(t *testing.T, d *deployment, names ...string) string {
	t.Helper()
	var out strings.Builder
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join("..", "examples", name))
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
	}
	config := out.String()
	// The test framework says itself where the provider is.
	config = regexp.MustCompile(`(?ms)^terraform \{.*?^\}`).ReplaceAllString(config, "")
	dir := t.TempDir()
	for name, text := range map[string]string{"/etc/zdm/ca.pem": d.ca, "/etc/zdm/token": fakeToken + "\n"} {
		file := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		config = strings.ReplaceAll(config, name, file)
	}
	for i, a := range d.agents {
		config = strings.ReplaceAll(config, fmt.Sprintf("https://10.0.0.1%d:8443", i+1), a.server.URL)
	}
	return config
}

func TestAccExamplesCanBeApplied(t *testing.T) {
	d := deploy(t, "a", "b")
	t.Setenv("TF_VAR_origin_password", originPassword)
	t.Setenv("TF_VAR_target_password", targetPassword)
	config := example(t, d, "provider/provider.tf", "resources/zdm_proxy_cluster/resource.tf", "resources/zdm_migration_phase/resource.tf",
		"data-sources/zdm_proxy_status/data-source.tf")
	acceptance(t, resource.TestStep{Config: config, Check: resource.ComposeAggregateTestCheckFunc(
		attribute("zdm_migration_phase.orders", "instance_phases.b", "dual_write"), resource.TestCheckOutput("ready", "true"))})
	if got := d.agents[1].cfg.Secrets["origin_password"]; got != originPassword {
		t.Errorf("origin_password is %q", got)
	}
}

func TestExamplesAreFormatted(t *testing.T) {
	t.Parallel()
	terraform := os.Getenv("TF_ACC_TERRAFORM_PATH") // OpenTofu formats alike
	if terraform == "" {
		var err error
		if terraform, err = exec.LookPath("terraform"); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal("this test needs terraform, and CI=true forbids to skip it: set TF_ACC_TERRAFORM_PATH to a terraform or tofu")
			}
			t.Skip("SKIPPED: no terraform in PATH; set TF_ACC_TERRAFORM_PATH to a terraform or tofu")
		}
	}
	for _, dir := range []string{"provider", "resources", "data-sources"} {
		out, err := exec.Command(terraform, "fmt", "-check", "-diff", "-recursive", filepath.Join("..", "examples", dir)).CombinedOutput()
		if err != nil {
			t.Errorf("examples/%s: %v\n%s", dir, err, out)
		}
	}
}
