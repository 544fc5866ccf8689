package pgwire

import "errors"

// A session's transaction, as ReadyForQuery tells it.
const (
	txIdle   = 'I'
	txOpen   = 'T'
	txFailed = 'E'
)

// turn follows what a session's two ends say by the types of their messages, and
// knows whose move it is. It is not safe for concurrent use.
//
// PostgreSQL answers each Query, FunctionCall and Sync with one ReadyForQuery.
// asked holds those without, oldest first. Two things make that less than simple:
// a Sync that PostgreSQL reads while it waits for COPY data is ignored, and behind
// an error everything up to a Sync is, a Query among it. Where a client mixes the
// protocols so that the outcome cannot be told from types, exact falls, for good:
// then only silence behind a ReadyForQuery counts as idle.
type turn struct {
	asked runs
	tx    byte
	exact bool
	quiet bool // nothing came from the client since the last ReadyForQuery

	// Of the extended protocol, since the last Query, FunctionCall or Sync:
	open     bool // something was sent
	owed     int  // messages that PostgreSQL answers one by one and has not yet
	skipping bool // it said an error, and reads on to the Sync

	// Of COPY FROM STDIN, since the last Query or Execute:
	data   bool // CopyData was sent
	ended  int  // CopyDone and CopyFail sent
	copies int  // CopyInResponse seen
	copyIn bool // PostgreSQL waits for data
}

// What is asked, and what was sent before it.
const (
	askPlain = iota // a Query or FunctionCall, or a Sync behind copyEnd
	askSync         // a Sync with nothing of a COPY between it and the Execute
	askData         // a Sync with CopyData but no end between
	askMixed        // a Query or FunctionCall behind messages that want a Sync
	asksMax  = 1 << 16
)

var errTooManyAsked = errors.New("too many kinds of requests under way")

func newTurn() turn { return turn{exact: true, quiet: true, tx: txIdle} }

// client takes note of a frame that is passed on to PostgreSQL.
func (t *turn) client(kind byte) error {
	switch kind {
	case cQuery, cFunctionCall:
		if t.exact && t.open && t.skipping { // PostgreSQL skips it, too
			t.quiet = false
			return nil
		}
		ask := byte(askPlain)
		if t.open {
			ask = askMixed
		}
		t.data, t.ended, t.copies = false, 0, 0
		return t.ask(ask)
	case cSync:
		switch {
		case t.copyIn: // ignored, unless an error ended the COPY just now
			t.exact = false
			return nil
		case t.ended > 0:
			return t.ask(askPlain)
		case t.data:
			return t.ask(askData)
		}
		return t.ask(askSync)
	case cExecute:
		t.data, t.ended, t.copies = false, 0, 0
		fallthrough
	case cParse, cBind, cDescribe, cClose:
		t.quiet, t.open = false, true
		if !t.skipping {
			t.owed++
		}
	case cCopyData:
		t.data = true
	case cCopyDone, cCopyFail:
		t.ended++
		t.copyIn = false
	}
	return nil
}

func (t *turn) ask(kind byte) error {
	t.quiet, t.open, t.skipping, t.owed = false, false, false, 0
	if !t.exact {
		return nil
	}
	if !t.asked.push(kind) {
		return errTooManyAsked
	}
	return nil
}

// server takes note of a frame that is passed on to the client.
func (t *turn) server(kind byte, body []byte) {
	switch kind {
	case sReady:
		if len(body) > 0 {
			t.tx = body[0]
		}
		t.ready()
	case sError:
		t.copyIn = false
		if t.asked.first() == askMixed {
			t.exact = false // it may stand for what came before, and the Query is skipped
		}
		if t.asked.empty() && t.open {
			t.owed, t.skipping = 0, true
		}
	case sParseComplete, sBindComplete, sCloseComplete, sNoData, sRowDescription, sCommandComplete, sEmptyQuery, sSuspended:
		if t.owed > 0 && t.asked.empty() {
			t.owed--
		}
	case sCopyIn:
		t.startCopy()
	case sCopyBoth:
		t.exact = false // replication
	}
}

func (t *turn) ready() {
	t.quiet, t.copyIn = true, false
	if !t.exact {
		t.asked.clear()
		t.open, t.owed, t.skipping = false, 0, false
		return
	}
	if !t.asked.pop() {
		t.exact = false
	}
}

// startCopy: PostgreSQL ignores the Syncs that it reads before the data ends.
func (t *turn) startCopy() {
	t.copies++
	more := t.copies > t.ended // data is to come
	switch t.asked.first() {
	case askSync, askData:
		t.exact = t.exact && t.asked.first() != askData
		for t.asked.first() == askSync || t.asked.first() == askData {
			t.asked.pop()
		}
		if t.asked.empty() { // its end and a Sync are to come
			t.open, t.owed = true, 1
		} else {
			more = false // they were sent already
		}
	default:
		if t.asked.many() {
			t.exact, more = false, false
		}
	}
	t.copyIn = more
}

// pending reports that PostgreSQL owes the client a ReadyForQuery, or will.
func (t *turn) pending() bool {
	if !t.exact {
		return !t.quiet
	}
	return t.open || !t.asked.empty()
}

// idle reports that no transaction is open and everything is answered: what may
// be ended, or answered by somebody else, without PostgreSQL noticing.
func (t *turn) idle() bool { return t.tx == txIdle && !t.pending() }

// holds reports that it is the client's move while PostgreSQL keeps a transaction
// open for it: between statements, before a Sync, or in COPY FROM STDIN.
func (t *turn) holds() bool {
	switch {
	case t.copyIn:
		return true
	case !t.pending():
		return t.tx != txIdle
	}
	return t.exact && t.asked.empty() && t.owed == 0
}

// runs is a queue of small numbers in which equal neighbours cost nothing.
type runs struct {
	list []run
	head int
}

type run struct {
	kind byte
	n    uint32
}

const none = 0xff

// push reports false if there is no room.
func (r *runs) push(kind byte) bool {
	if last := len(r.list) - 1; last >= r.head && r.list[last].kind == kind && r.list[last].n < 1<<31 {
		r.list[last].n++
		return true
	}
	if len(r.list)-r.head >= asksMax {
		return false
	}
	if r.head > 0 && len(r.list) == cap(r.list) {
		r.list = r.list[:copy(r.list, r.list[r.head:])]
		r.head = 0
	}
	r.list = append(r.list, run{kind, 1})
	return true
}

// pop reports false if there was nothing.
func (r *runs) pop() bool {
	if r.empty() {
		return false
	}
	if r.list[r.head].n--; r.list[r.head].n == 0 {
		r.head++
		if r.head == len(r.list) {
			r.clear()
		}
	}
	return true
}

func (r *runs) first() byte {
	if r.empty() {
		return none
	}
	return r.list[r.head].kind
}

func (r *runs) empty() bool { return r.head == len(r.list) }

func (r *runs) many() bool { return len(r.list)-r.head > 1 || !r.empty() && r.list[r.head].n > 1 }

// clear keeps little memory.
func (r *runs) clear() {
	if cap(r.list) > 64 {
		r.list = nil
	}
	r.list, r.head = r.list[:0], 0
}
