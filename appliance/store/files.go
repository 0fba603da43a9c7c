package store

import (
	"io"
	"os"
	"path/filepath"
)

// FS is what a Store does to a folder; tests put faults between its steps.
type FS interface {
	// Create makes a new file, 0600, open for writing; it must not exist.
	Create(name string) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes renames durable.
	SyncDir() error
	Read(name string) ([]byte, error)
	Names() ([]string, error)
}

// File is a file that is being written.
type File interface {
	io.WriteCloser
	Sync() error
}

// maxRecord bounds what is read back: a request is at most 1 MiB, and a record
// holds two documents.
const maxRecord = 8 << 20

type dirFS struct{ dir string }

// Dir is the FS of a real folder.
func Dir(dir string) FS { return dirFS{dir} }

func (d dirFS) path(name string) string { return filepath.Join(d.dir, name) }

func (d dirFS) Create(name string) (File, error) {
	return os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (d dirFS) Rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }

func (d dirFS) Remove(name string) error { return os.Remove(d.path(name)) }

func (d dirFS) SyncDir() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (d dirFS) Read(name string) ([]byte, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRecord))
}

func (d dirFS) Names() ([]string, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}
