package proxy_test

import (
	"net"
	"strings"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/astratest"
	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

func TestTheNodesBehindABundleAreReachedByHostID(t *testing.T) {
	t.Parallel()
	service := astratest.Start(t, "dc1")
	auth := cqltest.Options{Username: "token", Password: "AstraCS:x"}
	target := cqltest.StartCluster(t, "127.73.9.1", 3, auth)
	var ids []string
	for _, n := range target.Nodes {
		id := n.HostID()
		ids = append(ids, id)
		service.Add(id, n.Addr().String())
	}
	origin := cqltest.Start(t, cqltest.Options{Username: "u", Password: "p", Addr: "127.73.8.1:0"})
	values := map[string]string{
		"origin_contact_points": origin.Host(), "origin_port": port(origin), "origin_username": "u", "origin_password": "p",
		"target_secure_connect_bundle_path": service.Bundle, "target_username": "token", "target_password": "AstraCS:x",
		"upstream_connections_per_node": "1", "proxy_topology_addresses": "127.0.0.1",
		"heartbeat_retry_interval_min_ms": "20", "heartbeat_retry_interval_max_ms": "50",
	}
	srv := serve(t, values)
	if err := srv.SetPhase(phase.DualWrite, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the proxy is ready", func() bool { return len(srv.NotReady()) == 0 })
	st := srv.Status().Target
	if st.Nodes != 3 || st.NodesUp != 3 || st.Datacenter != "dc1" || st.Node != ids[0] {
		t.Errorf("status of target: %+v; want 3 nodes of dc1, and the contact point's host id", st)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Accept(l); err != nil {
		t.Fatal(err)
	}
	c := cqltest.Dial(t, l.Addr().String(), cqltest.Login{Username: "token", Password: "AstraCS:x"})
	eventually(t, "every node gets writes", func() bool {
		mustVoid(t, c.Query(t, insert))
		for _, n := range target.Nodes {
			if len(n.Requests(func(r cqltest.Request) bool { return r.Text == insert })) == 0 {
				return false
			}
		}
		return true
	})
	for _, id := range ids {
		if service.Routed(id) == 0 {
			t.Errorf("no connection was led to %s", id)
		}
	}
	// A new bundle, and the loss of every connection: it goes on.
	service.Renew(t)
	for _, n := range target.Nodes {
		n.DropConnections()
	}
	eventually(t, "the proxy writes again", func() bool {
		_, failed := c.Query(t, insert).(interface{ GetErrorCode() primitive.ErrorCode })
		return !failed && srv.Status().Target.Connected
	})
	if err := srv.Prove(t.Context(), phase.DualRead); err != nil {
		t.Errorf("Prove: %v", err)
	}
}

func TestADatabaseThatSleepsIsToldAndReachedWhenItWakes(t *testing.T) {
	t.Parallel()
	service := astratest.Start(t, "dc1")
	node := cqltest.Start(t, cqltest.Options{Addr: "127.73.7.1:0"})
	service.Add(node.HostID(), node.Addr().String())
	service.Hibernate(true)
	srv := serve(t, map[string]string{
		"origin_secure_connect_bundle_path": service.Bundle, "target_contact_points": "127.73.7.2", "proxy_topology_addresses": "127.0.0.1",
		"heartbeat_retry_interval_min_ms": "20", "heartbeat_retry_interval_max_ms": "50",
	})
	if err := srv.SetPhase(phase.OriginOnly, 1); err != nil {
		t.Fatal(err)
	}
	last := ""
	eventually(t, "the status says what to do", func() bool {
		last = srv.Status().Origin.LastError
		return last != ""
	})
	for _, want := range []string{"metadata service", "503", "resume the database", "origin_secure_connect_bundle_path"} {
		if !strings.Contains(last, want) {
			t.Errorf("the last error does not have %q: %s", want, last)
		}
	}
	service.Hibernate(false)
	eventually(t, "the proxy is ready", func() bool { return len(srv.NotReady()) == 0 })
}
