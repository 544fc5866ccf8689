package replay

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// heldRange is what is held of the sink's records, as far as it belongs to this
// log: wal.ErrDiverged if an older copy of the log was put back since.
func (l *Loop) heldRange() (state.HeldRange, error) {
	held, err := l.held.Range()
	if err != nil || held.IsZero() {
		return state.HeldRange{}, err
	}
	end, ok := held.Point(held.Through)
	if !ok {
		return state.HeldRange{}, fmt.Errorf("%w: held records of sink %q: no history", state.ErrCorrupt, l.o.Name)
	}
	if err := l.log.Contains(end); errors.Is(err, wal.ErrDiverged) {
		return state.HeldRange{}, err
	}
	return held, nil
}

// resumeHeld gives up what is held if the sink is at a point below it: the log,
// which was found to have what follows that point, has the held records too.
func (l *Loop) resumeHeld(c sinks.Checkpoint) error {
	held, err := l.held.Range()
	if err == nil && max(c.Low().LSN, l.start()) < held.Low {
		err = l.state.DropHeld(l.o.Name)
	}
	if err != nil {
		return &HaltError{Sink: l.o.Name, Err: err}
	}
	return nil
}

// Needs is the lowest LSN for which the sink needs the log: what is below is in
// the sink, in its dead letters, or held. It may be durably forgotten by the log.
func (l *Loop) Needs() wal.LSN {
	reached := l.pipe.Load() != nil // asked first: it comes after the checkpoint
	passed := max(l.Checkpoint(), l.start())
	held, err := l.heldRange()
	if err != nil || reached && passed < held.Low {
		return passed + 1
	}
	return max(passed, held.Through) + 1
}

// Has is the LSN up to which everything is for sure in the sink or in its
// dead letters: Applied, or more before the sink was reached.
func (l *Loop) Has() wal.LSN {
	passed := l.log.First() - 1 // the log frees what every sink has, or holds
	if held, err := l.heldRange(); err == nil && held.Through >= passed {
		passed = min(passed, held.Low)
	}
	return max(passed, l.Applied(), l.start())
}

// start is where the log ended when the sink was added: nothing at or below it
// is this sink's.
func (l *Loop) start() wal.LSN { return wal.LSN(l.from.Load()) }

// fill is the LSN up to which nothing was routed to the sink: what is its own there
// is held.
func (l *Loop) fill() wal.LSN { return wal.LSN(l.filledTo.Load()) }

// filled reports whether the sink finds what follows lsn: the log does not have it
// up to fill.
func (l *Loop) filled(lsn wal.LSN) bool {
	lsn = max(lsn, l.start())
	if lsn >= l.fill() {
		return true
	}
	held, err := l.heldRange()
	return err == nil && held.Continues(lsn)
}

// contains returns nil if the sink may go on from p: it is in this log's
// history, and what follows is in the log or held. Else an error of
// wal.Log.Contains, or of the state store.
func (l *Loop) contains(p sinks.Point) error {
	err := l.log.Contains(p)
	if !errors.Is(err, wal.ErrBelowFirst) {
		return err
	}
	first := l.log.First() // asked first: the log is freed only behind what is held
	held, heldErr := l.heldRange()
	if heldErr != nil {
		return heldErr
	}
	_, covered := held.Point(max(p.LSN, l.start()))
	if !covered || held.Through+1 < first {
		return err
	}
	if known, ok := held.Point(p.LSN); ok && known != p {
		return fmt.Errorf("%w: when LSN %d was held it was of incarnation %s, not %s", wal.ErrDiverged, p.LSN, known.Incarnation, p.Incarnation)
	}
	return nil
}

// pointOf is the point of a record that the sink has passed, in the log or freed
// since.
func (l *Loop) pointOf(lsn wal.LSN) (wal.Point, error) {
	p, err := l.log.PointOf(lsn)
	if !errors.Is(err, wal.ErrBelowFirst) {
		return p, err
	}
	held, heldErr := l.held.Range()
	if known, ok := held.Point(lsn); heldErr == nil && ok {
		return known, nil
	}
	return p, errors.Join(err, heldErr)
}

// firstAgain is the lowest LSN that can still come again, be it held or in the
// log.
func (l *Loop) firstAgain() (wal.LSN, error) {
	first := l.log.First()
	held, err := l.heldRange()
	if err == nil && held.Through+1 >= first {
		first = min(first, held.Low+1)
	}
	return first, err
}

// trimmer drops held records that the sink has, now and then: each time costs
// a little until Pebble has cleaned up after it.
type trimmer struct {
	*Loop
	last time.Time
}

func (t *trimmer) trim(checkpoint wal.LSN) {
	held, err := t.held.Range()
	if err == nil && (held.IsZero() || checkpoint < held.Through && time.Since(t.last) < t.o.Idle.Interval) {
		return
	}
	t.last = time.Now()
	if err == nil {
		err = t.held.Trim(checkpoint)
	}
	if err != nil {
		t.logger.Warn("held records that the sink has are kept", zap.Error(err))
	}
}
