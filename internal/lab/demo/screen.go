package demo

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// screen writes lines that stay and, on a terminal, a block below them that is
// drawn anew. It is safe for concurrent use.
type screen struct {
	// Set once.
	out   io.Writer
	live  bool
	width func() int

	mu    sync.Mutex
	block []string // as it is on the terminal
	begun []byte   // by Write: a line without its end
}

// newScreen is live on a terminal that can move its cursor, and plain in CI,
// in a pipe and on a dumb terminal.
func newScreen(f *os.File) *screen {
	s := &screen{out: f, width: func() int { return 80 }}
	fd := int(f.Fd())
	name := os.Getenv("TERM")
	s.live = term.IsTerminal(fd) && name != "" && name != "dumb" && os.Getenv("CI") == ""
	if s.live {
		s.width = func() int {
			if w, _, err := term.GetSize(fd); err == nil && w > 0 {
				return w
			}
			return 80
		}
	}
	return s
}

// say writes lines that stay.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.erase() + strings.TrimSuffix(fmt.Sprintf(format, args...), "\n") + "\n" + strings.Join(s.block, "")
	_, _ = io.WriteString(s.out, text)
}

// Write lets others say lines; what is behind the last newline waits for more.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.begun = append(s.begun, p...)
	end := bytes.LastIndexByte(s.begun, '\n') + 1
	whole := string(s.begun[:end])
	s.begun = s.begun[end:]
	s.mu.Unlock()
	if whole != "" {
		s.say("%s", whole)
	}
	return len(p), nil
}

// draw replaces the block; no lines take it away. On a screen that is not live
// it does nothing.
func (s *screen) draw(lines ...string) {
	if !s.live {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	width := s.width()
	text := s.erase()
	s.block = nil
	for _, line := range lines {
		s.block = append(s.block, cut(line, width-1)+"\n")
	}
	_, _ = io.WriteString(s.out, text+strings.Join(s.block, ""))
}

// erase returns what takes the block off the terminal.
func (s *screen) erase() string {
	if len(s.block) == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\x1b[J", len(s.block))
}

// cut keeps a line from wrapping, which would spoil the count of lines.
func cut(line string, width int) string {
	if width < 1 || utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:width])
}
