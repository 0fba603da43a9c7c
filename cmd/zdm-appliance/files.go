package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// keyPair is a certificate and its key in files that may be replaced. Safe for
// concurrent use.
type keyPair struct {
	cert, key string

	// Guarded by mu.
	mu       sync.Mutex
	loaded   *tls.Certificate
	modified [2]time.Time
}

// load returns the certificate of the files; if they have become bad, the last
// good one.
func (p *keyPair) load() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var modified [2]time.Time
	for i, name := range []string{p.cert, p.key} {
		info, err := os.Stat(name)
		if err != nil && p.loaded == nil {
			return nil, fmt.Errorf("certificate of the admin API: %w; give readable files with -tls-cert and -tls-key", err)
		}
		if err == nil {
			modified[i] = info.ModTime()
		}
	}
	if p.loaded != nil && modified == p.modified {
		return p.loaded, nil
	}
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	switch {
	case err == nil:
		p.loaded, p.modified = &pair, modified
	case p.loaded == nil:
		return nil, fmt.Errorf("certificate of the admin API (%s, %s): %w; give a PEM certificate and its key", p.cert, p.key, err)
	}
	return p.loaded, nil
}

func readPool(name string) (*x509.CertPool, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("authorities of clients: %w; give a readable file with -client-ca", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("authorities of clients: %s holds no PEM certificate; give the authority's", name)
	}
	return pool, nil
}

// inherited are the variables that a proxy process gets of the agent's. All
// others stay here, since any could hold a secret, and ZDM_ ones would be taken
// for settings. LAB_OF_ZDM is how a lab finds its processes.
var inherited = []string{
	"PATH", "HOME", "TZ", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"GOMAXPROCS", "GOMEMLIMIT", "GOGC", "GODEBUG", "GOTRACEBACK", "GORACE", "GOCOVERDIR", "LAB_OF_ZDM",
}

func environment(all []string) []string {
	var out []string
	for _, entry := range all {
		if name, _, _ := strings.Cut(entry, "="); slices.Contains(inherited, name) {
			out = append(out, entry)
		}
	}
	return out
}
