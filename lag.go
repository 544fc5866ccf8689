package walproxy

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/wal"
)

// lag counts what is routed to a sink and not passed by it yet. What came since
// Open is counted as it comes. What the log had before, above what is
// known to be applied, is counted by countBacklog in the background; until then
// it is as much as the log holds there, and it is nothing once the loop has
// passed the end that the log had at Open, whatever was counted.
type lag struct {
	log  *wal.Log
	sink *sink
	max  int64 // bytes; 0: no bound
	// The backlog lies above start, up to end. start == end: there is none.
	start, end wal.LSN
	atMost     int64 // bytes of the log there, whoever they are for
	// counted says that backlog is what there was; before, it grows.
	counted        atomic.Bool
	backlog, added struct {
		records atomic.Uint64
		bytes   atomic.Int64
	}
}

func newLag(log *wal.Log, s *sink, claim state.Claim, held state.HeldRange, maxBytes int64) *lag {
	g := &lag{log: log, sink: s, max: maxBytes, end: log.Durable()}
	g.start = max(claim.From, claim.Applied)
	if held.Through > g.start { // it may not be in the log any more
		g.start = held.Through
		g.backlog.records.Store(held.Records)
		g.backlog.bytes.Store(int64(held.Bytes))
	}
	g.start = min(max(g.start, log.First()-1), g.end)
	g.atMost = bytesAbove(log, g.start)
	g.counted.Store(g.start == g.end)
	return g
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
	before, since := g.sink.loop.Passed()
	applied := g.sink.loop.Applied()
	records = less(g.added.records.Load(), since.Records)
	bytes = max(g.added.bytes.Load()-since.Bytes, 0)
	switch {
	case applied < g.start && g.lost(applied):
		low := max(applied, g.log.First()-1)
		return records + uint64(max(g.end, low)-low), bytes + bytesAbove(g.log, low), false
	case applied >= g.end:
		return records, bytes, true
	case g.counted.Load():
		return records + less(g.backlog.records.Load(), before.Records), bytes + max(g.backlog.bytes.Load()-before.Bytes, 0), true
	}
	records += less(g.backlog.records.Load()+uint64(g.end-g.start), before.Records)
	return records, bytes + max(g.backlog.bytes.Load()+g.atMost-before.Bytes, 0), false
}

// lost says that the sink has less than was known to be applied: an older copy of
// its store was put back. The log from there on is what it lacks, at most.
func (g *lag) lost(applied wal.LSN) bool {
	return applied > 0 || g.sink.loop.Status().State == replay.Halted
}

func less(a, b uint64) uint64 { return max(a, b) - b }

// Admit implements accept.Lag. One record is let through however large it is.
func (g *lag) Admit(bytes int) error {
	if g.max == 0 {
		return nil
	}
	_, behind, _ := g.now()
	if behind == 0 || behind+int64(bytes) <= g.max {
		return nil
	}
	return &accept.BehindError{Sink: g.sink.name, LagBytes: behind, MaxLagBytes: g.max}
}

// Added implements accept.Lag.
func (g *lag) Added(bytes int) {
	g.added.records.Add(1)
	g.added.bytes.Add(int64(bytes))
}

// countBacklog reads the log once for all sinks that have a backlog. It keeps
// releaseSpace from freeing what it has not read yet.
func (p *Proxy) countBacklog(ctx context.Context) {
	var lags []*lag
	for _, s := range p.sinks {
		if s.lag.start < s.lag.end {
			lags = append(lags, s.lag)
		}
	}
	if len(lags) > 0 {
		err := p.readBacklog(ctx, lags)
		if err != nil && ctx.Err() == nil && !errors.Is(err, wal.ErrClosed) {
			p.logger.Warn("the sinks' backlogs are not counted: the size of the log stands for them", zap.Error(err))
		}
	}
	p.counting.Store(uint64(wal.LSN(1<<64 - 1)))
	p.check()
}

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
		lsn = rec.LSN
		p.counting.Store(uint64(lsn))
		err = countRecord(&outline, rec, lags, found)
	}
	if err = errors.Join(err, reader.Close()); err != nil {
		return err
	}
	for i, g := range lags {
		g.backlog.records.Add(found[i].Records)
		g.backlog.bytes.Add(found[i].Bytes)
		g.counted.Store(true)
	}
	return nil
}

// countRecord adds rec to what was found for the sinks that it is routed to.
func countRecord(outline *mutation.Outline, rec wal.Record, lags []*lag, found []replay.Passed) error {
	routed := outline.Routed
	if !outline.Read(rec.Payload) {
		body, err := mutation.Decode(rec.Payload)
		if err != nil {
			return err
		}
		routed = func(sink string) bool { return slices.Contains(body.GetRoutes(), sink) }
	}
	for i, g := range lags {
		if rec.LSN > g.start && routed(g.sink.name) {
			found[i].Records++
			found[i].Bytes += int64(len(rec.Payload))
		}
	}
	return nil
}
