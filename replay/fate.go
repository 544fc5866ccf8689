package replay

import (
	"errors"
	"time"

	"go.uber.org/zap"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// Fate is what became of a record at this sink.
type Fate string

const (
	// Logged: not passed yet.
	Logged Fate = "logged"
	// Applied: in the store, or never routed there.
	Applied Fate = "applied"
	// Parked: a dead letter because an earlier one of its key is.
	Parked Fate = "parked"
	// Dead: a dead letter because it was rejected, or one that was given up.
	Dead Fate = "dead"
	// Lost: a repair of the log gave it up, or it is not known whether it ever was;
	// this sink has passed it without it.
	Lost Fate = "lost"
)

// Fate tells what became of a record. One that was a dead letter and was retried
// has the fate of its retry. Of a record whose log space was freed it is known
// whether it is a dead letter, was retried into one, or was given up (the last
// million of these); any other counts as applied.
func (l *Loop) Fate(lsn wal.LSN) (Fate, error) {
	for {
		if lsn > l.Applied() { // asked first: a dead letter is there before it is passed
			return Logged, nil
		}
		dead, ok, err := l.letters.Get(lsn)
		switch {
		case err != nil:
			return "", err
		case ok && dead.Kind == state.Parked:
			return Parked, nil
		case ok:
			return Dead, nil
		}
		by, known, err := l.letters.Trace(lsn)
		switch {
		case err != nil:
			return "", err
		case !known && l.isLost(lsn):
			return Lost, nil
		case !known:
			return Applied, nil
		case by == 0:
			return Dead, nil
		}
		lsn = by
	}
}

// Parked returns the first dead letter that parks a key, canonical as in the
// log: a read of the key would not see writes that were acknowledged. It knows
// what was passed; wait for the key's pending writes first.
func (l *Loop) Parked(collection string, key *walproxyv1.Key) (lsn wal.LSN, ok bool, err error) {
	var buf [256]byte
	return l.letters.ParkedBy(mutation.AppendKey(buf[:0], collection, key), wal.LSN(1<<64-1))
}

// Letters are the sink's dead letters. Giving one up with Delete frees its keys
// at once if it was the last that parked them.
func (l *Loop) Letters() *state.DeadLetters { return l.letters }

// resumeLetters makes the dead letters what they were at the checkpoint: what
// came after it comes again.
func (l *Loop) resumeLetters(c sinks.Checkpoint, by laneMap) error {
	above := func(dead *state.DeadLetter) bool {
		collection, key, err := dead.Key()
		if err != nil || key == nil {
			return dead.LSN > c.Low().LSN // of no lane
		}
		// A record of several lanes moved all of them, so any key tells.
		return dead.LSN > c.Lanes[by.of(collection, key)].LSN
	}
	first, err := l.firstAgain()
	switch {
	case err != nil:
	case l.settler != nil: // what was decided stands
		if err = l.letters.Settle(first); err == nil {
			l.lastTrace, err = l.letters.LastDecided()
		}
	default:
		if err = l.letters.Resume(c.Low().LSN, first, above); err == nil {
			l.lastTrace, err = l.letters.LastTrace()
		}
	}
	if err != nil {
		return &HaltError{Sink: l.o.Name, Err: err}
	}
	return nil
}

// tendInterval bounds how late an overdue dead letter is noticed, and how long
// what nobody can need any more is kept.
const tendInterval = time.Minute

// tend looks after the dead letters. One past its age keeps others from being
// stored, which is said here before it halts the sink.
func (p *pipeline) tend(joined <-chan struct{}) {
	interval, age := tendInterval, p.loop.o.DeadLetters.Age
	if age > 0 {
		interval = max(min(age/4, interval), time.Millisecond)
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	overdue := false
	for {
		select {
		case <-joined:
			return
		case <-ticker.C:
		}
		first, err := p.loop.firstAgain()
		if err == nil {
			err = p.loop.letters.Settle(first)
		}
		if err == nil {
			err = p.loop.letters.CheckAge(age)
		}
		if was := overdue; errors.Is(err, ErrDeadLettersFull) {
			overdue = true
			if !was {
				p.loop.logger.Warn("a dead letter is past its age: the sink halts at the next", zap.Error(err))
			}
			continue
		}
		overdue = false
		if !p.orHalt(err) {
			return
		}
	}
}
