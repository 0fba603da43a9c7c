package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
)

// maxArguments is more than there are settings.
const maxArguments = 1000

// configEdit says what a configuration is to become.
type configEdit struct {
	file    string
	secrets repeated // NAME=FILE
	values  []string // NAME=VALUE
}

// repeated is a flag that may be given more than once.
type repeated []string

func (r *repeated) String() string { return strings.Join(*r, " ") }

func (r *repeated) Set(text string) error {
	*r = append(*r, text)
	return nil
}

func configCommand(ctx context.Context, c *call) error {
	to := c.instanceFlags()
	var edit configEdit
	c.flags.StringVar(&edit.file, "file", "", "JSON `file` with the whole document, as config get -json prints it; secrets that are digests stay as they are")
	c.flags.Var(&edit.secrets, "secret", "`NAME=FILE`: take a secret from a file; may be given more than once")
	args, err := c.parse(maxArguments)
	if err != nil {
		return err
	}
	verb := ""
	if len(args) > 0 {
		verb, edit.values = args[0], args[1:]
	}
	changes := edit.file != "" || len(edit.secrets)+len(edit.values) > 0
	switch {
	case verb != "get" && verb != "diff" && verb != "set":
		return errors.New("config: give one of get, diff and set; see zdm-appliance config -h")
	case verb == "get" && changes:
		return errors.New("config get takes nothing; to see what a change would be, use config diff")
	case verb != "get" && !changes:
		return fmt.Errorf("config %s: give NAME=VALUE, -secret or -file; an empty VALUE makes it the default", verb)
	}
	api, err := to.dial()
	if err != nil {
		return err
	}
	defer api.Close()
	now, err := api.Config(ctx)
	if err != nil {
		return err
	}
	if verb == "get" {
		return to.showConfig(c.stdout, now)
	}
	next, err := edit.apply(now)
	if err != nil {
		return err
	}
	lines := differences(now, next)
	if verb == "diff" || len(lines) == 0 {
		checked, err := api.CheckConfig(ctx, next, now.Generation)
		if err != nil {
			return err
		}
		return to.showDifferences(c.stdout, lines, checked.Applied)
	}
	got, err := api.PutConfig(ctx, next, now.Generation)
	if err != nil {
		return err
	}
	if to.json {
		return printJSON(c.stdout, got)
	}
	fmt.Fprintln(c.stdout, strings.Join(lines, "\n"))
	_, err = fmt.Fprintf(c.stdout, "generation %d runs\n", got.Running)
	return err
}

func (i *instance) showConfig(w io.Writer, conf *adminapi.Config) error {
	if i.json {
		return printJSON(w, conf)
	}
	if conf.Generation == 0 {
		_, err := fmt.Fprintln(w, "no configuration: the instance is locked")
		return err
	}
	t := newTable(w)
	t.row("instance", "%s of %s", conf.Instance, conf.ClusterID)
	t.row("generation", "%d wanted, %d running", conf.Generation, conf.Running)
	for _, name := range slices.Sorted(maps.Keys(conf.Settings)) {
		t.row(name, "%s", conf.Settings[name])
	}
	for _, name := range slices.Sorted(maps.Keys(conf.Secrets)) {
		t.row(name, "(secret)")
	}
	return t.Flush()
}

// showDifferences shows what a change would be, and how it would be made.
func (i *instance) showDifferences(w io.Writer, lines []string, how adminapi.Applied) error {
	if i.json {
		return printJSON(w, struct {
			Differences []string         `json:"differences"`
			Applied     adminapi.Applied `json:"applied"`
		}{append([]string{}, lines...), how})
	}
	for _, line := range lines {
		fmt.Fprintln(w, line)
	}
	_, err := fmt.Fprintln(w, map[adminapi.Applied]string{
		adminapi.Unchanged: "nothing would change",
		adminapi.Replaced:  "a new proxy process would run it, and take the clients over",
		adminapi.Hot:       "the running proxy process would take it",
	}[how])
	return err
}

// apply makes the document that is to be sent: with the secrets that change, and
// without those that stay.
func (e *configEdit) apply(now *adminapi.Config) (*adminapi.Config, error) {
	next := &adminapi.Config{ClusterID: now.ClusterID, Instance: now.Instance, Settings: maps.Clone(now.Settings), Secrets: map[string]string{}}
	if e.file != "" {
		if err := e.read(now, next); err != nil {
			return nil, err
		}
	}
	secret := map[string]bool{}
	for _, s := range config.Settings() {
		secret[s.Key()] = s.Secret
	}
	for _, text := range e.values {
		name, value, found := strings.Cut(text, "=")
		switch {
		case !found:
			return nil, fmt.Errorf("%q is not NAME=VALUE", text)
		case secret[name]:
			return nil, fmt.Errorf("%s is a secret, which others on this machine could read as an argument; put it into a file, and give -secret %s=FILE", name, name)
		case value == "":
			delete(next.Settings, name)
		default:
			next.Settings[name] = value
		}
	}
	for _, text := range e.secrets {
		name, file, found := strings.Cut(text, "=")
		if !found {
			return nil, fmt.Errorf("-secret %q is not NAME=FILE", text)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("-secret %s: %w; give a readable file", name, err)
		}
		next.Secrets[name] = strings.TrimRight(string(b), "\r\n")
	}
	return next, nil
}

// digest is how the values of secrets begin that are shown in place of them.
const digest = "sha256:"

func (e *configEdit) read(now, next *adminapi.Config) error {
	b, err := os.ReadFile(e.file)
	if err != nil {
		return fmt.Errorf("-file: %w; give a readable one", err)
	}
	var doc adminapi.Config
	if err := json.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("-file %s: %w; config get -json prints what it should look like", e.file, err)
	}
	next.ClusterID, next.Instance, next.Settings = doc.ClusterID, doc.Instance, doc.Settings
	if next.Settings == nil {
		next.Settings = map[string]string{}
	}
	for name, value := range doc.Secrets {
		switch {
		case value == now.Secrets[name]:
		case strings.HasPrefix(value, digest):
			return fmt.Errorf("-file %s: %s is a digest, and not that of the secret that this instance has; give the value, or leave it out", e.file, name)
		default:
			next.Secrets[name] = value
		}
	}
	return nil
}

// differences are lines for people, in order of the names.
func differences(now, next *adminapi.Config) []string {
	var lines []string
	line := func(name, before, after string) {
		if before != "" {
			lines = append(lines, "- "+name+" = "+before)
		}
		if after != "" {
			lines = append(lines, "+ "+name+" = "+after)
		}
	}
	if now.ClusterID != next.ClusterID {
		line("cluster_id", now.ClusterID, next.ClusterID)
	}
	if now.Instance != next.Instance {
		line("instance", now.Instance, next.Instance)
	}
	names := maps.Clone(now.Settings)
	maps.Copy(names, next.Settings)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if before, after := now.Settings[name], next.Settings[name]; before != after {
			line(name, before, after)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(next.Secrets)) {
		before, after := "", "(given)"
		if now.Secrets[name] != "" {
			before = "(secret)"
		}
		if next.Secrets[name] == "" {
			after = ""
		}
		line(name, before, after)
	}
	return lines
}
