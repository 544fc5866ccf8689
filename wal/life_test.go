package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/crashfs"
	"github.com/walproxy/walproxy/internal/vfs"
)

// life is a log at work on a disk, with a memory of what it promised: after each call
// that changes the disk, what had been durable, released and given out by then.
type life struct {
	name    string
	dir     string
	disk    *crashfs.Disk
	with    func(*Options) // the engine and its file system, if they are others; nil: no
	settled settled
	// segmentBytes: small, that much happens, or larger than what a segment zeroes of a
	// file that it uses again, that stale frames are behind it.
	segmentBytes int64
	rng          *rand.Rand
	payloads     map[LSN][]byte // all that were ever given out, the last ones
	points       map[LSN]Point
	fail         func(crashfs.Call) error // of a call, before it is made; nil: none fails
	// cached: it began with a page cache, and what it sets aside may never have been on
	// disk.
	cached bool

	mu       sync.Mutex // calls are made by the log's goroutines
	log      *Log
	now      promise
	promises []promise // before each call
}

// promise is what a log that is opened later has to keep.
type promise struct {
	durable  LSN // at least this one is there
	appended LSN // at most this one is
	released LSN // at least this one is kept, unless it is beyond the end
	// witnessed is the highest one of which something else on disk than its own frame
	// says that it was durable.
	witnessed LSN
	stream    uuid.UUID // that Attach was told
	boot      uint64
	aside     map[string][]byte // the quarantine's files
}

const logDir = "/data/log"

// settled waits until an idle log has done what it does then.
type settled func(*Log) error

// bubbled is that of a log whose clock is a test's bubble.
func bubbled(*Log) error {
	time.Sleep(2 * watermarkDelay)
	synctest.Wait()
	return nil
}

func (l *life) options() Options {
	o := Options{Engine: EngineNative, FS: l.disk, SegmentBytes: l.segmentBytes, MinFree: -1, GroupBytes: 1 << 10,
		MaxRecordBytes: 1 << 20, Attach: l.attach}
	if l.with != nil {
		l.with(&o)
	}
	return o
}

// attach is the state that belongs to the log: it is durable when it returns.
func (l *life) attach(stream uuid.UUID, _ bool, newest uint64) (boot uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now.stream != uuid.Nil && stream != l.now.stream {
		return 0, fmt.Errorf("the stream is %s, it was %s", stream, l.now.stream)
	}
	if newest > l.now.boot {
		return 0, fmt.Errorf("the log is of boot %d, the last one was %d", newest, l.now.boot)
	}
	l.now.stream = stream
	l.now.boot++
	return l.now.boot, nil
}

func newLife(name string, disk *crashfs.Disk, seed uint64) *life {
	l := &life{name: name, dir: logDir, disk: disk, settled: bubbled, rng: rand.New(rand.NewPCG(seed, 1)),
		payloads: map[LSN][]byte{}, points: map[LSN]Point{}, segmentBytes: 2 << 10}
	disk.SetHook(l.before)
	return l
}

// before notes what was promised before a call, and may let it fail.
func (l *life) before(c crashfs.Call) (err error) {
	p := l.look()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		err = l.fail(c)
	}
	if err == nil || c.Kind == crashfs.Write || c.Kind == crashfs.Sync || c.Kind == crashfs.SyncDir {
		l.promises = append(l.promises, p)
	}
	return err
}

// look notes what the log says of itself now.
func (l *life) look() promise {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.log != nil {
		l.now.durable = max(l.now.durable, l.log.Durable())
		l.now.appended = max(l.now.appended, l.log.Appended())
	}
	return l.now
}

func (l *life) use(log *Log) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = log
}

func (l *life) open() error {
	o := l.options()
	log, err := Open(l.dir, o)
	if err != nil {
		return err
	}
	l.use(log)
	l.look()
	if l.cached {
		return nil
	}
	aside, err := filesOn(o.FS, filepath.Join(l.dir, "quarantine"))
	l.mu.Lock()
	l.now.aside = aside
	l.mu.Unlock()
	return err
}

// filesOn returns what lies below dir.
func filesOn(fsys vfs.FS, dir string) (map[string][]byte, error) {
	entries, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	files := map[string][]byte{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			below, err := filesOn(fsys, path)
			if err != nil {
				return nil, err
			}
			maps.Copy(files, below)
			continue
		}
		if files[path], err = vfs.ReadFile(fsys, path, 1<<20); err != nil {
			return nil, err
		}
	}
	return files, err
}

// close ends the log; the calls that it makes meanwhile are under its promises.
func (l *life) close() error {
	err := l.log.Close()
	l.look()
	l.use(nil)
	if err == nil {
		l.witness()
	}
	return err
}

// witness: the watermark was written.
func (l *life) witness() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now.witnessed = l.now.durable
}

// append enqueues records and waits for them.
func (l *life) append(count, size int) error {
	ctx := context.Background()
	var last Ticket
	for range count {
		lsn := l.log.Appended() + 1
		p := fmt.Appendf(nil, "%s %d ", l.name, lsn)
		for len(p) < size {
			p = append(p, byte(l.rng.Uint32()))
		}
		l.payloads[lsn] = p
		ticket, err := l.log.Enqueue(ctx, p)
		if err != nil {
			return err
		}
		last = ticket
	}
	if err := last.Wait(ctx); err != nil {
		return err
	}
	for lsn := last.LSN + 1 - LSN(count); lsn <= last.LSN; lsn++ {
		p, err := l.log.PointOf(lsn)
		if err != nil {
			return err
		}
		l.points[lsn] = p
	}
	return nil
}

// idle lets the log fall idle: its watermark is written, released segments go.
func (l *life) idle() error {
	if err := l.settled(l.log); err != nil {
		return err
	}
	l.look()
	if l.log.Err() == nil {
		l.witness()
	}
	return nil
}

// work opens the log, does random things to it and closes it.
func (l *life) work(steps int) error {
	if err := l.open(); err != nil {
		return err
	}
	for range steps {
		err := l.step()
		if err != nil && l.log != nil {
			err = errors.Join(err, l.noMore(), l.close())
		}
		if err != nil {
			return err
		}
	}
	return l.close()
}

// workInUsedFiles fills segments, frees them, and goes on in their files.
func (l *life) workInUsedFiles(steps int) error {
	if err := l.open(); err != nil {
		return err
	}
	var err error
	for round := 0; round < 2 && err == nil; round++ {
		for range 9 {
			err = errors.Join(err, l.append(3, 1200))
		}
		p := l.look()
		l.mu.Lock()
		l.now.released = p.durable
		l.mu.Unlock()
		l.log.Release(p.durable)
		err = errors.Join(err, l.idle())
	}
	for i := 0; i < steps && err == nil; i++ {
		err = l.append(1+l.rng.IntN(3), l.rng.IntN(900))
		if i%3 == 2 {
			err = errors.Join(err, l.idle())
		}
	}
	return errors.Join(err, l.close())
}

var errAcks = errors.New("the log goes on after a failure")

// noMore: a log that failed takes no record.
func (l *life) noMore() error {
	lsn := l.log.Appended() + 1
	l.payloads[lsn] = []byte("after a failure")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := l.log.Append(ctx, l.payloads[lsn]); !errors.Is(err, ErrPoisoned) {
		return fmt.Errorf("%w: %w", errAcks, err)
	}
	return nil
}

func (l *life) step() error {
	switch l.rng.IntN(12) {
	case 0, 1:
		return l.idle()
	case 2, 3:
		l.release()
	case 4:
		if err := l.close(); err != nil {
			return err
		}
		return l.open()
	case 5:
		return l.append(1, 3000)
	case 6, 7, 8:
		return l.append(2+l.rng.IntN(5), 20+l.rng.IntN(300))
	default:
		return l.append(1, l.rng.IntN(900))
	}
	return nil
}

func (l *life) release() {
	p := l.look()
	if p.durable == 0 {
		return
	}
	lsn := 1 + LSN(l.rng.Uint64N(uint64(p.durable)))
	l.mu.Lock()
	l.now.released = max(l.now.released, lsn)
	l.mu.Unlock()
	l.log.Release(lsn)
}

// after is what the log had promised before call n, from 0, of its life; or at its end.
func (l *life) after(n int) promise {
	if n < len(l.promises) {
		return l.promises[n]
	}
	return l.look()
}

// next is a life on what a power cut left after call n of this one.
func (l *life) next(name string, disk *crashfs.Disk, n int) *life {
	next := newLife(name, disk, uint64(n))
	next.dir, next.segmentBytes = l.dir, l.segmentBytes
	next.now = l.after(n)
	maps.Copy(next.payloads, l.payloads)
	for lsn, p := range l.points {
		if lsn <= next.now.durable {
			next.points[lsn] = p
		}
	}
	return next
}

// check compares the open log with a promise.
func (l *life) check(p promise) error {
	first, durable := l.log.First(), l.log.Durable()
	if durable < p.durable || durable > p.appended {
		return fmt.Errorf("durable is %d; %d was, %d were given out", durable, p.durable, p.appended)
	}
	if first > max(p.released, 1) {
		return fmt.Errorf("the first record is %d, only what is below %d was released", first, p.released)
	}
	got, err := readAll(l.log, first)
	if err != nil {
		return err
	}
	if len(got) != int(durable+1-first) {
		return fmt.Errorf("%d records from %d to %d", len(got), first, durable)
	}
	for i, b := range got {
		if lsn := first + LSN(i); !bytes.Equal(b, l.payloads[lsn]) {
			return fmt.Errorf("LSN %d is not what was appended", lsn)
		}
	}
	for path, was := range p.aside {
		if b, err := vfs.ReadFile(l.disk, path, 1<<20); err != nil || !bytes.Equal(b, was) {
			return fmt.Errorf("%s, set aside before, has %d of %d bytes: %w", path, len(b), len(was), err)
		}
	}
	for lsn := max(first, 2) - 1; lsn <= p.durable; lsn++ {
		if point, ok := l.points[lsn]; ok {
			if err := l.log.Contains(point); err != nil {
				return fmt.Errorf("the point of LSN %d: %w", lsn, err)
			}
		}
	}
	return nil
}

// restart is the start after a power cut, and a little work.
func (l *life) restart() error {
	promised := l.look()
	if err := l.open(); err != nil {
		return err
	}
	err := l.check(promised)
	if err == nil {
		err = l.append(2, 100)
	}
	if err == nil {
		err = l.check(l.look())
	}
	return errors.Join(err, l.close())
}

// refusesDamage damages a record that was acknowledged, and of which there is a
// witness: the start or the reading of it is refused.
func (l *life) refusesDamage() error {
	lsn := l.look().witnessed
	if lsn == 0 {
		return nil
	}
	in, err := Inspect(l.dir, InspectOptions{FS: l.disk, From: lsn})
	if err != nil || lsn < in.First { // released
		return err
	}
	for f, err := range in.Frames(lsn) {
		if err != nil {
			return err
		}
		if f.LSN == lsn {
			return l.damage(f)
		}
	}
	return fmt.Errorf("LSN %d is not in the log", lsn)
}

func (l *life) damage(f Frame) (err error) {
	dir := filepath.Join(l.dir, "segments", segmentName(f.Segment))
	entries, err := l.disk.ReadDir(dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, layoutIn(entries).file())
	file, err := l.disk.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	kind := [...]string{"flipped", "cut off", "zeroed"}[l.rng.IntN(3)]
	switch kind {
	case "flipped":
		at, b := f.Offset+l.rng.Int64N(f.End-f.Offset), []byte{0}
		_, err = file.ReadAt(b, at)
		b[0] ^= 1 << l.rng.IntN(8)
		_, err2 := file.WriteAt(b, at)
		err = errors.Join(err, err2)
	case "cut off":
		err = file.Truncate(f.Offset + l.rng.Int64N(f.End-f.Offset))
	case "zeroed":
		_, err = file.WriteAt(make([]byte, f.End-f.Offset), f.Offset)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	log, err := Open(l.dir, l.options())
	if err == nil {
		_, err = readAll(log, f.LSN)
		err = errors.Join(err, log.Close())
	}
	if corrupt, ok := errors.AsType[*CorruptError](err); ok && (corrupt.First > f.LSN || corrupt.Last < f.LSN && corrupt.Last > 0) {
		return fmt.Errorf("LSN %d is %s, but: %w", f.LSN, kind, err)
	} else if !ok {
		return fmt.Errorf("LSN %d is %s, it was durable, and a start says: %w", f.LSN, kind, err)
	}
	return nil
}
