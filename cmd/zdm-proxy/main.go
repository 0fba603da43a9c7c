// Command zdm-proxy serves CQL clients from two clusters while one migrates
// from the first to the second.
//
// Floor 6. Standing alone it is configured by ZDM_* variables or a YAML file;
// with -control it is configured by the agent over a unix socket.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
)

// Exit codes. 255 is what ZDM Proxy ends with when it is not configured well.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitBadConfig = 255
)

func main() { os.Exit(run(os.Args[1:], os.Environ())) }

func run(args, environ []string) int {
	fs := flag.NewFlagSet("zdm-proxy", flag.ContinueOnError)
	version := fs.Bool("version", false, "print the version and end")
	file := fs.String("config", "", "read the settings from this YAML `file`; the environment is then ignored")
	printConfig := fs.Bool("print-config", false, "print the effective settings, without secrets, and end")
	socket := fs.String("control", "", "wait on this unix `socket` for an agent, which gives configuration and phase")
	if err := fs.Parse(args); err != nil {
		return exitUsage
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "zdm-proxy: unexpected argument %q; see zdm-proxy -help\n", fs.Arg(0))
		return exitUsage
	}
	if *version {
		fmt.Println("ZDM proxy version " + buildinfo.Version())
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *socket != "" {
		return exitCode(serveControlled(ctx, *socket))
	}
	cfg, err := load(*file, environ)
	if err != nil {
		return exitCode(err)
	}
	if *printConfig {
		fmt.Print(cfg)
		return 0
	}
	return exitCode(serveAlone(ctx, cfg, newLogger(os.Stderr, cfg), *file))
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "zdm-proxy:", err)
	var bad *config.Error
	if errors.As(err, &bad) {
		return exitBadConfig
	}
	return exitFailed
}

// load reads the file, or the environment if there is none.
func load(file string, environ []string) (*config.Config, error) {
	if file == "" {
		values, unknown := config.FromEnvironment(environ)
		for _, w := range unknown {
			fmt.Fprintln(os.Stderr, "zdm-proxy:", w)
		}
		return parse(values)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, &config.Error{Problems: []string{fmt.Sprintf("-config: %v; give the path of a readable file", err)}}
	}
	values, err := config.FromYAML(text)
	if err != nil {
		return nil, err
	}
	return parse(values)
}

// parse is config.Parse for a process that is going to use the configuration.
func parse(values map[string]string) (*config.Config, error) {
	cfg, err := config.Parse(values)
	if err != nil {
		return nil, err
	}
	return cfg, cfg.ReadSecretFiles(os.ReadFile)
}
