package pgwire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"
)

// attach makes a connection for a session that has none, and puts on it what the
// session holds. That PostgreSQL is away refuses the request; everything else that
// fails ends the session: who connects again is told by PostgreSQL itself.
func (l *link) attach() error {
	p, o := l.x.s.presence, l.x.s.o.away
	if since, away := p.away(); away != nil {
		l.up.refusing, l.up.why = true, refuseStatement(away, since)
		return nil
	}
	if l.x.pooled {
		return l.draw()
	}
	ctx, cancel := context.WithTimeout(l.x.s.logins, o.AttachTimeout)
	defer cancel()
	l.mu.Lock()
	if l.mu.closed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.mu.cancel = cancel
	settings, statements := l.mu.held.restore()
	l.mu.Unlock()
	b, err := l.reach(ctx)
	if err == nil {
		err = b.restore(ctx, settings, statements)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.cancel = nil
	switch {
	case l.mu.closed:
		err = net.ErrClosed
	case err == nil:
		l.adopt(b)
		l.x.s.metrics.attached.Inc()
		return nil
	}
	if b != nil {
		_ = b.conn.Close() // nobody uses it
	}
	return l.unattached(ctx, err)
}

// unattached refuses a request that finds no connection, or ends the session. mu is
// locked.
func (l *link) unattached(ctx context.Context, err error) error {
	p := l.x.s.presence
	if l.mu.closed {
		return err
	}
	e, told := errors.AsType[*serverError](err)
	_, network := errors.AsType[net.Error](err)
	switch {
	case told && (e.away() || e.code == "53300"), !told && (network || ctx.Err() != nil || errors.Is(err, errNoBackend)):
		if !told || e.refusesAll() {
			p.lost(err)
		}
		l.up.refusing, l.up.why = true, refuseStatement(err, time.Now())
		return nil
	}
	why := endUnattached(err)
	l.x.s.joined.Go(func() { l.x.end(why) }) // it closes the link, too
	return why
}

// errNoBackend: no connection was made, or it was lost before the login was over.
var errNoBackend = errors.New("PostgreSQL cannot be reached")

func (l *link) reach(ctx context.Context) (*backend, error) {
	with, err := l.with()
	if err != nil {
		return nil, err
	}
	return l.x.s.logIn(ctx, l.startup, with)
}

// adopt takes b as the session's connection, and tells the client what is not as it
// was. mu is locked.
func (l *link) adopt(b *backend) {
	l.mu.behind, l.mu.latest = b, b
	for _, p := range b.parameters {
		l.reported(p.Name, p.Value)
	}
	if b.stock != nil {
		l.wear(b)
	}
	l.mu.claimed = true
	// The reader sees what there is to say before it reads from the backend.
	l.wake()
}

// reported tells the client of a setting that is not as it was. mu is locked.
func (l *link) reported(name, value string) {
	if was, ok := l.mu.held.reported.of[name]; !ok || was != value {
		l.mu.say = appendFrame(l.mu.say, sParameterStatus, appendText(nil, name, value))
		l.mu.held.report(name, value)
		l.mu.held.served++
	}
}

// restore is what makes the session's state again: SQL for its settings, and the
// messages that prepare its statements.
func (h *held) restore() (settings []string, statements [][]byte) {
	for _, e := range h.settings {
		settings = append(settings, e.sql)
	}
	for _, name := range slices.Sorted(maps.Keys(h.made)) {
		statements = append(statements, h.made[name].frame)
	}
	return settings, statements
}

// restoredAtOnce bounds how many statements are under way: both sides must not
// wait for the other to read.
const restoredAtOnce = 64

// restore sets and prepares on a new connection what a session had. A statement
// that cannot be prepared any more is left out: its next use is told that it does
// not exist, and drivers then prepare again.
func (b *backend) restore(ctx context.Context, settings []string, statements [][]byte) error {
	return b.within(ctx, func() error { return b.restoreAll(settings, statements) })
}

// within does what takes answers of PostgreSQL's, for as long as a context lasts.
func (b *backend) within(ctx context.Context, do func() error) error {
	interrupt := context.AfterFunc(ctx, func() { _ = b.conn.SetDeadline(past) })
	defer interrupt()
	if b.in == nil {
		b.in = newInbox(b.conn)
	}
	err := do()
	if !interrupt() {
		return context.Cause(ctx)
	}
	return errors.Join(err, b.conn.SetDeadline(time.Time{}))
}

func (b *backend) restoreAll(settings []string, statements [][]byte) error {
	for some := range slices.Chunk(settings, restoredAtOnce) {
		var out []byte
		for _, sql := range some {
			out = appendFrame(out, cQuery, appendText(nil, sql))
		}
		if _, err := b.conn.Write(out); err != nil {
			return err
		}
		for range some {
			if _, err := b.command(nil); err != nil {
				return fmt.Errorf("a setting of the session: %w", err)
			}
		}
	}
	for some := range slices.Chunk(statements, restoredAtOnce) {
		var out []byte
		for _, frame := range some {
			out = appendFrame(append(out, frame...), cSync, nil)
		}
		if _, err := b.conn.Write(out); err != nil {
			return err
		}
		for range some {
			_, err := b.command(nil)
			if _, refused := errors.AsType[*serverError](err); err != nil && !refused {
				return err
			}
		}
	}
	return nil
}
