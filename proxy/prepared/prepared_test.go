package prepared_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/prepared"
)

// told makes a statement whose clients decode with the result metadata result,
// as one side has just answered.
func told(id, result string, by phase.Side) *prepared.Statement {
	m := prepared.NewMetadata([]byte(id), nil, []byte(result))
	s := &prepared.Statement{ID: []byte(id), Text: "SELECT " + id, Told: m.ResultDigest}
	s.SetSide(by, m)
	return s
}

func set(s *prepared.Statement, side phase.Side, result string) {
	s.SetSide(side, prepared.NewMetadata(s.ID, nil, []byte(result)))
}

func TestMetadataMayBeSkippedOnlyWhereEveryClientWasToldTheSame(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		then func(c *prepared.Cache, s *prepared.Statement)
		want [2]bool // may skip: origin, target
	}{
		{"only origin was asked", func(*prepared.Cache, *prepared.Statement) {}, [2]bool{true, false}},
		{"both say the same", func(_ *prepared.Cache, s *prepared.Statement) { set(s, phase.Target, "a,b") }, [2]bool{true, true}},
		{"target says otherwise", func(_ *prepared.Cache, s *prepared.Statement) { set(s, phase.Target, "b,a") }, [2]bool{true, false}},
		{"a column was added at origin", func(_ *prepared.Cache, s *prepared.Statement) { set(s, phase.Origin, "a,b,c") }, [2]bool{false, false}},
		{"one node of origin has not heard of the column yet", func(_ *prepared.Cache, s *prepared.Statement) {
			set(s, phase.Origin, "a,b,c")
			set(s, phase.Origin, "a,b")
		}, [2]bool{false, false}},
		{"another client prepared it and was told the same", func(c *prepared.Cache, s *prepared.Statement) {
			set(s, phase.Target, "a,b")
			c.Put(told("x", "a,b", phase.Target))
		}, [2]bool{true, true}},
		{"another client prepared it after the column was added", func(c *prepared.Cache, s *prepared.Statement) {
			set(s, phase.Target, "a,b,c")
			c.Put(told("x", "a,b,c", phase.Target))
		}, [2]bool{false, false}},
	} {
		c := prepared.NewCache(10, 1<<20)
		s := c.Put(told("x", "a,b", phase.Origin))
		tt.then(c, s)
		if c.Find([]byte("x")) != s {
			t.Errorf("%s: the cache has another statement now, want the one that requests in flight hold", tt.name)
		}
		for _, side := range phase.Sides {
			if got := s.MaySkipMetadata(side); got != tt.want[side] {
				t.Errorf("%s: %s may skip the metadata: %v, want %v", tt.name, side, got, tt.want[side])
			}
		}
	}
}

// A process that takes over knows only what each side answered last, and what
// clients were told.
func TestWhatIsHandedOverNeverAllowsToSkipMore(t *testing.T) {
	t.Parallel()
	for _, answers := range [][]string{{}, {"a,b"}, {"b,a"}, {"a,b,c", "a,b"}} {
		s := told("x", "a,b", phase.Origin)
		for _, a := range answers {
			set(s, phase.Target, a)
		}
		next := &prepared.Statement{ID: s.ID, Text: s.Text, Told: s.CommonlyTold()}
		for _, side := range phase.Sides {
			if m := s.Side(side); m != nil {
				next.SetSide(side, m)
			}
		}
		for _, side := range phase.Sides {
			if next.MaySkipMetadata(side) && !s.MaySkipMetadata(side) {
				t.Errorf("target answered %v: the next process lets %s skip the metadata, this one does not", answers, side)
			}
		}
	}
}

func TestCacheForgetsWhatWasNotUsedLately(t *testing.T) {
	t.Parallel()
	const capacity = 8
	c := prepared.NewCache(capacity, 1<<20)
	for i := range capacity {
		c.Put(told(fmt.Sprint("old", i), "", phase.Origin))
	}
	c.Put(told("new0", "", phase.Origin)) // clears all marks, and takes the first place
	for i := 1; i < capacity; i++ {
		c.Find(fmt.Appendf(nil, "old%d", 3)) // in use all the time
		c.Put(told(fmt.Sprint("new", i), "", phase.Origin))
	}
	if c.Find([]byte("old3")) == nil {
		t.Error("a statement in use was forgotten")
	}
	if got := c.Len(); got != capacity {
		t.Errorf("%d statements, want %d", got, capacity)
	}
	if got := len(c.All()); got != capacity {
		t.Errorf("All lists %d statements, want %d", got, capacity)
	}
}

func TestFindDoesNotAllocate(t *testing.T) {
	c := prepared.NewCache(1, 1<<20)
	c.Put(told("x", "", phase.Origin))
	id := []byte("x")
	if n := testing.AllocsPerRun(100, func() { c.Find(id) }); n != 0 {
		t.Errorf("Find allocates %v times, want 0", n)
	}
}

func TestCacheIsBoundedInBytesToo(t *testing.T) {
	t.Parallel()
	const large = 1 << 20
	c := prepared.NewCache(1000, 10*large)
	put := func(id string, n int) {
		c.Put(&prepared.Statement{ID: []byte(id), Text: strings.Repeat("x", n)})
	}
	for i := range 100 {
		put(fmt.Sprint("large", i), large)
		if n := c.Len(); n > 9 {
			t.Fatalf("after %d statements of a megabyte there are %d, want 9 at most in 10 MB", i+1, n)
		}
	}
	if c.Find([]byte("large99")) == nil {
		t.Error("the last one is not there")
	}
	put("huge", 20*large)
	if c.Len() != 1 || c.Find([]byte("huge")) == nil {
		t.Errorf("there are %d statements, want the one that is larger than the bound by itself", c.Len())
	}
	for i := range 500 {
		put(fmt.Sprint("small", i), 10)
	}
	if n := c.Len(); n != 500 {
		t.Errorf("there are %d statements, want the 500 small ones: forgotten ones must not count", n)
	}
}

func TestTheCacheCountsWhatIsNewAlsoWhereItForgets(t *testing.T) {
	t.Parallel()
	c := prepared.NewCache(1, 1<<20)
	for i, tt := range []struct {
		id   string
		want uint64
	}{{"x", 1}, {"x", 1}, {"y", 2}, {"x", 3}} {
		c.Put(told(tt.id, "a,b", phase.Origin))
		if got := c.Added(); got != tt.want {
			t.Errorf("step %d, %s: %d statements were added, want %d", i, tt.id, got, tt.want)
		}
	}
}
