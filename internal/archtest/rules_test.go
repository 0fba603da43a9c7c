package archtest

// module is the path of the root module.
const module = "github.com/zdmproject/terraform-provider-zdm"

// The longest file and the biggest package, in lines, tests and generated files
// not counted: what one sits down to read once, and what one keeps in mind.
const (
	maxFileLines    = 600
	maxPackageLines = 2500
)

// floors is the building, from the ground up. The tens are the floors of the
// design's map (floor 2 is 20 to 29), the units order packages within a floor. A
// package imports only what is lower; a package that is not here has no place.
var floors = map[string]int{
	// Leaves, which know nothing of ours.
	"internal/buildinfo": 0,
	"internal/secret":    0,
	"internal/loglimit":  0,
	"internal/buffer":    0,
	"internal/nbio":      1, // writes out of buffers

	"proxy/phase":         10,
	"proxy/config":        11, // sides index its clusters
	"proxy/endpoint":      10,
	"cql/frame":           10,
	"cql/scan":            10,
	"appliance/supervise": 10,

	"proxy/route":        20,
	"proxy/control":      20,
	"proxy/events":       20,
	"proxy/metrics":      20,
	"proxy/paging":       20,
	"proxy/drivers":      21, // counts them as a status has them
	"proxy/tracing":      20,
	"proxy/timestamp":    20,
	"proxy/rewrite":      20,
	"proxy/faults":       21, // keeps them as a status tells them
	"proxy/tlsconf":      20, // its errors are those of settings
	"proxy/astra":        21, // over tlsconf
	"proxy/prepared":     21, // keeps the route of a statement, and tells it as proxy/control has it
	"appliance/adminapi": 21, // a status carries the proxy's own

	"proxy/cluster":          22, // tells its status as proxy/control has it
	"proxy/upstream":         30,
	"proxy/transport":        31, // sets how a cluster is dialled
	"proxy/virtual":          31, // answers out of a cluster's topology
	"proxy/merge":            31, // tells upstream's errors
	"proxy/client":           31, // tells what it appended to upstream's batches
	"proxy/session":          32, // asks all of them
	"appliance/client":       30,
	"appliance/store":        30,
	"appliance/access":       30,
	"appliance/recent":       30,
	"internal/lab/cassandra": 30,
	"internal/lab/journal":   30,

	"proxy":               40,
	"appliance/rollout":   40,
	"appliance/gate":      41, // reads views of a rollout
	"appliance":           41,
	"provider/explain":    40,
	"appliance/adminhttp": 42, // serves what the agent does
	"internal/lab/load":   40,
	"internal/lab/verify": 40,

	"provider":          50,
	"internal/lab":      50,
	"internal/lab/demo": 51,

	"":                  60, // main.go, the provider's server
	"cmd/zdm-proxy":     60,
	"cmd/zdm-appliance": 60,
	"cmd/zdm-lab":       60,
}

// testOnly packages serve tests and benchmarks. They may import anything, and
// only tests and each other may import them.
var testOnly = map[string]bool{
	"internal/archtest":    true,
	"internal/astratest":   true,
	"internal/certtest":    true,
	"internal/cqltest":     true,
	"internal/faultconn":   true,
	"internal/lab/labtest": true,
	"bench":                true,
	"drivers":              true,
}

// forbidden imports are wrong for a reason that floors do not tell. Paths match
// themselves and what is below them; own packages are written without module.
var forbidden = []struct{ from, to, why string }{
	{"provider", "proxy", "the provider speaks to agents; of the proxy it knows phases and settings only"},
	{"provider", "cql", "the provider speaks to agents, never to a database"},
	{"provider", "github.com/apache/cassandra-gocql-driver", "the provider speaks to agents, never to a database"},
	{"provider", "github.com/gocql/gocql", "the provider speaks to agents, never to a database"},
	{"provider", "internal/lab", "the lab is for tests and demonstrations"},
	{"proxy", "appliance", "the proxy knows nothing of its administration; proxy/control is all they share"},
	{"proxy", "github.com/hashicorp", "the proxy knows nothing of Terraform"},
	{"proxy", "net/http", "the proxy knows nothing of HTTP; cmd/zdm-proxy serves its metrics and control socket"},
	{"proxy", "github.com/apache/cassandra-gocql-driver", "the proxy speaks the protocol itself"},
	{"cql", "github.com/datastax/go-cassandra-native-protocol", "it is the independent oracle of this package's tests"},
	{"appliance", "github.com/hashicorp", "the agent knows nothing of Terraform"},
	{"appliance", "github.com/apache/cassandra-gocql-driver", "the agent speaks to the proxy, never to a database"},
	{"appliance", "cql", "the agent speaks to the proxy, never to a database"},
	{"proxy/phase", "time", "the table of phases is values only"},
	{"proxy/config", "os", "settings are handed in; who reads files and environment is the command"},
	{"proxy/config", "net", "settings are checked without asking the network"},
	{"proxy/route", "net", "a decision does no I/O"},
	{"appliance/rollout", "net", "a rollout is statuses in, next action out"},
}

// allowed are the exceptions to forbidden, each as narrow as one package.
var allowed = []struct{ from, to, why string }{
	{"provider", "proxy/phase", "the one table of phases"},
	{"provider", "proxy/config", "the one table of settings"},
	{"provider", "proxy/control", "a status carries the proxy's own"},
	{"proxy/astra", "net/http", "a bundle's nodes are asked of a metadata service over HTTPS"},
	{"proxy/config", "net/netip", "addresses are values"},
	{"proxy/route", "net/netip", "addresses are values"},
	{"appliance/rollout", "net/netip", "addresses are values"},
}

// drawers are names that say nothing of what is inside.
var drawers = map[string]bool{"util": true, "utils": true, "common": true, "helper": true, "helpers": true, "misc": true, "shared": true, "base": true}
