package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/vfs"
)

// start is an Open under way: what was found, judged and decided.
type start struct {
	dir     string
	fs      vfs.FS
	o       Options
	log     *zap.Logger
	stream  uuid.UUID
	created bool // this Open creates the log
	mark    watermark

	segments []*found // with a valid header, in order
	unborn   []*found // after them: never activated
	tail     tail
	boot     uint64

	copies   []*found // for a repair: of segments, in the place of others
	inspects bool     // changes nothing, and somebody may be writing
	from     LSN      // the lowest of interest
	partial  bool     // there are segments below it, not looked at
}

// tail is the judged end of the last segment.
type tail struct {
	end   segmentEnd
	clean bool // everything up to end was durable at a clean stop
	cut   bool // there are bytes after end, and not only room
}

func (s *start) segmentsDir() string   { return filepath.Join(s.dir, "segments") }
func (s *start) trashDir() string      { return filepath.Join(s.dir, "trash") }
func (s *start) quarantineDir() string { return filepath.Join(s.dir, "quarantine") }
func (s *start) watermarkPath() string { return filepath.Join(s.dir, "watermark") }

// makeDirs creates what is missing, durably.
func (s *start) makeDirs() error {
	for _, dir := range []string{s.segmentsDir(), s.trashDir(), s.quarantineDir()} {
		if err := s.fs.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return s.fs.SyncDir(s.dir)
}

// Lock takes the lock of the log in dir, for who works on its files or beside
// them while no process has it open: *LockedError if one has.
func Lock(dir string) (io.Closer, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return lockDir(vfs.OS(), dir)
}

// lockDir takes the log's lock, creating its directory.
func lockDir(fsys vfs.FS, dir string) (io.Closer, error) {
	if err := vfs.MkdirAllSync(fsys, dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, lockFile)
	lock, err := fsys.Lock(path, strconv.Itoa(os.Getpid())+"\n")
	for n := 1; n < lockAttempts && errors.Is(err, vfs.ErrLocked); n++ {
		time.Sleep(lockPause) // an inspection asks for the lock's state for an instant
		lock, err = fsys.Lock(path, strconv.Itoa(os.Getpid())+"\n")
	}
	if errors.Is(err, vfs.ErrLocked) {
		return nil, lockedError(fsys, path)
	}
	return lock, err
}

const (
	lockFile     = "LOCK"
	lockAttempts = 10
	lockPause    = 5 * time.Millisecond
)

// lockedError names the owner of the lock at path.
func lockedError(fsys vfs.FS, path string) *LockedError {
	b, _ := vfs.ReadFile(fsys, path, 64) // the pid is a courtesy
	pid, _ := strconv.Atoi(string(bytes.TrimSpace(b)))
	return &LockedError{Path: path, PID: pid}
}

// run brings the directory to where a new segment can be begun.
func (s *start) run() error {
	if err := s.warnFileSystem(); err != nil {
		return err
	}
	if err := s.noRepair(); err != nil {
		return err
	}
	if err := s.openFormat(); err != nil {
		return err
	}
	if err := s.makeDirs(); err != nil {
		return err
	}
	var err error
	if s.mark, err = loadWatermark(s.fs, s.watermarkPath(), s.stream); err != nil {
		return err
	}
	if err := s.list(); err != nil {
		return err
	}
	if err := s.judge(); err != nil {
		return err
	}
	if !s.created {
		if err := s.attach(s.tail.end.last == 0); err != nil {
			return err
		}
	}
	return s.recover()
}

func (s *start) warnFileSystem() error {
	space, err := s.fs.Space(s.dir)
	if err != nil {
		return err
	}
	if space.Doubt != "" {
		s.log.Warn("fsync may not keep its promise on this file system",
			zap.String("dir", s.dir), zap.String("file_system", space.Kind), zap.String("reason", space.Doubt))
	}
	return nil
}

// attach calls the caller's hook and checks its boot counter.
func (s *start) attach(empty bool) error {
	newest := uint64(0)
	if n := len(s.segments); n > 0 {
		newest = s.segments[n-1].header.boot
	}
	s.boot = newest
	if s.o.Attach == nil {
		return nil
	}
	boot, err := s.o.Attach(s.stream, empty, newest)
	if err != nil || boot == 0 {
		return err
	}
	if boot <= newest {
		return fmt.Errorf("%w: its boot counter is %d, the log's %d", ErrBoot, boot, newest)
	}
	s.boot = boot
	return nil
}

// list finds the segments and checks that they follow each other.
func (s *start) list() error {
	if err := s.find(); err != nil {
		return err
	}
	return s.contiguous()
}

// find examines every segment. The newest comes first: if the log is being
// written meanwhile, a segment whose successor has a header is complete.
func (s *start) find() error {
	entries, err := s.fs.ReadDir(s.segmentsDir())
	if err != nil {
		return err
	}
	var seqs []uint64
	for _, e := range entries {
		seq, ok := parseSegmentName(e.Name())
		if !ok || !e.IsDir() {
			s.log.Warn("not a segment, left alone", zap.String("path", filepath.Join(s.segmentsDir(), e.Name())))
			continue
		}
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	all := make([]*found, 0, len(seqs))
	for _, seq := range slices.Backward(seqs) {
		f, err := examine(s.fs, filepath.Join(s.segmentsDir(), segmentName(seq)), seq, s.stream)
		if err == nil && errors.Is(f.err, ErrVersion) {
			err = fmt.Errorf("%w: %s: %w", ErrFormat, f.place(), f.err)
		}
		if s.inspects && errors.Is(err, fs.ErrNotExist) {
			continue // freed meanwhile; or missing, which is seen without it
		}
		if err != nil {
			return err
		}
		all = append(all, f)
		if s.from > 0 && f.err == nil && f.header.base <= s.from {
			s.partial = seq != seqs[0]
			break
		}
	}
	slices.Reverse(all)
	valid := len(all)
	for valid > 0 && all[valid-1].err != nil {
		valid--
	}
	s.segments, s.unborn = all[:valid], all[valid:]
	for _, f := range s.unborn {
		f.blank = f.blank || s.isBlank(f)
	}
	return nil
}

// isBlank reports whether f, in whose beginning there is nothing, holds only what
// a freed segment left in its file. What cannot be read is not blank.
func (s *start) isBlank(f *found) (blank bool) {
	if !errors.Is(f.err, errRoom) {
		return false
	}
	ids := []uuid.UUID{s.mark.incarnation}
	base := LSN(1)
	if n := len(s.segments); n > 0 {
		h := s.segments[n-1].header
		base = h.base
		for _, i := range h.incarnations {
			ids = append(ids, i.id)
		}
	}
	seeds := make([]seed, len(ids))
	for i, id := range ids {
		seeds[i] = newSeed(s.stream, id, f.seq)
	}
	err := withFile(s.fs, f.path(), func(file vfs.File, size int64) error {
		sc := scanner{file: file, layout: f.layout, limit: size}
		_, _, ok, err := sc.search(0, seeds, func(h frameHeader) bool { return h.lsn >= base })
		blank = !ok
		return err
	})
	return err == nil && blank
}

// contiguous checks the segments' names, sizes and bases against each other
// and the watermark, without reading their records.
func (s *start) contiguous() error {
	for i := range s.segments {
		if c := s.follows(i); c != nil {
			return c
		}
	}
	if c := s.noneMissing(); c != nil {
		return c
	}
	return nil
}

// follows checks segment i, and that it continues the one before; nil: it does.
func (s *start) follows(i int) *CorruptError {
	f := s.segments[i]
	if f.err != nil {
		return s.corruptAt(i, f.place(), 0, s.segments[i+1:], f.err)
	}
	if i == 0 {
		if f.seq > s.mark.first && s.mark.first > 0 {
			name := filepath.Join("segments", segmentName(s.mark.first))
			return &CorruptError{Segment: name, First: 1, Last: f.header.base - 1,
				Err: fmt.Errorf("%w: the first segment kept is %016x", errMissing, f.seq)}
		}
		return nil
	}
	before := s.segments[i-1]
	if f.seq != before.seq+1 {
		name := filepath.Join("segments", segmentName(before.seq+1))
		return s.corruptAt(i-1, name, 0, s.segments[i:], errMissing)
	}
	if pred := f.header.pred; before.err == nil && (!before.layout.complete(pred.offset, before.size) || pred.last+1 < before.header.base) {
		return s.corruptAt(i-1, before.place(), min(pred.offset, before.size), s.segments[i:],
			fmt.Errorf("%d bytes; its successor says %d", before.size, pred.offset))
	}
	return nil
}

// noneMissing checks the newest segment against the watermark.
func (s *start) noneMissing() *CorruptError {
	newest := uint64(0)
	if n := len(s.segments); n > 0 {
		newest = s.segments[n-1].seq
	}
	if s.mark.segment <= newest {
		return nil
	}
	err := fmt.Errorf("%w, though the watermark says that it was activated", errMissing)
	name := filepath.Join("segments", segmentName(s.mark.segment))
	for _, f := range s.unborn {
		if f.seq == s.mark.segment {
			name, err = f.place(), fmt.Errorf("the watermark says that it was activated: %w", f.err)
		}
	}
	corrupt := s.corruptAt(len(s.segments), name, 0, nil, err)
	corrupt.Last = s.mark.durable
	if corrupt.Last < corrupt.First {
		corrupt.First, corrupt.Last = 0, 0
	}
	return corrupt
}

// corruptAt reports damage in or after segment i, before the segments after.
// The records of the last good segment before it tell where it begins.
func (s *start) corruptAt(i int, place string, offset int64, after []*found, err error) *CorruptError {
	c := &CorruptError{Segment: place, Offset: offset, Err: err, First: 1}
	from := min(i, len(s.segments)-1)
	for from >= 0 && s.segments[from].err != nil {
		from--
	}
	if from >= 0 {
		f := s.segments[from]
		c.First = f.header.base
		end, scanErr := s.scanRecords(f)
		var bad *badFrameError
		if scanErr == nil || errors.As(scanErr, &bad) {
			c.First = end.last + 1
			if from == i && end.offset < offset {
				c.Offset = end.offset
			}
		}
	}
	for _, f := range after {
		if f.err == nil {
			c.Last = f.header.base - 1
			break
		}
	}
	if c.Last != 0 && c.Last < c.First {
		c.First, c.Last = 0, 0 // no record is hit: the damage is in a header or after the end
	}
	return c
}

// scanRecords reads and verifies every record of f and returns where the good
// ones end; *badFrameError says what is there instead of the next.
func (s *start) scanRecords(f *found) (segmentEnd, error) {
	end, _, err := s.scanDurable(f)
	return end, err
}

// scanDurable is scanRecords; durable is the highest LSN that the records say
// was durable when they were written.
func (s *start) scanDurable(f *found) (end segmentEnd, durable LSN, err error) {
	end, durable = f.headerEnd(), f.header.base-1
	err = withFile(s.fs, f.path(), func(file vfs.File, size int64) error {
		sc := f.records(file, size)
		k := mapped(file, size)
		defer k.close()
		for intact := k != nil; ; {
			if intact {
				passed := k.tandem().pass(sc)
				if intact = passed.intact; passed.n != (Tally{}) {
					end, durable = passed.end, passed.durable
				}
			}
			fr, err := sc.verified()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			end, durable = segmentEnd{fr.end, fr.last, fr.crc}, fr.durable
		}
	})
	return end, durable, err
}

// judge finds the end of the log and decides, if anything after it is bad,
// whether that was ever acknowledged.
func (s *start) judge() error {
	began := time.Now()
	if len(s.segments) == 0 {
		return s.witnessUnborn(1, nil)
	}
	f := s.segments[len(s.segments)-1]
	end, err := s.scanRecords(f)
	var bad *badFrameError
	if err != nil && !errors.As(err, &bad) {
		return err
	}
	room, err := s.isRoom(f, bad)
	if err != nil {
		return err
	}
	s.tail = tail{end: end, cut: bad != nil && !room}
	if bad != nil && errors.Is(bad, ErrVersion) {
		return fmt.Errorf("%w: %s at offset %d: %w", ErrFormat, f.place(), bad.offset, bad.err)
	}
	if c, err := s.witnessed(f, end, bad); err != nil {
		return err
	} else if c != nil {
		return c
	}
	if err := s.witnessUnborn(end.last+1, f); err != nil {
		return err
	}
	m := s.mark
	s.tail.clean = !s.tail.cut && m.clean && m.segment == f.seq && m.end == end.offset &&
		m.durable == end.last && m.incarnation == f.header.incarnation()
	s.log.Info("end of the log found", zap.Uint64("last_lsn", uint64(end.last)), zap.Int("segments", len(s.segments)),
		zap.Bool("clean", s.tail.clean), zap.Bool("torn", s.tail.cut), zap.Duration("took", time.Since(began)))
	return nil
}

// isRoom reports whether bad is the room behind f's records; see scanner.isRoom.
func (s *start) isRoom(f *found, bad *badFrameError) (room bool, err error) {
	if bad == nil || !errors.Is(bad, errRoom) {
		return false, nil
	}
	err = withFile(s.fs, f.path(), func(file vfs.File, size int64) (err error) {
		room, err = f.records(file, size).isRoom(bad)
		return err
	})
	return room, err
}

// witnessed reports the end of f as damage if records after it are known to
// have been durable; nil: they are not.
func (s *start) witnessed(f *found, end segmentEnd, bad *badFrameError) (*CorruptError, error) {
	due := end.last + 1
	witness, what, err := s.witness(f, end, bad)
	if err != nil || witness < due {
		return nil, err
	}
	reason := errEnds
	if bad != nil && !errors.Is(bad, errRoom) {
		reason = bad.err
	}
	return &CorruptError{Segment: f.place(), Offset: end.offset, First: due, Last: witness,
		Err: fmt.Errorf("%w; %s says that LSN %d was durable", reason, what, witness)}, nil
}

// witness returns the highest LSN that is known to have been durable, and who
// says so, if that is beyond end.
func (s *start) witness(f *found, end segmentEnd, bad *badFrameError) (LSN, string, error) {
	witness, what := s.mark.durable, "the watermark"
	if bad == nil {
		return witness, what, nil
	}
	err := withFile(s.fs, f.path(), func(file vfs.File, size int64) error {
		sc := scanner{file: file, layout: f.layout, limit: size}
		h, _, ok, err := sc.search(end.offset+1, []seed{f.header.seed()}, func(h frameHeader) bool {
			return h.durable > end.last && h.lsn > h.durable
		})
		if ok && h.durable > witness {
			witness, what = h.durable, "a later frame"
		}
		return err
	})
	return witness, what, err
}

// witnessUnborn looks into segments without a valid header for frames that
// could only have been written after due was durable.
func (s *start) witnessUnborn(due LSN, last *found) error {
	for _, f := range s.unborn {
		if f.empty() {
			continue
		}
		err := withFile(s.fs, f.path(), func(file vfs.File, size int64) error {
			sc := scanner{file: file, layout: f.layout, limit: size}
			ids, err := s.guess(&sc, last)
			if err != nil {
				return err
			}
			seeds := make([]seed, len(ids))
			for i, id := range ids {
				seeds[i] = newSeed(s.stream, id, f.seq)
			}
			h, _, ok, err := sc.search(0, seeds, func(h frameHeader) bool { return h.durable >= due && h.lsn > h.durable })
			if err != nil || !ok {
				return err
			}
			return &CorruptError{Segment: f.place(), First: due, Last: h.durable,
				Err: fmt.Errorf("%w; a later frame says that LSN %d was durable", f.err, h.durable)}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// guess lists the incarnations that the frames of a segment with a damaged header
// can be of: of the run before it, of the watermark's, and of what stands where
// the header has its incarnation.
func (s *start) guess(sc *scanner, last *found) ([]uuid.UUID, error) {
	ids := []uuid.UUID{s.mark.incarnation}
	if last != nil {
		ids = append(ids, last.header.incarnation())
	}
	for prefix := range int64(maxPrefix) {
		at := prefix + frameHeaderSize + headerIncarnation
		b, err := sc.peek(at, 16)
		if err != nil {
			return nil, err
		}
		if len(b) == 16 {
			ids = append(ids, uuid.UUID(b))
		}
	}
	return ids, nil
}
