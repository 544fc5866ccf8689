package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// Backfill is what a log holds for a sink that none of it was routed to.
type Backfill struct {
	Sink string
	// Through is the last record looked at, durable; those behind it are routed by
	// themselves. What lies below the log's first record is not there any more.
	Through wal.LSN
	// Takes says whether the sink gets the writes to a collection.
	Takes func(collection string) bool
}

// Backfilled is what was found.
type Backfilled struct {
	First, Last   wal.LSN // of the log, looked at; First > Last: there is none
	Records       uint64
	Bytes         uint64
	Collections   map[string]uint64 // records by collection; a group counts once for each
	Retries, Lost uint64            // passed over: retries of dead letters; what a repair gave up
}

// backfillCollections bounds what is counted apart.
const backfillCollections = 1000

// Measure finds what Copy would copy, and changes nothing.
func (b Backfill) Measure(ctx context.Context, log *wal.Log) (Backfilled, error) {
	return b.walk(ctx, log, func(wal.LSN, []byte, bool) error { return nil }, nil)
}

// Copy copies the records out of the log into the held records of the sink, from
// where its loop reads them first, in order. A record of several writes is taken
// whole if one of them is. Retries of dead letters are not taken: what they retry is, once.
// No loop of the sink runs, and nothing is held for it, or what a Copy before left,
// which is dropped. After a crash Copy is called again.
//
// A record that cannot be decoded ends it: *DecodeError.
func (b Backfill) Copy(ctx context.Context, log *wal.Log, st *state.Store) (Backfilled, error) {
	if err := st.DropHeld(b.Sink); err != nil {
		return Backfilled{}, err
	}
	held := st.Held(b.Sink)
	low := log.First() - 1
	var batch []state.HeldRecord
	bytes := 0
	put := func(upTo wal.LSN) error {
		err := held.Put(batch, low, upTo, log.History(low, upTo))
		low, batch, bytes = upTo, nil, 0
		failpoint.Hit("hold-after-copy")
		return err
	}
	lost := func(gap wal.Record) error {
		return st.PutLost(b.Sink, state.LostRange{First: max(gap.LSN, log.First()), Last: min(gap.Through, b.Through)})
	}
	return b.walk(ctx, log, func(lsn wal.LSN, payload []byte, taken bool) error {
		if taken {
			batch = append(batch, state.HeldRecord{LSN: lsn, Payload: payload})
			bytes += len(payload) + heldOverhead
		}
		if bytes >= holdBatchBytes || lsn == b.Through {
			return put(lsn)
		}
		return nil
	}, lost)
}

// walk calls each for every record up to Through, in order, with its payload as it
// is to be held if the sink takes it, and at Through at the latest.
func (b Backfill) walk(ctx context.Context, log *wal.Log, each func(wal.LSN, []byte, bool) error, lost func(wal.Record) error) (found Backfilled, err error) {
	found = Backfilled{First: log.First(), Last: b.Through, Collections: map[string]uint64{}}
	if b.Through < found.First {
		return found, nil
	}
	reader, err := log.NewReader(found.First)
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	for at := found.First - 1; at < b.Through; {
		record, err := reader.Next(ctx)
		if err != nil {
			return found, err
		}
		at = min(record.Last(), b.Through)
		var payload []byte
		switch {
		case !record.IsGap():
			if payload, err = b.take(record, &found); err != nil {
				return found, err
			}
		case lost != nil:
			if err := lost(record); err != nil {
				return found, err
			}
			fallthrough
		default:
			found.Lost += uint64(at - max(record.LSN, found.First) + 1)
		}
		if err := each(at, payload, payload != nil); err != nil {
			return found, err
		}
	}
	return found, nil
}

// take returns the payload of a record as the sink is to get it, nil if it is not to.
func (b Backfill) take(record wal.Record, found *Backfilled) ([]byte, error) {
	body, err := mutation.Decode(record.Payload)
	if err != nil {
		return nil, &DecodeError{LSN: record.LSN, Sink: b.Sink, Err: err}
	}
	if body.GetOrigin() != nil {
		found.Retries++
		return nil, nil
	}
	var of []string // that the sink gets
	keys := 0
	mutation.Keys(body, func(collection string, _ *walproxyv1.Key) {
		keys++
		if b.Takes(collection) && !slices.Contains(of, collection) {
			of = append(of, collection)
		}
	})
	if keys > 0 && len(of) == 0 { // what has no key others may need
		return nil, nil
	}
	body.Routes = []string{b.Sink}
	payload, err := mutation.Encode(nil, body)
	if err != nil {
		return nil, fmt.Errorf("replay: sink %q: LSN %d: %w", b.Sink, record.LSN, err)
	}
	found.Records++
	found.Bytes += uint64(len(payload))
	for _, collection := range of {
		if _, known := found.Collections[collection]; known || len(found.Collections) < backfillCollections {
			found.Collections[collection]++
		}
	}
	return payload, nil
}
