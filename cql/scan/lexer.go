package scan

// TokenKind is the kind of a Token.
type TokenKind uint8

// The kinds of token.
const (
	End    TokenKind = iota // of the text
	Broken                  // a string, name or comment without its end; only End follows
	Word                    // a keyword or unquoted name
	Quoted                  // "name"
	String                  // 'text' or $$text$$
	Number                  // also 0xCAFE and 1h30m
	UUID
	Bind  // ? or :name
	Punct // anything else; Op is the byte
)

// Token is a piece of a statement. Text points into it, and has the quotes.
type Token struct {
	Kind TokenKind
	// Op is the byte of a Punct; for += and -= it is Increment and Decrement.
	Op    byte
	Start int // in the text
	Text  []byte
}

// The operators of two bytes that matter.
const (
	Increment byte = 1 // +=
	Decrement byte = 2 // -=
)

// End is where the text goes on after t.
func (t *Token) End() int { return t.Start + len(t.Text) }

// Is reports whether t is the keyword, given in lower case.
func (t *Token) Is(keyword string) bool { return t.Kind == Word && equalFold(t.Text, keyword) }

// IsOp reports whether t is the Punct with that byte.
func (t *Token) IsOp(op byte) bool { return t.Kind == Punct && t.Op == op }

// Ident returns t as a name; the zero Ident if it cannot be one.
func (t *Token) Ident() Ident {
	switch t.Kind {
	case Word:
		return Ident{Raw: t.Text}
	case Quoted:
		return Ident{Raw: t.Text[1 : len(t.Text)-1], Quoted: true}
	}
	return Ident{}
}

// Lexer cuts a statement into tokens. White space and comments (-- and // to the
// end of the line, and /* */, which do not nest) are left out.
type Lexer struct {
	text []byte
	off  int

	// Open brackets. The low bit of braces is 1 if the innermost one is {; 64
	// levels are remembered.
	depth  int
	braces uint64
	// A term ended just before: within braces a colon then parts a key from its
	// value; elsewhere it begins a bind marker.
	afterTerm bool
}

// NewLexer returns a lexer at the start of text. A byte order mark is left out.
func NewLexer(text []byte) Lexer {
	l := Lexer{text: text}
	if len(text) >= 3 && text[0] == 0xEF && text[1] == 0xBB && text[2] == 0xBF {
		l.off = 3
	}
	return l
}

// Depth is the number of brackets of any kind that are open after the last token.
func (l *Lexer) Depth() int { return l.depth }

// Classes of bytes.
const (
	classSpace = 1 << iota
	classLetter
	classDigit
	classHex
	classUnderscore

	classWord = classLetter | classDigit | classUnderscore
)

var classes = func() (t [256]byte) {
	for _, c := range " \t\r\n\f\v" {
		t[c] = classSpace
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = classLetter, classLetter
	}
	for c := '0'; c <= '9'; c++ {
		t[c] = classDigit | classHex
	}
	for c := 'a'; c <= 'f'; c++ {
		t[c] |= classHex
		t[c-'a'+'A'] |= classHex
	}
	t['_'] = classUnderscore
	return t
}()

// Next returns the next token.
func (l *Lexer) Next() (t Token) {
	l.next(&t)
	return t
}

func (l *Lexer) next(t *Token) {
	if l.off < len(l.text) && classes[l.text[l.off]]&classWord == 0 && !l.skipSpace() {
		t.Kind, t.Op, t.Start, t.Text = Broken, 0, l.off, l.text[l.off:]
		l.off = len(l.text)
		return
	}
	start := l.off
	if start >= len(l.text) {
		t.Kind, t.Op, t.Start, t.Text = End, 0, start, nil
		return
	}
	kind, op := l.scan()
	l.afterTerm = kind != Punct || op == ')' || op == ']' || op == '}'
	t.Kind, t.Op, t.Start, t.Text = kind, op, start, l.text[start:l.off]
}

// scan reads over the token that begins at l.off.
func (l *Lexer) scan() (kind TokenKind, op byte) {
	c := l.text[l.off]
	switch class := classes[c]; {
	case class&classHex != 0 && l.isUUID():
		l.off += uuidLen
		return UUID, 0
	case c == 'P' && l.isPeriod():
		l.off += periodLen
		return Number, 0
	case class&classLetter != 0:
		l.word()
		return Word, 0
	case class&classDigit != 0:
		l.number()
		return Number, 0
	}
	var whole bool
	switch c {
	case '\'':
		kind, whole = String, l.quoted(c)
	case '"':
		kind, whole = Quoted, l.quoted(c)
	case '$':
		if l.at(1) != '$' {
			return l.punct(c)
		}
		kind, whole = String, l.dollars()
	case '?':
		l.off++
		return Bind, 0
	case ':':
		if l.namedMarker() {
			return Bind, 0
		}
		return l.punct(c)
	default:
		return l.punct(c)
	}
	if !whole {
		l.off = len(l.text)
		return Broken, 0
	}
	return kind, 0
}

func (l *Lexer) word() {
	i := l.off
	for i < len(l.text) && classes[l.text[i]]&classWord != 0 {
		i++
	}
	l.off = i
}

func (l *Lexer) at(i int) byte {
	if l.off+i < len(l.text) {
		return l.text[l.off+i]
	}
	return 0
}

func (l *Lexer) punct(c byte) (TokenKind, byte) {
	l.off++
	switch c {
	case '(', '[':
		l.depth++
		l.braces <<= 1
	case '{':
		l.depth++
		l.braces = l.braces<<1 | 1
	case ')', ']', '}':
		l.depth--
		l.braces >>= 1
	case '+':
		if l.at(0) == '=' {
			l.off++
			return Punct, Increment
		}
	case '-':
		if l.at(0) == '=' {
			l.off++
			return Punct, Decrement
		}
	}
	return Punct, c
}

// namedMarker reads over a colon and the name after it, if they are a bind
// marker.
func (l *Lexer) namedMarker() bool {
	if l.afterTerm && l.braces&1 != 0 {
		return false
	}
	colon := l.off
	l.off++
	if l.skipSpace() && l.off < len(l.text) {
		switch c := l.text[l.off]; {
		case classes[c]&classLetter != 0:
			l.word()
			return true
		case c == '"' && l.quoted(c):
			return true
		}
	}
	l.off = colon
	return false
}

// skipSpace goes to the next token; false for a comment without end.
func (l *Lexer) skipSpace() bool {
	for l.off < len(l.text) {
		c := l.text[l.off]
		switch {
		case classes[c] == classSpace:
			l.off++
		case c == '-' && l.at(1) == '-', c == '/' && l.at(1) == '/':
			// A carriage return ends the line too, as in Cassandra's grammar.
			for l.off < len(l.text) && l.text[l.off] != '\n' && l.text[l.off] != '\r' {
				l.off++
			}
		case c == '/' && l.at(1) == '*':
			end := l.off + 2
			for end+1 < len(l.text) && (l.text[end] != '*' || l.text[end+1] != '/') {
				end++
			}
			if end+1 >= len(l.text) {
				return false
			}
			l.off = end + 2
		default:
			return true
		}
	}
	return true
}

// quoted reads to the end of a string or name; a doubled quote is one of its
// bytes.
func (l *Lexer) quoted(quote byte) bool {
	for i := l.off + 1; i < len(l.text); i++ {
		if l.text[i] != quote {
			continue
		}
		if i+1 < len(l.text) && l.text[i+1] == quote {
			i++
			continue
		}
		l.off = i + 1
		return true
	}
	return false
}

func (l *Lexer) dollars() bool {
	for i := l.off + 2; i+1 < len(l.text); i++ {
		if l.text[i] == '$' && l.text[i+1] == '$' {
			l.off = i + 2
			return true
		}
	}
	return false
}

// number reads digits and what may follow: a fraction, an exponent with its
// sign, hexadecimal digits, the units of a duration.
func (l *Lexer) number() {
	start := l.off
	hex := l.text[start] == '0' && l.at(1)|0x20 == 'x'
	for l.off < len(l.text) {
		c := l.text[l.off]
		switch {
		case classes[c]&(classLetter|classDigit) != 0:
		case c == '.' && classes[l.at(1)]&classDigit != 0 && l.text[l.off-1] != '.':
		case (c == '-' || c == '+') && !hex && l.text[l.off-1]|0x20 == 'e' && classes[l.at(1)]&classDigit != 0:
		default:
			return
		}
		l.off++
	}
}

const uuidLen = 36

// isUUID looks for 8-4-4-4-12 hexadecimal digits: its dashes are no minus signs.
func (l *Lexer) isUUID() bool {
	if len(l.text)-l.off < uuidLen || l.text[l.off+8] != '-' {
		return false
	}
	for i, c := range l.text[l.off : l.off+uuidLen] {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if classes[c]&classHex == 0 {
			return false
		}
	}
	return true
}

const period = "P0000-00-00T00:00:00"

// periodLen is the length of a duration in that one of its forms that has
// dashes. Those without are words here.
const periodLen = len(period)

func (l *Lexer) isPeriod() bool {
	if len(l.text)-l.off < periodLen || l.text[l.off+5] != '-' {
		return false
	}
	for i, c := range l.text[l.off : l.off+periodLen] {
		if c != period[i] && (period[i] != '0' || classes[c]&classDigit == 0) {
			return false
		}
	}
	return true
}

// equalFold compares ASCII letters without case; lower is in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range len(lower) {
		if c := b[i]; c != lower[i] && (c|0x20 != lower[i] || classes[c]&classLetter == 0) {
			return false
		}
	}
	return true
}
