package replay

import (
	"context"
	"sync/atomic"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// Passed counts records of the sink that the loop is done with: applied or dead
// letters, with the checkpoint past them.
type Passed struct {
	Records uint64
	Bytes   int64 // of the log
}

// passed is Passed as it is counted: apart, those up to end, and those that came
// since.
type passed struct {
	start, end    wal.LSN // fixed before Run, or in OnResume
	before, since struct {
		records atomic.Uint64
		bytes   atomic.Int64
	}
}

func (c *passed) add(lsn wal.LSN, bytes int) {
	of := &c.since
	switch {
	case lsn <= c.start:
		return
	case lsn <= c.end:
		of = &c.before
	}
	of.records.Add(1)
	of.bytes.Add(int64(bytes))
}

// CountPassed sets what Passed counts: before are the records above start, up to
// end, since are those above end. It is called before Run, or from OnResume. Else
// end is where the log ended when the loop was made, and start is 0.
func (l *Loop) CountPassed(start, end wal.LSN) { l.passed.start, l.passed.end = start, end }

// Passed counts what the loop has passed since it was made, apart; see
// CountPassed. A record is counted once, before Applied covers it.
func (l *Loop) Passed() (before, since Passed) {
	c := &l.passed
	return Passed{c.before.records.Load(), c.before.bytes.Load()}, Passed{c.since.records.Load(), c.since.bytes.Load()}
}

// countPassedLocked counts what ln's checkpoint has passed of its flight.
func (p *pipeline) countPassedLocked(ln *lane) {
	for ; ln.counted < len(ln.flight) && ln.flight[ln.counted].LSN <= ln.stored.LSN; ln.counted++ {
		p.loop.passed.add(ln.flight[ln.counted].LSN, ln.flight[ln.counted].Bytes)
	}
}

// passOwn is pass for a record of this feed's lanes.
func (f *feed) passOwn(stop context.Context, r *sinks.Record) bool {
	f.loop.passed.add(r.LSN, r.Bytes)
	return f.pass(stop, r.LSN)
}
