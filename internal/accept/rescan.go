package accept

import (
	"context"
	"fmt"
	"time"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// rescan stores the request ids above the stored mark and returns the last
// accepted time, 0 if there is none.
func rescan(ctx context.Context, log *wal.Log, st *state.Store) (last int64, err error) {
	end := log.Durable()
	mark, err := st.RequestMark()
	if err != nil {
		return 0, err
	}
	clock, err := st.Clock()
	if err != nil {
		return 0, err
	}
	if mark > end {
		return 0, fmt.Errorf("%w: they are stored up to LSN %d, and the log ends at %d", ErrRequestsLost, mark, end)
	}
	from := mark + 1
	if first := log.First(); from < first && from <= end {
		return 0, fmt.Errorf("%w: they are stored up to LSN %d, and the log begins at %d", ErrRequestsLost, mark, first)
	}
	if from > end {
		return clock, nil
	}
	r, err := log.NewReader(from)
	if err != nil {
		return 0, err
	}
	s := scan{store: st, last: clock}
	err = s.read(ctx, r, end)
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return 0, fmt.Errorf("accept: read request ids: %w", err)
	}
	return s.last, nil
}

type scan struct {
	store   *state.Store
	entries []state.RequestID
	last    int64
}

func (s *scan) read(ctx context.Context, r *wal.Reader, end wal.LSN) error {
	for lsn := wal.LSN(0); lsn < end; {
		rec, err := r.Next(ctx)
		if err != nil {
			return err
		}
		lsn = rec.Last()
		if rec.IsGap() { // a lost write's id is free: a repeat is its first try
			continue
		}
		if err := s.add(rec); err != nil {
			return fmt.Errorf("LSN %d: %w", lsn, err)
		}
		if len(s.entries) >= requestsBatch {
			if err := s.put(lsn); err != nil {
				return err
			}
		}
	}
	if err := s.put(end); err != nil {
		return err
	}
	_, err := s.store.SyncRequests()
	return err
}

func (s *scan) add(rec wal.Record) error {
	body, err := mutation.Decode(rec.Payload)
	if err != nil {
		return err
	}
	s.last = max(s.last, body.GetAcceptedUnixNanos())
	id := mutation.RequestID(body)
	if id == "" || body.GetOrigin() != nil { // a retry leaves the id to its original
		return nil
	}
	hash, err := hashPayload(body)
	if err != nil {
		return err
	}
	s.entries = append(s.entries, state.RequestID{Principal: body.GetPrincipal(), ID: id, LSN: rec.LSN,
		PayloadHash: hash, Accepted: time.Unix(0, body.GetAcceptedUnixNanos())})
	return nil
}

func (s *scan) put(mark wal.LSN) error {
	if err := s.store.PutClock(s.last); err != nil {
		return err
	}
	err := s.store.PutRequests(s.entries, mark)
	s.entries = s.entries[:0]
	return err
}
