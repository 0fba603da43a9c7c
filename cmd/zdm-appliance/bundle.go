package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
)

const redacted = "[redacted]"

func supportBundle(ctx context.Context, c *call) error {
	to := c.instanceFlags()
	out := c.flags.String("out", "zdm-support-"+time.Now().UTC().Format("20060102T150405Z")+".tar.gz", "`file` to write, which must not exist")
	if _, err := c.parse(0); err != nil {
		return err
	}
	api, err := to.dial()
	if err != nil {
		return err
	}
	defer api.Close()
	f, err := os.OpenFile(*out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("support bundle: %w; give another file with -out", err)
	}
	missing, err := writeBundle(ctx, api, f)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return errors.Join(fmt.Errorf("support bundle: %w", err), os.Remove(*out))
	}
	fmt.Fprintf(c.stdout, "wrote %s: no passwords, tokens or user names are in it, but addresses and names of hosts, clusters and keyspaces are; look at it before you pass it on\n", *out)
	for _, m := range missing {
		fmt.Fprintf(c.stdout, "missing: %s\n", m)
	}
	return nil
}

// writeBundle writes what can be had, and returns what could not.
func writeBundle(ctx context.Context, api *client.Client, w io.Writer) (missing []string, err error) {
	zipped := gzip.NewWriter(w)
	archive := tar.NewWriter(zipped)
	now := time.Now().UTC()
	add := func(name string, text []byte) error {
		text = redact(text)
		if err := archive.WriteHeader(&tar.Header{Name: "zdm-support/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: now, Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err := archive.Write(text)
		return err
	}
	for _, part := range []struct {
		name string
		read func() (any, error)
	}{
		{"status.json", func() (any, error) { return withoutTokenIn(api.Status(ctx)) }},
		{"config.json", func() (any, error) { return withoutNames(api.Config(ctx)) }},
		{"marks.json", func() (any, error) { return api.Marks(ctx) }},
		{"events.json", func() (any, error) { return api.Events(ctx, 0) }},
		{"logs.txt", func() (any, error) { return linesOf(api.Logs(ctx, client.LogFilter{})) }},
		{"metrics.txt", func() (any, error) { return api.Metrics(ctx, adminapi.PathMetrics) }},
		{"node-metrics.txt", func() (any, error) { return api.Metrics(ctx, adminapi.PathNodeMetrics) }},
		{"proxy-metrics.txt", func() (any, error) { return api.Metrics(ctx, adminapi.PathProxyMetrics) }},
	} {
		v, err := part.read()
		if err != nil {
			missing = append(missing, part.name+": "+err.Error())
			continue
		}
		text, isText := v.([]byte)
		if !isText {
			if text, err = json.MarshalIndent(v, "", "  "); err != nil {
				return nil, err
			}
		}
		if err := add(part.name, text); err != nil {
			return nil, err
		}
	}
	about := fmt.Sprintf("made %s by zdm-appliance %s (%s, %s/%s) of %s\n", now.Format(time.RFC3339), buildinfo.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, api)
	if err := add("about.txt", []byte(about+strings.Join(missing, "\n"))); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return missing, zipped.Close()
}

// withoutTokenIn takes the token away with which a prepared step could be
// committed.
func withoutTokenIn(st *adminapi.Status, err error) (*adminapi.Status, error) {
	if err == nil && st.Phase.Prepared != nil {
		st.Phase.Prepared.Token = redacted
	}
	return st, err
}

// withoutNames takes the digests of secrets away, and who logs in.
func withoutNames(conf *adminapi.Config, err error) (*adminapi.Config, error) {
	if err != nil {
		return nil, err
	}
	for name := range conf.Secrets {
		conf.Secrets[name] = redacted
	}
	for name := range conf.Settings {
		if strings.HasSuffix(name, "_username") {
			conf.Settings[name] = redacted
		}
	}
	return conf, nil
}

func linesOf(page *adminapi.Logs, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for _, l := range page.Lines {
		fmt.Fprintf(&b, "%s %s %s\n", l.Time.Format(time.RFC3339Nano), l.Source, l.Text)
	}
	return []byte(b.String()), nil
}

// secretWords are what a secret would stand behind. No part of this project
// writes one; the texts of others (errors of clusters, reasons of people) might.
var secretWords = regexp.MustCompile(`(?i)((?:password|passwd|secret|token|authorization|bearer|username|user)\\?["']?\s*[=:]\s*\\?["']?(?:bearer\s+)?)([^\s"'\\,;}]+)`)

func redact(text []byte) []byte {
	return secretWords.ReplaceAll(text, []byte("${1}"+redacted))
}
