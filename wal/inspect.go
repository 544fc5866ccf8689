package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/vfs"
)

// ErrNoLog: there is no log in the directory, nor anything left of one.
var ErrNoLog = errors.New("wal: no log here")

// errChanged: somebody wrote while it was looked at.
var errChanged = errors.New("changed meanwhile")

// InspectOptions of Inspect; the zero value is the default.
type InspectOptions struct {
	// FS is what the log's files are on; nil: the operating system's.
	FS vfs.FS
	// From, if set, leaves out the segments below the one that holds it.
	From LSN
}

// Inspection is what lies in a log's directory, as Inspect found it. Its
// contents do not change; its methods may be called concurrently.
type Inspection struct {
	Dir    string // absolute
	Stream uuid.UUID
	// Owner has the log open; nil: nobody has. Then the last segment ends for the
	// Inspection at Durable, and segments may be freed while they are read.
	Owner *LockedError
	// Refusal is what Open would refuse the log with if nobody had it open; nil:
	// it would open it. While it is being written, its tail is not judged.
	Refusal error
	// Damage is what is wrong with the directory itself: FORMAT, the watermark.
	// What is wrong with a segment is in Segment.Damage, and in Frames.
	Damage []error
	// First and Last record, as far as headers and the tail tell; First = Last+1
	// without any.
	First, Last LSN
	// Durable is the highest LSN that something on disk says was fsync'd. Records
	// above it may never have been acknowledged.
	Durable LSN
	// Clean: the log was closed in order, and nothing was written since.
	Clean bool
	// Incarnations of the records kept, oldest first, each with its first LSN.
	Incarnations []Point
	// Segments in order, the missing ones too.
	Segments []*Segment
	// Aside is what is in trash/ and quarantine/.
	Aside []Aside

	start *start
}

// Aside is a file or directory that is out of the log.
type Aside struct {
	Path     string // relative to the log's directory
	State    SegmentState
	Bytes    int64
	Modified time.Time
}

const inspectAttempts = 50

// Inspect looks at the log in dir without its lock, and changes nothing. A server
// may be running on it, and anything may be damaged: errors are only ErrNoLog,
// ErrVersion and those of the file system. It uses what Open uses to find the
// segments and to judge the tail, so that Refusal is Open's own word; it reads
// the segments' headers and the last segment.
//
// For a repair: call it with the lock held (Lock), which keeps every server
// away. Refusal says whether there is anything to do. Then Frames goes through
// everything that can still be read, in order of the LSNs, and between the
// frames through what cannot: *CorruptError with its place, and *TornTailError
// at most once, at the end. LSNs from First on that no frame covers (LSN to
// Last) are lost; those up to Durable were acknowledged, those above are
// doubtful. Highest says above which LSN to go on.
func Inspect(dir string, o InspectOptions) (*Inspection, error) {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		in := &Inspection{Dir: dir}
		in.start = &start{dir: dir, fs: o.FS, log: zap.NewNop(), inspects: true, from: o.From}
		err := in.look()
		gone := in.Owner != nil && errors.Is(err, fs.ErrNotExist) // a fast server has freed what was listed
		if n < inspectAttempts && (gone || errors.Is(err, errChanged)) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return in, nil
	}
}

// look takes one look. errChanged: look again.
func (in *Inspection) look() error {
	s := in.start
	owner, err := in.owner()
	if err != nil {
		return err
	}
	in.Owner = owner
	if err := in.format(); err != nil {
		return err
	}
	begun, err := s.repairing()
	if err != nil {
		return err
	}
	if begun != nil {
		in.refuse(begun)
	}
	before, err := in.watermark()
	if err != nil {
		return err
	}
	s.mark = before
	if err := s.find(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	after, err := in.watermark()
	if err != nil {
		return err
	}
	if in.Owner == nil {
		if in.Owner, err = in.owner(); err != nil {
			return err
		}
		if in.Owner == nil && before != after {
			return errChanged
		}
	}
	if in.Owner != nil && before.segment < after.first {
		return errChanged // all that was there is freed
	}
	s.forget(after.first)
	// What was active before was listed; what is freed by now is allowed to lack.
	s.mark = before
	s.mark.first = max(before.first, after.first)
	if s.partial {
		s.mark.first = 0
	}
	if err := in.judge(); err != nil {
		return err
	}
	return in.lookAside()
}

// forget drops segments below first that are not what they were: they are freed,
// and what was found in their place may be another one by now.
func (s *start) forget(first uint64) {
	freed := func(f *found) bool { return f.err != nil && f.seq < first }
	s.segments = slices.DeleteFunc(s.segments, freed)
	s.unborn = slices.DeleteFunc(s.unborn, freed)
}

func (in *Inspection) owner() (*LockedError, error) {
	path := filepath.Join(in.Dir, lockFile)
	held, err := in.start.fs.Locked(path)
	if err != nil || !held {
		return nil, err
	}
	return lockedError(in.start.fs, path), nil
}

// format finds the stream. If FORMAT does not tell, what else is there does.
func (in *Inspection) format() error {
	s := in.start
	path := filepath.Join(s.dir, "FORMAT")
	stream, err := readFormat(s.fs, path)
	if errors.Is(err, ErrVersion) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.nothingBeside(path); err == nil {
			return fmt.Errorf("%w: %s", ErrNoLog, s.dir)
		}
	}
	if err != nil && !errors.Is(err, ErrFormat) {
		return err
	}
	if err != nil {
		in.refuse(err)
		if stream, err = s.guessStream(); err != nil {
			return err
		}
	}
	in.Stream, s.stream = stream, stream
	return nil
}

// refuse notes damage of the directory.
func (in *Inspection) refuse(err error) {
	in.Damage = append(in.Damage, err)
	if in.Refusal == nil {
		in.Refusal = err
	}
}

// guessStream finds the stream without FORMAT: the watermark names it, and so
// does every segment's header. Zero: nothing does.
func (s *start) guessStream() (uuid.UUID, error) {
	b, err := vfs.ReadFile(s.fs, s.watermarkPath(), watermarkFileSize)
	if m, ok := newestWatermark(b, uuid.Nil); err == nil && ok {
		return m.stream, nil
	}
	entries, err := s.fs.ReadDir(s.segmentsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return uuid.Nil, err
	}
	for _, e := range entries {
		seq, ok := parseSegmentName(e.Name())
		if !ok || !e.IsDir() {
			continue
		}
		stream, err := s.streamIn(filepath.Join(s.segmentsDir(), e.Name()), seq)
		if err != nil && !errors.Is(err, fs.ErrNotExist) || stream != uuid.Nil {
			return stream, err
		}
	}
	return uuid.Nil, nil
}

// streamIn is the stream that the header of the segment in dir names, if it
// verifies with it.
func (s *start) streamIn(dir string, seq uint64) (stream uuid.UUID, err error) {
	entries, err := s.fs.ReadDir(dir)
	layout := layoutIn(entries)
	if err != nil || layout == nil {
		return uuid.Nil, err
	}
	err = withFile(s.fs, filepath.Join(dir, layout.file()), func(file vfs.File, size int64) error {
		sc := scanner{file: file, layout: layout, limit: size}
		for prefix := range int64(maxPrefix) {
			b, err := sc.peek(prefix+frameHeaderSize+headerStream, 16)
			if err != nil || len(b) < 16 {
				return err
			}
			guess := uuid.UUID(bytes.Clone(b))
			if _, _, err := sc.header(guess, seq); err == nil {
				stream = guess
				return nil
			}
		}
		return nil
	})
	return stream, err
}

// watermark reads the watermark; damage is noted. A slot that is being written
// is not damage, but both cannot be for long.
func (in *Inspection) watermark() (m watermark, err error) {
	s := in.start
	for range inspectAttempts {
		if m, err = loadWatermark(s.fs, s.watermarkPath(), s.stream); err == nil || in.Owner == nil {
			break
		}
	}
	if corrupt, ok := errors.AsType[*CorruptError](err); ok {
		known := func(e error) bool {
			c, ok := errors.AsType[*CorruptError](e)
			return ok && c.Segment == corrupt.Segment
		}
		if !slices.ContainsFunc(in.Damage, known) {
			in.refuse(corrupt)
		}
		return watermark{}, nil
	}
	return m, err
}

// lookAside lists what is out of the log.
func (in *Inspection) lookAside() error {
	for _, d := range []struct {
		path  string
		state SegmentState
	}{{in.start.quarantineDir(), StateQuarantined}, {in.start.trashDir(), StateTrash}} {
		entries, err := in.start.fs.ReadDir(d.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			a := Aside{Path: filepath.Join(filepath.Base(d.path), e.Name()), State: d.state}
			if err := in.measure(&a, filepath.Join(d.path, e.Name())); errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			} else if err != nil {
				return err
			}
			in.Aside = append(in.Aside, a)
		}
	}
	return nil
}

// measure sums up a file, or the files of a directory.
func (in *Inspection) measure(a *Aside, path string) error {
	info, err := in.start.fs.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		a.Bytes += info.Size()
		if info.ModTime().After(a.Modified) {
			a.Modified = info.ModTime()
		}
		return nil
	}
	entries, err := in.start.fs.ReadDir(path)
	for _, e := range entries {
		err = errors.Join(err, in.measure(a, filepath.Join(path, e.Name())))
	}
	return err
}

// Highest is an LSN above which none was ever given out, as far as the disk
// tells: of the last frame that can be found, of the watermark, of headers.
func (in *Inspection) Highest() LSN {
	highest := max(in.Last, in.Durable)
	for _, seg := range in.Segments {
		highest = max(highest, seg.Last)
		for _, c := range seg.Damage {
			highest = max(highest, c.Last)
		}
	}
	return highest
}
