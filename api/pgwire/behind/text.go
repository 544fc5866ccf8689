package behind

import (
	"strconv"
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// quote writes a name as SQL has it whatever its characters.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func tableName(t *catalogue.Table) string { return quote(t.Schema) + "." + quote(t.Name) }

// writer writes the text that is logged.
type writer struct {
	strings.Builder
	parameters int
}

func (w *writer) write(parts ...string) {
	for _, part := range parts {
		w.WriteString(part)
	}
}

func (w *writer) parameter() {
	w.parameters++
	w.write("$", strconv.Itoa(w.parameters))
}

func insertText(t *catalogue.Table, columns []*catalogue.Column) *writer {
	w := &writer{}
	w.write("INSERT INTO ", tableName(t), " (")
	for i, c := range columns {
		if i > 0 {
			w.write(", ")
		}
		w.write(quote(c.Name))
	}
	w.write(") VALUES (")
	for i := range columns {
		if i > 0 {
			w.write(", ")
		}
		w.parameter()
	}
	w.write(")")
	return w
}

// conflict writes ON CONFLICT, without its assignments.
func (w *writer) conflict(c *statement.Conflict) {
	w.write(" ON CONFLICT")
	switch {
	case c.Constraint != "":
		w.write(" ON CONSTRAINT ", quote(c.Constraint))
	case c.Columns != nil:
		quoted := make([]string, len(c.Columns))
		for i, name := range c.Columns {
			quoted[i] = quote(name)
		}
		w.write(" (", strings.Join(quoted, ", "), ")")
	}
	if len(c.Sets) == 0 {
		w.write(" DO NOTHING")
		return
	}
	w.write(" DO UPDATE SET ")
}

func (w *writer) set(i int, c *catalogue.Column) {
	if i > 0 {
		w.write(", ")
	}
	w.write(quote(c.Name), " = ")
}

// finish returns the text with its parameters' types; the one of texts if it is
// there already.
func (w *writer) finish(slots []slot, texts map[string]*Text) *Text {
	sql := w.String()
	if t := texts[sql]; t != nil && sameTypes(t, slots) {
		return t
	}
	t := &Text{SQL: sql, OIDs: make([]uint32, len(slots))}
	for i, s := range slots {
		t.OIDs[i] = s.from.OID
	}
	texts[sql] = t
	return t
}

func sameTypes(t *Text, slots []slot) bool {
	for i, s := range slots {
		if t.OIDs[i] != s.from.OID {
			return false
		}
	}
	return true
}
