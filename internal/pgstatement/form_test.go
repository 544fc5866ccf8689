package pgstatement

import (
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// text writes f as it is logged.
func (f *Form) text() string {
	var b strings.Builder
	next := 0
	parameter := func() { next++; b.WriteString("$" + strconv.Itoa(next)) }
	list := func(names []string) {
		for i, name := range names {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(Quote(name))
		}
	}
	sets := func(as []Assignment) {
		for i, a := range as {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(Quote(a.Column) + " = ")
			switch {
			case a.Default:
				b.WriteString("DEFAULT")
			case a.Excluded != "":
				b.WriteString("EXCLUDED." + Quote(a.Excluded))
			default:
				parameter()
			}
		}
	}
	table := Quote(f.Schema) + "." + Quote(f.Table)
	switch f.Kind {
	case Insert:
		b.WriteString("INSERT INTO " + table + " (")
		list(f.Columns)
		b.WriteString(") VALUES (")
		for i := range f.Columns {
			if i > 0 {
				b.WriteString(", ")
			}
			parameter()
		}
		b.WriteString(")")
		if c := f.Conflict; c != nil {
			b.WriteString(" ON CONFLICT")
			if c.Constraint != "" {
				b.WriteString(" ON CONSTRAINT " + Quote(c.Constraint))
			} else if c.Columns != nil {
				b.WriteString(" (")
				list(c.Columns)
				b.WriteString(")")
			}
			if c.Sets == nil {
				b.WriteString(" DO NOTHING")
			} else {
				b.WriteString(" DO UPDATE SET ")
				sets(c.Sets)
			}
		}
	case Update:
		b.WriteString("UPDATE " + table + " SET ")
		sets(f.Sets)
	case Delete:
		b.WriteString("DELETE FROM " + table)
	}
	for i, c := range f.Where {
		b.WriteString(map[bool]string{true: " WHERE ", false: " AND "}[i == 0] + Quote(c.Column) + " = ")
		parameter()
	}
	return b.String()
}

// TestForm: what is written in the form is read, whatever the names.
func TestForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.Custom(func(t *rapid.T) string {
			return rapid.OneOf(rapid.StringMatching(`[a-z" .,$()=']{1,8}`), rapid.SampledFrom([]string{"DEFAULT", `"`, "$1", `""`, "é", ") VALUES ("})).Draw(t, "name")
		})
		names := rapid.SliceOfN(name, 1, 4)
		f := &Form{Kind: Kind(rapid.IntRange(0, 2).Draw(t, "kind")), Schema: name.Draw(t, "schema"), Table: name.Draw(t, "table")}
		parameter := func(column string) int { f.Targets = append(f.Targets, column); return len(f.Targets) }
		sets := func(excluded bool) (list []Assignment) {
			for range rapid.IntRange(1, 3).Draw(t, "sets") {
				a := Assignment{Column: name.Draw(t, "column")}
				switch rapid.IntRange(0, 2).Draw(t, "value") {
				case 0:
					a.Default = true
				case 1:
					if excluded {
						a.Excluded = name.Draw(t, "excluded")
						break
					}
					fallthrough
				default:
					a.Parameter = parameter(a.Column)
				}
				list = append(list, a)
			}
			return list
		}
		switch f.Kind {
		case Insert:
			f.Columns = names.Draw(t, "columns")
			for _, c := range f.Columns {
				parameter(c)
			}
			switch rapid.IntRange(0, 4).Draw(t, "conflict") {
			case 0:
				f.Conflict = &Conflict{}
			case 1:
				f.Conflict = &Conflict{Columns: names.Draw(t, "target")}
			case 2:
				f.Conflict = &Conflict{Columns: names.Draw(t, "target"), Sets: sets(true)}
			case 3:
				f.Conflict = &Conflict{Constraint: name.Draw(t, "constraint"), Sets: sets(true)}
			}
		case Update:
			f.Sets = sets(false)
		}
		if f.Kind != Insert {
			for _, c := range names.Draw(t, "key") {
				f.Where = append(f.Where, Comparison{c, parameter(c)})
			}
		}
		got, err := Parse(f.text())
		if err != nil || !reflect.DeepEqual(got, f) {
			t.Fatalf("%s became %+v (%v), want %+v", f.text(), got, err, f)
		}
	})
}

// TestOtherTexts: nothing but the form is read.
func TestOtherTexts(t *testing.T) {
	for _, text := range []string{
		"", "SELECT 1", "DELETE", `DELETE FROM "s"."t"`, `DELETE FROM t WHERE "a" = $1`, `DELETE FROM "s"."t" WHERE "a" = $2`, `DELETE FROM "s"."t" WHERE "a" = $1;`,
		`DELETE FROM "s"."t" WHERE "a" = $1 OR "a" = $2`, `UPDATE "s"."t" SET "a" = EXCLUDED."a" WHERE "a" = $1`, `UPDATE "s"."t" SET "a" = $1`,
		`INSERT INTO "s"."t" ("a") VALUES (1)`, `INSERT INTO "s"."t" ("a") VALUES ($1) RETURNING "a"`, `INSERT INTO "s"."t" ("a", "b") VALUES ($1)`,
		`INSERT INTO "s"."t" ("a") VALUES ($1) ON CONFLICT DO UPDATE SET "a" = $2`, `INSERT INTO "s"."t" ("") VALUES ($1)`, "DELETE FROM \"s\".\"t\x00\" WHERE \"a\" = $1",
		`INSERT INTO "s"."t" ("a") VALUES ($1), ($2)`, `delete FROM "s"."t" WHERE "a" = $1`, `DELETE FROM "s"."t" WHERE "a" = $1 `,
	} {
		if f, err := Parse(text); !errors.Is(err, ErrText) {
			t.Errorf("%q is read as %+v (%v)", text, f, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`INSERT INTO "s"."t" ("a", "b") VALUES ($1, $2) ON CONFLICT ("a") DO UPDATE SET "b" = EXCLUDED."b", "c" = $3, "d" = DEFAULT`)
	f.Add(`UPDATE "s"."t" SET "a" = $1 WHERE "k" = $2 AND "l" = $3`)
	f.Add(`DELETE FROM "s"."t" WHERE "a""b" = $1`)
	f.Fuzz(func(t *testing.T, text string) {
		form, err := Parse(text)
		if err == nil && form.text() != text {
			t.Fatalf("%q is read as what is written %q", text, form.text())
		}
	})
}
