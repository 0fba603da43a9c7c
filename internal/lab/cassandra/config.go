package cassandra

import (
	"bytes"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/google/renameio/v2"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Config is what distinguishes one node's configuration from another's.
type Config struct {
	Side    phase.Side
	Version Version
	Address string
	Seeds   []string
	Token   string
	Dir     string // the node's folder
	// TLS makes clients use TLS and show a certificate; nil is plain TCP. Not
	// for 4.0.
	TLS *TLS
}

// TLS is the PEM files of a node: its key with its certificate, in one, and the
// authorities of clients.
type TLS struct{ KeyAndCert, Authorities string }

// Ports of every node; each has an address of its own.
const (
	NativePort  = 9042
	StoragePort = 7000
)

// NativePort and StoragePort serve the template.
func (Config) NativePort() int  { return NativePort }
func (Config) StoragePort() int { return StoragePort }

// Old41 reports, for the template, whether settings have their 4.0 names.
func (c Config) Old41() bool { return c.Version.before41() }

// Cluster is the cluster_name.
func (c Config) Cluster() string { return "lab " + c.Side.String() }

// SeedList is the seeds as the seed provider wants them.
func (c Config) SeedList() string { return strings.Join(c.Seeds, ",") }

// yamlTemplate is a whole cassandra.yaml. Two settings are not about where and
// how big:
//
// commitlog_sync is batch, so that a write is acknowledged once it is on disk.
// With "periodic" an acknowledged write of the last 100 ms is lost when a node
// is killed, and verify would rightly report it: the lab kills nodes.
//
// auth_read_consistency_level is ONE, so that one node of two can log people in
// while the other is down.
var yamlTemplate = template.Must(template.New("cassandra.yaml").Parse(`# made by the lab; a start of the node overwrites it
cluster_name: '{{.Cluster}}'
num_tokens: 1
initial_token: '{{.Token}}'
auto_bootstrap: false
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: '{{.SeedList}}'
listen_address: {{.Address}}
rpc_address: {{.Address}}
native_transport_port: {{.NativePort}}
storage_port: {{.StoragePort}}
start_native_transport: true
authenticator: PasswordAuthenticator
authorizer: CassandraAuthorizer
role_manager: CassandraRoleManager
data_file_directories: ['{{.Dir}}/data/sstables']
commitlog_directory: '{{.Dir}}/data/commitlog'
saved_caches_directory: '{{.Dir}}/data/saved_caches'
hints_directory: '{{.Dir}}/data/hints'
cdc_raw_directory: '{{.Dir}}/data/cdc_raw'
commitlog_sync: batch
memtable_allocation_type: heap_buffers
concurrent_reads: 8
concurrent_writes: 8
concurrent_counter_writes: 4
concurrent_compactors: 1
{{- with .TLS}}
client_encryption_options:
  enabled: true
  optional: false
  require_client_auth: true
  ssl_context_factory:
    class_name: org.apache.cassandra.security.PEMBasedSslContextFactory
  keystore: '{{.KeyAndCert}}'
  truststore: '{{.Authorities}}'
{{- end}}
{{- if .Old41}}
commitlog_segment_size_in_mb: 32
commitlog_total_space_in_mb: 256
memtable_heap_space_in_mb: 64
key_cache_size_in_mb: 4
file_cache_size_in_mb: 32
enable_user_defined_functions: true
enable_materialized_views: true
{{- else}}
auth_read_consistency_level: ONE
commitlog_segment_size: 32MiB
commitlog_total_space: 256MiB
memtable_heap_space: 64MiB
key_cache_size: 4MiB
file_cache_size: 32MiB
user_defined_functions_enabled: true
materialized_views_enabled: true
{{- end}}
`))

const logback = `<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %date{ISO8601} [%thread] %logger{0}: %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
`

// Write puts the configuration files into DIR/conf.
func (c Config) Write() error {
	conf := filepath.Join(c.Dir, "conf")
	if err := os.MkdirAll(conf, 0o700); err != nil {
		return err
	}
	var yaml bytes.Buffer
	if err := yamlTemplate.Execute(&yaml, c); err != nil {
		return fmt.Errorf("write cassandra.yaml of %s: %w", c.Address, err)
	}
	if err := renameio.WriteFile(filepath.Join(conf, "cassandra.yaml"), yaml.Bytes(), 0o600); err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(conf, "logback.xml"), []byte(logback), 0o600)
}

// Packages that Cassandra reaches into, which Java 17 must open to it.
var (
	javaExports = []string{
		"java.base/jdk.internal.misc", "java.base/jdk.internal.ref", "java.base/java.lang.ref", "java.base/sun.nio.ch",
		"java.management.rmi/com.sun.jmx.remote.internal.rmi", "java.rmi/sun.rmi.registry", "java.rmi/sun.rmi.server",
		"java.rmi/sun.rmi.transport.tcp", "java.sql/java.sql", "jdk.unsupported/sun.misc",
	}
	javaOpens = []string{
		"java.base/java.lang.module", "java.base/jdk.internal.loader", "java.base/jdk.internal.ref", "java.base/jdk.internal.reflect",
		"java.base/jdk.internal.math", "java.base/jdk.internal.module", "java.base/jdk.internal.util.jar", "java.base/sun.nio.ch",
		"java.base/java.io", "java.base/java.nio", "java.base/java.util", "java.base/java.util.concurrent",
		"java.base/java.util.concurrent.atomic", "java.base/java.lang", "jdk.management/com.sun.management.internal",
	}
)

// JavaArgs is the command line of a node, without the program. No JMX port is
// opened: it would be one more address to be in use.
func (c Config) JavaArgs(jars string) ([]string, error) {
	var args []string
	for _, p := range javaExports {
		args = append(args, "--add-exports", p+"=ALL-UNNAMED")
	}
	for _, p := range javaOpens {
		args = append(args, "--add-opens", p+"=ALL-UNNAMED")
	}
	if c.Version.needsJamm() {
		found, _ := filepath.Glob(filepath.Join(jars, "jamm-*.jar"))
		if len(found) == 0 {
			return nil, fmt.Errorf("no jamm-*.jar in %s; remove that folder, so that it is fetched again", jars)
		}
		args = append(args, "-javaagent:"+found[0])
	}
	conf := filepath.Join(c.Dir, "conf")
	args = append(args,
		// 384 MiB is enough for the tests' data; the process then stays under
		// 900 MB, so six fit into 8 GB.
		"-Xms192m", "-Xmx384m", "-Xss512k", "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=128m", "-XX:ReservedCodeCacheSize=96m",
		// The first compiler only: half the processor time of a start, which is
		// most of what a short-lived node does.
		"-XX:TieredStopAtLevel=1",
		"-XX:+ExitOnOutOfMemoryError", "-XX:+PerfDisableSharedMem", "-XX:ErrorFile="+filepath.Join(c.Dir, "hs_err.log"),
		"-Djava.io.tmpdir="+filepath.Join(c.Dir, "tmp"),
		"-Dcassandra.config=file://"+filepath.Join(conf, "cassandra.yaml"),
		"-Dlogback.configurationFile="+filepath.Join(conf, "logback.xml"),
		"-Dcassandra.storagedir="+filepath.Join(c.Dir, "data"),
		"-Dcassandra.ring_delay_ms=100",
		"-Dcassandra.skip_wait_for_gossip_to_settle=0",
		"-Dcassandra.superuser_setup_delay_ms=0",
		"-Dcassandra-foreground=yes",
		"-cp", conf+":"+filepath.Join(jars, "*"),
		"org.apache.cassandra.service.CassandraDaemon",
	)
	return args, nil
}

// Token returns the i-th of n tokens spread evenly over the Murmur3 ring.
func Token(i, n int) string {
	step := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(1), 64), big.NewInt(int64(n)))
	t := new(big.Int).Mul(step, big.NewInt(int64(i)))
	return t.Sub(t, new(big.Int).Lsh(big.NewInt(1), 63)).String()
}
