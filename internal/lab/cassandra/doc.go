// Package cassandra is what it takes to run a Cassandra without an installation:
// the one Java that it runs on, its jars from Maven, and for each node the
// configuration and the command line.
//
// Floor 3. It starts no node and knows nothing of labs, clusters and roles. It
// has no goroutine.
package cassandra

import (
	"strings"
)

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// lastLines returns the last n lines of a program's output, indented.
func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	lines = lines[max(0, len(lines)-n):]
	return "  " + strings.Join(lines, "\n  ")
}
