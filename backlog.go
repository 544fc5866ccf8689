package walproxy

import (
	"context"
	"errors"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// Backlog is what a data directory holds for a sink.
type Backlog struct {
	// Records and Bytes of the log that are routed to the sink, above what was known
	// to be applied when that was noted last: its store may have some of them.
	Records, Bytes uint64
	// Unreadable of the log there: damaged places, each of which may be the sink's.
	Unreadable int
	// Held for it outside the log.
	HeldRecords, HeldBytes uint64
	// Dead letters: rejected ones, and those parked behind them.
	Dead, Parked uint64
}

// CountSink counts what the data directory dir holds for a sink, to the record. It
// reads the log from where the sink was known to be; a damaged log, too. ErrNoSink:
// dir knows of none. No proxy may have dir open: *wal.LockedError.
func CountSink(ctx context.Context, dir, sink string) (b Backlog, err error) {
	err = offline(dir, func(st *state.Store) error {
		claim, err := knownClaim(st, sink)
		if err != nil {
			return err
		}
		held, err := st.Held(sink).Range()
		if err != nil {
			return err
		}
		b.HeldRecords, b.HeldBytes = held.Records, held.Bytes
		if err := b.countLetters(ctx, st, sink); err != nil {
			return err
		}
		return b.countLog(ctx, Options{Dir: dir}.logDir(), sink, max(claim.From, claim.Applied, claim.Filled, held.Through))
	})
	return b, err
}

func (b *Backlog) countLetters(ctx context.Context, st *state.Store, sink string) error {
	letters := st.DeadLetters(sink)
	for from := LSN(1); ctx.Err() == nil; {
		page, err := letters.List(from, 1000)
		if err != nil || len(page) == 0 {
			return err
		}
		for i := range page {
			if page[i].Kind == state.Parked {
				b.Parked++
			} else {
				b.Dead++
			}
		}
		from = page[len(page)-1].LSN + 1
	}
	return context.Cause(ctx)
}

func (b *Backlog) countLog(ctx context.Context, dir, sink string, above LSN) error {
	in, err := wal.Inspect(dir, wal.InspectOptions{})
	if errors.Is(err, wal.ErrNoLog) {
		return nil
	}
	if err != nil {
		return err
	}
	var outline mutation.Outline
	for frame, err := range in.Frames(above + 1) {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, new(*wal.TornTailError)): // never acknowledged
		case err != nil:
			b.Unreadable++
		case frame.Gap:
		case outline.ReadRoutes(frame.Payload) != nil:
			b.Unreadable++
		case outline.Routed(sink):
			b.Records++
			b.Bytes += uint64(len(frame.Payload))
		}
	}
	return nil
}
