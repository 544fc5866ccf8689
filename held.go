package walproxy

import (
	"context"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/accept"
)

// Held is a key whose writes are all applied and whose lock is held; see Hold.
type Held struct {
	p    *Proxy
	held *accept.Held
}

// UpTo is the highest LSN that a write to the key can have; 0: nothing was ever
// written to it. All up to it are durable and applied.
func (h *Held) UpTo() LSN { return h.held.UpTo() }

// Submit appends a write to the held key; it has neither precondition nor request
// id. Errors are those of AppendAsync.
func (h *Held) Submit(ctx context.Context, rec *walproxyv1.Record) (*Pending, error) {
	w, err := h.held.Submit(ctx, rec)
	if err != nil {
		return nil, closedError(err)
	}
	h.p.recent.note(w)
	return &Pending{w}, nil
}

// Hold calls f once every write to a key is applied where its collection is read,
// and keeps later writes to it waiting until f returns: what f does to the record in
// the store comes between them. f is called once or, with an error of Hold's, not at
// all: *ParkedError, ErrVersionUnknown if the writes were not applied in time, or as
// AppendAsync. ctx bounds the wait; f gets one that ends with it, or when the proxy
// closes. Writes to the key wait for f, so f must end soon.
func (p *Proxy) Hold(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context, *Held) error) error {
	if p.closing.Load() {
		return ErrClosed
	}
	if err := p.intake.enter(); err != nil {
		return err
	}
	defer p.intake.leave()
	err := p.acceptor.Hold(ctx, collection, key, func(ctx context.Context, h *accept.Held) error {
		return f(ctx, &Held{p, h})
	})
	return closedError(err)
}

// See calls f once every write to a key that was acknowledged before the call is
// applied where its collection is read: for reads of the store that Read is no help
// for. It may call f again, and the last call counts. Errors but f's are those of Read.
func (p *Proxy) See(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context) error) error {
	if p.closing.Load() {
		return ErrClosed
	}
	return closedError(p.acceptor.See(ctx, collection, key, f))
}

// SeeAll returns nil once every write that was acknowledged before the call is
// applied where a collection is read.
func (p *Proxy) SeeAll(ctx context.Context, collection string) error {
	if p.closing.Load() {
		return ErrClosed
	}
	s, err := p.reads(collection)
	if err != nil {
		return err
	}
	return p.seen(ctx, s)
}

// AppendRecord is AppendAsync for a write of any kind. Of rec its body and principal
// count; the rest is filled in, in a copy.
func (p *Proxy) AppendRecord(ctx context.Context, rec *walproxyv1.Record) (*Pending, error) {
	return p.submit(ctx, &walproxyv1.Record{Body: rec.GetBody(), Principal: rec.GetPrincipal()})
}

// AppendNow is AppendRecord, but does not wait while a collection is written past the
// log: that is ErrDirect at once. The caller calls Wait behind it at once: that may be what
// makes the write durable, and then lasts as long as the disk does, whatever becomes of its
// ctx.
func (p *Proxy) AppendNow(ctx context.Context, rec *walproxyv1.Record) (*Pending, error) {
	return p.submitBy(ctx, &walproxyv1.Record{Body: rec.GetBody(), Principal: rec.GetPrincipal()}, (*accept.Acceptor).SubmitNow)
}
