package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
)

func runStatus(ctx context.Context, args []string) error {
	flags, dir := newFlags("status", "")
	asJSON := flags.Bool("json", false, "print JSON")
	if _, err := parse(flags, args, 0); err != nil {
		return err
	}
	l, err := lab.Open(*dir)
	if err != nil {
		return err
	}
	if !*asJSON {
		return printStatus(os.Stdout, l)
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(l.Status(ctx))
}

func printStatus(w io.Writer, l *lab.Lab) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "NAME\tPID\tSTATE\tADDRESS\tVERSION\tMEMORY\tDETAIL")
	for _, p := range l.Status(context.Background()).Processes {
		pid, memory := "-", "-"
		if p.PID != 0 {
			pid, memory = fmt.Sprint(p.PID), fmt.Sprintf("%d MB", p.MemoryBytes>>20)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, pid, p.State, p.Address, p.Version, memory, p.Detail)
	}
	return t.Flush()
}
