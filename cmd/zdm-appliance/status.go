package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func status(ctx context.Context, c *call) error {
	to := c.instanceFlags()
	if _, err := c.parse(0); err != nil {
		return err
	}
	api, err := to.dial()
	if err != nil {
		return err
	}
	defer api.Close()
	st, err := api.Status(ctx)
	if err != nil {
		return err
	}
	return to.showStatus(c.stdout, st)
}

func (i *instance) showStatus(w io.Writer, st *adminapi.Status) error {
	if i.json {
		return printJSON(w, st)
	}
	return statusTable(w, st)
}

func statusTable(w io.Writer, st *adminapi.Status) error {
	t := newTable(w)
	ready := "ready"
	if !st.Ready {
		ready = "not ready"
	}
	t.row("state", "%s, %s", st.State, ready)
	for _, reason := range st.NotReady {
		t.row("", "%s", reason)
	}
	if st.Instance != "" {
		t.row("instance", "%s of %s", st.Instance, st.ClusterID)
	}
	t.row("agent", "%s, since %s", st.Version, since(st.Started))
	t.row("generation", "%d wanted, %d running", st.Generation, st.Running)
	t.row("phase", "%s", phaseText(st.Phase))
	if p := st.Proxy; p != nil {
		t.row("proxy", "%s, pid %d, %s", p.Version, p.PID, p.State)
		t.row("listen", "%s", cmp.Or(p.ListenAddress, "closed"))
		t.row("origin", "%s", sideText(p.Origin))
		t.row("target", "%s", sideText(p.Target))
		t.row("clients", "%d, %d requests in flight", p.Clients, p.InFlight)
		for _, d := range p.Drivers {
			t.row("", "%d of %s", d.Clients, driverText(d))
		}
	}
	r := st.Recent
	t.row("lately", "%d requests, %d failed, in the last %s; watched since %s", r.Requests, r.Failures, time.Duration(r.WindowSeconds)*time.Second, since(r.WatchedSince))
	t.row("  origin", "%s", trafficText(r.Origin))
	t.row("  target", "%s", trafficText(r.Target))
	for i, m := range st.Marks {
		t.row(first(i, "marks"), "%s", markText(m))
	}
	t.row("crashes", "%d", st.Restarts)
	for i, line := range st.Child {
		t.row(first(i, "  output"), "%s", line)
	}
	if p := st.Proxy; p != nil {
		for i, e := range p.Errors {
			t.row(first(i, "proxy errors"), "%s %s", e.Time.Format(time.RFC3339), e.Text)
		}
	}
	for i, e := range st.Errors {
		t.row(first(i, "errors"), "%s %s", e.Time.Format(time.RFC3339), e.Text)
	}
	return t.Flush()
}

// first names the first of several rows.
func first(i int, name string) string {
	if i == 0 {
		return name
	}
	return ""
}

func phaseText(p adminapi.Phase) string {
	if p.Phase == phase.None {
		return "none: the client port is closed"
	}
	text := fmt.Sprintf("%s, epoch %d, since %s", p.Phase, p.Epoch, since(p.Since))
	if p.Prepared != nil {
		text += fmt.Sprintf("; %s prepared until %s", p.Prepared.Phase, p.Prepared.Expires.Format(time.RFC3339))
	}
	return text
}

func sideText(c control.Cluster) string {
	if !c.Connected {
		text := "not connected"
		if c.LastError != "" {
			text += ": " + c.LastError
		}
		return text
	}
	text := fmt.Sprintf("%s (%s) through %s, %d of %d nodes up", c.ClusterName, c.ReleaseVersion, c.Node, c.NodesUp, c.Nodes)
	if c.SchemaVersion != "" {
		text += ", schema " + c.SchemaVersion
	}
	if c.Clock != nil {
		text += fmt.Sprintf(", clock %+.3f s (+-%.3f)", c.Clock.AheadSeconds, c.Clock.UncertaintySeconds)
	}
	return text
}

func driverText(d control.Driver) string {
	if d.Name == "" {
		return "a driver that does not say its name"
	}
	return d.Name + " " + d.Version
}

func trafficText(t control.Traffic) string {
	text := fmt.Sprintf("%d reads (%d failed), %d writes (%d failed)", t.Reads, t.FailedReads, t.Writes, t.FailedWrites)
	if !t.LastFailedWrite.IsZero() {
		text += ", the last on " + since(t.LastFailedWrite)
	}
	if t.Copies > 0 || t.FailedCopies > 0 || !t.LastFailedCopy.IsZero() {
		text += fmt.Sprintf(", %d copies of reads (%d failed)", t.Copies, t.FailedCopies)
	}
	if !t.LastFailedCopy.IsZero() {
		text += ", the last on " + since(t.LastFailedCopy)
	}
	return text
}
