package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// problems are collected, so that an operator mends them in one go.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// settlePhase makes PHASE and ZDM's two words for it agree.
func (c *Config) settlePhase(p *problems) {
	if c.Phase == phase.None {
		if c.PrimaryCluster == phase.Target && c.ReadMode == DualAsyncOnSecondary {
			if c.given["shadow_reads"] && !c.ShadowReads {
				p.add("shadow_reads: false contradicts read_mode DUAL_ASYNC_ON_SECONDARY with primary_cluster TARGET; leave one of them out")
			}
			c.ShadowReads = true
		}
		return
	}
	for _, key := range []string{"primary_cluster", "read_mode"} {
		if c.given[key] {
			p.add("%s: cannot be given together with phase (%s); leave one of them out", key, c.Phase)
		}
	}
	rule := c.Phase.Rule()
	c.PrimaryCluster, c.ReadMode = rule.Primary, PrimaryOnly
	if rule.HasShadow && (!rule.ShadowOptional || c.ShadowReads) {
		c.ReadMode = DualAsyncOnSecondary
	}
}

// settleCredentials maps ZDM's switch onto ClientCredentials.
func (c *Config) settleCredentials(p *problems) {
	const old = "forward_client_credentials_to_origin"
	forward := c.accepted[old] == "true"
	switch {
	case !c.given["client_credentials"]:
		if forward {
			c.ClientCredentials = CredentialsOrigin
		}
	case forward != (c.ClientCredentials == CredentialsOrigin) && c.given[old]:
		p.add("%s: %t contradicts client_credentials %s; leave %s out", old, forward, c.ClientCredentials, old)
	}
}

func (c *Config) checkCluster(p *problems, side phase.Side, complete bool) {
	cl := &c.Clusters[side]
	key := func(name string) string { return side.String() + "_" + name }
	switch {
	case cl.SecureConnectBundle != "" && len(cl.ContactPoints) > 0:
		p.add("%s: cannot be given together with %s; leave one of them out", key("secure_connect_bundle_path"), key("contact_points"))
	case cl.SecureConnectBundle != "" && cl.LocalDatacenter != "":
		p.add("%s: comes from %s; leave it out", key("local_datacenter"), key("secure_connect_bundle_path"))
	case cl.SecureConnectBundle == "" && len(cl.ContactPoints) == 0 && !c.given[key("contact_points")]:
		p.add("%s: missing; give the addresses of one or more nodes of %s", key("contact_points"), side)
	}
	if !cl.AssignHosts && cl.LocalDatacenter != "" {
		p.add("%s: has no meaning with %s false; leave one of them out", key("local_datacenter"), key("enable_host_assignment"))
	}
	switch {
	case cl.Password.IsSet() && cl.PasswordFile != "":
		p.add("%s: cannot be given together with %s; leave one of them out", key("password_file"), key("password"))
	case cl.PasswordFile != "" && cl.Username == "":
		p.add("%s: missing while %s is given; give both or neither", key("username"), key("password_file"))
	case cl.Password.IsSet() && cl.Username == "":
		p.add("%s: missing while %s is given; give both or neither", key("username"), key("password"))
	case complete && !cl.Password.IsSet() && cl.PasswordFile == "" && cl.Username != "":
		p.add("%s: missing while %s is given; give both or neither", key("password"), key("username"))
	}
	c.checkClusterTLS(p, side, key)
}

// checkClusterTLS takes an authority alone, or all three files.
func (c *Config) checkClusterTLS(p *problems, side phase.Side, key func(string) string) {
	cl := &c.Clusters[side]
	ca, cert, pem := key("tls_server_ca_path"), key("tls_client_cert_path"), key("tls_client_key_path")
	if cl.SecureConnectBundle != "" {
		for _, name := range []string{ca, cert, pem, key("tls_verify_hostname")} {
			if c.given[name] && (name != key("tls_verify_hostname") || cl.VerifyHostname) {
				p.add("%s: comes from %s; leave it out", name, key("secure_connect_bundle_path"))
			}
		}
		return
	}
	checkPair(p, cert, cl.TLS.Cert, pem, cl.TLS.Key)
	switch {
	case cl.TLS.On() && cl.TLS.CA == "":
		p.add("%s: missing for TLS to %s; give the authority that signs the nodes' certificates", ca, side)
	case !cl.TLS.On() && cl.VerifyHostname:
		p.add("%s: has no meaning without TLS to %s; give %s, or leave it out", key("tls_verify_hostname"), side, ca)
	case cl.TLS.On() && !cl.VerifyHostname:
		c.warn("%s: false, so whoever has any certificate of the authorities in %s can pass for a node of %s; set it to true if the certificates are for the nodes' addresses or contact points",
			key("tls_verify_hostname"), ca, side)
	}
}

// checkListenTLS takes all three files or none.
func (c *Config) checkListenTLS(p *problems) {
	l := c.Listen
	if !l.TLS.On() {
		if l.RequireClientAuth {
			p.add("proxy_tls_require_client_auth: has no meaning without TLS to clients; give proxy_tls_ca_path, proxy_tls_cert_path and proxy_tls_key_path, or leave it out")
		}
		return
	}
	for _, f := range []struct{ key, path string }{{"proxy_tls_ca_path", l.TLS.CA}, {"proxy_tls_cert_path", l.TLS.Cert}, {"proxy_tls_key_path", l.TLS.Key}} {
		if f.path == "" {
			p.add("%s: missing for TLS to clients; give proxy_tls_ca_path, proxy_tls_cert_path and proxy_tls_key_path, or none of them", f.key)
		}
	}
}

func checkPair(p *problems, certKey, cert, keyKey, key string) {
	switch {
	case cert != "" && key == "":
		p.add("%s: missing while %s is given; give both or neither", keyKey, certKey)
	case cert == "" && key != "":
		p.add("%s: missing while %s is given; give both or neither", certKey, keyKey)
	}
}

// settleTopology fills in the address of a proxy that stands alone.
func (c *Config) settleTopology(p *problems) {
	t := &c.Topology
	if len(t.Addresses) == 0 {
		if c.given["proxy_topology_addresses"] {
			return // told already
		}
		t.Addresses = []netip.Addr{c.ownAddress()}
	}
	seen := map[netip.Addr]bool{}
	for _, addr := range t.Addresses {
		if seen[addr] {
			p.add("proxy_topology_addresses: %s is listed twice; list each proxy once, in the same order on all", addr)
		}
		seen[addr] = true
	}
	if n := len(t.Addresses); t.Index >= n {
		p.add("proxy_topology_index: %d is not below the number of addresses, %d; count from 0 in proxy_topology_addresses", t.Index, n)
	}
}

// ownAddress is what drivers are told of a proxy without a topology.
func (c *Config) ownAddress() netip.Addr {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	addr, err := netip.ParseAddr(c.Listen.Address)
	switch {
	case err == nil && !addr.IsUnspecified():
		return addr
	case strings.EqualFold(c.Listen.Address, "localhost"):
	default:
		c.warn("proxy_topology_addresses: not given, and proxy_listen_address %s is no address that drivers could use, so they are told %s; list the proxies' addresses",
			c.Listen.Address, loopback)
	}
	return loopback
}

func (c *Config) checkRest(p *problems) {
	if h := c.Heartbeat; h.RetryMin > h.RetryMax {
		p.add("heartbeat_retry_interval_min_ms: %d is above heartbeat_retry_interval_max_ms, %d; lower it", h.RetryMin.Milliseconds(), h.RetryMax.Milliseconds())
	}
	if l, m := c.Listen, c.Metrics; m.Enabled && l.Port != 0 && l.Port == m.Port && l.Address == m.Address {
		p.add("metrics_port: %d is also proxy_listen_port; choose another", m.Port)
	}
	c.checkListenTLS(p)
	if c.Phase == phase.OriginOnly && c.ClientCredentials == CredentialsTarget {
		c.warn("client_credentials: target, so clients have to log in to Target in phase origin_only too; set it to origin if Target does not exist yet")
	}
	if u := &c.Upstream; u.MaxConnections < u.Connections {
		if c.given["upstream_max_connections_per_node"] {
			p.add("upstream_max_connections_per_node: %d is below upstream_connections_per_node, %d; raise it", u.MaxConnections, u.Connections)
		}
		u.MaxConnections = u.Connections
	}
	if c.MaxProtocolVersion == Version2 {
		p.add("control_conn_max_protocol_version: 2 is below 3; give 3 or above")
	}
	if len(c.BlockedVersions) > 0 && !slices.ContainsFunc(versionsServed, func(v ProtocolVersion) bool { return !slices.Contains(c.BlockedVersions, v) }) {
		p.add("blocked_protocol_versions: leaves clients no version; leave out at least one of 3, 4, 5, DseV1 and DseV2")
	}
}
