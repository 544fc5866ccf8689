package behind

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/value"
)

// checkNulls finds the first column that must not be null and is.
func (b *binder) checkNulls(r *row, values []bound) {
	given := true
	for i := range values {
		given = given && values[i].raw != nil
	}
	if given && len(r.missing) == 0 {
		return
	}
	isNull := func(c *catalogue.Column) bool {
		if slices.Contains(r.missing, c) {
			return true
		}
		i := insertedAt(values, c)
		return i >= 0 && values[i].raw == nil
	}
	for i, c := range b.Table.Columns {
		if isNull(c) && !takesNull(c.Type) {
			b.unknown(c.Name)
			return
		}
		if !c.NotNull || !isNull(c) {
			continue
		}
		detail, ok := b.failingRow(r, values)
		if !ok || len(b.rows) > 1 {
			b.unknown(c.Name)
			return
		}
		e := &value.Error{Code: "23502", Column: c.Name, Detail: detail,
			Message: `null value in column "` + c.Name + `" of relation "` + b.Table.Name + `" violates not-null constraint`}
		b.faults = append(b.faults, fault{stage: Executing, order: i, Refusal: &Refusal{Error: e, Table: b.Table}})
		return
	}
}

// insertedAt finds the value for a new row's column; -1: there is none.
func insertedAt(values []bound, c *catalogue.Column) int {
	for i := range values {
		if v := &values[i]; v.column == c && v.part == inserted {
			return i
		}
	}
	return -1
}

// takesNull: no domain refuses it, or might.
func takesNull(t *catalogue.Type) bool {
	for ; t.Kind == catalogue.DomainType; t = t.Base {
		if t.NotNull || t.Checked {
			return false
		}
	}
	return true
}

// shownBytesMax is how much of a value PostgreSQL shows.
const shownBytesMax = 64

// failingRow is the row as PostgreSQL shows it; false: a value of it cannot be
// written here as the session would have it.
func (b *binder) failingRow(r *row, values []bound) (string, bool) {
	if !b.Table.May(b.session.Role, catalogue.MaySelect) {
		return "", false
	}
	shown := make([]string, 0, len(b.Table.Columns))
	for _, c := range b.Table.Columns {
		if c.Generated {
			return "", false
		}
		i := insertedAt(values, c)
		var datum value.Datum
		switch {
		case i >= 0 && values[i].raw != nil:
			datum = values[i].datum
		case slices.Contains(r.constant, c):
			var verdict value.Verdict
			if datum, verdict, _ = value.Input(c.Type, value.Text, []byte(c.Default.Text), nil); verdict != value.Good {
				return "", false
			}
		default:
			shown = append(shown, "null")
			continue
		}
		text, ok := output(c.Type, datum)
		if !ok {
			return "", false
		}
		if len(text) > shownBytesMax {
			end := shownBytesMax
			for !utf8.RuneStart(text[end]) {
				end--
			}
			text = text[:end] + "..."
		}
		shown = append(shown, text)
	}
	return "Failing row contains (" + strings.Join(shown, ", ") + ").", true
}

// output is a value's text, of types whose text depends on no setting.
func output(t *catalogue.Type, d value.Datum) (string, bool) {
	t = t.Plain()
	if t.Kind == catalogue.EnumType {
		return d.Text, true
	}
	switch t.Name {
	case "int2", "int4", "int8":
		return strconv.FormatInt(d.Int, 10), true
	case "bool":
		return strconv.FormatBool(d.Bool)[:1], true
	case "text", "varchar", "uuid", "json":
		return d.Text, true
	}
	return "", false
}
