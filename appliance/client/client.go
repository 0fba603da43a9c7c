// Package client speaks to an appliance's admin API over HTTPS, or over the
// agent's unix socket on the same machine.
//
// Floor 3: it knows package adminapi and nothing of agents, rollouts or
// Terraform. It never repeats a call: whether to try a mutation again is the
// caller's decision, who has the ETag. It has no goroutines of its own; a Client
// is safe for concurrent use.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

// Defaults of Options. A change is answered when the new proxy process serves,
// which the agent bounds itself; ApplyTimeout must be longer than that.
const (
	DefaultTimeout      = 10 * time.Second
	DefaultApplyTimeout = 3 * time.Minute
)

// maxAnswer bounds what is read of an answer; the longest is a full ring of
// events.
const maxAnswer = 8 << 20

// Options say which instance, and how to trust each other.
type Options struct {
	// URL is https://HOST[:PORT]; the port is adminapi.DefaultPort if left out.
	URL string
	// Socket is the path of the agent's unix socket; URL and what follows it are
	// then not used, but for the time-outs.
	Socket string
	// CA is PEM with the authorities that may sign the instance's certificate;
	// nil means the system's.
	CA []byte
	// Certificate and Key are PEM of a client certificate; optional.
	Certificate []byte
	Key         secret.String
	Token       secret.String
	// Timeout bounds the calls that read, ApplyTimeout those that change
	// something. 0 means the default.
	Timeout      time.Duration
	ApplyTimeout time.Duration
}

// Client is the admin API of one instance.
type Client struct {
	name  string // the URL or socket, for errors
	base  string
	token secret.String
	http  *http.Client
	read  time.Duration
	apply time.Duration
}

// New checks the options; it dials nothing.
func New(o Options) (*Client, error) {
	c := &Client{token: o.Token, read: o.Timeout, apply: o.ApplyTimeout}
	if c.read == 0 {
		c.read = DefaultTimeout
	}
	if c.apply == 0 {
		c.apply = DefaultApplyTimeout
	}
	transport := &http.Transport{
		// One instance, few calls: no idle connection is kept for long.
		MaxIdleConns:        2,
		IdleConnTimeout:     15 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
	}
	// Redirects are not followed: they would take the token elsewhere.
	c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var dialer net.Dialer
	if o.Socket != "" {
		c.name, c.base = o.Socket, "http://appliance"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", o.Socket)
		}
		return c, nil
	}
	u, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	c.name, c.base = u.String(), u.String()
	transport.DialContext = dialer.DialContext
	if transport.TLSClientConfig, err = tlsConfig(o); err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	return c, nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("admin URL %q: not a URL; write https://HOST:%d", text, adminapi.DefaultPort)
	case u.Scheme != "https" || u.Hostname() == "":
		return nil, fmt.Errorf("admin URL %q: not https://HOST[:PORT]; the admin API is served over TLS only", text)
	case u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "":
		return nil, fmt.Errorf("admin URL of %s: has more than scheme, host and port; remove the rest", u.Host)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), strconv.Itoa(adminapi.DefaultPort))
	}
	return &url.URL{Scheme: u.Scheme, Host: host}, nil
}

func tlsConfig(o Options) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	if len(o.CA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("the CA holds no PEM certificate; give the certificate of the authority, not a path or a key")
		}
	}
	if len(o.Certificate) > 0 || o.Key.IsSet() {
		pair, err := tls.X509KeyPair(o.Certificate, []byte(o.Key.Reveal()))
		if err != nil {
			return nil, fmt.Errorf("client certificate and key: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// String names the instance by its address.
func (c *Client) String() string { return c.name }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status reads the status.
func (c *Client) Status(ctx context.Context) (*adminapi.Status, error) {
	return call[adminapi.Status](ctx, c, http.MethodGet, adminapi.PathStatus, "", nil)
}

// Config reads the configuration; the ETag for PutConfig is its generation.
func (c *Client) Config(ctx context.Context) (*adminapi.Config, error) {
	return call[adminapi.Config](ctx, c, http.MethodGet, adminapi.PathConfig, "", nil)
}

// PutConfig changes the configuration if its generation is etag, and returns
// once a proxy process runs it.
func (c *Client) PutConfig(ctx context.Context, conf *adminapi.Config, etag uint64) (*adminapi.Config, error) {
	return call[adminapi.Config](ctx, c, http.MethodPut, adminapi.PathConfig, tag(etag), conf)
}

// CheckConfig is what PutConfig would answer, as far as that can be told without
// starting a process; Applied says what would be done. Nothing changes.
func (c *Client) CheckConfig(ctx context.Context, conf *adminapi.Config, etag uint64) (*adminapi.Config, error) {
	return call[adminapi.Config](ctx, c, http.MethodPut, adminapi.PathConfig+"?dry_run=true", tag(etag), conf)
}

// Phase reads the phase; the ETag for Prepare is its epoch.
func (c *Client) Phase(ctx context.Context) (*adminapi.Phase, error) {
	return call[adminapi.Phase](ctx, c, http.MethodGet, adminapi.PathPhase, "", nil)
}

// Prepare proves that a phase step may be taken, if the epoch is etag. The token
// for Commit and Abort is in the answer's Prepared.
func (c *Client) Prepare(ctx context.Context, r adminapi.PrepareRequest, etag uint64) (*adminapi.Phase, error) {
	return call[adminapi.Phase](ctx, c, http.MethodPost, adminapi.PathPhasePrepare, tag(etag), r)
}

// Commit takes the prepared step. Committing what is committed is a success.
func (c *Client) Commit(ctx context.Context, token string) (*adminapi.Phase, error) {
	return call[adminapi.Phase](ctx, c, http.MethodPost, adminapi.PathPhaseCommit, "", adminapi.CommitRequest{Token: token})
}

// Abort gives the prepared step up. Aborting nothing is a success.
func (c *Client) Abort(ctx context.Context, token string) (*adminapi.Phase, error) {
	return call[adminapi.Phase](ctx, c, http.MethodPost, adminapi.PathPhaseAbort, "", adminapi.AbortRequest{Token: token})
}

// Restart replaces the proxy process, and returns once the new one serves.
func (c *Client) Restart(ctx context.Context, reason string) (*adminapi.Status, error) {
	return call[adminapi.Status](ctx, c, http.MethodPost, adminapi.PathRestart, "", adminapi.RestartRequest{Reason: reason})
}

// Events reads what is in the ring after the given sequence number.
func (c *Client) Events(ctx context.Context, after uint64) (*adminapi.Events, error) {
	return call[adminapi.Events](ctx, c, http.MethodGet, adminapi.PathEvents+"?after="+strconv.FormatUint(after, 10), "", nil)
}

// Drain closes the client port, and returns when no client is left.
func (c *Client) Drain(ctx context.Context, r adminapi.DrainRequest) (*adminapi.Status, error) {
	return call[adminapi.Status](ctx, c, http.MethodPost, adminapi.PathDrain, "", r)
}

// Resume opens the client port again.
func (c *Client) Resume(ctx context.Context, r adminapi.ResumeRequest) (*adminapi.Status, error) {
	return call[adminapi.Status](ctx, c, http.MethodPost, adminapi.PathResume, "", r)
}

// Marks reads all marks.
func (c *Client) Marks(ctx context.Context) (*adminapi.Marks, error) {
	return call[adminapi.Marks](ctx, c, http.MethodGet, adminapi.PathMarks, "", nil)
}

// PutMark sets a mark if its revision is etag, which is 0 for a new one.
func (c *Client) PutMark(ctx context.Context, name string, r adminapi.MarkRequest, etag uint64) (*adminapi.Mark, error) {
	return call[adminapi.Mark](ctx, c, http.MethodPut, markPath(name), tag(etag), r)
}

// DeleteMark removes a mark if its revision is etag.
func (c *Client) DeleteMark(ctx context.Context, name string, etag uint64) (*adminapi.Marks, error) {
	return call[adminapi.Marks](ctx, c, http.MethodDelete, markPath(name), tag(etag), nil)
}

func markPath(name string) string { return adminapi.PathMarks + "/" + url.PathEscape(name) }

// LogFilter says which lines of output are asked for; zero values do not matter.
type LogFilter struct {
	After  uint64
	Tail   int    // only that many of the last lines
	Source string // adminapi.SourceAgent or SourceProxy
}

func (f LogFilter) query() url.Values {
	q := url.Values{}
	if f.After > 0 {
		q.Set("after", strconv.FormatUint(f.After, 10))
	}
	if f.Tail > 0 {
		q.Set("tail", strconv.Itoa(f.Tail))
	}
	if f.Source != "" {
		q.Set("source", f.Source)
	}
	return q
}

// Logs reads the last lines of output.
func (c *Client) Logs(ctx context.Context, f LogFilter) (*adminapi.Logs, error) {
	return call[adminapi.Logs](ctx, c, http.MethodGet, adminapi.PathLogs+"?"+f.query().Encode(), "", nil)
}

// Metrics reads the metrics of the agent, or with adminapi.PathProxyMetrics those
// of the proxy, as Prometheus does.
func (c *Client) Metrics(ctx context.Context, path string) ([]byte, error) {
	return c.exchange(ctx, http.MethodGet, path, "", nil)
}

func tag(n uint64) string { return `"` + strconv.FormatUint(n, 10) + `"` }

// call is exchange for an answer in JSON.
func call[T any](ctx context.Context, c *Client, method, path, ifMatch string, in any) (*T, error) {
	answer, err := c.exchange(ctx, method, path, ifMatch, in)
	if err != nil {
		return nil, err
	}
	out := new(T)
	if err := json.Unmarshal(answer, out); err != nil {
		return nil, fmt.Errorf("%s %s%s: the answer is not what this version understands (%w); compare the versions of both", method, c.name, path, err)
	}
	return out, nil
}

// exchange makes a call that has an end. An error is an *adminapi.Problem if the
// agent answered with one, else an *UnreachableError or what is wrong with the
// answer.
func (c *Client) exchange(ctx context.Context, method, path, ifMatch string, in any) ([]byte, error) {
	bound := c.read
	if method != http.MethodGet {
		bound = c.apply
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	resp, err := c.send(ctx, bound, method, path, ifMatch, in)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, unreachable(c.name, method, path, bound, err)
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("%s %s%s: the answer is longer than %d bytes; is this an appliance's admin API?", method, c.name, path, maxAnswer)
	}
	return answer, nil
}

// send makes a call and returns its answer, which is a success, with the body
// still to be read.
func (c *Client) send(ctx context.Context, bound time.Duration, method, path, ifMatch string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s%s: %w", method, c.name, path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s%s: %w", method, c.name, path, err)
	}
	req.Header.Set("Accept", "application/json, "+adminapi.MediaLines+", "+adminapi.ProblemType)
	req.Header.Set("User-Agent", "zdm/"+buildinfo.Version())
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token.IsSet() {
		req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	if ifMatch != "" {
		req.Header.Set("If-Match", ifMatch)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(c.name, method, path, bound, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return nil, unreachable(c.name, method, path, bound, err)
		}
		return nil, problem(c.name, resp, answer)
	}
	return resp, nil
}

func problem(name string, resp *http.Response, body []byte) error {
	var p adminapi.Problem
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media == adminapi.ProblemType && json.Unmarshal(body, &p) == nil && p.Type != "" {
		return &p
	}
	return fmt.Errorf("%s answered %s without a problem document; is this an appliance's admin API, and is there a proxy in between?", name, resp.Status)
}
