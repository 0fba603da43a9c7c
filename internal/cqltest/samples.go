package cqltest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Sample is one statement of a data file, and what is expected of it.
type Sample struct {
	File string
	Line int // of the statement's first
	Text string
	// Releases of Cassandra that read the statement, as "4.1"; what it then
	// makes of it is another matter. None for what is not CQL, or another
	// product's.
	Releases []string
	Want     string
}

func (s Sample) String() string { return fmt.Sprintf("%s:%d: %.200s", s.File, s.Line, s.Text) }

// Read reports whether nodes of a release, as "4.1.8", read the statement.
func (s Sample) Read(release string) bool {
	return slices.ContainsFunc(s.Releases, func(r string) bool { return strings.HasPrefix(release, r+".") })
}

// releases are what may follow the dashes of a data file.
var releases = map[string][]string{"": {"4.1", "5.0"}, " 4.1": {"4.1"}, " 5.0": {"5.0"}, " refused": nil}

var unescape = strings.NewReplacer(`\r`, "\r", `\t`, "\t")

// Samples reads data files: a statement, a line of dashes, one line of what is
// expected, an empty line.
//
//	SELECT * FROM vs ORDER BY v ANN OF ? LIMIT ?
//	---- 5.0
//	kind=select table=vs idempotent markers=2
//
// The dashes alone say that every release reads the statement, "---- 5.0" that
// only this one does, "---- refused" that none does. Lines that begin with # and
// a blank between samples are comments; \r and \t in a statement are what they look
// like.
func Samples(t testing.TB, pattern string) []Sample {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no data files %s: %v", pattern, err)
	}
	var all []Sample
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		lines := strings.Split(string(content), "\n")
		for i := 0; i < len(lines); i++ {
			mark, dashes := strings.CutPrefix(lines[i], "----")
			switch {
			case len(text) == 0 && (lines[i] == "" || strings.HasPrefix(lines[i], "# ")):
			case dashes:
				read, known := releases[mark]
				if !known || len(text) == 0 || i+1 >= len(lines) {
					t.Fatalf("%s:%d: %q is no mark, there is no statement, or nothing is expected of it", file, i+1, mark)
				}
				all = append(all, Sample{
					File: filepath.Base(file), Line: i + 1 - len(text), Text: unescape.Replace(strings.Join(text, "\n")),
					Releases: read, Want: lines[i+1],
				})
				text = nil
				i++
			default:
				text = append(text, lines[i])
			}
		}
		if len(text) != 0 {
			t.Fatalf("%s: the last statement has no expectation", file)
		}
	}
	return all
}
