package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Keep is how many records stay on disk: enough to look back at a bad day.
const Keep = 16

const (
	prefix    = "record-"
	temporary = ".tmp"
	digits    = 12 // so that names sort as numbers do
)

// Store is the records of one instance.
type Store struct {
	fs      FS
	lock    *os.File // nil in tests on an FS of their own
	record  Record
	seq     uint64 // of the newest file, good or not
	reports []string
}

// Open takes the folder, which is made if there is none, for this process alone
// and reads the newest good record.
func Open(dir string) (*Store, error) {
	records := filepath.Join(dir, "records")
	if err := os.MkdirAll(records, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w; give one that this user may write with -state", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open state folder: %w; give one that this user may write with -state", err)
	}
	if err := flock(lock); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state folder %s is in use by another agent; stop that one, or give another folder with -state", dir)
		}
		return nil, fmt.Errorf("lock state folder %s: %w", dir, err)
	}
	s, err := OpenFS(Dir(records))
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("state folder %s: %w", records, err)
	}
	s.lock = lock
	return s, nil
}

// lockPatience is how long an agent that ends, or a child of it between fork and
// exec, may still hold the lock.
const lockPatience = 2 * time.Second

func flock(f *os.File) error {
	deadline := time.Now().Add(lockPatience)
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(lockPatience / 100)
	}
}

// OpenFS is Open without the lock. That all records are damaged is an error, not
// an empty store: an instance must not forget its phase by itself.
func OpenFS(fs FS) (*Store, error) {
	s := &Store{fs: fs}
	names, err := fs.Names()
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	var found []uint64
	for _, name := range names {
		if strings.HasSuffix(name, temporary) {
			// A write that did not come to its end. It was never acknowledged.
			_ = fs.Remove(name)
			continue
		}
		if seq, ok := parseName(name); ok {
			found = append(found, seq)
		}
	}
	slices.Sort(found)
	if len(found) == 0 {
		s.record.Salt = rand.Text()
		return s, nil
	}
	s.seq = found[len(found)-1]
	for _, seq := range slices.Backward(found) {
		b, err := fs.Read(fileName(seq))
		if err == nil {
			if s.record, err = decode(b); err == nil {
				return s, nil
			}
		}
		s.reports = append(s.reports, fmt.Sprintf("%s cannot be used: %v; the one before it is used", fileName(seq), err))
	}
	return nil, fmt.Errorf("none of %d records can be used, the newest because of: %s; restore one from a backup, or move the folder away to begin anew", len(found), s.reports[0])
}

func fileName(seq uint64) string { return fmt.Sprintf("%s%0*d", prefix, digits, seq) }

func parseName(name string) (uint64, bool) {
	text, ok := strings.CutPrefix(name, prefix)
	if !ok || len(text) < digits {
		return 0, false
	}
	seq, err := strconv.ParseUint(text, 10, 64)
	return seq, err == nil
}

// Record is the last one that was saved or read.
func (s *Store) Record() Record { return s.record }

// Reports says what Open had to pass over; empty on a good day.
func (s *Store) Reports() []string { return s.reports }

// Save makes r the record. When it returns nil, r survives everything but the
// loss of the disk; when it returns an error, the record before is in force.
func (s *Store) Save(r Record) error {
	if r.Salt != s.record.Salt {
		panic("store: the salt was changed")
	}
	b, err := encode(r)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	seq := s.seq + 1
	if err := s.write(fileName(seq), b); err != nil {
		return fmt.Errorf("save record: %w; look at the state folder's disk", err)
	}
	s.seq, s.record = seq, r
	s.prune()
	return nil
}

func (s *Store) write(name string, b []byte) (err error) {
	temp := name + temporary
	f, err := s.fs.Create(temp)
	if errors.Is(err, os.ErrExist) { // left by a write that failed and could not clean up
		_ = s.fs.Remove(temp)
		f, err = s.fs.Create(temp)
	}
	if err != nil {
		return err
	}
	at := temp
	defer func() {
		if err != nil {
			// Best effort. If the new file stays after all, the next Save
			// overwrites it: it has the same number.
			_ = s.fs.Remove(at)
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	if err := s.fs.Rename(temp, name); err != nil {
		return err
	}
	at = name
	return s.fs.SyncDir()
}

// prune removes what is older than the last Keep. A failure is made good by the
// next call, so it is not told.
func (s *Store) prune() {
	names, err := s.fs.Names()
	if err != nil {
		return
	}
	for _, name := range names {
		if seq, ok := parseName(name); ok && seq+Keep <= s.seq {
			_ = s.fs.Remove(name)
		}
	}
}

// Close lets another agent have the folder.
func (s *Store) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}
