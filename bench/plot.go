package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
)

// plotFile stands beside the page.
const plotFile = "performance.svg"

// Sizes in the plot, in its own units.
const (
	plotWidth, plotHeight = 960, 470
	panelWidth            = 250
	panelTop, panelBottom = 126, 386
)

// The card has its own ground, so that it reads on light and dark pages; colours
// are told apart without seeing red and green, and by their marks.
var plotColours = map[string]string{haproxy: "#6b7280", dualRelay: "#d97706", zdmProxy: "#1d4ed8"}

type panel struct {
	title, below string
	left         int
	names        []string // of the rows, left to right
	labels       []string
}

var panels = []panel{
	{title: "16 requests in flight on each client", below: "clients", left: 60,
		names: []string{"16x16", "128x16", "512x16", "2000x16"}, labels: []string{"16", "128", "512", "2000"}},
	{title: "1 request in flight on each client", below: "clients", left: 370,
		names: []string{"16x1", "128x1", "512x1", "2000x1"}, labels: []string{"16", "128", "512", "2000"}},
	{title: "16 x 16, by what clients speak", below: "", left: 680,
		names:  []string{"16x16", "16x16-query", "16x16-v5", "16x16-lz4", "16x16-v5-lz4", "16x16-tls"},
		labels: []string{"EXECUTE", "QUERY", "v5", "LZ4", "v5, LZ4", "TLS"}},
}

// writePlot draws CPU per request over the number of clients, and by protocol.
func (r *result) writePlot(path string) error {
	return os.WriteFile(path, []byte(r.svg()), 0o644)
}

func (r *result) svg() string {
	d := &drawing{}
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="13" fill="#1f2937">`, plotWidth, plotHeight)
	d.printf(`<title>CPU of the process under test for each request</title>`)
	d.printf(`<rect width="%d" height="%d" rx="10" fill="#ffffff" stroke="#d1d5db"/>`, plotWidth, plotHeight)
	d.text(24, 34, "start", `font-size="17" font-weight="bold"`, "CPU for each request, microseconds")
	d.text(24, 54, "start", `fill="#4b5563"`, fmt.Sprintf("Medians of %d rounds, stub nodes on loopback, %d cores; lower is better. %s", r.Rounds, r.Machine.Cores, r.Date.Format("2006-01-02")))
	x := 24
	for _, s := range r.Subjects {
		if plotColours[s.Name] == "" {
			continue
		}
		d.mark(s.Name, float64(x+6), 73)
		d.text(x+18, 78, "start", "", s.Name)
		x += 40 + 8*len(s.Name)
	}
	for _, p := range panels {
		r.drawPanel(d, p)
	}
	d.printf(`</svg>`)
	return d.String()
}

// medians are a subject's in a panel; 0 where there is none.
func (r *result) medians(p panel, subject string) []float64 {
	out := make([]float64, len(p.names))
	for i, name := range p.names {
		for _, f := range r.Rows {
			if f.Row.Name == name && f.Failed[subject] == "" {
				out[i] = f.Medians[subject]
			}
		}
	}
	return out
}

func (r *result) drawPanel(d *drawing, p panel) {
	top := 0.0
	for _, s := range r.Subjects {
		top = max(top, slices.Max(r.medians(p, s.Name)))
	}
	step := tick(top)
	top = max(step, math.Ceil(top/step)*step)
	y := func(v float64) float64 { return panelBottom - (panelBottom-panelTop)*v/top }
	x := func(i int) float64 { return float64(p.left) + panelWidth*(float64(i)+0.5)/float64(len(p.names)) }

	d.text(p.left, panelTop-14, "start", `font-weight="bold"`, p.title)
	for v := 0.0; v <= top+step/2; v += step {
		d.printf(`<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#e5e7eb"/>`, p.left, p.left+panelWidth, y(v), y(v))
		d.text(p.left-8, int(y(v))+4, "end", `fill="#4b5563"`, fmt.Sprintf("%g", v))
	}
	for i, label := range p.labels {
		if len(p.labels) > 4 { // they would touch each other
			d.printf(`<text transform="translate(%.1f %d) rotate(-35)" text-anchor="end">%s</text>`, x(i)+6, panelBottom+20, escape(label))
			continue
		}
		d.text(int(x(i)), panelBottom+20, "middle", "", label)
	}
	d.text(p.left+panelWidth/2, panelBottom+42, "middle", `fill="#4b5563"`, p.below)
	for _, s := range r.Subjects {
		if plotColours[s.Name] == "" {
			continue
		}
		var line []string
		values := r.medians(p, s.Name)
		for i, v := range values {
			if v > 0 {
				line = append(line, fmt.Sprintf("%.1f,%.1f", x(i), y(v)))
			}
		}
		if p.below != "" { // along the number of clients
			d.printf(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2.5"/>`, strings.Join(line, " "), plotColours[s.Name])
		}
		for i, v := range values {
			if v > 0 {
				d.mark(s.Name, x(i), y(v))
			}
			if v > 0 && s.Name == zdmProxy {
				d.text(int(x(i)), int(y(v))+18, "middle", `font-size="11" fill="`+plotColours[s.Name]+`" font-weight="bold"`, format(v))
			}
		}
	}
}

// tick is a round step of four to eight lines up to top.
func tick(top float64) float64 {
	for size := math.Pow(10, math.Floor(math.Log10(max(top, 0.1)))-1); ; size *= 10 {
		for _, n := range []float64{1, 2, 5} {
			if top <= 7*n*size {
				return n * size
			}
		}
	}
}

type drawing struct{ strings.Builder }

func (d *drawing) printf(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

func (d *drawing) text(x, y int, anchor, style, s string) {
	d.printf(`<text x="%d" y="%d" text-anchor="%s" %s>%s</text>`, x, y, anchor, style, escape(s))
}

// mark is a point of a subject: a circle, a square or a diamond.
func (d *drawing) mark(subject string, x, y float64) {
	colour := plotColours[subject]
	switch subject {
	case haproxy:
		d.printf(`<rect x="%.1f" y="%.1f" width="9" height="9" fill="%s"/>`, x-4.5, y-4.5, colour)
	case dualRelay:
		d.printf(`<path d="M%.1f %.1fl6 6l-6 6l-6 -6z" fill="%s"/>`, x, y-6, colour)
	default:
		d.printf(`<circle cx="%.1f" cy="%.1f" r="5.5" fill="%s"/>`, x, y, colour)
	}
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
