package statement

import "slices"

// appendShape appends a text's tokens without its literals' values: two texts with
// one shape differ in values alone.
func appendShape(dst []byte, text string, tokens []token) []byte {
	for _, t := range tokens {
		dst = append(dst, byte(t.kind))
		switch t.kind {
		case tokenString, tokenInteger, tokenDecimal:
			continue
		case tokenWord:
			for i := t.start; i < t.end; i++ {
				dst = append(dst, lower(text[i]))
			}
		default:
			dst = append(dst, text[t.start:t.end]...)
		}
		dst = append(dst, 0) // no token has it
	}
	return dst
}

// literals appends the literals of tokens; false: one of them cannot be read.
func literals(dst []Literal, text string, tokens []token) ([]Literal, bool) {
	for _, t := range tokens {
		if t.literalKind() == 0 {
			continue
		}
		l, ok := t.literal(text)
		if !ok {
			return dst, false
		}
		dst = append(dst, l)
	}
	return dst, true
}

// split cuts tokens into statements, without their semicolons. The last one ends
// before tokenEnd. A CREATE with BEGIN ATOMIC holds statements in its body, so it has the
// rest; one of a rule has them in brackets.
func split(text string, tokens []token) (parts [][]token) {
	depth, start, atomic := 0, 0, false
	body := len(tokens) - 1
	for i := range body {
		t := tokens[i]
		switch {
		case t.is(text, "("):
			depth++
		case t.is(text, ")"):
			depth--
		case t.keyword(text, "atomic"):
			atomic = tokens[start].keyword(text, "create")
		case t.is(text, ";") && depth <= 0 && !atomic:
			parts = append(parts, tokens[start:i])
			start, depth = i+1, 0
		}
	}
	if start < body || len(parts) == 0 {
		parts = append(parts, tokens[start:body])
	}
	return parts
}

// names returns each identifier and operator once, sorted.
func names(text string, tokens []token) []string {
	var found []string
	for _, t := range tokens {
		switch t.kind {
		case tokenWord, tokenQuoted:
			found = append(found, t.name(text))
		case tokenOperator:
			found = append(found, text[t.start:t.end])
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
