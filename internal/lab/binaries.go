package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/cassandra"
)

// module is how the checkout is recognized.
const module = "module github.com/zdmproject/terraform-provider-zdm"

// Checkout returns the root of the source tree that the working directory is
// in, or "" if it is in none.
func Checkout() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), module+"\n") {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// cacheDir is where jars are kept between labs: ZDM_LAB_CACHE, or .cache in the
// checkout, or the user's cache folder.
func cacheDir() (string, error) {
	if dir := os.Getenv("ZDM_LAB_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	if root := Checkout(); root != "" {
		return filepath.Join(root, ".cache"), nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder for Cassandra's jars: %w; set ZDM_LAB_CACHE", err)
	}
	return filepath.Join(dir, "zdm-lab"), nil
}

// Check tells whether this machine can run a lab of the default versions: with
// a *cassandra.JavaError if there is no Java, and another one if there is
// neither Maven nor a cache that was filled before.
func Check() error {
	if _, err := cassandra.FindJava(); err != nil {
		return err
	}
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	for _, text := range []string{DefaultOriginVersion, DefaultTargetVersion} {
		v, err := cassandra.ParseVersion(text)
		if err != nil {
			return err
		}
		if err := cassandra.Available(cache, v); err != nil {
			return err
		}
	}
	return nil
}

// binaries are our programs as a lab runs them.
type binaries struct {
	// Set by fromState, then read only.
	given string // a folder that the caller named; "" otherwise
	dir   string // where built ones go

	// Guarded by mu, which is held across a build: two callers want one.
	mu    sync.Mutex
	built map[string]bool
}

// path returns the program, and builds it first if it comes from the checkout:
// once in the life of this value, so that a test never runs what it was not
// built from.
func (b *binaries) path(ctx context.Context, name string) (string, error) {
	if b.given != "" {
		return existing(filepath.Join(b.given, name))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	path := filepath.Join(b.dir, name)
	if b.built[name] {
		return path, nil
	}
	root := Checkout()
	if root == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		return existing(filepath.Join(filepath.Dir(self), name))
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return "", err
	}
	// Others may run the old one, or build it too: the new one takes its place
	// in one step.
	partial := fmt.Sprintf("%s.partial-%d", path, os.Getpid())
	defer func() { _ = os.Remove(partial) }()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", partial, "./cmd/"+name)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w:\n%s", name, err, lastLines(out, 20))
	}
	if err := os.Rename(partial, path); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	b.built[name] = true
	return path, nil
}

func existing(path string) (string, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("no %s; build it with make build, name its folder with --binaries, or run this in the checkout", path)
	} else if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}
