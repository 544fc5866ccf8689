package pgwire

import (
	"bytes"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// serve takes one message of the client's after the other.
func (x *attended) serve() error {
	if err := x.introduce(); err != nil {
		return err
	}
	for {
		if err := x.fill(headBytes); err != nil {
			return err
		}
		kind, body, err := parseHead(x.in.rest(), x.s.o.MaxMessageBytes)
		if err != nil {
			return refuseFrame(err)
		}
		if int64(len(x.in.unit()))+headBytes+body > unitBytesMax {
			err = x.large(kind, body)
		} else if err = x.fill(headBytes + int(body)); err == nil {
			frame := x.in.rest()[:headBytes+body]
			x.in.next += len(frame)
			err = x.take(kind, frame[headBytes:])
		}
		if err == nil && x.s.stopping.Load() && len(x.in.unit()) == 0 && x.idle() {
			err = endStopping()
		}
		if err != nil {
			return err
		}
	}
}

// take handles a message that is held. What belongs to an extended query is kept
// until its Sync.
func (x *attended) take(kind byte, body []byte) error {
	alone := len(x.in.unit()) == headBytes+len(body)
	switch kind {
	case cParse, cBind, cDescribe, cExecute, cClose:
		if x.isOpen() {
			return x.part()
		}
		return nil
	case cSync:
		if x.isOpen() {
			return x.forward()
		}
		return x.unit()
	case cQuery:
		if !alone || x.isOpen() {
			return x.mixed(body)
		}
		return x.query(body)
	case cFunctionCall:
		return x.mixed(nil)
	case cFlush:
		if alone {
			return x.forward()
		}
		if !x.isOpen() {
			if done, err := x.described(); done || err != nil {
				return err
			}
		}
		return x.part()
	}
	if !alone { // a part of an extended query that will have no Sync
		return x.part()
	}
	return x.forward()
}

// forward marks what is held as to be passed on.
func (x *attended) forward() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.over {
		return errUnreachable
	}
	x.mu.moves++
	for unit := x.in.unit(); len(unit) > 0; {
		kind, body, err := parseHead(unit, x.s.o.MaxMessageBytes)
		if err != nil {
			return refuseFrame(err)
		}
		if err := x.forwardedLocked(kind); err != nil {
			return err
		}
		unit = unit[headBytes+body:]
	}
	x.in.pass()
	return nil
}

func (x *attended) forwardedLocked(kind byte) error {
	if kind == cTerminate {
		x.mu.gone = true
	}
	if err := x.mu.turn.client(kind); err != nil {
		return refuseFrame(err)
	}
	return nil
}

// part passes on the beginning of an extended query, or more of it: its Sync is to
// come.
func (x *attended) part() error {
	touched := touch{unjudged: true, more: true}
	x.look(x.in.unit(), &touched)
	touched.begins = true // its snapshot may be older than what comes with the rest
	if err := x.admitted(&touched); err != nil {
		return err
	}
	return x.forward()
}

// admitted waits until a query that is passed on in parts may be. What it would have
// to wait for in vain ends the session, for it cannot be taken back.
func (x *attended) admitted(t *touch) error {
	x.touchesHeld(t)
	failed, err := x.opening(t)
	if err == nil && failed == nil {
		failed, err = x.admit(t)
	}
	if err == nil && failed == nil {
		failed, err = x.replay()
	}
	if failed != nil {
		return endUnadmitted(failed)
	}
	return err
}

// opening waits for what is under way before the first part of a query that is passed
// on in parts. Behind it nothing can be asked until its Sync.
func (x *attended) opening(t *touch) (*failure, error) {
	if x.isOpen() {
		return nil, nil
	}
	if err := x.settled(); err != nil {
		return nil, err
	}
	if t.unnamed == nil && !t.drop {
		x.needs(x.prepared[""], t) // a later part may
	}
	return x.unnamed(t)
}

// mixed passes on a Query or FunctionCall: behind parts of an extended query, or one
// that may do anything.
func (x *attended) mixed(query []byte) error {
	touched := touch{begins: true, serial: true, unjudged: true, more: true}
	if query == nil {
		touched.anything = true
	} else {
		sql, _, _ := cutString(query)
		x.touches(&touched, x.parse(sql))
		x.look(x.in.unit(), &touched)
	}
	if err := x.admitted(&touched); err != nil {
		return err
	}
	return x.forward()
}

// largePrefix is how much of a large Bind is looked at: its names stand in front.
const largePrefix = 8 << 10

// large passes on a message that is not kept, and what is held before it.
func (x *attended) large(kind byte, body int64) error {
	touched := touch{begins: true, unjudged: true, more: true}
	x.look(x.in.unit(), &touched)
	switch kind {
	case cQuery, cFunctionCall, cParse:
		touched.anything, touched.serial = true, true
		if kind == cParse {
			if err := x.fill(headBytes + int(min(body, largePrefix))); err != nil {
				return err
			}
			if name, _, ok := cutString(x.in.rest()[headBytes:]); ok { // it may be another one from now on
				x.forget(name)
			}
			touched.naming = append(touched.naming, naming{}) // it has an answer of its own
		}
	case cBind:
		if err := x.fill(headBytes + int(min(body, largePrefix))); err != nil {
			return err
		}
		x.largeBind(x.in.rest()[headBytes:], &touched)
	}
	if kind != cCopyData {
		if err := x.admitted(&touched); err != nil {
			return err
		}
	}
	if err := x.forward(); err != nil {
		return err
	}
	x.mu.Lock()
	err := x.forwardedLocked(kind)
	x.mu.Unlock()
	if err != nil {
		return err
	}
	return x.stream(headBytes + body)
}

func (x *attended) largeBind(body []byte, touched *touch) {
	_, rest, ok := cutString(body)
	if ok {
		var name string
		if name, _, ok = cutString(rest); ok {
			x.bound(name, touched)
		}
	}
	touched.anything = touched.anything || !ok
}

// stream passes on the next n bytes as they come.
func (x *attended) stream(n int64) error {
	for n > 0 {
		step := int(min(n, int64(len(x.in.rest()))))
		x.in.next += step
		x.in.pass()
		if n -= int64(step); n > 0 {
			if err := x.flush(); err != nil {
				return err
			}
			if err := x.in.read(1); err != nil {
				return err
			}
			x.mu.Lock()
			x.mu.moves++
			x.mu.Unlock()
		}
	}
	return nil
}

// parse looks what a text is.
func (x *attended) parse(sql string) statement.Text {
	return x.t.cache.Parse(sql, x.backslashes())
}

// text of a Query's body; false: it has no end.
func queryText(body []byte) (string, bool) {
	i := bytes.IndexByte(body, 0)
	if i != len(body)-1 {
		return "", false
	}
	return string(body[:i]), true
}
