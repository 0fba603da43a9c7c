package main_test

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// faultsPerLoad is how many faults one application lives through before it is
// looked at what it was told.
const faultsPerLoad = 3

func TestLongFaultsInAnyOrderWhilePhasesChangeLoseNothing(t *testing.T) {
	text := os.Getenv("ZDM_TEST_LONG")
	if text == "" {
		t.Skip("SKIPPED, takes minutes: make test-long runs it; LONG=10m is how long")
	}
	long, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("ZDM_TEST_LONG: %v", err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("the order of the faults is that of seed %d", seed)
	order := rand.New(rand.NewPCG(seed, 0))
	f := ready(t)
	for end := time.Now().Add(long); time.Now().Before(end); {
		app := f.application(t)
		settle := f.wander(t, app)
		for range faultsPerLoad {
			fault := faults[order.IntN(len(faults))]
			t.Logf("%s", fault.name)
			fault.strike(t, f, app, false)
		}
		settle()
		app.awaitHealthy()
		app.conclude()
	}
}
