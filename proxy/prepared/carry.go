package prepared

import (
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
	"github.com/zdmproject/terraform-provider-zdm/proxy/rewrite"
	"github.com/zdmproject/terraform-provider-zdm/proxy/route"
)

// New makes what a text means, before any side has prepared it. scanned is of text.
func New(text string, class route.Class, scanned *scan.Statement) *Statement {
	return &Statement{
		Text: text, Class: class, Kind: scanned.Kind,
		Idempotent: class.IsRead() || scanned.Idempotent, CAS: scanned.CAS, Counter: scanned.Counter, Unlogged: scanned.Unlogged,
		Unstamped: route.Unstamped(scanned),
	}
}

// Carry tells another process of the statement.
func (s *Statement) Carry() control.Statement {
	told := s.CommonlyTold()
	c := control.Statement{ID: s.ID, Told: told[:], ToldResultID: s.ToldResultID, Text: s.Text, Keyspace: s.Keyspace, Own: s.Own != nil}
	for _, m := range s.Hidden() {
		c.NodeText, c.HiddenNames = s.NodeText(), append(c.HiddenNames, m.Name)
	}
	for _, side := range phase.Sides {
		if md := s.Side(side); md != nil {
			c.Sides[side] = control.Prepared{ID: md.ID, ResultID: md.ResultID, ResultDigest: md.ResultDigest[:]}
		}
	}
	return c
}

// News tells another process of what comes into a cache. Its caller keeps calls
// apart.
type News struct {
	cache *Cache
	known map[*Statement]bool // the other process has them
	added uint64              // to the cache, when known was made
}

// NewNews makes the news for a process that knows nothing of c yet.
func NewNews(c *Cache) *News { return &News{cache: c, known: make(map[*Statement]bool)} }

// Carry are the statements that were not carried before. It looks through the cache
// only if there are any.
func (n *News) Carry() []control.Statement {
	added := n.cache.Added()
	if added == n.added {
		return nil
	}
	n.added = added // before All: what comes between is looked for again
	var out []control.Statement
	for _, st := range n.cache.All() {
		if !n.known[st] {
			n.known[st] = true
			out = append(out, st.Carry())
		}
	}
	return out
}

// Carried is the statement that another process told of. What it means is read
// from its text, as it was when it was prepared. It is nil if the rule wants
// another text now: then the client is to hear UNPREPARED, and prepare again.
func Carried(c *control.Statement, r rewrite.Rule, scanned *scan.Statement) *Statement {
	s := New(c.Text, route.Classify(scanned, c.Keyspace), scanned)
	s.ID, s.Keyspace, s.ToldResultID = c.ID, c.Keyspace, c.ToldResultID
	copy(s.Told[:], c.Told)
	if !s.relearn(r, scanned, c.NodeText, c.HiddenNames) {
		return nil
	}
	for _, side := range phase.Sides {
		if m := c.Sides[side]; m.ID != nil {
			md := &Metadata{ID: m.ID, ResultID: m.ResultID}
			copy(md.ResultDigest[:], m.ResultDigest)
			s.SetSide(side, md)
		}
	}
	return s
}
