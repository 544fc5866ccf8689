package walproxy

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/wal"
)

// ErrSinkKnown: the sink was added before; *SinkKnownError says where it begins.
var ErrSinkKnown = errors.New("walproxy: the data directory knows the sink already")

// SinkKnownError is a sink that cannot be added once more.
type SinkKnownError struct {
	Sink string
	From LSN // nothing at or below it is the sink's
}

func (e *SinkKnownError) Error() string {
	return fmt.Sprintf("%v: %s was added at LSN %d", ErrSinkKnown, e.Sink, e.From)
}

// Unwrap returns ErrSinkKnown.
func (e *SinkKnownError) Unwrap() error { return ErrSinkKnown }

// Added is what AddSink did.
type Added struct {
	Sink string
	// From: what is above it the sink gets, if it is routed to it.
	From LSN
	// Kept is what the log still has of the collections that go to the sink today,
	// and the sink will get; nil without oldest.
	Kept *replay.Backfilled
}

// AddSink makes a sink of the data directory o.Dir known before the first Open
// with it, which would let it begin at the end of the log.
//
// The routes of a record are fixed when it is acknowledged, so what is in the log is not
// routed to the sink. With oldest the sink gets it all the same: of every record
// that the log still has, in order, those with a write to a collection that o.Routes send to
// the sink today; not the retries of dead letters, for what they retry is there
// itself. They are copied into the state store, as the records of a sink that is
// far behind are, so that from then on positions, order and space are as for any
// sink: the log may free what is copied. What the log has freed before is not
// there any more; a store that needs it must be given it by other means.
//
// Of o only Dir, Log, Routes and Logger are read. No proxy may have o.Dir open:
// *wal.LockedError. *SinkKnownError: the sink was added before, by an Open too.
// wal.ErrFull: the copy has no room within Log.MaxBytes or Log.MinFree. After an error, or a crash, the sink
// is as unknown as it was.
func AddSink(ctx context.Context, o Options, name string, oldest bool) (added Added, err error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	p := &Proxy{options: o, logger: o.Logger}
	defer func() { err = errors.Join(err, p.release()) }()
	if err := p.openLog(); err != nil {
		return added, advise(err)
	}
	claim, known, err := p.state.Claim(name)
	if err != nil {
		return added, err
	}
	if known {
		return added, &SinkKnownError{Sink: name, From: claim.From}
	}
	complete, err := p.state.Complete()
	if err == nil && !complete {
		err = fmt.Errorf("walproxy: %s was written by an early build: open it once without sink %q first", o.Dir, name)
	}
	if err != nil {
		return added, err
	}
	added = Added{Sink: name, From: p.log.Durable()}
	if oldest {
		if added.Kept, err = p.backfill(ctx, name); err != nil {
			return Added{}, err
		}
	}
	_, err = p.state.ChangeClaim(name, func(c *state.Claim) {
		c.From = added.From
		if oldest && added.Kept.Records > 0 {
			c.From, c.Filled = p.log.First()-1, added.From
		}
		added.From = c.From
	})
	return added, err
}

// backfill copies what the log has for a sink.
func (p *Proxy) backfill(ctx context.Context, name string) (*replay.Backfilled, error) {
	b := replay.Backfill{Sink: name, Through: p.log.Durable(), Takes: func(collection string) bool {
		return goesTo(p.options.Routes, collection, name)
	}}
	found, err := b.Measure(ctx, p.log)
	if err != nil {
		return nil, err
	}
	if err := p.roomFor(found); err != nil {
		return nil, err
	}
	if found.Records == 0 {
		return &found, nil
	}
	found, err = b.Copy(ctx, p.log, p.state)
	return &found, err
}

// heldCost is about what a held record takes beside its payload.
const heldCost = 64

// roomFor is nil if the copy leaves new writes their room.
func (p *Proxy) roomFor(found replay.Backfilled) error {
	needs := int64(found.Bytes + found.Records*heldCost)
	stats := p.log.Stats()
	most := p.log.MaxBytes() - p.log.MaxBytes()/8
	if has := stats.Bytes + p.state.Bytes(); has+needs > most {
		return fmt.Errorf("%w: %d records need %d bytes beside the %d of log and state store: raise log.max_bytes (%d)",
			wal.ErrFull, found.Records, needs, has, p.log.MaxBytes())
	}
	if floor := p.log.MinFree(); floor >= 0 && stats.FreeBytes-needs < floor {
		return fmt.Errorf("%w: %d records need %d bytes, the disk has %d and log.min_free is %d", wal.ErrFull, found.Records, needs, stats.FreeBytes, floor)
	}
	return nil
}

// goesTo reports whether the first route that matches the collection has the sink.
func goesTo(routes []Route, collection, sink string) bool {
	for _, r := range routes {
		for _, pattern := range r.Collections {
			if ok, _ := path.Match(pattern, collection); ok || pattern == "*" { // an error: no Open takes it
				return slices.Contains(r.Sinks, sink)
			}
		}
	}
	return false
}
