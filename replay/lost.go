package replay

import (
	"cmp"
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/wal"
)

// lose notes, durably, that the sink goes on behind a gap of the log without
// having had what is lost in it: before the checkpoint passes it.
func (l *Loop) lose(gap wal.Record, after wal.LSN) error {
	r := state.LostRange{First: max(gap.LSN, after+1), Last: gap.Through}
	if err := l.state.PutLost(l.o.Name, r); err != nil {
		return err
	}
	l.lost.Lock()
	defer l.lost.Unlock()
	at, found := slices.BinarySearchFunc(l.lost.ranges, r, func(a, b state.LostRange) int { return cmp.Compare(a.Last, b.Last) })
	switch {
	case found && l.lost.ranges[at].First <= r.First:
		return nil // it has come by it before
	case found:
		l.lost.ranges[at] = r
	default:
		l.lost.ranges = slices.Insert(l.lost.ranges, at, r)
	}
	l.logger.Warn("records that a repair of the log gave up are passed: the sink does not have them",
		zap.Uint64("first_lsn", uint64(r.First)), zap.Uint64("last_lsn", uint64(r.Last)), zap.Uint64("at_most", r.Count()))
	return nil
}

// isLost reports whether lsn is one of those that were passed so.
func (l *Loop) isLost(lsn wal.LSN) bool {
	l.lost.Lock()
	defer l.lost.Unlock()
	return slices.ContainsFunc(l.lost.ranges, func(r state.LostRange) bool { return r.First <= lsn && lsn <= r.Last })
}

func (l *Loop) lostRecords() (n uint64) {
	l.lost.Lock()
	defer l.lost.Unlock()
	for _, r := range l.lost.ranges {
		n += r.Count()
	}
	return n
}

// acceptGap passes a gap; false: stop. A pipeline that ends in the gap passes it up
// to there.
func (f *feed) acceptGap(stop context.Context, gap wal.Record) bool {
	if err := f.loop.lose(gap, f.began); err != nil {
		f.halt(&HaltError{Sink: f.loop.o.Name, Err: err})
		return false
	}
	return f.pass(stop, min(gap.Through, f.end()))
}
