package pgwire

import (
	"slices"
	"time"

	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
	"github.com/walproxy/walproxy/mutation"
)

// transaction is a BEGIN .. COMMIT that PostgreSQL does not know of. Its writes are
// held until COMMIT logs them as one record. What cannot be done so has PostgreSQL do
// all of it, from BEGIN on. It belongs to the goroutine that attends to the client.
type transaction struct {
	batch            // now is when it began
	begin     string // as the client said it
	catalogue *catalogue.Snapshot
	// statements as PostgreSQL would be told them, and kinds: each of their texts once.
	statements []heldStatement
	kinds      []*statement.Statement
	bytes      int
	rows       map[string]statement.Kind // by key: what was done to it last
	failed     bool                      // it can only be rolled back
}

// heldStatement is one execution.
type heldStatement struct {
	sql     string
	types   []uint32
	formats []int16
	values  [][]byte
}

// heldBytesMax bounds the texts and values that a transaction holds.
const heldBytesMax = 1 << 20

// whyHeld is what the session is told of a write whose COMMIT is to come.
const whyHeld = "held until COMMIT"

// logs reports that transactions may be held.
func (x *attended) logs() bool { return x.t.o.LogTransactions }

// isControl reports whether a statement may begin or end a transaction that is held.
func (x *attended) isControl(st *statement.Statement) bool {
	if st.Tag == "" || !x.logs() {
		return false
	}
	if x.tx != nil {
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.settings.ack != ackOff && x.mu.turn.tx == txIdle
}

// openHeld begins a transaction: none is open.
func (x *attended) openHeld(begin string) {
	x.setHeld(&transaction{batch: batch{x: x, now: time.Now()}, begin: begin, rows: map[string]statement.Kind{}})
}

// setHeld has the session's transaction be tx; nil: none is held.
func (x *attended) setHeld(tx *transaction) {
	x.tx = tx
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.holding = tx != nil
}

// status of a transaction that is held, as ReadyForQuery tells it.
func (tx *transaction) status() byte {
	if tx.failed {
		return txFailed
	}
	return txOpen
}

// fail drops what is held: only ROLLBACK is left.
func (tx *transaction) fail() {
	tx.failed = true
	tx.members, tx.tables, tx.statements, tx.kinds, tx.rows = nil, nil, nil, nil, nil
}

// hold adds the execution of a write; false: PostgreSQL has to do it.
func (tx *transaction) hold(p *portal, st *statement.Statement, h heldStatement) bool {
	size := len(h.sql)
	for _, v := range h.values {
		size += len(v)
	}
	if len(tx.members)+len(p.members) > mutation.MaxMembers || tx.bytes+size > heldBytesMax {
		tx.x.passes("transaction", "its transaction is larger than one group of records")
		return false
	}
	keys := make([]string, len(p.members))
	for i, m := range p.members {
		keys[i] = string(mutation.AppendKey(nil, m.GetCollection(), m.GetKey()))
		if last, again := tx.rows[keys[i]]; again && !holds(st, last) {
			tx.x.passes("transaction", "what its transaction did to the row before decides what is answered")
			return false
		}
	}
	for _, key := range keys {
		tx.rows[key] = st.Kind
	}
	tx.execute(p)
	tx.statements, tx.bytes = append(tx.statements, h), tx.bytes+size
	if !slices.Contains(tx.kinds, st) {
		tx.kinds = append(tx.kinds, st)
	}
	tx.x.settings.why = whyHeld
	return true
}

// holds reports whether what is answered to a write is true of a row to which last
// was done in the same transaction.
func holds(st *statement.Statement, last statement.Kind) bool {
	switch {
	case st.Kind != statement.Insert:
		return last != statement.Delete
	case st.Write.Conflict == nil || len(st.Write.Conflict.Sets) == 0:
		return last == statement.Delete
	}
	return true
}

// control answers what begins or ends a transaction, behind before: settled was
// called. It reports false if PostgreSQL has to.
func (x *attended) control(st *statement.Statement, sql string, before, behind []byte) (done bool, err error) {
	switch {
	case st.Kind == statement.Begin && x.tx == nil:
		x.openHeld(sql)
		x.in.drop()
		return true, x.say(appendReady(append(appendComplete(before, st.Tag), behind...), txOpen))
	case st.Kind == statement.Begin || x.tx == nil:
		return false, nil
	case st.Kind == statement.Rollback || x.tx.failed || len(x.tx.members) == 0:
		tag := st.Tag
		if x.tx.failed {
			tag = "ROLLBACK"
		}
		x.setHeld(nil)
		x.in.drop()
		return true, x.say(appendReady(append(appendComplete(before, tag), behind...), txIdle))
	}
	return x.commit(before, append(appendComplete(nil, st.Tag), behind...))
}

// commit logs what is held. It reports false if PostgreSQL has to do it.
func (x *attended) commit(before, behind []byte) (done bool, err error) {
	known, err := x.ready()
	if known == nil || err != nil {
		return false, err
	}
	tx := x.tx
	if !tx.catalogue.Alike(known) {
		x.passes("transaction", "the schema changed during its transaction")
		return false, nil
	}
	x.tx = nil // an error here is its end
	done, err = x.acknowledge(&tx.batch, before, behind)
	if done || err != nil {
		x.setHeld(nil)
	} else {
		x.tx = tx
	}
	return done, err
}

// mark is where a transaction stands, for undo.
func (x *attended) mark() int {
	if x.tx == nil {
		return -1
	}
	return len(x.tx.statements)
}

// undo takes back what was held since mark was asked: the messages are passed on,
// behind what stays.
func (x *attended) undo(mark int) {
	switch {
	case mark < 0:
		x.setHeld(nil)
	case x.tx != nil:
		x.tx.statements = x.tx.statements[:mark]
	}
}

// touchesHeld adds what a transaction that is held does, before it is replayed.
func (x *attended) touchesHeld(t *touch) {
	if x.tx == nil {
		return
	}
	t.begins, t.more = true, t.more || !t.finishes
	unjudged := t.unjudged
	t.unjudged = false // they were
	for _, st := range x.tx.kinds {
		x.touchesOne(t, st)
	}
	t.unjudged = unjudged
}

// replay has PostgreSQL do what is held, if anything is, before more of the
// transaction is passed on: it was admitted. A failure is what PostgreSQL says to it.
func (x *attended) replay() (*failure, error) {
	tx := x.tx
	if tx == nil {
		return nil, nil
	}
	if err := x.settled(); err != nil {
		return nil, err
	}
	if !x.exact() {
		return nil, endUnadmitted(&failure{code: "08P01", reason: "protocol", message: "walproxy lost track of the session: simple and extended queries were mixed"})
	}
	var b []byte
	unnamed := x.prepared[""]
	if unnamed != nil && !unnamed.upstream { // what fails later leaves it as it was
		b, unnamed.upstream, x.dropped = appendParse(b, "", unnamed.sql, unnamed.types), true, false
	}
	b = appendExecution(b, heldStatement{sql: tx.begin})
	for _, h := range tx.statements {
		b = appendExecution(b, h)
	}
	if tx.failed {
		b = appendParse(b, ownName, "walproxy", nil) // no statement begins so
	}
	frames, status, err := x.ask(appendEmpty(appendCloseOwn(b), cSync))
	if err != nil {
		return nil, err
	}
	if n := len(tx.statements); n > 0 {
		x.t.m.passed.WithLabelValues("transaction").Add(float64(n))
	}
	if x.settings.why == whyHeld {
		x.passesAs("its transaction does something that is not written behind")
	}
	at := slices.IndexFunc(frames, func(frame []byte) bool { return frame[0] == sError })
	if at >= 0 { // which skipped the Close
		if _, _, err := x.ask(appendEmpty(appendCloseOwn(nil), cSync)); err != nil {
			return nil, err
		}
	}
	if status == txIdle { // it did not even begin
		if unnamed != nil {
			unnamed.upstream = false
		}
		failed := &failure{code: "08006", reason: "upstream", message: "PostgreSQL began no transaction"}
		if at >= 0 {
			failed = &failure{raw: frames[at], reason: "upstream"}
		}
		return failed, nil
	}
	refused := at >= 0 && !tx.failed
	x.setHeld(nil)
	if refused {
		return &failure{raw: frames[at], reason: "upstream"}, nil
	}
	return nil, nil
}

// appendExecution appends the messages that have PostgreSQL do a statement.
func appendExecution(b []byte, h heldStatement) []byte {
	b = appendParse(appendCloseOwn(b), ownName, h.sql, h.types)
	return appendExecute(appendBind(b, h.formats, h.values))
}
