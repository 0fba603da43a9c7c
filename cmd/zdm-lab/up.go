package main

import (
	"context"
	"net/netip"
	"os"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
)

func runUp(ctx context.Context, args []string) error {
	flags, dir := newFlags("up", "")
	var o lab.Options
	flags.IntVar(&o.Nodes, "nodes", 0, "Cassandra nodes of each cluster (default 1)")
	flags.IntVar(&o.Proxies, "proxies", 0, "appliances: an agent and its proxy each (default none)")
	flags.StringVar(&o.OriginVersion, "origin-version", "", "Cassandra version of the origin (default "+lab.DefaultOriginVersion+")")
	flags.StringVar(&o.TargetVersion, "target-version", "", "Cassandra version of the target (default "+lab.DefaultTargetVersion+")")
	flags.StringVar(&o.Binaries, "binaries", "", "folder with zdm-proxy and zdm-appliance (default: built from the checkout)")
	flags.Func("base-address", "127.x.y.0 that the addresses of the lab are counted from (default 127.50.0.0)", func(text string) (err error) {
		o.BaseAddress, err = netip.ParseAddr(text)
		return err
	})
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	o.Dir, o.Progress = *dir, os.Stderr
	l, err := lab.Up(ctx, o)
	if err != nil {
		return err
	}
	return printStatus(os.Stdout, l)
}
