package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// terraform runs terraform or tofu on one folder, with the provider that was
// built here and everything that it writes in a folder of its own.
type terraform struct {
	path    string // of the program
	example string // folder with main.tf
	work    string // folder for state and the like
	env     []string
	log     io.Writer
}

// findTerraform looks for the program: the one that was named, or else
// terraform or tofu, as the environment's TERRAFORM or the path has it.
func findTerraform(named string) (string, error) {
	if named == "" {
		named = os.Getenv("TERRAFORM")
	}
	if named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", fmt.Errorf("terraform program: %w; set TERRAFORM or -terraform to terraform or tofu, 1.11 or later", err)
		}
		return filepath.Abs(path)
	}
	for _, name := range []string{"terraform", "tofu"} {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", errors.New("neither terraform nor tofu (1.11 or later) is on the path; install one, or name it with TERRAFORM=/path/to/it")
}

// newTerraform writes the CLI configuration that takes the provider from
// binaries, so that neither a registry nor init is needed. Variables go through
// the environment: process arguments are for everyone to see.
func newTerraform(path, example, work, binaries string, variables map[string]string, log io.Writer) (*terraform, error) {
	if err := checkFiles(example, binaries); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, err
	}
	rc := filepath.Join(work, "terraform.rc")
	text := fmt.Sprintf("provider_installation {\n  dev_overrides {\n    \"zdmproject/zdm\" = %q\n  }\n  direct {}\n}\n", binaries)
	if err := os.WriteFile(rc, []byte(text), 0o600); err != nil {
		return nil, err
	}
	// What the user has set for other work must not reach in here.
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TF_") })
	env = append(env, "TF_CLI_CONFIG_FILE="+rc, "TF_DATA_DIR="+filepath.Join(work, "data"), "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1")
	for name, value := range variables {
		env = append(env, "TF_VAR_"+name+"="+value)
	}
	return &terraform{path: path, example: example, work: work, env: env, log: log}, nil
}

// checkFiles says early what would be missed late.
func checkFiles(example, binaries string) error {
	if _, err := os.Stat(filepath.Join(example, "main.tf")); err != nil {
		return fmt.Errorf("example: %w; run this in the checkout, or name the folder with --example", err)
	}
	if _, err := os.Stat(filepath.Join(binaries, "terraform-provider-zdm")); err != nil {
		return fmt.Errorf("provider: %w; make build makes it", err)
	}
	return nil
}

// command is what a person would type for apply.
func (t *terraform) command(phase string) string {
	return filepath.Base(t.path) + " apply -var phase=" + phase
}

// apply applies the example with one phase, and returns the line that sums it
// up. The whole output is in the log. When ctx ends, terraform is interrupted
// and may end in order.
func (t *terraform) apply(ctx context.Context, phase string) (summary string, err error) {
	var output bytes.Buffer
	both := io.MultiWriter(&output, t.log)
	cmd := exec.CommandContext(ctx, t.path, "-chdir="+t.example, "apply",
		"-auto-approve", "-input=false", "-no-color", "-compact-warnings",
		"-state="+filepath.Join(t.work, "terraform.tfstate"), "-var", "phase="+phase)
	cmd.Env = t.env
	cmd.Stdout, cmd.Stderr = both, both
	// Ctrl-C reaches us alone; Cancel passes it on once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	_, _ = fmt.Fprintf(t.log, "\n$ %s   (%s)\n", t.command(phase), time.Now().Format(time.TimeOnly))
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("%s: %w\n%s", t.command(phase), err, errorLines(output.String()))
	}
	return summaryLine(output.String()), nil
}

var applyComplete = regexp.MustCompile(`(?m)^Apply complete! Resources: (.*)\.$`)

// summaryLine is "1 added, 1 changed, 0 destroyed".
func summaryLine(output string) string {
	if m := applyComplete.FindStringSubmatch(output); m != nil {
		return m[1]
	}
	return ""
}

// errorLines is the part of an output that tells the errors, or its end.
func errorLines(output string) string {
	const most = 40
	if at := strings.Index(output, "Error: "); at >= 0 {
		output = output[at:]
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if !strings.HasPrefix(output, "Error: ") && len(lines) > most {
		lines = lines[len(lines)-most:]
	}
	return strings.Join(lines[:min(len(lines), most)], "\n")
}
