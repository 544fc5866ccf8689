package wal

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/vfs"
)

// nativeLayout: frames back to back, and room behind the last one until the
// segment is sealed.
type nativeLayout struct{}

func (nativeLayout) name() string { return EngineNative }

func (nativeLayout) file() string { return "frames" }

func (nativeLayout) prefixLen(int) int { return 0 }

func (nativeLayout) appendPrefix(b []byte, _ int) []byte { return b }

func (nativeLayout) prefix([]byte) (n int, frame int64, err error) { return 0, -1, nil }

// complete: that a sealed file was cut to its end need not be on the disk.
func (nativeLayout) complete(end, size int64) bool { return size >= end }

func (nativeLayout) roomy() bool { return true }

// nativeEngine writes segments at their place in files that have their size
// already: what an fdatasync has to make durable is then the bytes alone, where a
// file that grows needs its size and its blocks noted, too. Zeros are written, not
// reserved, for what is only reserved has to be noted as written. Files of freed
// segments have all that already.
type nativeEngine struct {
	nativeLayout
	segmentBytes int64
	made         int64 // bytes that the last file was made for
}

// The first file of a start is small, so that a log that is opened for a few
// records is not made to wait for megabytes of zeros; each one after it is larger.
const (
	nativeFirstRoom  = 1 << 20
	nativeRoomGrowth = 4
)

var zeros [256 << 10]byte

func (e *nativeEngine) create(fsys vfs.FS, dir, spare string) (segmentFile, error) {
	e.made = min(max(e.made*nativeRoomGrowth, nativeFirstRoom), e.segmentBytes)
	path := filepath.Join(dir, e.file())
	name, flag := path, os.O_RDWR|os.O_CREATE|os.O_EXCL
	if spare != "" {
		name, flag = spare, os.O_RDWR
	}
	f, err := fsys.OpenFile(name, flag, 0o644)
	if err != nil {
		return nil, err
	}
	file := &nativeFile{file: f, size: e.made}
	if spare != "" {
		err = file.reuse(fsys, spare, path)
	} else {
		err = file.fill(0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file, nil
}

func (*nativeEngine) recycles() bool { return true }

func (*nativeEngine) writesAhead() bool { return true }

type nativeFile struct {
	file vfs.File
	size int64
	end  int64 // of what was appended
}

// reuse makes room of what a freed segment left in its file, and then gives it its
// new name: so that no file is ever found in the place of a segment that begins
// with the header of another one.
func (f *nativeFile) reuse(fsys vfs.FS, spare, path string) error {
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	f.size = max(f.size, info.Size())
	if _, err := f.file.WriteAt(zeros[:min(nativeBlank, f.size)], 0); err != nil {
		return err
	}
	if err := f.fill(min(max(info.Size(), nativeBlank), f.size)); err != nil {
		return err
	}
	return fsys.Rename(spare, path)
}

// nativeBlank is how much of a file's beginning is zeros before it gets the name
// of a segment.
const nativeBlank = 512

// fill writes zeros from an offset on to the end, and makes the file durable.
func (f *nativeFile) fill(at int64) error {
	for at < f.size {
		n, err := f.file.WriteAt(zeros[:min(f.size-at, int64(len(zeros)))], at)
		if err != nil {
			return err
		}
		at += int64(n)
	}
	return f.file.Sync()
}

// append writes zeros behind the frames, where the next one will be: what a freed
// segment left there would be taken for a torn frame.
func (f *nativeFile) append(b []byte, _ []int) error {
	n := int64(len(b))
	b = append(b, zeros[:min(appendSlack, max(f.size-f.end-n, 0))]...)
	if _, err := f.file.WriteAt(b, f.end); err != nil {
		return err
	}
	f.end += n
	return nil
}

func (f *nativeFile) sync() error {
	if failpoint.Enabled("wal-skip-sync") {
		return nil
	}
	return f.file.Datasync()
}

func (f *nativeFile) room() int64 { return f.size }

// seal gives the room that is left back. Nothing depends on that being durable.
func (f *nativeFile) seal() error {
	return errors.Join(f.file.Truncate(f.end), f.file.Close())
}

func (f *nativeFile) abandon() { _ = f.file.Close() } // it is not used again, whatever this says
