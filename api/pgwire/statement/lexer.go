package statement

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// lex appends the tokens of text, without comments and spaces, and a tokenEnd.
// It follows PostgreSQL's scan.l. ok is false if there is a token that PostgreSQL
// refuses or that its versions and settings read differently: tokens behind it are
// then a guess, and nothing may be concluded from them.
func lex(tokens []token, text string) (_ []token, ok bool) {
	ok = utf8.ValidString(text) && strings.IndexByte(text, 0) < 0
	for at := 0; ; {
		next, closed := skipSpace(text, at)
		ok = ok && closed
		if next >= len(text) {
			return append(tokens, newToken(tokenEnd, len(text), len(text))), ok
		}
		t := scanToken(text, next)
		ok = ok && t.kind != tokenBad && !continued(text, t)
		tokens = append(tokens, t)
		at = int(t.end)
	}
}

func isSpace(b byte) bool { return b == ' ' || '\t' <= b && b <= '\r' && b != '\v' }

// skipSpace returns where the next token begins; false: a comment has no end.
func skipSpace(text string, at int) (int, bool) {
	for at < len(text) {
		switch {
		case isSpace(text[at]):
			at++
		case strings.HasPrefix(text[at:], "--"):
			end := strings.IndexAny(text[at:], "\n\r")
			if end < 0 {
				return len(text), true
			}
			at += end
		case strings.HasPrefix(text[at:], "/*"):
			depth := 0
			for ; at < len(text); at++ {
				if strings.HasPrefix(text[at:], "/*") {
					depth++
					at++
				} else if strings.HasPrefix(text[at:], "*/") {
					depth--
					at++
					if depth == 0 {
						break
					}
				}
			}
			if depth > 0 {
				return len(text), false
			}
			at++
		default:
			return at, true
		}
	}
	return at, true
}

func isLetter(b byte) bool { return 'a' <= lower(b) && lower(b) <= 'z' || b == '_' || b >= 0x80 }
func isDigit(b byte) bool  { return '0' <= b && b <= '9' }

const (
	operatorChars = "~!@#^&|`?+-*/%<>="
	// lasting are those that let an operator of several end in + or -.
	lasting = "~!@#^&|`?%"
)

func newToken(kind tokenKind, start, end int) token {
	return token{kind: kind, start: int32(start), end: int32(end)}
}

func at(text string, i int) byte {
	if i < len(text) {
		return text[i]
	}
	return 0
}

// scanToken reads the token at start, which is no space.
func scanToken(text string, start int) token {
	b := text[start]
	switch {
	case b == '\'':
		return scanString(text, start, start, false)
	case b == '"':
		return scanQuoted(text, start)
	case b == '$':
		return scanDollar(text, start)
	case isDigit(b) || b == '.' && isDigit(at(text, start+1)):
		return scanNumber(text, start)
	case isLetter(b):
		return scanWord(text, start)
	case strings.IndexByte(operatorChars, b) >= 0:
		return scanOperator(text, start)
	case strings.IndexByte("()[],;.:", b) >= 0:
		for _, double := range []string{"::", ":=", ".."} {
			if strings.HasPrefix(text[start:], double) {
				return newToken(tokenOperator, start, start+2)
			}
		}
		return newToken(tokenSelf, start, start+1)
	}
	return newToken(tokenBad, start, start+1)
}

// scanString reads a string whose opening quote is at quote.
func scanString(text string, start, quote int, escape bool) token {
	for i := quote + 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && escape:
			i++
		case text[i] != '\'':
		case at(text, i+1) == '\'':
			i++
		default:
			return newToken(tokenString, start, i+1)
		}
	}
	return newToken(tokenBad, start, len(text))
}

// continued reports whether t is a string that goes on behind a line's end, as SQL
// has it: 'a' (newline) 'b' is 'ab'. Nobody writes that.
func continued(text string, t token) bool {
	if t.kind != tokenString && t.kind != tokenOther || text[t.start] == '$' || text[t.end-1] != '\'' {
		return false
	}
	next, _ := skipSpace(text, int(t.end))
	return at(text, next) == '\'' && strings.ContainsAny(text[t.end:next], "\n\r")
}

func scanQuoted(text string, start int) token {
	for i := start + 1; i < len(text); i++ {
		if text[i] != '"' {
			continue
		}
		if at(text, i+1) == '"' {
			i++
			continue
		}
		if i == start+1 {
			break // a name of no characters
		}
		return newToken(tokenQuoted, start, i+1)
	}
	return newToken(tokenBad, start, len(text))
}

// scanDollar reads a parameter or a string in dollar quotes.
func scanDollar(text string, start int) token {
	i := start + 1
	if isDigit(at(text, i)) {
		for isDigit(at(text, i)) {
			i++
		}
		if isLetter(at(text, i)) { // versions differ
			return newToken(tokenBad, start, i)
		}
		return newToken(tokenParameter, start, i)
	}
	for i < len(text) && (isLetter(text[i]) || isDigit(text[i])) {
		i++
	}
	if at(text, i) != '$' {
		return newToken(tokenBad, start, start+1)
	}
	tag := text[start : i+1]
	end := strings.Index(text[i+1:], tag)
	if end < 0 {
		return newToken(tokenBad, start, len(text))
	}
	return newToken(tokenString, start, i+1+end+len(tag))
}

// scanNumber reads a number as every version of PostgreSQL does: 0x1f and 1_000,
// which some know, are bad.
func scanNumber(text string, start int) token {
	i := start
	for isDigit(at(text, i)) {
		i++
	}
	kind := tokenInteger
	if at(text, i) == '.' && at(text, i+1) != '.' {
		kind = tokenDecimal
		for i++; isDigit(at(text, i)); i++ {
		}
	}
	if lower(at(text, i)) == 'e' {
		exponent := i + 1
		if b := at(text, exponent); b == '+' || b == '-' {
			exponent++
		}
		if isDigit(at(text, exponent)) {
			kind = tokenDecimal
			for i = exponent; isDigit(at(text, i)); i++ {
			}
		}
	}
	if b := at(text, i); isLetter(b) || b == '$' || b == '.' && kind == tokenDecimal {
		return newToken(tokenBad, start, i)
	}
	if kind == tokenInteger {
		if _, err := strconv.ParseInt(text[start:i], 10, 64); err != nil {
			kind = tokenDecimal
		}
	}
	return newToken(kind, start, i)
}

func scanWord(text string, start int) token {
	switch next := at(text, start+1); {
	case next == '\'' && lower(text[start]) == 'e':
		return scanString(text, start, start+1, true)
	case next == '\'' && strings.IndexByte("bxn", lower(text[start])) >= 0:
		t := scanString(text, start, start+1, false)
		if t.kind == tokenString {
			t.kind = tokenOther
		}
		return t
	case next == '&' && lower(text[start]) == 'u' && at(text, start+2) == '\'':
		// Its escape character may stand behind it.
		return newToken(tokenBad, start, int(scanString(text, start, start+2, false).end))
	case next == '&' && lower(text[start]) == 'u' && at(text, start+2) == '"':
		return newToken(tokenBad, start, int(scanQuoted(text, start+2).end))
	}
	i := start + 1
	for i < len(text) && (isLetter(text[i]) || isDigit(text[i]) || text[i] == '$') {
		i++
	}
	return newToken(tokenWord, start, i)
}

func scanOperator(text string, start int) token {
	i := start
	for i < len(text) && strings.IndexByte(operatorChars, text[i]) >= 0 {
		if i > start && (strings.HasPrefix(text[i:], "--") || strings.HasPrefix(text[i:], "/*")) {
			break
		}
		i++
	}
	// An operator of several characters ends in + or - only if it has one that
	// SQL's own do not have.
	for i-start > 1 && (text[i-1] == '+' || text[i-1] == '-') && !strings.ContainsAny(text[start:i-1], lasting) {
		i--
	}
	return newToken(tokenOperator, start, i)
}

// nameBytesMax is the longest name: NAMEDATALEN-1.
const nameBytesMax = 63

// clip cuts a name as PostgreSQL does, at a whole character.
func clip(name string) string {
	if len(name) <= nameBytesMax {
		return name
	}
	end := nameBytesMax
	for end > 0 && !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end]
}

// name returns what a word or quoted identifier names.
func (t token) name(text string) string {
	raw := text[t.start:t.end]
	if t.kind == tokenQuoted {
		return clip(strings.ReplaceAll(raw[1:len(raw)-1], `""`, `"`))
	}
	for i := range len(raw) {
		if 'A' <= raw[i] && raw[i] <= 'Z' {
			folded := []byte(raw)
			for j := range folded {
				folded[j] = lower(folded[j])
			}
			return clip(string(folded))
		}
	}
	return strings.Clone(clip(raw)) // the text need not stay for it
}

// parameter returns the number of $n; 0: beyond what the protocol can bind.
func (t token) parameter(text string) int {
	n, err := strconv.ParseUint(text[t.start+1:t.end], 10, 32)
	if err != nil || n > math.MaxUint16 {
		return 0
	}
	return int(n)
}
