package wal

import (
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
	// spaceStepMax is how much is written, at most, before the file system and
	// ExtraBytes are asked again.
	spaceStepMax = 1 << 20
	// spaceRecheck is how often a full log looks whether it still is.
	spaceRecheck = 50 * time.Millisecond
	// spaceSlack covers a segment header and the engine's prefixes.
	spaceSlack = 4096
)

// space is what is known of the room that is left, under Log.mu.
type space struct {
	bytes   int64 // log files, those being deleted included
	written int64 // since Open
	extra   int64 // ExtraBytes, when last asked
	free    int64 // of the file system, when last asked
	asked   time.Time
	askedAt int64 // written, when last asked
}

// spaceStep is how much is written before the room is looked at again.
func (o Options) spaceStep() int64 { return min(spaceStepMax, o.MaxBytes/64) }

// checkSpace returns ErrFull if a frame of size bytes might not fit, under mu;
// it lets go of mu while it asks again.
func (l *Log) checkSpace(size int) error {
	err := l.spaceLeft(size)
	if err == nil || time.Since(l.mu.space.asked) < spaceRecheck {
		return err
	}
	l.mu.space.asked = time.Now() // others need not ask at the same time
	l.mu.Unlock()
	l.askSpace()
	l.mu.Lock()
	if err := l.refusal(); err != nil {
		return err
	}
	return l.spaceLeft(size)
}

// spaceLeft compares what is known with the limits, under mu.
func (l *Log) spaceLeft(size int) error {
	s, q := &l.mu.space, &l.mu.queue
	queued := int64(q.bytes + l.mu.inflightBytes + q.reserved + size + spaceSlack)
	queued += maxPrefix * int64(q.records+1)
	if used := s.bytes + queued + s.extra; used > l.o.MaxBytes {
		return fmt.Errorf("%w: log and state store would take %d bytes; log.max_bytes is %d", ErrFull, used, l.o.MaxBytes)
	}
	if l.o.MinFree < 0 {
		return nil
	}
	if free := s.free - (s.written - s.askedAt) - queued; free < l.o.MinFree {
		return fmt.Errorf("%w: %d bytes would be free on the file system; log.min_free is %d", ErrFull, max(free, 0), l.o.MinFree)
	}
	return nil
}

// askSpace asks the file system and ExtraBytes, without mu.
func (l *Log) askSpace() {
	extra := int64(0)
	if l.o.ExtraBytes != nil {
		extra = l.o.ExtraBytes()
	}
	l.mu.Lock()
	written := l.mu.space.written // before the file system is asked: late bytes count twice, none is missed
	l.mu.Unlock()
	free, err := l.freeBytes()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.mu.space
	s.extra, s.asked = extra, time.Now()
	if err == nil {
		s.free, s.askedAt = free, written
	}
}

func (l *Log) freeBytes() (int64, error) {
	space, err := l.o.FS.Space(l.dir)
	if err != nil {
		l.logger.Warn("free space is not known: the last known value counts", zap.Error(err))
		return 0, err
	}
	return space.Free, nil
}
