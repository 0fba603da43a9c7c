package store_test

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
)

// disk is a folder that loses, when the power is cut, what was not synced: of a
// file what was written since its Sync, of the folder what was made, renamed or
// removed since SyncDir, each for itself by chance.
type disk struct {
	files   map[string]*content
	durable map[string]*content
	// unsynced are the changes of names since SyncDir, in order.
	unsynced []func(names map[string]*content)

	steps, cutAt int  // the power is cut in this step; 0 for never
	lies         bool // Sync and SyncDir do nothing and say that it went well
}

type content struct {
	data, synced []byte
}

var errPower = errors.New("the power is cut")

func newDisk() *disk { return &disk{files: map[string]*content{}, durable: map[string]*content{}} }

// step reports whether the power is still there.
func (d *disk) step() error {
	d.steps++
	if d.cutAt > 0 && d.steps >= d.cutAt {
		return errPower
	}
	return nil
}

func (d *disk) rename(f func(names map[string]*content)) {
	f(d.files)
	d.unsynced = append(d.unsynced, f)
}

func (d *disk) Create(name string) (store.File, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	if d.files[name] != nil {
		return nil, fs.ErrExist
	}
	c := &content{}
	d.rename(func(names map[string]*content) { names[name] = c })
	return &diskFile{d, c}, nil
}

func (d *disk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	c := d.files[from]
	d.rename(func(names map[string]*content) {
		delete(names, from)
		names[to] = c
	})
	return nil
}

func (d *disk) Remove(name string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.rename(func(names map[string]*content) { delete(names, name) })
	return nil
}

func (d *disk) SyncDir() error {
	if err := d.step(); err != nil || d.lies {
		return err
	}
	d.durable, d.unsynced = maps.Clone(d.files), nil
	return nil
}

func (d *disk) Read(name string) ([]byte, error) {
	c := d.files[name]
	if c == nil {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(c.data), nil
}

func (d *disk) Names() ([]string, error) { return slices.Sorted(maps.Keys(d.files)), nil }

type diskFile struct {
	d *disk
	c *content
}

func (f *diskFile) Write(b []byte) (int, error) {
	if err := f.d.step(); err != nil {
		f.c.data = append(f.c.data, b[:len(b)/2]...)
		return len(b) / 2, err
	}
	f.c.data = append(f.c.data, b...)
	return len(b), nil
}

func (f *diskFile) Sync() error {
	if err := f.d.step(); err != nil || f.d.lies {
		return err
	}
	f.c.synced = slices.Clone(f.c.data)
	return nil
}

func (f *diskFile) Close() error { return f.d.step() }

// afterPowerCut is the disk as it is found when the power comes back.
func (d *disk) afterPowerCut(r *rand.Rand) *disk {
	names := maps.Clone(d.durable)
	for _, change := range d.unsynced {
		if r.IntN(2) == 0 {
			change(names)
		}
	}
	found := newDisk()
	for name, c := range names {
		if c == nil {
			continue // a rename of what was never there
		}
		data := slices.Clone(c.synced)
		if rest := c.data[len(data):]; len(rest) > 0 {
			switch r.IntN(3) {
			case 0: // some of it has come to the disk
				data = append(data, rest[:r.IntN(len(rest))]...)
			case 1: // the length has, and not the bytes
				data = append(data, make([]byte, len(rest))...)
			}
		}
		found.files[name] = &content{data: data, synced: data}
	}
	found.durable = maps.Clone(found.files)
	return found
}

// cut saves records until the power is cut in a step of the last save, and
// returns what is wrong with what is found then.
func cut(t *testing.T, at int, lies bool, r *rand.Rand) (wrong string, over bool) {
	t.Helper()
	d := newDisk()
	d.lies = lies
	s, err := store.OpenFS(d)
	if err != nil {
		t.Fatal(err)
	}
	const before, after = store.Keep + 1, store.Keep + 2
	for n := range uint64(before) { // so that the last one prunes
		if err := s.Save(recordOf(s.Record(), n+1)); err != nil {
			t.Fatal(err)
		}
	}
	d.steps, d.cutAt = 0, at
	failed := s.Save(recordOf(s.Record(), after))
	over = d.steps < at
	again, err := store.OpenFS(d.afterPowerCut(r))
	switch {
	case err != nil:
		return err.Error(), over
	case len(again.Reports()) > 0:
		return again.Reports()[0], over
	}
	switch got := again.Record().LastGeneration; {
	case failed == nil && got != after:
		return "an acknowledged record is lost", over
	case got != before && got != after:
		return "an older record is in force", over
	}
	number(t, again.Record()) // it is not mixed
	return "", over
}

func TestPowerCutAtAnyStepLeavesTheRecordBeforeOrTheNewOne(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for at := 1; ; at++ {
		for range 50 { // what is lost is by chance
			if wrong, _ := cut(t, at, false, r); wrong != "" {
				t.Fatalf("the power is cut in step %d: %s", at, wrong)
			}
		}
		if _, over := cut(t, at, false, r); over {
			if at < 7 {
				t.Fatalf("only %d steps were seen", at)
			}
			return
		}
	}
}

func TestDiskThatDoesNotSyncWouldBeNoticed(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		if wrong, _ := cut(t, 1000, true, r); wrong != "" {
			return
		}
	}
	t.Error("a disk that loses everything loses nothing: the test above proves nothing")
}
