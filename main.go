// Command terraform-provider-zdm is the Terraform provider.
//
// Floor 6: flags and the server; package provider is all it knows.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"

	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
	zdm "github.com/zdmproject/terraform-provider-zdm/provider"
)

func main() {
	debug := flag.Bool("debug", false, "run under a debugger; prints what TF_REATTACH_PROVIDERS has to be")
	version := flag.Bool("version", false, "print the version")
	flag.Parse()
	if *version {
		fmt.Println(buildinfo.Version())
		return
	}
	err := providerserver.Serve(context.Background(), func() provider.Provider { return zdm.New(buildinfo.Version(), os.LookupEnv) },
		providerserver.ServeOpts{Address: zdm.Address, Debug: *debug})
	if err != nil {
		fmt.Fprintln(os.Stderr, "terraform-provider-zdm:", err)
		os.Exit(1)
	}
}
