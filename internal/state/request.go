package state

import (
	"context"
	"errors"
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

// LookupRequest returns the entry of (principal, id).
func (s *Store) LookupRequest(ctx context.Context, principal, id string) (r RequestID, ok bool, err error) {
	if ctx.Err() != nil {
		return RequestID{}, false, context.Cause(ctx)
	}
	err = s.use(func() error {
		r, ok, err = lookupRequest(s.db, *s.requests.Load(), principal, id)
		return err
	})
	return r, ok, err
}

// lookupRequest returns what is in the newest generation that has the id.
func lookupRequest(from pebble.Reader, gs []generation, principal, id string) (RequestID, bool, error) {
	for _, g := range slices.Backward(gs) {
		value, found, err := read(from, g.key(principal, id))
		if err != nil {
			return RequestID{}, false, err
		}
		if found {
			r, err := decodeRequest(value)
			r.Principal, r.ID = principal, id
			return r, err == nil, err
		}
	}
	return RequestID{}, false, nil
}

// Requests calls f for up to most stored ids behind after, as it was returned before; empty:
// from the first one on. Their order is that of the keys. more: there are others behind next.
func (s *Store) Requests(after string, most int, f func(principal, id string)) (next string, more bool, err error) {
	next = after
	err = s.use(func() (err error) {
		first := []byte{kindOldRequest}
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: first, UpperBound: []byte{kindRequest + 1}})
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
			principal, id, err := splitRequestKey(it.Key())
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
// goes back; putting an entry again changes nothing; an id that is put with a higher
// LSN (its window was over) belongs to that one.
func (s *Store) PutRequests(entries []RequestID, mark position.LSN) error {
	return s.use(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		mark, gs := max(mark, s.mu.mark), slices.Clone(*s.requests.Load())
		b := s.db.NewBatch()
		if slices.ContainsFunc(entries, func(r RequestID) bool { return !r.New }) { // the batch is read, too
			_ = b.Close() // nothing was in it
			b = s.db.NewIndexedBatch()
		}
		defer b.Close()
		if len(gs) == 0 {
			gs = []generation{{number: 1}}
		}
		current := &gs[len(gs)-1]
		for _, r := range entries {
			if !r.New {
				if known, found, err := lookupRequest(b, gs, r.Principal, r.ID); err != nil {
					return err
				} else if found && known.LSN >= r.LSN {
					continue
				}
			}
			if err := b.Set(current.key(r.Principal, r.ID), encodeRequest(r), nil); err != nil {
				return err
			}
			current.add(r.Accepted)
		}
		err := setNumber(b, keyMark, uint64(mark))
		if current.count > 0 {
			err = errors.Join(err, current.put(b))
		}
		if err != nil {
			return err
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			return err
		}
		s.mu.mark = mark
		s.requests.Store(&gs)
		return nil
	})
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

// ExpireRequests drops whole generations, the oldest first: those of which nothing was
// accepted within age of now, and those without which the last keep entries are there
// still. So up to an eighth more stays than keep, or for an eighth longer than age, and
// what was put since it was called before.
func (s *Store) ExpireRequests(now time.Time, age time.Duration, keep int) error {
	return s.use(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		gs := *s.requests.Load()
		total := uint64(0)
		for _, g := range gs {
			total += g.count
		}
		b := s.db.NewBatch()
		defer b.Close()
		for len(gs) > 0 {
			g := gs[0]
			if total-g.count < uint64(max(keep, 0)) && !g.last.Before(now.Add(-age)) {
				break
			}
			if err := g.drop(b); err != nil {
				return err
			}
			total -= g.count
			gs = gs[1:]
		}
		if len(gs) > 0 {
			newest := gs[len(gs)-1]
			many, old := newest.count > uint64(max(keep, 0))/generations, newest.first.Before(now.Add(-age/generations))
			if newest.count > 0 && (many || old) {
				next := generation{number: newest.number + 1, first: now, last: now}
				if err := next.put(b); err != nil {
					return err
				}
				gs = append(slices.Clone(gs), next)
			}
		}
		if !b.Empty() {
			if err := b.Commit(pebble.NoSync); err != nil {
				return err
			}
		}
		s.requests.Store(&gs)
		return nil
	})
}
