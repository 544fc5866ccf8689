package behind

import (
	"slices"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
)

func (p *planner) insert() {
	if len(p.write.Rows) > rowsMax {
		p.fail(Rows, "")
		return
	}
	targets := p.targets()
	if p.why != nil || !p.conflictTarget() {
		return
	}
	texts := map[string]*Text{}
	for _, values := range p.write.Rows {
		if r := p.insertRow(targets, values, texts); p.why == nil {
			p.rows = append(p.rows, r)
		}
	}
}

// targets are the columns that values are given for.
func (p *planner) targets() []*catalogue.Column {
	if p.write.Columns == nil {
		n := len(p.write.Rows[0])
		if n > len(p.Table.Columns) {
			p.fail(Columns, "more values than columns")
			return nil
		}
		return p.Table.Columns[:n]
	}
	var list []*catalogue.Column
	for _, name := range p.write.Columns {
		list = append(list, p.column(name))
	}
	return list
}

func (p *planner) column(name string) *catalogue.Column {
	c := p.Table.Column(name)
	if c == nil {
		p.fail(Columns, name)
	}
	return c
}

func (p *planner) insertRow(targets []*catalogue.Column, values []statement.Value, texts map[string]*Text) *row {
	r := &row{}
	// In the order of the statement, which settles the parameters' types.
	given := map[*catalogue.Column]slot{}
	for i, c := range targets {
		if v := values[i]; v.Source != statement.Default {
			if c.Generated || c.Always {
				p.fail(Columns, c.Name)
			}
			given[c] = p.slot(inserted, c, v)
		}
	}
	var named []*catalogue.Column
	for _, c := range p.Table.Columns {
		s, ok := given[c]
		if !ok {
			s, ok = p.leftOut(r, c)
		}
		if ok {
			r.slots = append(r.slots, s)
			named = append(named, c)
		}
	}
	for _, c := range p.Table.KeyColumns {
		if !slices.Contains(named, c) && !slices.Contains(r.missing, c) {
			p.fail(Key, c.Name)
		}
	}
	if p.why != nil {
		return nil
	}
	w := insertText(p.Table, named)
	if conflict := p.write.Conflict; conflict != nil {
		w.conflict(conflict)
		for i, a := range conflict.Sets {
			if p.isInserted(a, given) {
				a.Value = statement.Value{Source: statement.Excluded, Column: a.Column}
			}
			if s, ok := p.assignment(w, i, a); ok {
				r.slots = append(r.slots, s)
			}
		}
	}
	r.text = w.finish(r.slots, texts)
	return r
}

// isInserted: the column is set to the parameter that the new row has in it, which is what
// EXCLUDED has, and rows with that can be joined. Where triggers may change
// the new row first it need not be.
func (p *planner) isInserted(a statement.Assignment, given map[*catalogue.Column]slot) bool {
	s, ok := given[p.Table.Column(a.Column)]
	return ok && a.Value.Source == statement.Parameter && a.Value == s.value && !p.Table.Safe
}

// leftOut is a column without a value. What is evaluated at the ack is a slot.
func (p *planner) leftOut(r *row, c *catalogue.Column) (slot, bool) {
	switch {
	case c.Generated:
	case c.Always: // a value for it has to say so
		p.fail(Defaults, c.Name)
	case c.Default.Kind == catalogue.ConstantDefault:
		r.constant = append(r.constant, c)
	case c.Default.Kind == catalogue.FixableDefault:
		return p.slot(inserted, c, statement.Value{Source: statement.Function, F: c.Default.Func, N: -1}), true
	case c.Default.Kind == catalogue.NoDefault && !c.Type.HasDefault:
		r.missing = append(r.missing, c)
	default: // among them types that have a default of their own
		p.fail(Defaults, c.Name)
	}
	return slot{}, false
}

// conflictTarget: ON CONFLICT is about the primary key, or DO NOTHING about anything.
func (p *planner) conflictTarget() bool {
	conflict := p.write.Conflict
	if conflict == nil {
		return true
	}
	switch {
	case conflict.Constraint != "":
		if conflict.Constraint != p.Table.PrimaryKey {
			p.fail(ConflictKey, conflict.Constraint)
		}
	case conflict.Columns != nil:
		same := len(conflict.Columns) == len(p.Table.KeyColumns)
		for _, c := range p.Table.KeyColumns {
			same = same && slices.Contains(conflict.Columns, c.Name)
		}
		if !same {
			p.fail(ConflictKey, "")
		}
	}
	return p.why == nil
}

// assignment is column = value of SET: a slot if the value is a parameter.
func (p *planner) assignment(w *writer, i int, a statement.Assignment) (slot, bool) {
	c := p.column(a.Column)
	if c == nil {
		return slot{}, false
	}
	switch {
	case slices.Contains(p.Table.KeyColumns, c):
		p.fail(Key, c.Name)
	case c.Generated, c.Always:
		p.fail(Columns, c.Name)
	}
	w.set(i, c)
	switch a.Value.Source {
	case statement.Excluded:
		from := p.column(a.Value.Column)
		if from != nil && (from.Type.OID != c.Type.OID || from.Modifier != c.Modifier || from.Generated || c.NotNull && !from.NotNull) {
			p.fail(Types, c.Name)
		}
		w.write("EXCLUDED.", quote(a.Value.Column))
		return slot{}, false
	case statement.Default:
		switch c.Default.Kind {
		case catalogue.FixableDefault:
			a.Value = statement.Value{Source: statement.Function, F: c.Default.Func, N: -1}
		case catalogue.ConstantDefault:
			w.write("DEFAULT")
			return slot{}, false
		default:
			p.fail(Defaults, c.Name)
			return slot{}, false
		}
	}
	w.parameter()
	return p.slot(updated, c, a.Value), true
}

// change is an UPDATE or DELETE of one row.
func (p *planner) change() {
	r := &row{}
	w := &writer{}
	if p.Kind == statement.Update {
		w.write("UPDATE ", tableName(p.Table), " SET ")
		for i, a := range p.write.Sets {
			if s, ok := p.assignment(w, i, a); ok {
				r.slots = append(r.slots, s)
			}
		}
	} else {
		w.write("DELETE FROM ", tableName(p.Table))
	}
	if len(p.write.Where) != len(p.Table.KeyColumns) {
		p.fail(Key, "")
	}
	for i, a := range p.write.Where {
		c := p.column(a.Column)
		if c == nil || !slices.Contains(p.Table.KeyColumns, c) {
			p.fail(Key, a.Column)
			return
		}
		if i == 0 {
			w.write(" WHERE ")
		} else {
			w.write(" AND ")
		}
		w.write(quote(c.Name), " = ")
		w.parameter()
		r.slots = append(r.slots, p.slot(compared, c, a.Value))
	}
	if p.why == nil {
		r.text = w.finish(r.slots, map[string]*Text{})
		p.rows = []*row{r}
	}
}
