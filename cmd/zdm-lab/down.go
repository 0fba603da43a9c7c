package main

import (
	"context"
	"fmt"
	"os"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
)

func runDown(ctx context.Context, args []string) error {
	flags, dir := newFlags("down", "")
	purge := flags.Bool("purge", false, "kill at once, and remove the folder with all data and logs")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	if *purge {
		return lab.Purge(ctx, *dir)
	}
	if _, err := os.Stat(*dir); err != nil {
		return fmt.Errorf("there is no lab in %s; name its folder with --dir", *dir)
	}
	return lab.Down(ctx, *dir)
}
