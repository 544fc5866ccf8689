package statement

import "slices"

// parseWrite reads an INSERT, UPDATE or DELETE. The table is returned if it is
// known, whatever the reason says.
func parseWrite(c cursor, kind Kind) (*Write, Name, Reason) {
	w := &Write{}
	c.next++ // INSERT, UPDATE, DELETE
	if kind == Insert && !c.word("into") || kind == Delete && !c.word("from") {
		return nil, Name{}, Unreadable
	}
	only := kind != Insert && c.word("only")
	var ok bool
	if w.Table, ok = c.relation(); !ok {
		return nil, Name{}, Unreadable
	}
	var reason Reason
	switch {
	case only || kind != Insert && c.peek(0).is(c.text, "*"):
		reason = Only
	case kind == Insert:
		reason = c.insert(w)
	default:
		reason = c.change(w, kind)
	}
	if reason != Eligible {
		return nil, w.Table, reason
	}
	return w, w.Table, Eligible
}

// insert is what follows INSERT INTO table.
func (c *cursor) insert(w *Write) Reason {
	alias := w.Table.Name
	if c.word("as") {
		var ok bool
		if alias, ok = c.name(); !ok {
			return Unreadable
		}
	}
	if c.peek(0).is(c.text, "(") {
		if next := c.peek(1); next.is(c.text, "(") || next.keyword(c.text, "select") || next.keyword(c.text, "with") ||
			next.keyword(c.text, "values") || next.keyword(c.text, "table") {
			return Query
		}
		var ok bool
		if w.Columns, ok = c.names(); !ok {
			return Unreadable
		}
	}
	switch {
	case c.word("overriding"):
		return Overriding
	case c.word("default", "values"):
		if w.Columns != nil {
			return Unreadable
		}
		w.Rows = [][]Value{{}}
	case c.word("values"):
		if reason := c.rows(w); reason != Eligible {
			return reason
		}
	case c.word("select"), c.word("with"), c.word("table"), c.symbol("("):
		return Query
	default:
		return Unreadable
	}
	if c.word("on", "conflict") {
		if reason := c.conflict(w, alias); reason != Eligible {
			return reason
		}
	}
	return c.end()
}

func (c *cursor) end() Reason {
	switch {
	case c.done():
		return Eligible
	case c.word("returning"):
		return Returning
	}
	return Unreadable
}

func (c *cursor) rows(w *Write) Reason {
	for {
		row, ok := c.row(w)
		if !ok {
			return Expression
		}
		if w.Columns != nil && len(row) != len(w.Columns) || len(w.Rows) > 0 && len(row) != len(w.Rows[0]) {
			return Unreadable // PostgreSQL's to refuse
		}
		w.Rows = append(w.Rows, row)
		if !c.symbol(",") {
			return Eligible
		}
	}
}

func (c *cursor) row(w *Write) (row []Value, ok bool) {
	if !c.symbol("(") {
		return nil, false
	}
	for {
		v, ok := c.value(w)
		if !ok || len(row) >= columnsMax {
			return nil, false
		}
		row = append(row, v)
		if c.symbol(")") {
			return row, true
		}
		if !c.symbol(",") {
			return nil, false
		}
	}
}

// conflict is what follows ON CONFLICT.
func (c *cursor) conflict(w *Write, alias string) Reason {
	w.Conflict = &Conflict{}
	switch {
	case c.peek(0).is(c.text, "("):
		var ok bool
		if w.Conflict.Columns, ok = c.names(); !ok || c.peek(0).keyword(c.text, "where") {
			return ConflictTarget
		}
	case c.word("on", "constraint"):
		var ok bool
		if w.Conflict.Constraint, ok = c.name(); !ok {
			return ConflictTarget
		}
	}
	if c.word("do", "nothing") {
		return Eligible
	}
	if w.Conflict.Columns == nil && w.Conflict.Constraint == "" || !c.word("do", "update", "set") {
		return Unreadable
	}
	var reason Reason
	if w.Conflict.Sets, reason = c.sets(w, true); reason != Eligible {
		return reason
	}
	if c.word("where") {
		return ConflictWhere
	}
	if alias == "excluded" { // PostgreSQL refuses to tell them apart
		return Unreadable
	}
	return Eligible
}

// sets takes column = value, ...
func (c *cursor) sets(w *Write, excluded bool) (list []Assignment, reason Reason) {
	for {
		if c.peek(0).is(c.text, "(") {
			return nil, Expression
		}
		column, ok := c.name()
		if !ok {
			return nil, Unreadable
		}
		if !c.symbol("=") {
			return nil, Expression // a part of an array or a composite
		}
		if slices.ContainsFunc(list, func(a Assignment) bool { return a.Column == column }) || len(list) >= columnsMax {
			return nil, Unreadable
		}
		a := Assignment{Column: column}
		if excluded && c.peek(0).kind == tokenWord && c.peek(0).keyword(c.text, "excluded") && c.peek(1).is(c.text, ".") {
			c.next += 2
			a.Value.Source = Excluded
			if a.Value.Column, ok = c.label(); !ok || !c.endsValue() {
				return nil, Expression
			}
		} else if a.Value, ok = c.value(w); !ok || c.peek(0).is(c.text, "=") {
			return nil, Expression
		}
		list = append(list, a)
		if !c.symbol(",") {
			return list, Eligible
		}
	}
}

// change is what follows UPDATE table and DELETE FROM table.
func (c *cursor) change(w *Write, kind Kind) Reason {
	alias := ""
	if c.word("as") || kind == Update && !c.peek(0).keyword(c.text, "set") || kind == Delete && c.isBareAlias() {
		var ok bool
		if alias, ok = c.name(); !ok {
			return Unreadable
		}
	}
	if kind == Update {
		if !c.word("set") {
			return Unreadable
		}
		var reason Reason
		if w.Sets, reason = c.sets(w, false); reason != Eligible {
			return reason
		}
	}
	switch {
	case kind == Update && c.word("from"), kind == Delete && c.word("using"):
		return Join
	case !c.word("where"):
		if reason := c.end(); reason != Eligible {
			return reason
		}
		return Where
	}
	if reason := c.where(w, alias); reason != Eligible {
		return reason
	}
	return c.end()
}

func (c *cursor) isBareAlias() bool { return c.isName(c.peek(0)) }

// where takes column = value AND ..., in any brackets that are balanced.
func (c *cursor) where(w *Write, alias string) Reason {
	depth := 0
	for {
		for c.symbol("(") {
			depth++
		}
		a, ok := c.comparison(w, alias)
		if !ok || slices.ContainsFunc(w.Where, func(b Assignment) bool { return b.Column == a.Column }) {
			return Where
		}
		w.Where = append(w.Where, a)
		for depth > 0 && c.symbol(")") {
			depth--
		}
		if c.word("and") {
			if len(w.Where) > columnsMax {
				return Where
			}
			continue
		}
		if depth == 0 && (c.done() || c.peek(0).keyword(c.text, "returning")) {
			return Eligible
		}
		return Where
	}
}

// comparison takes column = value or value = column.
func (c *cursor) comparison(w *Write, alias string) (a Assignment, ok bool) {
	reversed := !c.isColumn()
	if reversed {
		if a.Value, ok = c.value(w); !ok || !c.symbol("=") {
			return a, false
		}
	}
	if a.Column, ok = c.column(w.Table, alias); !ok {
		return a, false
	}
	if !reversed {
		if !c.symbol("=") {
			return a, false
		}
		a.Value, ok = c.value(w)
	}
	return a, ok && a.Value.Source != Default && !c.peek(0).is(c.text, "=")
}

// isColumn: a name that is no function, cast or type before a string.
func (c *cursor) isColumn() bool {
	next := c.peek(1)
	return c.isName(c.peek(0)) && (next.is(c.text, "=") || next.is(c.text, "."))
}

// column takes a column of the table, qualified or not.
func (c *cursor) column(table Name, alias string) (string, bool) {
	name, ok := c.name()
	parts := []string{name}
	for ok && len(parts) < 3 && c.symbol(".") {
		name, ok = c.label()
		parts = append(parts, name)
	}
	if !ok || c.peek(0).is(c.text, ".") {
		return "", false
	}
	switch len(parts) {
	case 2:
		if alias == "" {
			alias = table.Name
		}
		ok = parts[0] == alias
	case 3:
		ok = alias == "" && parts[0] == table.Schema && parts[1] == table.Name
	}
	return parts[len(parts)-1], ok
}
