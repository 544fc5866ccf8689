package statement

// Reason is why a statement cannot be written behind. Its text is a label: of a
// metric, and what SHOW walproxy.why begins with.
type Reason uint8

const (
	// Eligible: nothing in the text forbids it. The catalogue may.
	Eligible Reason = iota
	// NoWrite: it is no INSERT, UPDATE or DELETE.
	NoWrite
	// Unreadable: the text is too long, or has a token or a form that is not known.
	Unreadable
	// With: WITH stands before it.
	With
	// Returning: RETURNING wants what only the store can answer.
	Returning
	// Query: its rows come from a SELECT, or a value from a subquery.
	Query
	// Join: UPDATE .. FROM, DELETE .. USING.
	Join
	// Only: ONLY or * behind the table's name.
	Only
	// Expression: a value is neither a parameter, a literal nor one of the
	// functions that can be evaluated once, at the ack.
	Expression
	// Where: the condition is not column = value AND ..., or has no end.
	Where
	// ConflictTarget: ON CONFLICT does not name plain columns or a constraint.
	ConflictTarget
	// ConflictWhere: ON CONFLICT DO UPDATE has a condition.
	ConflictWhere
	// Overriding: OVERRIDING SYSTEM VALUE or USER VALUE.
	Overriding
)

var reasonNames = [...]string{
	Eligible: "eligible", NoWrite: "no_write", Unreadable: "unreadable", With: "with", Returning: "returning", Query: "query",
	Join: "join", Only: "only", Expression: "expression", Where: "where", ConflictTarget: "conflict_target",
	ConflictWhere: "conflict_where", Overriding: "overriding",
}

var reasonTexts = [...]string{
	Eligible:       "the text can be written behind",
	NoWrite:        "it is no INSERT, UPDATE or DELETE",
	Unreadable:     "the text is too long or has a form that is not known",
	With:           "it begins with WITH",
	Returning:      "RETURNING asks for what only the store can answer",
	Query:          "its rows or a value come from a query",
	Join:           "it joins other tables",
	Only:           "it says ONLY or * of its table",
	Expression:     "a value is more than a parameter, a literal or a function that can be evaluated at the ack",
	Where:          "its condition is more than column = value, joined by AND",
	ConflictTarget: "ON CONFLICT names neither plain columns nor a constraint",
	ConflictWhere:  "ON CONFLICT DO UPDATE has a condition",
	Overriding:     "it overrides an identity column",
}

func (r Reason) String() string { return reasonNames[r] }

// Explain says it to people.
func (r Reason) Explain() string { return reasonTexts[r] }
