package pgwire

import (
	"bytes"
	"slices"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// held is what a session has in PostgreSQL, as far as its messages tell: enough to
// make it again elsewhere, or to know that this cannot be. It errs to one side: what
// is not understood cannot be made again. What the database's own functions and
// triggers leave behind is not seen.
//
// PostgreSQL answers each Query, FunctionCall and Sync with one ReadyForQuery; a
// request is all that belongs to one.
type held struct {
	statements *statement.Cache

	served   uint64 // requests that began, and changes of what was reported
	tx       byte
	queue    []*request // that PostgreSQL has not finished, oldest first
	current  *request   // of the extended protocol, not ended yet; nil: none
	lost     string     // why the session cannot be made again; "": it can
	inside   []effect   // of the transaction that is open
	murky    bool       // it may have been rolled back in parts
	settings []effect   // in their order, each name once
	made     map[string]*remade
	sent     map[string]*remade // also what PostgreSQL has not confirmed
	portals  map[string]*remade
	bytes    int // of made
	reported map[string]string
}

// request is what one ReadyForQuery ends.
type request struct {
	simple  bool
	ops     []op
	done    int // of ops, answered
	effects []effect
	failed  bool
	rolled  bool // the last command tag was ROLLBACK
	closes  bool // a simple query, which drops the unnamed statement
	more    bool // it has more than one statement
}

// op is a message that has an answer of its own.
type op struct {
	kind byte // cParse, cClose of a statement, cExecute
	name string
	made *remade  // of cParse
	of   []effect // of cExecute
}

// remade is a prepared statement; frame makes it again.
type remade struct {
	frame   []byte
	effects []effect
}

// Bounds of what is kept for a session.
const (
	preparedBytesMax = 4 << 20
	settingsMax      = 200
	requestsMax      = 10_000
	portalsMax       = 1_000
)

func newHeld(statements *statement.Cache, parameters []parameter) held {
	h := held{statements: statements, tx: txIdle, made: map[string]*remade{}, sent: map[string]*remade{},
		portals: map[string]*remade{}, reported: map[string]string{}}
	for _, p := range parameters {
		h.report(p.Name, p.Value)
	}
	return h
}

// quiet reports that nothing is under way and no transaction is open.
func (h *held) quiet() bool { return h.tx == txIdle && len(h.queue) == 0 && h.current == nil }

// stays is why the session cannot go on without this connection; "": it can.
func (h *held) stays() string {
	if !h.quiet() {
		return "a request or a transaction"
	}
	return h.lost
}

func (h *held) lose(why string) {
	if h.lost == "" {
		h.lost = why
	}
}

func (h *held) report(name, value string) {
	h.reported[name] = value
	if name == "client_encoding" && !slices.Contains([]string{"UTF8", "SQL_ASCII", "LATIN1"}, value) {
		h.lose("an encoding in which statements are not read")
	}
}

// begin takes note of a frame of which no byte was passed on yet.
func (h *held) begin(kind byte) {
	switch kind {
	case cQuery, cFunctionCall:
		if h.current != nil {
			h.lose("a query between extended ones")
		}
		h.current = &request{simple: true}
		h.served++
	case cParse, cBind, cDescribe, cExecute, cClose, cSync:
		if h.current == nil {
			h.current = &request{}
			h.served++
		}
	}
}

// client takes note of a frame, whole if so; the end of it is not passed on yet.
func (h *held) client(kind byte, body []byte, whole bool) {
	switch kind {
	case cQuery:
		h.query(body, whole)
		h.push()
	case cFunctionCall:
		h.lose("a function call")
		h.push()
	case cSync:
		h.push()
	case cParse:
		h.parse(body, whole)
	case cBind:
		portal, of, _, ok := cutTwo(body)
		if !ok {
			h.lose("a Bind that cannot be read")
			return
		}
		if len(h.portals) > portalsMax {
			clear(h.portals) // an Execute of one that is forgotten is of something unknown
		}
		h.portals[portal] = h.sent[of]
	case cExecute:
		h.execute(body)
	case cClose:
		if len(body) > 1 && body[0] == 'S' {
			name := string(bytes.TrimRight(body[1:], "\x00"))
			delete(h.sent, name)
			h.current.ops = append(h.current.ops, op{kind: cClose, name: name})
		} else {
			h.current.ops = append(h.current.ops, op{kind: cClose, name: "\x00"}) // a portal
		}
	}
}

func (h *held) push() {
	if len(h.queue) >= requestsMax {
		h.lose("too many requests under way")
		return
	}
	h.queue = append(h.queue, h.current)
	h.current = nil
}

// cutTwo cuts two strings off b.
func cutTwo(b []byte) (first, second string, rest []byte, ok bool) {
	f, rest, ok := bytes.Cut(b, []byte{0})
	if !ok {
		return "", "", nil, false
	}
	s, rest, ok := bytes.Cut(rest, []byte{0})
	return string(f), string(s), rest, ok
}

func (h *held) query(body []byte, whole bool) {
	delete(h.sent, "")
	h.current.closes = true
	if !whole {
		h.lose("a statement too long to be read")
		return
	}
	h.current.effects, h.current.more = h.read(string(bytes.TrimRight(body, "\x00")))
}

func (h *held) parse(body []byte, whole bool) {
	name, sql, _, ok := cutTwo(body)
	p := &remade{}
	if whole && ok {
		p.frame = appendFrame(nil, cParse, body)
		p.effects, _ = h.read(sql)
	} else if n, _, _ := bytes.Cut(body, []byte{0}); true {
		name = string(n)
		h.lose("a prepared statement too long to be made again")
	}
	h.sent[name] = p
	h.current.ops = append(h.current.ops, op{kind: cParse, name: name, made: p})
}

func (h *held) execute(body []byte) {
	portal, _, _ := bytes.Cut(body, []byte{0})
	p := h.portals[string(portal)]
	if p == nil {
		h.lose("an Execute of something unknown")
		p = &remade{}
	}
	h.current.ops = append(h.current.ops, op{kind: cExecute, of: p.effects})
}

// server takes note of a frame that PostgreSQL sent.
func (h *held) server(kind byte, body []byte) {
	if kind == sParameterStatus {
		if name, value, _, ok := cutPair(body); ok {
			h.report(name, value)
		}
		return
	}
	r := h.current
	if len(h.queue) > 0 {
		r = h.queue[0]
	}
	if r == nil {
		if kind == sReady {
			h.lose("an answer to nothing")
		}
		return
	}
	switch kind {
	case sParseComplete, sCloseComplete, sEmptyQuery, sSuspended:
		h.answered(r)
	case sCommandComplete:
		r.rolled = bytes.HasPrefix(body, []byte("ROLLBACK"))
		h.answered(r)
	case sError:
		r.failed = true
		h.void(r)
	case sCopyIn, sCopyBoth:
		if !r.simple || kind == sCopyBoth {
			h.lose("a COPY by the extended protocol") // Syncs may go without an answer
		}
	case sReady:
		if len(h.queue) == 0 {
			h.lose("an answer to nothing")
			return
		}
		if h.queue = h.queue[1:]; len(h.queue) == 0 {
			h.queue = nil
		}
		h.finish(r, body)
	}
}

// answered: the oldest message without an answer has it.
func (h *held) answered(r *request) {
	if r.simple || r.done >= len(r.ops) {
		return
	}
	o := r.ops[r.done]
	r.done++
	switch o.kind {
	case cParse:
		h.keep(o.name, o.made)
	case cClose:
		h.keep(o.name, nil)
	case cExecute:
		r.effects, r.more = append(r.effects, o.of...), r.more || r.done > 1
	}
}

// keep takes note of a statement that is prepared; nil: it is not any more.
func (h *held) keep(name string, p *remade) {
	if old := h.made[name]; old != nil {
		h.bytes -= len(old.frame)
		delete(h.made, name)
	}
	if p != nil {
		h.made[name] = p
		if h.bytes += len(p.frame); h.bytes > preparedBytesMax {
			h.lose("too many prepared statements")
		}
	}
}

// void: PostgreSQL skips what is left of a request.
func (h *held) void(r *request) {
	for _, o := range r.ops[r.done:] {
		switch o.kind {
		case cParse, cClose:
			if p := h.made[o.name]; p != nil {
				h.sent[o.name] = p
			} else {
				delete(h.sent, o.name)
			}
		}
	}
	r.done = len(r.ops)
}

// finish takes note of what a request has done, once it is over.
func (h *held) finish(r *request, status []byte) {
	before := h.tx
	if len(status) > 0 {
		h.tx = status[0]
	}
	if r.closes {
		h.keep("", nil)
	}
	settings := len(r.effects) > 0
	switch {
	case h.tx != txIdle:
		if slices.ContainsFunc(r.effects, func(e effect) bool { return e.kind == effectRollbackTo }) {
			h.murky = true
		}
		h.inside = append(h.inside, r.effects...)
		h.murky = h.murky || r.failed && settings
		if len(h.inside) > settingsMax {
			h.lose("too many settings in a transaction")
			h.inside = nil
		}
		return
	case r.failed || r.rolled || before == txFailed:
		// Rolled back, if that was all.
		if settings && (r.more || !r.failed) {
			h.lose("settings that were rolled back in parts")
		}
	default:
		if h.murky && len(h.inside) > 0 {
			h.lose("settings that were rolled back in parts")
		}
		for _, e := range append(h.inside, r.effects...) {
			h.apply(e)
		}
	}
	h.inside, h.murky = nil, false
}
