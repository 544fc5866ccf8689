package wal

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/vfs"
)

// How often a follower looks whether there is more: often while there is.
const (
	followPauseMin = 5 * time.Millisecond
	followPauseMax = 200 * time.Millisecond
)

// Follow is Frames from LSN from on of the log in dir, and goes on with what
// becomes durable, across stops and starts of whoever writes it, until ctx ends,
// without an error then. Frames are yielded once something on disk proves that
// they are durable: while the log is busy with the next group, else a few
// milliseconds later; of a log that nobody has open as far as they are good.
//
// *FreedError: records were freed before they were read; it goes on behind them.
// *TornTailError is not yielded: the tail may be gone when the log goes on.
// After an error of Inspect it ends.
func Follow(ctx context.Context, dir string, from LSN, o InspectOptions) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		f := &follower{dir: dir, o: o, next: max(from, 1)}
		pause := followPauseMin
		for ctx.Err() == nil {
			if f.changed() {
				advanced, more := f.look(ctx, yield)
				if !more {
					return
				}
				if advanced {
					pause = followPauseMin
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, followPauseMax)
		}
	}
}

// follower is a Follow under way. It looks again at the part of the log that may
// have changed; what it read stays in the page cache.
type follower struct {
	dir  string
	o    InspectOptions
	next LSN
	seen sight
	seq  uint64 // the last segment
}

// sight tells cheaply whether something was written.
type sight struct {
	watermark    watermark
	size, beyond int64 // of the last segment and of the one after it
}

func (f *follower) changed() bool {
	fsys := f.o.FS
	if fsys == nil {
		fsys = vfs.OS()
	}
	size := func(seq uint64) (size int64) {
		for _, l := range layouts {
			if info, err := fsys.Stat(filepath.Join(f.dir, "segments", segmentName(seq), l.file())); err == nil {
				size += info.Size() + 1
			}
		}
		return size
	}
	b, err := vfs.ReadFile(fsys, filepath.Join(f.dir, "watermark"), watermarkFileSize)
	if err != nil {
		return true // Inspect says what is wrong
	}
	mark, _ := newestWatermark(b, uuid.Nil)
	now := sight{watermark: mark, size: size(f.seq), beyond: size(f.seq + 1)}
	was := f.seen
	f.seen = now
	return now != was
}

// look yields what is new; more is false if that was all.
func (f *follower) look(ctx context.Context, yield func(Frame, error) bool) (advanced, more bool) {
	o := f.o
	o.From = f.next
	in, err := Inspect(f.dir, o)
	if err != nil {
		f.seen = sight{}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errChanged) {
			return false, yield(Frame{}, err) && false
		}
		return false, true // it changes too fast: look again
	}
	if f.next < in.First {
		if !yield(Frame{}, &FreedError{Segment: "segments", First: f.next, Last: in.First - 1}) {
			return false, false
		}
		f.next = in.First
	}
	for fr, err := range in.Frames(f.next) {
		if ctx.Err() != nil {
			return false, false
		}
		switch {
		case err == nil && fr.Last < f.next:
			continue
		case err == nil:
			f.next, advanced = fr.Last+1, true
		default:
			if _, torn := errors.AsType[*TornTailError](err); torn || errors.Is(err, ErrFreed) {
				continue // those that are gone are told when it looks again
			}
			c, ok := errors.AsType[*CorruptError](err)
			if ok && (c.First == 0 || c.Last < f.next) {
				continue // told before
			}
			if ok {
				f.next, advanced = c.Last+1, true
			}
		}
		if !yield(fr, err) {
			return advanced, false
		}
	}
	for _, seg := range in.Segments {
		if seg.State != StatePrepared {
			f.seq = seg.Seq
		}
	}
	return advanced, true
}
