package lab_test

import (
	"context"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/cluster"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// TestTheClockOfARealNodeIsMeasuredWithinItsUncertainty needs no second machine:
// the lab's nodes have this one's clock, so the truth is that they are not ahead.
func TestTheClockOfARealNodeIsMeasuredWithinItsUncertainty(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Cassandra")
	}
	l := labtest.Lab(t)
	for side, c := range [2]*lab.Cluster{l.Origin, l.Target} {
		control, err := cluster.NewControl(cluster.ControlConfig{
			Side: phase.Sides[side], ContactPoints: c.ContactPoints(), Port: c.Port,
			Username: c.Username, Password: secret.New(c.Password), AssignHosts: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- control.Serve(ctx) }()
		measured := func() bool { _, ok := control.Clock(); return ok }
		for deadline := time.Now().Add(time.Minute); !measured() && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		m, ok := control.Clock()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if !ok || m.Ahead.Abs() > m.Uncertainty {
			t.Errorf("%s %s: clock is %+v (%t), want one that is not ahead, within its uncertainty", c.Version, phase.Sides[side], m, ok)
		}
		t.Logf("%s: ahead by %s, give or take %s", c.Version, m.Ahead, m.Uncertainty)
	}
}
