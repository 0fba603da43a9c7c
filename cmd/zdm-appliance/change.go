package main

import (
	"context"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
)

func drain(ctx context.Context, c *call) error {
	untilReboot := c.flags.Bool("until-reboot", false, "the next start of the machine ends it; otherwise it lasts until it is resumed")
	return c.change(ctx, func(api *client.Client, reason string) (*adminapi.Status, error) {
		return api.Drain(ctx, adminapi.DrainRequest{Reason: reason, UntilReboot: *untilReboot})
	})
}

func resume(ctx context.Context, c *call) error {
	return c.change(ctx, func(api *client.Client, reason string) (*adminapi.Status, error) {
		return api.Resume(ctx, adminapi.ResumeRequest{Reason: reason})
	})
}

func restart(ctx context.Context, c *call) error {
	return c.change(ctx, func(api *client.Client, reason string) (*adminapi.Status, error) {
		return api.Restart(ctx, reason)
	})
}

// change makes a change that has a reason, and shows the status after it.
func (c *call) change(ctx context.Context, make func(api *client.Client, reason string) (*adminapi.Status, error)) error {
	to := c.instanceFlags()
	reason := c.flags.String("reason", "", "why; it is kept with the events and in the audit log")
	if _, err := c.parse(0); err != nil {
		return err
	}
	api, err := to.dial()
	if err != nil {
		return err
	}
	defer api.Close()
	st, err := make(api, *reason)
	if err != nil {
		return err
	}
	return to.showStatus(c.stdout, st)
}
