package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

func mark(ctx context.Context, c *call) error {
	to := c.instanceFlags()
	reason := c.flags.String("reason", "", "by what the fact is known (needed to set a mark)")
	author := c.flags.String("author", "", "who stands for it (default: the caller)")
	at := c.flags.String("time", "", "since when it holds, as 2006-01-02T15:04:05Z (default: now)")
	remove := c.flags.Bool("remove", false, "remove the mark")
	args, err := c.parse(1)
	if err != nil {
		return err
	}
	when := time.Now().UTC()
	if *at != "" {
		if when, err = time.Parse(time.RFC3339, *at); err != nil {
			return fmt.Errorf("-time %q is not like 2006-01-02T15:04:05Z", *at)
		}
	}
	api, err := to.dial()
	if err != nil {
		return err
	}
	defer api.Close()
	marks, err := api.Marks(ctx)
	if err == nil && len(args) == 1 {
		var revision uint64
		for _, m := range marks.Marks {
			if m.Name == args[0] {
				revision = m.Revision
			}
		}
		switch {
		case *remove:
			_, err = api.DeleteMark(ctx, args[0], revision)
		case *reason == "":
			return errors.New("mark: -reason is missing; say by what the fact is known")
		default:
			_, err = api.PutMark(ctx, args[0], adminapi.MarkRequest{Author: *author, Time: when, Reason: *reason}, revision)
		}
		if err == nil {
			marks, err = api.Marks(ctx)
		}
	}
	if err != nil {
		return err
	}
	if to.json {
		return printJSON(c.stdout, marks)
	}
	if len(marks.Marks) == 0 {
		_, err := fmt.Fprintln(c.stdout, "no marks")
		return err
	}
	t := newTable(c.stdout)
	for _, m := range marks.Marks {
		t.row(m.Name, "since %s, says %s: %s", since(m.Time), m.Author, m.Reason)
	}
	return t.Flush()
}

func markText(m adminapi.Mark) string {
	return fmt.Sprintf("%s since %s, says %s: %s", m.Name, since(m.Time), m.Author, m.Reason)
}
