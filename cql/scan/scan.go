package scan

import "bytes"

// Scan reads one statement. It never fails: what it does not know is Other, and
// a statement that breaks off has what was found up to there and is not
// idempotent. Text is a QUERY's or PREPARE's, or that of one child of a BATCH.
func Scan(text []byte) Statement {
	var s scanner
	s.lex = NewLexer(text)
	s.advance()
	for s.tok.IsOp(';') {
		s.advance()
	}
	s.statement()
	return s.st
}

type scanner struct {
	lex Lexer
	tok Token
	st  Statement

	// To see a function call: the last two names, and whether a dot is between.
	// Only where they are: copying whole tokens showed in profiles.
	prev, qualifier name
	dotted          bool
	inName          bool // a table's name: what follows it is no argument list
}

// name is where a name is in the text.
type name struct {
	start, end int
	quoted     bool
}

func (s *scanner) ident(n name) Ident {
	if n.quoted {
		return Ident{Raw: s.lex.text[n.start+1 : n.end-1], Quoted: true}
	}
	return Ident{Raw: s.lex.text[n.start:n.end]}
}

// advance goes to the next token, and notes bind markers and function calls.
func (s *scanner) advance() {
	last, lastOp := s.tok.Kind, s.tok.Op
	s.lex.next(&s.tok)
	switch s.tok.Kind {
	case Bind:
		s.st.BindMarkers++
	case Word, Quoted:
		s.dotted = last == Punct && lastOp == '.'
		if s.dotted {
			s.qualifier = s.prev
		}
		s.prev = name{s.tok.Start, s.tok.End(), s.tok.Kind == Quoted}
	case Punct:
		if s.tok.Op == '(' && !s.inName && (last == Word || last == Quoted) {
			s.call()
		}
	}
}

// statement reads the statement that begins at the current token.
func (s *scanner) statement() {
	first := s.tok
	if first.Kind != Word {
		return
	}
	switch {
	case first.Is("select"):
		s.selection()
	case s.isDML():
		idempotent := s.dml(false)
		s.st.Idempotent = s.ends() && idempotent
	case first.Is("begin"):
		s.batch()
	case first.Is("truncate"):
		s.st.Kind = Truncate
		s.advance()
		if s.tok.Is("table") || s.tok.Is("columnfamily") {
			s.advance()
		}
		s.table()
	case first.Is("use"):
		s.st.Kind = Use
		s.advance()
		s.st.Keyspace = s.tok.Ident()
	case first.Is("describe"), first.Is("desc"):
		s.st.Kind = Describe
	case first.Is("create"), first.Is("alter"), first.Is("drop"):
		s.definition()
	case first.Is("grant"), first.Is("revoke"), first.Is("list"), first.Is("restrict"), first.Is("unrestrict"):
		s.st.Kind = DCL
	case first.Is("add"):
		s.advance()
		if s.tok.Is("identity") { // Cassandra 5.0: ADD IDENTITY 'x' TO ROLE 'y'
			s.st.Kind = DCL
		}
	case first.Is("call"):
		s.st.Kind = Call
	}
}

// definition reads CREATE, ALTER and DROP as far as the kind of object.
func (s *scanner) definition() {
	s.st.Kind = DDL
	s.advance()
	if s.tok.Is("generated") { // CREATE GENERATED ROLE
		s.advance()
	}
	if s.tok.Is("role") || s.tok.Is("user") || s.tok.Is("identity") {
		s.st.Kind = DCL
	}
}

func (s *scanner) selection() {
	s.st.Kind, s.st.Idempotent = Select, true
	start := s.tok.End()
	s.advance()
	for !s.atEnd() && !(s.tok.Is("from") && s.lex.Depth() == 0) {
		s.advance()
	}
	s.st.SelectClause = bytes.TrimSpace(s.lex.text[start:s.tok.Start])
	if s.atEnd() {
		return
	}
	s.advance()
	end := s.table()
	s.st.Rest = bytes.TrimSpace(s.lex.text[end:])
	for !s.atEnd() {
		s.advance()
	}
}

// atEnd is for a statement that is not in a batch.
func (s *scanner) atEnd() bool {
	return s.tok.Kind == End || s.tok.Kind == Broken
}

// table reads the name of a table at the current token, goes to the token after
// it, and returns where the name ends in the text. Only the first table of a
// statement is kept.
func (s *scanner) table() (end int) {
	name := s.tok.Ident()
	end = s.tok.Start
	if name.IsZero() {
		return end
	}
	var keyspace Ident
	end = s.tok.End()
	s.inName = true
	s.advance()
	if s.tok.IsOp('.') {
		s.advance()
		keyspace, name = name, s.tok.Ident()
		end = s.tok.End()
		if !name.IsZero() {
			s.advance()
		}
	}
	s.inName = false
	if s.st.Table.IsZero() && !name.IsZero() {
		s.st.Keyspace, s.st.Table = keyspace, name
	}
	return end
}

// batch reads BEGIN [UNLOGGED | COUNTER] BATCH [USING ...] statements APPLY
// BATCH. BEGIN TRANSACTION is Other.
func (s *scanner) batch() {
	s.advance()
	switch {
	case s.tok.Is("unlogged"):
		s.st.Unlogged = true
		s.advance()
	case s.tok.Is("counter"):
		s.st.Counter = true
		s.advance()
	case s.tok.Is("logged"):
		s.advance()
	}
	if !s.tok.Is("batch") {
		s.st.Unlogged, s.st.Counter = false, false
		return
	}
	s.advance()
	if s.tok.Is("using") {
		for !s.endsClause(true) {
			s.noteTimestamp()
			s.advance()
		}
	}
	idempotent := s.st.Functions == 0 // of USING
	for s.isDML() {
		if !s.dml(true) {
			idempotent = false
		}
		for s.tok.IsOp(';') {
			s.advance()
		}
	}
	s.st.Kind = Batch
	s.st.Idempotent = s.applied() && idempotent && !s.st.Counter
}

// applied reads APPLY BATCH, and reports whether it is there and nothing but
// semicolons comes after it.
func (s *scanner) applied() bool {
	if !s.tok.Is("apply") {
		return false
	}
	s.advance()
	if !s.tok.Is("batch") {
		return false
	}
	s.advance()
	return s.ends()
}

// ends reads semicolons, and reports whether nothing else is left.
func (s *scanner) ends() bool {
	for s.tok.IsOp(';') {
		s.advance()
	}
	return s.tok.Kind == End
}

func (s *scanner) isDML() bool {
	return s.tok.Is("insert") || s.tok.Is("update") || s.tok.Is("delete")
}

// endsClause reports whether the current token is none of the statement any
// more: a semicolon, the end, or in a batch, where semicolons may be left out,
// one of the reserved words that the next statement begins with.
func (s *scanner) endsClause(inBatch bool) bool {
	if s.atEnd() {
		return true
	}
	if s.lex.Depth() != 0 {
		return false
	}
	return s.tok.IsOp(';') || inBatch && (s.isDML() || s.tok.Is("apply"))
}

func (s *scanner) noteTimestamp() {
	if s.tok.Is("timestamp") {
		s.st.HasTimestamp = true
	}
}
