package virtual

import "strings"

type tokenKind uint8

const (
	tokEnd         tokenKind = iota
	tokWord                  // unquoted name or keyword
	tokQuoted                // "name", without the quotes
	tokString                // 'text', without the quotes
	tokNumber                // integer or decimal
	tokUUID                  // 8-4-4-4-12 hexadecimal digits
	tokMarker                // ? with empty text, or :name with the name folded
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

// tokenize splits CQL text. It ends with the first character that cannot stand
// there, the quote of an open string for one: the parser refuses that token, and
// no text takes more than linear time.
func tokenize(text string) []token {
	var tokens []token
	for {
		text = skipBlank(text)
		if text == "" {
			return tokens
		}
		t, n := lex(text)
		tokens = append(tokens, t)
		if n == 0 {
			return tokens
		}
		text = text[n:]
	}
}

// skipBlank cuts white space and closed comments off the front.
func skipBlank(text string) string {
	for {
		text = strings.TrimLeft(text, " \t\r\n\f\v")
		end := -1
		switch {
		case strings.HasPrefix(text, "--"), strings.HasPrefix(text, "//"):
			if end = strings.IndexByte(text, '\n'); end < 0 {
				return ""
			}
		case strings.HasPrefix(text, "/*"):
			if end = strings.Index(text[2:], "*/"); end >= 0 {
				end += 4
			}
		}
		if end < 0 {
			return text
		}
		text = text[end:]
	}
}

// lex reads the token at the front, and tells how many bytes it takes; 0 for
// one that cannot stand there.
func lex(text string) (token, int) {
	c := text[0]
	switch {
	case c == '\'' || c == '"':
		inner, n := quoted(text)
		kind := tokString
		if c == '"' {
			kind = tokQuoted
		}
		if n > 0 {
			return token{kind, inner}, n
		}
	case strings.HasPrefix(text, "$$"):
		if end := strings.Index(text[2:], "$$"); end >= 0 {
			return token{tokString, text[2 : 2+end]}, end + 4
		}
	case isUUIDText(text):
		return token{tokUUID, text[:uuidLen]}, uuidLen
	case isDigit(c), c == '-' && len(text) > 1 && isDigit(text[1]):
		n := 1 + span(text[1:], func(c byte) bool { return isDigit(c) || c == '.' })
		return token{tokNumber, text[:n]}, n
	case isLetter(c):
		n := span(text, isWord)
		return token{tokWord, text[:n]}, n
	case c == '?':
		return token{tokMarker, ""}, 1
	case c == ':' && len(text) > 1 && text[1] == '"':
		if inner, n := quoted(text[1:]); n > 0 {
			return token{tokMarker, inner}, n + 1
		}
	case c == ':' && len(text) > 1 && isLetter(text[1]):
		n := 1 + span(text[1:], isWord)
		return token{tokMarker, strings.ToLower(text[1:n])}, n
	case len(text) > 1 && text[1] == '=' && strings.IndexByte("<>!", c) >= 0:
		return token{tokPunctuation, text[:2]}, 2
	case strings.IndexByte("()[]{},;.*+-%<>=", c) >= 0:
		return token{tokPunctuation, text[:1]}, 1
	}
	return token{tokPunctuation, text[:1]}, 0
}

// quoted reads a text in the quotes that it begins with, where a doubled quote
// stands for one; n is 0 if it is not closed or an empty name.
func quoted(text string) (inner string, n int) {
	quote := text[:1]
	for n = 1; ; n += 2 {
		end := strings.Index(text[n:], quote)
		if end < 0 {
			return "", 0
		}
		n += end
		if !strings.HasPrefix(text[n+1:], quote) {
			break
		}
	}
	if n == 1 && quote == `"` {
		return "", 0
	}
	return strings.ReplaceAll(text[1:n], quote+quote, quote), n + 1
}

// uuidLen is the length of 8-4-4-4-12 hexadecimal digits with hyphens.
const uuidLen = 36

func isUUIDText(text string) bool {
	if len(text) < uuidLen || len(text) > uuidLen && isWord(text[uuidLen]) {
		return false
	}
	for i := range uuidLen {
		c := text[i]
		if hyphen := i == 8 || i == 13 || i == 18 || i == 23; hyphen != (c == '-') {
			return false
		} else if !hyphen && !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
			return false
		}
	}
	return true
}

func span(text string, in func(byte) bool) int {
	n := 0
	for n < len(text) && in(text[n]) {
		n++
	}
	return n
}

func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isWord(c byte) bool   { return isLetter(c) || isDigit(c) || c == '_' }
