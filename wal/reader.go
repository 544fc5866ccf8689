package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/walproxy/walproxy/internal/vfs"
)

// Reader reads records in LSN order. Not for concurrent use. It holds one
// buffer and one file: what was written just now is in the page cache, and a copy of
// it in memory would cost the writers more than reading it costs.
type Reader struct {
	log    *Log
	next   LSN
	closed bool

	file *fileReader // nil: nothing was read
}

// Record is one record of the log, or a gap: what a repair gave up. Payload is
// valid until the next call.
type Record struct {
	LSN     LSN // of a gap: its first, even if the reader began within it
	Payload []byte
	// Through is a gap's last LSN: the records from LSN up to it are lost, or may
	// be, and have no payload. 0: a record.
	Through LSN
}

// IsGap reports that the record stands for lost ones.
func (r Record) IsGap() bool { return r.Through != 0 }

// Last is the last LSN that r stands for.
func (r Record) Last() LSN { return max(r.LSN, r.Through) }

// NewReader reads durable records from lsn on; from may lie above them. 0 is 1.
// ErrBelowFirst, ErrClosed.
func (l *Log) NewReader(from LSN) (*Reader, error) {
	from = max(from, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return nil, ErrClosed
	}
	if from < l.first() {
		return nil, belowFirst(from, l.first())
	}
	return &Reader{log: l, next: from}, nil
}

func belowFirst(lsn, first LSN) error {
	return fmt.Errorf("%w: LSN %d; the first is %d", ErrBelowFirst, lsn, first)
}

// Next returns the next record or gap, waiting until it is durable. io.EOF: the log is
// sealed, closed or poisoned and everything durable was returned. ErrClosed: log
// or reader were closed before that. *CorruptError: damage, with its place; the
// reader stays there. ErrBelowFirst: the record was released before it was read.
// ctx's cause when ctx ends; the reader goes on after it.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	if r.closed {
		return Record{}, ErrClosed
	}
	if ctx.Err() != nil {
		return Record{}, context.Cause(ctx)
	}
	if rec, ok, err := r.AtHand(); ok || err != nil {
		return rec, err
	}
	if err := r.await(ctx); err != nil {
		return Record{}, err
	}
	return r.fromFile()
}

// AtHand is Next as far as it goes without waiting for anybody: ok is false if
// the reader has to look at the log again for the next record.
func (r *Reader) AtHand() (rec Record, ok bool, err error) {
	switch {
	case r.closed:
		return Record{}, false, ErrClosed
	case !r.file.buffered(r.next):
		return Record{}, false, nil
	}
	rec, err = r.readFrame()
	return rec, err == nil, err
}

// await waits until the next record is durable.
func (r *Reader) await(ctx context.Context) error {
	l := r.log
	for {
		l.mu.Lock()
		durable, closed := l.mu.durable, l.mu.closed
		ended := l.mu.drained || l.mu.err != nil
		done := l.nextSettlement()
		l.mu.Unlock()
		switch {
		case r.next <= durable && closed:
			return ErrClosed
		case r.next <= durable:
			return nil
		case ended:
			return io.EOF
		}
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Close frees the reader's file and memory. It may be called twice.
func (r *Reader) Close() error {
	r.closed = true
	return r.dropFile()
}

// dropFile lets go of the file. Nothing was written to it: that Close fails means
// nothing to the reader.
func (r *Reader) dropFile() error {
	if r.file == nil {
		return nil
	}
	err := r.file.file.Close()
	r.file = nil
	return err
}

// fileReader reads one segment.
type fileReader struct {
	segment segment // as it was when looked at last
	file    vfs.File
	scanner scanner
	end     segmentEnd // of the last frame read
}

// fromFile returns the next record from its segment's file.
func (r *Reader) fromFile() (Record, error) {
	seg, err := r.log.segmentOf(r.next)
	if err != nil {
		return Record{}, err
	}
	if r.file == nil || r.file.segment.seq != seg.seq || r.file.scanner.next > r.next {
		if err := r.openSegment(seg); err != nil {
			return Record{}, err
		}
	}
	r.file.segment = seg
	r.file.scanner.limit = seg.end.offset
	return r.readFrame()
}

// buffered reports whether the frame of lsn can be had without a look at the
// log: not so often, or its locks would cost more than the reading.
func (f *fileReader) buffered(lsn LSN) bool {
	if f == nil || f.scanner.next != lsn {
		return false
	}
	sc := &f.scanner
	return sc.at <= sc.offset && sc.offset+maxPrefix+frameHeaderSize <= sc.at+int64(len(sc.buf))
}

// readFrame returns the next record of the open file, which has it.
func (r *Reader) readFrame() (Record, error) {
	f := r.file
	for {
		fr, err := f.frame()
		if err != nil {
			return Record{}, r.damage(fr, err)
		}
		if fr.last < r.next {
			continue
		}
		if err := fr.verify(); err != nil {
			// Stay at this frame, so that the error does not go away when asked again.
			f.scanner.offset, f.scanner.next = fr.offset, fr.lsn
			return Record{}, r.damage(fr, &badFrameError{fr.offset, err})
		}
		if fr.kind == kindGap {
			r.next = fr.last + 1
			return Record{LSN: fr.lsn, Through: fr.last}, nil
		}
		r.next++
		return Record{LSN: fr.lsn, Payload: slices.Clip(fr.payload)}, nil
	}
}

// frame is the scanner's, remembering where it ended.
func (f *fileReader) frame() (frame, error) {
	fr, err := f.scanner.frame()
	if err == nil {
		f.end = segmentEnd{fr.end, fr.last, fr.crc}
	}
	return fr, err
}

// segmentOf returns a copy of the segment that holds the durable record lsn.
func (l *Log) segmentOf(lsn LSN) (segment, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lsn < l.first() {
		return segment{}, belowFirst(lsn, l.first())
	}
	// Segments without records have the base of the next: the last one counts.
	i := len(l.mu.segments) - 1
	lo := 0
	for lo < i {
		mid := (lo + i + 1) / 2
		if l.mu.segments[mid].base <= lsn {
			lo = mid
		} else {
			i = mid - 1
		}
	}
	return *l.mu.segments[i], nil
}

// openSegment opens seg and verifies its header, and that it continues the
// segment that was read to its end before.
func (r *Reader) openSegment(seg segment) error {
	before := r.file
	path := filepath.Join(r.log.dir, seg.place())
	file, err := r.log.o.FS.OpenFile(path, os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return r.corrupt(seg, 0, seg.end.last, err)
	}
	if err != nil {
		return err
	}
	f := &fileReader{segment: seg, file: file}
	f.scanner = scanner{file: file, layout: seg.layout, limit: seg.end.offset}
	if before != nil {
		f.scanner.buf = before.scanner.buf[:0]
	}
	from, marked := seg.markOf(r.next)
	if marked {
		if err := f.scanner.fillExactly(0, headerReadSize); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	h, crc, err := f.scanner.header(r.log.stream, seg.seq)
	f.end = segmentEnd{f.scanner.offset, h.base - 1, crc}
	if err == nil && (h.base != seg.base || h.incarnation() != seg.incarnation) {
		err = &badFrameError{0, fmt.Errorf("%w: it changed since the log was opened", errHeaderFrame)}
	}
	if err == nil && before != nil && before.segment.seq+1 == seg.seq && before.scanner.next == r.next && before.end != h.pred {
		err = r.corrupt(before.segment, before.end.offset, 0,
			fmt.Errorf("it ends at LSN %d, offset %d; its successor says LSN %d, offset %d",
				before.end.last, before.end.offset, h.pred.last, h.pred.offset))
	}
	if err != nil {
		if closeErr := file.Close(); closeErr != nil {
			err = errors.Join(err, closeErr)
		}
		var bad *badFrameError
		if errors.As(err, &bad) {
			return r.corrupt(seg, bad.offset, seg.end.last, bad.err)
		}
		return err
	}
	if marked { // what is before it is not read
		f.scanner.offset, f.scanner.next = from.offset, from.lsn
	}
	closeErr := r.dropFile()
	r.file = f
	return closeErr
}

// damage turns what the scanner met into what Next returns.
func (r *Reader) damage(fr frame, err error) error {
	f := r.file
	if errors.Is(err, io.EOF) {
		// The log knows of a record here, the file does not.
		return r.corrupt(f.segment, f.scanner.offset, f.segment.end.last, errShort)
	}
	var bad *badFrameError
	if !errors.As(err, &bad) {
		return fmt.Errorf("read %s: %w", f.segment.place(), err)
	}
	if errors.Is(bad.err, errPayloadCRC) {
		return r.corruptFrom(fr.lsn, f.segment, bad.offset, fr.lsn, bad.err)
	}
	// Where the next good frame is, the damage ends.
	last := f.segment.end.last
	sc := f.scanner
	sc.buf = nil
	h, _, ok, searchErr := sc.search(bad.offset+1, []seed{sc.seed}, func(h frameHeader) bool { return h.lsn > sc.next })
	if searchErr == nil && ok {
		last = h.lsn - 1
	}
	return r.corruptFrom(sc.next, f.segment, bad.offset, last, bad.err)
}

func (r *Reader) corrupt(seg segment, offset int64, last LSN, err error) error {
	return r.corruptFrom(r.next, seg, offset, last, err)
}

// corruptFrom is the damage, unless the segment was freed meanwhile: then its file
// may be another segment's by now. It is released before that.
func (r *Reader) corruptFrom(first LSN, seg segment, offset int64, last LSN, err error) error {
	if kept := r.log.First(); r.next < kept {
		return belowFirst(r.next, kept)
	}
	if last < first {
		first, last = 0, 0 // no record of this segment is known to be hit
	}
	return &CorruptError{Segment: seg.place(), Offset: offset, First: first, Last: last, Err: err}
}
