package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
)

// Log is a log on disk. All methods may be called concurrently.
type Log struct {
	dir          string
	o            Options
	logger       *zap.Logger
	stream       uuid.UUID
	boot         uint64
	incarnations incarnations // the last one is this start's

	lock   io.Closer
	engine engine
	// aheadMin is how many bytes are written at once, at least, during an fsync.
	aheadMin int
	mark     *watermarkFile

	kick       chan struct{} // committer: there is something to do
	ahead      chan struct{} // who writes ahead: likewise
	wrote      chan struct{} // committer: something was written ahead
	idle       *time.Timer   // watermark: nothing was committed for a while
	rolled     chan struct{} // watermark: now
	release    chan struct{} // janitor: there is something to delete
	prepare    chan order    // preparer: the next segment, and one to seal
	prepared   chan prepared // its answer to each
	stop       chan struct{} // closed to end watermark, janitor and preparer
	drained    chan struct{} // closed when the committer has ended
	poisoned   chan struct{} // closed at the first failure
	background sync.WaitGroup
	closing    sync.Once
	closeErr   error

	writer writer // of who has mu.writing
	flying group  // what mu.inflight points to

	timings timings

	// mu is never held during a call to disk.
	mu struct {
		sync.Mutex
		queue         queue
		inflight      *group // being made durable
		inflightBytes int
		writing       bool       // somebody writes to the active segment
		syncing       bool       // inflight is written: what remains is its fsync
		committing    bool       // a group is in flight or being settled
		leading       bool       // ... by who appended it, not by the committer
		promised      bool       // who appended what is queued will lead it
		alone         int        // groups in a row, up to aloneMin, during which nothing came
		ahead         *batch     // between queue.written and queue.filling, being written
		noRoom        bool       // what is queued will begin a segment
		segments      []*segment // kept, in order; the last one is active
		trash         []*segment // released, not yet renamed
		spares        []string   // files of freed segments, for the next ones
		appended      LSN
		durable       LSN
		space         space
		stats         Stats
		sealed        bool  // takes no records
		drained       bool  // sealed, and everything queued was settled
		closed        bool  // readers end
		err           error // why it is poisoned; never cleared
	}
}

// Open opens the log in dir, or creates it. See the package comment for what it
// checks; its errors are *LockedError, ErrFormat, *CorruptError, ErrBoot, what
// Attach returned, and those of the file system.
func Open(dir string, o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	eng, err := newEngine(o)
	if err != nil {
		return nil, err
	}
	if o.wrapEngine != nil {
		eng = o.wrapEngine(eng)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(o.FS, dir)
	if err != nil {
		return nil, err
	}
	s := &start{dir: dir, fs: o.FS, o: o, log: o.Logger}
	if err := s.run(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	l := newLog(s, lock, eng)
	if err := l.begin(s); err != nil {
		return nil, errors.Join(err, l.abandon(), lock.Close())
	}
	l.runBackground()
	return l, nil
}

func newLog(s *start, lock io.Closer, eng engine) *Log {
	l := &Log{
		dir:      s.dir,
		o:        s.o,
		logger:   s.log,
		stream:   s.stream,
		boot:     s.boot,
		lock:     lock,
		engine:   eng,
		aheadMin: max(min(aheadMin, s.o.GroupBytes/4), 1),
		kick:     make(chan struct{}, 1),
		ahead:    make(chan struct{}, 1),
		wrote:    make(chan struct{}, 1),
		rolled:   make(chan struct{}, 1),
		release:  make(chan struct{}, 1),
		prepare:  make(chan order, 1),
		prepared: make(chan prepared, 1),
		stop:     make(chan struct{}),
		drained:  make(chan struct{}),
		poisoned: make(chan struct{}),
		idle:     time.NewTimer(time.Hour),
		timings:  timings{began: time.Now()},
	}
	l.idle.Stop()
	for i, f := range s.segments {
		seg := &segment{seq: f.seq, base: f.header.base, boot: f.header.boot,
			incarnation: f.header.incarnation(), layout: f.layout, headerEnd: f.end}
		if i+1 < len(s.segments) {
			seg.end = s.segments[i+1].header.pred
		} else {
			seg.end = s.tail.end
		}
		l.mu.segments = append(l.mu.segments, seg)
		l.mu.space.bytes += seg.end.offset
	}
	l.mu.durable, l.mu.appended = s.tail.end.last, s.tail.end.last
	l.mu.queue.next()
	return l
}

// begin begins this start's incarnation and first segment, durably.
//
// Every start begins an incarnation, not only one after a crash: a copy taken
// of a stopped log is as old as one taken of a running log when it is put back.
func (l *Log) begin(s *start) error {
	var known incarnations
	var pred segmentEnd
	seq := uint64(1)
	if n := len(s.segments); n > 0 {
		known, pred, seq = s.segments[n-1].header.incarnations, s.tail.end, s.segments[n-1].seq+1
	}
	l.incarnations = known.begin(uuid.New(), s.tail.end.last+1)
	next := l.prepareSegment(seq)
	if next.err != nil {
		return next.err
	}
	if err := l.activate(next, pred); err != nil {
		return err
	}
	if err := l.writer.file.sync(); err != nil {
		return err
	}
	l.writer.seg.end = l.writer.end
	l.mu.segments = append(l.mu.segments, l.writer.seg)
	l.mu.space.bytes += l.writer.end.offset
	mark, err := openWatermark(l.o.FS, s.watermarkPath(), s.mark)
	if err != nil {
		return err
	}
	l.mark = mark
	if err := l.writeWatermark(2); err != nil {
		return err
	}
	l.askSpace()
	return nil
}

// abandon lets go of files after a failed begin.
func (l *Log) abandon() error {
	if l.writer.file != nil {
		l.writer.file.abandon()
	}
	if l.mark != nil {
		return l.mark.close()
	}
	return nil
}

func (l *Log) runBackground() {
	l.prepare <- order{seq: l.writer.seg.seq + 1}
	run := func(name string, loop func()) {
		l.background.Go(func() {
			pprof.Do(context.Background(), pprof.Labels("walproxy", name), func(context.Context) { loop() })
		})
	}
	run("wal-commit", l.commitLoop)
	if l.engine.writesAhead() {
		for range aheadLoops {
			run("wal-ahead", l.aheadLoop)
		}
	}
	run("wal-prepare", l.prepareLoop)
	run("wal-watermark", l.watermarkLoop)
	run("wal-janitor", l.janitorLoop)
}

// Stream identifies the log, for ever.
func (l *Log) Stream() uuid.UUID { return l.stream }

// Appended is the highest LSN given out.
func (l *Log) Appended() LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.appended
}

// Durable is the highest LSN that is fsync'd.
func (l *Log) Durable() LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.durable
}

// First is the lowest LSN still kept; Durable+1 when there is none.
func (l *Log) First() LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first()
}

func (l *Log) first() LSN { return l.mu.segments[0].base }

// WaitDurable returns nil once everything up to lsn is durable; ErrPoisoned or
// ErrClosed if that will not be; ctx's cause.
func (l *Log) WaitDurable(ctx context.Context, lsn LSN) error {
	for {
		l.mu.Lock()
		durable, err, done := l.mu.durable, l.mu.err, l.nextSettlement()
		if err == nil && l.mu.drained {
			err = ErrClosed
		}
		l.mu.Unlock()
		if lsn <= durable {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// nextSettlement is closed when durable, drained or err may have changed. Under mu.
func (l *Log) nextSettlement() <-chan struct{} {
	q := &l.mu.queue
	switch {
	case l.mu.inflight != nil:
		return l.mu.inflight.batches[0].done
	case len(q.written) > 0:
		return q.written[0].done
	case l.mu.ahead != nil:
		return l.mu.ahead.done
	}
	return q.filling.done
}

// PointOf returns the point of a durable record, by its LSN. lsn 0 is the zero
// Point; First()-1 is known too. Below it: ErrBelowFirst.
func (l *Log) PointOf(lsn LSN) (Point, error) {
	if lsn == 0 {
		return Point{}, nil
	}
	l.mu.Lock()
	first, durable := l.first(), l.mu.durable
	l.mu.Unlock()
	if lsn > durable {
		return Point{}, fmt.Errorf("wal: LSN %d is not durable; the highest that is: %d", lsn, durable)
	}
	id, ok := l.incarnations.at(lsn)
	if lsn+1 < first || !ok {
		return Point{}, fmt.Errorf("%w: LSN %d; the first is %d", ErrBelowFirst, lsn, first)
	}
	return Point{Incarnation: id, LSN: lsn}, nil
}

// Contains returns nil if p is in this log's history and what follows it is
// kept; ErrDiverged; ErrBelowFirst.
func (l *Log) Contains(p Point) error {
	l.mu.Lock()
	first, durable := l.first(), l.mu.durable
	l.mu.Unlock()
	if p.LSN > durable {
		return fmt.Errorf("%w: %s is beyond this log's last LSN %d", ErrDiverged, p, durable)
	}
	id, known := l.incarnations.at(p.LSN)
	below := p.LSN+1 < first
	if !p.IsZero() && known && id != p.Incarnation && (!below || l.incarnations.has(p.Incarnation)) {
		return fmt.Errorf("%w: here LSN %d is of incarnation %s, not %s", ErrDiverged, p.LSN, id, p.Incarnation)
	}
	if below {
		return fmt.Errorf("%w: %s; the first is %d", ErrBelowFirst, p, first)
	}
	return nil
}

// Stats is a snapshot for metrics and status.
type Stats struct {
	Appended, Durable, First LSN
	Bytes, FreeBytes         int64 // log files; file system
	Segments                 int
	Syncs, Groups, Records   uint64 // since Open; Syncs are those of groups
	WatermarkSyncs           uint64
	PayloadBytes             uint64
	Err                      error // poisoned by
}

// Stats returns a snapshot. It asks the file system for its free space.
func (l *Log) Stats() Stats {
	space, spaceErr := l.o.FS.Space(l.dir)
	l.mark.mu.Lock()
	watermarkSyncs := l.mark.syncs
	l.mark.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.mu.stats
	s.Appended, s.Durable, s.First = l.mu.appended, l.mu.durable, l.first()
	s.Bytes, s.FreeBytes = l.mu.space.bytes, space.Free
	if spaceErr != nil {
		s.FreeBytes = l.mu.space.free
	}
	s.Segments = len(l.mu.segments)
	s.WatermarkSyncs = watermarkSyncs
	s.Err = l.mu.err
	return s
}

// Poisoned is closed at the first failed write or fsync; Err says which.
func (l *Log) Poisoned() <-chan struct{} { return l.poisoned }

// Err is why the log is poisoned, wrapping ErrPoisoned, else nil.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.err
}

func (l *Log) poison(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.poisonLocked(err)
}

// poisonLocked is the end of writing: the first failure stays. Under mu.
func (l *Log) poisonLocked(err error) {
	if l.mu.err != nil {
		return
	}
	l.mu.err = fmt.Errorf("%w: %w", ErrPoisoned, err)
	close(l.poisoned)
	l.mu.queue.dismiss()
	wake(l.kick)
}

// Seal refuses further appends with ErrClosed, makes what is queued durable and
// acknowledges it. Reads go on. It may be called twice. ctx bounds the wait, not
// the sealing. ErrPoisoned if that is how the log ended.
func (l *Log) Seal(ctx context.Context) error {
	l.mu.Lock()
	l.mu.sealed = true
	l.mu.queue.dismiss()
	l.mu.Unlock()
	wake(l.kick)
	select {
	case <-l.drained:
		return l.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Sealed is closed when the log takes no more records and everything queued is
// durable or was refused.
func (l *Log) Sealed() <-chan struct{} { return l.drained }

// Close seals, ends readers, joins every goroutine and frees the lock. Called
// again it returns the same.
func (l *Log) Close() error {
	l.closing.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Log) close() error {
	_ = l.Seal(context.Background()) // a poison is returned below
	l.mu.Lock()
	l.mu.closed = true
	l.mu.Unlock()
	l.idle.Stop()
	close(l.stop)
	l.background.Wait()
	if err := l.closeFiles(); err != nil {
		l.poison(err)
	}
	return errors.Join(l.Err(), l.mark.close(), l.lock.Close())
}

// closeFiles leaves the mark of a clean stop. After a poison nothing is written
// or synced any more: files are let go of as they are.
func (l *Log) closeFiles() error {
	var spare prepared
	select {
	case spare = <-l.prepared:
	default:
	}
	select {
	case o := <-l.prepare: // not begun
		if o.seal != nil {
			l.sealFile(o.seal)
		}
	default:
	}
	if l.Err() != nil {
		l.writer.file.abandon()
		if spare.file != nil {
			spare.file.abandon()
		}
		return nil
	}
	l.dropSpares()
	if spare.file != nil {
		if err := errors.Join(spare.file.seal(), l.o.FS.RemoveAll(spare.dir), l.o.FS.SyncDir(filepath.Dir(spare.dir))); err != nil {
			return err
		}
	}
	if err := l.writer.file.seal(); err != nil {
		return err
	}
	return l.mark.write(2, func(w watermark) watermark {
		w = l.watermarkNow(w)
		w.clean = true
		return w
	})
}
