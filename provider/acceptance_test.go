package provider

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"
	"github.com/hashicorp/terraform-plugin-testing/tfversion"
)

// These tests drive a real Terraform or OpenTofu, which calls the provider in
// this process, which calls agents that exist in memory. They run with TF_ACC=1,
// as "make test" does.

const (
	originPassword = "origin-Pa55word-3141"
	targetPassword = "target-Pa55word-5926"
)

// secretTexts must be in no state, plan or log file.
var secretTexts = []string{originPassword, targetPassword, fakeToken}

// alsoSecret adds to them for one test. Acceptance tests are not parallel.
func alsoSecret(t *testing.T, texts ...string) {
	before := secretTexts
	secretTexts = append(slices.Clone(before), texts...)
	t.Cleanup(func() { secretTexts = before })
}

// acceptance runs the steps, and looks for secrets in every state of theirs.
func acceptance(t *testing.T, steps ...resource.TestStep) {
	t.Helper()
	requireTerraform(t)
	work := t.TempDir()
	t.Setenv("TF_ACC_TEMP_DIR", work)
	t.Setenv("TF_ACC_PERSIST_WORKING_DIR", "1")
	t.Cleanup(func() { noSecretFiles(t, work) })
	for i, step := range steps {
		if step.Check == nil && step.ExpectError == nil && !step.PlanOnly && step.Config != "" {
			steps[i].Check = noSecrets
		}
	}
	resource.Test(t, resource.TestCase{
		TerraformVersionChecks: []tfversion.TerraformVersionCheck{tfversion.SkipBelow(tfversion.Version1_11_0)},
		ProtoV6ProviderFactories: map[string]func() (tfprotov6.ProviderServer, error){
			"zdm": providerserver.NewProtocol6WithError(New("test", func(string) (string, bool) { return "", false })),
		},
		Steps: steps,
	})
}

// requireTerraform skips loudly, and keeps Terraform from the network.
func requireTerraform(t *testing.T) {
	t.Helper()
	if os.Getenv("TF_ACC") == "" {
		t.Skip("TF_ACC is not set; acceptance tests run in make test")
	}
	if os.Getenv("TF_ACC_TERRAFORM_PATH") == "" {
		found, err := exec.LookPath("terraform")
		if err != nil {
			t.Fatal("terraform is not in PATH; set TF_ACC_TERRAFORM_PATH to a terraform or tofu")
		}
		t.Setenv("TF_ACC_TERRAFORM_PATH", found)
	}
	t.Setenv("CHECKPOINT_DISABLE", "1")
	t.Setenv("TF_CLI_CONFIG_FILE", filepath.Join(t.TempDir(), "rc"))
	if err := os.WriteFile(os.Getenv("TF_CLI_CONFIG_FILE"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// noSecretFiles looks through the state and plan files that Terraform left.
func noSecretFiles(t *testing.T, dir string) {
	t.Helper()
	states := 0
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || filepath.Ext(name) == ".tf" {
			return err
		}
		content, err := os.ReadFile(name)
		if strings.Contains(name, "tfstate") {
			states++
		}
		for _, text := range secretTexts {
			if bytes.Contains(content, []byte(text)) {
				t.Errorf("%s holds the secret %q", filepath.Base(name), text)
			}
		}
		return err
	})
	if err != nil || states == 0 {
		t.Errorf("looked through %d state files, %v", states, err)
	}
}

// noSecrets looks through everything that the state holds.
func noSecrets(s *terraform.State) error {
	for _, text := range secretTexts {
		if strings.Contains(s.String(), text) {
			return fmt.Errorf("the state holds the secret %q", text)
		}
	}
	return nil
}

func attribute(name, key, want string) resource.TestCheckFunc {
	return resource.ComposeAggregateTestCheckFunc(noSecrets, resource.TestCheckResourceAttr(name, key, want))
}

// deployment is a configuration with some instances, as Terraform text.
type deployment struct {
	agents []*fakeAgent
	// In the provider block and in the cluster.
	token, ca, cluster string
	version            int
	// phase is of the zdm_migration_phase; "" for none.
	phase, force string
	// gates of it, as Terraform text; "" for none.
	gates string
	// endpoint overrides that of the first instance.
	endpoint string
}

func deploy(t *testing.T, names ...string) *deployment {
	t.Helper()
	d := &deployment{token: fakeToken, version: 1}
	for _, name := range names {
		a := newFakeAgent(t, name)
		d.agents, d.ca = append(d.agents, a), a.ca() // httptest has one certificate
	}
	return d
}

// with returns the configuration after a change of the deployment.
func (d *deployment) with(change func(*deployment)) string {
	c := *d
	c.agents = slices.Clone(d.agents)
	change(&c)
	return c.String()
}

func (d *deployment) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "provider \"zdm\" {\n  ca_pem = %q\n  token = %q\n}\n", d.ca, d.token)
	fmt.Fprintf(&b, "resource \"zdm_proxy_cluster\" \"test\" {\n  instances = {\n")
	for i, a := range d.agents {
		endpoint := a.server.URL
		if i == 0 && d.endpoint != "" {
			endpoint = d.endpoint
		}
		fmt.Fprintf(&b, "    %s = { admin_endpoint = %q, listen_address = \"127.0.0.%d\" }\n", a.name, endpoint, a.name[0])
	}
	fmt.Fprintf(&b, "  }\n")
	for _, side := range []struct{ name, password string }{{"origin", originPassword}, {"target", targetPassword}} {
		fmt.Fprintf(&b, "  %s = {\n    contact_points = [\"10.0.0.1\", \"10.0.0.2\"]\n    username = \"app\"\n    password_wo = \"%s%d\"\n    password_wo_version = %d\n  }\n",
			side.name, side.password, d.version, d.version)
	}
	fmt.Fprintf(&b, "  rollout = { ready_timeout_seconds = 2 }\n%s\n}\n", d.cluster)
	if d.phase != "" {
		fmt.Fprintf(&b, "resource \"zdm_migration_phase\" \"test\" {\n  cluster_id = zdm_proxy_cluster.test.id\n  instances = zdm_proxy_cluster.test.admin_endpoints\n  phase = %q\n", d.phase)
		if d.force != "" {
			fmt.Fprintf(&b, "  force_reason = %q\n", d.force)
		}
		if d.gates != "" {
			fmt.Fprintf(&b, "  gates = { %s }\n", d.gates)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

const (
	clusterName = "zdm_proxy_cluster.test"
	phaseName   = "zdm_migration_phase.test"
)

// told checks what the agents were told to do since the last check.
func told(t *testing.T, want string, agents ...*fakeAgent) func() {
	return func() {
		t.Helper()
		var got []string
		for _, a := range agents {
			got = append(got, a.name+": "+strings.Join(a.took(), ", "))
		}
		if text := strings.Join(got, "; "); text != want {
			t.Errorf("the agents were told %q, want %q", text, want)
		}
	}
}

// after adds a check of the agents to a step.
func after(step resource.TestStep, check func()) resource.TestStep {
	inner := step.Check
	step.Check = func(s *terraform.State) error {
		check()
		if inner != nil {
			return inner(s)
		}
		return noSecrets(s)
	}
	return step
}

func expect(text string) *regexp.Regexp {
	// Terraform wraps lines and draws a frame around them.
	return regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(text), " ", `[\s│]+`))
}

// planHook runs between plan and apply.
type planHook func()

func (h planHook) CheckPlan(context.Context, plancheck.CheckPlanRequest, *plancheck.CheckPlanResponse) {
	h()
}

// otherCA is an authority that has signed nothing here.
var otherCA = func() string {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}()
