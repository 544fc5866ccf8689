package statement

// Kind is what a statement is, by its first keyword.
type Kind uint8

const (
	// Other is everything without a kind of its own, and what cannot be read.
	Other Kind = iota
	Empty
	Select // SELECT, VALUES, TABLE, and WITH that ends in one
	Insert
	Update
	Delete
	Merge
	Truncate
	Copy
	Lock
	Schema // CREATE, ALTER, DROP, GRANT, VACUUM, ...
	Explain
	Call // CALL, DO
	Begin
	Commit
	Rollback // of the whole transaction
	Savepoint
	Release
	RollbackTo
	TwoPhase // PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED
	Set
	Show
	Reset
	Discard
	Prepare
	Execute
	Deallocate
	Declare // and FETCH, MOVE: statements on a cursor
	Close
	Listen // LISTEN, UNLISTEN
	Notify
)

var kindNames = [...]string{
	"other", "empty", "select", "insert", "update", "delete", "merge", "truncate", "copy", "lock", "schema", "explain", "call",
	"begin", "commit", "rollback", "savepoint", "release", "rollback to", "two-phase", "set", "show", "reset", "discard",
	"prepare", "execute", "deallocate", "declare", "close", "listen", "notify",
}

func (k Kind) String() string { return kindNames[k] }

// Extent is how many relations a statement may touch in a way.
type Extent uint8

const (
	// Nothing: none.
	Nothing Extent = iota
	// Target is the one table of Statement.Target.
	Target
	// Named are those that Statement.Names has, and what is behind them.
	Named
	// Anything: no bound can be given.
	Anything
)

func (e Extent) String() string { return [...]string{"nothing", "target", "named", "anything"}[e] }

// Name is a relation's, as it was written; no schema: the search path finds it.
type Name struct{ Schema, Name string }

// Statement is what is known of one statement. It is shared between texts of the
// same shape and never changed.
type Statement struct {
	Kind Kind
	// Names holds, sorted, each identifier of the statement once, and each
	// operator: of relations, columns, functions, types, whatever.
	Names  []string
	Reads  Extent
	Writes Extent
	Target Name
	// Write is what can be written behind; nil: Why says why it cannot.
	Write *Write
	Why   Reason
	// Setting of SET, SHOW and RESET.
	Setting *Setting
	// Object is the name that PREPARE, EXECUTE, DEALLOCATE, SAVEPOINT, RELEASE,
	// ROLLBACK TO, DECLARE, CLOSE, LISTEN and NOTIFY have; "": ALL, or what
	// DISCARD says.
	Object string
	// Prepared is the statement that PREPARE prepares and EXPLAIN explains.
	Prepared *Statement
	// Chain: COMMIT or ROLLBACK AND CHAIN begins the next transaction.
	Chain bool
	// Tag is the command tag of BEGIN, COMMIT and ROLLBACK where they say nothing else;
	// "": they do.
	Tag string
}

// Write is a statement that names all it does by values.
type Write struct {
	Table Name
	// Columns of an INSERT; nil with rows: all, in the table's order.
	Columns []string
	// Rows of an INSERT, as many as it has; one without values: DEFAULT VALUES.
	Rows     [][]Value
	Conflict *Conflict // of an INSERT; nil: none
	// Sets of an UPDATE, and Where: column = value, all of them.
	Sets  []Assignment
	Where []Assignment
	// Parameters is the highest $n.
	Parameters int
}

// Conflict is ON CONFLICT.
type Conflict struct {
	// Columns or Constraint say which; neither: any, with DO NOTHING only.
	Columns    []string
	Constraint string
	// Sets of DO UPDATE; none: DO NOTHING.
	Sets []Assignment
}

// Assignment is column = value.
type Assignment struct {
	Column string
	Value  Value
}

// Source is where a value comes from.
type Source uint8

const (
	Null Source = iota + 1
	Default
	Parameter // $N
	Constant  // Text.Literals[N]
	True
	False
	Function // F
	Excluded // EXCLUDED.Column
)

// Value of a write.
type Value struct {
	Source Source
	// N is a parameter's number, from 1, or the index of a literal; of nextval, that
	// of the sequence's name.
	N int
	// Literal is of which kind that literal is.
	Literal LiteralKind
	// Minus: a number with a minus before it.
	Minus bool
	// Cast is the type that the value was cast to, "": none.
	Cast string
	// Column of Excluded.
	Column string
	F      Func
}

// Func is a function that is evaluated once, at the ack, and logged as its value.
type Func uint8

const (
	// TransactionTime is now(): a timestamptz.
	TransactionTime Func = iota + 1
	// ClockTime is clock_timestamp().
	ClockTime
	// LocalTimestamp is a timestamp without zone, in the session's.
	LocalTimestamp
	// CurrentDate is the date in the session's zone.
	CurrentDate
	// RandomUUID is gen_random_uuid().
	RandomUUID
	// NextValue is nextval('sequence').
	NextValue
	// StatementTime is statement_timestamp().
	StatementTime
)

// Setting is what SET, SHOW or RESET names.
type Setting struct {
	// Name in lower case, "walproxy.ack"; "all"; "time zone", "role", "session
	// authorization", "transaction" and others where SQL has words for it.
	Name string
	// Values, as written; none: DEFAULT. One that is a name is a literal string.
	Values []SettingValue
	Local  bool
}

// SettingValue is a name or the literal of an index.
type SettingValue struct {
	Word    string
	Literal int // -1: Word
	Minus   bool
}
