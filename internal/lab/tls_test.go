package lab_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"

	"github.com/zdmproject/terraform-provider-zdm/internal/certtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/cassandra"
	"github.com/zdmproject/terraform-provider-zdm/proxy"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// secureNode runs a Cassandra 5.0 that demands TLS with client certificates,
// until the test ends. It returns its address.
func secureNode(t *testing.T, ca *certtest.Authority) string {
	t.Helper()
	java, err := cassandra.FindJava()
	if err != nil {
		skipOrFail(t, err)
	}
	version, err := cassandra.ParseVersion("5.0.4")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "zdm-lab")
	if err := cassandra.Available(cache, version); err != nil {
		skipOrFail(t, err)
	}
	jars, err := cassandra.Jars(t.Context(), cache, java, version, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.73.%d.%d", 100+rand.N(100), 1+rand.N(200))
	own := ca.Issue(t, addr)
	dir := t.TempDir()
	both := filepath.Join(dir, "node.pem")
	certtest.Write(t, both, append(append(append([]byte{}, own.KeyPEM...), own.CertPEM...), ca.PEM...))
	c := cassandra.Config{Side: phase.Target, Version: version, Address: addr, Seeds: []string{addr}, Token: cassandra.Token(0, 1), Dir: dir,
		TLS: &cassandra.TLS{KeyAndCert: both, Authorities: ca.File}}
	if err := c.Write(); err != nil {
		t.Fatal(err)
	}
	args, err := c.JavaArgs(jars)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"tmp", "data"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := osexec.CommandContext(t.Context(), filepath.Join(java, "bin", "java"), args...) // killed when the test ends
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	text := func() string { b, _ := os.ReadFile(log.Name()); return string(b) }
	for deadline := time.Now().Add(3 * time.Minute); !strings.Contains(text(), "Created default superuser role"); {
		select {
		case <-ended:
			t.Fatalf("Cassandra ended:\n%s", tail(text()))
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("Cassandra is not up:\n%s", tail(text()))
		}
	}
	return addr
}

func skipOrFail(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skip(err)
}

func tail(text string) string { return text[max(0, len(text)-3000):] }

func TestTheProxySpeaksTLSWithARealCassandraAndARealDriver(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a Cassandra")
	}
	ca := certtest.NewAuthority(t, "lab")
	addr := secureNode(t, ca)
	own := ca.Issue(t, "127.0.0.1")
	// One node stands for both sides: what is tried here is the transport.
	values := map[string]string{"phase": "dual_write", "proxy_topology_addresses": "127.0.0.1", "proxy_listen_address": "127.0.0.1", "proxy_tls_require_client_auth": "true",
		"proxy_tls_ca_path": ca.File, "proxy_tls_cert_path": own.CertFile, "proxy_tls_key_path": own.KeyFile}
	for _, side := range phase.Sides {
		for name, v := range map[string]string{
			"contact_points": addr, "username": "cassandra", "password": "cassandra", "tls_verify_hostname": "true",
			"tls_server_ca_path": ca.File, "tls_client_cert_path": own.CertFile, "tls_client_key_path": own.KeyFile,
		} {
			values[side.String()+"_"+name] = v
		}
	}
	port := serveProxy(t, values)

	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		driver := gocql.NewCluster("127.0.0.1")
		driver.Port = port
		driver.Authenticator = gocql.PasswordAuthenticator{Username: "cassandra", Password: "cassandra"}
		driver.Timeout, driver.ConnectTimeout = 30*time.Second, 30*time.Second
		driver.SslOpts = &gocql.SslOptions{EnableHostVerification: true, Config: &tls.Config{
			RootCAs: ca.Pool, Certificates: []tls.Certificate{ca.Issue(t, "application").TLS}, MinVersion: version, MaxVersion: version,
		}}
		s, err := driver.CreateSession()
		if err != nil {
			t.Fatalf("%s: %v", tls.VersionName(version), err)
		}
		for _, q := range []string{
			"CREATE KEYSPACE IF NOT EXISTS ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
			"CREATE TABLE IF NOT EXISTS ks.t (k int PRIMARY KEY, v blob)",
		} {
			if err := s.Query(q).Exec(); err != nil {
				t.Fatalf("%s: %s: %v", tls.VersionName(version), q, err)
			}
		}
		big := make([]byte, 1<<20)
		for k := range 200 {
			if err := s.Query("INSERT INTO ks.t (k, v) VALUES (?, ?)", k, big[:k*k]).Exec(); err != nil {
				t.Fatalf("%s: row %d: %v", tls.VersionName(version), k, err)
			}
		}
		rows, bytes := 0, 0
		iter := s.Query("SELECT v FROM ks.t").PageSize(17).Iter()
		for v := []byte(nil); iter.Scan(&v); rows++ {
			bytes += len(v)
		}
		if err := iter.Close(); err != nil || rows != 200 || bytes != 199*200*399/6 {
			t.Errorf("%s: %d rows with %d bytes, %v; want 200 with %d", tls.VersionName(version), rows, bytes, err, 199*200*399/6)
		}
		s.Close()
	}
	// The node's side of it is told where it goes wrong.
	values["target_tls_client_cert_path"], values["target_tls_client_key_path"] = "", ""
	cfg, err := config.Parse(values)
	if err != nil {
		t.Fatal(err)
	}
	without, err := proxy.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := without.Prove(t.Context(), phase.TargetOnly); err == nil || !strings.Contains(err.Error(), "target_tls_client_cert_path") {
		t.Errorf("without a certificate: %v, want advice about target_tls_client_cert_path", err)
	}
}
