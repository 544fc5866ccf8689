package walproxy

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/wal"
)

// added counts what was routed to a sink since Open.
type added struct {
	sync.Mutex // orders Added and a change of attempt
	last       wal.LSN
	records    atomic.Uint64
	bytes      atomic.Int64
}

// lag counts what is routed to a sink and not passed by one of its loops yet.
// What came since the loop was made is counted as it comes. What was there before,
// above what is known to be applied, is counted by count in the background; until
// then it is as much as the log holds there, or as was known of the loop before,
// and it is nothing once the loop has passed its end, whatever was counted.
type lag struct {
	log  *wal.Log
	sink *sink
	loop *replay.Loop
	// The backlog lies above start, up to end. start == end: there is none.
	start, end wal.LSN
	atMost     int64 // bytes of the log there, whoever they are for
	// known: the backlog is at most what it says, without looking at the log.
	known bool
	// counted says that backlog is what there was; before, it grows.
	counted atomic.Bool
	backlog struct {
		records atomic.Uint64
		bytes   atomic.Int64
	}
	// What was added before end.
	addedRecords uint64
	addedBytes   int64
	// counting is the LSN that count has reached: the log is kept above it.
	counting atomic.Uint64
}

// countedAll is counting's value when nobody counts any more.
const countedAll = uint64(1<<64 - 1)

func newLag(s *sink, loop *replay.Loop, claim state.Claim, held state.HeldRange) *lag {
	log := s.log
	g := &lag{log: log, sink: s, loop: loop, end: s.end}
	g.start = max(claim.From, claim.Applied)
	from := g.start
	if held.Through > g.start { // it may not be in the log any more
		from = min(from, held.Low)
		g.start = held.Through
		g.backlog.records.Store(held.Records)
		g.backlog.bytes.Store(int64(held.Bytes))
	}
	g.start = min(max(g.start, log.First()-1), g.end)
	g.begin()
	// An older copy of the store that was put back passes what does not count here.
	loop.CountPassed(min(from, g.start), g.end)
	return g
}

// lagAgain is the lag of a loop that takes the place of another's, from low on.
// Nothing is added meanwhile.
func lagAgain(s *sink, old *attempt, loop *replay.Loop, low wal.LSN) *lag {
	g := &lag{log: s.log, sink: s, loop: loop, start: max(low, s.from), end: s.added.last, known: true}
	g.start = min(g.start, g.end)
	records, bytes, _ := old.lag.now()
	if low < max(old.loop.Checkpoint(), old.lag.start) { // it may lack what it had
		records, bytes = uint64(g.end-g.start), bytes+bytesAbove(s.log, g.start)
	}
	g.backlog.records.Store(records)
	g.backlog.bytes.Store(bytes)
	g.addedRecords, g.addedBytes = s.added.records.Load(), s.added.bytes.Load()
	g.begin()
	loop.CountPassed(g.start, g.end)
	return g
}

func (g *lag) begin() {
	g.atMost = bytesAbove(g.log, g.start)
	g.counted.Store(g.start == g.end)
	g.counting.Store(uint64(g.start))
	if g.start == g.end {
		g.counting.Store(countedAll)
	}
}

// bytesAbove is the size of the segments that hold records above lsn.
func bytesAbove(log *wal.Log, lsn wal.LSN) (bytes int64) {
	for _, e := range log.Extents() {
		if e.Last > lsn {
			bytes += e.Bytes
		}
	}
	return bytes
}

// now is the lag; exact is false while it is an upper bound.
func (g *lag) now() (records uint64, bytes int64, exact bool) {
	// What was passed is looked at before what was added: the difference is
	// never too small.
	before, since := g.loop.Passed()
	applied := g.loop.Applied()
	records = less(g.sink.added.records.Load()-g.addedRecords, since.Records)
	bytes = max(g.sink.added.bytes.Load()-g.addedBytes-since.Bytes, 0)
	switch {
	case applied < g.start && g.lost(applied):
		low := max(applied, g.log.First()-1)
		return records + uint64(max(g.end, low)-low), bytes + bytesAbove(g.log, low), false
	case applied >= g.end:
		return records, bytes, true
	case g.counted.Load():
		return records + less(g.backlog.records.Load(), before.Records), bytes + max(g.backlog.bytes.Load()-before.Bytes, 0), true
	case g.known:
		return records + g.backlog.records.Load(), bytes + g.backlog.bytes.Load(), false
	}
	records += less(g.backlog.records.Load()+uint64(g.end-g.start), before.Records)
	return records, bytes + max(g.backlog.bytes.Load()+g.atMost-before.Bytes, 0), false
}

// noted says that the backlog is counted from where the sink was noted to be last:
// after a crash its store may have some of it.
func (g *lag) noted() bool { return g.start < g.end && g.loop.Applied() < g.end }

// lost says that the sink has less than was known to be applied: an older copy of
// its store was put back. The log from there on is what it lacks, at most.
func (g *lag) lost(applied wal.LSN) bool {
	return applied > 0 || g.loop.Status().State == replay.Halted
}

func less(a, b uint64) uint64 { return max(a, b) - b }

// Admit implements accept.Lag. One record is let through however large it is.
func (s *sink) Admit(bytes int) error {
	most := s.maxLag.Load()
	if most == 0 {
		return nil
	}
	_, behind, _ := s.lag().now()
	if behind == 0 || behind+int64(bytes) <= most {
		return nil
	}
	return &accept.BehindError{Sink: s.name, LagBytes: behind, MaxLagBytes: most}
}

// Added implements accept.Lag.
func (s *sink) Added(lsn wal.LSN, bytes int) {
	s.added.Lock()
	defer s.added.Unlock()
	s.added.last = lsn
	s.added.records.Add(1)
	s.added.bytes.Add(int64(bytes))
}

// countBacklog counts for all sinks that have a backlog.
func (p *Proxy) countBacklog(ctx context.Context) {
	var lags []*lag
	for _, s := range p.sinks {
		lags = append(lags, s.lag())
	}
	p.count(ctx, lags)
}

// count reads the log once for all lags that have a backlog. Meanwhile releaseSpace
// frees nothing that was not read yet.
func (p *Proxy) count(ctx context.Context, lags []*lag) {
	lags = slices.DeleteFunc(lags, func(g *lag) bool { return g.start == g.end })
	if len(lags) > 0 {
		err := p.readBacklog(ctx, lags)
		if err != nil && ctx.Err() == nil && !errors.Is(err, wal.ErrClosed) {
			p.logger.Warn("the sinks' backlogs are not counted: an upper bound stands for them", zap.Error(err))
		}
	}
	for _, g := range lags {
		g.counting.Store(countedAll)
	}
	p.check()
}

// readBacklog counts what is in (start, end] of each lag: those of one start have
// one end.
func (p *Proxy) readBacklog(ctx context.Context, lags []*lag) error {
	low := slices.MinFunc(lags, func(a, b *lag) int { return int(min(max(int64(a.start)-int64(b.start), -1), 1)) }).start
	reader, err := p.log.NewReader(low + 1)
	if err != nil {
		return err
	}
	var outline mutation.Outline
	found := make([]replay.Passed, len(lags))
	for lsn := low; err == nil && lsn < lags[0].end; {
		var rec wal.Record
		if rec, err = reader.Next(ctx); err != nil {
			break
		}
		lsn = rec.Last()
		for _, g := range lags {
			g.counting.Store(uint64(lsn))
		}
		if !rec.IsGap() {
			err = countRecord(&outline, rec, lags, found)
		}
	}
	if err = errors.Join(err, reader.Close()); err != nil {
		return err
	}
	for i, g := range lags {
		if g.known {
			g.backlog.records.Store(found[i].Records)
			g.backlog.bytes.Store(found[i].Bytes)
		} else {
			g.backlog.records.Add(found[i].Records)
			g.backlog.bytes.Add(found[i].Bytes)
		}
		g.counted.Store(true)
	}
	return nil
}

// countRecord adds rec to what was found for the sinks that it is routed to.
func countRecord(outline *mutation.Outline, rec wal.Record, lags []*lag, found []replay.Passed) error {
	if err := outline.ReadRoutes(rec.Payload); err != nil {
		return err
	}
	for i, g := range lags {
		if rec.LSN > g.start && rec.LSN <= g.end && outline.Routed(g.sink.name) {
			found[i].Records++
			found[i].Bytes += int64(len(rec.Payload))
		}
	}
	return nil
}
