package main_test

import (
	"context"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/appliance/rollout"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Phases change by the provider's own roll-out here, in which a step that a
// fault has cut off is taken up by the next run.
func TestNoAcknowledgedWriteIsLostByFaultsAtTheSameTime(t *testing.T) {
	f := ready(t)
	app := f.application(t)
	node, in := f.Target.Nodes[0], f.all[0]
	t.Cleanup(func() { _ = node.Continue() })
	changed := make(chan error, 1)
	if err := node.Stop(); err != nil {
		t.Fatal(err)
	}
	go func() { changed <- f.rollTo(t.Context(), phase.DualRead) }()
	pid, err := in.KillProxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	in.awaitServing(t, pid) // it needs Target
	if err := <-changed; err != nil {
		t.Fatalf("change of the phase: %v", err)
	}
	if err := app.SetPhase(phase.DualRead.String()); err != nil {
		t.Error(err)
	}
	app.awaitHealthy()
	if err := f.rollTo(t.Context(), phase.DualWrite); err != nil {
		t.Errorf("change of the phase, without a fault: %v", err)
	}
	app.conclude()
}

// rollTo takes all instances one step, as an apply does; one that was refused is
// tried again, as a person would.
func (f *fleet) rollTo(ctx context.Context, to phase.Phase) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	agents := map[string]rolled{}
	for _, in := range f.all {
		agents[in.Name] = rolled{in.api}
	}
	for {
		_, err := rollout.ChangePhase(ctx, agents, to, "", rollout.Timing{Patience: patience, Poll: 5 * look})
		if err == nil || !pause(ctx, 10*look) {
			return err
		}
	}
}

// rolled makes a client of the admin API what rollout wants.
type rolled struct{ c *client.Client }

func value[T any](v *T, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return *v, nil
}

func (r rolled) Status(ctx context.Context) (adminapi.Status, error) { return value(r.c.Status(ctx)) }
func (r rolled) Prepare(ctx context.Context, req adminapi.PrepareRequest, epoch uint64) (adminapi.Phase, error) {
	return value(r.c.Prepare(ctx, req, epoch))
}
func (r rolled) Commit(ctx context.Context, token string) (adminapi.Phase, error) {
	return value(r.c.Commit(ctx, token))
}
func (r rolled) Abort(ctx context.Context, token string) (adminapi.Phase, error) {
	return value(r.c.Abort(ctx, token))
}
