package pgwire

import (
	"bytes"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// upward follows what the client sends, and gathers the bodies that say what the
// session holds.
type upward struct {
	head  [headBytes]byte // of a frame, not whole yet
	heads int

	kind  byte
	left  int64  // of the frame's body
	body  []byte // what is wanted of it
	room  int64  // how much more of it is
	whole bool   // body is all of it

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
	switch kind {
	case cQuery:
		u.room = statement.MaxTextBytes
	case cParse:
		u.room = preparedBodyMax
	case cBind, cExecute, cClose:
		u.room = namesBytesMax
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
}

// downward follows what PostgreSQL sends.
type downward struct {
	left     int64 // of the body of a frame that is passed on as it comes
	farewell bool  // PostgreSQL ends the session, in which nothing is under way
}

// wantedBytesMax of a body that is looked at. Nobody has longer ones.
const wantedBytesMax = 1 << 20

// scan looks at what came, and returns how much of it may be passed on: not a head
// that is not whole, nor a frame that has to be seen whole, nor a farewell.
func (d *downward) scan(b []byte, h *held) (n int) {
	for !d.farewell {
		step := int(min(d.left, int64(len(b)-n)))
		n += step
		if d.left -= int64(step); d.left > 0 || len(b)-n < headBytes {
			return n
		}
		kind, body, err := parseHead(b[n:], 1<<31-1)
		if err != nil {
			h.lose("what PostgreSQL sent cannot be read")
			return len(b) // the carrier says so
		}
		switch kind {
		case sReady, sError, sCommandComplete, sParameterStatus:
			if body > wantedBytesMax {
				h.lose("a message of PostgreSQL was too long")
				break
			}
			if int64(len(b)-n-headBytes) < body {
				return n
			}
			frame := b[n : n+headBytes+int(body)]
			if kind == sError && h.quiet() && fatal(frame) {
				d.farewell = true
				return n
			}
			h.server(kind, frame[headBytes:])
		default:
			h.server(kind, nil)
		}
		n, d.left = n+headBytes, body
	}
	return n
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
