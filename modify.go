package walproxy

import (
	"context"
	"fmt"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// Change says what is to become of a record; see Modify.
type Change func(doc *mutation.Document, now time.Time) (*walproxyv1.Mutation, error)

// Modify reads a record with all of its writes and appends what f makes of it, as
// one step: no other write to the key comes between. f gets the record (nil:
// absent; read only) and the time that expiry is judged by. Its mutation gets
// collection and key from here and has neither precondition nor request id; nil
// means that there is nothing to write, and then Modify returns nil and nil. f
// must not wait for anything and may be called again: the last call counts.
//
// What f found is durable when Modify returns f's error, or nothing. Other errors
// are those of AppendAsync; *mutation.RejectedError: the record refuses the write.
func (p *Proxy) Modify(ctx context.Context, collection string, key *walproxyv1.Key, f Change) (*Pending, error) {
	if p.closing.Load() {
		return nil, ErrClosed
	}
	if err := p.intake.enter(); err != nil {
		return nil, err
	}
	defer p.intake.leave()
	w, err := p.acceptor.Modify(ctx, collection, key, accept.Change(f))
	if err != nil || w == nil {
		return nil, closedError(err)
	}
	p.recent.note(w)
	return &Pending{w}, nil
}

// Scan returns up to limit records of a collection in the order of their keys,
// from behind after (nil: from the first), with every write that was acknowledged
// before the call; a prefix that is not empty keeps to the string keys that start
// with it. An empty answer is the end.
func (p *Proxy) Scan(ctx context.Context, collection, prefix string, after *walproxyv1.Key, limit int) ([]sinks.Entry, error) {
	scanner, err := p.seenScanner(ctx, collection)
	if err != nil {
		return nil, err
	}
	return scanner.Scan(ctx, collection, prefix, after, limit)
}

// ScanApplied is Scan of what the sink has now; see ReadApplied.
func (p *Proxy) ScanApplied(ctx context.Context, collection, prefix string, after *walproxyv1.Key, limit int) ([]sinks.Entry, error) {
	scanner, _, err := p.scanner(collection)
	if err != nil {
		return nil, err
	}
	return scanner.Scan(ctx, collection, prefix, after, limit)
}

// Collections returns up to limit names of collections with records in the sink
// that answers reads for like, in order, from behind after.
func (p *Proxy) Collections(ctx context.Context, like, after string, limit int) ([]string, error) {
	scanner, err := p.seenScanner(ctx, like)
	if err != nil {
		return nil, err
	}
	return scanner.Collections(ctx, after, limit)
}

// seenScanner waits until everything that is durable is applied where collection is
// read, and returns that sink.
func (p *Proxy) seenScanner(ctx context.Context, collection string) (sinks.Scanner, error) {
	scanner, s, err := p.scanner(collection)
	if err != nil {
		return nil, err
	}
	return scanner, p.seen(ctx, s)
}

// scanner is the sink where collection is read.
func (p *Proxy) scanner(collection string) (sinks.Scanner, *sink, error) {
	if p.closing.Load() {
		return nil, nil, ErrClosed
	}
	s, err := p.reads(collection)
	if err != nil {
		return nil, nil, err
	}
	scanner, ok := s.reader.(sinks.Scanner)
	if !ok {
		return nil, nil, fmt.Errorf("%w: %s lists no records", ErrNoReader, s.name)
	}
	return scanner, s, nil
}

// reads is the sink that answers reads for a collection.
func (p *Proxy) reads(collection string) (*sink, error) {
	name, err := p.acceptor.Reads(collection)
	if err != nil {
		return nil, err
	}
	return p.sink(name)
}

// seen waits until what is durable is applied by s.
func (p *Proxy) seen(ctx context.Context, s *sink) error {
	if err := s.Wait(ctx, p.log.Durable()); err != nil {
		return fmt.Errorf("sink %s: %w", s.name, closedError(err))
	}
	return nil
}
