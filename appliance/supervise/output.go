package supervise

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// outputLines and outputBytes bound what is shown of a process's end.
	outputLines = 20
	outputBytes = 16 << 10
	// maxOutput is when an output file is turned over.
	maxOutput = 16 << 20
)

// lastLines reads the end of a file; nothing if it cannot be read.
func lastLines(name string) []string {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil
	}
	from := max(0, size-outputBytes)
	b := make([]byte, size-from)
	n, _ := f.ReadAt(b, from)
	b = b[:n]
	if from > 0 { // the first line is not whole
		if _, rest, found := bytes.Cut(b, []byte{'\n'}); found {
			b = rest
		}
	}
	text := strings.TrimRight(string(b), "\n")
	if text == "" {
		return nil
	}
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "?")
	}
	lines := strings.Split(text, "\n")
	return lines[max(0, len(lines)-outputLines):]
}

const (
	// followInterval is how soon a line is noticed.
	followInterval = 250 * time.Millisecond
	// followBytes bounds what is read in each interval; of a process that writes
	// faster the beginning is passed over.
	followBytes = 64 << 10
)

// Follow reads the output file now and then.
func (p *execProcess) Follow(ctx context.Context, line func(string)) {
	f, err := os.Open(p.base + ".log")
	if err != nil {
		return
	}
	defer f.Close()
	tail := tail{f: f, line: line}
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		tail.skipTo(max(0, size-outputBytes))
	}
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		tail.read()
		select {
		case <-ctx.Done():
			return
		case <-p.done:
			tail.read()
			return
		case <-tick.C:
		}
	}
}

// tail cuts a growing file into lines.
type tail struct {
	f       *os.File
	line    func(string)
	at      int64
	partial []byte
	inLine  bool // at is in the middle of a line whose beginning was passed over
}

func (t *tail) skipTo(at int64) { t.at, t.partial, t.inLine = at, nil, at > 0 }

func (t *tail) read() {
	info, err := t.f.Stat()
	if err != nil {
		return
	}
	size := info.Size()
	if size < t.at { // it was turned over
		t.skipTo(0)
	}
	if over := size - t.at - followBytes; over > 0 {
		t.line(fmt.Sprintf("[%d bytes of output were not kept]", over))
		t.skipTo(t.at + over)
	}
	b := make([]byte, size-t.at)
	n, _ := t.f.ReadAt(b, t.at)
	t.at += int64(n)
	for line := range bytes.Lines(b[:n]) {
		whole := line[len(line)-1] == '\n'
		if t.inLine {
			t.inLine = !whole
			continue
		}
		t.partial = append(t.partial, bytes.TrimSuffix(line, []byte{'\n'})...)
		if whole || len(t.partial) > followBytes {
			t.line(string(t.partial))
			t.partial = t.partial[:0]
		}
	}
}

// TurnOutput bounds a process's output file: above 16 MiB it becomes the .old
// one. The process has the file open for appending and goes on in the same one,
// so what it writes during the copy may be missing in both.
func (p *execProcess) TurnOutput() error {
	name := p.base + ".log"
	if info, err := os.Stat(name); err != nil || info.Size() < maxOutput {
		return nil
	}
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(name+".old", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if closed := to.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Truncate(name, 0)
}
