package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
		err = runRelay(args[1], args[2], args[3], "")
	case len(args) == 5 && args[0] == "relay":
		err = runRelay(args[1], args[2], args[3], args[4])
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
	flags.Float64Var(&o.seconds, "seconds", 1.5, "length of one measurement")
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

	var nodes [2]*process
	for i, s := range [][2]string{{"origin", originAddress}, {"target", targetAddress}} {
		if nodes[i], err = startSelf(s[0]+" stub", "stub", s[1]+":0", s[0]); err != nil {
			return err
		}
		defer nodes[i].stop()
	}
	a, err := newArena(dir, nodes[0].at, nodes[1].at)
	if err != nil {
		return err
	}
	subjects, skipped, err := a.subjects(o)
	if err != nil {
		return err
	}
	for _, s := range subjects {
		defer s.stop()
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
		if err := result.writePlot(filepath.Join(filepath.Dir(o.doc), plotFile)); err != nil {
			return err
		}
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

// subjects are those that are to be compared. One that this machine cannot run
// is skipped with a word.
func (a *arena) subjects(o options) (chosen []*subject, skipped []string, err error) {
	wanted := func(name string) bool {
		return o.only == "" || slices.Contains(strings.Split(o.only, ","), name)
	}
	if wanted("haproxy") {
		s, err := a.haproxy()
		if err != nil {
			skipped = append(skipped, fmt.Sprintf("haproxy is %v (apt-get install haproxy): its column is empty", err))
			fmt.Println("SKIPPED:", skipped[0])
		} else {
			chosen = append(chosen, s)
		}
	}
	if wanted("relay") {
		chosen = append(chosen, a.relay())
	}
	if !wanted("proxy") {
		return chosen, skipped, nil
	}
	paths := strings.Split(o.proxies, ",")
	if o.proxies == "" {
		paths = []string{filepath.Join(a.dir, "zdm-proxy")}
		build := exec.Command("go", "build", "-trimpath", "-o", paths[0], "./cmd/zdm-proxy")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return nil, nil, fmt.Errorf("build zdm-proxy: %w", err)
		}
	}
	for i, path := range paths {
		name := zdmProxy
		if i > 0 {
			name = fmt.Sprintf("%s %d", zdmProxy, i+1)
		}
		chosen = append(chosen, a.proxy(name, path))
	}
	return chosen, skipped, nil
}

// measureAll alternates the subjects within each round, so that what else
// happens on the machine hits all of them.
func measureAll(o options, chosen []row, subjects []*subject, result *result) {
	d := time.Duration(o.seconds * float64(time.Second))
	for _, r := range chosen {
		r.burst = o.burst
		rounds := o.rounds
		if r.once {
			rounds = 1
		}
		for round := range rounds {
			for _, s := range subjects {
				if !r.by(s.name) || result.failed(r, s.name) {
					continue
				}
				head := fmt.Sprintf("%-40s round %d/%d  %-12s", r.Title, round+1, rounds, s.name)
				p, err := s.in(r.setup)
				if err != nil {
					result.fail(r, s.name, err)
					fmt.Printf("%s FAILED: %v\n", head, err)
					continue
				}
				got, err := r.measure(r, p, d)
				if err != nil {
					result.fail(r, s.name, err)
					fmt.Printf("%s FAILED: %v\n%s", head, err, p.log)
					continue
				}
				result.add(r, s.name, got)
				fmt.Printf("%s %8.2f %s", head, got.Value, r.Unit)
				if got.Rate > 0 {
					fmt.Printf("  %8.0f requests/s  %5.1f answers a read", got.Rate, got.Batch)
				}
				fmt.Println()
			}
		}
	}
}
