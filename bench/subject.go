package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// subject is one of those that are compared, with a process for each setup that
// was asked for.
type subject struct {
	name, version string
	launch        func(setup) (*process, error)
	running       map[setup]*process
}

// in returns the process of a setup, started when it is first asked for.
func (s *subject) in(how setup) (*process, error) {
	if p := s.running[how]; p != nil {
		return p, nil
	}
	p, err := s.launch(how)
	if err != nil {
		return nil, err
	}
	p.name = s.name
	s.running[how] = p
	return p, nil
}

func (s *subject) stop() {
	for _, p := range s.running {
		p.stop()
	}
}

// arena is what all subjects stand in: the nodes behind them, and a folder.
type arena struct {
	dir            string
	origin, target netip.AddrPort
	certificate    string // PEM file of the certificate for clients, and of its key
}

func newArena(dir string, origin, target netip.AddrPort) (*arena, error) {
	a := &arena{dir: dir, origin: origin, target: target, certificate: filepath.Join(dir, "certificate.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(24 * time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	return a, os.WriteFile(a.certificate, text, 0o600)
}

func freePort(address string) (netip.AddrPort, error) {
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return netip.ParseAddrPort(l.Addr().String())
}

var errMissing = errors.New("not installed")

// relay is the bare dual relay, a part of this program.
func (a *arena) relay() *subject {
	return &subject{name: dualRelay, version: runtime.Version(), running: map[setup]*process{}, launch: func(how setup) (*process, error) {
		args := []string{"relay", underTest + ":0", a.origin.String(), a.target.String()}
		if how == secure {
			args = append(args, a.certificate)
		}
		return startSelf(dualRelay, args...)
	}}
}

// haproxy relays to Origin alone.
func (a *arena) haproxy() (*subject, error) {
	path, err := exec.LookPath("haproxy")
	if err != nil {
		path = "/usr/sbin/haproxy" // often not in a user's PATH
		if _, err := os.Stat(path); err != nil {
			return nil, errMissing
		}
	}
	s := &subject{name: haproxy, running: map[setup]*process{}}
	if out, err := exec.Command(path, "-v").Output(); err == nil {
		s.version = strings.Fields(strings.TrimPrefix(string(out), "HAProxy version "))[0]
	}
	s.launch = func(how setup) (*process, error) { return a.startHAProxy(path, how) }
	return s, nil
}

func (a *arena) startHAProxy(path string, how setup) (*process, error) {
	at, err := freePort(underTest)
	if err != nil {
		return nil, err
	}
	bind := at.String()
	if how == secure {
		bind += " ssl crt " + a.certificate
	}
	file := filepath.Join(a.dir, "haproxy.cfg")
	config := fmt.Sprintf(`global
  maxconn 4096
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen bench
  bind %s
  server origin %s
`, bind, a.origin)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	p := command(haproxy, path, "-db", "-f", file)
	p.at = at
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start haproxy: %w", err)
	}
	return p, p.await(func() error {
		c, err := net.Dial("tcp", at.String())
		if err == nil {
			c.Close()
		}
		return err
	})
}

// proxy is a binary of zdm-proxy.
func (a *arena) proxy(name, path string) *subject {
	s := &subject{name: name, running: map[setup]*process{}}
	if out, err := exec.Command(path, "-version").Output(); err == nil && len(out) > 0 {
		words := strings.Fields(string(out))
		s.version = words[len(words)-1]
	}
	s.launch = func(how setup) (*process, error) { return a.startProxy(name, path, how) }
	return s
}

func (a *arena) startProxy(name, path string, how setup) (*process, error) {
	at, err := freePort(underTest)
	if err != nil {
		return nil, err
	}
	metrics, err := freePort(underTest)
	if err != nil {
		return nil, err
	}
	p := command(name, path)
	p.at = at
	set := func(name string, value any) { p.cmd.Env = append(p.cmd.Env, fmt.Sprintf("ZDM_%s=%v", name, value)) }
	for side, node := range map[string]netip.AddrPort{"ORIGIN": a.origin, "TARGET": a.target} {
		set(side+"_CONTACT_POINTS", node.Addr())
		set(side+"_PORT", node.Port())
		set(side+"_USERNAME", "bench")
		set(side+"_PASSWORD", "bench")
	}
	set("PROXY_LISTEN_ADDRESS", at.Addr())
	set("PROXY_LISTEN_PORT", at.Port())
	set("PROXY_MAX_CLIENT_CONNECTIONS", 10_000)
	set("METRICS_ADDRESS", metrics.Addr())
	set("METRICS_PORT", metrics.Port())
	switch how {
	case secure:
		for _, file := range []string{"CA", "CERT", "KEY"} {
			set("PROXY_TLS_"+file+"_PATH", a.certificate)
		}
	case dualRead:
		set("PHASE", "dual_read")
	case targetOnly:
		set("PHASE", "target_only")
	}
	for _, v := range os.Environ() { // so that a setting can be tried out
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "ZDM_") || strings.HasPrefix(name, "GO") {
			p.cmd.Env = append(p.cmd.Env, v)
		}
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, p.await(func() error {
		answer, err := http.Get(fmt.Sprintf("http://%s/health/readiness", metrics))
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("readiness is %s", answer.Status)
		}
		return nil
	})
}
