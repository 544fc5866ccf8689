package statement

// tokenKind is what a token is. Kinds are part of a shape, see appendShape.
type tokenKind uint8

const (
	tokenEnd       tokenKind = iota
	tokenWord                // identifier or keyword without quotes
	tokenQuoted              // "identifier"
	tokenParameter           // $1
	tokenString              // 'text', E'text', $$text$$
	tokenInteger             // digits, at most math.MaxInt64
	tokenDecimal             // digits with a point, an exponent, or too many of them
	tokenOperator            // one of PostgreSQL's operators, "::", ":=", "=>", ".."
	tokenSelf                // one of ( ) [ ] , ; : .
	tokenOther               // a constant of another kind: B'', X'', N'', U&'', U&""
	tokenBad                 // what PostgreSQL would refuse, or versions read differently
)

// token is a part of a text, from byte start up to end.
type token struct {
	kind       tokenKind
	start, end int32 // MaxTextBytes bounds them
}

// keyword reports whether a token is the word, which is in lower case.
func (t token) keyword(text, word string) bool {
	if t.kind != tokenWord || int(t.end-t.start) != len(word) {
		return false
	}
	for i := range len(word) {
		if lower(text[int(t.start)+i]) != word[i] {
			return false
		}
	}
	return true
}

// is reports whether a token is the operator or character.
func (t token) is(text, symbol string) bool {
	return (t.kind == tokenOperator || t.kind == tokenSelf) && text[t.start:t.end] == symbol
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}
