package config

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Type is what a setting's text holds.
type Type string

// The types. Lists are separated by commas.
const (
	TypeText   Type = "text"
	TypeBool   Type = "bool"
	TypeInt    Type = "int"
	TypeFloat  Type = "float"
	TypeMillis Type = "milliseconds"
	TypeWord   Type = "word"
	TypeList   Type = "list"
)

// Support says what this version does with a setting.
type Support uint8

// Honoured has its effect; Accepted is valid, has none, and is warned of.
const (
	Honoured Support = iota + 1
	Accepted
)

func (s Support) String() string {
	switch s {
	case Honoured:
		return "honoured"
	case Accepted:
		return "accepted, no effect"
	}
	return fmt.Sprintf("support(%d)", uint8(s))
}

// Setting is one row of the table.
type Setting struct {
	// Name is the environment variable without ZDM_.
	Name string
	Type Type
	// Default is canonical text; "" means not set.
	Default string
	// Bounds is text for people: a range, or the words.
	Bounds string
	Secret bool
	// ZDM: DataStax ZDM Proxy has the setting too, under the same name.
	ZDM     bool
	Support Support
	// Hot: a proxy that serves takes a change of it, without a new process.
	Hot bool
	Doc string

	// bind ties the row to its field of a Config.
	bind func(*Config) value
}

// Key is the name in YAML, in the agent's documents and in errors.
func (s *Setting) Key() string { return strings.ToLower(s.Name) }

func (s *Setting) value(c *Config) value { return s.bind(c) }

// Settings returns the table, in the order in which documentation shows it.
func Settings() []Setting { return slices.Clone(table) }

// OnlyHot reports whether documents of settings differ in nothing but what a
// proxy takes while it serves. Values are compared as text.
func OnlyHot(before, after map[string]string) bool {
	both := maps.Clone(before)
	maps.Copy(both, after)
	for key := range both {
		old, was := before[key]
		if next, is := after[key]; was == is && old == next {
			continue
		}
		if i, known := byKey[key]; !known || !table[i].Hot {
			return false
		}
	}
	return true
}

const (
	maxMillis = 24 * 60 * 60 * 1000
	buckets   = "1, 4, 7, 10, 25, 40, 60, 80, 100, 150, 250, 500, 1000, 2500, 5000, 10000, 15000"
)

var table = slices.Concat(globalSettings(), topologySettings(), clusterSettings(phase.Origin), clusterSettings(phase.Target),
	listenSettings(), metricsSettings(), heartbeatSettings(), unsupportedSettings(), tuningSettings())

var byKey = func() map[string]int {
	m := make(map[string]int, len(table))
	for i := range table {
		m[table[i].Key()] = i
	}
	return m
}()

func globalSettings() []Setting {
	return []Setting{
		ours(word("PHASE", "", "Phase in which a proxy without an agent starts. Not together with PRIMARY_CLUSTER or READ_MODE. Nothing set means dual_write.",
			phaseWords, func(c *Config) *phase.Phase { return &c.Phase })),
		word("PRIMARY_CLUSTER", "ORIGIN", "The cluster that answers reads: ORIGIN is phase dual_write or dual_read, TARGET is cut_over.",
			sideWords, func(c *Config) *phase.Side { return &c.PrimaryCluster }),
		word("READ_MODE", "PRIMARY_ONLY", "DUAL_ASYNC_ON_SECONDARY sends a copy of each read to the other cluster and drops its answer.",
			readModeWords, func(c *Config) *ReadMode { return &c.ReadMode }),
		ours(boolean("SHADOW_READS", false, "Whether Origin gets a copy of each read in phase cut_over.", func(c *Config) *bool { return &c.ShadowReads })),
		boolean("REPLACE_CQL_FUNCTIONS", false, "Replaces now() in writes with a value made by the proxy, so that both clusters store the same one. Only where it is a whole term.",
			func(c *Config) *bool { return &c.ReplaceFunctions }),
		ours(boolean("REPLACE_ALL_CQL_FUNCTIONS", false, "With REPLACE_CQL_FUNCTIONS: also uuid(), currentTimestamp(), currentDate(), currentTime() and currentTimeUUID(), and all of them also as arguments and within tuples, user types and collections. A prepared statement with a call within a list, set or map goes to the nodes as text.",
			func(c *Config) *bool { return &c.ReplaceAllFunctions })),
		ours(boolean("SET_WRITE_TIMESTAMPS", false, "Whether writes that come without a timestamp get the proxy's, so that both clusters store the same one. Only while both are written, and not for conditional statements and counters. See docs/design/timestamps.md first.",
			func(c *Config) *bool { return &c.SetWriteTimestamps })),
		ours(millis("MAX_CLOCK_SKEW_MS", 100, "With SET_WRITE_TIMESTAMPS: how far the clocks of both clusters may be from the proxy's. Beyond it the proxy does not begin to set timestamps, and ceases to.",
			func(c *Config) *time.Duration { return &c.MaxClockSkew })),
		accepted(millis("ASYNC_HANDSHAKE_TIMEOUT_MS", 4000, "Bound for making ready what copies of reads need. Copies use the shared connections here, so there is no handshake of their own.", nil)),
		hot(word("LOG_LEVEL", "INFO", "Least severe level that is logged.", levelWords, func(c *Config) *slog.Level { return &c.LogLevel })),
		ours(word("LOG_FORMAT", "text", "How log lines look.", formatWords, func(c *Config) *LogFormat { return &c.LogFormat })),
		word("CONTROL_CONN_MAX_PROTOCOL_VERSION", "DseV2", "Highest protocol version tried with the clusters.", versionWords, func(c *Config) *ProtocolVersion { return &c.MaxProtocolVersion }),
		list("BLOCKED_PROTOCOL_VERSIONS", "", "Protocol versions that are refused to clients, so that drivers step down.", versionWords.canonical(),
			func(c *Config) value { return versionsValue(&c.BlockedVersions) }),
		boolean("TRACING_ENABLED", false, "Whether requests that come without an id get one in their custom payload (v4 and above), and are logged with it.", func(c *Config) *bool { return &c.Tracing.Enabled }),
		integer("TRACING_RATE_LIMIT", 0, 0, 1<<31-1, "Traced requests a second; 0 is no limit. What is beyond passes untouched.", func(c *Config) *int { return &c.Tracing.RateLimit }),
		text("TRACING_REQUEST_ID_KEY", "request-id", "Key of the request id in the custom payload.", func(c *Config) *string { return &c.Tracing.Key }),
	}
}

func topologySettings() []Setting {
	return []Setting{
		integer("PROXY_TOPOLOGY_INDEX", 0, 0, 65535, "Position of this proxy in PROXY_TOPOLOGY_ADDRESSES, from 0.", func(c *Config) *int { return &c.Topology.Index }),
		list("PROXY_TOPOLOGY_ADDRESSES", "", "IP addresses of all proxies, in the same order on each; what drivers are told of. Not set means this proxy alone.", "IP addresses",
			func(c *Config) value { return addressesValue(&c.Topology.Addresses) }),
		integer("PROXY_TOPOLOGY_NUM_TOKENS", 8, 1, 256, "Tokens that each proxy is said to own.", func(c *Config) *int { return &c.Topology.NumTokens }),
	}
}

func clusterSettings(side phase.Side) []Setting {
	prefix := strings.ToUpper(side.String()) + "_"
	name := strings.ToUpper(side.String()[:1]) + side.String()[1:]
	cl := func(c *Config) *Cluster { return &c.Clusters[side] }
	return []Setting{
		list(prefix+"CONTACT_POINTS", "", "Host names or addresses of some nodes of "+name+", without port.", "hosts",
			func(c *Config) value { return hostsValue(&cl(c).ContactPoints) }),
		port(prefix+"PORT", 9042, 1, "CQL port of all nodes of "+name+".", func(c *Config) *int { return &cl(c).Port }),
		text(prefix+"SECURE_CONNECT_BUNDLE_PATH", "", "Path of an Astra secure connect bundle (zip); instead of contact points, data centre and TLS files. It is read again when it changes.",
			func(c *Config) *string { return &cl(c).SecureConnectBundle }),
		text(prefix+"LOCAL_DATACENTER", "", "Data centre of "+name+" to use. Not set means that of the first node that answers.", func(c *Config) *string { return &cl(c).LocalDatacenter }),
		text(prefix+"USERNAME", "", "User of the proxy itself on "+name+". Not set means no authentication.", func(c *Config) *string { return &cl(c).Username }),
		hidden(prefix+"PASSWORD", "Password of "+prefix+"USERNAME.", func(c *Config) *secret.String { return &cl(c).Password }),
		ours(text(prefix+"PASSWORD_FILE", "", "File on the proxy's machine with the password, instead of "+prefix+"PASSWORD; read at each start.", func(c *Config) *string { return &cl(c).PasswordFile })),
		millis(prefix+"CONNECTION_TIMEOUT_MS", 30000, "Bound for opening a connection to a node of "+name+", login included.", func(c *Config) *time.Duration { return &cl(c).ConnectTimeout }),
		text(prefix+"TLS_SERVER_CA_PATH", "", "PEM file of the authorities that sign the nodes' certificates; turns TLS to "+name+" on. The file is read again when it changes.",
			func(c *Config) *string { return &cl(c).TLS.CA }),
		text(prefix+"TLS_CLIENT_CERT_PATH", "", "PEM file of the certificate that the proxy shows, for nodes that ask for one; read again when it changes.", func(c *Config) *string { return &cl(c).TLS.Cert }),
		text(prefix+"TLS_CLIENT_KEY_PATH", "", "PEM file of its key, not encrypted.", func(c *Config) *string { return &cl(c).TLS.Key }),
		ours(boolean(prefix+"TLS_VERIFY_HOSTNAME", false, "Whether a node's certificate must be for its address or for a name in "+prefix+"CONTACT_POINTS; the system's authorities are then trusted too. "+
			"Without, as in ZDM, any certificate of the given authorities is taken for any node.", func(c *Config) *bool { return &cl(c).VerifyHostname })),
	}
}

func listenSettings() []Setting {
	return []Setting{
		text("PROXY_LISTEN_ADDRESS", "localhost", "Address on which clients are served.", func(c *Config) *string { return &c.Listen.Address }),
		port("PROXY_LISTEN_PORT", 14002, 0, "Port on which clients are served; 0 takes any free one.", func(c *Config) *int { return &c.Listen.Port }),
		millis("PROXY_REQUEST_TIMEOUT_MS", 10000, "Time after which a request that a cluster has not answered gets a time-out error.", func(c *Config) *time.Duration { return &c.Listen.RequestTimeout }),
		hot(integer("PROXY_MAX_CLIENT_CONNECTIONS", 1000, 1, 1_000_000, "Clients served at once; one more is closed at once.", func(c *Config) *int { return &c.Listen.MaxClients })),
		integer("PROXY_MAX_STREAM_IDS", 2048, 1, 32768, "Requests in flight of one client connection; over it OVERLOADED.", func(c *Config) *int { return &c.Listen.MaxStreamIDs }),
		ours(integer("PROXY_MAX_PREPARED_STATEMENT_CACHE_SIZE", 50_000, 1, 10_000_000, "Prepared statements that the proxy remembers, at some hundred bytes each. Past it those that were not used for longest are forgotten; clients prepare them again.",
			func(c *Config) *int { return &c.Listen.MaxPrepared })),
		ours(millis("PROXY_LOGIN_TIMEOUT_MS", 30000, "Time that a client has from connecting to the end of its login.", func(c *Config) *time.Duration { return &c.Listen.LoginTimeout })),
		ours(millis("PROXY_FRAME_TIMEOUT_MS", 60000, "Time in which a request that has begun to come in must be complete; a client that takes longer is closed.", func(c *Config) *time.Duration { return &c.Listen.FrameTimeout })),
		ours(size("PROXY_MAX_CLIENT_BYTES", 32<<20, 1<<16, 1<<40, "Bytes of one client's requests in flight, copies for both clusters included; over it the client is not read until some are answered. Also of answers that wait for it; over it the client is closed.",
			func(c *Config) *int64 { return &c.Listen.MaxClientBytes })),
		ours(size("PROXY_MAX_MEMORY_BYTES", 0, 1<<20, 1<<40, "Bytes of all clients' requests in flight, of what waits for nodes, and of answers that wait for clients; over it clients that have something in flight are not read. 0 means a quarter of the memory of the machine or container.",
			func(c *Config) *int64 { return &c.Listen.MaxMemory })),
		text("PROXY_TLS_CA_PATH", "", "PEM file of the authorities that sign clients' certificates. This and the next two, all given, turn TLS to clients on; the files are read again when they change.",
			func(c *Config) *string { return &c.Listen.TLS.CA }),
		text("PROXY_TLS_CERT_PATH", "", "PEM file of the certificate shown to clients, with those between it and the authority.", func(c *Config) *string { return &c.Listen.TLS.Cert }),
		text("PROXY_TLS_KEY_PATH", "", "PEM file of its key, not encrypted.", func(c *Config) *string { return &c.Listen.TLS.Key }),
		boolean("PROXY_TLS_REQUIRE_CLIENT_AUTH", false, "Whether clients must show a certificate of one of these authorities; names in it are not looked at.", func(c *Config) *bool { return &c.Listen.RequireClientAuth }),
	}
}

func metricsSettings() []Setting {
	latencies := func(name, of string, at func(*Config) *[]time.Duration) Setting {
		return list(name, buckets, "Upper bounds of the latency histogram of "+of+", in milliseconds.", "rising, above 0",
			func(c *Config) value { return bucketsValue(at(c)) })
	}
	return []Setting{
		boolean("METRICS_ENABLED", true, "Whether metrics, readiness and liveness are served over HTTP.", func(c *Config) *bool { return &c.Metrics.Enabled }),
		text("METRICS_ADDRESS", "localhost", "Address of the HTTP side.", func(c *Config) *string { return &c.Metrics.Address }),
		port("METRICS_PORT", 14001, 0, "Port of the HTTP side; 0 takes any free one.", func(c *Config) *int { return &c.Metrics.Port }),
		ours(boolean("METRICS_PPROF", false, "Whether the HTTP side serves Go's profiles under /debug/pprof/. Whoever reaches the port can then slow the proxy down and read statements out of its memory.", func(c *Config) *bool { return &c.Metrics.Pprof })),
		text("METRICS_PREFIX", "zdm", "First part of the metrics' names.", func(c *Config) *string { return &c.Metrics.Prefix }),
		latencies("METRICS_ORIGIN_LATENCY_BUCKETS_MS", "Origin", func(c *Config) *[]time.Duration { return &c.Metrics.OriginBuckets }),
		latencies("METRICS_TARGET_LATENCY_BUCKETS_MS", "Target", func(c *Config) *[]time.Duration { return &c.Metrics.TargetBuckets }),
		latencies("METRICS_ASYNC_READ_LATENCY_BUCKETS_MS", "copies of reads", func(c *Config) *[]time.Duration { return &c.Metrics.AsyncBuckets }),
	}
}

func heartbeatSettings() []Setting {
	return []Setting{
		millis("HEARTBEAT_INTERVAL_MS", 30000, "How often a silent connection to a cluster is asked whether it lives.", func(c *Config) *time.Duration { return &c.Heartbeat.Interval }),
		millis("HEARTBEAT_RETRY_INTERVAL_MIN_MS", 250, "Shortest wait before a control connection is opened again.", func(c *Config) *time.Duration { return &c.Heartbeat.RetryMin }),
		millis("HEARTBEAT_RETRY_INTERVAL_MAX_MS", 30000, "Longest wait before a control connection is opened again.", func(c *Config) *time.Duration { return &c.Heartbeat.RetryMax }),
		factor("HEARTBEAT_RETRY_BACKOFF_FACTOR", 2, 1, 100, "How much longer each wait is than the one before.", func(c *Config) *float64 { return &c.Heartbeat.Factor }),
		integer("HEARTBEAT_FAILURE_THRESHOLD", 1, 1, 1000, "Failures in a row that make a side not ready.", func(c *Config) *int { return &c.Heartbeat.FailureThreshold }),
	}
}

// unsupportedSettings are those that ZDM calls unsupported; people use them.
func unsupportedSettings() []Setting {
	return []Setting{
		word("SYSTEM_QUERIES_MODE", "ORIGIN", "The cluster that answers system queries while both are in use.", sideWords, func(c *Config) *phase.Side { return &c.SystemQueriesMode }),
		ours(word("CLIENT_CREDENTIALS", "target", "Whose credentials clients send: those of target, of origin, or the same on both.",
			credentialWords, func(c *Config) *ClientCredentials { return &c.ClientCredentials })),
		boolean("FORWARD_CLIENT_CREDENTIALS_TO_ORIGIN", false, "ZDM's name for CLIENT_CREDENTIALS=origin.", nil),
		boolean("ORIGIN_ENABLE_HOST_ASSIGNMENT", true, "Whether all nodes of Origin's data centre are used, or only the contact points.", func(c *Config) *bool { return &c.Clusters[phase.Origin].AssignHosts }),
		boolean("TARGET_ENABLE_HOST_ASSIGNMENT", true, "Whether all nodes of Target's data centre are used, or only the contact points.", func(c *Config) *bool { return &c.Clusters[phase.Target].AssignHosts }),
		ours(integer("UPSTREAM_CONNECTIONS_PER_NODE", 2, 1, 64, "Connections to each node that are always open, shared by all clients with the same credentials, keyspace and protocol version.", func(c *Config) *int { return &c.Upstream.Connections })),
		ours(integer("UPSTREAM_MAX_CONNECTIONS_PER_NODE", 8, 1, 64, "Up to how many there are while the load needs them.", func(c *Config) *int { return &c.Upstream.MaxConnections })),
		ours(integer("UPSTREAM_MAX_POOLS", 1000, 1, 1_000_000, "Different credentials, keyspaces and protocol versions that clients may use at once, for each cluster: each has connections of its own to every node.", func(c *Config) *int { return &c.Upstream.MaxPools })),
	}
}

// tuningSettings size queues and worker pools that this proxy does not have.
func tuningSettings() []Setting {
	var out []Setting
	for _, s := range []struct {
		name  string
		value int
	}{
		{"REQUEST_WRITE_QUEUE_SIZE_FRAMES", 128}, {"REQUEST_WRITE_BUFFER_SIZE_BYTES", 4096}, {"REQUEST_READ_BUFFER_SIZE_BYTES", 32768},
		{"RESPONSE_WRITE_QUEUE_SIZE_FRAMES", 128}, {"RESPONSE_WRITE_BUFFER_SIZE_BYTES", 8192}, {"RESPONSE_READ_BUFFER_SIZE_BYTES", 32768},
		{"REQUEST_RESPONSE_MAX_WORKERS", -1}, {"WRITE_MAX_WORKERS", -1}, {"READ_MAX_WORKERS", -1}, {"LISTENER_MAX_WORKERS", -1},
		{"EVENT_QUEUE_SIZE_FRAMES", 12}, {"ASYNC_CONNECTOR_WRITE_QUEUE_SIZE_FRAMES", 2048}, {"ASYNC_CONNECTOR_WRITE_BUFFER_SIZE_BYTES", 4096},
	} {
		out = append(out, accepted(integer(s.name, s.value, -1, 1<<31-1, "Sizes a queue, buffer or pool of ZDM Proxy that does not exist here.", nil)))
	}
	return out
}
