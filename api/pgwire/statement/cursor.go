package statement

import "slices"

// cursor walks over the tokens of one statement.
type cursor struct {
	text     string
	tokens   []token
	next     int
	literals int // those before the next token, of the whole text
}

// peek returns the token i behind the next one; tokenEnd behind the last.
func (c *cursor) peek(i int) token {
	if c.next+i < len(c.tokens) {
		return c.tokens[c.next+i]
	}
	return token{kind: tokenEnd}
}

func (c *cursor) advance() token {
	t := c.peek(0)
	if t.literalKind() != 0 {
		c.literals++
	}
	c.next++
	return t
}

func (c *cursor) done() bool { return c.next >= len(c.tokens) }

// word takes the keywords if all of them come next.
func (c *cursor) word(words ...string) bool {
	for i, w := range words {
		if !c.peek(i).keyword(c.text, w) {
			return false
		}
	}
	c.next += len(words)
	return true
}

// symbol takes the operator or character if it comes next.
func (c *cursor) symbol(s string) bool {
	if !c.peek(0).is(c.text, s) {
		return false
	}
	c.next++
	return true
}

// isName reports whether a token can name a column or a table.
func (c *cursor) isName(t token) bool {
	return t.kind == tokenQuoted || t.kind == tokenWord && !reserved(t.name(c.text))
}

// name takes a column's or table's name.
func (c *cursor) name() (string, bool) {
	t := c.peek(0)
	if !c.isName(t) {
		return "", false
	}
	c.next++
	return t.name(c.text), true
}

// label takes what can stand behind a dot: a keyword, too.
func (c *cursor) label() (string, bool) {
	t := c.peek(0)
	if t.kind != tokenQuoted && t.kind != tokenWord {
		return "", false
	}
	c.next++
	return t.name(c.text), true
}

// relation takes [schema.]table.
func (c *cursor) relation() (n Name, ok bool) {
	if n.Name, ok = c.name(); !ok {
		return Name{}, false
	}
	if c.symbol(".") {
		n.Schema = n.Name
		if n.Name, ok = c.label(); !ok {
			return Name{}, false
		}
	}
	return n, !c.peek(0).is(c.text, ".")
}

// names takes (name, ...), each once.
func (c *cursor) names() (list []string, ok bool) {
	if !c.symbol("(") {
		return nil, false
	}
	for {
		name, ok := c.name()
		if !ok || slices.Contains(list, name) {
			return nil, false
		}
		list = append(list, name)
		if c.symbol(")") {
			return list, true
		}
		if !c.symbol(",") || len(list) >= columnsMax {
			return nil, false
		}
	}
}

// columnsMax is PostgreSQL's, MaxHeapAttributeNumber.
const columnsMax = 1600

// has reports whether one of the words is in the statement as a keyword.
func (c *cursor) has(words ...string) bool {
	for _, t := range c.tokens {
		for _, w := range words {
			if t.keyword(c.text, w) {
				return true
			}
		}
	}
	return false
}
