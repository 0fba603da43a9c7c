package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zdmproject/terraform-provider-zdm/appliance"
	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
	"github.com/zdmproject/terraform-provider-zdm/appliance/supervise"
	"github.com/zdmproject/terraform-provider-zdm/internal/buildinfo"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

type serveOptions struct {
	state, run, listen, socket string
	cert, key, clientCA, token string
	binary                     string
	readyTimeout, drainTimeout time.Duration
	stopProxies                bool
}

// shutdownTimeout bounds the answers that are on their way when the agent ends.
const shutdownTimeout = 5 * time.Second

func serve(ctx context.Context, args []string, stderr io.Writer) error {
	var o serveOptions
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	f.StringVar(&o.state, "state", "/var/lib/zdm-appliance", "`folder` for what must not be forgotten; holds secrets, is made 0700")
	f.StringVar(&o.run, "run-dir", "", "`folder` for the proxy's sockets and output (default STATE/run)")
	f.StringVar(&o.listen, "listen", ":"+strconv.Itoa(adminapi.DefaultPort), "`address` of the admin API")
	f.StringVar(&o.socket, "socket", "", "`path` of the unix socket for local use (default STATE/admin.sock)")
	f.StringVar(&o.cert, "tls-cert", "", "PEM `file` with the certificate of the admin API (needed)")
	f.StringVar(&o.key, "tls-key", "", "PEM `file` with its key (needed)")
	f.StringVar(&o.clientCA, "client-ca", "", "PEM `file` with authorities; callers must then also show a certificate of theirs")
	f.StringVar(&o.token, "token-file", "", "`file` with the bearer token of the admin API (needed)")
	f.StringVar(&o.binary, "proxy-binary", "zdm-proxy", "`path` of zdm-proxy")
	f.DurationVar(&o.readyTimeout, "ready-timeout", appliance.DefaultReadyTimeout, "how long a new proxy process may take until it is ready")
	f.DurationVar(&o.drainTimeout, "drain-timeout", appliance.DefaultDrainTimeout, "how long an old proxy process may take to answer what is in flight")
	f.BoolVar(&o.stopProxies, "stop-proxy-on-exit", false, "end the proxy with the agent; otherwise it serves on, and the next agent adopts it")
	if err := flags(f, args, stderr); err != nil {
		return err
	}
	if o.run == "" {
		o.run = filepath.Join(o.state, "run")
	}
	if o.socket == "" {
		o.socket = filepath.Join(o.state, "admin.sock")
	}
	return o.serve(ctx, slog.New(slog.NewJSONHandler(stderr, nil)))
}

func (o *serveOptions) serve(ctx context.Context, log *slog.Logger) error {
	token, err := readToken(o.token, log)
	if err != nil {
		return err
	}
	conf, err := tlsConfig(o.cert, o.key, o.clientCA)
	if err != nil {
		return err
	}
	records, err := store.Open(o.state)
	if err != nil {
		return err
	}
	defer func() { _ = records.Close() }() // what it holds is on disk
	maker, err := supervise.NewExec(o.run, o.binary, func(socket string) []string { return []string{"-control", socket} }, environment(os.Environ()))
	if err != nil {
		return err
	}
	agent, err := appliance.New(appliance.Options{
		Store: records, Maker: maker, Log: log, Version: buildinfo.Version(),
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
	over := agent.NewServer(token)
	over.TLSConfig = conf
	beside := agent.NewServer(secret.String{})
	done := make(chan struct{})
	g.Go(func() error {
		// The servers end after the agent, so that the changes it still brings to
		// an end are answered.
		defer close(done)
		return agent.Serve(ctx)
	})
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

// minToken bounds tokens from below, in bytes: what cannot be guessed over a
// network.
const minToken = 16

func readToken(name string, log *slog.Logger) (secret.String, error) {
	if name == "" {
		return secret.String{}, errors.New("the admin API needs a bearer token; give its file with -token-file")
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return secret.String{}, fmt.Errorf("token file: %w; give a readable one with -token-file", err)
	}
	if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o077 != 0 {
		log.Warn("the token file can be read by others; chmod 600 it", "file", name)
	}
	token := strings.TrimSpace(string(b))
	switch {
	case len(token) < minToken:
		return secret.String{}, fmt.Errorf("token file %s: the token has %d bytes, fewer than %d; make one with: openssl rand -hex 32", name, len(token), minToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return secret.String{}, fmt.Errorf("token file %s: the token has spaces, or characters that are not ASCII; make one with: openssl rand -hex 32", name)
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

// tlsConfig reads the files once now, so that a bad one is told at once, and
// again when they have changed: a renewed certificate needs no restart.
func tlsConfig(cert, key, clientCA string) (*tls.Config, error) {
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
	if clientCA != "" {
		pool, err := readPool(clientCA)
		if err != nil {
			return nil, err
		}
		conf.ClientCAs, conf.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return conf, nil
}
