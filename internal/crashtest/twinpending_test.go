package crashtest_test

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// pending has sessions write behind while PostgreSQL reports no commit: what they wrote is
// then pending, or applied and not reported. Nobody is in a transaction, and only the
// sessions that read everybody's writes write. It returns the last key written; false:
// walproxy has ended.
func (w *twins) pending(ctx context.Context) (key int, ok bool) {
	w.Helper()
	w.bothUp(ctx)
	for _, s := range w.sessions {
		if s.through != nil && s.tx != 'I' {
			s.run(ctx, []query{simple("ROLLBACK", false)}, false, nil)
		}
		s.drop()
		s.connect(ctx) // without settings, with which a repeat would be another write
	}
	w.drained(ctx)
	if w.ended() {
		return 0, false
	}
	u := unreported{w.T, w.store}
	u.begin(ctx)
	write := func(key int) {
		var writers []*twinSession
		for _, s := range w.sessions {
			if s.all {
				writers = append(writers, s)
			}
		}
		writers[w.chance.IntN(len(writers))].behind(ctx, key)
	}
	// One is applied; of each key that comes again one waits for its lane's turn.
	for key = range hotItems {
		write(key)
	}
	if ok = u.applied(ctx, w.process.Ended()); !ok {
		return 0, false
	}
	for range 2 + w.chance.IntN(4) {
		key = w.chance.IntN(hotItems)
		write(key)
	}
	return key, true
}

// behind writes a key behind, half of the times under an idempotency key.
func (s *twinSession) behind(ctx context.Context, key int) {
	s.Helper()
	if s.through == nil {
		s.connect(ctx)
	}
	name := s.name()
	q := simple(fmt.Sprintf("INSERT INTO items (id, name, n) VALUES (%d, '%s', 7)", key, name)+twinUpsert, true)
	if s.chance.IntN(2) == 0 {
		s.run(ctx, []query{q}, false, nil)
		return
	}
	under := simple("SET walproxy.idempotency_key = '"+name+"'", false)
	if !s.run(ctx, []query{under}, false, nil) || !s.run(ctx, []query{q}, false, nil) {
		s.drop() // the key may be there still
		return
	}
	s.keyed = append(s.keyed, keyedQuery{under, q, reply{lines: []string{"C INSERT 0 1", "Z I"}, tx: 'I'}})
}

// unreported has something happen while writes are pending, or applied and not reported.
func (w *twins) unreported(ctx context.Context, happens func()) {
	w.Helper()
	w.note("-- PostgreSQL reports no commit")
	if _, ok := w.pending(ctx); !ok {
		return
	}
	happens()
	if w.cluster.Running() {
		unreported{w.T, w.store}.end(ctx)
	}
	w.note("-- PostgreSQL reports commits")
}

// race has the session that does not wait for others' writes change directly what was
// written behind and is pending: that comes first.
func (w *twins) race(ctx context.Context) {
	w.Helper()
	w.note("-- PostgreSQL reports no commit")
	key, ok := w.pending(ctx)
	if !ok {
		return
	}
	at := slices.IndexFunc(w.sessions, func(s *twinSession) bool { return !s.all })
	w.sessions[at].run(ctx, []query{simple(fmt.Sprintf("UPDATE items SET n = n + 1 WHERE id = %d RETURNING name, n", key), true)}, false, func() {
		u := unreported{w.T, w.store}
		u.cut(ctx)
		time.Sleep(headStart)
		u.end(ctx)
	})
	w.note("-- PostgreSQL reports commits")
}

// repeatKeyed repeats what was acknowledged under idempotency keys: it is again, and
// nothing is done, which the twin is not asked for.
func (w *twins) repeatKeyed(ctx context.Context) {
	w.Helper()
	for _, s := range w.sessions {
		for _, k := range s.keyed {
			w.bothUp(ctx)
			if s.through == nil {
				s.connect(ctx)
			}
			s.note("session %d again: %s; %s", s.number, k.key.does, k.query.does)
			_, err := s.through.ask(k.key.messages)
			var got reply
			if err == nil {
				got, err = s.through.ask(k.query.messages)
			}
			if err != nil || !got.equal(k.told) {
				s.fatalf("session %d: the repeat of a write under its key: got %q, want %q: %v", s.number, got.lines, k.told.lines, err)
			}
			s.counts["repeated"]++
		}
		s.keyed = nil
	}
}
