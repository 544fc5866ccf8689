package pgwire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// pass passes on what PostgreSQL sent.
func (x *attended) pass(b []byte) (n int, err error) {
	for step := 1; step > 0 && err == nil; n += step {
		var mine int
		if step, mine, err = x.scanDown(b[n:]); step > mine {
			if gone := x.deliver(b[n+mine : n+step]); gone != nil {
				err = gone
			}
		}
	}
	x.mu.Lock()
	x.stirLocked()
	x.mu.Unlock()
	return n, err
}

// scanDown takes note of what PostgreSQL sent. b[mine:n] is for the client,
// b[:mine] was for the endpoint.
func (x *attended) scanDown(b []byte) (n, mine int, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.over {
		return 0, 0, net.ErrClosed
	}
	x.mu.moves++
	if x.guarded.exchange != nil && x.mu.down.between() {
		var limit int
		mine, limit, err = x.hearLocked(b)
		if err != nil || mine > 0 {
			return mine, mine, err
		}
		b = b[:limit] // what comes unasked is the client's
	} else if x.guarded.exchange != nil {
		b = b[:min(int64(len(b)), x.mu.down.body)]
	}
	n, err = x.mu.down.scan(b, func(kind byte, body []byte) error {
		x.noteLocked(kind, body)
		return nil
	})
	return n, 0, err
}

// noteLocked takes note of a message that is passed on to the client.
func (x *attended) noteLocked(kind byte, body []byte) {
	x.mu.last = kind
	x.mu.turn.server(kind, body)
	switch kind {
	case sReady:
		x.s.metrics.requests.Inc()
		x.finishedLocked()
	case sParameterStatus:
		x.guarded.changed, x.guarded.altered = true, true
		if name, value, _, ok := cutPair(body); ok && name == conforming {
			x.guarded.backslashes = value != "on"
		}
	case sParseComplete:
		x.guarded.ends.made()
	}
}

// exchange is a question of the endpoint's own to PostgreSQL, and its answer.
type exchange struct {
	frames [][]byte // with their heads
	done   bool
}

// hearLocked takes whole messages of an answer to the endpoint off b. Where the
// first is none of them, limit says how much of b may be passed on.
func (x *attended) hearLocked(b []byte) (mine, limit int, err error) {
	for mine < len(b) && len(b)-mine >= headBytes {
		kind, body, err := parseHead(b[mine:], 1<<31-1)
		if err != nil {
			return mine, 0, err
		}
		size := headBytes + int(body)
		if kind == sNotice || kind == sNotification || kind == sParameterStatus {
			if mine == 0 {
				return 0, min(size, len(b)), nil
			}
			return mine, 0, nil
		}
		if size > bufferBytes {
			return mine, 0, fmt.Errorf("a message of type %q with %d bytes for the endpoint", kind, body)
		}
		if len(b)-mine < size {
			return mine, 0, nil
		}
		frame := b[mine : mine+size]
		x.guarded.exchange.frames = append(x.guarded.exchange.frames, slices.Clone(frame))
		x.mu.turn.server(kind, frame[headBytes:])
		mine += size
		if kind == sReady {
			x.guarded.exchange.done, x.guarded.exchange = true, nil
			return mine, 0, nil
		}
	}
	return mine, 0, nil
}

// askPatience is how long PostgreSQL may take to answer what a write could do without.
const askPatience = 2 * time.Second

// errAskLate: PostgreSQL has not answered yet.
var errAskLate = errors.New("pgwire: PostgreSQL has not answered yet")

// lateLocked reports that PostgreSQL owes nothing but an answer that is not waited for:
// that one is the endpoint's own.
func (x *attended) lateLocked() bool {
	t := &x.mu.turn
	return x.guarded.late && x.guarded.exchange != nil && !t.open && !t.asked.many()
}

// isLate is lateLocked.
func (x *attended) isLate() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.lateLocked()
}

// ask sends PostgreSQL messages of the endpoint's own, whose answer ends with one
// ReadyForQuery: settled was called. It returns the answer's messages and how the
// session's transaction stands then.
func (x *attended) ask(b []byte) (frames [][]byte, tx byte, err error) {
	return x.askWithin(context.Background(), b)
}

// askSoon is ask, but errAskLate where PostgreSQL does not answer: it is not waited for
// then before something is asked again, or passed on.
func (x *attended) askSoon(b []byte) (frames [][]byte, err error) {
	if x.isLate() {
		return nil, errAskLate
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), askPatience, errAskLate)
	defer cancel()
	frames, _, err = x.askWithin(ctx, b)
	if errors.Is(err, errAskLate) {
		x.mu.Lock()
		x.guarded.late = x.guarded.exchange != nil
		x.mu.Unlock()
	}
	return frames, err
}

func (x *attended) askWithin(ctx context.Context, b []byte) (frames [][]byte, tx byte, err error) {
	if err := x.await(ctx, func() bool { return x.guarded.exchange == nil }); err != nil {
		return nil, 0, err
	}
	e := &exchange{}
	x.mu.Lock()
	if x.mu.over {
		x.mu.Unlock()
		return nil, 0, errUnreachable
	}
	x.guarded.exchange, x.guarded.late = e, false
	for at := 0; at < len(b); {
		kind, body, err := parseHead(b[at:], 1<<31-1)
		if err == nil {
			err = x.mu.turn.client(kind)
		}
		if err != nil {
			x.mu.Unlock()
			return nil, 0, err
		}
		at += headBytes + int(body)
	}
	x.mu.Unlock()
	if _, err := x.upstream.Write(b); err != nil {
		return nil, 0, errUnreachable
	}
	err = x.await(ctx, func() bool { return e.done })
	x.mu.Lock()
	defer x.mu.Unlock()
	return e.frames, x.mu.turn.tx, err
}
