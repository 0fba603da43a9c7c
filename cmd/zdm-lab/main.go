// Command zdm-lab runs a migration lab on loopback: two real Cassandra
// clusters, our appliances, and an application.
//
// Floor 6: flags and output; what a lab is, is in internal/lab. It has no
// goroutine of its own apart from the signal handler.
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
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
)

// command is one subcommand. run gets the arguments behind its name; it parses
// them with newFlags, and returns errUsage when it has told what is wrong.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string) error
}

// commands is every subcommand, in the order of the help text.
var commands = []command{
	{"up", "make or start a lab, and wait until it is ready", runUp},
	{"down", "end every process of a lab", runDown},
	{"status", "show the processes of a lab", runStatus},
	{"logs", "show the log of one process", runLogs},
	{"load", "run an application against the lab, and journal what it was told", runLoad},
	{"verify", "look on both clusters for every acknowledged write", runVerify},
	{"demo", "migrate a live application from Origin to Target", runDemo},
}

// errUsage ends the program with code 2; the message is on standard error.
var errUsage = errors.New("usage")

func main() {
	// The second signal ends the program at once: nothing is lost by that.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "zdm-lab: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, problems io.Writer) error {
	if len(args) == 0 {
		help(problems)
		return errUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		help(out)
		return nil
	case "version", "-version", "--version":
		_, err := fmt.Fprintln(out, "zdm-lab", buildinfo.Version())
		return err
	}
	for _, c := range commands {
		if c.name == args[0] {
			return c.run(ctx, args[1:])
		}
	}
	_, _ = fmt.Fprintf(problems, "zdm-lab: no command %q\n\n", args[0])
	help(problems)
	return errUsage
}

func help(w io.Writer) {
	_, _ = fmt.Fprint(w, "usage: zdm-lab COMMAND [FLAGS]\n\nA migration lab on loopback: two real Cassandra clusters and our appliances.\n\n")
	for _, c := range commands {
		_, _ = fmt.Fprintf(w, "  %-8s %s\n", c.name, c.summary)
	}
	_, _ = fmt.Fprint(w, "\nzdm-lab COMMAND -h tells the flags of a command.\n")
}

// newFlags returns the flag set of a subcommand with the one flag that all
// have.
func newFlags(name, arguments string) (flags *flag.FlagSet, dir *string) {
	flags = flag.NewFlagSet("zdm-lab "+name, flag.ContinueOnError)
	flags.Usage = func() {
		_, _ = fmt.Fprintf(flags.Output(), "usage: zdm-lab %s [FLAGS]%s\n", name, arguments)
		flags.PrintDefaults()
	}
	dir = flags.String("dir", defaultDir(), "folder of the lab; ZDM_LAB_DIR sets the default")
	return flags, dir
}

func defaultDir() string {
	if dir := os.Getenv("ZDM_LAB_DIR"); dir != "" {
		return dir
	}
	return lab.DefaultDir
}

// parse parses flags that may stand before and behind up to operands
// arguments, and returns those.
func parse(flags *flag.FlagSet, args []string, operands int) ([]string, error) {
	var rest []string
	for {
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			return nil, err
		} else if err != nil {
			return nil, errUsage // flag has told
		}
		if flags.NArg() == 0 {
			break
		}
		rest = append(rest, flags.Arg(0))
		args = flags.Args()[1:]
	}
	if len(rest) > operands {
		_, _ = fmt.Fprintf(flags.Output(), "%s: unexpected argument %q\n", flags.Name(), rest[operands])
		flags.Usage()
		return nil, errUsage
	}
	return rest, nil
}
