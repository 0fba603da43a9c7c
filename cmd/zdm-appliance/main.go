// Command zdm-appliance is the agent of one instance, and the command line of one
// who looks after it, on the machine itself or elsewhere.
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
	"text/tabwriter"

	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
)

// command is one of the program's.
type command struct {
	name, args, summary string
	run                 func(ctx context.Context, c *call) error
}

var commands = []command{
	{"serve", "", "run the agent: admin API and proxy process of one instance", serve},
	{"status", "", "show what the instance is asked to do, does, and lacks", status},
	{"phase", "[PHASE]", "show the phase, or take an instance that stands alone to the next one", phaseCommand},
	{"drain", "", "close the client port, and wait until no client is left", drain},
	{"resume", "", "open the client port again", resume},
	{"restart", "", "replace the proxy process; clients notice nothing", restart},
	{"mark", "[NAME]", "list the marks, or set or remove one", mark},
	{"config", "get | diff | set [NAME=VALUE...]", "show the configuration, or what a change would be, or make it", configCommand},
	{"events", "", "show what happened, and with -follow what happens", events},
	{"logs", "", "show the last lines of agent and proxy, and with -follow the next", logs},
	{"support-bundle", "", "write a file for those who help, without secrets", supportBundle},
	{"token", "", "make a bearer token, and its entry for the access file", makeToken},
	{"version", "", "print the version", version},
}

// call is one call of a command.
type call struct {
	name           string
	flags          *flag.FlagSet
	args           []string
	stdout, stderr io.Writer
}

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
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "", "help", "-h", "-help", "--help":
		usage(stderr)
		return flag.ErrHelp
	case "-version", "--version":
		name = "version"
	}
	for _, cmd := range commands {
		if cmd.name == name {
			f := flag.NewFlagSet(name, flag.ContinueOnError)
			f.SetOutput(stderr)
			f.Usage = func() {
				fmt.Fprintf(stderr, "usage: zdm-appliance %s %s [FLAGS]\n\n%s\n\n", cmd.name, cmd.args, cmd.summary)
				f.PrintDefaults()
			}
			return cmd.run(ctx, &call{name: name, flags: f, args: args, stdout: stdout, stderr: stderr})
		}
	}
	usage(stderr)
	return fmt.Errorf("unknown command %q; use one of the above", name)
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: zdm-appliance COMMAND [FLAGS]\n\ncommands:\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, cmd := range commands {
		fmt.Fprintf(t, "  %s\t%s\n", cmd.name, cmd.summary)
	}
	_ = t.Flush()
	fmt.Fprint(w, "\nzdm-appliance COMMAND -h lists a command's flags.\n")
}

// parse reads the flags, which may stand before and behind the arguments, of
// which there are at most so many.
func (c *call) parse(most int) ([]string, error) {
	var given []string
	rest := c.args
	for {
		if err := c.flags.Parse(rest); err != nil {
			return nil, flag.ErrHelp // told already
		}
		if rest = c.flags.Args(); len(rest) == 0 {
			return given, nil
		}
		if len(given) == most {
			return nil, fmt.Errorf("%s: unexpected argument %q; see zdm-appliance %s -h", c.name, rest[0], c.name)
		}
		given, rest = append(given, rest[0]), rest[1:]
	}
}

func version(_ context.Context, c *call) error {
	if _, err := c.parse(0); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.stdout, buildinfo.Version())
	return err
}
