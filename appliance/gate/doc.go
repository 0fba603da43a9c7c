// Package gate says whether a phase step may be begun, with the evidence: what
// was looked at, on which instance, the figure, and what to do about it.
//
// Floor 4: it knows the statuses of instances and the phase table, nothing of
// HTTP or Terraform. It is pure: rules, statuses and a time go in, refusals come
// out. No goroutines.
package gate

import (
	"fmt"
	"time"
)

// Name of a gate.
type Name string

// The gates. Instances is always asked, the others if the rules say so.
const (
	Instances     Name = "instances"
	SchemaSettled Name = "schema_settled"
	WritesClean   Name = "writes_clean_minutes"
	ReadsClean    Name = "reads_clean_minutes"
	ClockSkew     Name = "max_clock_skew_ms"
	BackfillDone  Name = "backfill_done"
)

// Rules are the gates that somebody asks for; the zero value asks for none but
// Instances.
type Rules struct {
	// SchemaSettled: all proxies see the same schema version of a cluster.
	SchemaSettled bool
	// WritesClean and ReadsClean: for that long no write to both, or no copy of a
	// read, may have failed. 0 does not ask.
	WritesClean, ReadsClean time.Duration
	// ClockSkew bounds how far the clock of each cluster may be from that of a
	// proxy's machine. 0 does not ask.
	ClockSkew time.Duration
	// BackfillDone: the mark of that name is on every instance.
	BackfillDone bool
}

// Refusal is a gate that is closed, with the evidence.
type Refusal struct {
	Gate Name
	// Instance is "" for what is about all of them.
	Instance string
	// Figure is what was seen, Way what to do.
	Figure, Way string
}

func (r Refusal) String() string {
	on := ""
	if r.Instance != "" {
		on = " on " + r.Instance
	}
	return fmt.Sprintf("%s%s: %s; %s", r.Gate, on, r.Figure, r.Way)
}
