package supervise

import (
	"bufio"
	"bytes"
	"io"
	"os"

	"github.com/google/renameio/v2"
)

// keepProgram makes kept a copy of the program, unless it is one already.
func keepProgram(program, kept string) error {
	from, err := os.Open(program)
	if err != nil {
		return err
	}
	defer from.Close()
	if same, err := sameContent(from, kept); err != nil || same {
		return err
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	to, err := renameio.NewPendingFile(kept, renameio.WithPermissions(0o700))
	if err != nil {
		return err
	}
	defer func() { _ = to.Cleanup() }() // nothing is left once it was replaced
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return to.CloseAtomicallyReplace()
}

// sameContent compares a file with one that may not be there.
func sameContent(f *os.File, name string) (bool, error) {
	other, err := os.Open(name)
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer other.Close()
	one, err := f.Stat()
	if err != nil {
		return false, err
	}
	if two, err := other.Stat(); err != nil || one.Size() != two.Size() {
		return false, err
	}
	const piece = 64 << 10
	a, b := bufio.NewReaderSize(f, piece), bufio.NewReaderSize(other, piece)
	for {
		x, errX := a.Peek(piece)
		y, errY := b.Peek(piece)
		switch {
		case !bytes.Equal(x, y):
			return false, nil
		case errX == io.EOF && errY == io.EOF:
			return true, nil
		case errX != nil:
			return false, errX
		case errY != nil:
			return false, errY
		}
		_, _ = a.Discard(len(x)) // it is there
		_, _ = b.Discard(len(y))
	}
}
