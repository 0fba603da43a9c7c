package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/client"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

// stateFolder is where an agent keeps what must not be forgotten.
const stateFolder = "/var/lib/zdm-appliance"

// instance is the flags that say which instance a command is about, and how to
// show the answer.
type instance struct {
	state, socket             string
	url, ca, token, cert, key string
	json                      bool
}

// instanceFlags adds the flags. Those of an instance elsewhere have environment
// variables, by the names that the provider has.
func (c *call) instanceFlags() *instance {
	i := &instance{}
	f := c.flags
	f.StringVar(&i.state, "state", stateFolder, "`folder` of the agent's state, of the instance on this machine")
	f.StringVar(&i.socket, "socket", "", "`path` of its agent's unix socket (default STATE/admin.sock)")
	f.StringVar(&i.url, "url", os.Getenv("ZDM_ADMIN_URL"), "`https://HOST[:PORT]` of an instance elsewhere (ZDM_ADMIN_URL)")
	f.StringVar(&i.ca, "ca", os.Getenv("ZDM_ADMIN_CA_FILE"), "PEM `file` with the authority of its certificate (ZDM_ADMIN_CA_FILE); otherwise the system's count")
	f.StringVar(&i.token, "token-file", "", "`file` with its bearer token; otherwise ZDM_ADMIN_TOKEN counts")
	f.StringVar(&i.cert, "cert", "", "PEM `file` with a client certificate")
	f.StringVar(&i.key, "key", "", "PEM `file` with its key")
	f.BoolVar(&i.json, "json", false, "print what the API answers, as JSON")
	return i
}

// dial makes the client; it dials nothing yet.
func (i *instance) dial() (*client.Client, error) {
	if i.url == "" || i.socket != "" { // a variable for elsewhere does not count then
		socket := i.socket
		if socket == "" {
			socket = filepath.Join(i.state, "admin.sock")
		}
		return client.New(client.Options{Socket: socket})
	}
	o := client.Options{URL: i.url, Token: secret.New(os.Getenv("ZDM_ADMIN_TOKEN"))}
	var key []byte
	for _, file := range []struct {
		name string
		into *[]byte
	}{{i.ca, &o.CA}, {i.cert, &o.Certificate}, {i.key, &key}} {
		if file.name == "" {
			continue
		}
		b, err := os.ReadFile(file.name)
		if err != nil {
			return nil, fmt.Errorf("%w; give a readable file", err)
		}
		*file.into = b
	}
	if key != nil {
		o.Key = secret.New(string(key))
	}
	if i.token != "" {
		b, err := os.ReadFile(i.token)
		if err != nil {
			return nil, fmt.Errorf("token file: %w; give a readable one with -token-file", err)
		}
		o.Token = secret.New(strings.TrimSpace(string(b)))
	}
	return client.New(o)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints names and what they are, under each other.
type table struct{ *tabwriter.Writer }

func newTable(w io.Writer) table { return table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)} }

func (t table) row(name, format string, args ...any) {
	fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
}

// since shows a time, and how long ago that is.
func since(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	ago := time.Since(t)
	unit := time.Second
	switch {
	case ago > 48*time.Hour:
		return fmt.Sprintf("%s (%d days ago)", t.UTC().Format(time.RFC3339), int(ago.Hours()/24))
	case ago > time.Hour:
		unit = time.Minute
	}
	return fmt.Sprintf("%s (%s ago)", t.UTC().Format(time.RFC3339), strings.TrimSuffix(ago.Truncate(unit).String(), "m0s"))
}
