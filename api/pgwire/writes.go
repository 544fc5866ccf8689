package pgwire

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/pgwire/behind"
	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/wal"
)

var errAckLate = errors.New("pgwire: the acknowledgement's time-out")

// notNull is the SQLSTATE of a null where none may be.
const notNull = "23502"

// batch is what one query writes: one record of the log.
type batch struct {
	x       *attended
	now     time.Time
	members []*walproxyv1.Statement
	tables  []string          // collections
	trace   trace.SpanContext // of the first statement whose comment names one

	execution behind.Execution // of bind

	// Of a batch of one row, in the same allocation.
	oneMember [1]*walproxyv1.Statement
	oneTable  [1]string
}

// portal is a bound statement of a query that is answered here.
type portal struct {
	b         *batch
	statement *statement.Statement
	held      heldStatement
	members   []*walproxyv1.Statement
	table     string
	tag       string
	failed    *failure // what PostgreSQL would say of the values
	stage     behind.Stage
	done      bool

	oneMember [1]*walproxyv1.Statement // of one row, in the same allocation
}

// bind judges one execution of a plan; nil: it has to be passed through.
func (b *batch) bind(plan *behind.Plan, text statement.Text, sql string, formats []int16, values [][]byte) *portal {
	e := &b.execution
	*e = behind.Execution{Text: text, SQL: sql, Formats: formats, Values: values,
		Now: b.now, Started: b.now, Clock: time.Now, UUID: uuid.NewRandom, Next: b.x.t.next}
	defer func() { *e = behind.Execution{} }()
	if b.x.tx != nil {
		e.Started = time.Now()
	}
	session := &b.x.known.session
	rows, refusal, why := plan.Bind(session, e)
	p := &portal{table: plan.Table.Collection}
	switch {
	case why != nil:
		b.x.passes(why.Label(), why.String())
		return nil
	case refusal != nil:
		p.failed, p.stage = refusedValue(refusal), refusal.Stage
		return p
	}
	if !b.trace.IsValid() {
		b.trace = commented(e.SQL)
	}
	if p.members = p.oneMember[:0]; len(rows) > 1 {
		p.members = make([]*walproxyv1.Statement, 0, len(rows))
	}
	for _, row := range rows {
		p.members = append(p.members, plan.Record(row, session))
	}
	p.tag = writeTag(plan.Kind, len(rows))
	return p
}

// writeTag is what PostgreSQL says of a write of n rows.
func writeTag(kind statement.Kind, n int) string {
	verb, one := "DELETE ", "DELETE 1"
	switch kind {
	case statement.Insert:
		verb, one = "INSERT 0 ", "INSERT 0 1"
	case statement.Update:
		verb, one = "UPDATE ", "UPDATE 1"
	}
	if n == 1 {
		return one
	}
	return verb + strconv.Itoa(n)
}

// execute adds what a portal writes.
func (b *batch) execute(p *portal) {
	p.done = true
	if b.members == nil {
		b.members, b.tables = b.oneMember[:0], b.oneTable[:0]
	}
	b.members = append(b.members, p.members...)
	b.tables = append(b.tables, p.table)
}

// answerWrite answers a simple query that is one write.
func (x *attended) answerWrite(sql string, text statement.Text) (done bool, err error) {
	known, err := x.ready()
	if known == nil || err != nil {
		return false, err
	}
	plan := x.eligible(known, &prepared{sql: sql, text: text})
	if plan == nil {
		return false, nil
	}
	b := x.batch()
	p := b.bind(plan, text, sql, nil, nil)
	switch {
	case p == nil || !x.plannedWith(known):
		return false, nil
	case p.failed != nil:
		return true, x.fail(nil, p.failed)
	case x.tx != nil:
		if !x.tx.hold(p, text.Statements[0], heldStatement{sql: sql}) {
			return false, nil
		}
		x.in.drop()
		return true, x.say(appendReady(appendComplete(nil, p.tag), txOpen))
	}
	b.execute(p)
	return x.acknowledge(b, nil, appendComplete(nil, p.tag))
}

// batch is what the session's next write belongs to.
func (x *attended) batch() *batch {
	if x.tx != nil {
		return &x.tx.batch
	}
	return &batch{x: x, now: time.Now()}
}

// plannedWith reports whether a write that was planned with known can be held beside
// those that are, if a transaction is.
func (x *attended) plannedWith(known *catalogue.Snapshot) bool {
	if x.tx == nil {
		return true
	}
	if x.tx.catalogue == nil {
		x.tx.catalogue = known
	}
	if !x.tx.catalogue.Alike(known) {
		x.passes("transaction", "the schema changed during its transaction")
		return false
	}
	return true
}

// acknowledge logs b and answers, before that what was said up to the first
// completed command, behind it the rest. It reports false if nothing was done.
func (x *attended) acknowledge(b *batch, before, behind []byte) (done bool, err error) {
	b.tables = unique(b.tables)
	lsn, failed, err := b.log()
	switch {
	case err != nil:
		return true, err
	case failed != nil:
		return true, x.fail(before, failed)
	case lsn == 0:
		return false, nil
	}
	x.settings.last, x.settings.requestID, x.settings.why = lsn, "", "written behind"
	x.unseen.add(lsn, b.tables)
	x.t.m.logged.Add(1)
	x.countAlone()
	var warning []byte
	if x.settings.ack == ackApplied {
		failed, late := b.applied(lsn)
		if failed != nil {
			return true, x.fail(before, failed)
		}
		if late != nil {
			warning = late.appendWarning(nil)
		}
	}
	x.in.drop()
	return true, x.say(appendReady(append(append(before, warning...), behind...), txIdle))
}

// aloneMin is after how many writes in a row, between which nobody else wrote behind, a
// session counts as being alone. As many as make a writer of the log its own leader.
const aloneMin = 8

// countAlone takes note of a write.
func (x *attended) countAlone() {
	if x.t.latest.Load() == x {
		x.alone = min(x.alone+1, aloneMin)
		return
	}
	x.t.latest.Store(x)
	x.alone = 0
}

// isAlone reports that nobody else writes behind. At most one session is.
func (x *attended) isAlone() bool { return x.alone >= aloneMin && x.t.latest.Load() == x }

// log gives b its LSN and waits until it is durable; nothing: it has to be passed through.
// An error ends the session: what became of b is unknown.
func (b *batch) log() (wal.LSN, *failure, error) {
	x := b.x
	limit, late := x.t.o.AckTimeout, errAckLate
	if x.settings.requestID != "" { // it must not be done directly
		limit, late = min(limit, x.t.o.GateTimeout), errGateLate
	}
	ctx, done := x.work(limit, late, true)
	defer done()
	pending, failed := b.submit(ctx, limit)
	if pending == nil {
		return 0, failed, nil
	}
	return pending.LSN(), nil, b.durable(pending)
}

// submit gives b its LSN; nothing: it has to be passed through.
func (b *batch) submit(ctx context.Context, limit time.Duration) (api.Pending, *failure) {
	x := b.x
	if b.trace.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, b.trace)
	}
	pending, err := x.t.gates.append(ctx, b)
	if err == nil {
		return pending, nil
	}
	_, invalid := errors.AsType[*mutation.InvalidError](err)
	switch {
	case errors.Is(err, walproxy.ErrDirect) && x.settings.requestID == "":
		x.passes("gate", "a transaction writes the table directly")
		return nil, nil
	case invalid, errors.Is(err, walproxy.ErrUnroutable), errors.Is(err, wal.ErrTooLarge):
		x.passes("log", err.Error())
		return nil, nil
	}
	return nil, unlogged(err, limit)
}

func (b *batch) record() *walproxyv1.Record {
	r := &walproxyv1.Record{Principal: b.x.known.session.Role}
	if len(b.members) == 1 {
		b.members[0].RequestId = b.x.settings.requestID
		r.Body = &walproxyv1.Record_Statement{Statement: b.members[0]}
		return r
	}
	g := &walproxyv1.Group{RequestId: b.x.settings.requestID}
	for _, s := range b.members {
		g.Members = append(g.Members, &walproxyv1.Group_Member{Kind: &walproxyv1.Group_Member_Statement{Statement: s}})
	}
	r.Body = &walproxyv1.Record_Group{Group: g}
	return r
}

// durable waits for the fsync. A client cannot cancel that: the write has its place.
func (b *batch) durable(pending api.Pending) error {
	ctx := b.x.workOn(b.x.t.o.AckTimeout, errAckLate)
	b.x.atDisk.Store(b.x.task.round)
	defer b.x.atDisk.Store(0)
	if _, err := pending.Wait(ctx); err != nil {
		return endUnknown(err)
	}
	return nil
}

// ackLate ends the session if it waits for an fsync in that round: if it is at one itself
// nothing else would before the disk answers.
func (x *attended) ackLate(round uint64) {
	if x.atDisk.Load() == round {
		x.unheard(endUnknown(errAckLate))
	}
}

// applied waits until the write is in PostgreSQL. late says that the client is told
// before that.
func (b *batch) applied(lsn wal.LSN) (failed, late *failure) {
	x := b.x
	ctx, done := x.work(x.t.o.AckTimeout, errAckLate, true)
	defer done()
	defer x.unlessAway()()
	err := x.t.o.Core.WaitSink(ctx, x.t.o.Sink, lsn)
	switch {
	case errors.Is(err, errAway): // no error: who is told one writes it again
		return nil, &failure{code: "57P03", message: "walproxy: the write is logged, but not applied yet: PostgreSQL is away", detail: applies(lsn)}
	case err != nil:
		return nil, &failure{code: "01000", message: "walproxy: the write is logged, but it is not known to be applied yet: " + err.Error(), detail: applies(lsn)}
	}
	fate, err := x.fate(lsn)
	switch {
	case err != nil:
		return nil, &failure{code: "01000", message: "walproxy: the write is logged, but what became of it cannot be said: " + err.Error()}
	case fate != replay.Applied:
		return x.rejected(lsn), nil
	}
	return nil, nil
}

// applies says what becomes of a write that is logged.
func applies(lsn wal.LSN) string {
	return fmt.Sprintf("It is durable, with LSN %d, and is applied when PostgreSQL can: do not write it again.", lsn)
}

// rejected is what PostgreSQL said of a write that became a dead letter.
func (x *attended) rejected(lsn wal.LSN) *failure {
	f := &failure{code: "40003", reason: "dead_letter", message: fmt.Sprintf("walproxy: the write with LSN %d was not applied: it is a dead letter", lsn),
		hint: "walproxy dlq show says why; it can be retried, edited or discarded."}
	letter, err := x.t.o.Core.DeadLetter(x.t.o.Sink, lsn)
	if err != nil {
		return f
	}
	f.detail = letter.Reason
	if code := letter.Details["sqlstate"]; len(code) == 5 && !letter.IsParked() {
		f.code = code
	}
	return f
}

// unlogged says why nothing was logged.
func unlogged(err error, limit time.Duration) *failure {
	behind, isBehind := errors.AsType[*walproxy.BehindError](err)
	switch {
	case errors.Is(err, errCancelled):
		return cancelled()
	case errors.Is(err, errAckLate):
		return &failure{code: "57014", reason: "ack_timeout", message: fmt.Sprintf("walproxy: canceling statement: it found no place in the log within %v", limit),
			hint: "Nothing was written."}
	case errors.Is(err, errGateLate), errors.Is(err, walproxy.ErrDirect):
		return &failure{code: "55P03", reason: "gate_timeout", message: fmt.Sprintf("walproxy: canceling statement: a transaction writes the table directly, and did not end within %v", limit),
			hint: "Nothing was written. Without walproxy.idempotency_key it would have been a direct write. pgwire.gate_timeout is the bound."}
	case errors.Is(err, wal.ErrFull):
		return &failure{code: "53100", reason: "full", message: "walproxy: the log is full", detail: err.Error(),
			hint: "Nothing was written: try again when PostgreSQL has taken what is pending. log.max_bytes and log.min_free are the bounds."}
	case isBehind:
		return &failure{code: "53400", reason: "lag", message: "walproxy: PostgreSQL is too far behind the log", detail: behind.Error(),
			hint: "Nothing was written: try again later. sinks." + behind.Sink + ".max_lag_bytes is the bound."}
	case errors.Is(err, walproxy.ErrRequestMismatch):
		return &failure{code: "22023", reason: "request", message: "walproxy: walproxy.idempotency_key was used for another write",
			hint: "Nothing was written: another write needs another key."}
	case errors.Is(err, walproxy.ErrDraining), errors.Is(err, walproxy.ErrClosed), errors.Is(err, wal.ErrPoisoned):
		return &failure{code: "57P03", reason: "closed", message: "walproxy takes no writes: " + err.Error(), hint: "Nothing was written."}
	}
	return &failure{code: "58000", reason: "log", message: "walproxy: the write was not logged: " + err.Error(), hint: "Nothing was written."}
}

// endUnknown ends a session whose write may be applied, or not.
func endUnknown(err error) *refusal {
	return &refusal{code: "08007", reason: "unknown", cause: err,
		message: "walproxy does not know whether the write is durable: it may be applied later",
		hint:    "Look whether it is there, or repeat it under the same walproxy.idempotency_key, when walproxy is back."}
}
