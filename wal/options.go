package wal

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/vfs"
)

// Options of Open; the zero value is the default.
type Options struct {
	// Engine stores the frames: EngineNative (default) or EngineTidwall. A log that
	// one of them wrote is read, and gone on with, by the other.
	Engine string
	// SegmentBytes is where a segment is sealed and the next begun. 16 MiB.
	SegmentBytes int64
	// MaxBytes bounds the log and ExtraBytes together. 64 GiB.
	MaxBytes int64
	// MinFree bytes stay free on the file system; -1: no floor. 2 GiB.
	MinFree int64
	// ExtraBytes returns bytes beside the log that count towards MaxBytes. It
	// is called after Attach, from several goroutines, with no lock held.
	ExtraBytes func() int64
	// GroupBytes caps a group commit, and the queue of records waiting for the
	// next one. A larger record makes a group of its own. 4 MiB.
	GroupBytes int
	// MaxRecordBytes is the largest payload. 16 MiB.
	MaxRecordBytes int
	// Attach, if set, ties the caller's own state to the log. Open calls it
	// once, under the lock, as soon as the stream is known and whether the log
	// ever held a record: for a new log before FORMAT is written (so that an
	// error leaves no new log behind), else after the tail was judged and before
	// the first segment of this start is begun. boot is a counter that the
	// caller keeps durably elsewhere and raises at every start; newest is the
	// one in the newest segment header (0: none). A caller that keeps a lower
	// one has state older than the log, and should refuse before it raises it;
	// Open returns ErrBoot unless boot is above newest. An error of Attach ends
	// Open with it.
	Attach func(stream uuid.UUID, empty bool, newest uint64) (boot uint64, err error)
	// FS is what the log's files are on; nil: the operating system's.
	FS     vfs.FS
	Logger *zap.Logger // nil: none

	// wrapEngine lets tests come between the log and its engine.
	wrapEngine func(engine) engine
}

// defaultEngine is what Options.Engine is by default. Only tests change it.
var defaultEngine = EngineNative

const (
	maxRecordLimit = 1 << 30
	maxGroupCount  = 16384 // records in a group
)

func (o Options) withDefaults() (Options, error) {
	setDefault(&o.Engine, defaultEngine)
	setDefault(&o.SegmentBytes, 16<<20)
	setDefault(&o.MaxBytes, 64<<30)
	setDefault(&o.MinFree, 2<<30)
	setDefault(&o.GroupBytes, 4<<20)
	setDefault(&o.MaxRecordBytes, 16<<20)
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o, o.validate()
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

func (o Options) validate() error {
	var errs []error
	check := func(ok bool, name string, value int64, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("wal: %s is %d: %s", name, value, want))
		}
	}
	check(o.SegmentBytes > 0, "SegmentBytes", o.SegmentBytes, "want more than 0")
	check(o.MaxBytes > 0, "MaxBytes", o.MaxBytes, "want more than 0")
	check(o.MinFree >= -1, "MinFree", o.MinFree, "want bytes, or -1 for no floor")
	check(o.GroupBytes > 0 && o.GroupBytes <= maxRecordLimit, "GroupBytes", int64(o.GroupBytes), "want 1 to 1 GiB")
	check(o.MaxRecordBytes > 0 && o.MaxRecordBytes <= maxRecordLimit, "MaxRecordBytes", int64(o.MaxRecordBytes), "want 1 to 1 GiB")
	return errors.Join(errs...)
}
