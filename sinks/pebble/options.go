package pebble

import (
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/pebblekit"
)

// Options of Open; the zero value means the defaults. Memory stays near
// CacheBytes + memTableCount*MemTableBytes whatever the size of the store, plus
// the batches being applied.
type Options struct {
	CacheBytes    int64 // block cache, default 32 MiB
	MemTableBytes int   // one memtable, default 8 MiB; up to four exist
	OpenFiles     int   // file handles kept open, default 500
	Reads         int   // reads running at once, default 256; more wait for their turn
	// ReadOnly changes nothing on disk, and makes no store where there is none:
	// Position, Identity and reads work, Resume and Apply fail.
	ReadOnly bool

	// Now is the clock that reads judge expiry by; default time.Now. What Apply
	// does never depends on it.
	Now    func() time.Time
	Logger *zap.Logger // nil logs nothing

	fs        vfs.FS        // tests: default is the operating system's
	lookEvery time.Duration // tests: default is lookEvery
}

// memTableCount memtables may exist before writes wait for a flush.
const memTableCount = 4

func (o Options) withDefaults() Options {
	if o.CacheBytes <= 0 {
		o.CacheBytes = 32 << 20
	}
	if o.MemTableBytes <= 0 {
		o.MemTableBytes = 8 << 20
	}
	if o.OpenFiles <= 0 {
		o.OpenFiles = 500
	}
	if o.Reads <= 0 {
		o.Reads = 256
	}
	if o.fs == nil {
		o.fs = vfs.Default
	}
	if o.lookEvery == 0 {
		o.lookEvery = lookEvery
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// pebbleOptions translates o, whose defaults are filled in.
func (o Options) pebbleOptions(fs vfs.FS, background func(error)) *pebble.Options {
	po := &pebble.Options{
		CacheSize:                   o.CacheBytes,
		MemTableSize:                uint64(o.MemTableBytes),
		MemTableStopWritesThreshold: memTableCount,
		MaxOpenFiles:                o.OpenFiles,
		FormatMajorVersion:          pebble.FormatNewest,
		ReadOnly:                    o.ReadOnly,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       24,
		CompactionConcurrencyRange:  func() (lower, upper int) { return 1, 2 },
		Logger:                      pebblekit.NewLogger(o.Logger),
		EventListener:               listener(o.Logger, background),
		FS:                          fs,
	}
	// The levels below inherit it: a read of an absent key costs no disk access.
	po.Levels[0].FilterPolicy = bloom.FilterPolicy(10)
	return po
}

// listener logs what an operator has to know, and tells background of flushes
// and compactions that fail (and, with nil, of a flush that works). Corruption is
// reported here and returned by whoever read the damaged block; Pebble's default
// would end the process.
func listener(log *zap.Logger, background func(error)) *pebble.EventListener {
	var last atomic.Int64 // Unix seconds of the last background error logged
	return &pebble.EventListener{
		BackgroundError: func(err error) { // Pebble retries, and says so each time
			background(err)
			if now := time.Now().Unix(); last.Swap(now) != now {
				log.Error("background work of the store failed", zap.Error(err))
			}
		},
		FlushEnd: func(i pebble.FlushInfo) {
			if i.Err == nil {
				background(nil)
			}
		},
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			log.Error("the store is damaged", zap.String("file", i.Path), zap.Error(i.Details))
		},
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) {
			log.Warn("writes wait for the store's compaction", zap.String("reason", i.Reason))
		},
		WriteStallEnd: func() { log.Info("writes go on") },
	}
}
