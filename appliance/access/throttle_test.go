package access

import (
	"fmt"
	"testing"
	"time"
)

func TestASourceWaitsLongerWithEachFailureAndIsForgotten(t *testing.T) {
	t.Parallel()
	var th throttle
	now := time.Unix(1_000_000, 0)
	var waits []time.Duration
	for range 14 {
		th.failed("a", now)
		waits = append(waits, max(0, th.wait("a", now)))
	}
	want := []time.Duration{0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60}
	for i := range want {
		if waits[i] != want[i]*time.Second {
			t.Errorf("after %d failures it waits %s, want %ds", i+1, waits[i], want[i])
		}
	}
	if w := th.wait("b", now); w != 0 {
		t.Errorf("another source waits %s", w)
	}
	th.failed("a", now.Add(time.Hour))
	if w := th.wait("a", now.Add(time.Hour)); w > 0 {
		t.Errorf("after an hour it waits %s", w)
	}
	th.forget("a")
	if len(th.sources) != 0 {
		t.Errorf("%d sources are left", len(th.sources))
	}
}

func TestSourcesAreBoundedAndTheEarliestGoesFirst(t *testing.T) {
	t.Parallel()
	var th throttle
	now := time.Unix(1_000_000, 0)
	for i := range maxSources + 10 {
		th.failed(fmt.Sprint(i), now.Add(time.Duration(i)*time.Millisecond))
	}
	if len(th.sources) != maxSources || th.sources["9"] != nil || th.sources["10"] == nil {
		t.Errorf("%d sources, the tenth is there %t, the eleventh %t", len(th.sources), th.sources["9"] != nil, th.sources["10"] != nil)
	}
}

func TestSourceIsAnAddressOrTheNetworkOfOne(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"10.0.0.7:1234": "10.0.0.7", "[::ffff:10.0.0.7]:1234": "10.0.0.7", "[2001:db8:1:2:3::7]:1": "2001:db8:1:2::/64", "@": "unix socket",
	} {
		if got := sourceOf(addr); got != want {
			t.Errorf("source of %s is %s, want %s", addr, got, want)
		}
	}
}
