// Package transport chooses what the bytes of each leg travel in, by the
// settings: plain TCP, TLS with PEM files, or TLS through the router of a secure
// connect bundle.
//
// Floor 3. It knows nothing of requests. It has no goroutine.
package transport

import (
	"crypto/tls"
	"errors"
	"log/slog"

	"github.com/zdmproject/terraform-provider-zdm/proxy/astra"
	"github.com/zdmproject/terraform-provider-zdm/proxy/cluster"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/tlsconf"
)

// Transport is that of every leg. It is immutable; the files behind it are read
// again when they change.
type Transport struct {
	// Listen is for clients; nil means plain TCP.
	Listen   *tls.Config
	clusters [2]func(*cluster.ControlConfig)
}

// New reads the files of all legs. The error is a *config.Error with every
// problem of every file.
func New(cfg *config.Config, log *slog.Logger) (*Transport, error) {
	t := &Transport{}
	var all config.Error
	note := func(err error) {
		var e *config.Error
		if errors.As(err, &e) {
			all.Problems = append(all.Problems, e.Problems...)
		} else if err != nil {
			all.Problems = append(all.Problems, err.Error())
		}
	}
	for _, side := range phase.Sides {
		var err error
		t.clusters[side], err = reach(side.String(), cfg.Clusters[side], log)
		note(err)
	}
	if l := cfg.Listen; l.TLS.On() {
		var err error
		t.Listen, err = tlsconf.NewServer(files("proxy_tls_ca_path", "proxy_tls_cert_path", "proxy_tls_key_path", l.TLS), l.RequireClientAuth, log)
		note(err)
	}
	if len(all.Problems) > 0 {
		return nil, &all
	}
	return t, nil
}

// Cluster returns c with how its nodes are reached.
func (t *Transport) Cluster(c cluster.ControlConfig) cluster.ControlConfig {
	if set := t.clusters[c.Side]; set != nil {
		set(&c)
	}
	return c
}

func reach(side string, c config.Cluster, log *slog.Logger) (func(*cluster.ControlConfig), error) {
	switch {
	case c.SecureConnectBundle != "":
		db, err := astra.Open(side+"_secure_connect_bundle_path", c.SecureConnectBundle, log)
		if err != nil {
			return nil, err
		}
		return func(u *cluster.ControlConfig) {
			u.Lookup, u.Dial = db.Lookup, db.Dial
			u.Advise = func(err error) string { return astra.Advice(side, err) }
		}, nil
	case c.TLS.On():
		f := files(side+"_tls_server_ca_path", side+"_tls_client_cert_path", side+"_tls_client_key_path", c.TLS)
		client, err := tlsconf.NewClient(f, c.ContactPoints, c.VerifyHostname, log)
		if err != nil {
			return nil, err
		}
		return func(u *cluster.ControlConfig) {
			u.Dial = client.Dial
			u.Advise = func(err error) string { return tlsconf.Advice(side, err) }
		}, nil
	}
	return nil, nil
}

func files(ca, cert, key string, f config.TLSFiles) tlsconf.Files {
	return tlsconf.Files{CA: tlsconf.File{Setting: ca, Path: f.CA}, Cert: tlsconf.File{Setting: cert, Path: f.Cert}, Key: tlsconf.File{Setting: key, Path: f.Key}}
}
