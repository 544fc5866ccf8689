package statement

import "strings"

// setting reads SET, SHOW and RESET. What cannot be read has no Setting.
func (c *cursor) setting(s *Statement, word string) {
	at := *c
	at.next++
	set := &Setting{}
	if word == "set" {
		if at.word("local") {
			set.Local = true
		} else if next := at.peek(1); !next.is(c.text, "=") && !next.keyword(c.text, "to") && !next.keyword(c.text, "authorization") {
			at.word("session")
		}
	}
	var ok bool
	if set.Name, ok = at.settingName(); !ok {
		return
	}
	if word != "set" {
		if at.done() {
			s.Setting = set
		}
		return
	}
	switch set.Name {
	case "transaction", "characteristics", "constraints":
		s.Setting = set // their values are for the server
		return
	case "time zone", "role", "session authorization", "names", "schema", "catalog", "xml option":
	default:
		if !at.symbol("=") && !at.word("to") {
			return
		}
	}
	if at.word("default") {
		if at.done() {
			s.Setting = set
		}
		return
	}
	if set.Values, ok = at.settingValues(); ok {
		s.Setting = set
	}
}

// settingName takes a parameter's name, or the words SQL has for some.
func (c *cursor) settingName() (string, bool) {
	for _, words := range [][]string{{"time", "zone"}, {"session", "authorization"}, {"xml", "option"}, {"transaction", "isolation", "level"}} {
		if c.word(words...) {
			return strings.Join(words, " "), true
		}
	}
	if c.word("characteristics", "as", "transaction") {
		return "characteristics", true
	}
	name, ok := c.label()
	for ok && c.symbol(".") {
		var part string
		part, ok = c.label()
		name += "." + part
	}
	return strings.ToLower(name), ok
}

// settingValues takes value, ...
func (c *cursor) settingValues() (values []SettingValue, ok bool) {
	for {
		v := SettingValue{Literal: -1}
		if t := c.peek(0); t.is(c.text, "-") {
			v.Minus = true
			c.next++
		}
		switch t := c.peek(0); {
		case t.literalKind() != 0:
			v.Literal = c.literals
			c.advance()
		case !v.Minus && (t.kind == tokenWord || t.kind == tokenQuoted):
			v.Word = t.name(c.text)
			c.next++
		default:
			return nil, false
		}
		values = append(values, v)
		if c.done() {
			return values, true
		}
		if !c.symbol(",") {
			return nil, false
		}
	}
}

// Text is what was read of a text. Its statements are shared with other texts.
type Text struct {
	// Statements in their order. More than one are one transaction, unless they say
	// otherwise.
	Statements []*Statement
	// Literals of all statements, in their order.
	Literals []Literal
	// Readable: every token was understood. Else there is one statement, of which
	// nothing is known.
	Readable bool
}

// Strings are the values of a setting, as text.
func (t Text) Strings(s *Setting) []string {
	var texts []string
	for _, v := range s.Values {
		text := v.Word
		if v.Literal >= 0 {
			text = t.Literals[v.Literal].Value
		}
		if v.Minus {
			text = "-" + text
		}
		texts = append(texts, text)
	}
	return texts
}
