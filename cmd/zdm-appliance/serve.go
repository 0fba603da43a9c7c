package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zdmproject/terraform-provider-zdm/appliance"
	"github.com/zdmproject/terraform-provider-zdm/appliance/access"
	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/adminhttp"
	"github.com/zdmproject/terraform-provider-zdm/appliance/recent"
	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
	"github.com/zdmproject/terraform-provider-zdm/appliance/supervise"
	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

type serveOptions struct {
	state, run, listen, socket string
	cert, key, clientCA        string
	clientAuth                 string
	token, access              string
	binary                     string
	memory                     string
	descriptors                uint64
	exporter, exporterListen   string
	readyTimeout, drainTimeout time.Duration
	stopProxies                bool
}

// memorySize is what the proxy's run time understands.
var memorySize = regexp.MustCompile(`^[1-9][0-9]*([KMGT]i)?B$`)

// shutdownTimeout bounds the answers that are on their way when the agent ends.
const shutdownTimeout = 5 * time.Second

func serve(ctx context.Context, c *call) error {
	var o serveOptions
	f := c.flags
	f.StringVar(&o.state, "state", stateFolder, "`folder` for what must not be forgotten; holds secrets, is made 0700")
	f.StringVar(&o.run, "run-dir", "", "`folder` for the proxy's sockets and output (default STATE/run)")
	f.StringVar(&o.listen, "listen", ":"+strconv.Itoa(adminapi.DefaultPort), "`address` of the admin API")
	f.StringVar(&o.socket, "socket", "", "`path` of the unix socket for local use (default STATE/admin.sock)")
	f.StringVar(&o.cert, "tls-cert", "", "PEM `file` with the certificate of the admin API (needed)")
	f.StringVar(&o.key, "tls-key", "", "PEM `file` with its key (needed)")
	f.StringVar(&o.clientCA, "client-ca", "", "PEM `file` with authorities of callers' certificates")
	f.StringVar(&o.clientAuth, "client-auth", clientAuthRequired, "with -client-ca: `required`, all callers must show a certificate; optional, they may")
	f.StringVar(&o.access, "access-file", "", "YAML `file` that says who may call: hashes of tokens and names of certificates, each with a role; read again when it changes")
	f.StringVar(&o.token, "token-file", "", "`file` with one bearer token that may do everything (this or -access-file is needed)")
	f.StringVar(&o.binary, "proxy-binary", "zdm-proxy", "`path` of zdm-proxy")
	f.StringVar(&o.memory, "proxy-memory", "", "what a proxy process tries to keep its memory under, for example `4GiB` (GOMEMLIMIT); no bound without")
	f.Uint64Var(&o.descriptors, "proxy-descriptors", 0, "`how many` files and sockets a proxy process may have open; 0 leaves that as it is")
	f.StringVar(&o.exporter, "node-exporter", "", "`path` of node_exporter, which is then kept running, and passed on at /metrics/node")
	f.StringVar(&o.exporterListen, "node-exporter-listen", "127.0.0.1:9100", "`address` that it is to listen on")
	f.DurationVar(&o.readyTimeout, "ready-timeout", appliance.DefaultReadyTimeout, "how long a new proxy process may take until it is ready")
	f.DurationVar(&o.drainTimeout, "drain-timeout", appliance.DefaultDrainTimeout, "how long an old proxy process may take to answer what is in flight")
	f.BoolVar(&o.stopProxies, "stop-proxy-on-exit", false, "end the proxy with the agent; otherwise it serves on, and the next agent adopts it")
	if _, err := c.parse(0); err != nil {
		return err
	}
	if o.run == "" {
		o.run = filepath.Join(o.state, "run")
	}
	if o.socket == "" {
		o.socket = filepath.Join(o.state, "admin.sock")
	}
	return o.serve(ctx, c.stderr)
}

func (o *serveOptions) serve(ctx context.Context, stderr io.Writer) error {
	logs := recent.NewLogs(time.Now)
	log := slog.New(slog.NewJSONHandler(io.MultiWriter(stderr, logs.Writer(adminapi.SourceAgent)), nil))
	rules, err := o.rules(log)
	if err != nil {
		return err
	}
	conf, err := tlsConfig(o.cert, o.key, o.clientCA, o.clientAuth)
	if err != nil {
		return err
	}
	records, err := store.Open(o.state)
	if err != nil {
		return err
	}
	defer func() { _ = records.Close() }() // what it holds is on disk
	env := environment(os.Environ())
	if o.memory != "" {
		if !memorySize.MatchString(o.memory) {
			return fmt.Errorf("-proxy-memory %q is not a size like 512MiB or 4GiB", o.memory)
		}
		env = append(slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "GOMEMLIMIT=") }), "GOMEMLIMIT="+o.memory)
	}
	maker, err := supervise.NewExec(o.run, o.binary, func(socket string) []string { return []string{"-control", socket} }, env)
	if err != nil {
		return err
	}
	maker.Descriptors = o.descriptors
	events, err := recent.OpenEvents(filepath.Join(o.state, "events"), time.Now)
	if err != nil {
		return fmt.Errorf("%w; look at the state folder", err)
	}
	defer events.Close()
	agent, err := appliance.New(appliance.Options{
		Store: records, Maker: maker, Log: log, Version: buildinfo.Version(), Events: events, Logs: logs, BootID: bootID(),
		ReadyTimeout: o.readyTimeout, DrainTimeout: o.drainTimeout, StopProxies: o.stopProxies,
	})
	if err != nil {
		return err
	}
	remote, err := net.Listen("tcp", o.listen)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("listen on %s: the port is in use; stop what uses it, or give another address with -listen", o.listen)
		}
		return fmt.Errorf("listen: %w; give an address of this machine with -listen", err)
	}
	defer remote.Close()
	local, err := listenUnix(o.socket)
	if err != nil {
		return err
	}
	defer local.Close()
	log.Info("agent started", "version", buildinfo.Version(), "listen", remote.Addr().String(), "socket", o.socket, "state", o.state)

	g, ctx := errgroup.WithContext(ctx)
	api := adminhttp.Options{Agent: agent, Events: events, Logs: logs, Log: log, Metrics: adminhttp.NewMetrics(agent)}
	if o.exporter != "" {
		if o.exporter, err = exec.LookPath(o.exporter); err != nil {
			return fmt.Errorf("node_exporter: %w; give its path with -node-exporter", err)
		}
		api.NodeMetrics = "http://" + o.exporterListen + "/metrics"
	}
	beside := adminhttp.New(api).NewServer()
	api.Gate = &access.Gate{Rules: rules, Now: time.Now}
	over := adminhttp.New(api).NewServer()
	over.TLSConfig = conf
	done := make(chan struct{})
	g.Go(func() error {
		// The servers end after the agent, so that the changes it still brings to
		// an end are answered.
		defer close(done)
		return agent.Serve(ctx)
	})
	if o.exporter != "" {
		helper := supervise.Helper{
			Path: o.exporter, Args: []string{"--web.listen-address=" + o.exporterListen}, Env: env, Output: logs.Writer("node-exporter"),
			Ended: func(how error, again time.Duration) {
				log.Error("node_exporter ended; it is started again", "cause", how, "in", again)
			},
		}
		g.Go(func() error {
			helper.Run(ctx)
			return nil
		})
	}
	g.Go(func() error { return closed(over.ServeTLS(remote, "", "")) })
	g.Go(func() error { return closed(beside.Serve(local)) })
	g.Go(func() error {
		<-done
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		_ = over.Shutdown(ctx)
		_ = beside.Shutdown(ctx)
		return nil
	})
	err = g.Wait()
	log.Info("agent ended")
	return err
}

func closed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// bootID is another one after each start of the machine; empty where that cannot
// be told.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// rules are those of the access file, and the one token that may do everything.
func (o *serveOptions) rules(log *slog.Logger) (func() *access.Rules, error) {
	if o.token == "" && o.access == "" {
		return nil, errors.New("the admin API must know who may call; give a bearer token with -token-file, or names and roles with -access-file")
	}
	var token secret.String
	if o.token != "" {
		var err error
		if token, err = readToken(o.token, log); err != nil {
			return nil, err
		}
	}
	read := func() *access.Rules { return &access.Rules{} }
	if o.access != "" {
		file, err := access.OpenFile(o.access, func(err error) { log.Error("access", "cause", err) })
		if err != nil {
			return nil, err
		}
		read = file.Rules
	}
	if !token.IsSet() {
		return read, nil
	}
	return func() *access.Rules { return read().WithToken("token-file", token.Reveal()) }, nil
}

func readToken(name string, log *slog.Logger) (secret.String, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return secret.String{}, fmt.Errorf("token file: %w; give a readable one with -token-file", err)
	}
	if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o077 != 0 {
		log.Warn("the token file can be read by others; chmod 600 it", "file", name)
	}
	token := strings.TrimSpace(string(b))
	if err := access.CheckToken(token); err != nil {
		return secret.String{}, fmt.Errorf("token file %s: %w", name, err)
	}
	return secret.New(token), nil
}

// listenUnix opens the local socket, 0600. One that nobody answers on is left
// from before: the state folder's lock says that no other agent uses it.
func listenUnix(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s is in use by another process; give another path with -socket", path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("socket %s: there is something else than a socket; give another path with -socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove old socket: %w", err)
		}
	}
	// Made under a umask, so that there is no moment at which others may connect.
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on socket: %w; give another path, shorter than 108 bytes, with -socket", err)
	}
	return l, nil
}

// What -client-auth asks of callers.
const (
	clientAuthRequired = "required"
	clientAuthOptional = "optional"
)

// tlsConfig reads the files once now, so that a bad one is told at once, and
// again when they have changed: a renewed certificate needs no restart.
func tlsConfig(cert, key, clientCA, clientAuth string) (*tls.Config, error) {
	if cert == "" || key == "" {
		return nil, errors.New("the admin API needs a certificate; give its files with -tls-cert and -tls-key")
	}
	pair := &keyPair{cert: cert, key: key}
	if _, err := pair.load(); err != nil {
		return nil, err
	}
	conf := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.load() },
	}
	auth, known := map[string]tls.ClientAuthType{clientAuthRequired: tls.RequireAndVerifyClientCert, clientAuthOptional: tls.VerifyClientCertIfGiven}[clientAuth]
	if !known {
		return nil, fmt.Errorf("-client-auth %q is neither %s nor %s", clientAuth, clientAuthRequired, clientAuthOptional)
	}
	if clientCA != "" {
		pool, err := readPool(clientCA)
		if err != nil {
			return nil, err
		}
		conf.ClientCAs, conf.ClientAuth = pool, auth
	}
	return conf, nil
}
