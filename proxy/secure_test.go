package proxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/internal/certtest"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// everyAddress is in the certificates of fake nodes, whose addresses the
// harness chooses.
const everyAddress = "node.test"

func nodeTLS(t *testing.T, ca *certtest.Authority) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, everyAddress).TLS}}
}

// listenTLS are the settings of TLS to clients.
func listenTLS(ca *certtest.Authority, p *certtest.Pair, more ...string) map[string]string {
	values := map[string]string{"proxy_tls_ca_path": ca.File, "proxy_tls_cert_path": p.CertFile, "proxy_tls_key_path": p.KeyFile}
	for i := 0; i < len(more); i += 2 {
		values[more[i]] = more[i+1]
	}
	return values
}

func TestRequestsTravelOverTLSOnAllThreeLegs(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "all")
	mutual := nodeTLS(t, ca)
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool
	own := ca.Issue(t, "127.0.0.1")
	w := start(t, phase.DualWrite, cqltest.Options{TLS: nodeTLS(t, ca)}, cqltest.Options{TLS: mutual}, listenTLS(ca, own,
		"origin_tls_server_ca_path", ca.File,
		"target_tls_server_ca_path", ca.File, "target_tls_client_cert_path", own.CertFile, "target_tls_client_key_path", own.KeyFile,
		"proxy_tls_require_client_auth", "true"))
	answerRows(w.origin, "origin")
	client := ca.Issue(t, "client").TLS
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		conf := &tls.Config{RootCAs: ca.Pool, ServerName: "127.0.0.1", Certificates: []tls.Certificate{client}, MinVersion: version, MaxVersion: version}
		c := cqltest.Dial(t, w.addr, cqltest.Login{TLS: conf})
		mustVoid(t, c.Query(t, insert))
		if got := who(t, c.Query(t, "SELECT * FROM t")); got != "origin" {
			t.Errorf("%s: the read was answered by %q, want origin", tls.VersionName(version), got)
		}
		big := strings.Repeat("x", 1<<20) // many TLS records each way
		mustVoid(t, c.Query(t, "INSERT INTO t (k) VALUES ('"+big+"')"))
	}
	for _, side := range phase.Sides {
		if got := len(w.seen(side)); got < 4 {
			t.Errorf("%s saw %d requests, want both writes of both clients", side, got)
		}
	}
	// Without a certificate, and without TLS at all, there is no client.
	if _, err := cqltest.Connect(t, w.addr, cqltest.Login{TLS: &tls.Config{RootCAs: ca.Pool, ServerName: "127.0.0.1"}}); err == nil {
		t.Error("a client without a certificate was served")
	}
	if _, err := cqltest.Connect(t, w.addr, cqltest.Login{}); err == nil {
		t.Error("a plain client was served")
	}
	var told []string
	eventually(t, "the status tells of both refused clients", func() bool {
		told = nil
		for _, f := range w.srv.Status().Errors {
			told = append(told, f.Text)
		}
		return len(told) == 2
	})
	all := strings.Join(told, "\n")
	for _, want := range []string{"proxy_tls_require_client_auth", "the client speaks plain CQL"} {
		if !strings.Contains(all, want) {
			t.Errorf("the faults do not tell of %q:\n%s", want, all)
		}
	}
}

// reason is what a side's control connection says when it cannot connect.
func reason(t *testing.T, settings map[string]string, origin cqltest.Options, side phase.Side, want string) {
	t.Helper()
	origin.Addr = "127.0.0.1:0"
	o, target := cqltest.Start(t, origin), cqltest.Start(t, cqltest.Options{})
	values := map[string]string{
		"origin_contact_points": "127.0.0.1", "origin_port": port(o), "target_contact_points": "127.0.0.1", "target_port": port(target),
		"heartbeat_retry_interval_min_ms": "20", "heartbeat_retry_interval_max_ms": "50", "proxy_topology_addresses": "127.0.0.1",
	}
	for k, v := range settings {
		values[k] = v
	}
	srv := serve(t, values)
	if err := srv.SetPhase(phase.OriginOnly, 1); err != nil {
		t.Fatal(err)
	}
	last := ""
	defer func() {
		if t.Failed() {
			t.Logf("the last error is %q", last)
		}
	}()
	eventually(t, "the status says "+want, func() bool {
		st := srv.Status()
		last = [2]control.Cluster{st.Origin, st.Target}[side].LastError
		return strings.Contains(last, want)
	})
}

func port(n *cqltest.Node) string {
	_, p, _ := net.SplitHostPort(n.Addr().String())
	return p
}

func TestANodeThatIsNotTrustedIsToldWithWhatToDo(t *testing.T) {
	t.Parallel()
	ca, stranger := certtest.NewAuthority(t, "nodes"), certtest.NewAuthority(t, "stranger")
	demanding := nodeTLS(t, ca)
	demanding.ClientAuth, demanding.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool
	for _, test := range []struct {
		name string
		node *tls.Config
		more map[string]string
		want string
	}{
		{"another authority", nodeTLS(t, stranger), nil, "in origin_tls_server_ca_path"},
		{"another name", nodeTLS(t, ca), map[string]string{"origin_tls_verify_hostname": "true"}, "set origin_tls_verify_hostname to false"},
		{"no certificate for a node that wants one", demanding, nil, "origin_tls_client_cert_path"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			settings := map[string]string{"origin_tls_server_ca_path": ca.File}
			for k, v := range test.more {
				settings[k] = v
			}
			reason(t, settings, cqltest.Options{TLS: test.node}, phase.Origin, test.want)
		})
	}
}

func TestEveryBadTLSFileIsToldBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	cfg, err := config.Parse(map[string]string{
		"origin_contact_points": "127.0.0.1", "target_secure_connect_bundle_path": "/none.zip",
		"origin_tls_server_ca_path": "/none/ca", "proxy_tls_ca_path": "/none/ca", "proxy_tls_cert_path": "/none/cert", "proxy_tls_key_path": "/none/key",
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = proxy.New(cfg, slog.New(slog.DiscardHandler))
	var e *config.Error
	if !errors.As(err, &e) {
		t.Fatalf("New: %v, want a *config.Error", err)
	}
	const advice = ": no such file or directory; give a PEM file that the proxy may read"
	want := []string{
		"origin_tls_server_ca_path: open /none/ca" + advice,
		"target_secure_connect_bundle_path: open /none.zip: no such file or directory; give the path of a bundle that the proxy may read",
		"proxy_tls_ca_path: open /none/ca" + advice, "proxy_tls_cert_path: open /none/cert" + advice, "proxy_tls_key_path: open /none/key" + advice,
	}
	if diff := cmp.Diff(want, e.Problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestANewCertificateIsShownToNewClients(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	first, second := ca.Issue(t, "first.test"), ca.Issue(t, "second.test")
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, listenTLS(ca, first))
	old := cqltest.Dial(t, w.addr, cqltest.Login{TLS: &tls.Config{RootCAs: ca.Pool, ServerName: "first.test"}})
	certtest.Write(t, first.CertFile, second.CertPEM)
	certtest.Write(t, first.KeyFile, second.KeyPEM)
	eventually(t, "the new certificate is shown", func() bool {
		nc, err := tls.Dial("tcp", w.addr, &tls.Config{RootCAs: ca.Pool, ServerName: "second.test"})
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	mustVoid(t, old.Query(t, insert))
}

func TestTLSClientsAreServedWhileOthersMoveAndClosedBetweenAnswers(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	conf := &tls.Config{RootCAs: ca.Pool, ServerName: "proxy.test"}
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, listenTLS(ca, ca.Issue(t, "proxy.test"), "proxy_request_timeout_ms", "5000"))
	next := successor(t, w, phase.DualWrite)
	leaves, stays := cqltest.Dial(t, w.addr, cqltest.Login{TLS: conf}), cqltest.Dial(t, w.addr, cqltest.Login{TLS: conf})
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- w.srv.Drain(ctx, moveInto(t, next)) }()
	eventually(t, "the proxy drains", func() bool {
		_, err := net.DialTimeout("tcp", w.addr, time.Second)
		return err != nil
	})
	mustVoid(t, leaves.Query(t, insert))
	leaves.Close()
	served := 0
	for {
		a := stays.Send(&message.Query{Query: insert})
		answer := <-a
		if answer.Err != nil {
			break // between two requests, or the last one was not read
		}
		mustVoid(t, answer.Message())
		served++
	}
	if err := <-ended; err != nil {
		t.Errorf("Drain: %v", err)
	}
	if took := time.Since(began); took < 2*time.Second || served < 100 {
		t.Errorf("the client was served %d times in %v, want it served until the time of a request before the end of 12 s", served, took)
	}
	if n := next.Status().Clients; n != 0 {
		t.Errorf("the successor has %d clients, want none", n)
	}
}

func TestAPlainClientDoesNotMoveWhereTLSIsDemanded(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	w := start(t, phase.DualWrite, cqltest.Options{}, cqltest.Options{}, nil)
	for k, v := range listenTLS(ca, ca.Issue(t, "proxy.test")) {
		w.values[k] = v
	}
	next := successor(t, w, phase.DualWrite)
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	err := next.Adopt(t.Context(), control.Message{Session: &control.Session{Version: 4}}, there)
	if err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("Adopt: %v, want a refusal", err)
	}
}
