// Package logsample keeps a flood of like lines from filling the log. Of the lines of
// one level, logger and message in a span of time the first are written, then every so
// many'th. None goes silently: the next one that is written says how many before it were
// not, and they are counted by level.
package logsample

import (
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// LeftOut is the field that says how many lines like this one were not written since
// the last that was.
const LeftOut = "left_out"

// Settings of a Sampler.
type Settings struct {
	Every time.Duration // the span
	First int           // of a span are written; 0: all
	// Thereafter: of the others every so many'th.
	Thereafter int
}

// buckets bounds the memory: lines whose hashes meet are counted as one.
const buckets = 4096

// levels are Debug to Error: what is above ends the process, and is always written.
const levels = int(zapcore.ErrorLevel-zapcore.DebugLevel) + 1

// Sampler counts. Calls may be concurrent.
type Sampler struct {
	settings atomic.Pointer[Settings]
	buckets  [buckets]bucket
	dropped  [levels]atomic.Uint64
}

type bucket struct {
	end     atomic.Int64 // of the span, Unix nanoseconds
	count   atomic.Uint64
	leftOut atomic.Uint64
}

// New returns a Sampler.
func New(s Settings) *Sampler {
	n := &Sampler{}
	n.Set(s)
	return n
}

// Set changes the settings, for lines to come.
func (s *Sampler) Set(to Settings) { s.settings.Store(&to) }

// Dropped is how many lines of a level were not written.
func (s *Sampler) Dropped(level zapcore.Level) uint64 {
	if i := int(level - zapcore.DebugLevel); i >= 0 && i < levels {
		return s.dropped[i].Load()
	}
	return 0
}

// Wrap returns a core that writes to next what is not dropped.
func (s *Sampler) Wrap(next zapcore.Core) zapcore.Core { return &core{next, s} }

func (s *Sampler) bucket(e *zapcore.Entry) *bucket {
	h := xxhash.Sum64String(e.Message)*31 + xxhash.Sum64String(e.LoggerName)
	return &s.buckets[(h+uint64(e.Level))%buckets]
}

// keep reports whether a line is to be written.
func (s *Sampler) keep(e *zapcore.Entry) bool {
	o := s.settings.Load()
	i := int(e.Level - zapcore.DebugLevel)
	if o.First == 0 || i < 0 || i >= levels {
		return true
	}
	b := s.bucket(e)
	n := b.next(e.Time, o.Every)
	if first := uint64(o.First); n <= first || o.Thereafter > 0 && (n-first)%uint64(o.Thereafter) == 0 {
		return true
	}
	b.leftOut.Add(1)
	s.dropped[i].Add(1)
	return false
}

// next counts a line and returns its number in its span.
func (b *bucket) next(now time.Time, every time.Duration) uint64 {
	at, end := now.UnixNano(), b.end.Load()
	if at < end && end-at <= int64(every) { // else the clock was set back, or the span shortened
		return b.count.Add(1)
	}
	if b.end.CompareAndSwap(end, at+int64(every)) {
		b.count.Store(1)
		return 1
	}
	return b.count.Add(1) // another has begun the span just now
}

type core struct {
	zapcore.Core
	sampler *Sampler
}

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{c.Core.With(fields), c.sampler}
}

// Check implements zapcore.Core.
func (c *core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) || !c.sampler.keep(&e) {
		return checked
	}
	return checked.AddCore(e, c)
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if n := c.sampler.bucket(&e).leftOut.Swap(0); n > 0 {
		fields = append(fields[:len(fields):len(fields)], zap.Uint64(LeftOut, n))
	}
	return c.Core.Write(e, fields)
}
