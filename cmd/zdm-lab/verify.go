package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/demo"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func runVerify(ctx context.Context, args []string) error {
	flags, dir := newFlags("verify", "")
	sideName := flags.String("side", "both", "which cluster: both, origin or target")
	var since time.Time
	flags.Func("since", "only rows written from this time on, as 2006-01-02T15:04:05Z (default: all rows)", func(text string) (err error) {
		since, err = time.Parse(time.RFC3339Nano, text)
		return err
	})
	path := flags.String("journal", "", "what the load was told (default DIR/load/journal.ndjson)")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	sides, err := sidesNamed(*sideName)
	if err != nil {
		return err
	}
	l, err := lab.Open(*dir)
	if err != nil {
		return err
	}
	model, err := journal.Load(journalPath(l, *path))
	if err != nil {
		return fmt.Errorf("%w; zdm-lab load writes it", err)
	}
	if model.Acked == 0 {
		return errors.New("the journal has no acknowledged write: there is nothing to verify; let zdm-lab load run first")
	}
	reports, err := demo.Verify(ctx, l, model, sides, since)
	if err != nil {
		return err
	}
	if !demo.PrintReports(os.Stdout, model, reports) {
		return errNotClean
	}
	return nil
}

func sidesNamed(name string) (phase.Set, error) {
	for _, set := range []phase.Set{phase.Both, phase.Of(phase.Origin), phase.Of(phase.Target)} {
		if set.String() == name {
			return set, nil
		}
	}
	return 0, fmt.Errorf("side %q is not one of both, origin, target", name)
}
