package faults_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/faults"
)

func TestOneFaultInASecondIsLoggedAndTheLastTwentyAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l faults.Log
		logged := 0
		for i := range 30 {
			if _, log := l.Add(fmt.Sprint(i)); log {
				logged++
			}
		}
		if logged != 1 {
			t.Errorf("%d of 30 faults at once are logged, want 1", logged)
		}
		time.Sleep(time.Second)
		if skipped, log := l.Add("later"); !log || skipped != 29 {
			t.Errorf("a second later: logged %v with %d skipped, want logged with 29", log, skipped)
		}
		last := l.Last()
		if len(last) != 20 || last[0].Text != "11" || last[19].Text != "later" {
			t.Errorf("kept %d, from %q to %q; want 20, from 11 to later", len(last), last[0].Text, last[len(last)-1].Text)
		}
	})
}
