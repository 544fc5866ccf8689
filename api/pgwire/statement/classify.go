package statement

import "slices"

// kinds by the first keyword. Of what touches relations, only how much is known
// is here; classify knows more of some.
var kinds = map[string]Statement{
	"select": {Kind: Select, Reads: Named}, "values": {Kind: Select, Reads: Named}, "table": {Kind: Select, Reads: Named},
	"with": {Kind: Select, Reads: Named}, "insert": {Kind: Insert, Reads: Named, Writes: Named},
	"update": {Kind: Update, Reads: Named, Writes: Named}, "delete": {Kind: Delete, Reads: Named, Writes: Named},
	"merge": {Kind: Merge, Reads: Named, Writes: Named}, "truncate": {Kind: Truncate, Writes: Named},
	"copy": {Kind: Copy, Reads: Named, Writes: Named}, "lock": {Kind: Lock, Reads: Named, Writes: Named},
	"explain": {Kind: Explain}, "call": {Kind: Call, Reads: Anything, Writes: Anything}, "do": {Kind: Call, Reads: Anything, Writes: Anything},
	"begin": {Kind: Begin}, "start": {Kind: Begin}, "commit": {Kind: Commit}, "end": {Kind: Commit}, "rollback": {Kind: Rollback},
	"abort": {Kind: Rollback}, "savepoint": {Kind: Savepoint}, "release": {Kind: Release}, "set": {Kind: Set}, "show": {Kind: Show},
	"reset": {Kind: Reset}, "discard": {Kind: Discard}, "prepare": {Kind: Prepare}, "deallocate": {Kind: Deallocate},
	"execute": {Kind: Execute, Reads: Anything, Writes: Anything}, "declare": {Kind: Declare, Reads: Named, Writes: Named},
	"fetch": {Kind: Declare, Reads: Anything, Writes: Anything}, "move": {Kind: Declare, Reads: Anything, Writes: Anything},
	"close": {Kind: Close}, "listen": {Kind: Listen}, "unlisten": {Kind: Listen}, "notify": {Kind: Notify}, "checkpoint": {},
}

var schemaWords = makeSet("alter", "analyse", "analyze", "cluster", "comment", "create", "drop", "grant", "import", "load", "reassign",
	"refresh", "reindex", "revoke", "security", "vacuum")

// unknown is a statement of which nothing is known.
func unknown() *Statement {
	return &Statement{Reads: Anything, Writes: Anything, Why: Unreadable}
}

// classify says what one statement is.
func classify(c cursor) *Statement {
	if len(c.tokens) == 0 {
		return &Statement{Kind: Empty, Why: NoWrite}
	}
	first := c.tokens[0]
	for i := 0; first.is(c.text, "(") && i < len(c.tokens); i++ { // (SELECT ...)
		first = c.tokens[i]
	}
	if first.kind != tokenWord {
		return unknown()
	}
	word := first.name(c.text)
	known, ok := kinds[word]
	if schemaWords[word] {
		known, ok = Statement{Kind: Schema, Reads: Anything, Writes: Anything}, true
	}
	if !ok || first != c.tokens[0] && known.Kind != Select {
		return unknown()
	}
	s := &known
	s.Why = NoWrite
	if s.Reads != Nothing || s.Writes != Nothing {
		s.Names = names(c.text, c.tokens)
	}
	switch s.Kind {
	case Select:
		c.query(s, word)
	case Insert, Update, Delete:
		c.dml(s)
	case Schema:
		c.schema(s, word)
	case Truncate:
		if c.has("cascade") {
			s.Writes = Anything
		}
	case Copy:
		c.copy(s)
	case Explain, Prepare:
		c.inner(s)
	case Set, Show, Reset:
		c.setting(s, word)
	case Begin, Commit, Rollback, Savepoint, Release:
		c.control(s, word)
	case Execute, Deallocate, Declare, Close, Listen, Notify, Discard:
		c.object(s)
	}
	return s
}

// query is SELECT, VALUES, TABLE or WITH. Who locks rows is as one who writes them:
// what is applied from the log would have to wait for it.
func (c *cursor) query(s *Statement, word string) {
	if word == "with" {
		s.Why = With
	}
	if c.has("insert", "update", "delete", "merge", "into", "share") || c.locks() {
		s.Writes = Named
	}
}

// locks: FOR UPDATE, NO KEY UPDATE, SHARE, KEY SHARE.
func (c *cursor) locks() bool {
	for i, t := range c.tokens {
		if !t.keyword(c.text, "for") || i+1 >= len(c.tokens) {
			continue
		}
		next := c.tokens[i+1]
		if slices.ContainsFunc([]string{"update", "no", "share", "key"}, func(w string) bool { return next.keyword(c.text, w) }) {
			return true
		}
	}
	return false
}

func (c *cursor) dml(s *Statement) {
	w, table, reason := parseWrite(*c, s.Kind)
	s.Write, s.Why = w, reason
	if table.Name != "" {
		s.Target, s.Writes = table, Target
	}
}

// schema narrows what a statement on the schema touches, where its words name it.
func (c *cursor) schema(s *Statement, word string) {
	if c.has("cascade") {
		return
	}
	i := 1
	for _, w := range []string{"global", "local", "temporary", "temp", "unlogged", "unique"} {
		if c.peek(i).keyword(c.text, w) {
			i++
		}
	}
	object := c.peek(i)
	isTable, isIndex := object.keyword(c.text, "table"), object.keyword(c.text, "index")
	switch word {
	case "alter", "create", "drop":
		if isTable && !c.has("all") || word == "create" && isIndex {
			s.Reads, s.Writes = Named, Named
		}
	}
}

// copy: COPY t FROM, COPY t TO, COPY (query) TO.
func (c *cursor) copy(s *Statement) {
	at := *c
	at.next++
	table, ok := at.relation()
	if !ok {
		return // a query in brackets, which may write
	}
	if at.peek(0).is(c.text, "(") {
		if _, ok := at.names(); !ok {
			return
		}
	}
	switch {
	case at.word("from"):
		s.Reads, s.Writes, s.Target = Nothing, Target, table
	case at.word("to"):
		s.Reads, s.Writes = Named, Nothing
	}
}

// inner is the statement behind EXPLAIN and PREPARE.
func (c *cursor) inner(s *Statement) {
	at := *c
	explain := s.Kind == Explain
	at.next++
	if !explain {
		if at.word("transaction") {
			s.Kind = TwoPhase
			return
		}
		s.Object, _ = at.label()
		at.bracketed()
		if !at.word("as") {
			s.Reads, s.Writes = Anything, Anything
			return
		}
	} else {
		at.bracketed()
		for at.word("analyze") || at.word("analyse") || at.word("verbose") {
		}
	}
	rest := c.tokens[min(at.next, len(c.tokens)):]
	if len(rest) == 0 || rest[0].keyword(c.text, "explain") || rest[0].keyword(c.text, "prepare") {
		s.Reads, s.Writes = Anything, Anything
		return
	}
	s.Prepared = classify(cursor{text: c.text, tokens: rest, literals: at.literals})
	if explain {
		s.Reads, s.Names = s.Prepared.Reads, s.Prepared.Names
		if c.has("analyze", "analyse") {
			s.Writes, s.Target = s.Prepared.Writes, s.Prepared.Target
		}
	}
}

// bracketed passes (...) if it comes next.
func (c *cursor) bracketed() {
	if !c.peek(0).is(c.text, "(") {
		return
	}
	for depth := 0; !c.done(); {
		t := c.advance()
		if t.is(c.text, "(") {
			depth++
		} else if t.is(c.text, ")") {
			if depth--; depth == 0 {
				return
			}
		}
	}
}

// control is a statement on the transaction.
func (c *cursor) control(s *Statement, word string) {
	at := *c
	at.next++
	switch s.Kind {
	case Begin:
		tag := "BEGIN"
		if word == "start" {
			if !at.word("transaction") {
				*s = *unknown()
				return
			}
			tag = "START TRANSACTION"
		} else {
			_ = at.word("work") || at.word("transaction")
		}
		if at.done() {
			s.Tag = tag
		}
	case Commit, Rollback:
		if at.word("prepared") {
			s.Kind = TwoPhase
			return
		}
		_ = at.word("work") || at.word("transaction")
		if s.Kind == Rollback && at.word("to") {
			s.Kind = RollbackTo
			at.word("savepoint")
			s.Object, _ = at.label()
			return
		}
		s.Chain = at.word("and", "chain")
		if at.done() && !s.Chain {
			s.Tag = map[Kind]string{Commit: "COMMIT", Rollback: "ROLLBACK"}[s.Kind]
		}
	case Release:
		if next := at.peek(1); next.kind != tokenEnd {
			at.word("savepoint")
		}
		s.Object, _ = at.label()
	case Savepoint:
		s.Object, _ = at.label()
	}
}

// object is the name that a statement is about.
func (c *cursor) object(s *Statement) {
	at := *c
	at.next++
	if s.Kind == Deallocate && at.peek(1).kind != tokenEnd {
		at.word("prepare")
	}
	t := at.peek(0)
	if name, ok := at.label(); ok && !(t.kind == tokenWord && name == "all" && (s.Kind == Deallocate || s.Kind == Close)) {
		s.Object = name
	}
	if s.Kind == Declare && s.Object == "" {
		s.Reads, s.Writes = Anything, Anything
	}
}
