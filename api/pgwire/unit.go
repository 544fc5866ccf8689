package pgwire

import (
	"encoding/binary"
	"slices"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// prepared is a statement that the client has given a name, "" among them.
type prepared struct {
	sql   string
	types []uint32
	text  statement.Text
	// resolved: types are all that its parameters have. PostgreSQL settles them when it
	// is made, whatever the tables and the session are later.
	resolved bool
	// upstream: PostgreSQL has it, too. One without a name that was answered here is
	// made there when it is needed.
	upstream bool
}

// keptBytesMax bounds the texts that are kept for a session: of others it is
// not known what they do.
const keptBytesMax = 8 << 20

// newPrepared returns nil for a text that is not kept.
func (x *attended) newPrepared(m *message) *prepared {
	if x.texts+len(m.sql) > keptBytesMax {
		return nil
	}
	return &prepared{sql: m.sql, types: m.types, text: x.parse(m.sql)}
}

// keep remembers a statement; nil: nothing is known of it.
func (x *attended) keep(name string, p *prepared) {
	x.forget(name)
	if p != nil {
		x.prepared[name] = p
		x.texts += len(p.sql)
	}
}

func (x *attended) forget(name string) {
	if old := x.prepared[name]; old != nil {
		x.texts -= len(old.sql)
		delete(x.prepared, name)
	}
}

func (x *attended) forgetAll() {
	clear(x.prepared)
	x.texts = 0
}

// lookup finds a statement, also one that PostgreSQL is about to make; nil: nothing
// is known of it.
func (x *attended) lookup(name string) *prepared {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, list := range [][]naming{x.guarded.ends.naming, x.guarded.ends.named} {
		if name == "" {
			break // whose place in them says only when it was made
		}
		for i := len(list) - 1; i >= 0; i-- {
			if list[i].name == name {
				return list[i].prepared
			}
		}
	}
	return x.prepared[name]
}

// messagesKept is how many messages a session keeps room for.
const messagesKept = 64

// messages decodes a unit; false: something of it cannot be read. They share memory
// with it, and with those of the next call.
func (x *attended) messages(unit []byte) (list []message, ok bool) {
	clear(x.list)
	list = x.list[:0]
	defer func() {
		if x.list = list; cap(list) > messagesKept {
			x.list = nil
		}
	}()
	for len(unit) > 0 {
		kind, body, err := parseHead(unit, x.s.o.MaxMessageBytes)
		if err != nil {
			return list, false
		}
		frame := unit[:headBytes+body]
		unit = unit[len(frame):]
		if kind == cSync {
			return list, len(unit) == 0
		}
		m, ok := decode(kind, frame[headBytes:])
		if !ok {
			return list, false
		}
		list = append(list, m)
	}
	return list, true
}

// look adds what messages of an extended query do, and takes note of the statements
// that they make. It is called once for messages that are passed on.
func (x *attended) look(unit []byte, t *touch) {
	made := map[string]*prepared{}
	for len(unit) > 0 {
		kind, body, err := parseHead(unit, x.s.o.MaxMessageBytes)
		if err != nil {
			t.anything, t.more = true, true
			return
		}
		frame := unit[:headBytes+body]
		unit = unit[len(frame):]
		switch kind {
		case cParse, cBind, cDescribe, cClose:
			m, ok := decode(kind, frame[headBytes:])
			if !ok {
				t.anything, t.serial, t.more = true, true, true
				continue
			}
			x.lookOne(&m, made, t)
		case cFunctionCall:
			t.anything = true
		}
	}
}

func (x *attended) lookOne(m *message, made map[string]*prepared, t *touch) {
	use := func() *prepared {
		p, ok := made[m.name]
		if !ok {
			p = x.lookup(m.name)
		}
		if m.name == "" && !ok {
			x.needs(p, t)
		}
		return p
	}
	switch m.kind {
	case cParse:
		p := x.newPrepared(m)
		made[m.name] = p
		if p != nil {
			p.upstream = true
		}
		t.naming = append(t.naming, naming{m.name, p})
		if m.name == "" {
			x.keep("", p)
			x.dropped = false
		} else {
			t.names = true
		}
	case cBind:
		if p := use(); p != nil {
			x.touches(t, p.text)
		} else {
			t.anything, t.serial, t.more = true, true, true
		}
	case cDescribe:
		if m.object == 'S' {
			use()
		}
	case cClose:
		if m.object == 'S' {
			x.forget(m.name)
			delete(made, m.name)
		}
	}
}

// bound adds what the execution of a statement does.
func (x *attended) bound(name string, t *touch) {
	p := x.lookup(name)
	if p == nil {
		t.anything, t.serial, t.more = true, true, true
		return
	}
	if name == "" {
		x.needs(p, t)
	}
	x.touches(t, p.text)
}

// needs: messages use the unnamed statement p as it was before them; nil: there is
// none.
func (x *attended) needs(p *prepared, t *touch) {
	switch {
	case p != nil && !p.upstream:
		t.unnamed = p
	case p == nil && x.dropped:
		t.drop = true
	}
}

// unnamed makes the unnamed statement upstream that was answered here, or drops the
// one that a query answered here would have dropped. A failure is
// what PostgreSQL says to it.
func (x *attended) unnamed(t *touch) (*failure, error) {
	if (t.drop || t.unnamed != nil) && !x.exact() {
		return nil, endUnadmitted(&failure{code: "08P01", reason: "protocol", message: "walproxy lost track of the session: simple and extended queries were mixed"})
	}
	if t.drop {
		x.dropped = false
		b, start := begin(nil, cClose)
		_, _, err := x.ask(appendEmpty(finish(append(b, 'S', 0), start), cSync))
		return nil, err
	}
	p := t.unnamed
	if p == nil {
		return nil, nil
	}
	x.dropped = false
	b := appendEmpty(appendParse(nil, "", p.sql, p.types), cSync)
	frames, _, err := x.ask(b)
	if err != nil {
		return nil, err
	}
	for _, frame := range frames {
		if frame[0] == sError {
			return &failure{raw: frame, reason: "upstream"}, nil
		}
	}
	p.upstream = true
	return nil, nil
}

func appendParse(b []byte, name, sql string, types []uint32) []byte {
	b, start := begin(b, cParse)
	b = append(append(b, name...), 0)
	b = append(append(b, sql...), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(types)))
	for _, oid := range types {
		b = binary.BigEndian.AppendUint32(b, oid)
	}
	return finish(b, start)
}

// unit handles an extended query with its Sync.
func (x *attended) unit() error {
	list, ok := x.messages(x.in.unit())
	touched := touch{unjudged: true}
	if ok && x.maybeHere(list) {
		at := x.in.held
		touched.unjudged = false
		if err := x.settled(); err != nil {
			return err
		}
		if x.in.held != at { // what was to be passed on was before it
			list, _ = x.messages(x.in.unit())
		}
		if done, err := x.here(list); done || err != nil {
			return err
		}
	}
	if ok && x.tx != nil && x.prepares(list) && x.missing() == nil {
		return x.prepareBeside()
	}
	x.look(x.in.unit(), &touched)
	return x.passUnit(&touched)
}

// prepares reports whether an extended query only closes named statements, which no
// transaction keeps PostgreSQL from doing, and makes and describes others, all of them
// writes: which tables they are about does not depend on the transaction.
func (x *attended) prepares(list []message) bool {
	for i := range list {
		switch m := &list[i]; {
		case m.kind == cClose && m.object == 'S' && m.name != "":
			if slices.ContainsFunc(list[:i], func(before message) bool { return before.kind == cParse }) {
				return false // it may be the one that is made
			}
		case m.kind == cParse && !x.tx.failed:
			// Others make PostgreSQL do the transaction anyway, once they are executed.
			text := x.parse(m.sql)
			if len(text.Statements) != 1 || text.Statements[0].Write == nil || text.Statements[0].Write.Parameters > describedMax {
				return false
			}
		case m.kind == cDescribe && m.object == 'S' && i > 0 && list[i-1].kind == cParse && list[i-1].name == m.name:
		default:
			return false
		}
	}
	return len(list) > 0
}

// prepareBeside has PostgreSQL close and make statements while a transaction is held that it
// does not know of.
func (x *attended) prepareBeside() error {
	var t touch
	x.look(x.in.unit(), &t)
	failed, err := x.unnamed(&t)
	if err != nil {
		return err
	}
	if failed != nil {
		return x.fail(nil, failed)
	}
	frames, _, err := x.ask(x.in.unit())
	if err != nil {
		return err
	}
	var b []byte
	made := 0
	for _, frame := range frames {
		switch frame[0] {
		case sParseComplete:
			if made < len(t.naming) && t.naming[made].name != "" {
				x.keep(t.naming[made].name, t.naming[made].prepared)
			}
			made++
		case sError:
			x.tx.fail()
		case sReady:
			continue
		}
		b = append(b, frame...)
	}
	x.in.drop()
	return x.say(appendReady(b, x.tx.status()))
}

// passUnit passes on what is held.
func (x *attended) passUnit(t *touch) error {
	commits := x.tx != nil && t.finishes && !t.more && !t.anything && len(t.writes)+len(t.reads) == 0
	if failed := x.missing(); failed != nil {
		if x.tx != nil && x.tx.failed {
			failed = aborted()
		}
		return x.failUnit(commits, failed)
	}
	x.touchesHeld(t)
	if err := x.settledFrom(t); err != nil {
		return err
	}
	failed, err := x.unnamed(t)
	if err == nil && failed == nil {
		failed, err = x.admit(t)
	}
	if err == nil && failed == nil {
		failed, err = x.replay()
	}
	switch {
	case err != nil:
		return err
	case failed != nil:
		return x.failUnit(commits, failed)
	}
	return x.forward()
}

// failUnit answers what was not passed on with a failure. A COMMIT by itself that fails ends
// its transaction, as PostgreSQL's do: drivers give a session up that stands otherwise.
func (x *attended) failUnit(commits bool, f *failure) error {
	if !commits {
		return x.fail(nil, f)
	}
	x.setHeld(nil)
	if x.inUpstream() && x.exact() {
		if _, _, err := x.ask(appendEmpty(appendCloseOwn(appendExecution(nil, heldStatement{sql: "ROLLBACK"})), cSync)); err != nil {
			return err
		}
	}
	return x.fail(nil, f)
}

// inUpstream reports that PostgreSQL has a transaction open.
func (x *attended) inUpstream() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.turn.tx != txIdle
}

// query handles a simple query.
func (x *attended) query(body []byte) error {
	x.forget("") // as PostgreSQL does
	var touched touch
	sql, ok := queryText(body)
	if !ok {
		touched.anything, touched.serial, touched.more = true, true, true
		return x.passUnit(&touched)
	}
	if x.serial { // how it is to be read is decided by what is under way
		if err := x.settled(); err != nil {
			return err
		}
	}
	text := x.parse(sql)
	if touched.unjudged = len(text.Statements) != 1 || !x.isHere(text); !touched.unjudged {
		if err := x.settled(); err != nil {
			return err
		}
		if done, err := x.hereSimple(sql); done || err != nil {
			x.dropped = true
			return err
		}
	}
	x.dropped = false
	x.touches(&touched, text)
	return x.passUnit(&touched)
}
