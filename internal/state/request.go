package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/position"
)

// RequestID is the stored trace of a write with a request id.
type RequestID struct {
	Principal, ID string
	LSN           position.LSN
	PayloadHash   [16]byte
	Accepted      time.Time
	// New: what is stored under the id, if anything, is out of the window. Nothing is read.
	New bool
}

// expireBatch bounds the work done under the lock and in one Pebble batch.
const expireBatch = 2048

// LookupRequest returns the entry of (principal, id).
func (s *Store) LookupRequest(ctx context.Context, principal, id string) (r RequestID, ok bool, err error) {
	if ctx.Err() != nil {
		return RequestID{}, false, context.Cause(ctx)
	}
	err = s.use(func() error {
		r, ok, err = s.lookup(requestKey(principal, id))
		return err
	})
	return r, ok, err
}

func (s *Store) lookup(key []byte) (RequestID, bool, error) {
	value, found, err := s.get(key)
	if err != nil || !found {
		return RequestID{}, false, err
	}
	r, err := decodeRequest(value)
	if err != nil {
		return RequestID{}, false, err
	}
	r.Principal, r.ID, err = splitRequestKey(key[1:])
	return r, err == nil, err
}

// Requests calls f for up to most stored ids behind after, as it was returned before; empty:
// from the first one on. Their order is that of the keys. more: there are others behind next.
func (s *Store) Requests(after string, most int, f func(principal, id string)) (next string, more bool, err error) {
	next = after
	err = s.use(func() (err error) {
		first := []byte{'i'}
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: first, UpperBound: []byte{'i' + 1}})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, it.Close()) }()
		if after != "" {
			first = append([]byte(after), 0)
		}
		for it.SeekGE(first); it.Valid(); it.Next() {
			if more = most == 0; more {
				break
			}
			most--
			next = string(it.Key())
			principal, id, err := splitRequestKey(it.Key()[1:])
			if err != nil {
				return err
			}
			f(principal, id)
		}
		return it.Error()
	})
	return next, more, err
}

// PutRequests stores entries and the mark (every id of LSN <= mark is stored),
// without waiting for the disk. SyncRequests makes it durable. The mark never
// goes back; putting an entry again changes nothing; an id that is put with
// another LSN (its window was over) belongs to the new one.
func (s *Store) PutRequests(entries []RequestID, mark position.LSN) error {
	return s.use(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		mark, count := max(mark, s.mu.mark), s.mu.count
		b := s.db.NewBatch()
		if slices.ContainsFunc(entries, func(r RequestID) bool { return !r.New }) { // the batch is read, too
			_ = b.Close() // nothing was in it
			b = s.db.NewIndexedBatch()
		}
		defer b.Close()
		for _, r := range entries {
			added, err := putRequest(b, r)
			if err != nil {
				return err
			}
			if added {
				count++
			}
		}
		err := errors.Join(setNumber(b, keyMark, uint64(mark)), setNumber(b, keyCount, count))
		if err != nil {
			return err
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			return err
		}
		s.mu.mark, s.mu.count = mark, count
		return nil
	})
}

// putRequest reports whether the number of entries rose.
func putRequest(b *pebble.Batch, r RequestID) (added bool, err error) {
	key := requestKey(r.Principal, r.ID)
	if r.New {
		return true, errors.Join(b.Set(key, encodeRequest(r), nil), b.Set(indexKey(r.LSN, key[1:]), nil, nil))
	}
	added = true
	old, closer, err := b.Get(key)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
	case err != nil:
		return false, fmt.Errorf("state: read: %w", err)
	default:
		known, err := decodeRequest(old)
		if err := errors.Join(err, closer.Close()); err != nil {
			return false, err
		}
		added = false
		if known.LSN != r.LSN {
			if err := b.Delete(indexKey(known.LSN, key[1:]), nil); err != nil {
				return false, err
			}
		}
	}
	return added, errors.Join(b.Set(key, encodeRequest(r), nil), b.Set(indexKey(r.LSN, key[1:]), nil, nil))
}

// SyncRequests makes everything put so far durable and returns the durable mark.
func (s *Store) SyncRequests() (mark position.LSN, err error) {
	err = s.use(func() error {
		s.mu.Lock()
		put, durable := s.mu.mark, s.mu.durable
		s.mu.Unlock()
		if mark = durable; put == durable {
			return nil
		}
		// The lock is not held during the sync: puts go on.
		failpoint.Hit("state-before-sync")
		if err := s.db.LogData(nil, pebble.Sync); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mu.durable = max(s.mu.durable, put)
		mark = s.mu.durable
		return nil
	})
	return mark, err
}

// RequestMark is the durable mark: a start rescans the log above it.
func (s *Store) RequestMark() (mark position.LSN, err error) {
	err = s.use(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		mark = s.mu.durable
		return nil
	})
	return mark, err
}

// ExpireRequests drops the oldest entries until none is older than before and at
// most keep remain. It works in batches and lets puts in between them; a crash
// in the middle keeps a whole number of them.
func (s *Store) ExpireRequests(before time.Time, keep int) error {
	for {
		more := false
		err := s.use(func() (err error) {
			more, err = s.expireSome(before, uint64(max(keep, 0)))
			return err
		})
		if err != nil || !more {
			return err
		}
	}
}

// expireSome drops up to expireBatch entries and reports whether it stopped for
// that reason.
func (s *Store) expireSome(before time.Time, keep uint64) (more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{'l'}, UpperBound: []byte{'l' + 1}})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	b := s.db.NewBatch()
	defer b.Close()
	dropped := uint64(0)
	for it.First(); it.Valid() && dropped < expireBatch; it.Next() {
		lsn, key, err := splitIndexKey(it.Key())
		if err != nil {
			return false, err
		}
		r, found, err := s.lookup(key)
		if err != nil {
			return false, err
		}
		if !found || lsn > r.LSN {
			return false, fmt.Errorf("%w: the index names a request id of LSN %d that is not there", ErrCorrupt, lsn)
		}
		if s.mu.count-dropped <= keep && !r.Accepted.Before(before) {
			break
		}
		if lsn == r.LSN { // else it was put as New over one that was out of the window, and stays
			if err := b.Delete(key, nil); err != nil {
				return false, err
			}
		}
		dropped++
	}
	if err := it.Error(); err != nil || dropped == 0 {
		return false, err
	}
	return dropped == expireBatch, s.drop(b, it, dropped)
}

// drop commits the deletions in b and those of the index below it's position.
func (s *Store) drop(b *pebble.Batch, it *pebble.Iterator, dropped uint64) error {
	end := []byte{'l' + 1}
	if it.Valid() {
		end = it.Key()
	}
	count := s.mu.count - dropped
	if err := errors.Join(b.DeleteRange([]byte{'l'}, end, nil), setNumber(b, keyCount, count)); err != nil {
		return err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	s.mu.count = count
	return nil
}
