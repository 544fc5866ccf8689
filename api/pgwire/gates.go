package pgwire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
)

// gates knows the sessions that write tables directly, which keeps others' writes to
// them out of the log. While PostgreSQL hangs these would hang with it. So a session whose
// transaction ends with what PostgreSQL is at leaves its gates then: it was told nothing
// of that yet, and asks for nothing behind it that could overtake what is logged meanwhile.
type gates struct {
	s *Server
	t *tables

	mu      sync.Mutex
	in      map[*attended]struct{}
	answers uint64        // of PostgreSQL's to those who were in
	moved   chan struct{} // closed when something here has changed; nil: nobody waits
	judging bool          // somebody asks what sessions wait for
}

const (
	// gateSuspect is how long PostgreSQL may be at a direct write before it is asked what
	// that waits for.
	gateSuspect = 100 * time.Millisecond
	// gateHang is how long it may take to say so, and how long that holds.
	gateHang = time.Second
	// gatePoll is how often a gate is tried that somebody is about to enter.
	gatePoll = 20 * time.Millisecond
)

// enter takes note of a session that has entered a gate.
func (g *gates) enter(x *attended) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.in[x] = struct{}{}
	g.moveLocked()
}

// leave takes note of one that has left all of them.
func (g *gates) leave(x *attended) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.in, x)
	g.moveLocked()
}

// answered takes note of an answer of PostgreSQL's to one that is in.
func (g *gates) answered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answers++
	g.moveLocked()
}

func (g *gates) moveLocked() {
	if g.moved != nil {
		close(g.moved)
		g.moved = nil
	}
}

// look returns who is in, and what is closed when that changes.
func (g *gates) look() (in []*attended, answers uint64, moved <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.moved == nil {
		g.moved = make(chan struct{})
	}
	for x := range g.in {
		in = append(in, x)
	}
	return in, g.answers, g.moved
}

// append logs b when its gates are free, or are left for it. It is ErrDirect where others
// write the tables and PostgreSQL is known to be at that; with a request id, which must not be
// passed through, that is waited for.
func (g *gates) append(ctx context.Context, b *batch) (api.Pending, error) {
	keyed := b.x.settings.requestID != ""
	g.mu.Lock()
	from := g.answers
	g.mu.Unlock()
	began := time.Now()
	for alive := false; ; {
		pending, err := g.t.o.Core.AppendNow(ctx, b.record())
		if !errors.Is(err, walproxy.ErrDirect) || alive && !keyed {
			return pending, err
		}
		if alive {
			_, _, moved := g.look()
			pauseFor(ctx, moved, gatePoll)
		}
		if alive, from = g.wait(ctx, b.tables, from, time.Since(began) > gateHang); ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// wait waits until gates of collections may be free, or (alive) PostgreSQL is at the
// direct writes: it has answered one since from was asked, or says so. late: nobody is
// waited for any more who is about to enter one.
func (g *gates) wait(ctx context.Context, collections []string, from uint64, late bool) (alive bool, now uint64) {
	for {
		in, now, moved := g.look()
		if now != from {
			return true, now
		}
		pause, inside, at := gatePoll, 0, time.Now()
		var suspects []suspect
		for _, x := range in {
			d, since := x.directAt(collections, at)
			switch {
			case d == directNot:
				continue
			case g.s.isUpstreamAway():
				g.yield(x, since)
				return false, now
			case d == directOpen:
				return true, now
			}
			inside++
			if age := at.Sub(since); age < gateSuspect {
				pause = max(pause, gateSuspect-age)
			} else {
				suspects = append(suspects, suspect{x, x.backendNumber(), since})
			}
		}
		switch {
		case inside == 0 && late:
			return true, now
		case len(suspects) > 0 && g.judge(ctx, suspects):
			continue
		}
		if !pauseFor(ctx, moved, pause) || inside == 0 {
			return false, now
		}
	}
}

// pauseFor waits until moved is closed, or for d; false: ctx has ended.
func pauseFor(ctx context.Context, moved <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-moved:
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// suspect is a session at whose direct write PostgreSQL has been since then.
type suspect struct {
	x       *attended
	backend string
	since   time.Time
}

// atWorkSQL: which backends are at something, as far as may be known, and wait neither for a
// lock nor for replicas to have what they wrote.
const atWorkSQL = `SELECT pid FROM (VALUES (%s)) v(pid) LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
 WHERE a.state IS NULL OR a.state IN ('active', 'fastpath function call') AND coalesce(a.wait_event_type <> 'Lock' AND a.wait_event <> 'SyncRep', true)`

// judge asks PostgreSQL what it does for sessions. Those for which it does nothing, or all
// of them if it does not say, leave their gates. It reports false if somebody else asks already.
func (g *gates) judge(ctx context.Context, list []suspect) bool {
	g.mu.Lock()
	if g.judging {
		g.mu.Unlock()
		return false
	}
	g.judging = true
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.judging = false
		g.moveLocked()
	}()
	var numbers []string
	for _, s := range list {
		numbers = append(numbers, s.backend)
	}
	asking, cancel := context.WithTimeout(ctx, gateHang)
	defer cancel()
	rows, err := g.t.watch.Ask(asking, fmt.Sprintf(atWorkSQL, strings.Join(numbers, "), (")))
	hangs := err != nil && asking.Err() != nil && ctx.Err() == nil
	for _, s := range list {
		switch {
		case hangs, err == nil && !slices.ContainsFunc(rows, func(row []string) bool { return row[0] == s.backend }):
			g.yield(s.x, s.since)
		case ctx.Err() == nil:
			s.x.atWork(s.since)
		}
	}
	return true
}

// yield has a session leave its gates, unless it is at something else than at since.
func (g *gates) yield(x *attended, since time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := &x.guarded.ends
	if len(e.direct) == 0 || e.since != since {
		return
	}
	e.leave()
	e.yielded = true
	g.t.m.yields.Inc()
}

// How a session is at a direct write.
type directState uint8

const (
	directNot  directState = iota // not to the collections that are asked about
	directOpen                    // it is the client's move, more is to come, or PostgreSQL said that it is at it
	directLast                    // PostgreSQL is at the last of its transaction
)

// directAt says how the session is at a direct write to one of the collections, and since when.
func (x *attended) directAt(collections []string, now time.Time) (d directState, since time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := &x.guarded.ends
	switch {
	case !slices.ContainsFunc(collections, func(c string) bool { return e.direct[c] != nil }):
		return directNot, e.since
	case !e.last || !x.mu.turn.exact || x.mu.over || now.Before(e.atWork): // see outlast for one that is over
		return directOpen, e.since
	}
	return directLast, e.since
}

// atWork takes note that PostgreSQL is at what the session wants since then.
func (x *attended) atWork(since time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := &x.guarded.ends; e.since == since {
		e.atWork = time.Now().Add(gateHang)
	}
}

// backendNumber is the process of PostgreSQL's that the session has; 0: none.
func (x *attended) backendNumber() string {
	key := x.key
	if l := x.link.Load(); l != nil {
		_, key = l.last()
	}
	if len(key) < 4 {
		return "0"
	}
	return strconv.Itoa(int(int32(binary.BigEndian.Uint32(key))))
}
