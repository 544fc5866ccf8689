package wal

import (
	"encoding/binary"
	"math"
	"math/bits"

	tidwall "github.com/tidwall/wal"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/vfs"
)

// tidwallLayout: v1.2.1 writes each entry as uvarint length and data
// (appendBinaryEntry) to a file named by the first index.
type tidwallLayout struct{}

func (tidwallLayout) name() string { return EngineTidwall }

func (tidwallLayout) file() string { return "00000000000000000001" }

func (tidwallLayout) prefixLen(n int) int { return (bits.Len64(uint64(n)|1) + 6) / 7 }

func (tidwallLayout) prefix(b []byte) (int, int64, error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > math.MaxInt64 {
		return 0, 0, errPrefix
	}
	return n, int64(size), nil
}

func (tidwallLayout) complete(end, size int64) bool { return end == size }

func (tidwallLayout) roomy() bool { return false }

// tidwallEngine keeps one tidwall log per segment and uses of it only what is
// safe: create in an empty directory, WriteBatch, Sync, Close. It never opens
// an existing log (Open fails on a torn tail and cleans up as it goes) and never
// calls Read (two at once race).
type tidwallEngine struct {
	tidwallLayout
	batch tidwall.Batch // of the committer, reused from segment to segment
}

func (e *tidwallEngine) create(_ vfs.FS, dir, _ string) (segmentFile, error) {
	log, err := tidwall.Open(dir, &tidwall.Options{
		NoSync:           true, // write and fsync are separate steps here
		SegmentSize:      math.MaxInt,
		LogFormat:        tidwall.Binary,
		SegmentCacheSize: 1,
		DirPerms:         0o755,
		FilePerms:        0o644,
	})
	if err != nil {
		return nil, err
	}
	return &tidwallFile{engine: e, log: log}, nil
}

func (*tidwallEngine) recycles() bool { return false }

// writesAhead: one lock is around its writes and its syncs.
func (*tidwallEngine) writesAhead() bool { return false }

type tidwallFile struct {
	engine *tidwallEngine
	log    *tidwall.Log
	index  uint64 // of the last entry
}

func (f *tidwallFile) append(b []byte, ends []int) error {
	batch := &f.engine.batch
	batch.Clear()
	start := 0
	for _, end := range ends {
		f.index++
		batch.Write(f.index, b[start:end])
		start = end
	}
	return f.log.WriteBatch(batch)
}

func (f *tidwallFile) sync() error {
	if failpoint.Enabled("wal-skip-sync") {
		return nil
	}
	return f.log.Sync()
}

func (f *tidwallFile) room() int64 { return math.MaxInt64 }

func (f *tidwallFile) seal() error { return f.log.Close() }

// abandon: Close would fsync. The descriptor goes with the handle, when the
// garbage collector finds it.
func (f *tidwallFile) abandon() { f.log = nil }
