// Package astratest is what stands between the internet and an Astra database:
// a metadata service, and a router that leads to nodes by the server name in
// TLS. It also makes the secure connect bundle for them.
//
// For tests only. Each Service has goroutines for its two listeners and for the
// connections that it routes; they end with the test.
package astratest

import (
	"archive/zip"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/certtest"
)

// RouterName is what the router's certificate is for; it is 127.0.0.1.
const RouterName = "localhost"

// Service is a metadata service and a router.
type Service struct {
	// Bundle is the path of the secure connect bundle.
	Bundle string
	// Asked counts the requests for metadata.
	Asked atomic.Int32

	ca         *certtest.Authority
	datacenter string
	router     net.Listener
	metadata   net.Listener

	// Guarded by mu.
	mu     sync.Mutex
	nodes  map[string]string // host id to address
	order  []string
	routed map[string]int // connections by host id
	down   bool
	conns  map[net.Conn]struct{}
	ended  bool
}

// Start runs a service until the test ends. Its nodes are said to be in a
// datacenter.
func Start(t testing.TB, datacenter string) *Service {
	t.Helper()
	s := &Service{
		ca: certtest.NewAuthority(t, "astra"), datacenter: datacenter,
		nodes: map[string]string{}, routed: map[string]int{}, conns: map[net.Conn]struct{}{},
	}
	conf := &tls.Config{Certificates: []tls.Certificate{s.ca.Issue(t, RouterName).TLS}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.ca.Pool}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	s.router, s.metadata = listen(), listen()
	var wg sync.WaitGroup
	web := &http.Server{Handler: http.HandlerFunc(s.serveMetadata), ReadHeaderTimeout: 10 * time.Second, TLSConfig: conf}
	wg.Go(func() { _ = web.ServeTLS(s.metadata, "", "") }) // ends by Close
	wg.Go(func() { s.route(&wg, conf) })
	t.Cleanup(func() {
		_ = web.Close()
		_ = s.router.Close()
		s.mu.Lock()
		s.ended = true
		for c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	s.Bundle = filepath.Join(t.TempDir(), "secure-connect-test.zip")
	s.Renew(t)
	return s
}

// Add puts a node behind the router. Those added first are contact points.
func (s *Service) Add(hostID, addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[hostID] == "" {
		s.order = append(s.order, hostID)
	}
	s.nodes[hostID] = addr
}

// Hibernate makes the metadata service refuse.
func (s *Service) Hibernate(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Routed is how many connections were led to a node.
func (s *Service) Routed(hostID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.routed[hostID]
}

// Renew replaces the bundle with one that has a new certificate.
func (s *Service) Renew(t testing.TB) {
	t.Helper()
	p := s.ca.Issue(t, "database")
	_, port, err := net.SplitHostPort(s.metadata.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	WriteBundle(t, s.Bundle, map[string][]byte{
		"config.json": []byte(`{"host": "` + RouterName + `", "port": ` + port + `, "cql_port": 1, "keyspace": "ks",
			"caCertLocation": "./ca.crt", "keyLocation": "./key", "certLocation": "./cert"}`),
		"ca.crt": s.ca.PEM, "cert": p.CertPEM, "key": p.KeyPEM,
	})
}

// WriteBundle makes a zip of files.
func WriteBundle(t testing.TB, path string, files map[string][]byte) {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range files {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write(text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	certtest.Write(t, path, b.Bytes())
}

func (s *Service) serveMetadata(w http.ResponseWriter, r *http.Request) {
	s.Asked.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down || r.URL.Path != "/metadata" {
		http.Error(w, "unavailable", http.StatusServiceUnavailable)
		return
	}
	_, port, _ := net.SplitHostPort(s.router.Addr().String())
	points := s.order[:min(1, len(s.order))]
	_ = json.NewEncoder(w).Encode(map[string]any{"version": 1, "region": "here", "contact_info": map[string]any{
		"type": "sni_proxy", "local_dc": s.datacenter, "contact_points": points, "sni_proxy_address": RouterName + ":" + port,
	}})
}

func (s *Service) route(wg *sync.WaitGroup, conf *tls.Config) {
	for {
		nc, err := s.router.Accept()
		if err != nil {
			return
		}
		wg.Go(func() { s.lead(tls.Server(nc, conf)) })
	}
}

// lead copies between a client and the node of its server name.
func (s *Service) lead(client *tls.Conn) {
	defer func() { _ = client.Close() }()
	_ = client.SetDeadline(time.Now().Add(10 * time.Second))
	if client.Handshake() != nil {
		return
	}
	_ = client.SetDeadline(time.Time{})
	name := client.ConnectionState().ServerName
	s.mu.Lock()
	addr := s.nodes[name]
	s.routed[name]++
	s.mu.Unlock()
	if addr == "" {
		return // as the real one: no such node, no word
	}
	node, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer node.Close()
	if !s.hold(client, node) {
		return
	}
	var wg sync.WaitGroup
	for _, pair := range [][2]net.Conn{{client, node}, {node, client}} {
		wg.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			_ = client.Close()
			_ = node.Close()
		})
	}
	wg.Wait()
	s.mu.Lock()
	delete(s.conns, client)
	delete(s.conns, node)
	s.mu.Unlock()
}

// hold lets the test's end close connections.
func (s *Service) hold(conns ...net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range conns {
		s.conns[c] = struct{}{}
	}
	return !s.ended
}
