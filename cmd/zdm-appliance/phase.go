package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func phaseCommand(ctx context.Context, c *call) error {
	to := c.instanceFlags()
	reason := c.flags.String("force-reason", "", "why a step is taken that loses something: out of target_only, or from dual_write to origin_only")
	args, err := c.parse(1)
	if err != nil {
		return err
	}
	api, err := to.dial()
	if err != nil {
		return err
	}
	defer api.Close()
	now, err := api.Phase(ctx)
	if err == nil && len(args) == 1 {
		now, err = takeStep(ctx, api, now, args[0], *reason)
	}
	if err != nil {
		return err
	}
	if to.json {
		return printJSON(c.stdout, now)
	}
	t := newTable(c.stdout)
	t.row("phase", "%s", phaseText(*now))
	if now.Previous != phase.None {
		t.row("before", "%s", now.Previous)
	}
	return t.Flush()
}

// takeStep takes an instance to a phase if it stands alone. Where there are
// several, all must have prepared before one commits, and only who knows all of
// them can see to that.
func takeStep(ctx context.Context, api *client.Client, now *adminapi.Phase, name, reason string) (*adminapi.Phase, error) {
	want, err := phase.Parse(name)
	if err != nil {
		return nil, err
	}
	conf, err := api.Config(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(strings.Split(conf.Settings["proxy_topology_addresses"], ",")); n > 1 {
		return nil, fmt.Errorf("this is one of %d instances (proxy_topology_addresses), and a step must be prepared on all of them before one takes it; change phase of zdm_migration_phase and apply it with Terraform", n)
	}
	if want == now.Phase {
		return now, nil
	}
	prepared, err := api.Prepare(ctx, adminapi.PrepareRequest{Phase: want, ForceReason: reason}, now.Epoch)
	if err != nil {
		return nil, err
	}
	return api.Commit(ctx, prepared.Prepared.Token)
}
