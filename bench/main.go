package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "stub":
		err = runStub(args[1], args[2])
	case len(args) == 4 && args[0] == "relay":
		err = runRelay(args[1], args[2], args[3])
	default:
		err = run(args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds  int
	seconds float64
	burst   int64
	rows    string
	only    string
	proxies string
	json    string
	doc     string
}

func run(args []string) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.IntVar(&o.rounds, "rounds", 5, "alternating rounds; the table shows medians")
	flags.Float64Var(&o.seconds, "seconds", 2, "length of one measurement")
	flags.Int64Var(&o.burst, "burst", 0, "requests that a client sends in one write; 0 is all that one read let go")
	flags.StringVar(&o.rows, "rows", "", "comma separated, of "+strings.Join(rowNames(), ", ")+"; empty is all")
	flags.StringVar(&o.only, "only", "", "comma separated, of haproxy, relay, proxy; empty is all")
	flags.StringVar(&o.proxies, "proxy", "", "proxy binaries to compare, comma separated; empty builds cmd/zdm-proxy")
	flags.StringVar(&o.json, "json", ".cache/bench.json", "where the results go, all rounds of them")
	flags.StringVar(&o.doc, "doc", "docs/design/performance.md", "page to write the table into, when all rows of all subjects were measured as they are; empty is none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.rounds < 1 || o.seconds <= 0 {
		return errors.New("usage: bench [-rounds N] [-seconds S] [-rows R,R] [-only S,S] [-proxy PATH,PATH] [-json FILE] [-doc FILE]")
	}
	chosen, err := chooseRows(o.rows)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "zdm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	var parts []*process
	defer func() {
		for _, p := range parts {
			p.stop()
		}
	}()
	var stubs [2]netip.AddrPort
	for i, s := range [][2]string{{"origin", originAddress}, {"target", targetAddress}} {
		p, err := startSelf(s[0]+" stub", "stub", s[1]+":0", s[0])
		if err != nil {
			return err
		}
		parts = append(parts, p)
		stubs[i] = p.at
	}
	subjects, skipped, err := startSubjects(o, dir, stubs)
	parts = append(parts, subjects...)
	if err != nil {
		return err
	}
	if len(subjects) == 0 {
		return errors.New("nothing to measure: " + strings.Join(skipped, "; "))
	}
	result := newResult(o, subjects, skipped)
	measureAll(o, chosen, subjects, result)
	result.print(os.Stdout)
	if err := result.save(o.json); err != nil {
		return err
	}
	if o.doc != "" && o.ordinary() && len(skipped) == 0 {
		if err := result.writePage(o.doc); err != nil {
			return err
		}
	}
	if len(result.Failures) > 0 {
		return errors.New("a measurement failed: " + strings.Join(result.Failures, "; "))
	}
	return nil
}

// ordinary reports whether nothing was left out or tried out, so that the
// figures may stand in the page.
func (o options) ordinary() bool {
	tried := slices.ContainsFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ZDM_") })
	return o.rows == "" && o.only == "" && o.proxies == "" && o.burst == 0 && !tried
}

func rowNames() []string {
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = r.Name
	}
	return names
}

func chooseRows(list string) ([]row, error) {
	if list == "" {
		return rows, nil
	}
	var chosen []row
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(rows, func(r row) bool { return r.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no row %q; there are %s", name, strings.Join(rowNames(), ", "))
		}
		chosen = append(chosen, rows[i])
	}
	return chosen, nil
}

// startSubjects starts what is to be measured. A subject that this machine
// cannot run is skipped with a word.
func startSubjects(o options, dir string, stubs [2]netip.AddrPort) (started []*process, skipped []string, err error) {
	wanted := func(name string) bool {
		return o.only == "" || slices.Contains(strings.Split(o.only, ","), name)
	}
	if wanted("haproxy") {
		p, err := startHAProxy(dir, stubs[0])
		switch {
		case errors.Is(err, errMissing):
			skipped = append(skipped, "haproxy is not installed (apt-get install haproxy): its column is empty")
			fmt.Println("SKIPPED:", skipped[len(skipped)-1])
		case err != nil:
			return started, skipped, err
		default:
			started = append(started, p)
		}
	}
	if wanted("relay") {
		p, err := startSelf("dual relay", "relay", underTest+":0", stubs[0].String(), stubs[1].String())
		if err != nil {
			return started, skipped, err
		}
		p.version = runtime.Version()
		started = append(started, p)
	}
	if wanted("proxy") {
		paths := strings.Split(o.proxies, ",")
		if o.proxies == "" {
			paths = []string{filepath.Join(dir, "zdm-proxy")}
			build := exec.Command("go", "build", "-trimpath", "-o", paths[0], "./cmd/zdm-proxy")
			build.Stderr = os.Stderr
			if err := build.Run(); err != nil {
				return started, skipped, fmt.Errorf("build zdm-proxy: %w", err)
			}
		}
		for i, path := range paths {
			name := "zdm-proxy"
			if i > 0 {
				name = fmt.Sprintf("zdm-proxy %d", i+1)
			}
			p, err := startProxy(name, path, stubs[0], stubs[1])
			if err != nil {
				return started, skipped, err
			}
			started = append(started, p)
		}
	}
	return started, skipped, nil
}

// measureAll alternates the subjects within each round, so that what else
// happens on the machine hits all of them. Memory comes first: a process that
// has been under load keeps buffers that idle clients then need not ask for.
func measureAll(o options, chosen []row, subjects []*process, result *result) {
	d := time.Duration(o.seconds * float64(time.Second))
	ordered := slices.Clone(chosen)
	if i := slices.IndexFunc(ordered, func(r row) bool { return r.Name == "idle" }); i > 0 {
		idle := ordered[i]
		ordered = slices.Insert(slices.Delete(ordered, i, i+1), 0, idle)
	}
	for _, r := range ordered {
		r.burst = o.burst
		rounds := o.rounds
		if r.Name == "idle" {
			rounds = 1 // a second time would measure what the first one left
		}
		for round := range rounds {
			for _, p := range subjects {
				if result.failed(r, p.name) {
					continue
				}
				s, err := r.measure(r, p, d)
				if err != nil {
					result.fail(r, p.name, err)
					fmt.Printf("%-24s round %d/%d  %-12s FAILED: %v\n%s", r.Title, round+1, rounds, p.name, err, p.log)
					continue
				}
				result.add(r, p.name, s)
				fmt.Printf("%-24s round %d/%d  %-12s %8.2f %s", r.Title, round+1, rounds, p.name, s.Value, r.Unit)
				if s.Rate > 0 {
					fmt.Printf("  %8.0f requests/s  %5.1f answers a read", s.Rate, s.Batch)
				}
				fmt.Println()
			}
		}
	}
}
