package pgwire

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// attended carries a session that may write behind. A goroutine attends to the
// client: it reads every message, and either answers it here or passes it on; what
// PostgreSQL says is passed on by another one as it comes.
//
// The endpoint speaks for itself only while PostgreSQL owes the client nothing and
// is between two messages. That makes answers come in the order of what was asked.
type attended struct {
	carried
	t *tables

	// The attending goroutine's own.
	in       *inlet
	settings settings
	known    known                // of the session, as PostgreSQL has it
	prepared map[string]*prepared // statements by name
	texts    int                  // bytes of them
	dropped  bool                 // PostgreSQL still has an unnamed statement that a query dropped
	serial   bool                 // what was passed on last decides how the next is read
	plans    plans
	tx       *transaction // that PostgreSQL does not know of; nil: none
	task     task
	alone    int // writes in a row behind which nobody else wrote, up to aloneMin
	vigil    *vigil
	// Made once, for what is made for each write costs it as much as its values do.
	ending, cancelling context.CancelCauseFunc // task's endNow, and cancelWork
	worked             func()                  // endWork
	cancellable        atomic.Uint64           // the last round of task that the client may cancel

	atDisk atomic.Uint64 // the round of task in which it waits for an fsync, maybe its own
	list   []message     // of messages

	// own writes that were acknowledged from the log, until a read has found them
	// applied.
	unseen ownWrites

	// guarded by mu.
	guarded struct {
		exchange *exchange // PostgreSQL answers the endpoint, not the client
		late     bool      // ... for so long that it is not waited for
		// backslashes: standard_conforming_strings is off, or not known to be on.
		backslashes bool
		changed     bool // something of the session may differ from what is known of it
		altered     bool // ... as it was at the login
		ends        ends // what is to be done when PostgreSQL has finished
	}
}

// conforming is the setting that says what a backslash in a string means.
const conforming = "standard_conforming_strings"

func newAttended(s *session, t *tables) *attended {
	x := &attended{t: t, settings: *s.chosen.initial(), prepared: map[string]*prepared{}}
	x.begin(s)
	x.guarded.changed = true // nothing is known yet
	x.guarded.ends.x = x
	x.guarded.backslashes = s.reported(conforming) != "on"
	x.task.expired = x.ackLate
	x.ending, x.cancelling, x.worked = x.task.endNow, x.cancelWork, x.endWork
	return x
}

func (x *attended) run(fromClient, fromServer []byte) error {
	var up sync.WaitGroup
	x.in = newInlet(x.client, fromClient)
	x.vigil = newVigil(x.client)
	up.Go(func() { x.unheard(x.serve()) })
	x.down(fromServer, x.pass)
	_ = x.upstream.Close() // all of it was read, or nobody is there to tell
	_ = x.client.Close()
	x.mu.Lock()
	x.mu.over = true // who waits for PostgreSQL waits no more
	x.stirLocked()
	x.mu.Unlock()
	x.give(net.ErrClosed)
	up.Wait()
	x.task.quit()
	x.t.latest.CompareAndSwap(x, nil)
	if x.underWay() {
		x.s.joined.Go(x.outlast)
	} else {
		x.release()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.why
}

// flush writes what is marked to be passed on.
func (x *attended) flush() error {
	b := x.in.unwritten()
	if len(b) == 0 {
		return nil
	}
	_, err := x.upstream.Write(b)
	x.s.metrics.up.Add(float64(len(b)))
	if err != nil {
		return errUnreachable
	}
	n := copy(x.in.buf, x.in.buf[x.in.held:x.in.to])
	x.in.next -= x.in.held
	x.in.held, x.in.to = 0, n
	return nil
}

// fill waits for n bytes of the client's next frame.
func (x *attended) fill(n int) error {
	for !x.in.has(n) {
		if err := x.flush(); err != nil {
			return err
		}
		if x.isAlone() && !x.in.has(1) { // else the rest of a message is on its way
			x.vigil.keep()
		}
		if err := x.in.read(n); err != nil {
			return err
		}
	}
	return nil
}

// settled waits until PostgreSQL has answered everything, or waits for data of a
// COPY: nothing else would make it go on. Where it is not known whose turn it is it
// does not wait, and the endpoint says nothing itself. No query is open. A question of the
// endpoint's own that PostgreSQL is late to answer is not waited for.
func (x *attended) settled() error {
	if err := x.flush(); err != nil {
		return err
	}
	return x.await(context.Background(), func() bool {
		if t := &x.mu.turn; t.exact && !t.copyIn && (t.pending() && !x.lateLocked() || !x.mu.down.between()) {
			return false
		}
		for _, n := range x.guarded.ends.named {
			x.keep(n.name, n.prepared)
		}
		x.guarded.ends.named = nil
		return true
	})
}

// isOpen reports that a part of an extended query was passed on without its Sync.
func (x *attended) isOpen() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.turn.open
}

// exact reports that it is known whose turn it is.
func (x *attended) exact() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.turn.exact
}

// say writes to the client, between two messages: settled was called.
func (x *attended) say(b []byte) error {
	x.out.Lock()
	defer x.out.Unlock()
	x.mu.Lock()
	over := x.mu.over
	x.mu.moves++
	x.mu.Unlock()
	if over {
		return net.ErrClosed
	}
	return x.deliver(b)
}

// work begins something that the client waits for; done ends it. The session's end
// ends ctx, and so does the client's cancel request if it is cancellable. One thing at
// a time.
func (x *attended) work(limit time.Duration, late error, cancellable bool) (ctx context.Context, done func()) {
	ctx, round := x.task.begin(limit, late)
	x.interrupt.Store(&x.ending)
	if cancellable {
		x.cancellable.Store(round)
		x.session.waiting.Store(&x.cancelling)
	}
	x.mu.Lock()
	x.mu.busy = true
	over := x.mu.over
	x.mu.Unlock()
	if over {
		x.ending(net.ErrClosed)
	}
	return ctx, x.worked
}

// workOn is work, before done, at what can no longer be cancelled.
func (x *attended) workOn(limit time.Duration, late error) context.Context {
	x.session.waiting.Store(nil)
	ctx, _ := x.task.begin(limit, late) // which a cancel request that comes now is not about
	x.mu.Lock()
	over := x.mu.over
	x.mu.Unlock()
	if over {
		x.ending(net.ErrClosed)
	}
	return ctx
}

// cancelWork is for the client's cancel request: it ends the last that can be cancelled, if
// that goes on.
func (x *attended) cancelWork(cause error) {
	x.task.end(x.cancellable.Load(), cause)
}

func (x *attended) endWork() {
	x.session.waiting.Store(nil)
	x.interrupt.Store(nil)
	x.mu.Lock()
	x.mu.busy = false
	x.mu.moves++
	x.mu.Unlock()
	x.task.finish()
}

// backslashes: a backslash escapes in plain strings, too.
func (x *attended) backslashes() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.guarded.backslashes
}
