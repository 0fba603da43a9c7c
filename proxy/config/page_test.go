package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

// page is the settings for people to read; make generate writes it.
const page = "../../docs/design/settings.md"

var update = flag.Bool("update", false, "write "+page)

func TestTheSettingsPageIsUpToDate(t *testing.T) {
	want := renderPage()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s differs from the table of settings; run make generate", page)
	}
}

func renderPage() string {
	var b strings.Builder
	b.WriteString(`<!-- Code generated from the table in proxy/config by "make generate"; DO NOT EDIT. -->

# Settings of the proxy

A proxy that stands alone takes these as environment variables with ` + "`ZDM_`" + ` in front, or in lower case as keys of the
YAML file given with ` + "`-config`" + `, in which case the environment is not read. Under an agent they are the settings of
` + "`zdm_proxy_cluster`" + `. An empty value counts as not set. Lists are separated by commas; in YAML they may be lists.

Names and defaults are those of DataStax ZDM Proxy 2.4, except for the ones marked *ours*. A setting marked *no effect* is
accepted, checked and warned of. One marked *refused* is an error when it asks for anything but its default, because
to ignore it would not be safe. Under an agent, a change of nothing but settings marked *hot* is taken by the running process;
any other has a new process take the clients over.

| name | default | values | what it does |
| --- | --- | --- | --- |
`)
	for _, s := range Settings() {
		var marks []string
		if !s.ZDM {
			marks = append(marks, "*ours*")
		}
		if s.Secret {
			marks = append(marks, "*secret*")
		}
		if s.Support == Accepted {
			marks = append(marks, "*no effect*")
		}
		if s.Hot {
			marks = append(marks, "*hot*")
		}
		doc := s.Doc
		if len(marks) > 0 {
			doc = strings.Join(marks, ", ") + ": " + doc
		}
		def := ""
		if s.Default != "" {
			def = "`" + s.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.Name, def, s.Bounds, doc)
	}
	return b.String()
}
