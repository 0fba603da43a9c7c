package rewrite

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
)

// Rule says which calls are replaced. The zero value replaces none.
type Rule struct {
	functions scan.Functions
	nested    bool
}

// The rules.
var (
	// TopLevel replaces now() where it is a whole term: one of the VALUES, of an
	// IN, or right of a comparison or assignment. It is what ZDM Proxy does.
	TopLevel = Rule{functions: scan.Now}
	// Everywhere also replaces uuid(), currentTimestamp() and the like, and all of
	// them as arguments, operands, and within collections, tuples and user types.
	// Cassandra takes no bind markers within lists, sets and maps: a statement with
	// a call there is prepared as it is, and its EXECUTE becomes a QUERY.
	Everywhere = Rule{functions: scan.Now | scan.NewUUID | scan.CurrentTimestamp | scan.CurrentDate | scan.CurrentTime | scan.CurrentTimeUUID, nested: true}
)

// NewRule returns the rule of the settings: whether now() is replaced, and with it
// all else.
func NewRule(now, all bool) (r Rule) {
	switch {
	case now && all:
		return Everywhere
	case now:
		return TopLevel
	}
	return r
}

// Wants reports whether a statement may have a call to replace; false for all
// but INSERT, UPDATE, DELETE and BATCH. This is all that a statement without
// such a call costs.
func (r Rule) Wants(st *scan.Statement) bool {
	if st.Functions&r.functions == 0 {
		return false
	}
	switch st.Kind {
	case scan.Insert, scan.Update, scan.Delete, scan.Batch:
		return true
	}
	return false
}

// Inline returns the text with a value of its own for each call, or nil if there
// is none to replace.
func (r Rule) Inline(text []byte, src *Source) []byte {
	calls, _ := r.find(text)
	if calls == nil {
		return nil
	}
	out, from := make([]byte, 0, len(text)+48*len(calls)), 0
	for i := range calls {
		c := &calls[i]
		out = append(out, text[from:c.start]...)
		out = src.appendLiteral(out, c.function, c.cast)
		from = c.end
	}
	return append(out, text[from:]...)
}

// Replacement is what becomes of the calls of a prepared statement: bind markers,
// or literals at each EXECUTE.
type Replacement struct {
	// Text is what the nodes prepare.
	Text string
	// Markers are the added ones, by rising Index; none means literals.
	Markers []Marker
}

// Literal reports whether the nodes get the statement as text each time, since
// they take no marker where it has a call.
func (rep *Replacement) Literal() bool { return rep != nil && len(rep.Markers) == 0 }

// Marker is a bind marker that the client does not know of.
type Marker struct {
	// Index is its place among all bind markers of the text.
	Index    int
	Function scan.Functions // one of them
	// Name is that by which values with names reach it. That of a ? is not known
	// before the answer to PREPARE; it stays empty if another marker has the same.
	Name string
}

// Prepare returns what is to be prepared instead of text, or nil if there is no
// call to replace.
func (r Rule) Prepare(text []byte) *Replacement {
	calls, named := r.find(text)
	switch {
	case calls == nil:
		return nil
	case slices.ContainsFunc(calls, func(c call) bool { return c.collected }):
		return &Replacement{Text: string(text)}
	}
	rep := &Replacement{Markers: make([]Marker, len(calls))}
	out, from := make([]byte, 0, len(text)+16*len(calls)), 0
	suffix := 1
	for i := range calls {
		c, m := &calls[i], &rep.Markers[i]
		m.Index, m.Function = c.index, c.function
		out = append(out, text[from:c.start]...)
		if c.cast {
			out = append(append(append(out, '('), typeName(c.function)...), ')')
		}
		if named {
			// Each has a name of its own: values that are sent by name could not
			// differ otherwise, and Scylla makes one variable of one name.
			m.Name, suffix = freeName(text, c.function, suffix)
			out = append(append(out, ':'), m.Name...)
		} else {
			out = append(out, '?')
		}
		from = c.end
	}
	rep.Text = string(append(out, text[from:]...))
	return rep
}

// freeName returns zdm__now, or the like with a number that the statement does
// not have yet, and the number to go on from.
func freeName(text []byte, f scan.Functions, n int) (name string, next int) {
	for ; ; n++ {
		name = "zdm__" + f.String()
		if n > 1 {
			name += "_" + strconv.Itoa(n)
		}
		if !bytes.Contains(bytes.ToLower(text), []byte(name)) {
			return name, n + 1
		}
	}
}

// call is where a function is called that is to be replaced.
type call struct {
	start, end int // in the text
	function   scan.Functions
	index      int  // of the bind marker that would stand there
	cast       bool // the type does not follow from the place
	collected  bool // within a list, set or map, where no bind marker can be
}

// find returns the calls to replace in the order of the text, and whether its
// bind markers have names.
func (r Rule) find(text []byte) (calls []call, named bool) {
	var tokens []scan.Token
	for lex := scan.NewLexer(text); ; {
		t := lex.Next()
		if t.Kind == scan.Broken {
			return nil, false // the nodes tell what is wrong with it
		}
		tokens = append(tokens, t)
		if t.Kind == scan.End {
			break
		}
	}
	var open brackets
	binds := 0
	for i := 0; i < len(tokens); i++ {
		t := &tokens[i]
		switch t.Kind {
		case scan.Bind:
			binds++
			named = named || t.Text[0] == ':'
		case scan.Punct:
			open.see(tokens, i)
		case scan.Word, scan.Quoted:
			f := functionOf(t)
			if f&r.functions == 0 || i+3 >= len(tokens) || !tokens[i+1].IsOp('(') || !tokens[i+2].IsOp(')') {
				continue
			}
			first := i
			if i > 0 && tokens[i-1].IsOp('.') {
				if i < 2 || !tokens[i-2].Ident().Is("system") {
					continue // somebody's own
				}
				first = i - 2
			}
			if first == 0 {
				continue
			}
			before, after := &tokens[first-1], &tokens[i+3]
			operand := isArithmetic(before) || isArithmetic(after)
			if whole := !operand && open.wholeTerm(before); !whole && !r.nested {
				continue
			}
			calls = append(calls, call{
				start: tokens[first].Start, end: tokens[i+2].End(), function: f, index: binds,
				cast:      (operand || open.innermost() == arguments) && !before.IsOp(')'), // a cast is there
				collected: slices.Contains(open, collection),
			})
			binds++
			i += 2
		}
	}
	return calls, named
}

// bracket is what a pair of brackets encloses.
type bracket uint8

const (
	literal    bracket = iota // a tuple, user type or index; a relation or column names
	collection                // a list, set or map
	terms                     // of VALUES or IN
	arguments                 // of a function
)

type brackets []bracket

func (b *brackets) see(tokens []scan.Token, i int) {
	switch tokens[i].Op {
	case '(':
		*b = append(*b, opened(tokens, i))
	case '[':
		// After a name it is an index.
		if i > 0 && (tokens[i-1].Kind == scan.Word || tokens[i-1].Kind == scan.Quoted) {
			*b = append(*b, literal)
		} else {
			*b = append(*b, collection)
		}
	case '{':
		*b = append(*b, braced(tokens[i+1:]))
	case ')', ']', '}':
		if n := len(*b); n > 0 {
			*b = (*b)[:n-1]
		}
	}
}

func opened(tokens []scan.Token, i int) bracket {
	if i == 0 {
		return literal
	}
	switch t := &tokens[i-1]; {
	case t.Is("values"), t.Is("in"):
		return terms
	case t.Is("where"), t.Is("and"), t.Is("if"), t.Is("contains"), t.Is("key"), t.Is("between"), t.Is("like"), t.Is("not"):
		return literal
	case t.Kind == scan.Word, t.Kind == scan.Quoted:
		return arguments
	}
	return literal
}

// braced tells a user type, which begins with the name of a field, from a set or
// map by the tokens after the brace.
func braced(tokens []scan.Token) bracket {
	if len(tokens) < 2 || !tokens[1].IsOp(':') {
		return collection
	}
	switch t := &tokens[0]; {
	case t.Is("true"), t.Is("false"), t.Is("nan"), t.Is("infinity"):
		return collection
	case t.Kind == scan.Word, t.Kind == scan.Quoted:
		return literal
	}
	return collection
}

// innermost is the pair around the current token; literal if there is none.
func (b brackets) innermost() bracket {
	if len(b) == 0 {
		return literal
	}
	return b[len(b)-1]
}

// wholeTerm reports whether what follows the token is a term by itself.
func (b brackets) wholeTerm(before *scan.Token) bool {
	switch {
	case before.IsOp('='), before.IsOp('<'), before.IsOp('>'):
		return true
	case before.IsOp('('), before.IsOp(','):
		return b.innermost() == terms
	}
	return before.Is("contains") || before.Is("key") || before.Is("like") || before.Is("between") || before.Is("and")
}

func isArithmetic(t *scan.Token) bool {
	if t.Kind != scan.Punct {
		return false
	}
	switch t.Op {
	case '+', '-', '*', '/', '%', scan.Increment, scan.Decrement:
		return true
	}
	return false
}

// functionOf returns the function with that name, or 0. Cassandra 5.0 has the
// names with underscores beside the older ones.
func functionOf(t *scan.Token) scan.Functions {
	if len(t.Text) > len(`"current_timestamp"`) {
		return 0
	}
	name := t.Ident()
	for i := range functions {
		if f := &functions[i]; name.Is(f.name) || name.Is(f.newName) {
			return f.function
		}
	}
	return 0
}
