// Package recent keeps the last warnings and errors that were logged, for who looks at
// the status page.
package recent

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap/zapcore"
)

// Entry is one line of the log.
type Entry struct {
	Time    time.Time      `json:"time"`
	Level   string         `json:"level"`
	Logger  string         `json:"logger,omitempty"`
	Message string         `json:"message"`
	Fields  map[string]any `json:"fields,omitempty"`
}

// textMax bounds what is kept of a message or a field, in bytes.
const textMax = 1 << 10

// Log keeps a bounded number of entries. Calls may be concurrent; a nil Log has none.
type Log struct {
	mu      sync.Mutex
	entries []Entry // the oldest first
	most    int
}

// New returns a Log that keeps the last most entries.
func New(most int) *Log { return &Log{most: most} }

// Entries are the last entries, the newest first.
func (l *Log) Entries() []Entry {
	if l == nil {
		return []Entry{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	out := slices.Clone(l.entries)
	slices.Reverse(out)
	return append([]Entry{}, out...)
}

func (l *Log) add(e Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == l.most {
		l.entries = slices.Delete(l.entries, 0, 1)
	}
	l.entries = append(l.entries, e)
}

// Tee returns a core that writes to both: to next as it would, and warnings and errors
// to l, whatever next's level and sampling are.
func (l *Log) Tee(next zapcore.Core) zapcore.Core {
	return zapcore.NewTee(next, &core{log: l})
}

type core struct {
	log    *Log
	fields []zapcore.Field
}

// Enabled implements zapcore.Core.
func (c *core) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{c.log, slices.Concat(c.fields, fields)}
}

// Check implements zapcore.Core.
func (c *core) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// Write implements zapcore.Core.
func (c *core) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(c.fields, fields) {
		f.AddTo(encoder)
	}
	for name, value := range encoder.Fields {
		switch v := value.(type) {
		case string:
			encoder.Fields[name] = clip(v)
		case time.Duration:
			encoder.Fields[name] = v.String()
		}
	}
	c.log.add(Entry{Time: entry.Time, Level: entry.Level.String(), Logger: entry.LoggerName, Message: clip(entry.Message), Fields: encoder.Fields})
	return nil
}

// Sync implements zapcore.Core.
func (c *core) Sync() error { return nil }

func clip(text string) string {
	if len(text) > textMax {
		return text[:textMax] + "..."
	}
	return text
}
