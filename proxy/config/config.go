package config

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Config is the whole configuration of one proxy process.
type Config struct {
	// PrimaryCluster and ReadMode are ZDM's words for the phase. They agree with
	// InitialPhase also where ZDM_PHASE was given.
	PrimaryCluster phase.Side
	ReadMode       ReadMode
	// Phase is ZDM_PHASE, phase.None if it was not given; see InitialPhase.
	Phase phase.Phase
	// ShadowReads sends copies of reads to Origin in cut_over.
	ShadowReads bool
	// ReplaceFunctions replaces now() in writes; ReplaceAllFunctions, which is never
	// alone, also what differs from call to call besides, and where it is nested.
	ReplaceFunctions, ReplaceAllFunctions bool
	// SetWriteTimestamps gives both copies of a write one timestamp, as long as no
	// cluster's clock is further than MaxClockSkew from this machine's.
	SetWriteTimestamps bool
	MaxClockSkew       time.Duration
	// ClientCredentials says whose credentials clients send.
	ClientCredentials ClientCredentials
	// SystemQueriesMode is the side that answers system queries and whose schema
	// events clients get, in the phases that use both sides.
	SystemQueriesMode phase.Side

	LogLevel  slog.Level
	LogFormat LogFormat

	// MaxProtocolVersion caps what is tried with the clusters; BlockedVersions
	// are refused to clients.
	MaxProtocolVersion ProtocolVersion
	BlockedVersions    []ProtocolVersion

	// Clusters is indexed by phase.Side.
	Clusters  [2]Cluster
	Topology  Topology
	Listen    Listen
	Metrics   Metrics
	Heartbeat Heartbeat
	Tracing   Tracing

	Upstream Upstream

	// accepted holds settings that are valid and have no effect here, by key.
	accepted map[string]string
	// given holds the keys that were given a value.
	given    map[string]bool
	warnings []string
}

// Cluster is how one side is reached.
type Cluster struct {
	// ContactPoints are host names or addresses, without port; after Parse never
	// empty, but for a bundle.
	ContactPoints []string
	Port          int
	// SecureConnectBundle is the path of an Astra bundle, "" without one.
	SecureConnectBundle string
	// LocalDatacenter is "" for that of the first node that answers.
	LocalDatacenter string
	Username        string
	Password        secret.String
	// PasswordFile holds the password instead; see ReadSecretFiles.
	PasswordFile   string
	ConnectTimeout time.Duration
	TLS            TLSFiles
	// VerifyHostname: a node's certificate must be for its address or a contact
	// point. Only with TLS.
	VerifyHostname bool
	// AssignHosts spreads requests over the nodes of the data centre; without it
	// only the contact points are used.
	AssignHosts bool
}

// Upstream is how connections to nodes are pooled: a pool is for one user,
// password, keyspace and protocol version.
type Upstream struct {
	// Connections of a pool to each node, at first and at most under load; Parse
	// sees to it that the second is not below the first.
	Connections, MaxConnections int
	// MaxPools of one side.
	MaxPools int
}

// TLSFiles are paths of PEM files; all "" means plain TCP.
type TLSFiles struct{ CA, Cert, Key string }

// On reports whether the leg uses TLS.
func (f TLSFiles) On() bool { return f != TLSFiles{} }

// Instance is this proxy as its clients know it; invalid if they know no other: then
// they have nowhere to go, and hear nothing of its coming and going.
func (c *Config) Instance() netip.AddrPort {
	t := &c.Topology
	if len(t.Addresses) < 2 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(t.Addresses[t.Index], uint16(c.Listen.Port))
}

// Topology is what drivers are told of the proxies.
type Topology struct {
	// Addresses of all proxies, in the same order on each; never empty after
	// Parse, and Addresses[Index] is this one.
	Addresses []netip.Addr
	Index     int
	NumTokens int
}

// Listen is the client side.
type Listen struct {
	Address string
	// Port 0 lets the kernel choose.
	Port           int
	RequestTimeout time.Duration
	MaxClients     int
	// MaxStreamIDs bounds the requests in flight on one upstream connection.
	MaxStreamIDs int
	// MaxPrepared bounds the prepared statements that are remembered.
	MaxPrepared       int
	TLS               TLSFiles
	RequireClientAuth bool
	// LoginTimeout bounds the time from the connection to READY, FrameTimeout that
	// from a frame's first byte to its last.
	LoginTimeout, FrameTimeout time.Duration
	// MaxClientBytes is what one client may have in flight or unread; MaxMemory what
	// all may together, 0 for a share of the machine's.
	MaxClientBytes, MaxMemory int64
}

// Metrics is the HTTP side: metrics, readiness, liveness.
type Metrics struct {
	Enabled bool
	Address string
	// Port 0 lets the kernel choose.
	Port   int
	Prefix string
	// Pprof serves profiles too.
	Pprof bool
	// Upper bounds of the latency histograms, rising.
	OriginBuckets, TargetBuckets, AsyncBuckets []time.Duration
}

// Heartbeat is how control connections are watched and opened again.
type Heartbeat struct {
	Interval           time.Duration
	RetryMin, RetryMax time.Duration
	Factor             float64
	// FailureThreshold is how many failures in a row make a side not ready.
	FailureThreshold int
}

// Tracing is which requests get an id and a line in the log.
type Tracing struct {
	Enabled bool
	// RateLimit is in requests a second; 0 for no limit.
	RateLimit int
	// Key is that of the id in the custom payload.
	Key string
}

// Error is a configuration that cannot be used, with everything that is wrong.
type Error struct {
	// Problems each begin with the setting, and end with what to do.
	Problems []string
}

func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return "configuration: " + e.Problems[0]
	}
	return fmt.Sprintf("configuration: %d problems:\n  %s", len(e.Problems), strings.Join(e.Problems, "\n  "))
}

// Parse makes a Config of values, whose keys are names in lower case without
// ZDM_ and whose values are the text that the environment variable would have.
// An empty value counts as unset. The error is an *Error with every problem.
func Parse(values map[string]string) (*Config, error) { return parse(values, true) }

// CheckSettings says what Parse would, for values whose secrets are elsewhere:
// that one is missing is not a problem.
func CheckSettings(settings map[string]string) error {
	_, err := parse(settings, false)
	return err
}

func parse(values map[string]string, complete bool) (*Config, error) {
	c := &Config{accepted: map[string]string{}, given: map[string]bool{}}
	var p problems
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if _, known := byKey[key]; !known {
			p.add("%s", unknown(key))
		} else if strings.TrimSpace(values[key]) != "" {
			c.given[key] = true
		}
	}
	for i := range table {
		s := &table[i]
		v := s.value(c)
		// The default first, so that a bad value leads to no problem but its own.
		if s.Default != "" {
			if err := v.parse(s.Default); err != nil {
				panic("config: default of " + s.Name + ": " + err.Error())
			}
		}
		if !c.given[s.Key()] {
			continue
		}
		text := values[s.Key()]
		if !s.Secret { // white space may belong to a password, and to nothing else
			text = strings.TrimSpace(text)
		}
		if err := v.parse(text); err != nil {
			p.add("%s: %v", s.Key(), err)
			continue
		}
		if v.text() != s.Default && s.Support == Accepted {
			c.warn("%s: accepted, and has no effect in this version", s.Key())
		}
	}
	c.settlePhase(&p)
	c.settleCredentials(&p)
	if c.ReplaceAllFunctions && !c.ReplaceFunctions {
		p.add("replace_all_cql_functions: has no meaning without replace_cql_functions; set that to true as well, or leave this out")
	}
	for _, side := range phase.Sides {
		c.checkCluster(&p, side, complete)
	}
	c.settleTopology(&p)
	c.checkRest(&p)
	if len(p) > 0 {
		return nil, &Error{Problems: p}
	}
	return c, nil
}

// ReadSecretFiles sets the passwords that are in files, each without the end of
// its line. It is called once, before the configuration is used; read is
// os.ReadFile. The error is an *Error with every problem.
func (c *Config) ReadSecretFiles(read func(path string) ([]byte, error)) error {
	var p problems
	for _, side := range phase.Sides {
		cl := &c.Clusters[side]
		if cl.PasswordFile == "" {
			continue
		}
		text, err := read(cl.PasswordFile)
		password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
		switch {
		case err != nil:
			p.add("%s_password_file: %v; give a file that the proxy may read", side, err)
		case password == "":
			p.add("%s_password_file: %s is empty; write the password into it", side, cl.PasswordFile)
		default:
			cl.Password = secret.New(password)
		}
	}
	if len(p) > 0 {
		return &Error{Problems: p}
	}
	return nil
}

// InitialPhase is the phase in which a proxy without an agent starts.
func (c *Config) InitialPhase() phase.Phase {
	switch {
	case c.Phase != phase.None:
		return c.Phase
	case c.PrimaryCluster == phase.Target:
		return phase.CutOver
	case c.ReadMode == DualAsyncOnSecondary:
		return phase.DualRead
	}
	return phase.DualWrite
}

// Warnings are what an operator should know of a configuration that works:
// settings without effect, and choices that rarely are meant.
func (c *Config) Warnings() []string { return slices.Clone(c.warnings) }

// Values is the effective configuration in canonical text, defaults included
// and secrets left out. Two configurations that mean the same have the same
// Values, and Parse of Values (with the secrets) gives the same Config.
func (c *Config) Values() map[string]string {
	out := map[string]string{}
	for i := range table {
		s := &table[i]
		if s.Secret || c.derived(s.Key()) {
			continue
		}
		if text := s.value(c).text(); text != "" {
			out[s.Key()] = text
		}
	}
	return out
}

// derived reports settings that another one stands for, and that Parse would
// refuse beside it or work out again.
func (c *Config) derived(key string) bool {
	switch key {
	case "primary_cluster", "read_mode":
		return c.Phase != phase.None
	case "forward_client_credentials_to_origin":
		return true
	case "proxy_topology_addresses":
		return !c.given[key]
	}
	return false
}

// Redacted is Values with the secrets that are set shown as [redacted].
func (c *Config) Redacted() map[string]string {
	out := c.Values()
	for i := range table {
		if s := &table[i]; s.Secret && s.value(c).text() != "" {
			out[s.Key()] = secret.Redacted
		}
	}
	return out
}

// String prints the redacted configuration as YAML that a -config file could
// hold (but for the secrets), in the order of the table.
func (c *Config) String() string {
	var b strings.Builder
	shown := c.Redacted()
	for i := range table {
		if text, ok := shown[table[i].Key()]; ok {
			fmt.Fprintf(&b, "%s: %q\n", table[i].Key(), text)
		}
	}
	return b.String()
}

// LogValue serves slog with the redacted configuration.
func (c *Config) LogValue() slog.Value {
	shown := c.Redacted()
	attrs := make([]slog.Attr, 0, len(shown))
	for _, key := range slices.Sorted(maps.Keys(shown)) {
		attrs = append(attrs, slog.String(key, shown[key]))
	}
	return slog.GroupValue(attrs...)
}

// SplitSecrets parts values into what may be shown and what may not. Unknown
// keys stay with the settings, where Parse tells of them.
func SplitSecrets(values map[string]string) (settings, secrets map[string]string) {
	settings, secrets = map[string]string{}, map[string]string{}
	for key, text := range values {
		if i, ok := byKey[key]; ok && table[i].Secret {
			secrets[key] = text
		} else {
			settings[key] = text
		}
	}
	return settings, secrets
}

func (c *Config) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}
