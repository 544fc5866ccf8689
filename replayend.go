package walproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// findEnd works out where the replay ends.
func (rp *Replay) findEnd(ctx context.Context, r ReplayOptions) error {
	p := rp.proxy
	rp.end = p.log.Durable()
	if r.ToLSN > rp.end {
		return fmt.Errorf("%w: LSN %d; its last record is LSN %d", ErrEnd, r.ToLSN, rp.end)
	}
	if r.ToLSN > 0 {
		rp.end = r.ToLSN
	}
	if r.Until.IsZero() {
		return nil
	}
	at, err := p.acceptedUntil(ctx, r.Until)
	if err != nil {
		return fmt.Errorf("walproxy: find the last record accepted at or before %s: %w", r.Until.Format(time.RFC3339Nano), err)
	}
	if at < p.log.First() { // what the log has freed may be held
		for _, so := range p.options.Sinks {
			if r.selects(so.Name) && err == nil {
				at, err = p.heldUntil(so.Name, r.Until, at)
			}
		}
	}
	rp.end = min(rp.end, at)
	return err
}

// acceptedUntil is the last LSN of the log that was accepted at or before t; one
// below its first if none was. Accepted times rise with the LSNs, so that the first
// record of each segment tells which one to read.
func (p *Proxy) acceptedUntil(ctx context.Context, t time.Time) (wal.LSN, error) {
	extents := p.log.Extents()
	var failed error
	after := sort.Search(len(extents), func(i int) bool {
		_, later, err := p.laterFrom(ctx, extents[i].First, t, 1)
		failed = errors.Join(failed, err)
		return later
	})
	if failed != nil || after == 0 {
		return p.log.First() - 1, failed
	}
	at, _, err := p.laterFrom(ctx, extents[after-1].First, t, math.MaxInt)
	return at - 1, err
}

// laterFrom looks at up to most records from LSN from on for the first that was
// accepted after t. Where the log ends one that comes later is taken to be.
func (p *Proxy) laterFrom(ctx context.Context, from wal.LSN, t time.Time, most int) (at wal.LSN, later bool, err error) {
	reader, err := p.log.NewReader(from)
	if err != nil {
		return 0, false, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	for looked := 0; looked < most; {
		rec, err := reader.Next(ctx)
		if errors.Is(err, io.EOF) {
			return p.log.Durable() + 1, true, nil
		}
		if err != nil {
			return 0, false, err
		}
		if rec.IsGap() {
			continue
		}
		looked++
		if later, err := acceptedLater(rec.Payload, t); later || err != nil {
			return rec.LSN, later, err
		}
	}
	return 0, false, nil
}

func acceptedLater(payload []byte, t time.Time) (bool, error) {
	body, err := mutation.Decode(payload)
	if err != nil {
		return false, err
	}
	return time.Unix(0, body.GetAcceptedUnixNanos()).After(t), nil
}

// heldUntil is the lower of end and one below the sink's first held record that was
// accepted after t.
func (p *Proxy) heldUntil(name string, t time.Time, end wal.LSN) (wal.LSN, error) {
	held, err := p.state.Held(name).Range()
	if err != nil {
		return 0, err
	}
	for after := held.Low; after < end; {
		page, upTo, err := p.state.Held(name).Read(after, heldPageBytes)
		if err != nil || upTo == after {
			return end, err
		}
		for _, r := range page {
			later, err := acceptedLater(r.Payload, t)
			if err != nil {
				return 0, fmt.Errorf("held LSN %d: %w", r.LSN, err)
			}
			if later {
				return min(end, r.LSN-1), nil
			}
		}
		after = upTo
	}
	return end, nil
}

// FromError says why a sink does not begin where a replay was told to.
type FromError struct {
	Sink string
	From LSN
	// Why, and what to do instead.
	Why string
	Err error // ErrClaimedSink, or what the store said; may be nil
}

func (e *FromError) Error() string {
	return fmt.Sprintf("walproxy: sink %q does not begin at LSN %d: %s", e.Sink, e.From, e.Why)
}

// Unwrap returns Err.
func (e *FromError) Unwrap() error { return e.Err }

// begin has a sink that was never claimed begin at r.FromLSN.
func (rp *Replay) begin(ctx context.Context, r ReplayOptions) error {
	p := rp.proxy
	if len(r.Sinks) != 1 {
		return fmt.Errorf("walproxy: a replay from an LSN is one sink's: name it")
	}
	name := r.Sinks[0]
	refuse := func(err error, format string, args ...any) error {
		return &FromError{Sink: name, From: r.FromLSN, Why: fmt.Sprintf(format, args...), Err: err}
	}
	claim, _, err := p.state.Claim(name)
	switch {
	case err != nil:
		return err
	case claim.Settled:
		return refuse(ErrClaimedSink, "it was claimed, and its store's checkpoint says what it has: from anywhere else records would be skipped or applied twice; "+
			"leave --from-lsn out (with --dry-run it only looks), or `walproxy sink forget %s` gives up what is kept for it", name)
	case r.FromLSN <= claim.From:
		return refuse(nil, "it was added when the log ended at LSN %d, and nothing up to there was routed to it", claim.From)
	case r.FromLSN > p.log.Durable()+1:
		return refuse(ErrEnd, "the log ends at LSN %d", p.log.Durable())
	}
	if err := p.unclaimed(ctx, name); err != nil {
		return refuse(err, "%v", err)
	}
	_, err = p.state.ChangeClaim(name, func(c *state.Claim) { c.From = r.FromLSN - 1 })
	p.logger.Warn("a sink begins where it was told to: what the log holds for it below is given up",
		zap.String("sink", name), zap.Uint64("from", uint64(r.FromLSN)))
	return err
}

// unclaimed returns nil if the sink's store holds no checkpoint, for sure.
func (p *Proxy) unclaimed(ctx context.Context, name string) error {
	i := slices.IndexFunc(p.options.Sinks, func(so SinkOptions) bool { return so.Name == name })
	store, ok := p.options.Sinks[i].Sink.(sinks.Positioner)
	if !ok {
		return errors.New("its store cannot say whether it holds a checkpoint")
	}
	ctx, cancel := context.WithTimeout(ctx, positionTimeout)
	defer cancel()
	c, err := store.Position(ctx)
	switch {
	case errors.Is(err, sinks.ErrNoCheckpoint):
		return nil
	case err != nil:
		return fmt.Errorf("whether its store holds a checkpoint is not known: %w", err)
	}
	return fmt.Errorf("%w: its store holds one, of stream %s at %v", ErrClaimedSink, c.Stream, c.Low())
}

// positionTimeout bounds a look at a store.
const positionTimeout = 10 * time.Second

// noSink stands for a sink that a replay leaves alone.
type noSink struct{}

func (noSink) Resume(context.Context, sinks.Claim) (sinks.Checkpoint, error) {
	return sinks.Checkpoint{}, sinks.ErrClosed
}

func (noSink) Apply(context.Context, *sinks.Batch) ([]sinks.Result, error) {
	return nil, sinks.ErrClosed
}

func (noSink) Close(context.Context) error { return nil }
