package pgwire

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api/pgwire/behind"
	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// touch is what messages that are to be passed on may do to tables that are written
// behind, and to the session.
type touch struct {
	reads, writes []*catalogue.Table
	anything      bool // all tables
	begins        bool // a transaction whose snapshot may be older than its later reads
	finishes      bool // ... whatever transaction is open
	more          bool // of its transaction may come
	serial        bool // what comes next is read when it is over
	schema        bool // it may change the schema
	sequences     bool // it may set one
	unjudged      bool // writes among it were not looked at one by one
	session       bool // it may change what is known of the session
	// unnamed is the statement without a name that it uses and PostgreSQL lacks.
	unnamed *prepared
	drop    bool // it uses one that PostgreSQL has and the client has not any more
	keyed   bool // a write under an idempotency key
	naming  []naming
	names   bool // one of them has a name
}

// touches adds what a text does.
func (x *attended) touches(t *touch, text statement.Text) {
	for _, st := range text.Statements {
		x.touchesOne(t, st)
	}
}

func (x *attended) touchesOne(t *touch, st *statement.Statement) {
	switch st.Kind {
	case statement.Begin:
		t.begins, t.more = true, true
	case statement.Commit, statement.Rollback:
		t.finishes, t.more = st.Tag != "", t.more || st.Chain
	case statement.Copy:
		t.more = true // data is
	case statement.Set, statement.Reset, statement.Discard:
		t.serial, t.session = true, true
		if st.Kind == statement.Discard {
			x.forgetAll()
		}
		if st.Kind == statement.Discard && st.Object == "all" || st.Kind == statement.Reset && st.Setting != nil && st.Setting.Name == "all" {
			x.settings.reset(x.chosen)
		}
	case statement.Deallocate:
		if st.Object == "" {
			x.forgetAll()
		} else {
			x.forget(st.Object)
		}
	case statement.Select, statement.Explain:
		// SELECT INTO, or locks of rows, which look alike here.
		t.session = t.session || st.Writes != statement.Nothing
		t.schema = t.schema || st.Writes != statement.Nothing && slices.Contains(st.Names, "into")
	case statement.Schema, statement.Call, statement.Other, statement.Execute:
		t.serial, t.session = true, true
		t.schema = t.schema || st.Writes != statement.Nothing
		t.more = t.more || st.Kind == statement.Other
	}
	switch st.Kind {
	case statement.Insert, statement.Update, statement.Delete, statement.Merge, statement.Copy:
		t.keyed = t.keyed || x.settings.requestID != "" && st.Writes != statement.Nothing
	}
	if st.Reads == statement.Nothing && st.Writes == statement.Nothing {
		return
	}
	t.sequences = t.sequences || slices.Contains(st.Names, "setval")
	t.session = t.session || slices.Contains(st.Names, "set_config") || st.Writes != statement.Nothing && slices.Contains(st.Names, "pg_settings")
	t.schema = t.schema || st.Kind == statement.Truncate && slices.Contains(st.Names, "restart")
	known := x.t.watch.Current()
	if known == nil {
		t.anything, t.session = true, true
		x.passesText(t, st, st.Writes == statement.Target)
		return
	}
	reads, writes, all := known.Touched(st)
	x.passesText(t, st, all || len(writes) > 0)
	t.reads, t.writes = append(t.reads, reads...), append(t.writes, writes...)
	t.anything = t.anything || all
	t.session = t.session || all
}

// passesText takes note of why a write is not written behind that is passed on for its
// text or its company; of others it is known already. touched: declared tables may be.
func (x *attended) passesText(t *touch, st *statement.Statement, touched bool) {
	dml := st.Kind == statement.Insert || st.Kind == statement.Update || st.Kind == statement.Delete
	switch {
	case st.Write != nil && !t.unjudged, st.Writes == statement.Nothing, !dml && (!touched || st.Writes == statement.Anything):
	case x.settings.ack == ackOff:
		x.passes("off", "walproxy.ack is off")
	case !touched:
		why := behind.Why{Reason: behind.NotDeclared}
		x.passes(why.Label(), why.String())
	case st.Write == nil:
		x.passes(st.Why.String(), st.Why.Explain())
	default:
		x.passes("several", "it comes in one query with what is not written behind")
	}
}

// admit waits until what is touched may be passed on. A failure is for the client:
// nothing was passed on.
func (x *attended) admit(t *touch) (failed *failure, err error) {
	if t.keyed {
		return x.unkeyed(), nil
	}
	direct := collections(t.writes)
	if t.anything {
		direct = x.t.all()
	}
	x.mu.Lock()
	direct = slices.DeleteFunc(direct, func(c string) bool { return x.guarded.ends.direct[c] != nil })
	if !x.mu.turn.pending() {
		x.guarded.ends.last = false
	}
	x.mu.Unlock()
	if len(direct) > 0 {
		if failed := x.enterDirect(direct); failed != nil {
			return failed, nil
		}
	}
	if failed := x.barrier(t); failed != nil {
		return failed, nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	e := &x.guarded.ends
	e.schema, e.sequences = e.schema || t.schema, e.sequences || t.sequences
	x.guarded.changed = x.guarded.changed || t.session
	x.guarded.altered = x.guarded.altered || t.session
	x.serial = t.serial
	switch {
	case x.mu.turn.open: // more of a query that is passed on in parts
		e.more(t.naming)
	case t.names || !x.mu.turn.pending():
		e.naming = t.naming
	}
	if under := x.mu.turn.pending(); !under || t.finishes {
		if !under {
			e.since, e.atWork = time.Now(), time.Time{}
		}
		e.last = !t.more && !e.schema && (t.finishes || x.mu.turn.tx == txIdle)
	}
	return nil, nil
}

// settledFrom waits for what is under way if t has to be alone.
func (x *attended) settledFrom(t *touch) error {
	if !t.anything && len(t.writes) == 0 && !t.names && t.unnamed == nil && !t.drop && !x.serial && !t.serial {
		return nil
	}
	return x.settled()
}

var (
	errGateLate = errors.New("pgwire: the gate's time-out")
	errReadLate = errors.New("pgwire: the read's time-out")
)

// errCancelled: the client asked for it.
var errCancelled = errors.New("pgwire: canceled by the client")

// enterDirect enters the gates of collections for the session's transaction.
func (x *attended) enterDirect(list []string) *failure {
	ctx, done := x.work(x.t.o.GateTimeout, errGateLate, true)
	defer done()
	defer x.unlessAway()()
	began := time.Now()
	defer func() { x.t.m.gateSeconds.Observe(time.Since(began).Seconds()) }()
	for _, c := range list {
		leave, err := x.t.o.Core.Direct(ctx, x.t.o.Sink, c)
		if err != nil {
			return x.unadmitted(c, err, x.t.o.GateTimeout) // fail leaves those before it
		}
		x.mu.Lock()
		x.guarded.ends.enter(c, leave)
		x.mu.Unlock()
	}
	return nil
}

func (x *attended) inTransaction() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.turn.tx == txOpen
}

// barrier waits for the writes that a read has to see.
func (x *attended) barrier(t *touch) *failure {
	if x.settings.read == readAny {
		return nil
	}
	any := t.anything || t.begins
	list := collections(t.reads)
	need := x.unseen.newest(list, any)
	if x.settings.read == readAll {
		of := list
		if any || x.inTransaction() { // what comes first in one may make its snapshot, which is of all tables
			of = x.t.all()
		}
		for _, c := range of {
			need = max(need, x.t.o.Core.Newest(c))
		}
	}
	if need == 0 && len(x.unseen.dead) == 0 {
		return nil
	}
	ctx, done := x.work(x.t.o.ReadTimeout, errReadLate, true)
	defer done()
	defer x.unlessAway()()
	// A transaction that begins sees; only a read of what is missing fails.
	if err := x.see(ctx, need, list, t.anything); err != nil {
		return x.unadmitted("", err, x.t.o.ReadTimeout)
	}
	return nil
}

// unadmitted says why a wait was in vain.
func (x *attended) unadmitted(collection string, err error, limit time.Duration) *failure {
	if unseen, ok := errors.AsType[*unseenError](err); ok {
		return &failure{code: "40003", reason: "dead_letter", message: fmt.Sprintf("walproxy: a read would not see a write of this session that PostgreSQL refused: %v", unseen),
			hint: "SELECT * FROM walproxy.dead_letter, or walproxy dlq show, says why. Retry or discard the dead letter, or SET walproxy.read = 'any' to read on without it."}
	}
	switch {
	case errors.Is(err, errCancelled):
		return cancelled()
	case errors.Is(err, errAway):
		since, away := x.s.presence.away()
		if away == nil { // it is back already
			since = time.Now()
		}
		return x.withoutUpstream(since, away)
	case errors.Is(err, errGateLate):
		return &failure{code: "55P03", reason: "gate_timeout",
			message: fmt.Sprintf("walproxy: canceling statement: writes to %s that were acknowledged earlier were not applied within %v", collection, limit),
			hint:    "PostgreSQL is slow, or one of them waits for a lock. pgwire.gate_timeout is the bound."}
	case errors.Is(err, errReadLate):
		return &failure{code: "55P03", reason: "read_timeout",
			message: fmt.Sprintf("walproxy: canceling statement: writes of this session that were acknowledged were not applied within %v", limit),
			hint:    "PostgreSQL is slow or away. pgwire.read_timeout is the bound; SET walproxy.read = 'any' reads without them."}
	case errors.Is(err, walproxy.ErrHalted), errors.Is(err, walproxy.ErrPaused):
		return &failure{code: "55000", reason: "sink_stopped", message: "walproxy: acknowledged writes cannot be applied now: " + err.Error(),
			hint: "walproxy status says more. SET walproxy.read = 'any' reads without them."}
	}
	return &failure{code: "57P03", reason: "unapplied", message: "walproxy: acknowledged writes cannot be applied now: " + err.Error()}
}

// aborted is PostgreSQL's answer to whatever is asked in a transaction that failed.
func aborted() *failure {
	return &failure{code: "25P02", reason: "aborted", message: "current transaction is aborted, commands ignored until end of transaction block"}
}

// unkeyed: PostgreSQL does not know the key, and would do a repeat again.
func (x *attended) unkeyed() *failure {
	why, _ := strings.CutPrefix(x.settings.why, "passed through: ")
	return &failure{code: "0A000", reason: "request", message: "walproxy: a write under walproxy.idempotency_key cannot be passed through to PostgreSQL",
		detail: why, hint: "Nothing was written. RESET walproxy.idempotency_key to have PostgreSQL do it."}
}

func cancelled() *failure {
	return &failure{code: "57014", reason: "cancelled", message: "canceling statement due to user request"}
}

// endUnadmitted ends a session in the middle of a query that cannot be taken back.
func endUnadmitted(f *failure) *refusal {
	return &refusal{code: f.code, message: f.message, hint: f.hint, reason: f.reason}
}

// fail answers a query that was not passed on with a failure. A transaction that is
// open fails with it: PostgreSQL is made to.
func (x *attended) fail(answer []byte, f *failure) error {
	if err := x.settled(); err != nil {
		return err
	}
	if !x.exact() {
		return endUnadmitted(f)
	}
	x.in.drop()
	x.mu.Lock()
	tx := x.mu.turn.tx
	x.mu.Unlock()
	status := tx
	if tx == txOpen {
		var err error
		if _, tx, err = x.ask(appendEmpty(appendParse(nil, ownName, "walproxy", nil), cSync)); err != nil { // no statement begins so
			return err
		}
		status = tx
	}
	if x.tx != nil {
		x.tx.fail()
		status = txFailed
	}
	if tx == txIdle { // nothing was passed on behind the gates that were entered
		x.mu.Lock()
		x.guarded.ends.leave()
		x.mu.Unlock()
	}
	x.t.m.failed.WithLabelValues(f.reason).Inc()
	return x.say(appendReady(f.appendTo(answer), status))
}

func appendReady(b []byte, tx byte) []byte { return append(b, sReady, 0, 0, 0, 5, tx) }

// finishedLocked: PostgreSQL has finished what was asked.
func (x *attended) finishedLocked() {
	e := &x.guarded.ends
	e.naming, e.blind = nil, false
	if len(e.direct) > 0 {
		x.t.gates.answered()
	}
	if !x.mu.turn.pending() {
		e.last = false
	}
	if x.mu.turn.tx == txIdle && x.mu.turn.exact {
		e.release()
	}
}
