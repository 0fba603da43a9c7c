package demo

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/load"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/verify"
)

// maxFindings is how many of the findings of one side are printed.
const maxFindings = 20

// Round makes a latency readable: three figures at most.
func Round(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(10 * time.Microsecond)
}

// PrintVisits prints the table of phases.
func PrintVisits(w io.Writer, s load.Stats) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "phase\trequests\tfailed\twrong reads\tp50\tp99\tslowest\tlongest pause\t")
	row := func(name string, v load.Visit) {
		_, _ = fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%v\t%v\t%v\t%v\t\n", name, v.Requests, v.Failures, v.Wrong,
			Round(v.P50), Round(v.P99), Round(v.Max), Round(v.LongestPause))
	}
	for _, v := range s.Visits {
		name := v.Phase
		if name == "" {
			name = "-"
		}
		row(name, v)
	}
	row("all", s.Total)
	_ = t.Flush()
}

// PrintProblems prints the first failures and wrong reads.
func PrintProblems(w io.Writer, s load.Stats) {
	for _, p := range s.Problems {
		_, _ = fmt.Fprintf(w, "%s in %s: %s: %s\n", p.Time.Format("15:04:05.000"), p.Phase, p.Op, p.Text)
	}
	if more := s.Total.Failures + s.Total.Wrong - len(s.Problems); more > 0 {
		_, _ = fmt.Fprintf(w, "and %d more, which the journal has\n", more)
	}
	if s.Shed > 0 {
		_, _ = fmt.Fprintf(w, "%d requests were due and not sent, because all workers waited for answers\n", s.Shed)
	}
}

// PrintReports prints what was verified and what was found, and reports
// whether that is nothing.
func PrintReports(w io.Writer, model *journal.Model, reports []*verify.Report) (clean bool) {
	clean = true
	_, _ = fmt.Fprintf(w, "journal: %d writes acknowledged, %d requests failed, %d reads wrong, %d writes without an outcome\n",
		model.Acked, model.Failed, model.Wrong, model.Unanswered)
	if n := len(model.Open); n > 0 {
		_, _ = fmt.Fprintf(w, "%d loads of the journal did not end in order: if one still runs, stop it first, since rows that it changes meanwhile are told as findings\n", n)
	}
	for _, r := range reports {
		verdict := "all as acknowledged"
		if len(r.Findings) > 0 {
			clean, verdict = false, fmt.Sprintf("%d NOT as acknowledged: %s", len(r.Findings), r.Count())
		}
		_, _ = fmt.Fprintf(w, "%s: %d rows compared (%d exist, %d uncertain) for %d acknowledged changes: %s\n",
			r.Side, r.Rows, r.Live, r.Uncertain, r.Writes, verdict)
		for i, f := range r.Findings {
			if i == maxFindings {
				_, _ = fmt.Fprintf(w, "and %d more\n", len(r.Findings)-i)
				break
			}
			_, _ = fmt.Fprintln(w, f)
		}
	}
	return clean
}
