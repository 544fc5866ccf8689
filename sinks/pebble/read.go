package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pebblekit"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// Entry is one record of a Scan.
type Entry = sinks.Entry

// Read implements sinks.Reader: one point read.
func (s *Sink) Read(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error) {
	return read(ctx, s, func() (*mutation.Document, error) {
		return s.live(documentKey(collection, key))
	})
}

// ReadEvents implements sinks.Reader.
func (s *Sink) ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error) {
	return read(ctx, s, func() ([]mutation.StoredEvent, error) {
		return s.events(ctx, documentKey(collection, key), from, limit)
	})
}

// Scan implements sinks.Scanner. It returns up to limit records of a collection in the order of their keys,
// from behind after (nil: from the first). A prefix that is not empty keeps to
// the string keys that start with it. Expired records are left out. Continue
// with the last key; an empty answer is the end.
func (s *Sink) Scan(ctx context.Context, collection, prefix string, after *walproxyv1.Key, limit int) ([]Entry, error) {
	lower := mutation.AppendCollection([]byte{prefixDocument}, collection)
	if prefix != "" {
		lower = mutation.AppendKeyPrefix([]byte{prefixDocument}, collection, prefix)
	}
	upper := successor(lower)
	if after != nil {
		if behind := append(documentKey(collection, after), 0); string(behind) > string(lower) {
			lower = behind
		}
	}
	return read(ctx, s, func() ([]Entry, error) { return s.scan(ctx, lower, upper, limit) })
}

// Collections implements sinks.Scanner. A collection whose records have all
// expired and were not removed yet is among them.
func (s *Sink) Collections(ctx context.Context, after string, limit int) ([]string, error) {
	lower := []byte{prefixDocument}
	if after != "" {
		lower = successor(mutation.AppendCollection(lower, after))
	}
	return read(ctx, s, func() (names []string, err error) {
		it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: lower, UpperBound: []byte{prefixDocument + 1}})
		if err != nil {
			return nil, err
		}
		defer it.Close()
		for ok := it.First(); ok && len(names) < limit; {
			name, _, err := mutation.ParseKey(it.Key()[1:])
			if err != nil {
				return nil, corrupt("document key", "%v", err)
			}
			names = append(names, name)
			ok = it.SeekGE(successor(mutation.AppendCollection([]byte{prefixDocument}, name)))
		}
		return names, it.Error()
	})
}

// read runs f as one of a bounded number of reads.
func read[T any](ctx context.Context, s *Sink, f func() (T, error)) (T, error) {
	var none T
	leave, err := s.enter()
	if err != nil {
		return none, err
	}
	select {
	case s.reads <- struct{}{}:
	case <-s.stop:
		leave()
		return none, sinks.ErrClosed
	case <-s.failed.ch:
		leave()
		return none, s.failed.err
	case <-ctx.Done():
		leave()
		return none, context.Cause(ctx)
	}
	return run(ctx, s, func() (value T, err error) {
		defer leave()
		defer func() { <-s.reads }()
		defer func() {
			if errors.Is(err, pebblekit.ErrFatal) {
				err = s.fail(err, true)
			}
		}()
		defer pebblekit.Catch(&err)
		return f()
	})
}

// document returns the stored document, expired or not, and the bytes of its stored form;
// nil: there is none.
func (s *Sink) document(key []byte) (d *mutation.Document, size int, err error) {
	defer pebblekit.Catch(&err)
	enc, found, err := s.get(key)
	if err != nil || !found {
		return nil, 0, err
	}
	d, err = decodeDocument(enc)
	return d, len(enc), err
}

func decodeDocument(enc []byte) (*mutation.Document, error) {
	d, err := mutation.DecodeDocument(enc)
	if err != nil {
		return nil, corrupt("document", "%v", err)
	}
	return d, nil
}

// live returns a document that has not expired by the clock.
func (s *Sink) live(key []byte) (*mutation.Document, error) {
	d, _, err := s.document(key)
	if err != nil {
		return nil, err
	}
	if d == nil || s.expired(d) {
		return nil, mutation.ErrNotFound
	}
	return d, nil
}

func (s *Sink) expired(d *mutation.Document) bool {
	return d.ExpiredAt(s.now())
}

func expiresAt(d *mutation.Document) time.Time {
	if d == nil {
		return time.Time{}
	}
	return d.ExpiresAt
}

// events reads document and stream from one snapshot, so that a rewrite between
// the two does not show.
func (s *Sink) events(ctx context.Context, document []byte, from uint64, limit int) ([]mutation.StoredEvent, error) {
	prefix := eventPrefix(document)
	snapshot := s.db.NewSnapshot()
	defer snapshot.Close()
	enc, closer, err := snapshot.Get(document)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, mutation.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	d, err := decodeDocument(enc)
	closer.Close()
	if err != nil {
		return nil, err
	}
	if s.expired(d) {
		return nil, mutation.ErrNotFound
	}
	it, err := snapshot.NewIterWithContext(ctx, &pebble.IterOptions{
		LowerBound: eventKey(prefix, from), UpperBound: successor(prefix),
	})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var events []mutation.StoredEvent
	for ok := it.First(); ok && len(events) < limit; ok = it.Next() {
		number := it.Key()[len(prefix):]
		if len(number) != 8 {
			return nil, corrupt("event", "key of %d bytes behind its record", len(number))
		}
		e, err := decodeEvent(binary.BigEndian.Uint64(number), it.Value())
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, it.Error()
}

func (s *Sink) scan(ctx context.Context, lower, upper []byte, limit int) ([]Entry, error) {
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var entries []Entry
	for ok := it.First(); ok && len(entries) < limit; ok = it.Next() {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		_, key, err := mutation.ParseKey(it.Key()[1:])
		if err != nil {
			return nil, corrupt("document key", "%v", err)
		}
		d, err := decodeDocument(it.Value())
		if err != nil {
			return nil, err
		}
		if !s.expired(d) {
			entries = append(entries, Entry{Key: key, Document: d})
		}
	}
	return entries, it.Error()
}
