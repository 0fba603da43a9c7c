// Package prepared remembers what clients have prepared: the text, and the id
// that each side gave it.
//
// Floor 2: it knows no connections. A Cache may be used from any goroutine; it
// starts none.
package prepared

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/rewrite"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
)

// Metadata is what a side answered to PREPARE, apart from the id. It is
// immutable.
type Metadata struct {
	// ID is the side's own id.
	ID []byte
	// ResultID is the side's own id of the result metadata (v5, DSE_V2); nil if it
	// was prepared in another version.
	ResultID []byte
	// ResultDigest tells two result metadata apart without keeping them.
	ResultDigest [md5.Size]byte
}

// NewMetadata copies the ids and digests the raw result metadata.
func NewMetadata(id, resultID, result []byte) *Metadata {
	return &Metadata{ID: bytes.Clone(id), ResultID: bytes.Clone(resultID), ResultDigest: md5.Sum(result)}
}

// ReadMetadata reads a RESULT Prepared.
func ReadMetadata(f frame.Frame) (*Metadata, error) {
	r, err := frame.SplitResponse(f)
	if err != nil {
		return nil, err
	}
	if f.Opcode() != frame.OpResult {
		return nil, fmt.Errorf("PREPARE was answered with opcode 0x%02X", byte(f.Opcode()))
	}
	p, err := frame.ParsePrepared(r.Body, f.Version())
	if err != nil {
		return nil, err
	}
	return NewMetadata(p.ID, p.ResultMetadataID, p.Result), nil
}

// Statement is one prepared statement as the client knows it. What is not
// atomic is set before it enters the cache and never again.
type Statement struct {
	// ID is the one that the client was given.
	ID []byte
	// Told is the digest of the result metadata that clients were told with ID,
	// and decode with. The zero value fits none.
	Told [md5.Size]byte
	// ToldResultID is the id of the result metadata that came with Told; nil if the
	// version has none.
	ToldResultID []byte
	// Text is the statement.
	Text string
	// Replaced is what becomes of its functions; nil if they stay.
	Replaced *rewrite.Replacement
	// Keyspace is the one in which it was prepared; "" if the text names its own,
	// so that it can be prepared again in any.
	Keyspace string

	Class      route.Class
	Kind       scan.Kind
	Idempotent bool
	CAS        bool
	Counter    bool
	Unlogged   bool // an UNLOGGED batch
	// Unstamped: it writes with the clusters' own timestamps unless the request has
	// one.
	Unstamped bool
	// Own is what the proxy answers a statement with that goes to no cluster; nil
	// for all others.
	Own any

	sides  [2]atomic.Pointer[Metadata]
	differ [2]atomic.Bool // a side's result metadata were once not those of Told
	used   atomic.Bool    // since the hand of the clock came by
	stale  atomic.Bool    // its table has changed, and no client has prepared it since
}

// NodeText is the text that the sides have prepared.
func (s *Statement) NodeText() string {
	if s.Replaced != nil {
		return s.Replaced.Text
	}
	return s.Text
}

// Hidden are the bind markers that clients do not know of.
func (s *Statement) Hidden() []rewrite.Marker {
	if s.Replaced == nil {
		return nil
	}
	return s.Replaced.Markers
}

// relearn makes Replaced of a statement that another process hands over, with the
// node text and names of hidden markers that it had there. It is false if the rule
// wants another text now: then the client is to hear UNPREPARED, and prepare again.
// scanned is of Text.
func (s *Statement) relearn(r rewrite.Rule, scanned *scan.Statement, nodeText string, names []string) bool {
	if r.Wants(scanned) {
		s.Replaced = r.Prepare([]byte(s.Text))
	}
	hidden := s.Hidden()
	if len(names) != len(hidden) || len(hidden) > 0 && nodeText != s.NodeText() {
		return false
	}
	for i, name := range names {
		hidden[i].Name = name
	}
	return true
}

// Side returns what a side answered, or nil if it was never asked.
func (s *Statement) Side(side phase.Side) *Metadata { return s.sides[side].Load() }

// SetSide stores what a side answered, also when it is asked again: an ALTER
// TABLE changes the result metadata, and with them what may be skipped.
func (s *Statement) SetSide(side phase.Side, m *Metadata) {
	if m.ResultDigest != s.Told {
		s.differ[side].Store(true)
	}
	if old := s.sides[side].Load(); m.ResultID == nil && old != nil && old.ResultDigest == m.ResultDigest {
		// Prepared again for a client whose version has no such ids.
		m = &Metadata{ID: m.ID, ResultID: old.ResultID, ResultDigest: m.ResultDigest}
	}
	s.sides[side].Store(m)
}

// ResultID is the id of result metadata that side is to get from a client that
// has those of the id known: its own id for the same columns, so that it may leave
// them out, and known itself if it has others, or if what known stands for was
// forgotten: then the side sends its columns with its own id, and the client goes
// on with those. It keeps no reference to known.
func (s *Statement) ResultID(side phase.Side, known []byte) []byte {
	own := s.sides[side].Load()
	if own == nil || own.ResultID == nil || bytes.Equal(own.ResultID, known) {
		return known
	}
	if bytes.Equal(s.ToldResultID, known) && own.ResultDigest == s.Told {
		return own.ResultID
	}
	if other := s.sides[side.Other()].Load(); other != nil && bytes.Equal(other.ResultID, known) && other.ResultDigest == own.ResultDigest {
		return own.ResultID
	}
	return known
}

// MaySkipMetadata reports whether an answer of side may leave its metadata out:
// only if they have always been those that every client was told. Once they were
// not, they are sent for good: the proxy mends UNPREPARED by itself, so that
// clients never hear of an ALTER TABLE, and its nodes do not all hear at once.
func (s *Statement) MaySkipMetadata(side phase.Side) bool {
	return s.sides[side].Load() != nil && !s.differ[side].Load()
}

// Stale reports whether the client is to prepare the statement again, since its
// columns may have changed. A node tells so, once, by forgetting it; but here a
// node may have been told the statement anew by another proxy, and would answer in
// columns that the client does not expect.
func (s *Statement) Stale() bool { return s.stale.Load() }

// CommonlyTold is Told while every client was told the same and no side has
// changed its mind; the zero value otherwise.
func (s *Statement) CommonlyTold() (digest [md5.Size]byte) {
	for i := range s.differ {
		if m := s.sides[i].Load(); m != nil && s.differ[i].Load() && m.ResultDigest == s.Told {
			return digest
		}
	}
	if s.Stale() {
		return digest
	}
	return s.Told
}

// Cache holds at most a fixed number of statements and of bytes, and forgets those
// that were not used lately for what comes over it. A client that executes a
// forgotten one is told UNPREPARED and prepares it again.
type Cache struct {
	capacity int
	maxBytes int

	mu    sync.RWMutex
	byID  map[string]*Statement
	ring  []*Statement // all of byID, in no order; the clock's face
	hand  int
	bytes int // of all, as size tells
	added uint64
}

// NewCache makes a cache for capacity statements of maxBytes in all; less than 1
// is a broken invariant. A statement that is larger by itself is kept alone.
func NewCache(capacity, maxBytes int) *Cache {
	if capacity < 1 || maxBytes < 1 {
		panic("prepared: a bound below 1")
	}
	return &Cache{capacity: capacity, maxBytes: maxBytes, byID: make(map[string]*Statement)}
}

// overhead is what a statement takes besides its text: the structs, the ids of
// both sides, and its place in the cache. Roughly.
const overhead = 600

// size is what the statement takes in memory, roughly; it does not change.
func (s *Statement) size() int {
	n := overhead + len(s.Text) + len(s.Keyspace)
	if s.Replaced != nil {
		n += len(s.Replaced.Text)
	}
	return n
}

// Find returns the statement that clients know by id, or nil. It keeps no
// reference to id, and does not allocate.
func (c *Cache) Find(id []byte) *Statement {
	c.mu.RLock()
	s := c.byID[string(id)]
	c.mu.RUnlock()
	if s != nil && !s.used.Load() {
		s.used.Store(true)
	}
	return s
}

// Put stores s and returns the one that is now in the cache: the older one if
// the same statement was there, since requests in flight hold it, and clients
// that prepared it earlier decode with what they were told then.
func (c *Cache) Put(s *Statement) *Statement {
	s.used.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.byID[string(s.ID)]; old != nil {
		if old.Keyspace == s.Keyspace && old.Text == s.Text && old.NodeText() == s.NodeText() {
			old.renew(s)
			return old
		}
		for i := range c.ring {
			if c.ring[i] == old {
				c.ring[i] = s
			}
		}
		c.byID[string(s.ID)] = s
		c.added++
		c.bytes += s.size() - old.size()
		return s
	}
	for len(c.ring) > 0 && (len(c.ring) >= c.capacity || c.bytes+s.size() > c.maxBytes) {
		c.forget()
	}
	c.byID[string(s.ID)] = s
	c.ring = append(c.ring, s)
	c.added++
	c.bytes += s.size()
	return s
}

// forget drops one that was not used since the hand came by the last time. It runs
// under mu.
func (c *Cache) forget() {
	c.hand %= len(c.ring)
	for c.ring[c.hand].used.Swap(false) {
		c.hand = (c.hand + 1) % len(c.ring)
	}
	old, last := c.ring[c.hand], len(c.ring)-1
	delete(c.byID, string(old.ID))
	c.bytes -= old.size()
	c.ring[c.hand] = c.ring[last]
	c.ring[last] = nil
	c.ring = c.ring[:last]
	c.hand++
}

// All lists the statements, in no order.
func (c *Cache) All() []*Statement {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.ring)
}

// Alter makes the reads of a table stale, or all reads in a keyspace if table is
// empty: a type has changed.
func (c *Cache) Alter(keyspace, table string) {
	for _, s := range c.All() {
		if !s.Class.IsRead() || s.Own != nil {
			continue
		}
		text := scan.Scan([]byte(s.Text))
		if text.Keyspace.IsZero() && s.Keyspace != keyspace || !text.Keyspace.IsZero() && !text.Keyspace.Is(keyspace) {
			continue
		}
		if table == "" || text.Table.Is(table) {
			s.stale.Store(true)
		}
	}
}

// renew takes over what a later PREPARE of the same statement has brought.
func (s *Statement) renew(later *Statement) {
	s.stale.Store(false)
	for _, side := range phase.Sides {
		if later.Told != s.Told {
			s.differ[side].Store(true) // not everybody decodes with the same
		}
		if m := later.Side(side); m != nil {
			s.SetSide(side, m)
		}
	}
}

// Added is how many statements have come into the cache so far, those that it has
// forgotten included: while it stays, All has nothing new.
func (c *Cache) Added() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.added
}

// Len is the number of statements.
func (c *Cache) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.ring)
}
