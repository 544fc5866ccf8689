package wal

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/vfs"
)

// RestoreOptions say whose records a restored log holds.
type RestoreOptions struct {
	Stream uuid.UUID
	// Incarnations of the records, oldest first, the first one at or below First.
	Incarnations []Point
	// First record to come; also of a log that holds none.
	First LSN
	// Boot is the caller's counter that the log is to know; 0: none.
	Boot uint64
	// SegmentBytes as in Options.
	SegmentBytes int64
	FS           vfs.FS // nil: the operating system's
}

// Restorer builds a log from records that come from elsewhere: the same stream,
// the same LSNs, the same incarnations, so that a sink that has applied some of
// them goes on behind those. A start of it begins a new incarnation, as every start
// does. Not for concurrent use.
type Restorer struct {
	fs      vfs.FS
	dir     string
	o       RestoreOptions
	all     incarnations
	next    LSN // of the next record
	seq     uint64
	b       builder
	file    vfs.File
	out     *bufio.Writer
	segment segmentHeader
}

// Restore begins a log in dir, which must not exist. It is a log once Close has
// returned nil; what an interrupted one leaves is to be removed.
func Restore(dir string, o RestoreOptions) (*Restorer, error) {
	setDefault(&o.SegmentBytes, 16<<20)
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	r := &Restorer{fs: o.FS, dir: dir, o: o, next: o.First}
	for _, p := range o.Incarnations {
		r.all = append(r.all, incarnation{p.Incarnation, p.LSN})
	}
	if err := r.all.validate(); err != nil {
		return nil, err
	}
	if o.Stream == uuid.Nil || o.First == 0 || r.all[0].first > o.First {
		return nil, fmt.Errorf("wal: stream %s, first LSN %d, incarnations from LSN %d on cannot be restored", o.Stream, o.First, r.all[0].first)
	}
	if _, err := o.FS.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("wal: %s exists already", dir), err)
	}
	s := r.start()
	for _, d := range []string{s.segmentsDir(), s.trashDir(), s.quarantineDir()} {
		if err := o.FS.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	return r, r.roll(segmentEnd{last: o.First - 1})
}

func (r *Restorer) start() *start { return &start{dir: r.dir, fs: r.fs} }

// Record adds the next record.
func (r *Restorer) Record(lsn LSN, payload []byte) error {
	if len(payload) > maxRecordLimit {
		return fmt.Errorf("%w: LSN %d has %d bytes", ErrTooLarge, lsn, len(payload))
	}
	if err := r.room(lsn, int64(len(payload))+frameHeaderSize+maxPrefix); err != nil {
		return err
	}
	r.next = lsn + 1
	return r.b.frame(Frame{LSN: lsn, Last: lsn, Durable: lsn - 1, Payload: payload})
}

// Gap says that the records from first, the next, to last are lost.
func (r *Restorer) Gap(first, last LSN) error {
	for first <= last {
		if err := r.room(first, frameHeaderSize+gapPayloadSize+maxPrefix); err != nil {
			return err
		}
		end := last
		for _, in := range r.all { // a gap ends with its incarnation
			if in.first > first && in.first <= end {
				end = in.first - 1
			}
		}
		if err := r.b.gap(lsnRun{first, end}); err != nil {
			return err
		}
		first, r.next = end+1, end+1
	}
	return nil
}

// room begins another segment if lsn is of another incarnation than the one before,
// or size bytes are too many for this one.
func (r *Restorer) room(lsn LSN, size int64) error {
	if lsn != r.next {
		return fmt.Errorf("wal: LSN %d cannot follow %d", lsn, r.next-1)
	}
	id, _ := r.all.at(lsn)
	full := r.b.end.offset+size > r.o.SegmentBytes && lsn > r.segment.base
	if id == r.segment.incarnation() && !full {
		return nil
	}
	if err := r.finish(); err != nil {
		return err
	}
	return r.roll(r.b.end)
}

// roll begins the next segment.
func (r *Restorer) roll(pred segmentEnd) error {
	r.seq++
	known := r.all
	for len(known) > 1 && known[len(known)-1].first > r.next {
		known = known[:len(known)-1]
	}
	layout := tidwallLayout{}
	r.segment = segmentHeader{stream: r.o.Stream, seq: r.seq, base: r.next, boot: r.o.Boot, pred: pred, incarnations: known.keptFrom(r.o.First)}
	dir := filepath.Join(r.start().segmentsDir(), segmentName(r.seq))
	if err := r.fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file, err := r.fs.OpenFile(filepath.Join(dir, layout.file()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	r.file, r.out = file, bufio.NewWriterSize(onlyWriter{file}, scanBufferSize)
	r.b = builder{out: r.out, layout: layout, seed: r.segment.seed()}
	return r.b.header(r.segment)
}

// finish makes the segment durable.
func (r *Restorer) finish() error {
	if r.file == nil {
		return nil
	}
	err := r.out.Flush()
	if err == nil {
		err = r.file.Sync()
	}
	err = errors.Join(err, r.file.Close())
	r.file = nil
	if err != nil {
		return err
	}
	return r.fs.SyncDir(filepath.Join(r.start().segmentsDir(), segmentName(r.seq)))
}

// Close completes the log, durably but for the entry of its directory.
func (r *Restorer) Close() error {
	if err := r.finish(); err != nil {
		return err
	}
	s := r.start()
	m := watermark{stream: r.o.Stream, incarnation: r.segment.incarnation(), durable: r.b.end.last, segment: r.seq,
		end: r.b.end.offset, first: 1, clean: true}
	older := m
	m.slot++
	if err := writeSynced(r.fs, s.watermarkPath(), append(older.encode(), m.encode()...)); err != nil {
		return err
	}
	if err := r.fs.SyncDir(s.segmentsDir()); err != nil {
		return err
	}
	if err := writeSynced(r.fs, filepath.Join(r.dir, "FORMAT"), encodeFormat(formatVersion, r.o.Stream)); err != nil {
		return err
	}
	return r.fs.SyncDir(r.dir)
}

// Abandon lets go of the files of a log that will not be completed.
func (r *Restorer) Abandon() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}
