// Package route decides where a statement goes: (phase, statement) -> plan.
//
// Floor 2: pure functions over values of proxy/phase and cql/scan. It knows no
// connections, no sessions and no settings but those in Options; it starts no
// goroutine, and allocates nothing.
package route

import (
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Class is what a statement means for routing. The zero value is a write: what
// cannot be read goes to both sides.
type Class uint8

const (
	// Write goes to every side that the phase writes to.
	Write Class = iota
	// Read is answered by the primary; the phase may send a copy elsewhere.
	Read
	// SystemRead reads a system keyspace: one side answers, never a copy.
	SystemRead
	// Describe is DESCRIBE: a read of the primary's schema, with pages.
	Describe
	// Virtual reads system.local or system.peers: the proxy answers.
	Virtual
	// NoPeersV2 reads system.peers_v2, which the proxy says does not exist, so
	// that drivers fall back to system.peers.
	NoPeersV2
	// Use changes the session's keyspace on every side.
	Use
	// Insights is DSE's CALL InsightsRpc: the proxy says that it is not served.
	Insights
)

var classNames = [...]string{
	Write: "write", Read: "read", SystemRead: "system-read", Describe: "describe", Virtual: "virtual",
	NoPeersV2: "no-peers-v2", Use: "use", Insights: "insights",
}

func (c Class) String() string { return classNames[c] }

// IsRead reports whether a statement of the class changes nothing.
func (c Class) IsRead() bool { return c != Write && c != Use }

// Classify reads a statement's class. keyspace is the one that applies to an
// unqualified table: the request's own, or else the session's; "" for none.
func Classify(s *scan.Statement, keyspace string) Class {
	switch s.Kind {
	case scan.Select:
		return classifySelect(s, keyspace)
	case scan.Use:
		return Use
	case scan.Describe:
		return Describe
	case scan.Call:
		return Insights
	}
	return Write
}

func classifySelect(s *scan.Statement, keyspace string) Class {
	if len(s.Keyspace.Raw) == 0 {
		if !systemName(keyspace) {
			return Read
		}
		if keyspace != "system" {
			return SystemRead
		}
	} else if !s.Keyspace.Is("system") {
		if systemIdent(s.Keyspace) {
			return SystemRead
		}
		return Read
	}
	switch {
	case s.Table.Is("local"), s.Table.Is("peers"):
		return Virtual
	case s.Table.Is("peers_v2"):
		return NoPeersV2
	}
	return SystemRead
}

func systemIdent(id scan.Ident) bool {
	return hasPrefixFold(id.Raw, "system_") || hasPrefixFold(id.Raw, "dse_") || id.Is("system")
}

func systemName(name string) bool {
	return name == "system" || len(name) > 7 && name[:7] == "system_" || len(name) > 4 && name[:4] == "dse_"
}

// hasPrefixFold compares ASCII letters without case; prefix is lower case. A
// quoted name with capitals is no system keyspace, but cannot exist either:
// Cassandra reserves the prefix.
func hasPrefixFold(b []byte, prefix string) bool {
	if len(b) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != prefix[i] {
			return false
		}
	}
	return true
}

// Options are the settings that routing depends on.
type Options struct {
	// SystemQueries answers system queries in the phases that need both sides.
	SystemQueries phase.Side
	// ShadowReads sends copies of reads to Origin in cut_over.
	ShadowReads bool
}

// Plan says where one request goes. It is a value, and holds for the whole
// exchange even if the phase changes meanwhile.
type Plan struct {
	// Legs are the sides whose answer the client waits for.
	Legs phase.Set
	// Answer is the side whose answer the client gets when all legs succeed.
	Answer phase.Side
	// Shadow is the side that gets a copy, whose answer is dropped; valid if
	// HasShadow.
	Shadow    phase.Side
	HasShadow bool
}

// Decide makes the plan of a statement that goes to a cluster at all; Virtual,
// NoPeersV2 and Insights do not.
func Decide(r *phase.Rule, c Class, o Options) Plan {
	switch c {
	case Read:
		p := Plan{Legs: phase.Of(r.Primary), Answer: r.Primary}
		if r.HasShadow && (!r.ShadowOptional || o.ShadowReads) {
			p.Shadow, p.HasShadow = r.Shadow, true
		}
		return p
	case SystemRead:
		side := SystemSide(r, o)
		return Plan{Legs: phase.Of(side), Answer: side}
	case Describe:
		return Plan{Legs: phase.Of(r.Primary), Answer: r.Primary}
	}
	return Plan{Legs: r.Writes, Answer: r.Primary}
}

// Page makes the plan of a request for a further page: it goes to the side that
// gave the first one, whatever the phase is now, and nowhere else.
func Page(issuer phase.Side) Plan {
	return Plan{Legs: phase.Of(issuer), Answer: issuer}
}

// Prepare makes the plan of PREPARE. The client knows a statement by Origin's
// id wherever Origin takes part, as with ZDM.
func Prepare(r *phase.Rule) Plan {
	answer := phase.Target
	if r.Needed.Has(phase.Origin) {
		answer = phase.Origin
	}
	return Plan{Legs: r.Needed, Answer: answer}
}

// SystemSide is the side that answers system queries and whose schema events
// clients get.
func SystemSide(r *phase.Rule, o Options) phase.Side {
	if r.Needed == phase.Both {
		return o.SystemQueries
	}
	return r.Primary
}

// Unstamped reports whether each cluster gives the statement a timestamp of its
// own unless the request has one: then the later of two writes may not be the same
// on both sides. Paxos and counters use no client's timestamp.
func Unstamped(st *scan.Statement) bool {
	switch st.Kind {
	case scan.Insert, scan.Update, scan.Delete, scan.Batch:
		return !st.HasTimestamp && !st.CAS && !st.Counter
	}
	return false
}
