package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
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

// version is a Cassandra version that the lab can run.
type version struct {
	text         string
	major, minor string
}

// versionText keeps to releases with Java 17 flags that we know. 4.0, 4.1 and
// 5.0 were run.
var versionText = regexp.MustCompile(`^(4|5)\.(0|1)\.\d+$`)

func parseVersion(text string) (version, error) {
	m := versionText.FindStringSubmatch(text)
	if m == nil || m[1] == "5" && m[2] != "0" {
		return version{}, fmt.Errorf("cassandra version %q is not of 4.0, 4.1 or 5.0; give all three numbers, such as 4.1.8 or 5.0.4", text)
	}
	return version{text: text, major: m[1], minor: m[2]}, nil
}

// before41 tells that settings have their old units and some do not exist.
func (v version) before41() bool { return v.major == "4" && v.minor == "0" }

// needsJamm: 4.x measures memory through a Java agent, 5.0 without.
func (v version) needsJamm() bool { return v.major == "4" }

// Check tells whether this machine can run a lab of the default versions: with
// a *JavaError if there is no Java, and another one if there is neither Maven
// nor a cache that was filled before.
func Check() error {
	if _, err := FindJava(); err != nil {
		return err
	}
	for _, text := range []string{DefaultOriginVersion, DefaultTargetVersion} {
		v, err := parseVersion(text)
		if err != nil {
			return err
		}
		if _, err := cachedJars(v); err != nil {
			if _, err := findMaven(v); err != nil {
				return err
			}
		}
	}
	return nil
}

// cachedJars returns the folder that has, or is to have, the jars of a version;
// the error is fs.ErrNotExist if they are not there yet.
func cachedJars(v version) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "cassandra", v.text)
	_, err = os.Stat(filepath.Join(dir, v.mainJar()))
	return dir, err
}

func (v version) mainJar() string { return "cassandra-all-" + v.text + ".jar" }

func findMaven(v version) (string, error) {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return "", fmt.Errorf("fetch Cassandra %s: no Maven (mvn) in PATH; install it (Debian, Ubuntu: apt-get install maven)", v.text)
	}
	return mvn, nil
}

// jars returns the folder with all jars of a version. It is there complete or
// not at all, so two labs may fetch at the same time.
func jars(ctx context.Context, java string, v version, say func(string, ...any)) (string, error) {
	dir, err := cachedJars(v)
	if !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	mvn, err := findMaven(v)
	if err != nil {
		return "", err
	}
	say("fetching Cassandra %s with Maven (about 60 MB the first time)", v.text)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), v.text+".partial-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := os.WriteFile(filepath.Join(work, "pom.xml"), []byte(fmt.Sprintf(pom, v.text)), 0o644); err != nil {
		return "", err
	}
	lib := filepath.Join(work, "lib")
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory="+lib)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "JAVA_HOME="+java)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetch Cassandra %s: mvn: %w; its last lines:\n%s", v.text, err, lastLines(out, 12))
	}
	if _, err := os.Stat(filepath.Join(lib, v.mainJar())); err != nil {
		return "", fmt.Errorf("fetch Cassandra %s: mvn ended well but left no %s", v.text, v.mainJar())
	}
	if err := os.Rename(lib, dir); err != nil {
		if there, missing := cachedJars(v); missing == nil {
			return there, nil // another lab was faster
		}
		return "", fmt.Errorf("keep Cassandra %s: %w", v.text, err)
	}
	return dir, nil
}

const pom = `<project><modelVersion>4.0.0</modelVersion><groupId>lab</groupId><artifactId>lab</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>%s</version></dependency>
</dependencies></project>
`
