package catalogue

// Refusal is why a table cannot be written behind: a label, as statement.Reason.
type Refusal uint8

const (
	// Accepted: it can.
	Accepted Refusal = iota
	// Missing: there is no such table.
	Missing
	// NoTable: it is a view, a foreign table, or temporary.
	NoTable
	// NoKey: it has no primary key, or not the one that was declared.
	NoKey
	// KeyForm: two values of its key, written differently, can be one row.
	KeyForm
	// RowSecurity: its policies depend on who writes.
	RowSecurity
	// Rules: they rewrite statements.
	Rules
	// Triggers: they do what cannot be known here. A safe table may have them.
	Triggers
	// ForeignKey: whether it holds only the store knows. A safe table may have them.
	ForeignKey
	// Checks: CHECK constraints. A safe table may have them.
	Checks
	// Inheritance: other tables have its rows, too.
	Inheritance
	// Exclusion: exclusion or deferred constraints.
	Exclusion
	// Encoding: the database is not in UTF-8.
	Encoding
)

var refusalNames = [...]string{"accepted", "table_missing", "no_table", "no_key", "key_form", "row_security", "rules", "triggers",
	"foreign_key", "checks", "inheritance", "exclusion", "encoding"}

var refusalTexts = [...]string{
	"the table can be written behind", "there is no such table", "it is no ordinary table", "it has no primary key, or another one than was declared",
	"two values of its key, written differently, can be one row", "it has row-level security", "it has rules",
	"it has triggers, and is not declared safe", "it has foreign keys, and is not declared safe", "it has CHECK constraints, and is not declared safe",
	"it inherits or is inherited from", "it has exclusion or deferrable constraints", "the database is not in UTF-8",
}

func (r Refusal) String() string { return refusalNames[r] }

// Explain says it to people.
func (r Refusal) Explain() string { return refusalTexts[r] }
