package astra

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/tlsconf"
)

const (
	// metadataTimeout is ZDM's.
	metadataTimeout = 30 * time.Second
	// maxMetadata bounds its answer: a few kilobytes even with many nodes.
	maxMetadata = 1 << 20
)

// Database is a database behind a bundle. Its methods may be called from any
// goroutine.
type Database struct {
	files *tlsconf.Reloaded[*bundle]
	// router is host:port of what leads to the nodes, "" before the first Lookup.
	router atomic.Pointer[string]
}

// Open reads the bundle that a setting names, and asks nobody yet. The error is
// a *config.Error.
func Open(setting, path string, log *slog.Logger) (*Database, error) {
	read := func() (*bundle, error) {
		b, err := readBundle(path)
		if err != nil {
			return nil, &config.Error{Problems: []string{fmt.Sprintf("%s: %v", setting, err)}}
		}
		return b, nil
	}
	files, err := tlsconf.Load(log, read, path)
	if err != nil {
		return nil, err
	}
	return &Database{files: files}, nil
}

// metadata is the answer of the metadata service.
type metadata struct {
	Contact struct {
		Type       string   `json:"type"`
		Datacenter string   `json:"local_dc"`
		Router     string   `json:"sni_proxy_address"`
		Points     []string `json:"contact_points"`
	} `json:"contact_info"`
}

// Lookup asks the metadata service for the host ids of some nodes and the name
// of their datacenter.
func (d *Database) Lookup(ctx context.Context) (hostIDs []string, datacenter string, err error) {
	b := d.files.Current()
	m, err := b.ask(ctx)
	if err != nil {
		return nil, "", &MetadataError{Service: b.metadata, Cause: err}
	}
	d.router.Store(&m.Contact.Router)
	return m.Contact.Points, m.Contact.Datacenter, nil
}

// MetadataError: the metadata service was not reached, or of no use.
type MetadataError struct {
	Service string
	Cause   error
}

func (e *MetadataError) Error() string {
	return "metadata service " + e.Service + ": " + e.Cause.Error()
}
func (e *MetadataError) Unwrap() error { return e.Cause }

func (b *bundle) ask(ctx context.Context) (*metadata, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	// Asked once in a long while: no connection is kept.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: b.roots, Certificates: []tls.Certificate{b.cert},
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+b.metadata+"/metadata", nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxMetadata))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered %s", response.Status)
	}
	m := &metadata{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("its answer: %w", err)
	}
	m.Contact.Points = slices.DeleteFunc(m.Contact.Points, func(p string) bool { return p == "" })
	switch _, _, err := net.SplitHostPort(m.Contact.Router); {
	case m.Contact.Type != "" && m.Contact.Type != "sni_proxy":
		return nil, fmt.Errorf("its contact type is %q, and only sni_proxy is known", m.Contact.Type)
	case err != nil:
		return nil, fmt.Errorf("its sni_proxy_address: %w", err)
	case len(m.Contact.Points) == 0:
		return nil, errors.New("it names no contact points")
	}
	return m, nil
}

// Dial connects to a node by its host id. It returns after the handshake.
func (d *Database) Dial(ctx context.Context, hostID string) (net.Conn, error) {
	router := d.router.Load()
	if router == nil {
		return nil, errors.New("the metadata service has not answered yet")
	}
	name, _, err := net.SplitHostPort(*router)
	if err != nil {
		return nil, err
	}
	b := d.files.Current()
	return tlsconf.Dial(ctx, *router, &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: hostID, Certificates: []tls.Certificate{b.cert},
		// The server name chooses the node; the certificate is the router's.
		InsecureSkipVerify: true, VerifyConnection: tlsconf.Verify(b.roots, []string{name}),
	})
}

// Advice is what to do about an error of Lookup or Dial, in the words of the
// settings; "" if err is none of theirs.
func Advice(side string, err error) string {
	bundle := side + "_secure_connect_bundle_path"
	var asked *MetadataError
	switch problem := tlsconf.ProblemOf(err); {
	case problem == tlsconf.Rejected, problem == tlsconf.Untrusted, problem == tlsconf.Expired:
		return fmt.Sprintf("the bundle may be out of date: download it again, and replace the file of %s", bundle)
	case problem != tlsconf.None, errors.As(err, &asked):
		return fmt.Sprintf("resume the database if it is hibernated, open the way to it, or correct %s", bundle)
	}
	return ""
}
