package pgwire

// ends is what is to be done when PostgreSQL has finished a session's transaction.
type ends struct {
	tables    *tables
	direct    map[string]func() // leaves the gates that it entered, by collection
	schema    bool              // it may have changed the schema
	sequences bool              // it may have set a sequence

	// Of the named Parse messages on their way: nothing else was, when they were
	// passed on.
	naming []naming
	parsed int      // ParseCompletes since
	named  []naming // those that PostgreSQL has made
}

type naming struct {
	name string
	*prepared
}

// enter takes note of a gate that was entered.
func (e *ends) enter(collection string, leave func()) {
	if e.direct == nil {
		e.direct = map[string]func(){}
	}
	e.direct[collection] = leave
}

// leave leaves the gates.
func (e *ends) leave() {
	for _, leave := range e.direct {
		leave()
	}
	e.direct = nil
}

// release leaves the gates, and has the schema looked at if it may have changed.
func (e *ends) release() {
	e.leave()
	if e.sequences {
		e.sequences = false
		e.tables.sequences.forget()
	}
	if e.schema {
		e.schema = false
		e.tables.watch.Changed()
	}
}
