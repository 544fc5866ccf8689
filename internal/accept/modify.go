package accept

import (
	"context"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/tracing"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// Change says what is to become of a record: doc as it is after all of its
// pending writes (nil: absent; read only) at the time now, which is not before
// any earlier write was accepted. Its mutation gets collection and key from
// Modify and has neither precondition nor request id; nil: there is nothing to
// write. It runs under the key's lock, so it must not wait for anything, and may
// be called again: the last call counts.
type Change func(doc *mutation.Document, now time.Time) (*walproxyv1.Mutation, error)

// Modify reads a record and appends what f makes of it as one step: no write to
// the key comes between. What f found is durable when Modify returns an error of
// f, or neither a write nor an error because f wanted none; a write that is
// returned is behind it in the log.
//
// Errors are those of Submit, and f's. *mutation.RejectedError: f's mutation
// could not be applied to the record; nothing was logged.
func (a *Acceptor) Modify(ctx context.Context, collection string, key *walproxyv1.Key, f Change) (*Pending, error) {
	if err := a.enter(); err != nil {
		return nil, err
	}
	defer a.leave()
	if a.tracer == nil {
		return a.modifyEntered(ctx, collection, key, f)
	}
	ctx, span := a.startSpan(ctx, nil)
	span.SetAttributes(tracing.Collection.String(collection))
	p, err := a.modifyEntered(ctx, collection, key, f)
	a.follow(span, p, err)
	return p, err
}

func (a *Acceptor) modifyEntered(ctx context.Context, collection string, key *walproxyv1.Key, f Change) (*Pending, error) {
	p, err := a.find(collection, key)
	if err != nil {
		return nil, err
	}
	if err := p.readable(); err != nil {
		return nil, err
	}
	leave, err := a.pass(ctx, []string{collection}, true)
	if err != nil {
		return nil, err
	}
	defer leave()
	var buf [256]byte
	encoded := mutation.AppendKey(buf[:0], p.collection, p.key)
	m := &modification{place: p, encoded: string(encoded),
		hashes: []uint64{mutation.HashEncoded(encoded)}, change: f}
	for lookups := 0; ; lookups++ {
		missing, err := a.tryModify(ctx, m, lookups >= lookupsMax)
		if err != nil || !missing {
			return a.modified(ctx, m, err)
		}
		if err := a.lookup(ctx, m, false); err != nil {
			return nil, err
		}
	}
}

// modification is one Modify on its way.
type modification struct {
	place
	encoded string
	hashes  []uint64
	change  Change

	// found is what the store said, as of foundAt; see keyWrites.
	found        *mutation.Document
	foundAt      wal.LSN
	looked, held bool
	lookUntil    time.Time

	saw     wal.LSN // the last write that change saw, which may not be durable
	pending *Pending
}

// modified is Modify's answer: a client must not learn of what a crash takes back.
func (a *Acceptor) modified(ctx context.Context, m *modification, err error) (*Pending, error) {
	if m.pending == nil && m.saw > a.log.Durable() {
		ctx, done := a.bound(ctx)
		defer done()
		if lost := a.log.WaitDurable(ctx, m.saw); lost != nil {
			return nil, lost
		}
	}
	return m.pending, err
}

// tryModify is Modify under the key's lock. missing: the record has to be looked
// up first, which it does itself if stay is set.
func (a *Acceptor) tryModify(ctx context.Context, m *modification, stay bool) (missing bool, err error) {
	if err := a.keys.lock(ctx, m.hashes); err != nil {
		return false, err
	}
	defer a.keys.unlock(m.hashes)
	a.event(ctx, tracing.Locked)
	for {
		doc, ok := a.current(m)
		switch {
		case !ok && !stay:
			return true, nil
		case !ok:
			if err := a.lookup(ctx, m, true); err != nil {
				return false, err
			}
			continue
		}
		if done, err := a.change(ctx, m, doc); err != nil || done {
			return false, err
		} // the record ended meanwhile: once more
	}
}

// current returns the record, if that is known; the key's lock is held.
func (a *Acceptor) current(m *modification) (doc *mutation.Document, ok bool) {
	hash := m.hashes[0]
	if doc, lsn, ok := a.images.get(hash, m.encoded, m.route.target.Loop.Applied()); ok {
		m.saw = lsn
		return doc, true
	}
	at := a.buckets.get(hash)
	if !m.looked || !m.held && at != m.foundAt {
		m.foundAt, m.looked = at, false
		return nil, false
	}
	m.saw = 0 // it is applied
	return m.found, true
}

// lookup reads the record from the store as of m.foundAt.
func (a *Acceptor) lookup(ctx context.Context, m *modification, held bool) error {
	doc, err := a.readUntil(ctx, m.place, m.foundAt, &m.lookUntil)
	if err != nil {
		return err
	}
	m.found, m.looked, m.held = doc, true, held
	return nil
}

// change calls m.change and appends what it wants. done is false if doc ended
// before that had its LSN.
func (a *Acceptor) change(ctx context.Context, m *modification, doc *mutation.Document) (done bool, err error) {
	now := a.clock() // later than any lookup, as in checkPrecondition
	if doc.ExpiredAt(now) {
		doc = nil
	}
	body, err := m.change(doc, now)
	if err != nil || body == nil {
		return true, err
	}
	body.Collection, body.Key = m.collection, m.key
	effect, err := mutation.Apply(doc, body, 0, now)
	if err != nil {
		return true, err
	}
	w, err := a.prepare(&walproxyv1.Record{Body: &walproxyv1.Record_Mutation{Mutation: body}}, m.route)
	if err != nil {
		return true, err
	}
	a.trace(ctx, w)
	w.notBefore = now.UnixNano()
	if doc != nil {
		w.endsBy(doc.ExpiresAt)
	}
	if err := w.encode(); err != nil {
		return true, err
	}
	defer w.free()
	if ok, err := a.enqueue(ctx, w); err != nil || !ok {
		return err != nil, err
	}
	a.notePending(w)
	a.event(ctx, tracing.Appended)
	after := effect.Document
	if after.ExpiredAt(unixTime(w.accepted)) {
		after = nil
	}
	if after != nil {
		after.Version = w.ticket.LSN
	}
	// notePending has dropped the image before. Where the store makes something else of
	// a write, defaults or rounded values, the next one waits for that.
	if exact := m.route.target.Exact; exact == nil || exact(m.collection) {
		a.images.put(m.hashes[0], m.encoded, after, w.ticket.LSN)
	}
	m.pending = &Pending{ticket: w.ticket, route: w.route, result: Result{LSN: w.ticket.LSN}}
	return true, nil
}
