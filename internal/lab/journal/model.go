package journal

import (
	"fmt"
	"strconv"
	"time"
)

// Key names a row: Bucket is its partition, Slot its clustering column. A key
// has one writer, so that the order of its writes is known.
type Key struct {
	Bucket string `json:"b"`
	Slot   int    `json:"s"`
}

func (k Key) String() string { return k.Bucket + "/" + strconv.Itoa(k.Slot) }

// Mutation is one row's share of a write. Versions of one key only grow.
type Mutation struct {
	Key
	Version int64 `json:"v"`
	Deleted bool  `json:"d,omitempty"`
}

func (m Mutation) String() string {
	switch {
	case m.Deleted && m.Version == 0:
		return "never written"
	case m.Deleted:
		return fmt.Sprintf("deleted by version %d", m.Version)
	}
	return fmt.Sprintf("version %d", m.Version)
}

// Value is the text that a row must hold at a version, about 100 bytes of it,
// so that a row mixed from two writes shows.
func Value(k Key, version int64) string {
	const filler = "the quick brown fox jumps over the lazy dog and is home before the zero downtime ends"
	turn := int(version) % len(filler)
	return fmt.Sprintf("%s@%d %s%s", k, version, filler[turn:], filler[:turn])
}

// Found is a row as a cluster gave it.
type Found struct {
	Key
	Version int64
	Value   string
}

// Mismatch is how a row differs from what was acknowledged.
type Mismatch uint8

// The ways in which a row can be wrong. Matches is none of them.
const (
	Matches     Mismatch = iota
	Missing              // an acknowledged row is not there
	Stale                // an older version than the acknowledged one
	Resurrected          // a row is there whose deletion was acknowledged
	Corrupt              // the version is right, the value is not what was written
	Unwritten            // a version that nobody wrote after the acknowledged one
)

var mismatchNames = [...]string{"matches", "missing", "stale", "resurrected", "corrupt", "unwritten"}

func (m Mismatch) String() string {
	if int(m) < len(mismatchNames) {
		return mismatchNames[m]
	}
	return fmt.Sprintf("mismatch(%d)", uint8(m))
}

// Row is what is known of one row. The zero value is a row that was never
// written.
type Row struct {
	// Acked is the last acknowledged write; version 0 means that there is none.
	Acked Mutation
	// Maybe are the writes after it whose outcome is unknown: each may be in
	// force, or none.
	Maybe []Mutation
	// Touched is when the last write of the row was sent or answered.
	Touched time.Time
	// Writes counts the acknowledged writes.
	Writes int
}

// absent is the state before the first write.
func (r *Row) absent() bool { return r.Acked.Version == 0 || r.Acked.Deleted }

// Acknowledge notes that m was acknowledged: nothing older can be in force.
// A later write carries a later timestamp, since its writer waited between.
func (r *Row) Acknowledge(m Mutation, at time.Time) {
	r.Acked, r.Maybe, r.Touched = m, nil, at
	r.Writes++
}

// Doubt notes that m was sent and its outcome is unknown.
func (r *Row) Doubt(m Mutation, at time.Time) {
	r.Maybe, r.Touched = append(r.Maybe, m), at
}

// Certain reports whether exactly one state is right.
func (r *Row) Certain() bool { return len(r.Maybe) == 0 }

// Check compares the row with what a cluster gave; nil means that the row is
// not there.
func (r *Row) Check(found *Found) Mismatch {
	if found == nil {
		if r.absent() {
			return Matches
		}
		for _, m := range r.Maybe {
			if m.Deleted {
				return Matches
			}
		}
		return Missing
	}
	known := !r.absent() && r.Acked.Version == found.Version
	for _, m := range r.Maybe {
		known = known || !m.Deleted && m.Version == found.Version
	}
	switch {
	case known && found.Value == Value(found.Key, found.Version):
		return Matches
	case known:
		return Corrupt
	case found.Version > r.Acked.Version:
		return Unwritten
	case r.absent():
		return Resurrected
	}
	return Stale
}

// Expected says in words what Check accepts.
func (r *Row) Expected() string {
	acked := r.Acked
	acked.Deleted = r.absent()
	text := acked.String()
	for _, m := range r.Maybe {
		text += fmt.Sprintf(" or %s (unknown outcome)", m)
	}
	return text
}

// Model is what all rows must be. It is not safe for concurrent use.
type Model struct {
	Rows map[Key]*Row
	// Runs are the prefixes of the buckets that the journal speaks of.
	Runs []string
	// Acked and Failed count writes (a batch is one), Wrong wrong reads.
	Acked, Failed, Wrong int
	// Unanswered counts writes without an outcome in the journal: the
	// application was killed while they were in flight.
	Unanswered int
	// Open are the runs that neither ended nor paused in order: they still send
	// requests, or were killed.
	Open map[string]bool

	pending map[pendingKey]Record
}

type pendingKey struct {
	run string
	id  uint64
}

// NewModel returns an empty model.
func NewModel() *Model {
	return &Model{Rows: make(map[Key]*Row), Open: make(map[string]bool), pending: make(map[pendingKey]Record)}
}

// Row returns the row, made if it is new.
func (m *Model) Row(k Key) *Row {
	r := m.Rows[k]
	if r == nil {
		r = new(Row)
		m.Rows[k] = r
	}
	return r
}

// Add takes the next record. The records of one key come in the order of its
// writes, because it has one writer.
func (m *Model) Add(rec Record) {
	if rec.Kind == End || rec.Kind == Paused {
		delete(m.Open, rec.Run)
	} else {
		m.Open[rec.Run] = true
	}
	switch rec.Kind {
	case Run:
		m.Runs = append(m.Runs, rec.Run)
	case Write:
		m.pending[pendingKey{rec.Run, rec.ID}] = rec
	case Acked:
		delete(m.pending, pendingKey{rec.Run, rec.ID})
		m.Acked++
		for _, mut := range rec.Rows {
			m.Row(mut.Key).Acknowledge(mut, rec.Time)
		}
	case Failed:
		m.Failed++
		if _, isWrite := m.pending[pendingKey{rec.Run, rec.ID}]; !isWrite {
			return // a failed read
		}
		delete(m.pending, pendingKey{rec.Run, rec.ID})
		for _, mut := range rec.Rows {
			m.Row(mut.Key).Doubt(mut, rec.Time)
		}
	case Wrong:
		m.Wrong++
	}
}

// settle turns the writes that never got an outcome into doubts.
func (m *Model) settle() {
	m.Unanswered = len(m.pending)
	for _, rec := range m.pending {
		for _, mut := range rec.Rows {
			m.Row(mut.Key).Doubt(mut, rec.Time)
		}
	}
	clear(m.pending)
}
