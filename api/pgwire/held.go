package pgwire

import (
	"bytes"
	"maps"
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
	unfit    string     // why it cannot go on in a pool; "": it can
	inside   []effect   // of the transaction that is open
	murky    bool       // it may have been rolled back in parts
	settings []effect   // in their order, each name once
	made     map[string]*remade
	sent     map[string]*remade // also what PostgreSQL has not confirmed
	portals  map[string]*remade
	bytes    int // of made
	reported *reports

	// Of a session whose connection is shared:
	stock       *stock            // of its connection; nil: it has none
	named       map[string]string // the session's names by ours
	next        op                // of the Parse that is passed on
	repeats     string            // whose Parse was refused last: there is one
	pending     map[string]int    // Parse and Close messages of requests without an answer, by name
	application string            // as it said at the login
	worn        string            // outfit, unless it is to be put together again
	readUnder   string            // likewise reading
	changed     bool
	recent      statement.Recent
	ordinary    *statement.Statement // that was read last and leaves nothing behind; nil: none
	bore        traits               // its traits
	older       bool                 // a statement was prepared under other settings than there are now
	tied        bool                 // one cannot be made again
	unreviewed  bool                 // both are to be found out
	gathered    bool                 // what it has prepared is on its connection
	sequences   bool                 // it may have drawn from sequences on this connection
	outdated    bool                 // statements have to be prepared again
	altered     bool                 // the transaction that is open may have changed the schema
	stripped    bool                 // its connection may have other settings than its outfit
	taint       uint64               // of a transaction that may have settings of its own; 0: none
	taints      uint64
	tainting    *request // that made it what it is; nil: that is over
}

// reports are settings as PostgreSQL has reported them. They are never changed.
type reports struct{ of map[string]string }

// with is r with another value.
func (r *reports) with(name, value string) *reports {
	if was, ok := r.of[name]; ok && was == value {
		return r
	}
	of := maps.Clone(r.of)
	of[name] = value
	return &reports{of}
}

// request is what one ReadyForQuery ends.
type request struct {
	simple  bool
	ops     []op
	done    int  // of ops, answered
	does    bool // an Execute is among them, or was
	effects []effect
	failed  bool
	rolled  bool // the last command tag was ROLLBACK
	ended   bool // a transaction has ended in it
	amid    bool // ... and something was done behind that
	closes  bool // a simple query, which drops the unnamed statement
	more    bool // it has more than one statement
	copied  bool // the data of a COPY has ended in it
	own     bool // of the link, which nobody is told of
	unnamed *remade
	frees   []string // names of statements that it closes in SQL
	first   [1]op    // room for ops
}

// add takes note of a message that has an answer of its own.
func (r *request) add(o op) {
	if r.ops == nil {
		r.ops = r.first[:0]
	}
	r.ops = append(r.ops, o)
}

// op is a message that has an answer of its own.
type op struct {
	kind byte // cParse, cClose of a statement, cExecute
	name string
	made *remade  // of cParse
	of   []effect // of cExecute
	ends bool     // ... which ends a transaction

	own      bool     // of the link, which nobody is told of
	repeated bool     // a Parse of a name that is taken, which fails
	faked    bool     // a Close was passed on in its place
	article  *article // that it is about
}

// remade is a prepared statement; frame makes it again.
type remade struct {
	frame   []byte
	effects []effect
	traits  traits

	// In a pool: its name there, and what that depends on.
	ours, reading     string
	taint, generation uint64
}

// Bounds of what is kept for a session.
const (
	preparedBytesMax = 4 << 20
	settingsMax      = 200
	requestsMax      = 10_000
	portalsMax       = 1_000
	// answeredMax bounds the messages of a request that are kept although they are answered.
	answeredMax = 1_000
)

func newHeld(statements *statement.Cache, parameters []parameter) held {
	h := held{statements: statements, tx: txIdle, made: map[string]*remade{}, sent: map[string]*remade{},
		portals: map[string]*remade{}, reported: &reports{map[string]string{}}}
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
	return h.keeps()
}

// keeps is likewise, where it is quiet.
func (h *held) keeps() string {
	if h.lost == "" && h.tied {
		return "a statement prepared under settings of a transaction"
	}
	return h.lost
}

func (h *held) lose(why string) {
	if h.lost == "" {
		h.lost = why
	}
}

func (h *held) report(name, value string) {
	h.reported = h.reported.with(name, value)
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
			h.unfit = "a query between extended ones, without a Sync before it"
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
	case cCopyDone, cCopyFail:
		if h.current != nil {
			h.current.copied = true
		}
	case cSync:
		h.push()
	case cParse:
		h.parse(body, whole)
	case cBind:
		portal, rest, _ := bytes.Cut(body, []byte{0})
		of, _, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			h.lose("a Bind that cannot be read")
			return
		}
		if len(h.portals) > portalsMax {
			clear(h.portals) // an Execute of one that is forgotten is of something unknown
		}
		p := h.sent[string(of)]
		if h.stock != nil && p == nil {
			p = &remade{} // which PostgreSQL does not know either
		}
		h.portals[string(portal)] = p
	case cExecute:
		h.execute(body)
	case cClose:
		if h.current.failed {
			return // PostgreSQL skips it
		}
		if len(body) > 1 && body[0] == 'S' {
			name := string(bytes.TrimRight(body[1:], "\x00"))
			delete(h.sent, name)
			h.await(name)
			h.current.add(op{kind: cClose, name: name})
		} else {
			h.await("\x00")
			h.current.add(op{kind: cClose, name: "\x00"}) // a portal
		}
	}
}

func (h *held) push() {
	if len(h.queue) >= requestsMax {
		h.lose("too many requests under way")
		h.unfit = "too many requests under way"
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
	var t traits
	h.current.effects, t = h.readText(bytes.TrimRight(body, "\x00"))
	h.current.more, h.current.amid = t.more, t.amid
	if h.stock != nil {
		h.stock.unnamed = nil
	}
	h.bears(t)
}

func (h *held) parse(body []byte, whole bool) {
	o := h.next
	if h.next = (op{}); o.made == nil {
		name, _, _ := bytes.Cut(body, []byte{0})
		o = op{kind: cParse, name: string(name), made: h.prepare(body, whole)}
	}
	if h.current.failed {
		return // PostgreSQL skips it
	}
	if !o.repeated {
		h.sent[o.name] = o.made
	}
	h.current.add(o)
	h.await(o.name)
}

// await: a Parse or a Close of that name is passed on.
func (h *held) await(name string) {
	if h.pending != nil {
		h.pending[name]++
	}
}

// had: a request is answered.
func (h *held) had(r *request) {
	for _, name := range r.frees {
		h.settle(name)
	}
	h.hadOps(r.ops)
}

func (h *held) hadOps(ops []op) {
	for i := range ops {
		if o := &ops[i]; h.pending != nil && !o.own && o.kind != cExecute {
			h.settle(o.name)
		}
	}
}

// trim forgets the messages of a request that are answered, if they are many: a query may
// have any number before its Sync.
func (h *held) trim(r *request) {
	if r.done < answeredMax {
		return
	}
	h.hadOps(r.ops[:r.done])
	r.ops, r.done, r.more = slices.Delete(r.ops, 0, r.done), 0, true
}

func (h *held) settle(name string) {
	if h.pending[name]--; h.pending[name] <= 0 {
		delete(h.pending, name)
	}
}

// prepare takes the body of a Parse.
func (h *held) prepare(body []byte, whole bool) *remade {
	p := &remade{}
	_, rest, _ := bytes.Cut(body, []byte{0})
	if sql, _, ok := bytes.Cut(rest, []byte{0}); ok && whole {
		p.frame = appendFrame(nil, cParse, body)
		p.effects, p.traits = h.readText(sql)
	} else {
		h.lose("a prepared statement too long to be made again")
	}
	return p
}

func (h *held) execute(body []byte) {
	if h.current.failed {
		return // PostgreSQL skips it
	}
	portal, _, _ := bytes.Cut(body, []byte{0})
	p := h.portals[string(portal)]
	if p == nil {
		h.lose("an Execute of something unknown")
		p = &remade{}
	}
	h.current.add(op{kind: cExecute, of: p.effects, ends: p.traits.ends})
	h.current.does = true
	h.bears(p.traits)
}
