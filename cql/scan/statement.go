package scan

import "strings"

// Kind is what a statement does.
type Kind uint8

// The kinds of statement.
const (
	Other Kind = iota // not known: to be treated as a write
	Select
	Insert
	Update
	Delete
	Batch
	Truncate
	Use
	Describe
	DDL  // CREATE, ALTER, DROP of anything but roles
	DCL  // GRANT, REVOKE, LIST, and CREATE, ALTER, DROP of roles and users
	Call // DSE: CALL InsightsRpc.reportInsight(...)
)

var kindNames = [...]string{"other", "select", "insert", "update", "delete", "batch", "truncate", "use",
	"describe", "ddl", "dcl", "call"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "invalid"
}

// Functions is a set of functions whose value differs from call to call.
type Functions uint16

// The functions. Each has a name with and one without underscores.
const (
	Now Functions = 1 << iota
	NewUUID
	CurrentTimestamp
	CurrentDate
	CurrentTime
	CurrentTimeUUID
	// UnknownFunction is any that is neither of these nor known to be pure: one
	// that users defined, or that came with a later version.
	UnknownFunction
)

var functionNames = [...]string{"now", "uuid", "current_timestamp", "current_date", "current_time",
	"current_timeuuid", "unknown"}

func (f Functions) String() string {
	var names []string
	for i, name := range functionNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// Statement is what Scan found. Slices point into the text.
type Statement struct {
	Kind Kind
	// Keyspace and Table are those of SELECT, INSERT, UPDATE, DELETE, TRUNCATE,
	// of the first statement in a BATCH, and for USE the keyspace. Keyspace is
	// empty if the text does not name it.
	Keyspace, Table Ident

	CAS      bool // a write with IF; for a BATCH, one of its statements
	Unlogged bool // BEGIN UNLOGGED BATCH
	// Counter: an UPDATE may be of a counter, since it has the form c = c + n; or
	// it is BEGIN COUNTER BATCH.
	Counter bool
	// Idempotent: it may be applied twice without another outcome than once. False
	// where that cannot be told.
	Idempotent bool
	// HasTimestamp: USING TIMESTAMP in the statement, in a BATCH or one of its
	// statements.
	HasTimestamp bool

	Functions   Functions // that are called anywhere in it
	BindMarkers int

	SelectClause []byte // of SELECT: between SELECT and FROM
	Rest         []byte // what follows the table of SELECT
}

// Ident is a name in a statement. Raw is without the quotes around it; doubled
// quotes in it are still doubled. The zero value is no name.
type Ident struct {
	Raw    []byte
	Quoted bool
}

// IsZero reports whether there is no name.
func (id Ident) IsZero() bool { return id.Raw == nil }

// Is reports whether the name is name as the schema has it: unquoted names are
// lower case there.
func (id Ident) Is(name string) bool {
	if !id.Quoted {
		return equalFold(id.Raw, name)
	}
	i := 0
	for j := 0; j < len(id.Raw); j++ {
		if i >= len(name) || id.Raw[j] != name[i] {
			return false
		}
		if id.Raw[j] == '"' {
			j++ // the second of two
		}
		i++
	}
	return i == len(name)
}

// String returns the name as the schema has it. It allocates.
func (id Ident) String() string {
	if id.Quoted {
		return strings.ReplaceAll(string(id.Raw), `""`, `"`)
	}
	return strings.ToLower(string(id.Raw))
}
