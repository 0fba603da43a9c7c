package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func status(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("status", flag.ContinueOnError)
	state := f.String("state", "/var/lib/zdm-appliance", "`folder` of the agent's state")
	socket := f.String("socket", "", "`path` of the agent's unix socket (default STATE/admin.sock)")
	asJSON := f.Bool("json", false, "print the status as the API gives it")
	if err := flags(f, args, stderr); err != nil {
		return err
	}
	if *socket == "" {
		*socket = filepath.Join(*state, "admin.sock")
	}
	c, err := client.New(client.Options{Socket: *socket})
	if err != nil {
		return err
	}
	defer c.Close()
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(st)
	}
	return table(stdout, st)
}

func table(w io.Writer, st *adminapi.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("state", "%s", st.State)
	if st.Instance != "" {
		row("instance", "%s of %s", st.Instance, st.ClusterID)
	}
	row("agent", "%s, since %s", st.Version, st.Started.Format(time.RFC3339))
	row("generation", "%d wanted, %d running", st.Generation, st.Running)
	row("phase", "%s", phaseText(st.Phase))
	row("ready", "%t", st.Ready)
	for _, reason := range st.NotReady {
		row("", "%s", reason)
	}
	if p := st.Proxy; p != nil {
		row("proxy", "%s, pid %d, %s", p.Version, p.PID, p.State)
		if p.ListenAddress != "" {
			row("listen", "%s", p.ListenAddress)
		}
		row("clients", "%d, %d requests in flight", p.Clients, p.InFlight)
		row("requests", "%d, %d failed", p.Requests, p.Failures)
		row("origin", "%s", sideText(p.Origin))
		row("target", "%s", sideText(p.Target))
	}
	row("crashes", "%d", st.Restarts)
	for _, line := range st.Child {
		row("", "%s", line)
	}
	for i, e := range st.Errors {
		name := ""
		if i == 0 {
			name = "errors"
		}
		row(name, "%s %s", e.Time.Format(time.RFC3339), e.Text)
	}
	return t.Flush()
}

func phaseText(p adminapi.Phase) string {
	if p.Phase == phase.None {
		return "none: the client port is closed"
	}
	text := fmt.Sprintf("%s, epoch %d, since %s", p.Phase, p.Epoch, p.Since.Format(time.RFC3339))
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
	return fmt.Sprintf("%s (%s) through %s, %d of %d nodes up", c.ClusterName, c.ReleaseVersion, c.Node, c.NodesUp, c.Nodes)
}
