package behind

import (
	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// Reason is why a statement whose text and table could be written behind is not.
type Reason uint8

const (
	// None: it is.
	None Reason = iota
	// NotDeclared: its table is not one that is written behind, or it cannot be said
	// which table the name means.
	NotDeclared
	// Privilege: the role may not surely do this.
	Privilege
	// Columns: a column that does not exist, or cannot be written; too many values.
	Columns
	// Defaults: a column that is left out has a default that cannot be evaluated here.
	Defaults
	// Key: the primary key is not given by values, in full, or is changed.
	Key
	// ConflictKey: ON CONFLICT is about something else than the primary key.
	ConflictKey
	// Types: a value is of a type that is not known here or does not go into the column.
	Types
	// Rows: more rows than one group holds.
	Rows
	// Value: this value cannot be judged; another one of the same statement may be.
	Value
	// Sequence: a sequence's next value cannot be had.
	Sequence
	// Repeated: two rows of the statement have one key.
	Repeated
)

var reasonNames = [...]string{"none", "not_declared", "privilege", "columns", "defaults", "key", "conflict_key", "types", "rows", "value", "sequence", "repeated"}

var reasonTexts = [...]string{
	"", "its table is not declared write-behind, or it cannot be said which table the name means", "the role may not do this to the table",
	"a column does not exist or cannot be written", "a column that it leaves out has a default that cannot be evaluated at the ack",
	"it does not give the whole primary key by values, or changes it", "ON CONFLICT is not about the primary key",
	"a value's type is not known or does not go into its column", "it has more rows than one group of records", "a value cannot be judged without the server",
	"the next value of a sequence cannot be had", "two of its rows have the same key",
}

// Why a statement is passed through: the first of the three that is set.
type Why struct {
	Text   statement.Reason
	Table  catalogue.Refusal
	Reason Reason
	Detail string // which column or value
}

// Label is short and from a small set: a metric's.
func (w *Why) Label() string {
	switch {
	case w.Text != statement.Eligible:
		return w.Text.String()
	case w.Table != catalogue.Accepted:
		return w.Table.String()
	}
	return reasonNames[w.Reason]
}

func (w *Why) String() string {
	text := reasonTexts[w.Reason]
	switch {
	case w.Text != statement.Eligible:
		text = w.Text.Explain()
	case w.Table != catalogue.Accepted:
		text = w.Table.Explain()
	}
	if w.Detail != "" {
		text += ": " + w.Detail
	}
	return text
}

func because(r Reason, detail string) *Why { return &Why{Reason: r, Detail: detail} }
