package pgwire

import (
	"bytes"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// upward follows what the client sends, and gathers the bodies that say what the
// session holds.
type upward struct {
	kept []byte // of a frame that is not begun: too little of it has come
	out  []byte // is to be passed on before what follows

	kind  byte
	left  int64  // of the frame's body
	body  []byte // what is wanted of it
	room  int64  // how much more of it is
	whole bool   // body is all of it
	stray bool   // it is no part of what is answered: the answer may come before its end

	dropped  bool // the frame is not passed on
	refusing bool // nothing is, up to the request's end
	told     bool // the client knows of that
	why      *refusal
}

// Of each body no more is gathered.
const (
	namesBytesMax   = 4 << 10
	preparedBodyMax = 64 << 10
)

func (u *upward) begin(kind byte, body int64) {
	u.kind, u.left, u.dropped = kind, body, u.refusing
	u.room = 0
	u.stray = false
	switch kind {
	case cFunctionCall, cDescribe, cSync:
	case cQuery:
		u.room = statement.MaxTextBytes
	case cParse:
		u.room = preparedBodyMax
	case cBind, cExecute, cClose:
		u.room = namesBytesMax
	default:
		u.stray = !u.dropped
	}
	if u.dropped {
		u.room = 0
	}
	u.whole = u.room >= body
}

func (u *upward) take(b []byte) {
	u.left -= int64(len(b))
	n := min(int64(len(b)), u.room)
	u.body = append(u.body, b[:n]...)
	u.room -= n
}

// release keeps little memory.
func (u *upward) release() {
	if u.body = u.body[:0]; cap(u.body) > linkBytes {
		u.body = nil
	}
	if len(u.out) == 0 && cap(u.out) > linkBytes {
		u.out = nil
	}
	if len(u.kept) == 0 && cap(u.kept) > linkBytes {
		u.kept = nil
	}
}

// downward follows what PostgreSQL sends.
type downward struct {
	left     int64 // of the body of a frame that is passed on as it comes
	farewell bool  // PostgreSQL ends the session, in which nothing is under way
}

// wantedBytesMax of a body that is looked at. Nobody has longer ones.
const wantedBytesMax = 1 << 20

// scan looks at what came, and returns how much of it may be passed on: not a head
// that is not whole, nor a frame that has to be seen whole, nor a farewell. So many
// bytes behind that are not for the client, who gets put in their place.
func (d *downward) scan(b []byte, h *held) (n, instead int, put []byte) {
	for !d.farewell {
		step := int(min(d.left, int64(len(b)-n)))
		n += step
		if d.left -= int64(step); d.left > 0 || len(b)-n < headBytes {
			return n, 0, nil
		}
		kind, body, err := parseHead(b[n:], 1<<31-1)
		if err != nil {
			h.lose("what PostgreSQL sent cannot be read")
			return len(b), 0, nil // the carrier says so
		}
		became := passed
		switch kind {
		case sReady, sError, sCommandComplete, sParameterStatus:
			if body > wantedBytesMax {
				h.lose("a message of PostgreSQL was too long")
				break
			}
			if int64(len(b)-n-headBytes) < body {
				return n, 0, nil
			}
			frame := b[n : n+headBytes+int(body)]
			if kind == sError && h.quiet() && fatal(frame) {
				d.farewell = true
				return n, 0, nil
			}
			became = h.server(kind, frame[headBytes:])
			if kind == sError && became == passed && h.stock != nil {
				if put := h.rename(frame); put != nil {
					return n, len(frame), put
				}
			}
		default:
			became = h.server(kind, nil)
		}
		switch became {
		case dropped:
			if int64(len(b)-n-headBytes) < body { // of what is dropped nothing is long
				h.unfit = "an answer that is too long"
			}
			return n, min(headBytes+int(body), len(b)-n), nil
		case asParsed:
			b[n] = sParseComplete
		}
		n, d.left = n+headBytes, body
	}
	return n, 0, nil
}

// between reports that what was passed on ends with a frame.
func (d *downward) between() bool { return d.left == 0 }

// fatal reports that an ErrorResponse ends the session.
func fatal(frame []byte) bool {
	for rest := frame[headBytes:]; len(rest) > 0 && rest[0] != 0; {
		text, after, ok := bytes.Cut(rest[1:], []byte{0})
		if !ok {
			return false
		}
		if rest[0] == 'V' {
			return string(text) == "FATAL" || string(text) == "PANIC"
		}
		rest = after
	}
	return false
}
