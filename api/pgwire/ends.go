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

	// Of the Parse messages on their way, if one has a name: nothing else was, when the first
	// of them was passed on.
	naming []naming // without an answer yet
	blind  bool     // they were too many, up to the query's end
	named  []naming // those that PostgreSQL has made
}

// namingMax bounds both: of more it is not known what they are, which is passed on.
const namingMax = 10_000

type naming struct {
	name string
	*prepared
}

// more takes note of more Parse messages of the query that is under way.
func (e *ends) more(list []naming) {
	if e.blind = e.blind || len(e.naming)+len(list) > namingMax; e.blind {
		e.naming = nil
		return
	}
	e.naming = append(e.naming, list...)
}

// made takes note of a ParseComplete.
func (e *ends) made() {
	if len(e.naming) == 0 {
		return
	}
	first := e.naming[0]
	if e.naming = e.naming[1:]; first.name != "" && len(e.named) < namingMax {
		e.named = append(e.named, first)
	}
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
