package scan

// dml reads an INSERT, UPDATE or DELETE up to the token after it, and reports
// whether it is idempotent.
func (s *scanner) dml(inBatch bool) bool {
	functions := s.st.Functions
	s.st.Functions = 0
	whole := false
	switch {
	case s.tok.Is("insert"):
		s.st.Kind = Insert
		whole = s.insert()
	case s.tok.Is("update"):
		s.st.Kind = Update
		whole = s.update(inBatch)
	default:
		s.st.Kind = Delete
		whole = s.delete(inBatch)
	}
	cas := s.tail(inBatch)
	idempotent := whole && !cas && s.st.Functions == 0 && s.tok.Kind != Broken && s.lex.Depth() == 0
	s.st.Functions |= functions
	return idempotent
}

// tail reads what is left of a statement. IF is reserved: outside of brackets
// it is a condition.
func (s *scanner) tail(inBatch bool) (cas bool) {
	using := false
	for !s.endsClause(inBatch) {
		switch {
		case s.tok.Kind != Word || s.lex.Depth() != 0:
		case s.tok.Is("if"):
			cas = true
		case s.tok.Is("using"):
			using = true
		case s.tok.Is("where"):
			using = false
		case using:
			s.noteTimestamp()
		}
		s.advance()
	}
	s.st.CAS = s.st.CAS || cas
	return cas
}

// insert: INSERT INTO table (columns) VALUES (terms) | INSERT INTO table JSON
// text. What comes after is read by tail.
func (s *scanner) insert() (whole bool) {
	s.advance()
	if !s.tok.Is("into") {
		return false
	}
	s.advance()
	s.table()
	if s.tok.Is("json") {
		s.advance()
		return s.tok.Kind == String || s.tok.Kind == Bind
	}
	if !s.tok.IsOp('(') {
		return false
	}
	for !s.atEnd() && !(s.tok.IsOp(')') && s.lex.Depth() == 0) {
		s.advance()
	}
	s.advance()
	if !s.tok.Is("values") {
		return false
	}
	s.advance()
	return s.tok.IsOp('(')
}

// update: UPDATE table [USING ...] SET assignments WHERE ...
func (s *scanner) update(inBatch bool) (idempotent bool) {
	s.advance()
	s.table()
	if s.tok.Is("using") {
		for !s.endsClause(inBatch) && !(s.tok.Is("set") && s.lex.Depth() == 0) {
			s.noteTimestamp()
			s.advance()
		}
	}
	if !s.tok.Is("set") {
		return false
	}
	idempotent = true
	for {
		s.advance()
		if !s.assignment(inBatch) {
			idempotent = false
		}
		if !s.tok.IsOp(',') {
			break
		}
	}
	return idempotent && s.tok.Is("where")
}

// assignment reads one of the assignments of SET up to the comma or word after
// it. Adding to a column, or subtracting from it, is idempotent only for a set
// or map, which a literal shows; of a bind marker, a number or a name it may be
// a counter.
func (s *scanner) assignment(inBatch bool) (idempotent bool) {
	for !s.endsAssignment(inBatch) && !(s.lex.Depth() == 0 && (s.tok.IsOp('=') || s.tok.IsOp(Increment) || s.tok.IsOp(Decrement))) {
		s.advance()
	}
	if s.endsAssignment(inBatch) {
		return false
	}
	if !s.tok.IsOp('=') {
		s.advance()
		idempotent = s.operand()
		for !s.endsAssignment(inBatch) {
			s.advance()
		}
		return idempotent
	}
	s.advance()
	if s.endsAssignment(inBatch) {
		return false
	}
	idempotent = true
	column := s.tok.Kind == Word || s.tok.Kind == Quoted
	s.advance() // a sign in front of the first term is no operator
	column = column && !s.tok.IsOp('(') && !s.tok.IsOp('.')
	for !s.endsAssignment(inBatch) {
		operator := s.lex.Depth() == 0 && (s.tok.IsOp('+') || s.tok.IsOp('-'))
		s.advance()
		switch {
		case !operator:
		case !column && (s.tok.Kind == Word || s.tok.Kind == Quoted):
			idempotent = false // list = [x] + list
		case !column: // arithmetic
		case !s.operand():
			idempotent = false
		}
	}
	return idempotent
}

// operand looks at what is added to a column or taken from it, and reports
// whether doing so twice is the same as once.
func (s *scanner) operand() (idempotent bool) {
	switch {
	case s.tok.IsOp('{'):
		return true
	case s.tok.IsOp('['), s.tok.Kind == String:
	default:
		s.st.Counter = true
	}
	return false
}

func (s *scanner) endsAssignment(inBatch bool) bool {
	return s.endsClause(inBatch) || s.lex.Depth() == 0 && (s.tok.IsOp(',') || s.tok.Is("where") || s.tok.Is("if"))
}

// delete: DELETE [selections] FROM table [USING ...] WHERE ... An element is
// deleted from a map or from a list; only a key that cannot be an index shows
// which, and deleting by index twice deletes two.
func (s *scanner) delete(inBatch bool) (idempotent bool) {
	idempotent = true
	s.advance()
	for !s.endsClause(inBatch) && !(s.lex.Depth() == 0 && s.tok.Is("from")) {
		open := s.tok.IsOp('[')
		s.advance()
		if open && s.tok.Kind != String && s.tok.Kind != UUID {
			idempotent = false
		}
	}
	if !s.tok.Is("from") {
		return false
	}
	s.advance()
	s.table()
	using := s.tok.Is("using")
	for !s.endsClause(inBatch) && !(s.lex.Depth() == 0 && s.tok.Is("where")) {
		if using {
			s.noteTimestamp()
		}
		s.advance()
	}
	return idempotent && s.tok.Is("where")
}
