package cassandra

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// javaVersion is the only one that works: Cassandra 4.1 and 5.0 install a
// SecurityManager, which 18 and later forbid, and 4.1 on 11 would need other
// flags than the ones we give.
const javaVersion = 17

// A JavaError tells that no Java 17 was found, and what was found instead.
type JavaError struct {
	Refused []string // "/usr/lib/jvm/java-25 is Java 25"
}

func (e *JavaError) Error() string {
	text := fmt.Sprintf("no Java %d, which Cassandra needs exactly", javaVersion)
	if len(e.Refused) > 0 {
		text += " (refused: " + strings.Join(e.Refused, "; ") + ")"
	}
	return text + fmt.Sprintf("; install it (Debian, Ubuntu: apt-get install openjdk-%d-jre-headless) or set JAVA_HOME", javaVersion)
}

// FindJava returns the home folder of a Java 17, taken from JAVA_HOME, the
// usual places, or PATH, in this order. The error is a *JavaError.
func FindJava() (string, error) {
	home, _ := os.UserHomeDir()
	patterns := []string{
		"/usr/lib/jvm/*", "/usr/java/*", "/opt/java/*", "/opt/*jdk*", "/opt/*jre*", "/usr/local/*jdk*",
		filepath.Join(home, ".sdkman/candidates/java/*"), filepath.Join(home, ".jdks/*"),
	}
	var homes []string
	if h := os.Getenv("JAVA_HOME"); h != "" {
		homes = append(homes, h)
	}
	for _, p := range patterns {
		found, _ := filepath.Glob(p)
		homes = append(homes, found...)
	}
	if path, err := exec.LookPath("java"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			homes = append(homes, filepath.Dir(filepath.Dir(path)))
		}
	}
	return chooseJava(homes)
}

func chooseJava(homes []string) (string, error) {
	e := &JavaError{}
	seen := map[string]bool{}
	for _, home := range homes {
		// Places hold links to each other; one look and one line for each.
		real, err := filepath.EvalSymlinks(home)
		if err != nil {
			real = home
		}
		if seen[real] {
			continue
		}
		seen[real] = true
		version, err := javaMajor(real)
		switch {
		case errors.Is(err, os.ErrNotExist) && home != os.Getenv("JAVA_HOME"):
			// a folder without a Java in it
		case err != nil:
			e.Refused = append(e.Refused, fmt.Sprintf("%s: %v", home, err))
		case version != javaVersion:
			e.Refused = append(e.Refused, fmt.Sprintf("%s is Java %d", home, version))
		default:
			return real, nil
		}
	}
	return "", e
}

// javaMajor tells the version of the Java in home: from its release file, or
// else by asking it.
func javaMajor(home string) (int, error) {
	program := filepath.Join(home, "bin", "java")
	if _, err := os.Stat(program); err != nil {
		return 0, err
	}
	if f, err := os.Open(filepath.Join(home, "release")); err == nil {
		defer func() { _ = f.Close() }()
		for s := bufio.NewScanner(f); s.Scan(); {
			if v, ok := strings.CutPrefix(s.Text(), "JAVA_VERSION="); ok {
				return parseJavaVersion(strings.Trim(v, `"`))
			}
		}
	}
	out, err := exec.Command(program, "-version").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("run %s -version: %w", program, err)
	}
	m := javaVersionText.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("run %s -version: no version in %q", program, firstLine(string(out)))
	}
	return parseJavaVersion(string(m[1]))
}

var javaVersionText = regexp.MustCompile(`version "([^"]+)"`)

// parseJavaVersion reads "17.0.15", "25-ea" and "1.8.0_402".
func parseJavaVersion(text string) (int, error) {
	number := strings.TrimPrefix(text, "1.")
	end := strings.IndexFunc(number, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		number = number[:end]
	}
	major, err := strconv.Atoi(number)
	if err != nil {
		return 0, fmt.Errorf("java version %q is not a version", text)
	}
	return major, nil
}
