package statement

// parensMax bounds the brackets around a value.
const parensMax = 8

// value takes a value: a parameter, literal or function, perhaps in brackets,
// perhaps cast.
func (c *cursor) value(w *Write) (Value, bool) {
	parens := 0
	for c.symbol("(") {
		if parens++; parens > parensMax {
			return Value{}, false
		}
	}
	bracketed := parens > 0
	v, ok := c.primary(w)
	// A minus binds less than a cast.
	bare := v.Minus
	for ok {
		switch {
		case c.symbol("::"):
			cast, known := c.typeName()
			ok = known && !bare && v.castTo(cast)
		case parens > 0 && c.symbol(")"):
			parens--
			bare = false
		case parens > 0:
			ok = false
		default:
			return v, c.endsValue() && !(bracketed && (v.Source == Default))
		}
	}
	return v, false
}

// castTo notes a cast. A second one is an expression, and so is one of a value
// that has a type already.
func (v *Value) castTo(name string) bool {
	if v.Cast != "" {
		return false
	}
	switch v.Source {
	case Null, Parameter, Constant:
		v.Cast = name
		return true
	}
	return false
}

// endsValue reports whether what comes next cannot belong to the value before it.
func (c *cursor) endsValue() bool {
	t := c.peek(0)
	if t.kind == tokenEnd || t.is(c.text, ",") || t.is(c.text, ")") || t.is(c.text, "=") {
		return true
	}
	for _, word := range []string{"and", "where", "from", "on", "returning", "as"} {
		if t.keyword(c.text, word) {
			return true
		}
	}
	return false
}

func (c *cursor) primary(w *Write) (Value, bool) {
	t := c.peek(0)
	switch t.kind {
	case tokenParameter:
		n := t.parameter(c.text)
		w.Parameters = max(w.Parameters, n)
		c.next++
		return Value{Source: Parameter, N: n}, n > 0
	case tokenString, tokenInteger, tokenDecimal:
		v := Value{Source: Constant, N: c.literals, Literal: t.literalKind()}
		c.advance()
		return v, true
	case tokenOperator:
		if next := c.peek(1); t.is(c.text, "-") && (next.kind == tokenInteger || next.kind == tokenDecimal) {
			c.next++
			v := Value{Source: Constant, N: c.literals, Literal: next.literalKind(), Minus: true}
			c.advance()
			return v, true
		}
		return Value{}, false
	case tokenWord:
		return c.wordValue(w)
	}
	return Value{}, false
}

// plainValues are keywords that are values.
var plainValues = map[string]Value{
	"null": {Source: Null}, "default": {Source: Default}, "true": {Source: True}, "false": {Source: False},
	"current_timestamp": {Source: Function, F: TransactionTime}, "localtimestamp": {Source: Function, F: LocalTimestamp},
	"current_date": {Source: Function, F: CurrentDate},
}

// functions are called without arguments.
var functions = map[string]Func{
	"now": TransactionTime, "transaction_timestamp": TransactionTime, "statement_timestamp": StatementTime,
	"clock_timestamp": ClockTime, "gen_random_uuid": RandomUUID,
}

func (c *cursor) wordValue(w *Write) (Value, bool) {
	word := c.peek(0).name(c.text)
	if v, ok := plainValues[word]; ok {
		c.next++
		return v, true
	}
	if f, ok := functions[word]; ok && c.peek(1).is(c.text, "(") && c.peek(2).is(c.text, ")") {
		c.next += 3
		return Value{Source: Function, F: f}, true
	}
	switch {
	case c.word("cast"):
		return c.castCall(w)
	case word == "nextval" && c.peek(1).is(c.text, "("):
		return c.nextValue()
	}
	// A type's name before a string: DATE '2006-01-02'.
	if _, builtIn := typeNames[word]; !builtIn && word != "double" && word != "character" {
		return Value{}, false
	}
	cast, ok := c.typeName()
	if !ok || c.peek(0).kind != tokenString || cast[len(cast)-1] == ']' {
		return Value{}, false
	}
	v := Value{Source: Constant, N: c.literals, Literal: LiteralString, Cast: cast}
	c.advance()
	return v, true
}

// castCall is what follows CAST.
func (c *cursor) castCall(w *Write) (Value, bool) {
	if !c.symbol("(") {
		return Value{}, false
	}
	if c.peek(0).kind == tokenWord && !c.peek(0).keyword(c.text, "null") {
		return Value{}, false // another cast, a function
	}
	v, ok := c.primary(w)
	if !ok || !c.word("as") {
		return v, false
	}
	cast, ok := c.typeName()
	return v, ok && v.castTo(cast) && c.symbol(")")
}

// nextValue is nextval('sequence') or nextval('sequence'::regclass).
func (c *cursor) nextValue() (Value, bool) {
	c.next += 2
	if c.peek(0).kind != tokenString {
		return Value{}, false
	}
	v := Value{Source: Function, F: NextValue, N: c.literals}
	c.advance()
	if c.symbol("::") && !c.word("regclass") {
		return v, false
	}
	return v, c.symbol(")")
}
