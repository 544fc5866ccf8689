package pgwire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
)

// What of a link who reads calls: it follows what PostgreSQL says, and passes it on.

// Read returns what PostgreSQL, or the link in its place, says.
func (l *link) Read(b []byte) (int, error) {
	for {
		if l.passable > 0 {
			n := copy(b, l.in[:l.passable])
			l.in = l.in[:copy(l.in, l.in[n:])]
			l.passable -= n
			return n, nil
		}
		if l.broken != nil {
			return 0, l.broken
		}
		l.mu.Lock()
		if len(l.mu.say) > 0 && l.down.between() {
			n := copy(b, l.mu.say)
			if l.mu.say = l.mu.say[n:]; len(l.mu.say) <= sayBytesMax {
				l.wake() // who has more to say
			}
			l.mu.Unlock()
			return n, nil
		}
		behind, closed, ended, changed := l.mu.behind, l.mu.closed, l.mu.ended, l.wait()
		l.mu.Unlock()
		switch {
		case closed:
			return 0, net.ErrClosed
		case behind != nil:
			l.receive(behind)
		case ended:
			return 0, io.EOF
		default:
			<-changed
		}
	}
}

// receive reads from the backend, and decides what its end means.
func (l *link) receive(b *backend) {
	if b.in != nil { // what came behind the login
		l.in = append(l.in, b.in.rest()...)
		b.in = nil
		l.mu.Lock()
		l.scanDown()
		l.mu.Unlock()
		return
	}
	if len(l.in) == cap(l.in) {
		l.in = append(make([]byte, 0, max(linkBytes, 2*cap(l.in))), l.in...)
	}
	n, failed := b.conn.Read(l.in[len(l.in):cap(l.in)])
	l.in = l.in[:len(l.in)+n]
	l.received(b, n, failed)
}

// received takes note of n more bytes, which are the last of in, and of why no more come.
func (l *link) received(b *backend, n int, failed error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n > 0 {
		l.mu.moved = l.now()
		l.scanDown()
	}
	defer l.settled()
	switch {
	case failed == nil:
		l.release()
		return
	case l.mu.nudged && errors.Is(failed, os.ErrDeadlineExceeded):
		l.mu.nudged = false
		_ = b.conn.SetReadDeadline(time.Time{})
		l.release()
		return
	}
	l.lost(failed)
}

// lost: the backend is gone. mu is locked.
func (l *link) lost(failed error) {
	l.discard()
	why := l.mu.held.stays()
	if l.mu.closed || l.mu.ended || why != "" || !l.down.between() {
		l.passable, l.broken = len(l.in), failed // what it said last is for the client
		if why != "" && !l.mu.closed && !l.mu.ended {
			l.x.s.log.Debug("a session ends with PostgreSQL", append(l.x.fields(), zap.String("holds", why))...)
		}
		return
	}
	l.in, l.down = l.in[:l.passable], downward{}
	l.x.s.metrics.detached.Inc()
	l.x.s.log.Debug("a session lost PostgreSQL and stays", append(l.x.fields(), zap.Error(failed))...)
	l.change()
}

// scanDown looks at what was read, and finds how much of it may be passed on.
// mu is locked, or nobody else knows the link yet.
func (l *link) scanDown() {
	for {
		n, instead, put := l.down.scan(l.in[l.passable:], &l.mu.held)
		l.passable += n
		if instead == 0 {
			break
		}
		l.in = slices.Replace(l.in, l.passable, l.passable+instead, put...)
		l.passable += len(put)
	}
	l.mu.farewell = l.down.farewell
	if l.mu.held.outdated {
		l.mu.held.outdated = false
		l.x.s.pools.generation.Add(1)
	}
	if why := l.mu.held.unfit; why != "" && l.x.pooled && l.broken == nil {
		l.broken = endUnfit(why)
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
