package pgwire

import (
	"io"
	"net"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// What of a link who writes calls: it follows what the client sends, and passes it on or
// answers it.

// Write passes on what the client sends.
func (l *link) Write(b []byte) (int, error) {
	taken := len(b)
	if len(l.up.kept) > 0 {
		l.up.kept = append(l.up.kept, b...)
		b = l.up.kept
	}
	sent, at := 0, 0 // b[sent:at] is to be passed on
	for at < len(b) {
		if l.up.left == 0 {
			if len(b)-at < headBytes {
				break
			}
			kind, body, err := parseHead(b[at:], 1<<31-1)
			if err != nil {
				return 0, err // the carrier has seen to that
			}
			if l.x.pooled && l.waitsFor(kind) && !tells(kind, body, b[at+headBytes:]) {
				break
			}
			if l.unsettled(kind, body, b[at+headBytes:]) {
				if err := l.flush(b[sent:at]); err != nil {
					return 0, err
				}
				sent = at
				if err := l.settle(); err != nil {
					l.keep(b[at:])
					return 0, err
				}
			}
			if l.starts() {
				if err := l.flush(b[sent:at]); err != nil {
					return 0, err
				}
				sent = at
				if err := l.ready(kind); err != nil {
					l.keep(b[at:])
					return 0, err
				}
			}
			instead, err := l.begin(kind, body, b[sent:at], b[at+headBytes:])
			if err != nil {
				return 0, err
			}
			if instead >= 0 {
				sent = at + instead
			}
			at += headBytes
		}
		n := int(min(l.up.left, int64(len(b)-at)))
		l.up.take(b[at : at+n])
		if at += n; l.up.dropped {
			sent = at
		}
		if l.up.left == 0 {
			l.endFrame()
		}
	}
	err := l.flush(b[sent:at])
	l.keep(b[at:])
	l.whole()
	return taken, err
}

// keep keeps what the client sent and is not passed on yet.
func (l *link) keep(b []byte) { l.up.kept = append(l.up.kept[:0], b...) }

// whole: what was passed on ends with a frame, unless more of one is to come.
func (l *link) whole() {
	if !l.up.stray || l.up.left > 0 {
		return
	}
	l.up.stray = false
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.half = false
	if b := l.mu.behind; b != nil && b.stock != nil && l.mu.held.quiet() { // the rest was on its way still
		l.yield(b)
	}
}

// yield has the reader give the connection back. mu is locked.
func (l *link) yield(b *backend) {
	if l.carrier != nil {
		l.carrier.stir()
		return
	}
	l.mu.nudged = true
	_ = b.conn.SetReadDeadline(past)
}

// begin begins a frame of whose body rest was read. before is to be passed on; where the
// frame is translated, so many bytes of it and all of before are in up.out.
func (l *link) begin(kind byte, body int64, before, rest []byte) (instead int, err error) {
	l.up.begin(kind, body)
	if l.up.dropped {
		return -1, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.claimed, l.mu.half = false, l.up.stray
	first := l.mu.held.quiet()
	l.mu.held.begin(kind)
	if !l.x.pooled {
		return -1, nil
	}
	if why := l.mu.held.unfit; why != "" {
		r := endUnfit(why)
		l.x.s.joined.Go(func() { l.x.end(r) })
		return -1, r
	}
	if kind != cQuery && !translates(kind) || l.mu.behind == nil {
		return -1, nil
	}
	var ahead []byte
	if first && l.mu.held.taints > 0 { // it may set something again, where nothing can go before it
		ahead = l.before(l.gather)
	}
	out, instead := l.translate(kind, body, rest)
	if len(ahead) > 0 {
		out = append(ahead, out...)
	}
	if len(out) == 0 && instead == 0 {
		return -1, nil
	}
	l.up.out = append(append(l.up.out, before...), out...)
	return instead, nil
}

// flush passes on what is kept for that, and b.
func (l *link) flush(b []byte) error {
	if len(l.up.out) == 0 {
		return l.send(b)
	}
	l.up.out = append(l.up.out, b...)
	err := l.send(l.up.out)
	l.up.out = l.up.out[:0]
	l.up.release()
	return err
}

// starts reports that the next frame begins a request, with nothing under way.
func (l *link) starts() bool {
	if l.up.refusing || l.up.within {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.held.quiet()
}

// endFrame takes note of a frame that is whole, before its end is passed on.
func (l *link) endFrame() {
	kind := l.up.kind
	if l.up.dropped {
		l.refuse(kind)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.held.client(kind, l.up.body, l.up.whole)
	l.up.within = l.mu.held.current != nil
	l.mu.ended = l.mu.ended || kind == cTerminate // PostgreSQL's end is what was asked for
	l.up.release()
}

// send passes bytes on to PostgreSQL.
func (l *link) send(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	l.mu.Lock()
	behind := l.mu.behind
	l.mu.moved = l.now()
	l.mu.Unlock()
	err := io.ErrClosedPipe // it was lost in the middle of a request
	switch {
	case behind == nil:
	case l.carrier != nil:
		err = l.carrier.put(behind, b)
	default:
		_, err = behind.conn.Write(b)
	}
	if l.up.stray { // it drops that, or the reader ends the session
		return nil
	}
	return err
}

// ready sees to it that a request has a backend, or that it is refused.
func (l *link) ready(kind byte) error {
	for {
		l.mu.Lock()
		behind, leaving, closed := l.mu.behind, l.mu.farewell, l.mu.closed
		var changed <-chan struct{}
		if leaving && l.carrier == nil {
			changed = l.wait()
		} else if leaving && !closed { // it is who reads, too
			l.lost(io.EOF)
			if behind, leaving = nil, false; l.broken != nil {
				l.mu.Unlock()
				return io.ErrClosedPipe
			}
		}
		l.mu.Unlock()
		switch {
		case closed:
			return net.ErrClosed
		case behind == nil:
			l.up.why = nil
			switch kind {
			case cQuery, cFunctionCall, cParse, cBind, cDescribe, cExecute, cClose:
				return l.attach()
			}
			l.up.refusing = true // nothing that needs PostgreSQL
			return nil
		case leaving: // and takes nothing any more
			_ = behind.conn.Close()
			<-changed
		default:
			if since, away := l.x.s.presence.away(); away != nil {
				l.up.refusing, l.up.why = true, refuseStatement(away, since)
				return nil
			}
			if l.claim() {
				return nil
			}
		}
	}
}

// claim keeps the backend for the request that begins; false: it is gone.
func (l *link) claim() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.claimed = l.mu.behind != nil
	return l.mu.claimed
}

// refuse answers a frame of a request that is not passed on.
func (l *link) refuse(kind byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.carrier == nil && len(l.mu.say) > sayBytesMax && !l.mu.closed { // the client does not read
		changed := l.wait()
		l.mu.Unlock()
		<-changed
		l.mu.Lock()
	}
	why := l.up.why
	switch kind {
	case cQuery, cFunctionCall, cSync:
		if kind != cSync && !l.up.told {
			l.say(why)
		}
		l.mu.say = appendFrame(l.mu.say, sReady, []byte{txIdle})
		l.up.refusing, l.up.told = false, false
	case cParse, cBind, cDescribe, cExecute, cClose:
		if !l.up.told {
			l.say(why)
			l.up.told = true
		}
	case cTerminate:
		l.mu.ended = true
	default: // Flush, and what is no request
		l.up.refusing = l.up.told
		return
	}
	l.change()
}

// say has the client told that its request is refused. mu is locked.
func (l *link) say(why *refusal) {
	l.mu.say = why.appendAs(l.mu.say, "ERROR")
	l.x.s.metrics.refused.Inc()
}

// upward follows what the client sends, and gathers the bodies that say what the
// session holds.
type upward struct {
	kept []byte // of a frame that is not begun: too little of it has come
	out  []byte // is to be passed on before what follows
	bind []byte // room for a Bind that is translated

	kind   byte
	left   int64  // of the frame's body
	body   []byte // what is wanted of it
	room   int64  // how much more of it is
	whole  bool   // body is all of it
	within bool   // the request that it belongs to goes on behind it
	stray  bool   // it is no part of what is answered: the answer may come before its end

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
