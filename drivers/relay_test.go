package drivers_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"

	"github.com/zdmproject/terraform-provider-zdm/internal/faultconn"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/cassandra"
)

// freeHosts returns addresses whose CQL port nobody listens on. Drivers want
// one port for all, so that each proxy needs an address.
func freeHosts(t *testing.T, n int) []string {
	t.Helper()
	for range 20 {
		var hosts []string
		for i := range n {
			hosts = append(hosts, fmt.Sprintf("127.%d.%d.%d", 100+rand.N(20), rand.N(256), 1+i))
		}
		if allFree(hosts) {
			return hosts
		}
	}
	t.Fatal("no free addresses in 127.100.0.0 to 127.119.255.255")
	return nil
}

func allFree(hosts []string) bool {
	for _, h := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(h, strconv.Itoa(cassandra.NativePort)))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// addRelay makes host the way to a proxy.
func (r *ring) addRelay(t *testing.T, host, proxy string) {
	t.Helper()
	port := strconv.Itoa(cassandra.NativePort)
	r.relays = append(r.relays, faultconn.Listen(t, net.JoinHostPort(host, port), net.JoinHostPort(proxy, port)))
	r.addresses = append(r.addresses, host)
}
