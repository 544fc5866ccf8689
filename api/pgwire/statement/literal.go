package statement

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Literal is a constant of a text.
type Literal struct {
	Kind  LiteralKind
	Value string // of a string, what stands between its quotes, without escapes
	// Offset is where it begins in the text, in bytes.
	Offset int
}

// LiteralKind is how a constant was written.
type LiteralKind uint8

const (
	// LiteralString is '...', E'...' or $$...$$: of no type until its use gives it one.
	LiteralString LiteralKind = iota + 1
	// LiteralInteger is digits, at most those of an int8.
	LiteralInteger
	// LiteralDecimal is digits with a point or an exponent, or more than an int8 has.
	LiteralDecimal
)

// literalKind returns 0 for a token that is no literal.
func (t token) literalKind() LiteralKind {
	switch t.kind {
	case tokenString:
		return LiteralString
	case tokenInteger:
		return LiteralInteger
	case tokenDecimal:
		return LiteralDecimal
	}
	return 0
}

// literal decodes a token; false: PostgreSQL would refuse it, or depends.
func (t token) literal(text string) (Literal, bool) {
	l := Literal{Kind: t.literalKind(), Value: text[t.start:t.end], Offset: int(t.start)}
	if t.kind != tokenString {
		return l, true
	}
	switch raw := l.Value; raw[0] {
	case '$':
		tag := strings.IndexByte(raw[1:], '$') + 2
		l.Value = raw[tag : len(raw)-tag]
	case '\'':
		l.Value = strings.ReplaceAll(raw[1:len(raw)-1], "''", "'")
	default: // E''
		value, ok := unescape(raw[2 : len(raw)-1])
		l.Value = value
		return l, ok
	}
	return l, true
}

// unescape decodes the inside of E'...'. Escapes of code points are refused: they
// depend on the server's encoding, and no driver writes them.
func unescape(raw string) (string, bool) {
	if strings.IndexByte(raw, '\\') < 0 {
		return strings.ReplaceAll(raw, "''", "'"), true
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] == '\'' {
			i++ // the second of two
		}
		if i >= len(raw) {
			return "", false
		}
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		if i++; i >= len(raw) {
			return "", false
		}
		switch b := raw[i]; {
		case strings.IndexByte("bfnrt", b) >= 0:
			out = append(out, "\b\f\n\r\t"[strings.IndexByte("bfnrt", b)])
		case b == 'u' || b == 'U':
			return "", false
		case b == 'x' && isHex(at(raw, i+1)):
			end := i + 2
			if isHex(at(raw, end)) {
				end++
			}
			n, _ := strconv.ParseUint(raw[i+1:end], 16, 8) // one or two hex digits
			out = append(out, byte(n))
			i = end - 1
		case '0' <= b && b <= '7':
			end := i + 1
			for end < i+3 && '0' <= at(raw, end) && at(raw, end) <= '7' {
				end++
			}
			n, _ := strconv.ParseUint(raw[i:end], 8, 16) // up to three octal digits
			out = append(out, byte(n))
			i = end - 1
		default:
			out = append(out, b)
		}
	}
	value := string(out)
	return value, utf8.ValidString(value) && strings.IndexByte(value, 0) < 0
}

func isHex(b byte) bool { return isDigit(b) || 'a' <= lower(b) && lower(b) <= 'f' }
