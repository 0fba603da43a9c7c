package events

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// A step is "o BODY" or "t BODY" (an event of a side), or "+ DURATION" (time goes
// by); behind "=" are the bodies that clients hear of then.
func TestASchemaEventComesOnceBothSidesHaveTheChange(t *testing.T) {
	t.Parallel()
	both, origin, target := phase.Both, phase.Of(phase.Origin), phase.Of(phase.Target)
	for _, c := range []struct {
		name      string
		writes    phase.Set
		answering phase.Side
		steps     []string
	}{
		{"origin first", both, phase.Origin, []string{"o alter =", "t alter = alter", "+ 1m ="}},
		{"target first", both, phase.Origin, []string{"t alter =", "o alter = alter", "+ 1m ="}},
		{"two quick changes are two", both, phase.Origin, []string{"o alter =", "o alter =", "t alter = alter", "t alter = alter", "+ 1m ="}},
		{"others in between, in another order", both, phase.Target, []string{"o a =", "o b =", "t c =", "t b = b", "t a = a", "o c = c", "+ 1m ="}},
		{"one side tells two changes as one", both, phase.Origin, []string{"o alter =", "o alter =", "t alter = alter", "+ 10s = alter"}},
		{"the side that does not answer tells one too many", both, phase.Target, []string{"o alter =", "o alter =", "t alter = alter", "+ 10s ="}},
		{"only the answering side has it", both, phase.Origin, []string{"o create =", "+ 9s =", "+ 1s = create", "+ 1m ="}},
		{"only the other side has it", both, phase.Origin, []string{"t create =", "+ 10s =", "+ 1m ="}},
		{"a late one is told with its own bound", both, phase.Origin, []string{"o create =", "+ 10s = create", "t create =", "+ 10s ="}},
		{"each has its own bound", both, phase.Origin, []string{"o a =", "+ 4s =", "o b =", "+ 6s = a", "+ 4s = b"}},
		{"origin alone is written to", origin, phase.Origin, []string{"o alter = alter", "t alter =", "o alter = alter", "+ 1m ="}},
		{"target alone is written to", target, phase.Target, []string{"o alter =", "t alter = alter", "+ 1m ="}},
	} {
		var p Pairs
		now := time.Unix(0, 0)
		for i, step := range c.steps {
			do, want, _ := strings.Cut(step, "=")
			verb, arg, _ := strings.Cut(strings.TrimSpace(do), " ")
			var got [][]byte
			switch verb {
			case "o":
				got = p.Add(phase.Origin, []byte(arg), c.writes, c.answering, now)
			case "t":
				got = p.Add(phase.Target, []byte(arg), c.writes, c.answering, now)
			case "+":
				d, err := time.ParseDuration(arg)
				if err != nil {
					t.Fatal(err)
				}
				now = now.Add(d)
				got = p.Expire(c.answering, now)
			}
			if s := fmt.Sprintf("%s", got); s != "["+strings.TrimSpace(want)+"]" {
				t.Errorf("%s: step %d, %q: clients hear of %s", c.name, i, step, s)
			}
		}
	}
}

func TestAPhaseThatBeginsDecidesAboutWhatWaits(t *testing.T) {
	t.Parallel()
	var p Pairs
	now := time.Unix(0, 0)
	p.Add(phase.Origin, []byte("a"), phase.Both, phase.Origin, now)
	p.Add(phase.Target, []byte("b"), phase.Both, phase.Origin, now)
	if got := fmt.Sprintf("%s", p.Expire(phase.Target, now.Add(Within))); got != "[b]" {
		t.Errorf("with target answering by then: %s, want [b]", got)
	}
}

func TestEventsThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	var p Pairs
	now := time.Unix(0, 0)
	var passed []string
	for i := range 2 * maxWaiting {
		for _, body := range p.Add(phase.Origin, []byte(fmt.Sprint(i)), phase.Both, phase.Origin, now) {
			passed = append(passed, string(body))
		}
	}
	if len(p.waiting) != maxWaiting {
		t.Errorf("%d wait, want %d", len(p.waiting), maxWaiting)
	}
	for _, body := range p.Expire(phase.Origin, now.Add(Within)) {
		passed = append(passed, string(body))
	}
	for i := range 2 * maxWaiting {
		if i >= len(passed) || passed[i] != fmt.Sprint(i) {
			t.Fatalf("passed %v; want each once, in order", slices.Clip(passed))
		}
	}
}
