package replay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

const (
	holdAfterMax = 256 << 20
	// holdBatchBytes is about how much is copied in one step.
	holdBatchBytes = 1 << 20
	// holdChunkBytes of the log, about, are measured before they are copied.
	holdChunkBytes = 64 << 20
	// holdPatience is how long a sink's backlog is watched: one that shrinks
	// meanwhile is being worked off.
	holdPatience = time.Second
	// holdRest is how long a scan in vain is followed by none, in multiples of
	// its own time.
	holdRest = 10
	// heldOverhead estimates what a held record costs beside its payload.
	heldOverhead = 64
)

// Hold copies the sink's records up to through, which is durable, out of the log
// and into the state store. When it returns nil, Needs is above through, also
// after a crash. It may run beside Run, but one at a time.
//
// wal.ErrBelowFirst: the log was freed meanwhile because the sink had come
// further; ctx's cause. What was copied until then counts.
func (l *Loop) Hold(ctx context.Context, through wal.LSN) (err error) {
	low := max(l.Needs(), l.log.First()) - 1
	if low >= through {
		return nil
	}
	reader, err := l.log.NewReader(low + 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	var batch []state.HeldRecord
	bytes := 0
	var outline mutation.Outline
	put := func(upTo wal.LSN) error {
		err := l.held.Put(batch, low, upTo, l.log.History(low, upTo))
		low, batch, bytes = upTo, nil, 0
		failpoint.Hit("hold-after-copy")
		return err
	}
	for at := low; at < through; {
		record, err := reader.Next(ctx)
		if err != nil {
			return err
		}
		if at = min(record.Last(), through); record.IsGap() {
			// What is read from the held records does not come by it again.
			if err := l.lose(record, low); err != nil {
				return err
			}
			continue
		}
		// One that cannot be decoded may be the sink's: the loop halts at it.
		if outline.ReadRoutes(record.Payload) != nil || outline.Routed(l.o.Name) {
			batch = append(batch, state.HeldRecord{LSN: at, Payload: slices.Clone(record.Payload)})
			bytes += len(record.Payload) + heldOverhead
		}
		if bytes >= holdBatchBytes {
			if err := put(at); err != nil {
				return err
			}
		}
	}
	if low >= through {
		return nil
	}
	return put(through)
}

// mayHold reports whether Hold makes sense now.
func (l *Loop) mayHold() bool {
	held, err := l.heldRange()
	return l.o.HoldAfter > 0 && err == nil && l.Needs() > held.Through // else the sink is below what is held
}

// Holder lets the log be freed although sinks are far behind: it copies their
// records out of it, so that each of them costs the space of its own records
// only. Not for concurrent use.
//
// It does so where it pays: the records to be copied must be less than half of
// the log that is freed thereby. And it leaves a sink alone that is catching up,
// unless half of the log's space is taken. Each record is copied at most once.
type Holder struct {
	log    *wal.Log
	loops  []*Loop
	logger *zap.Logger
	now    func() time.Time
	seen   map[*Loop]backlog
	scan   measure
	rest   time.Time // nothing is scanned before
}

// backlog is how much of the log a sink needed at some time.
type backlog struct {
	bytes  int64
	at     time.Time
	shrank bool // between the two looks before it
}

// measure is what copying would cost and free, as far as it was scanned. It is an
// estimate: the sinks may have come further since.
type measure struct {
	of         []laggard // what it is of
	at         wal.LSN   // scanned up to here
	own, total int64     // bytes to be copied, bytes to be freed
	good       wal.LSN   // copying up to here pays; 0: nowhere
}

// laggard is a sink that is far behind.
type laggard struct {
	loop  *Loop
	needs wal.LSN
}

// NewHolder returns a Holder of all the sinks that log has. A nil logger: none.
func NewHolder(log *wal.Log, loops []*Loop, logger *zap.Logger) *Holder {
	if logger == nil {
		logger = zap.NewNop()
	}
	return &Holder{log: log, loops: loops, logger: logger, now: time.Now, seen: map[*Loop]backlog{}}
}

// Follow makes loops all the sinks that the log has from now on: a sink that
// halted may go on with another loop.
func (h *Holder) Follow(loops []*Loop) {
	if slices.Equal(h.loops, loops) {
		return
	}
	h.loops = slices.Clone(loops)
	maps.DeleteFunc(h.seen, func(l *Loop, _ backlog) bool { return !slices.Contains(loops, l) })
}

// Look copies what is worth it, but only some: it reports whether space of the
// log can be freed now, and is then to be called again. It is cheap if there is
// nothing to do. Errors are those of the log and the state store, and ctx's
// cause.
func (h *Holder) Look(ctx context.Context) (freed bool, err error) {
	if len(h.loops) < 2 || h.now().Before(h.rest) {
		return false, nil // a single sink has all the records
	}
	extents := h.log.Extents()
	behind, floor := h.laggards(extents)
	low := h.log.Durable()
	for _, b := range behind {
		low = min(low, b.needs-1)
	}
	extents = slices.DeleteFunc(extents, func(e wal.Extent) bool { return !e.Sealed || e.Last <= low || e.Last > floor })
	if len(behind) == 0 || len(extents) == 0 {
		h.scan = measure{}
		return false, nil
	}
	if h.scan.at < low || !slices.EqualFunc(h.scan.of, behind, func(a, b laggard) bool { return a.loop == b.loop }) {
		h.scan = measure{of: behind, at: low}
	}
	began := h.now()
	err = h.measure(ctx, extents)
	// Scanning in vain must not take the processor's time.
	h.rest = h.now().Add(holdRest * h.now().Sub(began))
	if errors.Is(err, wal.ErrBelowFirst) {
		h.scan = measure{} // the sinks have come further
		return false, nil
	}
	if err != nil || h.scan.good == 0 {
		return false, err
	}
	through := h.scan.good
	h.scan, h.rest = measure{}, time.Time{}
	for _, b := range behind {
		if err := b.loop.Hold(ctx, through); err != nil && !errors.Is(err, wal.ErrBelowFirst) {
			return false, fmt.Errorf("replay: hold records of sink %q: %w", b.loop.o.Name, err)
		}
		h.logger.Info("records of a sink that is far behind are held, so that the log can be freed",
			zap.String("sink", b.loop.o.Name), zap.Uint64("up_to", uint64(through)), zap.Uint64("records", b.loop.Status().HeldRecords))
	}
	return true, nil
}

// laggards returns the sinks that are far behind, and the LSN up to which all
// the others do not need the log.
func (h *Holder) laggards(extents []wal.Extent) (behind []laggard, floor wal.LSN) {
	var taken int64
	for _, e := range extents {
		taken += e.Bytes
	}
	if len(h.loops) > 0 {
		taken += h.loops[0].state.Bytes() // all have one
	}
	pressed := taken > h.log.MaxBytes()/2
	floor = extents[len(extents)-1].Last
	for _, l := range h.loops {
		needs := max(l.Needs(), extents[0].First)
		var bytes int64
		for _, e := range extents {
			if e.Last >= needs {
				bytes += e.Bytes
			}
		}
		waiting := h.watch(l, bytes)
		if l.mayHold() && bytes > l.o.HoldAfter && (waiting || pressed) {
			behind = append(behind, laggard{l, needs})
		} else {
			floor = min(floor, needs-1)
		}
	}
	return behind, floor
}

// watch reports whether l's backlog has not shrunk for a while.
func (h *Holder) watch(l *Loop, bytes int64) bool {
	now, seen := h.now(), h.seen[l]
	switch {
	case seen.at.IsZero():
		seen = backlog{bytes: bytes, at: now, shrank: true}
	case now.Sub(seen.at) >= holdPatience:
		seen = backlog{bytes: bytes, at: now, shrank: bytes < seen.bytes}
	}
	h.seen[l] = seen
	return !seen.shrank
}

// measure scans further extents until a chunk is found that pays.
func (h *Holder) measure(ctx context.Context, extents []wal.Extent) (err error) {
	m := &h.scan
	if m.at >= extents[len(extents)-1].Last {
		return nil
	}
	reader, err := h.log.NewReader(m.at + 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	for _, e := range extents {
		if e.Last <= m.at {
			continue
		}
		own, err := h.own(ctx, reader, e.Last)
		if err != nil {
			return err
		}
		m.at = e.Last
		m.own += own
		m.total += e.Bytes
		if m.own < m.total/2 {
			m.good = e.Last
		}
		if m.good != 0 && m.total >= holdChunkBytes {
			return nil
		}
	}
	return nil
}

// own scans up to through and returns the bytes that would be copied.
func (h *Holder) own(ctx context.Context, reader *wal.Reader, through wal.LSN) (own int64, err error) {
	var outline mutation.Outline
	for at := h.scan.at; at < through; {
		record, err := reader.Next(ctx)
		if err != nil {
			return 0, err
		}
		if at = record.Last(); record.IsGap() {
			continue
		}
		err = outline.ReadRoutes(record.Payload) // of one that cannot be decoded each may be the owner
		for _, b := range h.scan.of {
			if at >= b.needs && (err != nil || outline.Routed(b.loop.o.Name)) {
				own += int64(len(record.Payload)) + heldOverhead
			}
		}
	}
	return own, nil
}
