package wal

import (
	"fmt"
	"path/filepath"
	"slices"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/failpoint"
)

// Release says that records below lsn are no longer needed by anybody. Whole
// segments are freed in the background; Release never waits for the disk.
func (l *Log) Release(lsn LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.err != nil || l.mu.closed {
		return
	}
	n := 0
	for n+1 < len(l.mu.segments) && l.mu.segments[n].end.last < lsn {
		n++
	}
	if n == 0 {
		return
	}
	l.mu.trash = append(l.mu.trash, l.mu.segments[:n]...)
	l.mu.segments = slices.Clone(l.mu.segments[n:])
	select {
	case l.release <- struct{}{}:
	default:
	}
}

// janitorLoop deletes what an earlier run left in the trash, then what is released.
func (l *Log) janitorLoop() {
	l.emptyTrash()
	for {
		select {
		case <-l.stop:
			return
		case <-l.release:
			if err := l.freeSegments(); err != nil {
				l.poison(err)
			}
			l.askSpace()
		}
	}
}

func (l *Log) emptyTrash() {
	dir := filepath.Join(l.dir, "trash")
	entries, err := l.o.FS.ReadDir(dir)
	if err != nil {
		l.logger.Warn("trash is not emptied", zap.Error(err))
	}
	for _, e := range entries {
		if l.stopping() {
			return
		}
		l.delete(filepath.Join(dir, e.Name()))
	}
}

func (l *Log) stopping() bool {
	select {
	case <-l.stop:
		return true
	case <-l.poisoned:
		return true
	default:
		return false
	}
}

// delete removes what is already out of the log: failing costs space, not data.
func (l *Log) delete(path string) bool {
	if err := l.o.FS.RemoveAll(path); err != nil {
		l.logger.Warn("a released segment is not deleted; the next start tries again", zap.String("path", path), zap.Error(err))
		return false
	}
	return true
}

// freeSegments moves released segments to the trash, oldest first and each
// durably before the next, so that a crash leaves no hole; and deletes them.
func (l *Log) freeSegments() error {
	l.mu.Lock()
	trash := l.mu.trash
	l.mu.trash = nil
	l.mu.Unlock()
	if len(trash) == 0 || l.stopping() {
		return nil
	}
	// Both slots, before the first rename: a start that finds the first segment
	// above it knows that segments are missing, whichever slot it reads.
	next := trash[len(trash)-1].seq + 1
	err := l.mark.write(2, func(w watermark) watermark {
		w = l.watermarkNow(w)
		w.first = next
		return w
	})
	if err != nil {
		return err
	}
	segments := filepath.Join(l.dir, "segments")
	for _, s := range trash {
		if l.stopping() {
			return nil // they are found at the next start, and released again
		}
		from := filepath.Join(segments, segmentName(s.seq))
		to := filepath.Join(l.dir, "trash", segmentName(s.seq))
		if err := l.o.FS.Rename(from, to); err != nil {
			return fmt.Errorf("release segment %016x: %w", s.seq, err)
		}
		if err := l.o.FS.SyncDir(segments); err != nil {
			return fmt.Errorf("release segment %016x: %w", s.seq, err)
		}
		failpoint.Hit("wal-mid-trash")
		if l.keepSpare(s, to) || l.delete(to) {
			l.mu.Lock()
			l.mu.space.bytes -= s.end.offset
			l.mu.Unlock()
		}
	}
	return nil
}
