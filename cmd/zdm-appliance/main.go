// Command zdm-appliance is the agent of one instance.
//
// Floor 6: flags, files, sockets and signals; what an agent does is in package
// appliance.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
)

const usage = `usage: zdm-appliance COMMAND [FLAGS]

commands:
  serve     run the agent: admin API and proxy process of one instance
  status    show what an agent on this machine does
  version   print the version

zdm-appliance COMMAND -h lists a command's flags.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "zdm-appliance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	command := ""
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	switch command {
	case "serve":
		return serve(ctx, args, stderr)
	case "status":
		return status(ctx, args, stdout, stderr)
	case "version", "-version", "--version":
		_, err := fmt.Fprintln(stdout, buildinfo.Version())
		return err
	case "", "help", "-h", "-help", "--help":
		fmt.Fprint(stderr, usage)
		return flag.ErrHelp
	}
	fmt.Fprint(stderr, usage)
	return fmt.Errorf("unknown command %q; use one of the above", command)
}

// flags parses a command's flags; nothing may follow them.
func flags(f *flag.FlagSet, args []string, stderr io.Writer) error {
	f.SetOutput(stderr)
	if err := f.Parse(args); err != nil {
		return flag.ErrHelp // told already
	}
	if f.NArg() > 0 {
		return fmt.Errorf("%s: unexpected argument %q; all arguments are flags", f.Name(), f.Arg(0))
	}
	return nil
}
