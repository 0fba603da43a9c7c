package cassandra

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// Version is a Cassandra version that can be run.
type Version struct {
	text         string
	major, minor string
}

// versionText keeps to releases with Java 17 flags that we know. 4.0, 4.1 and
// 5.0 were run.
var versionText = regexp.MustCompile(`^(4|5)\.(0|1)\.\d+$`)

// ParseVersion reads "4.1.8".
func ParseVersion(text string) (Version, error) {
	m := versionText.FindStringSubmatch(text)
	if m == nil || m[1] == "5" && m[2] != "0" {
		return Version{}, fmt.Errorf("cassandra version %q is not of 4.0, 4.1 or 5.0; give all three numbers, such as 4.1.8 or 5.0.4", text)
	}
	return Version{text: text, major: m[1], minor: m[2]}, nil
}

// before41 tells that settings have their old units and some do not exist.
func (v Version) before41() bool { return v.major == "4" && v.minor == "0" }

// needsJamm: 4.x measures memory through a Java agent, 5.0 without.
func (v Version) needsJamm() bool { return v.major == "4" }

// Available tells whether the jars of a version are there or could be fetched.
func Available(cache string, v Version) error {
	if _, err := cached(cache, v); err == nil {
		return nil
	}
	_, err := findMaven(v)
	return err
}

// cached returns the folder that has, or is to have, the jars of a version; the
// error is fs.ErrNotExist if they are not there yet.
func cached(cache string, v Version) (string, error) {
	dir := filepath.Join(cache, "cassandra", v.text)
	_, err := os.Stat(filepath.Join(dir, v.mainJar()))
	return dir, err
}

func (v Version) mainJar() string { return "cassandra-all-" + v.text + ".jar" }

func findMaven(v Version) (string, error) {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return "", fmt.Errorf("fetch Cassandra %s: no Maven (mvn) in PATH; install it (Debian, Ubuntu: apt-get install maven)", v.text)
	}
	return mvn, nil
}

// Jars returns the folder with all jars of a version, and fetches them into the
// cache if they are not there; say is told if so. The folder is there complete
// or not at all, so several processes may fetch at the same time.
func Jars(ctx context.Context, cache, java string, v Version, say func(string, ...any)) (string, error) {
	dir, err := cached(cache, v)
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
		if there, missing := cached(cache, v); missing == nil {
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
