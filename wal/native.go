package wal

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/vfs"
)

// nativeLayout: frames back to back, and zeros behind the last one until the
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
// reserved, for what is only reserved has to be noted as written.
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

func (e *nativeEngine) create(fsys vfs.FS, dir string) (segmentFile, error) {
	e.made = min(max(e.made*nativeRoomGrowth, nativeFirstRoom), e.segmentBytes)
	f, err := fsys.OpenFile(filepath.Join(dir, e.file()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	file := &nativeFile{file: f, size: e.made}
	if err := file.fill(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file, nil
}

type nativeFile struct {
	file vfs.File
	size int64
	end  int64 // of what was appended
}

// fill writes the room, durably.
func (f *nativeFile) fill() error {
	for at := int64(0); at < f.size; {
		n, err := f.file.WriteAt(zeros[:min(f.size-at, int64(len(zeros)))], at)
		if err != nil {
			return err
		}
		at += int64(n)
	}
	return f.file.Sync()
}

func (f *nativeFile) append(b []byte, _ []int) error {
	n, err := f.file.WriteAt(b, f.end)
	f.end += int64(n)
	return err
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
