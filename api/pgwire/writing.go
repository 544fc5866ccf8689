package pgwire

import (
	"bytes"

	"github.com/walproxy/walproxy/api/pgwire/behind"
	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// writing answers an extended query of writes, and of what begins and ends the
// transaction that holds them. What is executed outside of one is one record: all of
// it is applied, or none.
type writing struct {
	x        *attended
	known    *catalogue.Snapshot // nil: nothing was planned yet
	b        *batch
	portals  portals
	reply    []byte
	first    int     // where the first CommandComplete stands in reply; -1: there is none
	ended    *portal // COMMIT or ROLLBACK; its CommandComplete is to come at first
	literals bool
	failed   *failure
}

// portals by name: most have none.
type portals struct {
	unnamed *portal
	named   map[string]*portal
}

// get returns nil for a name that there is no portal of.
func (p *portals) get(name string) *portal {
	if name == "" {
		return p.unnamed
	}
	return p.named[name]
}

// set gives a name to a portal; nil: to none.
func (p *portals) set(name string, to *portal) {
	switch {
	case name == "":
		p.unnamed = to
	case to == nil:
		delete(p.named, name)
	default:
		if p.named == nil {
			p.named = map[string]*portal{}
		}
		p.named[name] = to
	}
}

// answerWrites answers an extended query if it can: nothing was done if it reports
// false.
func (x *attended) answerWrites(list []message) (done bool, err error) {
	mark := x.mark()
	w := &writing{x: x, reply: make([]byte, 0, 128), first: -1}
	ok := true
	for i := 0; i < len(list) && ok && err == nil && w.failed == nil; i++ {
		ok, err = w.take(&list[i])
	}
	switch {
	case err != nil:
		return false, err
	case !ok:
	case w.failed != nil:
		return true, x.fail(w.reply, w.failed)
	default:
		done, err = w.finish()
	}
	if !done && err == nil {
		x.undo(mark)
	}
	return done, err
}

// finish answers what was taken.
func (w *writing) finish() (done bool, err error) {
	x := w.x
	switch {
	case w.ended != nil:
		return x.control(w.ended.statement, "", w.reply[:w.first:w.first], w.reply[w.first:])
	case w.first < 0 && w.literals: // which Parse looks at
		return false, nil
	case x.tx != nil:
		if p := w.portals.unnamed; p != nil && !p.done {
			return false, nil // it would still be there behind the Sync
		}
		x.in.drop()
		return true, x.say(appendReady(w.reply, x.tx.status()))
	case w.first < 0: // it only prepares
		x.in.drop()
		return true, x.say(appendReady(w.reply, txIdle))
	}
	return x.acknowledge(w.b, w.reply[:w.first:w.first], w.reply[w.first:])
}

// take answers one message; false: PostgreSQL has to answer all of them.
func (w *writing) take(m *message) (ok bool, err error) {
	if w.ended != nil && m.kind != cClose {
		return false, nil
	}
	var plan *behind.Plan
	if m.prepared != nil && m.prepared.text.Statements[0].Write != nil {
		if plan, err = w.plan(m); plan == nil || err != nil {
			return false, err
		}
		w.literals = w.literals || len(m.prepared.text.Literals) > 0
	} else if m.prepared != nil && len(m.prepared.types) > 0 {
		return false, nil
	}
	switch m.kind {
	case cParse:
		if plan != nil {
			m.prepared.types = plan.Parameters
		}
		m.prepared.resolved = true
		w.reply = appendEmpty(w.reply, sParseComplete)
	case cDescribe:
		if m.object == 'S' {
			var types []uint32
			if plan != nil {
				types = plan.Parameters
			}
			w.reply = appendParameters(w.reply, types)
		}
		w.reply = appendEmpty(w.reply, sNoData)
	case cClose:
		if m.object == 'P' {
			w.portals.set(m.portal, nil)
		}
		w.reply = appendEmpty(w.reply, sCloseComplete)
	case cBind:
		return w.bind(m, plan), nil
	case cExecute:
		return w.execute(w.portals.get(m.portal)), nil
	}
	return true, nil
}

// plan of a message's statement; nil: PostgreSQL has to do it.
func (w *writing) plan(m *message) (*behind.Plan, error) {
	x := w.x
	if x.tx != nil && x.tx.failed {
		return nil, nil
	}
	if w.known == nil {
		known, err := x.ready()
		if known == nil || err != nil || !x.plannedWith(known) {
			return nil, err
		}
		w.known = known
	}
	if ok, err := x.resolve(m.name, m.prepared); !ok || err != nil {
		return nil, err
	}
	return x.eligible(w.known, m.prepared), nil
}

// bind takes a Bind.
func (w *writing) bind(m *message, plan *behind.Plan) bool {
	x := w.x
	if m.portal != "" && (x.tx != nil || w.portals.get(m.portal) != nil) {
		return false // it outlives the Sync; PostgreSQL refuses to bind it again
	}
	p := &portal{}
	if plan == nil {
		if len(m.values) > 0 || len(m.formats) > 1 {
			return false
		}
	} else {
		if x.tx != nil { // the values outlive the message
			for i, v := range m.values {
				m.values[i] = bytes.Clone(v)
			}
		}
		if w.b == nil || x.tx != nil && w.b != &x.tx.batch {
			w.b = x.batch()
		}
		p = w.b.bind(plan, m.prepared.text, m.prepared.sql, m.formats, m.values)
		switch {
		case p == nil:
			return false
		case p.failed != nil && p.stage == behind.Parsing:
			return false // it is Parse's to fail
		case p.failed != nil && p.stage == behind.Executing && p.failed.code != notNull:
			return false // a plan for these values fails at Bind, one for any at Execute
		case p.failed != nil && p.stage == behind.Binding:
			w.failed = p.failed
			return true
		}
	}
	p.b, p.statement = w.b, m.prepared.text.Statements[0]
	p.held = heldStatement{sql: m.prepared.sql, types: m.prepared.types, formats: m.formats, values: m.values}
	w.portals.set(m.portal, p)
	w.reply = appendEmpty(w.reply, sBindComplete)
	return true
}

// execute takes an Execute.
func (w *writing) execute(p *portal) bool {
	x := w.x
	switch {
	case p == nil || p.done:
		return false // PostgreSQL's to refuse
	case p.statement.Write == nil:
		return w.control(p)
	case p.failed != nil:
		w.failed = p.failed
		return true
	case x.tx == nil:
		w.b.execute(p)
	case p.b != &x.tx.batch || !x.tx.hold(p, p.statement, p.held):
		return false
	}
	if w.first < 0 {
		w.first = len(w.reply)
	}
	p.done = true
	w.reply = appendComplete(w.reply, p.tag)
	return true
}

// control takes the Execute of a BEGIN, COMMIT or ROLLBACK.
func (w *writing) control(p *portal) bool {
	x := w.x
	p.done = true
	if p.statement.Kind != statement.Begin {
		w.ended, w.first = p, len(w.reply)
		return x.tx != nil
	}
	if x.tx != nil || w.first >= 0 {
		return false
	}
	x.openHeld(p.held.sql)
	w.first = len(w.reply)
	w.reply = appendComplete(w.reply, p.statement.Tag)
	return true
}

// described answers Parse and Describe of a write with a Flush behind them, if it can:
// some drivers (postgres.js) ask for the types of the parameters before they bind. What
// follows, up to the Sync, is then a query of its own.
func (x *attended) described() (done bool, err error) {
	prepares := func() (list []message, ok bool) {
		unit := x.in.unit()
		list, ok = x.messages(unit[:len(unit)-headBytes]) // without the Flush
		return list, ok && len(list) == 2 && list[0].kind == cParse && list[1].kind == cDescribe && list[1].object == 'S' && list[0].name+list[1].name == ""
	}
	if list, ok := prepares(); !ok || !x.maybeHere(list) {
		return false, nil
	}
	if err := x.settled(); err != nil {
		return false, err
	}
	list, _ := prepares() // it may have moved
	tx, ok := x.mine()
	p := x.newPrepared(&list[0])
	if !ok || tx != txIdle && x.tx == nil || p == nil || len(p.text.Statements) != 1 || p.text.Statements[0].Write == nil || len(p.text.Literals) > 0 {
		return false, nil
	}
	mark := x.mark()
	w := &writing{x: x, first: -1}
	for i := range list {
		list[i].prepared = p
		if ok, err := w.take(&list[i]); !ok || err != nil {
			x.undo(mark)
			return false, err
		}
	}
	x.in.drop()
	x.deferred(map[string]*prepared{"": p})
	return true, x.say(w.reply)
}
