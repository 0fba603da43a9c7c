package lab_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy"
	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// serveProxy runs a proxy with the given settings in phase dual_write on a free
// port of 127.0.0.1, until the test ends. It returns the port.
func serveProxy(t *testing.T, values map[string]string) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	values["proxy_listen_port"] = fmt.Sprint(port)
	cfg, err := config.Parse(values)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := proxy.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() { _ = srv.Serve(ctx); close(served) }()
	t.Cleanup(func() { cancel(); <-served })
	if err := srv.SetPhase(phase.DualWrite, 1); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); len(srv.NotReady()) > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %q", srv.NotReady())
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := srv.Accept(listener); err != nil {
		t.Fatal(err)
	}
	return port
}
