package phase_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestTheTableIsThatOfTheDesign(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		phase   phase.Phase
		primary phase.Side
		writes  string
		shadow  string // "" for none; in brackets if a setting decides
		needed  string
	}{
		{phase.OriginOnly, phase.Origin, "origin", "", "origin"},
		{phase.DualWrite, phase.Origin, "both", "", "both"},
		{phase.DualRead, phase.Origin, "both", "target", "both"},
		{phase.CutOver, phase.Target, "both", "(origin)", "both"},
		{phase.TargetOnly, phase.Target, "target", "", "target"},
	} {
		r := tt.phase.Rule()
		shadow := ""
		if r.HasShadow {
			shadow = r.Shadow.String()
		}
		if r.ShadowOptional {
			shadow = "(" + shadow + ")"
		}
		if r.Phase != tt.phase || r.Primary != tt.primary || r.Writes.String() != tt.writes || shadow != tt.shadow || r.Needed.String() != tt.needed {
			t.Errorf("%s: primary %s, writes %s, shadow %q, needed %s; want %s, %s, %q, %s",
				tt.phase, r.Primary, r.Writes, shadow, r.Needed, tt.primary, tt.writes, tt.shadow, tt.needed)
		}
		if !r.Writes.Has(r.Primary) || !r.Needed.Has(r.Primary) || r.HasShadow && r.Shadow == r.Primary {
			t.Errorf("%s contradicts itself: %+v", tt.phase, r)
		}
		if r.ZDM == "" || r.Summary == "" {
			t.Errorf("%s is not explained", tt.phase)
		}
	}
}

// Two instances in adjacent phases must not give wrong answers: what one of them
// reads, the other must write.
func TestAdjacentPhasesCanServeAtTheSameTime(t *testing.T) {
	t.Parallel()
	for i, p := range phase.All[1:] {
		before := phase.All[i]
		for _, pair := range [][2]phase.Phase{{before, p}, {p, before}} {
			if reads := pair[0].Rule().Primary; !pair[1].Rule().Writes.Has(reads) {
				t.Errorf("%s reads from %s, and %s does not write there", pair[0], reads, pair[1])
			}
		}
	}
}

func TestNamesAreReadAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	if got := strings.Join(phase.Names(), " "); got != "origin_only dual_write dual_read cut_over target_only" {
		t.Errorf("Names: %s", got)
	}
	for _, p := range phase.All {
		if got, err := phase.Parse(p.String()); got != p || err != nil {
			t.Errorf("Parse(%q): %v, %v", p.String(), got, err)
		}
	}
	for _, p := range append([]phase.Phase{phase.None}, phase.All...) {
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		got := phase.Phase(99)
		if err := json.Unmarshal(text, &got); got != p || err != nil {
			t.Errorf("%s comes back from %s as %v, %v", p, text, got, err)
		}
	}
	for _, name := range []string{"", "none", "Dual_Write", "dual-write", "phase(9)"} {
		if got, err := phase.Parse(name); err == nil || !strings.Contains(err.Error(), "cut_over") {
			t.Errorf("Parse(%q): %v, %v; want an error that lists the names", name, got, err)
		}
	}
	if got := phase.Phase(9).String(); got != "phase(9)" {
		t.Errorf("an unknown phase prints as %q", got)
	}
	for set, want := range map[phase.Set]string{0: "none", phase.Of(phase.Origin): "origin", phase.Of(phase.Target): "target", phase.Both: "both"} {
		if got := set.String(); got != want {
			t.Errorf("set %b prints as %q, want %q", set, got, want)
		}
	}
	for _, s := range phase.Sides {
		if s.Other() == s || s.Other().Other() != s {
			t.Errorf("%s: the other side is %s", s, s.Other())
		}
	}
}

func TestMovesGoOneStepAndTheTwoThatLoseSomethingNeedForce(t *testing.T) {
	t.Parallel()
	const refused, forced, free = "refused", "force", "free"
	phases := append([]phase.Phase{phase.None}, phase.All...)
	// Rows: from. Columns: to, in the order of phases.
	table := [][]string{
		/* none        */ {free, free, free, forced, forced, forced},
		/* origin_only */ {refused, free, free, refused, refused, refused},
		/* dual_write  */ {refused, forced, free, free, refused, refused},
		/* dual_read   */ {refused, refused, free, free, free, refused},
		/* cut_over    */ {refused, refused, refused, free, free, free},
		/* target_only */ {refused, refused, refused, refused, forced, free},
	}
	for i, from := range phases {
		for j, to := range phases {
			err, errForced := phase.CheckMove(from, to, false), phase.CheckMove(from, to, true)
			got := refused
			switch {
			case err == nil:
				got = free
			case errForced == nil:
				got = forced
			}
			if got != table[i][j] {
				t.Errorf("%s to %s is %s (%v), want %s", from, to, got, err, table[i][j])
			}
			if err == nil {
				continue
			}
			var move *phase.MoveError
			if !errors.As(err, &move) || move.From != from || move.To != to || move.NeedsForce != (got == forced) || move.Error() == "" {
				t.Errorf("%s to %s: %#v, want a *MoveError that says so", from, to, err)
			}
			if got == forced && !strings.Contains(move.Text, "force_reason") {
				t.Errorf("%s to %s: %q does not say what to do next", from, to, move.Text)
			}
		}
	}
}

func TestASkippedPhaseIsNamed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		from, to phase.Phase
		via      string
	}{{phase.OriginOnly, phase.CutOver, "go to dual_write first"}, {phase.TargetOnly, phase.DualWrite, "go to cut_over first"}} {
		if err := phase.CheckMove(tt.from, tt.to, true); err == nil || !strings.Contains(err.Error(), tt.via) {
			t.Errorf("%s to %s: %v, want %q", tt.from, tt.to, err, tt.via)
		}
	}
}
