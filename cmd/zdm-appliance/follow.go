package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
)

func events(ctx context.Context, c *call) error {
	to := c.instanceFlags()
	after := c.flags.Uint64("after", 0, "only what has a higher `number`")
	follow := c.flags.Bool("follow", false, "go on with what comes, until it is interrupted")
	if _, err := c.parse(0); err != nil {
		return err
	}
	api, err := to.dial()
	if err != nil {
		return err
	}
	defer api.Close()
	show := func(e adminapi.Event) error {
		return to.line(c.stdout, e, "%s  %6d  %-7s  %s", e.Time.Format(time.RFC3339), e.Seq, e.Kind, e.Text)
	}
	if *follow {
		return untilInterrupted(ctx, api.FollowEvents(ctx, *after, show))
	}
	page, err := api.Events(ctx, *after)
	if err != nil {
		return err
	}
	for _, e := range page.Events {
		if err := show(e); err != nil {
			return err
		}
	}
	return nil
}

func logs(ctx context.Context, c *call) error {
	to := c.instanceFlags()
	var filter client.LogFilter
	c.flags.Uint64Var(&filter.After, "after", 0, "only lines with a higher `number`")
	c.flags.IntVar(&filter.Tail, "tail", 100, "`how many` of the last lines; 0 for all that are kept")
	c.flags.StringVar(&filter.Source, "source", "", "only lines of `agent` or proxy")
	follow := c.flags.Bool("follow", false, "go on with what comes, until it is interrupted")
	if _, err := c.parse(0); err != nil {
		return err
	}
	api, err := to.dial()
	if err != nil {
		return err
	}
	defer api.Close()
	show := func(l adminapi.LogLine) error { return to.line(c.stdout, l, "%-8s  %s", l.Source, l.Text) }
	if *follow {
		return untilInterrupted(ctx, api.FollowLogs(ctx, filter, show))
	}
	page, err := api.Logs(ctx, filter)
	if err != nil {
		return err
	}
	for _, l := range page.Lines {
		if err := show(l); err != nil {
			return err
		}
	}
	return nil
}

// line prints one entry, as text or as one line of JSON.
func (i *instance) line(w io.Writer, entry any, format string, args ...any) error {
	if i.json {
		return json.NewEncoder(w).Encode(entry)
	}
	_, err := fmt.Fprintf(w, format+"\n", args...)
	return err
}

// untilInterrupted: to be interrupted is how one ends following.
func untilInterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}
