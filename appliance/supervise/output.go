package supervise

import (
	"bytes"
	"io"
	"os"
	"strings"
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
