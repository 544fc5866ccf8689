package pgwire

import "time"

// ends is what is to be done when PostgreSQL has finished a session's transaction.
type ends struct {
	x         *attended
	direct    map[string]func() // leaves the gates that it entered, by collection
	last      bool              // the transaction ends with what was passed on, which is asked for nothing else
	since     time.Time         // when it was passed on
	atWork    time.Time         // until then PostgreSQL is known to be at it
	yielded   bool              // the gates were left before it was done
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
	e.x.t.gates.enter(e.x)
}

// leave leaves the gates.
func (e *ends) leave() {
	if len(e.direct) == 0 {
		return
	}
	for _, leave := range e.direct {
		leave()
	}
	e.direct, e.last = nil, false
	e.x.t.gates.leave(e.x)
}

// release leaves the gates, and has the schema looked at if it may have changed.
func (e *ends) release() {
	e.leave()
	e.yielded = false
	if e.sequences {
		e.sequences = false
		e.x.t.sequences.forget()
	}
	if e.schema {
		e.schema = false
		e.x.t.watch.Changed()
	}
}
