package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// result is what the JSON file holds.
type result struct {
	Date     time.Time
	Machine  machine
	Rounds   int
	Seconds  float64
	Subjects []compared
	Skipped  []string `json:",omitempty"`
	Failures []string `json:",omitempty"`
	Rows     []*figures
}

type machine struct {
	Cores      int
	CPU        string
	Kernel     string
	LoadBefore string // of the last minute, before the run
}

type compared struct{ Name, Version string }

// figures are those of one row: every round of every subject, and the medians.
type figures struct {
	Row     row
	Rounds  map[string][]sample
	Medians map[string]float64
	Failed  map[string]string `json:",omitempty"`
}

func newResult(o options, subjects []*subject, skipped []string) *result {
	r := &result{Date: time.Now().UTC().Truncate(time.Second), Machine: thisMachine(), Rounds: o.rounds, Seconds: o.seconds, Skipped: skipped}
	for _, p := range subjects {
		r.Subjects = append(r.Subjects, compared{p.name, p.version})
	}
	return r
}

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), CPU: "unknown", Kernel: "unknown", LoadBefore: "unknown"}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.LoadBefore = strings.Fields(string(b))[0]
	}
	return m
}

func (r *result) of(w row) *figures {
	i := slices.IndexFunc(r.Rows, func(f *figures) bool { return f.Row.Name == w.Name })
	if i < 0 {
		i = len(r.Rows)
		r.Rows = append(r.Rows, &figures{Row: w, Rounds: map[string][]sample{}, Medians: map[string]float64{}, Failed: map[string]string{}})
	}
	return r.Rows[i]
}

func (r *result) add(w row, subject string, s sample) {
	f := r.of(w)
	f.Rounds[subject] = append(f.Rounds[subject], s)
	f.Medians[subject] = median(f.values(subject))
	for _, d := range rows {
		if d.of == w.Name && d.derive != nil {
			r.add(d, subject, sample{Value: d.derive(s)})
		}
	}
}

func (r *result) fail(w row, subject string, err error) {
	r.of(w).Failed[subject] = err.Error()
	r.Failures = append(r.Failures, fmt.Sprintf("%s, %s: %v", w.Title, subject, err))
}

func (r *result) failed(w row, subject string) bool { return r.of(w).Failed[subject] != "" }

func (f *figures) values(subject string) []float64 {
	var v []float64
	for _, s := range f.Rounds[subject] {
		v = append(v, s.Value)
	}
	return v
}

// cells are the table: a head, then one line for each row in the table's order.
func (r *result) cells() [][]string {
	head := []string{"clients x in flight"}
	for _, s := range r.Subjects {
		head = append(head, s.Name)
	}
	table := [][]string{append(head, "zdm-proxy: target", "zdm-proxy / dual relay", "the same: target")}
	for _, w := range rows {
		i := slices.IndexFunc(r.Rows, func(f *figures) bool { return f.Row.Name == w.Name })
		if i < 0 {
			continue
		}
		f := r.Rows[i]
		line := []string{w.Title + " (" + w.Unit + ")"}
		for _, s := range r.Subjects {
			line = append(line, f.cell(s.Name))
		}
		target, ratio, ratioTarget := "-", "-", "-"
		switch {
		case w.AtMost > 0:
			target = fmt.Sprintf("at most %g", w.AtMost)
		case w.AtLeast > 0:
			target = fmt.Sprintf("at least %.0f", w.AtLeast)
		}
		switch {
		case w.Multiple > 0:
			ratioTarget = fmt.Sprintf("at most %.2f", w.Multiple)
		case w.Relay > 0:
			ratioTarget = fmt.Sprintf("at most %.2f", w.AtMost/w.Relay)
		}
		proxy, relay := f.Medians[zdmProxy], f.Medians[dualRelay]
		if proxy > 0 && relay > 0 && f.Failed[zdmProxy] == "" {
			ratio = fmt.Sprintf("%.2f", proxy/relay)
		}
		table = append(table, append(line, target, ratio, ratioTarget))
	}
	return table
}

// cell is the median of a subject, and between what the rounds were.
func (f *figures) cell(subject string) string {
	rounds := f.values(subject)
	switch {
	case f.Failed[subject] != "":
		return "failed"
	case len(rounds) == 0:
		return "-"
	case len(rounds) == 1:
		return format(rounds[0])
	}
	return fmt.Sprintf("%s (%s-%s)", format(f.Medians[subject]), format(slices.Min(rounds)), format(slices.Max(rounds)))
}

func format(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func (r *result) print(out io.Writer) {
	fmt.Fprintf(out, "\nMedians (least-most) of %d rounds of %g s. CPU of the process under test for each request, in microseconds, unless the row says otherwise.\n\n", r.Rounds, r.Seconds)
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, line := range r.cells() {
		fmt.Fprintln(w, strings.Join(line, "\t"))
	}
	w.Flush()
	for _, s := range r.Skipped {
		fmt.Fprintln(out, "SKIPPED:", s)
	}
	for _, s := range r.Failures {
		fmt.Fprintln(out, "FAILED:", s)
	}
}

func (r *result) save(path string) error {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// Markers of the generated part of the page.
const (
	beginMark = "<!-- begin: written by make bench -->"
	endMark   = "<!-- end: written by make bench -->"
)

func (r *result) writePage(path string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(page), beginMark)
	_, after, foundEnd := strings.Cut(rest, endMark)
	if !found || !foundEnd {
		return fmt.Errorf("%s does not hold the lines %q and %q", path, beginMark, endMark)
	}
	return os.WriteFile(path, []byte(before+beginMark+"\n"+r.markdown()+endMark+after), 0o644)
}

func (r *result) markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "\nMeasured on %s: %d cores (%s), Linux %s, load average before the run %s.\n", r.Date.Format("2006-01-02 15:04 MST"), m.Cores, m.CPU, m.Kernel, m.LoadBefore)
	var versions []string
	for _, s := range r.Subjects {
		versions = append(versions, strings.TrimSpace(s.Name+" "+s.Version))
	}
	fmt.Fprintf(&b, "Medians (least-most) of %d alternating rounds of %g s; memory is measured once.\n%s.\n\n", r.Rounds, r.Seconds, strings.Join(versions, ", "))
	for i, line := range r.cells() {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(line, " | "))
		if i == 0 {
			fmt.Fprintf(&b, "|%s\n", strings.Repeat(" --- |", len(line)))
		}
	}
	b.WriteString("\n")
	for _, s := range r.Failures {
		fmt.Fprintf(&b, "Failed: %s.\n\n", s)
	}
	return b.String()
}
