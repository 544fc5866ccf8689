package wal

import (
	"fmt"
	"io/fs"

	"github.com/walproxy/walproxy/internal/vfs"
)

// The engines; see Options.Engine.
const (
	EngineTidwall = "tidwall"
	EngineNative  = "native"
)

// Engines lists the names that Options.Engine can have.
func Engines() []string { return []string{EngineTidwall, EngineNative} }

// engine stores the frames of segments. It decides how they get to the disk,
// not what they are: numbering, checksums, recovery and reading are the log's.
type engine interface {
	layout
	// create makes an empty segment in the existing, empty directory dir. It
	// runs in the background, one call at a time. What it leaves on disk must
	// not look like a segment header. The caller makes dir durable.
	//
	// spare, if it is not empty, is the file of a freed segment of this engine,
	// which nobody needs: it may be renamed into dir and be written over.
	create(fsys vfs.FS, dir, spare string) (segmentFile, error)
	// recycles reports whether create has a use for spares.
	recycles() bool
	// writesAhead reports whether append may be called while a sync of the same file is
	// under way, and does not wait for it.
	writesAhead() bool
}

// segmentFile is a segment open for writing. Calls are serial, but for an append during
// a sync, see engine.writesAhead: whether that sync makes it durable is not known. After
// an error only abandon may be called; what had begun before may go on.
type segmentFile interface {
	// append writes frames: they lie back to back in b, ends[i] is where frame
	// i ends. Nothing is durable yet. b may be reused after the call. Behind b there
	// is room for appendSlack bytes more, which it may write to.
	append(b []byte, ends []int) error
	// sync makes everything appended durable.
	sync() error
	// room is how many bytes the file is made for: more may be slow.
	room() int64
	// seal closes the file; everything appended was synced. It runs in the
	// background.
	seal() error
	// abandon lets go of the file without writing, syncing or waiting.
	abandon()
}

// layout says how an engine's frames lie in a segment's file. Segments of any
// engine are read by their layout alone.
type layout interface {
	// name is the engine's.
	name() string
	// file is the name of the file in the segment's directory.
	file() string
	// prefixLen is the number of bytes before a frame of n bytes.
	prefixLen(n int) int
	// appendPrefix appends what stands before a frame of n bytes.
	appendPrefix(b []byte, n int) []byte
	// prefix decodes what stands before a frame: the length of the prefix and
	// the frame's length, -1 if it does not say. b has maxPrefix bytes, fewer
	// at the end of the file.
	prefix(b []byte) (n int, frame int64, err error)
	// complete reports whether a file of size bytes can be a segment of which
	// the first end bytes were written.
	complete(end, size int64) bool
	// roomy reports whether room may follow the frames: zeros where the next one
	// will be, and behind them anything that is of no frame of this segment.
	roomy() bool
}

const maxPrefix = 10

// appendSlack: see segmentFile.append.
const appendSlack = frameHeaderSize

// layouts of all engines, by which existing segments are recognised.
var layouts = []layout{tidwallLayout{}, nativeLayout{}}

// layoutIn finds the layout of the segment in dir; nil if there is no file.
func layoutIn(entries []fs.DirEntry) layout {
	for _, e := range entries {
		for _, l := range layouts {
			if e.Name() == l.file() {
				return l
			}
		}
	}
	return nil
}

func newEngine(o Options) (engine, error) {
	switch o.Engine {
	case EngineTidwall:
		return &tidwallEngine{}, nil
	case EngineNative:
		return &nativeEngine{segmentBytes: o.SegmentBytes}, nil
	}
	return nil, fmt.Errorf("wal: unknown engine %q: there are %q", o.Engine, Engines())
}
