// Package phase is the one table of migration phases. Proxy, agent, provider
// and docs read it; nobody else decides what a phase means.
//
// Floor 1: imports nothing of ours. Values only, no goroutines.
package phase

import (
	"fmt"
	"strings"
)

// Side is one of the two clusters.
type Side uint8

// Origin is the cluster one moves from, Target the one that one moves to. They
// index arrays of two.
const (
	Origin Side = 0
	Target Side = 1
)

// Sides lists both, in the order in which requests are sent and errors told.
var Sides = [2]Side{Origin, Target}

func (s Side) String() string {
	if s == Target {
		return "target"
	}
	return "origin"
}

// Other returns the opposite side.
func (s Side) Other() Side { return s ^ 1 }

// Set is a set of sides; the zero value is empty.
type Set uint8

// Both holds the two sides.
const Both Set = 1<<Origin | 1<<Target

// Of makes a set.
func Of(sides ...Side) Set {
	var set Set
	for _, s := range sides {
		set |= 1 << s
	}
	return set
}

// Has reports whether s is in the set.
func (set Set) Has(s Side) bool { return set&(1<<s) != 0 }

// Each returns the members in order, for range loops off the hot path.
func (set Set) Each() []Side {
	var out []Side
	for _, s := range Sides {
		if set.Has(s) {
			out = append(out, s)
		}
	}
	return out
}

func (set Set) String() string {
	switch set {
	case 0:
		return "none"
	case Both:
		return "both"
	}
	return set.Each()[0].String()
}

// Phase is a step of a migration. The zero value, None, is no phase: an
// instance in it serves nobody.
type Phase uint8

// The phases, in the order in which one walks through them.
const (
	None Phase = iota
	OriginOnly
	DualWrite
	DualRead
	CutOver
	TargetOnly
)

// All lists the phases in order, without None.
var All = []Phase{OriginOnly, DualWrite, DualRead, CutOver, TargetOnly}

// Rule is one row of the table.
type Rule struct {
	Phase Phase
	// Primary answers reads, and gives the answer of a write to both.
	Primary Side
	// Writes go to these sides; a write succeeds only if all of them say so.
	Writes Set
	// Shadow is the side that gets copies of reads; valid if HasShadow. In
	// CutOver a copy is sent only if the setting shadow_reads is on.
	Shadow    Side
	HasShadow bool
	// ShadowOptional says that Shadow depends on the setting shadow_reads.
	ShadowOptional bool
	// Needed sides must be ready, and take part in every login.
	Needed Set
	// ZDM is what DataStax ZDM calls it.
	ZDM string
	// Summary is one line for people.
	Summary string
}

var table = [...]Rule{
	OriginOnly: {Phase: OriginOnly, Primary: Origin, Writes: Of(Origin), Needed: Of(Origin),
		ZDM: "before phase 1", Summary: "Origin alone serves; Target need not exist yet"},
	DualWrite: {Phase: DualWrite, Primary: Origin, Writes: Both, Needed: Both,
		ZDM: "phases 1 and 2: PRIMARY_CLUSTER=ORIGIN", Summary: "Origin answers reads; every write goes to both"},
	DualRead: {Phase: DualRead, Primary: Origin, Writes: Both, Shadow: Target, HasShadow: true, Needed: Both,
		ZDM: "phase 3: READ_MODE=DUAL_ASYNC_ON_SECONDARY", Summary: "as dual_write, and Target gets a copy of each read"},
	CutOver: {Phase: CutOver, Primary: Target, Writes: Both, Shadow: Origin, HasShadow: true, ShadowOptional: true, Needed: Both,
		ZDM: "phase 4: PRIMARY_CLUSTER=TARGET", Summary: "Target answers reads; every write still goes to both"},
	TargetOnly: {Phase: TargetOnly, Primary: Target, Writes: Of(Target), Needed: Of(Target),
		ZDM: "phase 5", Summary: "Target alone serves; Origin may be gone"},
}

var names = [...]string{
	None: "none", OriginOnly: "origin_only", DualWrite: "dual_write",
	DualRead: "dual_read", CutOver: "cut_over", TargetOnly: "target_only",
}

// Rule returns the row of the table; it panics for None, which has no row.
func (p Phase) Rule() *Rule {
	if p < OriginOnly || p > TargetOnly {
		panic("phase: no rule for " + p.String())
	}
	return &table[p]
}

func (p Phase) String() string {
	if int(p) < len(names) {
		return names[p]
	}
	return fmt.Sprintf("phase(%d)", uint8(p))
}

// Names returns the names of All, for error texts and schemas.
func Names() []string {
	out := make([]string, len(All))
	for i, p := range All {
		out[i] = p.String()
	}
	return out
}

// Parse reads a phase's name.
func Parse(name string) (Phase, error) {
	for _, p := range All {
		if names[p] == name {
			return p, nil
		}
	}
	return None, fmt.Errorf("phase %q is not one of %s", name, strings.Join(Names(), ", "))
}

// MarshalText serves JSON; None is "".
func (p Phase) MarshalText() ([]byte, error) {
	if p == None {
		return nil, nil
	}
	return []byte(p.String()), nil
}

// UnmarshalText serves JSON; "" is None.
func (p *Phase) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*p = None
		return nil
	}
	var err error
	*p, err = Parse(string(b))
	return err
}

// Initial reports whether an instance without a phase may be given p.
func (p Phase) Initial() bool { return p == OriginOnly || p == DualWrite }

// A MoveError says why a move is refused.
type MoveError struct {
	From, To Phase
	// NeedsForce: the move is allowed with a written reason. Besides the moves
	// that lose something, that is joining: an instance without a phase, whose
	// peers are in a later one or whose own was lost with its disk.
	NeedsForce bool
	Text       string
}

func (e *MoveError) Error() string { return e.Text }

// CheckMove says whether one may go from one phase to another. Staying is a
// move that changes nothing. The error is a *MoveError.
func CheckMove(from, to Phase, forced bool) error {
	switch {
	case from == to:
		return nil
	case from == None && (to.Initial() || forced && to != None):
		return nil
	case from == None:
		return &MoveError{from, to, true, fmt.Sprintf("an instance without a phase begins with origin_only or dual_write, not %s; set force_reason if it joins a migration that is there already", to)}
	case to == None:
		return &MoveError{from, to, false, fmt.Sprintf("an instance in %s cannot be left without a phase", from)}
	case to != from+1 && to+1 != from:
		step := from + 1
		if to < from {
			step = from - 1
		}
		return &MoveError{from, to, false, fmt.Sprintf("%s to %s skips a phase; go to %s first", from, to, step)}
	case from == TargetOnly && !forced:
		return &MoveError{from, to, true, fmt.Sprintf("%s to %s: Origin has missed every write since target_only began and would answer with stale rows; set force_reason to go on", from, to)}
	case from == DualWrite && to == OriginOnly && !forced:
		return &MoveError{from, to, true, fmt.Sprintf("%s to %s: Target misses every write from then on, and the backfill must be done again; set force_reason to go on", from, to)}
	}
	return nil
}
