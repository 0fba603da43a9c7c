package virtual

import (
	"regexp"
	"strings"
)

type tokenKind uint8

const (
	tokEnd         tokenKind = iota
	tokWord                  // unquoted name or keyword
	tokQuoted                // "name", without the quotes
	tokString                // 'text', without the quotes
	tokNumber                // integer or decimal
	tokUUID                  // 8-4-4-4-12 hexadecimal digits
	tokMarker                // ? with empty text, or :name with the name
	tokPunctuation           // one or two characters
)

type token struct {
	kind tokenKind
	text string
}

// is compares with a keyword in lower case or with punctuation.
func (t token) is(text string) bool {
	switch t.kind {
	case tokWord:
		return strings.EqualFold(t.text, text)
	case tokPunctuation:
		return t.text == text
	}
	return false
}

// Each expression is anchored, and tried in this order.
var lexemes = []struct {
	kind tokenKind // tokEnd: skipped
	expr *regexp.Regexp
}{
	{tokEnd, regexp.MustCompile(`^(\s+|--[^\n]*|//[^\n]*|(?s:/\*.*?\*/))`)},
	{tokString, regexp.MustCompile(`^'((?:[^']|'')*)'`)},
	{tokString, regexp.MustCompile(`^\$\$((?s:.*?))\$\$`)},
	{tokQuoted, regexp.MustCompile(`^"((?:[^"]|"")+)"`)},
	{tokUUID, regexp.MustCompile(`^([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})`)},
	{tokNumber, regexp.MustCompile(`^(-?[0-9]+(?:\.[0-9]*)?)`)},
	{tokWord, regexp.MustCompile(`^([A-Za-z][A-Za-z0-9_]*)`)},
	{tokMarker, regexp.MustCompile(`^\?()`)},
	{tokMarker, regexp.MustCompile(`^:\s*([A-Za-z][A-Za-z0-9_]*|"(?:[^"]|"")+")`)},
	{tokPunctuation, regexp.MustCompile(`^(<=|>=|!=|.)`)},
}

// tokenize splits CQL text. It ends with the first character that cannot stand
// there, the quote of an open string for one: the parser refuses that token, and
// no text takes more than linear time.
func tokenize(text string) []token {
	var tokens []token
	for text != "" {
		for _, l := range lexemes {
			m := l.expr.FindStringSubmatch(text)
			if m == nil {
				continue
			}
			text = text[len(m[0]):]
			if l.kind == tokEnd {
				break
			}
			tokens = append(tokens, token{l.kind, unquote(l.kind, m[0], m[1])})
			if l.kind == tokPunctuation && !strings.Contains("( ) [ ] { } , ; . + - * % < > = <= >= !=", m[0]) {
				return tokens
			}
			break
		}
	}
	return tokens
}

// unquote folds doubled quotes, and the case of a marker's unquoted name.
func unquote(kind tokenKind, whole, inner string) string {
	switch {
	case kind == tokString && whole[0] == '\'':
		return strings.ReplaceAll(inner, "''", "'")
	case kind == tokQuoted:
		return strings.ReplaceAll(inner, `""`, `"`)
	case kind == tokMarker && strings.HasPrefix(inner, `"`):
		return strings.ReplaceAll(inner[1:len(inner)-1], `""`, `"`)
	case kind == tokMarker:
		return strings.ToLower(inner)
	}
	return inner
}
