package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// row is one line of the table: a shape of load, or one of the other figures.
type row struct {
	Name  string // for -rows
	Title string
	Unit  string
	setup setup // of the process under test
	speech
	clients   int
	inFlight  int
	table     int
	simple    bool // QUERY
	readsOnly bool
	once      bool // a second round would measure what the first one left
	burst     int64
	only      []string // subjects that can do it; nil: all

	AtMost, AtLeast float64 // for zdm-proxy; 0: none
	// Relay is the dual relay's figure in design section 8. The design's load came
	// in smaller batches on another machine, so AtMost / Relay is the bound that
	// carries over. Multiple is such a bound where the design gives it itself.
	Relay, Multiple float64

	measure func(row, *process, time.Duration) (sample, error)
	// Instead of measure: the row whose samples this one derives its own from.
	of     string
	derive func(sample) float64
}

// setup is how a process under test is started; each has its own process.
type setup string

const (
	plain      setup = "plain"
	secure     setup = "TLS to clients"
	dualRead   setup = "phase dual_read"
	targetOnly setup = "phase target_only"
	forIdle    setup = "fresh, for idle clients"
	forPages   setup = "fresh, for large pages"
)

// sample is one measurement.
type sample struct {
	Value float64
	// Rate is requests a second, Batch how many answers the load found in one
	// read: a busy machine makes both processes and batches wait, and a large
	// batch makes every subject cheap.
	Rate, Batch float64 `json:",omitempty"`
}

// Subjects, as the table names them.
const (
	haproxy   = "haproxy"
	dualRelay = "dual relay"
	zdmProxy  = "zdm-proxy"
)

// zdmCost is what the design measured of ZDM Proxy at 512 x 16, in microseconds.
const zdmCost = 72

// rows are the table of design section 8, and what explains it.
var rows = slices.Concat(
	[]row{
		{Name: "16x16", Title: "16 x 16", AtMost: 3, Relay: 2.35},
		{Name: "16x16-query", Title: "16 x 16, simple QUERY", simple: true, AtMost: 5},
		{Name: "16x16-v5", Title: "16 x 16, protocol v5", speech: speech{version: frame.V5}, AtMost: 4, only: []string{haproxy, zdmProxy}},
		{Name: "16x16-lz4", Title: "16 x 16, LZ4 to clients", speech: speech{compression: frame.LZ4}, only: []string{zdmProxy}},
		{Name: "16x16-v5-lz4", Title: "16 x 16, protocol v5, LZ4 to clients", speech: speech{version: frame.V5, compression: frame.LZ4}, only: []string{zdmProxy}},
		{Name: "16x16-tls", Title: "16 x 16, TLS to clients", setup: secure, speech: speech{tls: true}},
		{Name: "16x16-dual-read", Title: "16 x 16, phase dual_read", setup: dualRead, only: []string{zdmProxy}},
		{Name: "16x16-target-only", Title: "16 x 16, phase target_only", setup: targetOnly, only: []string{zdmProxy}},
		{Name: "128x16", Title: "128 x 16", clients: 128},
		{Name: "512x16", Title: "512 x 16", clients: 512, AtMost: 4, Relay: 3.2},
		{Name: "2000x16", Title: "2000 x 16", clients: 2000},
		{Name: "16x1", Title: "16 x 1", inFlight: 1},
		{Name: "128x1", Title: "128 x 1", clients: 128, inFlight: 1},
		{Name: "512x1", Title: "512 x 1", clients: 512, inFlight: 1, AtMost: 32, Relay: 32},
		{Name: "2000x1", Title: "2000 x 1", clients: 2000, inFlight: 1},
	},
	[]row{
		{Name: "per-core", Title: "512 x 16, what one core of it allows", Unit: "requests/s", of: "512x16",
			derive: func(s sample) float64 { return 1e6 / s.Value }, AtLeast: 5 * 1e6 / zdmCost},
		{Name: "rate", Title: "512 x 16, with clients and nodes on the same cores", Unit: "requests/s", of: "512x16",
			derive: func(s sample) float64 { return s.Rate }},
		{Name: "latency", Title: "latency at 1 x 1, p50", Unit: "us", clients: 1, inFlight: 1, Multiple: 1.3, measure: latency},
		{Name: "100k", Title: "4 x 4, values of 100 KB", Unit: "us/MB", clients: 4, inFlight: 4, table: tableOf("bench.t100k "), measure: cpuPerMegabyte},
		{Name: "1m", Title: "4 x 1, values of 1 MB", Unit: "us/MB", clients: 4, inFlight: 1, table: tableOf("bench.t1m "), measure: cpuPerMegabyte},
		{Name: "wide", Title: "16 x 4, 200 columns with metadata", clients: 16, inFlight: 4, table: tableOf("bench.wide ")},
		{Name: "idle", Title: "idle memory per client", Unit: "KB", setup: forIdle, clients: 2000, once: true, AtMost: 8, Relay: 31, measure: idleMemory},
		{Name: "pages", Title: "memory for 100 clients that read pages of 1 MB", Unit: "MB", setup: forPages, clients: 100, inFlight: 1,
			table: tableOf("bench.t1m "), readsOnly: true, once: true, measure: peakMemory},
	},
)

// What a row that says nothing else is.
func init() {
	for i := range rows {
		r := &rows[i]
		if r.Unit == "" {
			r.Unit = "us"
		}
		if r.setup == "" {
			r.setup = plain
		}
		if r.version == 0 {
			r.version = frame.V4
		}
		if r.clients == 0 {
			r.clients = 16
		}
		if r.inFlight == 0 {
			r.inFlight = 16
		}
		if r.measure == nil && r.derive == nil {
			r.measure = cpuPerRequest
		}
	}
}

// by reports whether a subject can do the row; what is compared with -proxy are
// proxies, too.
func (r row) by(subject string) bool {
	return r.only == nil || slices.ContainsFunc(r.only, func(name string) bool { return strings.HasPrefix(subject, name) })
}

func rowNames() []string {
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = r.Name
	}
	return names
}

func rowNamed(name string) (row, bool) {
	i := slices.IndexFunc(rows, func(r row) bool { return r.Name == name })
	if i < 0 {
		return row{}, false
	}
	return rows[i], true
}

// chooseRows returns those of a list, without what is derived: that comes with
// the row that it derives from.
func chooseRows(list string) ([]row, error) {
	var chosen []row
	if list == "" {
		chosen = slices.Clone(rows)
	} else {
		for name := range strings.SplitSeq(list, ",") {
			r, ok := rowNamed(name)
			if !ok {
				return nil, fmt.Errorf("no row %q; there are %s", name, strings.Join(rowNames(), ", "))
			}
			chosen = append(chosen, r)
		}
	}
	return slices.DeleteFunc(chosen, func(r row) bool { return r.derive != nil }), nil
}
