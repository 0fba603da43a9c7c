package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// tailBytes is as much of a log's end as is looked at for its last lines.
const tailBytes = 256 << 10

// tail returns the last n lines of a file, indented, for an error message.
func tail(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return "  " + err.Error()
	}
	defer func() { _ = f.Close() }()
	b, err := readEnd(f)
	if err != nil {
		return "  " + err.Error()
	}
	if len(b) == 0 {
		return "  (nothing)"
	}
	return lastLines(b, n)
}

func readEnd(f *os.File) ([]byte, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(max(0, size-tailBytes), io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// lastLines returns the last n lines of text, indented.
func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	lines = lines[max(0, len(lines)-n):]
	return "  " + strings.Join(lines, "\n  ")
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// CopyLog writes the last n lines of a process's log, and, if follow is set,
// what is added to it until ctx ends.
func (l *Lab) CopyLog(ctx context.Context, w io.Writer, name string, n int, follow bool) error {
	path, err := l.logPath(name)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the log of %s: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	b, err := readEnd(f)
	if err != nil {
		return fmt.Errorf("read the log of %s: %w", name, err)
	}
	lines := strings.SplitAfter(string(b), "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if _, err := io.WriteString(w, strings.Join(lines[max(0, len(lines)-n):], "")); err != nil {
		return err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for follow {
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// logPath finds a process by name.
func (l *Lab) logPath(name string) (string, error) {
	var names []string
	for _, c := range l.Clusters() {
		for _, n := range c.Nodes {
			if n.Name == name {
				return n.LogPath(), nil
			}
			names = append(names, n.Name)
		}
	}
	for _, a := range l.Appliances {
		if a.Name == name {
			return a.LogPath(), nil
		}
		if a.Name+proxyOfAgent == name {
			if path := a.proxyLog(); path != "" {
				return path, nil
			}
			return "", fmt.Errorf("%s has not started a proxy yet; zdm-lab logs %s shows what its agent does", a.Name, a.Name)
		}
		names = append(names, a.Name, a.Name+proxyOfAgent)
	}
	return "", fmt.Errorf("no process %q in this lab; it has %s", name, strings.Join(names, ", "))
}
