package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/vfs"
)

// view is an inspection of the log under its lock. As it is; or, with arrange, as
// it was meant: of the stream that most of it is of, with segments that lie in
// another's place taken for what they are.
func (r *Repair) view(arrange bool) (*Inspection, error) {
	in := &Inspection{Dir: r.dir, start: &start{dir: r.dir, fs: r.fs, log: zap.NewNop(), inspects: true}}
	s := in.start
	err := in.format()
	if errors.Is(err, ErrNoLog) {
		stream, knownErr := r.known()
		if knownErr != nil {
			return nil, knownErr
		}
		if stream != uuid.Nil {
			in.refuse(fmt.Errorf("%w: nothing is left of the log of stream %s", ErrFormat, stream))
			s.stream, err = stream, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if arrange {
		if s.stream, err = r.majority(in); err != nil {
			return nil, err
		}
	}
	in.Stream = s.stream
	if s.mark, err = in.watermark(); err != nil {
		return nil, err
	}
	if err := s.find(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if arrange {
		if err := r.arrange(s); err != nil {
			return nil, err
		}
	}
	if err := in.judge(); err != nil {
		return nil, err
	}
	return in, nil
}

// known is the stream of the caller's state; zero: not known.
func (r *Repair) known() (uuid.UUID, error) {
	if r.o.Stream == nil {
		return uuid.Nil, nil
	}
	return r.o.Stream()
}

// majority is the stream of the log: that of FORMAT, unless all segments are of
// others.
func (r *Repair) majority(in *Inspection) (uuid.UUID, error) {
	s := in.start
	entries, err := s.fs.ReadDir(s.segmentsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return uuid.Nil, err
	}
	votes := map[uuid.UUID]int{}
	for _, e := range entries {
		seq, ok := parseSegmentName(e.Name())
		if !ok || !e.IsDir() {
			continue
		}
		stream, err := s.streamIn(filepath.Join(s.segmentsDir(), e.Name()), seq)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return uuid.Nil, err
		}
		if stream != uuid.Nil {
			votes[stream]++
		}
	}
	stream := s.stream
	if stream == uuid.Nil {
		if stream, err = r.known(); err != nil {
			return stream, err
		}
	}
	for other, n := range votes {
		if n > votes[stream] && (votes[s.stream] == 0 || in.formatDamaged()) {
			stream = other
		}
	}
	if stream == uuid.Nil {
		return stream, fmt.Errorf("%w: nothing in %s tells the stream of its log", ErrFormat, s.dir)
	}
	return stream, nil
}

// formatDamaged: FORMAT does not say the stream.
func (in *Inspection) formatDamaged() bool {
	return slices.ContainsFunc(in.Damage, func(err error) bool { return errors.Is(err, ErrFormat) })
}

// arrange puts segments that lie under another's name where they belong, in s
// alone: of two the one in its own place counts.
func (r *Repair) arrange(s *start) error {
	all := slices.Concat(s.segments, s.unborn)
	here := map[uint64]*found{}
	for _, f := range all {
		here[f.seq] = f
	}
	for _, f := range slices.Clone(all) {
		if f.err == nil || f.layout == nil {
			continue
		}
		claimed, err := claimedSeq(s.fs, f)
		if err != nil {
			return err
		}
		if claimed == 0 || claimed == f.seq {
			continue
		}
		stray, err := examine(s.fs, f.dir, claimed, s.stream)
		if err != nil {
			return err
		}
		if stray.err != nil {
			continue
		}
		s.copies = append(s.copies, stray)
		if own := here[claimed]; own != nil && own.err == nil {
			continue
		}
		here[claimed] = stray
		if here[f.seq] == f { // nobody else's
			here[f.seq] = &found{seq: f.seq, dir: f.dir, err: fmt.Errorf("segment %016x lies in its place", claimed)}
		}
	}
	all = all[:0]
	for _, f := range here {
		all = append(all, f)
	}
	s.sort(all)
	return nil
}

// sort sets segments and unborn.
func (s *start) sort(all []*found) {
	slices.SortFunc(all, func(a, b *found) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	valid := len(all)
	for valid > 0 && all[valid-1].err != nil {
		valid--
	}
	s.segments, s.unborn = all[:valid], all[valid:]
}

// claimedSeq is the segment that a file says it is; 0: it does not say.
func claimedSeq(fsys vfs.FS, f *found) (seq uint64, err error) {
	err = withFile(fsys, f.path(), func(file vfs.File, size int64) error {
		sc := scanner{file: file, layout: f.layout, limit: size}
		b, err := sc.peek(0, maxPrefix)
		if err != nil {
			return err
		}
		n, _, err := f.layout.prefix(b)
		if err != nil {
			return nil
		}
		if b, err = sc.peek(int64(n)+frameHeaderSize+headerSeq, 8); err == nil && len(b) == 8 {
			seq = le.Uint64(b)
		}
		return err
	})
	return seq, err
}

// headerSeq is where a segment header's payload has the segment.
const headerSeq = 36
