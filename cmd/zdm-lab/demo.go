package main

import (
	"context"
	"flag"
	"net/netip"
	"os"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/demo"
)

func runDemo(ctx context.Context, args []string) error {
	o := demo.Options{Out: os.Stdout}
	flags, dir := newFlags("demo", "")
	folder := flags.Lookup("dir")
	folder.Usage, folder.DefValue = "folder for everything that the demo writes", ".lab/demo"
	flags.StringVar(&o.Example, "example", "examples/demo", "folder with the Terraform configuration")
	flags.StringVar(&o.Terraform, "terraform", "", "terraform or tofu (default: TERRAFORM, or the one on the path)")
	flags.StringVar(&o.Binaries, "binaries", "", "folder with zdm-proxy, zdm-appliance and terraform-provider-zdm (default: this program's)")
	flags.DurationVar(&o.Hold, "hold", 0, "how long each phase lasts (default 6s)")
	flags.Float64Var(&o.Rate, "rate", 0, "requests a second (default 200)")
	flags.Func("base-address", "127.x.y.0 that the addresses are counted from (default 127.50.0.0)", func(text string) (err error) {
		o.BaseAddress, err = netip.ParseAddr(text)
		return err
	})
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	if given(flags, "dir") {
		o.Dir = *dir
	}
	return demo.Run(ctx, o)
}

// given reports whether a flag was on the command line.
func given(flags *flag.FlagSet, name string) (found bool) {
	flags.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}
