package pgstatement

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrText: a text that is not in the one form that is logged.
var ErrText = errors.New("pgstatement: the text is not one that is logged")

// Kind is what a statement does.
type Kind uint8

const (
	Insert Kind = iota
	Update
	Delete
)

// Form is a text taken apart. Every name stands in quotes, every value is a
// parameter, and those are numbered as they come:
//
//	INSERT INTO "s"."t" ("c", ...) VALUES ($1, ...) [ON CONFLICT ...]
//	UPDATE "s"."t" SET "c" = $1, "d" = DEFAULT, ... WHERE "k" = $2 AND ...
//	DELETE FROM "s"."t" WHERE "k" = $1 AND ...
//
//	ON CONFLICT [("k", ...) | ON CONSTRAINT "n"] DO NOTHING
//	ON CONFLICT ("k", ...) | ON CONSTRAINT "n" DO UPDATE SET "c" = $3, "d" = EXCLUDED."c", "e" = DEFAULT, ...
type Form struct {
	Kind          Kind
	Schema, Table string
	Columns       []string     // of an INSERT: they get $1 and on
	Conflict      *Conflict    // nil: an INSERT without
	Sets          []Assignment // of an UPDATE
	Where         []Comparison
	// Targets are the columns that the parameters are for, the first being $1's.
	Targets []string
}

// Conflict is what stands behind ON CONFLICT.
type Conflict struct {
	Columns    []string
	Constraint string
	Sets       []Assignment // none: DO NOTHING
}

// Assignment is column = value. Of the others one is set.
type Assignment struct {
	Column    string
	Parameter int    // number from 1
	Excluded  string // the column of EXCLUDED
	Default   bool
}

// Comparison is column = $Parameter.
type Comparison struct {
	Column    string
	Parameter int
}

// Quote writes a name as SQL has it whatever its characters.
func Quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// scanner reads a text from left to right.
type scanner struct {
	text, rest string
	form       *Form
	failed     bool
}

// Parse takes a text apart. Errors are ErrText, with the place.
func Parse(text string) (*Form, error) {
	s := &scanner{text: text, rest: text, form: &Form{}}
	switch {
	case s.skip("INSERT INTO "):
		s.insert()
	case s.skip("UPDATE "):
		s.form.Kind = Update
		s.name()
		s.need(" SET ")
		s.form.Sets = s.assignments(false)
		s.where()
	case s.skip("DELETE FROM "):
		s.form.Kind = Delete
		s.name()
		s.where()
	default:
		s.failed = true
	}
	if s.failed || s.rest != "" {
		at := len(s.text) - len(s.rest)
		return nil, fmt.Errorf("%w: byte %d, before %.40q", ErrText, at, s.rest)
	}
	return s.form, nil
}

func (s *scanner) skip(word string) bool {
	rest, ok := strings.CutPrefix(s.rest, word)
	if ok && !s.failed {
		s.rest = rest
		return true
	}
	return false
}

func (s *scanner) need(word string) {
	if !s.skip(word) {
		s.failed = true
	}
}

// quoted reads a name.
func (s *scanner) quoted() string {
	s.need(`"`)
	for i := 0; i < len(s.rest) && !s.failed; i++ {
		switch {
		case s.rest[i] == 0:
			i = len(s.rest)
		case s.rest[i] != '"':
		case strings.HasPrefix(s.rest[i+1:], `"`):
			i++
		case i == 0:
			s.failed = true
		default:
			name := strings.ReplaceAll(s.rest[:i], `""`, `"`)
			s.rest = s.rest[i+1:]
			return name
		}
	}
	s.failed = true
	return ""
}

func (s *scanner) name() {
	s.form.Schema = s.quoted()
	s.need(".")
	s.form.Table = s.quoted()
}

// parameter reads the next one, of a column.
func (s *scanner) parameter(column string) int {
	s.form.Targets = append(s.form.Targets, column)
	n := len(s.form.Targets)
	s.need("$" + strconv.Itoa(n))
	return n
}

func (s *scanner) columns() (names []string) {
	for !s.failed {
		names = append(names, s.quoted())
		if !s.skip(", ") {
			break
		}
	}
	return names
}

func (s *scanner) insert() {
	s.name()
	s.need(" (")
	s.form.Columns = s.columns()
	s.need(") VALUES (")
	for i, column := range s.form.Columns {
		if i > 0 {
			s.need(", ")
		}
		if s.failed {
			return
		}
		s.parameter(column)
	}
	s.need(")")
	if !s.skip(" ON CONFLICT") {
		return
	}
	c := &Conflict{}
	s.form.Conflict = c
	if s.skip(" ON CONSTRAINT ") {
		c.Constraint = s.quoted()
	} else if s.skip(" (") {
		c.Columns = s.columns()
		s.need(")")
	}
	if s.skip(" DO NOTHING") {
		return
	}
	s.need(" DO UPDATE SET ")
	s.failed = s.failed || c.Constraint == "" && c.Columns == nil
	c.Sets = s.assignments(true)
}

func (s *scanner) assignments(excluded bool) (list []Assignment) {
	for !s.failed {
		a := Assignment{Column: s.quoted()}
		s.need(" = ")
		switch {
		case s.skip("DEFAULT"):
			a.Default = true
		case excluded && s.skip("EXCLUDED."):
			a.Excluded = s.quoted()
		default:
			a.Parameter = s.parameter(a.Column)
		}
		list = append(list, a)
		if !s.skip(", ") {
			break
		}
	}
	return list
}

func (s *scanner) where() {
	word := " WHERE "
	for !s.failed && (len(s.form.Where) == 0 || s.rest != "") {
		s.need(word)
		c := Comparison{Column: s.quoted()}
		s.need(" = ")
		c.Parameter = s.parameter(c.Column)
		s.form.Where = append(s.form.Where, c)
		word = " AND "
	}
}
