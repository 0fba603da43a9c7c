package virtual

import (
	"fmt"
	"strings"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

// Select is a parsed SELECT on one of the tables. Names are not checked yet:
// columns depend on the cluster, which may change between PREPARE and EXECUTE.
type Select struct {
	table     string
	json      bool
	distinct  bool
	star      bool
	selectors []selector
	relations []relation
	limit     *term
	filtering bool
	markers   []marker
}

// selector is one item of a select list.
type selector struct {
	expression
	alias string
}

// relation is column = term, or column IN list.
type relation struct {
	column string
	in     bool
	// terms is one for =. For IN it is the list, or, if whole is set, one
	// marker that is bound to a list.
	terms []term
	whole bool
}

// term is a literal or a bind marker.
type term struct {
	kind tokenKind // tokString, tokNumber, tokUUID, tokWord (true, false) or tokMarker
	text string
	// marker is the index among the statement's markers.
	marker int
}

// marker is a bind variable: what it is bound to decides its type.
type marker struct {
	name string
	// column it is compared with; "" for LIMIT.
	column string
	// list: it is bound to a list of such values. equal: it alone is compared.
	list, equal bool
}

// maxText bounds the text of a statement, in bytes: an IN with two thousand
// addresses. Nobody needs more of these tables, and parsing is not made for it.
const maxText = 64 << 10

// Parse reads a SELECT on system.local, system.peers or system.peers_v2 from
// the text between SELECT and FROM and the text after the table's name. The
// last table is always refused: a client that is told so asks for system.peers.
func Parse(table, selectClause, rest string) (*Select, *frame.ErrorBody) {
	if table != "local" && table != "peers" {
		return nil, invalid("unconfigured table %s", table)
	}
	if n := len(selectClause) + len(rest); n > maxText {
		return nil, invalid("a statement of %d bytes on system.%s, which the proxy answers itself, exceeds %d", n, table, maxText)
	}
	s := &Select{table: table}
	p := &parser{tokens: tokenize(selectClause)}
	s.parseClause(p)
	if p.problem == nil && p.peek().kind != tokEnd {
		p.syntax()
	}
	if p.problem != nil {
		return nil, p.problem
	}
	p = &parser{tokens: tokenize(rest)}
	s.parseRest(p)
	return s, p.problem
}

func invalid(format string, args ...any) *frame.ErrorBody {
	return &frame.ErrorBody{Code: frame.ErrInvalid, Message: fmt.Sprintf(format, args...)}
}

// parser walks tokens and keeps the first problem, after which every token is
// the end.
type parser struct {
	tokens  []token
	problem *frame.ErrorBody
}

func (p *parser) peek() token {
	if p.problem != nil || len(p.tokens) == 0 {
		return token{kind: tokEnd}
	}
	return p.tokens[0]
}

func (p *parser) next() token {
	t := p.peek()
	if t.kind != tokEnd {
		p.tokens = p.tokens[1:]
	}
	return t
}

// take consumes a keyword or punctuation if it is next.
func (p *parser) take(text string) bool {
	if t := p.peek(); t.is(text) {
		p.next()
		return true
	}
	return false
}

func (p *parser) expect(text string) {
	if !p.take(text) {
		p.syntax()
	}
}

func (p *parser) fail(problem *frame.ErrorBody) {
	if p.problem == nil {
		p.problem = problem
	}
}

func (p *parser) syntax() {
	near := p.peek().text
	switch p.peek().kind {
	case tokEnd:
		near = "<EOF>"
	case tokMarker:
		near = "?"
	}
	p.fail(&frame.ErrorBody{Code: frame.ErrSyntax, Message: "no viable alternative at input '" + near + "'"})
}

// unsupported refuses what the real table would take.
func (p *parser) unsupported(s *Select, what string) {
	p.fail(unsupported(s.table, what))
}

func unsupported(table, what string) *frame.ErrorBody {
	return invalid("%s is not supported on system.%s, which the proxy answers itself; select its columns and work on them in the client", what, table)
}

// name takes a column's name.
func (p *parser) name() string {
	t := p.peek()
	switch t.kind {
	case tokWord:
		p.next()
		return strings.ToLower(t.text)
	case tokQuoted:
		p.next()
		return t.text
	}
	p.syntax()
	return ""
}

func (s *Select) parseClause(p *parser) {
	if t := p.peek(); t.is("json") && len(p.tokens) > 1 && !p.tokens[1].is(",") && !p.tokens[1].is("as") {
		p.next()
		s.json = true
	}
	if t := p.peek(); t.is("distinct") && len(p.tokens) > 1 && !p.tokens[1].is(",") && !p.tokens[1].is("as") {
		p.next()
		s.distinct = true
	}
	if p.take("*") {
		s.star = true
		return
	}
	for {
		s.selectors = append(s.selectors, s.parseSelector(p))
		if !p.take(",") {
			return
		}
	}
}

func (s *Select) parseSelector(p *parser) selector {
	sel := selector{expression: s.parseExpression(p, 0)}
	if p.take("as") {
		sel.alias = p.name()
	}
	if t := p.peek(); t.kind == tokPunctuation && strings.Contains("+-*/%", t.text) {
		p.unsupported(s, "arithmetic")
	}
	return sel
}

// parseExpression takes what stands in a select list, within depth calls.
func (s *Select) parseExpression(p *parser, depth int) expression {
	switch t := p.peek(); t.kind {
	case tokString, tokNumber, tokUUID:
		p.unsupported(s, "the literal "+t.text+" in a select list")
	case tokMarker:
		p.unsupported(s, "a bind marker in a select list")
	case tokPunctuation:
		if strings.Contains("([{-", t.text) {
			p.unsupported(s, "an expression in a select list")
		}
	}
	if depth > maxDepth {
		p.unsupported(s, "a function within so many others")
	}
	name := p.name()
	if name == "system" && p.take(".") { // its functions may have their keyspace
		name = p.name()
		if !p.peek().is("(") {
			p.syntax()
		}
	}
	switch t := p.peek(); {
	case t.is("("):
		return s.parseCall(p, strings.ToLower(name), depth)
	case t.is("."), t.is("["):
		p.unsupported(s, "a part of column "+name)
	}
	return expression{column: name}
}

// parseCall takes the arguments of a function.
func (s *Select) parseCall(p *parser, function string, depth int) expression {
	e := expression{function: function}
	p.expect("(")
	if t := p.peek(); function == "count" && (t.is("*") || t.text == "1") {
		p.next()
		e.all = true
		p.expect(")")
		return e
	}
	for !p.take(")") && p.problem == nil {
		e.args = append(e.args, s.parseExpression(p, depth+1))
		if function == "cast" {
			p.expect("as")
			e.to = p.name()
			p.expect(")")
			return e
		}
		if !p.peek().is(")") {
			p.expect(",")
		}
	}
	return e
}

// parseRest reads what follows the table's name.
func (s *Select) parseRest(p *parser) {
	if p.take("where") {
		for {
			s.relations = append(s.relations, s.parseRelation(p))
			if !p.take("and") {
				break
			}
		}
	}
	for p.peek().kind != tokEnd {
		switch {
		case p.take("limit"):
			t := s.parseTerm(p, marker{name: "[limit]"})
			s.limit = &t
		case p.take("per"):
			p.expect("partition")
			p.expect("limit")
			// A partition of these tables is one row, so any limit is met.
			if t := s.parseTerm(p, marker{name: "[per_partition_limit]"}); t.kind != tokMarker && t.kind != tokNumber {
				p.syntax()
			}
		case p.take("allow"):
			p.expect("filtering")
			s.filtering = true
		case p.take("order"):
			p.fail(invalid("ORDER BY is only supported when the partition key is restricted by an EQ or an IN."))
		case p.take("group"):
			p.unsupported(s, "GROUP BY")
		case p.take(";"):
			if p.peek().kind != tokEnd {
				p.syntax()
			}
		default:
			p.syntax()
		}
	}
}

func (s *Select) parseRelation(p *parser) relation {
	if p.peek().is("(") {
		p.unsupported(s, "a relation on several columns")
		return relation{}
	}
	r := relation{column: p.name()}
	switch {
	case p.take("="):
		r.terms = []term{s.parseTerm(p, marker{name: r.column, column: r.column, equal: true})}
	case p.take("in"):
		r.in = true
		if t := p.peek(); t.kind == tokMarker {
			r.whole = true
			r.terms = []term{s.parseTerm(p, marker{name: "in(" + r.column + ")", column: r.column, list: true})}
			return r
		}
		p.expect("(")
		for !p.take(")") && p.problem == nil {
			r.terms = append(r.terms, s.parseTerm(p, marker{name: r.column, column: r.column}))
			if !p.peek().is(")") {
				p.expect(",")
			}
		}
	case p.peek().is("("):
		p.unsupported(s, "the function "+r.column)
	default:
		if t := p.peek(); t.kind == tokEnd {
			p.syntax()
		} else {
			p.unsupported(s, "the operator "+strings.ToUpper(t.text))
		}
	}
	return r
}

// parseTerm takes a literal or a marker; bound describes the latter.
func (s *Select) parseTerm(p *parser, bound marker) term {
	t := p.next()
	switch t.kind {
	case tokString, tokNumber, tokUUID:
		return term{kind: t.kind, text: t.text}
	case tokMarker:
		if t.text != "" {
			bound.name = t.text
		}
		s.markers = append(s.markers, bound)
		return term{kind: tokMarker, marker: len(s.markers) - 1}
	case tokWord:
		if p.peek().is("(") {
			p.unsupported(s, "the function "+t.text)
		} else if t.is("true") || t.is("false") {
			return term{kind: tokWord, text: strings.ToLower(t.text)}
		} else if t.is("null") {
			p.fail(invalid("Invalid null value in condition for column %s", bound.column))
		}
	case tokPunctuation:
		if strings.Contains("[{(", t.text) {
			p.unsupported(s, "a collection in a condition")
		}
	}
	if p.problem == nil {
		p.tokens = append([]token{t}, p.tokens...)
		p.syntax()
	}
	return term{}
}
