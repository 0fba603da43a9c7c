package main

import (
	"context"
	"fmt"
	"os"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
)

func runLogs(ctx context.Context, args []string) error {
	flags, dir := newFlags("logs", " NAME")
	follow := flags.Bool("f", false, "go on with what is added, until interrupted")
	lines := flags.Int("n", 50, "how many of the last lines")
	names, err := parse(flags, args, 1)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		_, _ = fmt.Fprintln(flags.Output(), "zdm-lab logs: which process? zdm-lab status lists them")
		return errUsage
	}
	l, err := lab.Open(*dir)
	if err != nil {
		return err
	}
	return l.CopyLog(ctx, os.Stdout, names[0], max(0, *lines), *follow)
}
