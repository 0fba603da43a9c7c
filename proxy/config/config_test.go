package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// minimal is the least that Parse accepts, with changes; a change to "-" takes
// the key out.
func minimal(changes ...string) map[string]string {
	values := map[string]string{
		"origin_contact_points": "10.0.0.1", "origin_username": "o", "origin_password": "origin-pw",
		"target_contact_points": "10.0.0.2", "target_username": "t", "target_password": "target-pw",
	}
	for i := 0; i < len(changes); i += 2 {
		values[changes[i]] = changes[i+1]
		if changes[i+1] == "-" {
			delete(values, changes[i])
		}
	}
	return values
}

func mustParse(t *testing.T, values map[string]string) *Config {
	t.Helper()
	c, err := Parse(values)
	if err != nil {
		t.Fatalf("Parse(%v): %v", values, err)
	}
	return c
}

// problemsOf parses and returns the problems, nil for none.
func problemsOf(t *testing.T, values map[string]string) []string {
	t.Helper()
	_, err := Parse(values)
	if err == nil {
		return nil
	}
	e, ok := err.(*Error)
	if !ok {
		t.Fatalf("Parse(%v): error is %T, want *Error", values, err)
	}
	return e.Problems
}

func TestDefaultsAreThoseOfZDM(t *testing.T) {
	t.Parallel()
	c := mustParse(t, minimal())
	ms := func(ns ...int) (out []time.Duration) {
		for _, n := range ns {
			out = append(out, time.Duration(n)*time.Millisecond)
		}
		return out
	}
	buckets := ms(1, 4, 7, 10, 25, 40, 60, 80, 100, 150, 250, 500, 1000, 2500, 5000, 10000, 15000)
	checks := []struct {
		name      string
		got, want any
	}{
		{"PrimaryCluster", c.PrimaryCluster, phase.Origin},
		{"ReadMode", c.ReadMode, PrimaryOnly},
		{"InitialPhase", c.InitialPhase(), phase.DualWrite},
		{"LogLevel", c.LogLevel, slog.LevelInfo},
		{"MaxProtocolVersion", c.MaxProtocolVersion, VersionDSE2},
		{"Listen", c.Listen, Listen{Address: "localhost", Port: 14002, RequestTimeout: 10 * time.Second, MaxClients: 1000, MaxStreamIDs: 2048, MaxPrepared: 50_000,
			LoginTimeout: 30 * time.Second, FrameTimeout: time.Minute, MaxClientBytes: 32 << 20}},
		{"Metrics", c.Metrics, Metrics{Enabled: true, Address: "localhost", Port: 14001, Prefix: "zdm", OriginBuckets: buckets, TargetBuckets: buckets, AsyncBuckets: buckets}},
		{"Heartbeat", c.Heartbeat, Heartbeat{Interval: 30 * time.Second, RetryMin: 250 * time.Millisecond, RetryMax: 30 * time.Second, Factor: 2, FailureThreshold: 1}},
		{"Origin", c.Clusters[phase.Origin], Cluster{ContactPoints: []string{"10.0.0.1"}, Port: 9042, Username: "o", Password: secret.New("origin-pw"), ConnectTimeout: 30 * time.Second, AssignHosts: true}},
		{"Target", c.Clusters[phase.Target], Cluster{ContactPoints: []string{"10.0.0.2"}, Port: 9042, Username: "t", Password: secret.New("target-pw"), ConnectTimeout: 30 * time.Second, AssignHosts: true}},
		{"Topology.NumTokens", c.Topology.NumTokens, 8},
		{"Topology.Addresses", c.Topology.Addresses, []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
		{"ClientCredentials", c.ClientCredentials, CredentialsTarget},
		{"SystemQueriesMode", c.SystemQueriesMode, phase.Origin},
		{"Upstream", c.Upstream, Upstream{Connections: 2, MaxConnections: 8, MaxPools: 1000}},
		{"Warnings", len(c.Warnings()), 0},
	}
	for _, check := range checks {
		if diff := cmp.Diff(check.want, check.got, cmp.Comparer(secret.String.Equal), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s differs from want (-want +got):\n%s", check.name, diff)
		}
	}
}

func TestParseTellsWhatIsWrongAndWhatToDo(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		changes []string
		want    []string
	}{
		{"port too high", []string{"origin_port", "70000"}, []string{"origin_port: 70000 is above 65535; give a TCP port"}},
		{"port not a number", []string{"target_port", "cql"}, []string{`target_port: "cql" is not a whole number; give a TCP port`}},
		{"port below", []string{"target_port", "0"}, []string{"target_port: 0 is below 1; give a TCP port"}},
		{"number below where ZDM has no -1", []string{"proxy_max_stream_ids", "-1"}, []string{"proxy_max_stream_ids: -1 is below 1; give a number from 1 to 32768"}},
		{"time-out zero", []string{"proxy_request_timeout_ms", "0"}, []string{"proxy_request_timeout_ms: 0 is below 1; give milliseconds, from 1 to a day"}},
		{"switch", []string{"metrics_enabled", "perhaps"}, []string{`metrics_enabled: "perhaps" is not a switch; give true or false`}},
		{"word", []string{"primary_cluster", "both"}, []string{`primary_cluster: "both" is not known; give one of ORIGIN, TARGET`}},
		{"level", []string{"log_level", "loud"}, []string{`log_level: "loud" is not known; give one of PANIC, FATAL, ERROR, WARN, INFO, DEBUG, TRACE`}},
		{"version", []string{"blocked_protocol_versions", "v4, v9"}, []string{`blocked_protocol_versions: "v9" is not known; give some of 2, 3, 4, 5, DseV1, DseV2`}},
		{"all versions blocked", []string{"blocked_protocol_versions", "3,4,5,DseV1,DseV2"}, []string{"blocked_protocol_versions: leaves clients no version; leave out at least one of 3, 4, 5, DseV1 and DseV2"}},
		{"version 2 only", []string{"control_conn_max_protocol_version", "2"}, []string{"control_conn_max_protocol_version: 2 is below 3; give 3 or above"}},
		{"factor", []string{"heartbeat_retry_backoff_factor", "0.5"}, []string{"heartbeat_retry_backoff_factor: 0.5 is below 1; give a number from 1 to 100"}},
		{"factor not a number", []string{"heartbeat_retry_backoff_factor", "NaN"}, []string{`heartbeat_retry_backoff_factor: "NaN" is not a number; give a number from 1 to 100`}},
		{"buckets unsorted", []string{"metrics_origin_latency_buckets_ms", "1, 5, 4"}, []string{"metrics_origin_latency_buckets_ms: the latencies do not rise at entry 3; sort them, each once"}},
		{"bucket", []string{"metrics_target_latency_buckets_ms", "1, x"}, []string{`metrics_target_latency_buckets_ms: "x" is not a latency; give milliseconds above 0`}},
		{"no entry", []string{"origin_contact_points", ", ,"}, []string{`origin_contact_points: ", ," holds no entry; give at least one, separated by commas`}},
		{"port in a contact point", []string{"origin_contact_points", "10.0.0.1:9042"}, []string{`origin_contact_points: "10.0.0.1:9042" is not a host; give host names or addresses without a port, which has its own setting`}},
		{"no contact points", []string{"target_contact_points", "-"}, []string{"target_contact_points: missing; give the addresses of one or more nodes of target"}},
		{"password alone", []string{"origin_username", "-"}, []string{"origin_username: missing while origin_password is given; give both or neither"}},
		{"user alone", []string{"origin_password", "-"}, []string{"origin_password: missing while origin_username is given; give both or neither"}},
		{"password twice", []string{"origin_password_file", "/pw"}, []string{"origin_password_file: cannot be given together with origin_password; leave one of them out"}},
		{"password file alone", []string{"origin_password_file", "/pw", "origin_password", "-", "origin_username", "-"}, []string{
			"origin_username: missing while origin_password_file is given; give both or neither"}},
		{"unknown key", []string{"origin_prot", "1"}, []string{"origin_prot: unknown setting; did you mean origin_port?"}},
		{"unknown key like none", []string{"colour", "1"}, []string{"colour: unknown setting; leave it out"}},
		{"key as the variable is called", []string{"ZDM_ORIGIN_PORT", "1"}, []string{"ZDM_ORIGIN_PORT: unknown setting; did you mean origin_port?"}},
		{"phase", []string{"phase", "dual"}, []string{`phase: "dual" is not known; give one of origin_only, dual_write, dual_read, cut_over, target_only`}},
		{"phase beside ZDM's words", []string{"phase", "dual_write", "read_mode", "PRIMARY_ONLY", "primary_cluster", "ORIGIN"}, []string{
			"primary_cluster: cannot be given together with phase (dual_write); leave one of them out",
			"read_mode: cannot be given together with phase (dual_write); leave one of them out"}},
		{"shadow reads against the read mode", []string{"shadow_reads", "false", "primary_cluster", "TARGET", "read_mode", "DUAL_ASYNC_ON_SECONDARY"}, []string{
			"shadow_reads: false contradicts read_mode DUAL_ASYNC_ON_SECONDARY with primary_cluster TARGET; leave one of them out"}},
		{"both words for credentials", []string{"client_credentials", "same", "forward_client_credentials_to_origin", "true"}, []string{
			"forward_client_credentials_to_origin: true contradicts client_credentials same; leave forward_client_credentials_to_origin out"}},
		{"topology index", []string{"proxy_topology_addresses", "10.0.0.7, 10.0.0.8", "proxy_topology_index", "2"}, []string{
			"proxy_topology_index: 2 is not below the number of addresses, 2; count from 0 in proxy_topology_addresses"}},
		{"topology address twice", []string{"proxy_topology_addresses", "10.0.0.7,10.0.0.7"}, []string{
			"proxy_topology_addresses: 10.0.0.7 is listed twice; list each proxy once, in the same order on all"}},
		{"topology host name", []string{"proxy_topology_addresses", "proxy-1"}, []string{
			`proxy_topology_addresses: "proxy-1" is not an IP address that a driver could use; give one for each proxy`}},
		{"bytes below", []string{"proxy_max_memory_bytes", "1000", "proxy_max_client_bytes", "0"}, []string{
			"proxy_max_client_bytes: 0 is below 65536; give bytes, from 65536 to 1099511627776",
			"proxy_max_memory_bytes: 1000 is below 1048576; give bytes, from 1048576 to 1099511627776, or 0"}},
		{"bytes in words", []string{"proxy_max_memory_bytes", "1GB"}, []string{
			`proxy_max_memory_bytes: "1GB" is not a whole number; give bytes, from 1048576 to 1099511627776, or 0`}},
		{"connections crossed", []string{"upstream_connections_per_node", "4", "upstream_max_connections_per_node", "3"}, []string{
			"upstream_max_connections_per_node: 3 is below upstream_connections_per_node, 4; raise it"}},
		{"back-off bounds crossed", []string{"heartbeat_retry_interval_min_ms", "500", "heartbeat_retry_interval_max_ms", "400"}, []string{
			"heartbeat_retry_interval_min_ms: 500 is above heartbeat_retry_interval_max_ms, 400; lower it"}},
		{"one port for two", []string{"metrics_port", "14002"}, []string{"metrics_port: 14002 is also proxy_listen_port; choose another"}},
		{"data centre without host assignment", []string{"target_local_datacenter", "dc1", "target_enable_host_assignment", "false"}, []string{
			"target_local_datacenter: has no meaning with target_enable_host_assignment false; leave one of them out"}},
		{"bundle beside contact points", []string{"target_secure_connect_bundle_path", "/b.zip"}, []string{
			"target_secure_connect_bundle_path: cannot be given together with target_contact_points; leave one of them out"}},
		{"bundle beside a data centre", []string{"target_secure_connect_bundle_path", "/b.zip", "target_contact_points", "-", "target_local_datacenter", "dc1"}, []string{
			"target_local_datacenter: comes from target_secure_connect_bundle_path; leave it out"}},
		{"bundle beside TLS files", []string{"target_secure_connect_bundle_path", "/b.zip", "target_contact_points", "-", "target_tls_server_ca_path", "/ca.pem", "target_tls_verify_hostname", "true"}, []string{
			"target_tls_server_ca_path: comes from target_secure_connect_bundle_path; leave it out",
			"target_tls_verify_hostname: comes from target_secure_connect_bundle_path; leave it out"}},
		{"certificate for a cluster without authority and key", []string{"origin_tls_client_cert_path", "/c.pem"}, []string{
			"origin_tls_client_key_path: missing while origin_tls_client_cert_path is given; give both or neither",
			"origin_tls_server_ca_path: missing for TLS to origin; give the authority that signs the nodes' certificates"}},
		{"key for a cluster without certificate", []string{"origin_tls_client_key_path", "/k.pem", "origin_tls_server_ca_path", "/ca.pem"}, []string{
			"origin_tls_client_cert_path: missing while origin_tls_client_key_path is given; give both or neither"}},
		{"host names without TLS", []string{"origin_tls_verify_hostname", "true"}, []string{
			"origin_tls_verify_hostname: has no meaning without TLS to origin; give origin_tls_server_ca_path, or leave it out"}},
		{"TLS to clients, a third", []string{"proxy_tls_cert_path", "/c.pem"}, []string{
			"proxy_tls_ca_path: missing for TLS to clients; give proxy_tls_ca_path, proxy_tls_cert_path and proxy_tls_key_path, or none of them",
			"proxy_tls_key_path: missing for TLS to clients; give proxy_tls_ca_path, proxy_tls_cert_path and proxy_tls_key_path, or none of them"}},
		{"client certificates without TLS", []string{"proxy_tls_require_client_auth", "true"}, []string{
			"proxy_tls_require_client_auth: has no meaning without TLS to clients; give proxy_tls_ca_path, proxy_tls_cert_path and proxy_tls_key_path, or leave it out"}},
		{"all functions without now()", []string{"replace_all_cql_functions", "true"}, []string{
			"replace_all_cql_functions: has no meaning without replace_cql_functions; set that to true as well, or leave this out"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			values := minimal(test.changes...)
			if diff := cmp.Diff(test.want, problemsOf(t, values)); diff != "" {
				t.Errorf("problems of %v (-want +got):\n%s", values, diff)
			}
		})
	}
}

func TestParseTellsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	_, err := Parse(map[string]string{"origin_port": "0", "log_format": "xml", "colour": "red"})
	want := `configuration: 5 problems:
  colour: unknown setting; leave it out
  log_format: "xml" is not known; give one of text, json
  origin_port: 0 is below 1; give a TCP port
  origin_contact_points: missing; give the addresses of one or more nodes of origin
  target_contact_points: missing; give the addresses of one or more nodes of target`
	if err == nil || err.Error() != want {
		t.Errorf("error is\n%v\nwant\n%s", err, want)
	}
}

func TestPhaseOfAStandaloneProxy(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		changes []string
		want    phase.Phase
		shadow  bool
		primary phase.Side
		mode    ReadMode
	}{
		{nil, phase.DualWrite, false, phase.Origin, PrimaryOnly},
		{[]string{"read_mode", "dual_async_on_secondary"}, phase.DualRead, false, phase.Origin, DualAsyncOnSecondary},
		{[]string{"primary_cluster", "target"}, phase.CutOver, false, phase.Target, PrimaryOnly},
		{[]string{"primary_cluster", "TARGET", "read_mode", "DUAL_ASYNC_ON_SECONDARY"}, phase.CutOver, true, phase.Target, DualAsyncOnSecondary},
		{[]string{"phase", "origin_only"}, phase.OriginOnly, false, phase.Origin, PrimaryOnly},
		{[]string{"phase", "DUAL_READ"}, phase.DualRead, false, phase.Origin, DualAsyncOnSecondary},
		{[]string{"phase", "cut_over", "shadow_reads", "true"}, phase.CutOver, true, phase.Target, DualAsyncOnSecondary},
		{[]string{"phase", "target_only"}, phase.TargetOnly, false, phase.Target, PrimaryOnly},
	} {
		c := mustParse(t, minimal(test.changes...))
		if c.InitialPhase() != test.want || c.ShadowReads != test.shadow || c.PrimaryCluster != test.primary || c.ReadMode != test.mode {
			t.Errorf("%v: phase %s shadow %t primary %s mode %d, want %s %t %s %d", test.changes,
				c.InitialPhase(), c.ShadowReads, c.PrimaryCluster, c.ReadMode, test.want, test.shadow, test.primary, test.mode)
		}
	}
}

func TestZDMHabitsAreRead(t *testing.T) {
	t.Parallel()
	c := mustParse(t, minimal("read_max_workers", "-1", "origin_port", "", "log_level", " warning ", "target_contact_points", " a ,b ,, ::1 ",
		"metrics_origin_latency_buckets_ms", " 0.5 , 2 ", "blocked_protocol_versions", "V5, dse_v1,DSEV2", "client_credentials", "-", "forward_client_credentials_to_origin", "T"))
	if c.Clusters[phase.Origin].Port != 9042 {
		t.Errorf("an empty origin_port gave %d, want the default 9042", c.Clusters[phase.Origin].Port)
	}
	if c.LogLevel != slog.LevelWarn {
		t.Errorf("log level is %v, want WARN", c.LogLevel)
	}
	if diff := cmp.Diff([]string{"a", "b", "::1"}, c.Clusters[phase.Target].ContactPoints); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]time.Duration{500 * time.Microsecond, 2 * time.Millisecond}, c.Metrics.OriginBuckets); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]ProtocolVersion{Version5, VersionDSE1, VersionDSE2}, c.BlockedVersions); diff != "" {
		t.Error(diff)
	}
	if c.ClientCredentials != CredentialsOrigin {
		t.Errorf("forward_client_credentials_to_origin gave %v, want origin", c.ClientCredentials)
	}
}

func TestPasswordsKeepTheirWhiteSpace(t *testing.T) {
	t.Parallel()
	c := mustParse(t, minimal("origin_password", " two words "))
	if got := c.Clusters[phase.Origin].Password.Reveal(); got != " two words " {
		t.Errorf("password is %q, want %q", got, " two words ")
	}
}

func TestSettingsWithoutEffectAreWarnedOf(t *testing.T) {
	t.Parallel()
	c := mustParse(t, minimal("read_max_workers", "8", "write_max_workers", "-1", "proxy_listen_address", "0.0.0.0"))
	want := []string{
		"read_max_workers: accepted, and has no effect in this version",
		"proxy_topology_addresses: not given, and proxy_listen_address 0.0.0.0 is no address that drivers could use, so they are told 127.0.0.1; list the proxies' addresses",
	}
	if diff := cmp.Diff(want, c.Warnings()); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestAProxyAloneShowsItsListenAddress(t *testing.T) {
	t.Parallel()
	c := mustParse(t, minimal("proxy_listen_address", "10.9.8.7"))
	if got := fmt.Sprint(c.Topology.Addresses); got != "[10.9.8.7]" {
		t.Errorf("topology is %s, want [10.9.8.7]", got)
	}
}

func TestEveryWholeSetOfTLSFilesIsTaken(t *testing.T) {
	t.Parallel()
	for _, changes := range [][]string{
		{"origin_tls_server_ca_path", "/ca.pem", "origin_tls_verify_hostname", "true"},
		{"origin_tls_server_ca_path", "/ca.pem", "origin_tls_client_cert_path", "/c.pem", "origin_tls_client_key_path", "/k.pem", "origin_tls_verify_hostname", "true"},
		{"proxy_tls_ca_path", "/ca.pem", "proxy_tls_cert_path", "/c.pem", "proxy_tls_key_path", "/k.pem"},
		{"proxy_tls_ca_path", "/ca.pem", "proxy_tls_cert_path", "/c.pem", "proxy_tls_key_path", "/k.pem", "proxy_tls_require_client_auth", "true"},
		{"target_contact_points", "-", "target_secure_connect_bundle_path", "/b.zip"},
	} {
		if c := mustParse(t, minimal(changes...)); len(c.Warnings()) != 0 {
			t.Errorf("%v: warnings %q, want none", changes, c.Warnings())
		}
	}
}

func TestTLSWithoutHostNamesIsWarnedOf(t *testing.T) {
	t.Parallel()
	c := mustParse(t, minimal("target_tls_server_ca_path", "/ca.pem"))
	want := []string{"target_tls_verify_hostname: false, so whoever has any certificate of the authorities in target_tls_server_ca_path can pass for a node of target; " +
		"set it to true if the certificates are for the nodes' addresses or contact points"}
	if diff := cmp.Diff(want, c.Warnings()); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestPasswordsAreReadFromFiles(t *testing.T) {
	t.Parallel()
	files := map[string]string{"/lf": "two words \n", "/crlf": "x\r\n", "/empty": "\n"}
	read := func(path string) ([]byte, error) {
		text, ok := files[path]
		if !ok {
			return nil, fmt.Errorf("open %s: no such file", path)
		}
		return []byte(text), nil
	}
	from := func(origin, target string) (*Config, error) {
		c := mustParse(t, minimal("origin_password", "-", "origin_password_file", origin, "target_password", "-", "target_password_file", target))
		return c, c.ReadSecretFiles(read)
	}
	c, err := from("/lf", "/crlf")
	if err != nil || c.Clusters[phase.Origin].Password.Reveal() != "two words " || c.Clusters[phase.Target].Password.Reveal() != "x" {
		t.Errorf("passwords %q and %q, error %v", c.Clusters[phase.Origin].Password.Reveal(), c.Clusters[phase.Target].Password.Reveal(), err)
	}
	if got := c.Redacted(); got["origin_password_file"] != "/lf" || got["origin_password"] != "[redacted]" {
		t.Errorf("Redacted shows %v", got)
	}
	_, err = from("/none", "/empty")
	want := "configuration: 2 problems:\n  origin_password_file: open /none: no such file; give a file that the proxy may read\n  target_password_file: /empty is empty; write the password into it"
	if err == nil || err.Error() != want {
		t.Errorf("error is\n%v\nwant\n%s", err, want)
	}
}

func TestCheckSettingsDoesNotMissSecrets(t *testing.T) {
	t.Parallel()
	settings, _ := SplitSecrets(minimal())
	if err := CheckSettings(settings); err != nil {
		t.Errorf("CheckSettings without secrets: %v", err)
	}
	if err := CheckSettings(map[string]string{}); err == nil {
		t.Error("CheckSettings of nothing: no error, want missing contact points")
	}
}

func TestValuesParseToTheSameConfig(t *testing.T) {
	t.Parallel()
	for _, changes := range [][]string{
		nil,
		{"phase", "cut_over", "shadow_reads", "1"},
		{"primary_cluster", "target", "read_mode", "dual_async_on_secondary"},
		{"forward_client_credentials_to_origin", "true", "log_level", "panic", "blocked_protocol_versions", "v5,Dse_V1"},
		{"proxy_topology_addresses", "10.0.0.1,10.0.0.2", "proxy_topology_index", "1", "heartbeat_retry_backoff_factor", "1.50", "metrics_origin_latency_buckets_ms", "0.25,3"},
		{"proxy_listen_address", "0.0.0.0", "read_max_workers", "3"},
	} {
		first := mustParse(t, minimal(changes...))
		again := first.Values()
		_, secrets := SplitSecrets(minimal(changes...))
		maps.Copy(again, secrets)
		second := mustParse(t, again)
		if diff := cmp.Diff(first.Values(), second.Values()); diff != "" {
			t.Errorf("%v: values change on the second way (-first +second):\n%s", changes, diff)
		}
		if first.InitialPhase() != second.InitialPhase() || first.ClientCredentials != second.ClientCredentials {
			t.Errorf("%v: phase or credentials change on the second way", changes)
		}
	}
}

func TestSecretsAreShownNowhere(t *testing.T) {
	t.Parallel()
	c := mustParse(t, minimal())
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("start", "config", c)
	for where, text := range map[string]string{
		"%v": fmt.Sprintf("%v", c), "%+v": fmt.Sprintf("%+v", *c), "%#v": fmt.Sprintf("%#v", *c), "JSON": string(asJSON), "slog": log.String(),
		"Values": fmt.Sprint(c.Values()), "Redacted": fmt.Sprint(c.Redacted()),
	} {
		if strings.Contains(text, "origin-pw") || strings.Contains(text, "target-pw") {
			t.Errorf("%s shows a password:\n%s", where, text)
		}
	}
	if got := c.Redacted()["origin_password"]; got != "[redacted]" {
		t.Errorf("Redacted shows %q for a password that is set, want [redacted]", got)
	}
	if !strings.Contains(c.String(), "origin_port: \"9042\"\n") {
		t.Errorf("String lacks the port:\n%s", c)
	}
	_, err = Parse(minimal("origin_port", "x", "target_username", "-"))
	if strings.Contains(err.Error(), "-pw") {
		t.Errorf("an error shows a password: %v", err)
	}
}

func TestTheTableIsWhole(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range Settings() {
		if seen[s.Name] {
			t.Errorf("%s is in the table twice", s.Name)
		}
		seen[s.Name] = true
		if s.Doc == "" || s.Support == 0 || s.Type == "" {
			t.Errorf("%s lacks a doc, a type or its support: %+v", s.Name, s)
		}
		c := &Config{accepted: map[string]string{}}
		v := s.value(c)
		if s.Default != "" {
			if err := v.parse(s.Default); err != nil || v.text() != s.Default {
				t.Errorf("%s: default %q reads as %q, error %v; want canonical text", s.Name, s.Default, v.text(), err)
			}
		}
	}
	// ZDM Proxy 2.4 has: 7 global, 3 tracing, 3 topology, 10 for each cluster, 9
	// listener, 7 metrics, 5 heartbeat, 4 unsupported and 13 tuning settings.
	var zdm []string
	for _, s := range Settings() {
		if s.ZDM {
			zdm = append(zdm, s.Name)
		}
	}
	if want := 7 + 3 + 3 + 20 + 9 + 7 + 5 + 4 + 13; len(zdm) != want {
		t.Errorf("the table has %d settings of ZDM, want %d: %v", len(zdm), want, zdm)
	}
	for _, name := range []string{"PHASE", "CLIENT_CREDENTIALS", "SHADOW_READS", "LOG_FORMAT", "PROXY_MAX_PREPARED_STATEMENT_CACHE_SIZE", "UPSTREAM_CONNECTIONS_PER_NODE"} {
		if !seen[name] || slices.Contains(zdm, name) {
			t.Errorf("%s is not a setting of ours", name)
		}
	}
}
