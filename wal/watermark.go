package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/vfs"
)

const (
	watermarkMagic    = 0x4d585057 // "WPXM"
	watermarkVersion  = 1
	watermarkSize     = 92
	watermarkSlotSize = 4096 // its own block: writing one slot cannot tear the other
	watermarkFileSize = 2 * watermarkSlotSize
)

// watermark is what a slot of the watermark file says. It is the witness for
// the end of the log while nothing is written after it.
type watermark struct {
	stream      uuid.UUID
	incarnation uuid.UUID
	slot        uint64 // counts writes; slot&1 is its place
	durable     LSN
	segment     uint64 // the active segment; 0: none was ever activated
	end         int64  // of that segment, when durable was reached
	first       uint64 // no segment from this one on was freed
	clean       bool   // nothing was written after it
}

// encode is the slot: 0 magic 4, 4 version 2, 6 clean 2, 8 stream 16,
// 24 incarnation 16, 40 slot 8, 48 durable 8, 56 segment 8, 64 end 8,
// 72 first 8, 80 reserved 8, 88 CRC32C 4; zeros to the end.
func (w watermark) encode() []byte {
	b := make([]byte, watermarkSlotSize)
	le.PutUint32(b, watermarkMagic)
	le.PutUint16(b[4:], watermarkVersion)
	if w.clean {
		b[6] = 1
	}
	copy(b[8:], w.stream[:])
	copy(b[24:], w.incarnation[:])
	le.PutUint64(b[40:], w.slot)
	le.PutUint64(b[48:], uint64(w.durable))
	le.PutUint64(b[56:], w.segment)
	le.PutUint64(b[64:], uint64(w.end))
	le.PutUint64(b[72:], w.first)
	le.PutUint32(b[88:], crc32.Checksum(b[:88], castagnoli))
	return b
}

func decodeWatermark(b []byte) (w watermark, ok bool) {
	if len(b) < watermarkSize || le.Uint32(b) != watermarkMagic || le.Uint16(b[4:]) != watermarkVersion ||
		le.Uint32(b[88:]) != crc32.Checksum(b[:88], castagnoli) {
		return watermark{}, false
	}
	w = watermark{
		stream:      uuid.UUID(b[8:24]),
		incarnation: uuid.UUID(b[24:40]),
		slot:        le.Uint64(b[40:]),
		durable:     LSN(le.Uint64(b[48:])),
		segment:     le.Uint64(b[56:]),
		end:         int64(le.Uint64(b[64:])),
		first:       le.Uint64(b[72:]),
		clean:       b[6] == 1,
	}
	return w, w.end >= 0
}

// newestWatermark returns the newest valid slot of the file's contents, of
// stream unless that is nil.
func newestWatermark(file []byte, stream uuid.UUID) (newest watermark, ok bool) {
	for at := 0; at+watermarkSize <= len(file); at += watermarkSlotSize {
		w, valid := decodeWatermark(file[at:])
		if valid && (stream == uuid.Nil || w.stream == stream) && (!ok || w.slot > newest.slot) {
			newest, ok = w, true
		}
	}
	return newest, ok
}

// newerWatermark is the version of an undamaged slot that this program does not
// know; 0: there is none.
func newerWatermark(file []byte) uint16 {
	for at := 0; at+watermarkSize <= len(file); at += watermarkSlotSize {
		b := file[at:]
		if v := le.Uint16(b[4:]); le.Uint32(b) == watermarkMagic && v > watermarkVersion &&
			le.Uint32(b[88:]) == crc32.Checksum(b[:88], castagnoli) {
			return v
		}
	}
	return 0
}

// createWatermark creates the file with both slots, durably but for its name.
func createWatermark(fsys vfs.FS, path string, stream uuid.UUID) error {
	b := append(watermark{stream: stream, first: 1}.encode(), watermark{stream: stream, slot: 1, first: 1}.encode()...)
	return writeSynced(fsys, path, b)
}

// loadWatermark reads the newest slot. A file without a valid one is damage: it
// exists before the first record and a torn write hits one slot only.
func loadWatermark(fsys vfs.FS, path string, stream uuid.UUID) (watermark, error) {
	b, err := vfs.ReadFile(fsys, path, watermarkFileSize)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, vfs.ErrTooLarge) {
		return watermark{}, err
	}
	w, ok := newestWatermark(b, stream)
	if version := newerWatermark(b); version != 0 {
		return watermark{}, fmt.Errorf("%w: watermark of an %w: %d", ErrFormat, ErrVersion, version)
	}
	if !ok {
		if err == nil {
			err = errors.New("neither slot is valid for this stream")
		}
		return watermark{}, &CorruptError{Segment: "watermark", Err: err}
	}
	return w, nil
}

// watermarkFile writes the watermark. Safe for concurrent use.
type watermarkFile struct {
	mu    sync.Mutex
	file  vfs.File
	last  watermark // written last, durably
	syncs uint64
}

func openWatermark(fsys vfs.FS, path string, last watermark) (*watermarkFile, error) {
	f, err := fsys.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &watermarkFile{file: f, last: last}, nil
}

// write makes what change returns durable, in as many slots as times says.
// change gets what was written last; returning it unchanged writes nothing.
func (f *watermarkFile) write(times int, change func(watermark) watermark) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := change(f.last)
	if next == f.last {
		return nil
	}
	return f.put(times, next)
}

// rewrite is write of one slot, even if it says what was written last.
func (f *watermarkFile) rewrite(change func(watermark) watermark) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.put(1, change(f.last))
}

// put makes next durable in so many slots. Under mu.
func (f *watermarkFile) put(times int, next watermark) error {
	for range times {
		next.slot = f.last.slot + 1
		if _, err := f.file.WriteAt(next.encode(), int64(next.slot&1)*watermarkSlotSize); err != nil {
			return fmt.Errorf("write the watermark: %w", err)
		}
		failpoint.Hit("wal-watermark")
		if err := f.file.Datasync(); err != nil {
			return fmt.Errorf("sync the watermark: %w", err)
		}
		f.syncs++
		f.last = next
	}
	return nil
}

func (f *watermarkFile) close() error { return f.file.Close() }
