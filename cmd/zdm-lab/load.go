package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/demo"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
)

// errNotClean ends load and verify with code 1 after they have told why.
var errNotClean = errors.New("not every request was answered, or not every acknowledged write is there; see above")

// journalPath defaults to a file in the lab's folder.
func journalPath(l *lab.Lab, path string) string {
	if path != "" {
		return path
	}
	return filepath.Join(l.Dir, "load", "journal.ndjson")
}

func runLoad(ctx context.Context, args []string) error {
	flags, dir := newFlags("load", "")
	through := flags.String("through", "proxies", "where the application connects: proxies, origin, target, or addresses of other proxies, separated by commas")
	rate := flags.Float64("rate", 200, "requests a second; 0 is as many as possible")
	workers := flags.Int("workers", 16, "requests in flight at most; each worker owns its rows")
	duration := flags.Duration("duration", 0, "end after this time (default: until interrupted)")
	path := flags.String("journal", "", "file that every acknowledged write and every failure is appended to (default DIR/load/journal.ndjson)")
	protocol := flags.Int("protocol", 0, "version of the native protocol (default: the driver negotiates)")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	switch {
	case *rate < 0:
		return fmt.Errorf("-rate: %g is below 0; give requests a second, 0 for as many as possible", *rate)
	case *workers < 1:
		return fmt.Errorf("-workers: %d is below 1; give the requests in flight at most", *workers)
	case *duration < 0:
		return fmt.Errorf("-duration: %s is below 0; give how long, 0 until interrupted", *duration)
	case *protocol != 0 && (*protocol < 3 || *protocol > 5):
		return fmt.Errorf("-protocol: %d is not 3, 4 or 5; leave it out to let the driver negotiate", *protocol)
	}
	l, err := lab.Open(*dir)
	if err != nil {
		return err
	}
	to, err := demo.Endpoint(l, *through)
	if err != nil {
		return err
	}
	to.Protocol = *protocol
	return serveLoad(ctx, l, to, load.Config{Rate: *rate, Workers: *workers}, *duration, journalPath(l, *path))
}

// serveLoad runs one load until ctx ends, or for a duration that is not 0, and
// tells each second how it goes.
func serveLoad(ctx context.Context, l *lab.Lab, to load.Endpoint, cfg load.Config, d time.Duration, path string) error {
	if err := demo.Setup(ctx, l); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	records, err := journal.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = records.Close() }()
	session, err := load.Connect(to)
	if err != nil {
		return err
	}
	defer session.Close()
	cfg.Client, cfg.Journal = load.NewCQL(session), records
	app, err := load.New(cfg)
	if err != nil {
		return err
	}
	if d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	follow, err := demo.FollowPhase(ctx, l, app)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- app.Serve(ctx) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for before := 0; ; {
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
			return tellLoad(app.Stats(), path)
		case <-tick.C:
			follow()
			s := app.Stats()
			fmt.Printf("%s  %d requests (%d/s), %d failed, %d wrong, p50 %v, p99 %v, longest pause %v\n",
				time.Now().Format(time.TimeOnly), s.Total.Requests, s.Total.Requests-before, s.Total.Failures, s.Total.Wrong,
				demo.Round(s.Total.P50), demo.Round(s.Total.P99), demo.Round(s.Total.LongestPause))
			before = s.Total.Requests
		}
	}
}

func tellLoad(s load.Stats, path string) error {
	demo.PrintVisits(os.Stdout, s)
	demo.PrintProblems(os.Stdout, s)
	fmt.Printf("journal: %s\n", path)
	if s.Total.Failures+s.Total.Wrong > 0 {
		return errNotClean
	}
	return nil
}
