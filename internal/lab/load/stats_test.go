package load

import (
	"errors"
	"os"
	"testing"
	"time"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestQuantilesAreAtMostThreePercentTooHigh(t *testing.T) {
	var h histogram
	for us := 1; us <= 1_000_000; us += 7 {
		h.add(time.Duration(us) * time.Microsecond)
	}
	for _, q := range []float64{0.01, 0.5, 0.99, 0.9999} {
		want := time.Duration(q*1e6) * time.Microsecond
		got := h.quantile(q)
		if got < want-10*time.Microsecond || float64(got) > float64(want)*1.04 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	var empty histogram
	if got := empty.quantile(0.5); got != 0 {
		t.Errorf("quantile of nothing is %v, want 0", got)
	}
}

func TestABucketHoldsWhatItsUpperBoundSays(t *testing.T) {
	for _, us := range []int64{0, 1, 63, 64, 65, 127, 128, 1000, 65535, 65536, 11_000_000} {
		d := time.Duration(us) * time.Microsecond
		i := bucketOf(d)
		if upperBound(i) < d || i > 0 && upperBound(i-1) >= d {
			t.Errorf("%v is in bucket %d, from above %v to %v", d, i, upperBound(i-1), upperBound(i))
		}
	}
}

func TestTheLongestPauseIsTheLongestTimeWithoutASuccess(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	s := newStats("a", t0)
	s.resume(t0)
	ok := func(ms int) { n, _ := s.begin(); s.done(n, outcome{at: at(ms)}) }
	ok(10)
	n, _ := s.begin()
	s.done(n, outcome{at: at(30), err: errors.New("no")}) // answered, but not a success
	ok(50)
	s.pause()
	s.resume(at(1000)) // what was asked for is no pause
	ok(1005)
	s.enter("b", at(1010))
	ok(1105)
	got := s.snapshot(at(1110))
	for i, want := range []time.Duration{40 * time.Millisecond, 100 * time.Millisecond} {
		if v := got.Visits[i]; v.LongestPause != want {
			t.Errorf("longest pause of %s is %v, want %v", v.Phase, v.LongestPause, want)
		}
	}
	if v := s.snapshot(at(2105)).Visits[1]; v.LongestPause != time.Second {
		t.Errorf("a pause that lasts is %v, want 1s", v.LongestPause)
	}
}

func TestTheScheduleIsShiftedAfterABacklogAndTellsWhatItShed(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := pacer{interval: 10 * time.Millisecond, backlog: time.Second}
	for i := range 3 {
		if got, want := p.reserve(t0), t0.Add(time.Duration(i)*10*time.Millisecond); !got.Equal(want) {
			t.Errorf("request %d is due at %v, want %v", i, got, want)
		}
	}
	late := t0.Add(5 * time.Second)
	if got := late.Sub(p.reserve(late)); got > time.Second || got < 980*time.Millisecond {
		t.Errorf("after a stall a request is %v late, want about 1s", got)
	}
	if p.shed < 395 || p.shed > 400 {
		t.Errorf("shed is %d, want about 398", p.shed)
	}
	p.restart()
	if got := p.reserve(late); !got.Equal(late) {
		t.Errorf("after a restart a request is due at %v, want %v", got, late)
	}
}
