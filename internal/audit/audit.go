// Package audit keeps a record in the data directory of what people destroyed or
// accepted: who, when, what, how much.
//
// It is the file audit.log, one JSON object a line, never changed but at its end.
// An action has two lines with one id, both fsync'd: "begin" before it is done and
// "done" or "failed" after it, so that a crash cannot hide it; a begin without an
// end may have happened. At 1 MiB the file becomes audit.log.1, and so on; the four
// before it are kept.
package audit

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/vfs"
)

// Name of the file.
const Name = "audit.log"

const (
	fileBytesMax  = 1 << 20
	filesKept     = 4
	entryBytesMax = 16 << 10
	textBytesMax  = 2 << 10
)

// Phases of an action.
const (
	Begin  = "begin"
	Done   = "done"
	Failed = "failed"
)

// ErrUnwritten: the line could not be written. Do did nothing, or did it and says so.
var ErrUnwritten = errors.New("the audit file cannot be written")

// Entry is one line.
type Entry struct {
	Time  time.Time `json:"time"`
	ID    string    `json:"id"`    // of the action
	Phase string    `json:"phase"` // Begin, Done, Failed
	// Action is the command's name: "sink forget".
	Action string `json:"action"`
	Sink   string `json:"sink,omitempty"`
	Who    string `json:"who"`
	// Via is how it was asked for: "command", "api from 127.0.0.1:40312".
	Via string `json:"via"`
	PID int    `json:"pid"`
	// Counts of what was given up or accepted: "records", "dead_letters", "bytes".
	Counts map[string]uint64 `json:"counts,omitempty"`
	// Detail for people; it is cut at 2 KiB.
	Detail string `json:"detail,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Log appends to the file of one data directory. Calls may be concurrent; one
// process at a time has the directory.
type Log struct {
	dir    string
	logger *zap.Logger
	fs     vfs.FS
	bytes  int64 // where a file is full

	mu sync.Mutex // one line at a time
}

// New returns the log of dataDir, which it does not touch yet. Each line goes to
// logger, too; nil: nowhere.
func New(dataDir string, logger *zap.Logger) *Log {
	if logger == nil {
		logger = zap.NewNop()
	}
	return &Log{dir: dataDir, logger: logger, fs: vfs.OS(), bytes: fileBytesMax}
}

// Do notes that e begins, has action do it, and notes how it ended. If it cannot be
// noted it is not done. action may add to e what is known only then.
func (l *Log) Do(e Entry, action func(e *Entry) error) error {
	if err := l.begin(&e); err != nil {
		return err
	}
	return l.end(e, action(&e))
}

// Begin is the first half of Do; end is the second, with how it ended, and returns
// that.
func (l *Log) Begin(e Entry) (end func(error) error, err error) {
	if err := l.begin(&e); err != nil {
		return nil, err
	}
	return func(err error) error { return l.end(e, err) }, nil
}

func (l *Log) begin(e *Entry) error {
	e.ID = rand.Text()[:12]
	e.PID = os.Getpid()
	if e.Who == "" {
		e.Who = Who()
	}
	if e.Via == "" {
		e.Via = "command"
	}
	e.Phase = Begin
	if err := l.append(*e); err != nil {
		return fmt.Errorf("nothing was done: %w: %w", ErrUnwritten, err)
	}
	return nil
}

func (l *Log) end(e Entry, err error) error {
	e.Phase = Done
	if err != nil {
		e.Phase, e.Error = Failed, err.Error()
	}
	if noteErr := l.append(e); noteErr != nil {
		err = errors.Join(err, fmt.Errorf("it ended, but %w: %w", ErrUnwritten, noteErr))
	}
	return err
}

// append writes one line, durably.
func (l *Log) append(e Entry) (err error) {
	e.Time = time.Now().UTC()
	e.Detail, e.Error = clip(e.Detail), clip(e.Error)
	line, err := json.Marshal(e)
	if err == nil && len(line) > entryBytesMax {
		err = fmt.Errorf("audit: an entry of %d bytes", len(line))
	}
	if err != nil {
		return err
	}
	l.logger.Warn("audit", zap.String("action", e.Action), zap.String("phase", e.Phase), zap.String("id", e.ID), zap.String("sink", e.Sink),
		zap.String("who", e.Who), zap.String("via", e.Via), zap.Any("counts", e.Counts), zap.String("detail", e.Detail), zap.String("error", e.Error))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.rotate(int64(len(line) + 2)); err != nil {
		return err
	}
	name := filepath.Join(l.dir, Name)
	f, err := l.fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if torn(f, info.Size()) { // what a crash left of a line stays a line of its own
		line = append([]byte{'\n'}, line...)
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return l.fs.SyncDir(l.dir)
}

func torn(f vfs.File, size int64) bool {
	var last [1]byte
	if size == 0 {
		return false
	}
	_, err := f.ReadAt(last[:], size-1)
	return err != nil || last[0] != '\n'
}

// rotate makes room for so many more bytes.
func (l *Log) rotate(more int64) error {
	name := filepath.Join(l.dir, Name)
	info, err := l.fs.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.Size()+more <= l.bytes {
		return err
	}
	for n := filesKept; n > 0; n-- { // the last is overwritten
		from := name
		if n > 1 {
			from = name + "." + strconv.Itoa(n-1)
		}
		if err := l.fs.Rename(from, name+"."+strconv.Itoa(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return l.fs.SyncDir(l.dir)
}

// Read returns what the files of dataDir hold, the oldest first. Lines that cannot be
// read, as a crash leaves them, are passed over.
func Read(dataDir string) (entries []Entry, err error) {
	for n := filesKept; n >= 0; n-- {
		name := filepath.Join(dataDir, Name)
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		text, err := vfs.ReadFile(vfs.OS(), name, 2*fileBytesMax)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return entries, err
		}
		for line := range bytes.Lines(text) {
			var e Entry
			if json.Unmarshal(line, &e) == nil {
				entries = append(entries, e)
			}
		}
	}
	return entries, nil
}

// Who names the person behind this process: user@host, and who sudo knows.
func Who() string {
	name := "uid " + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if by := os.Getenv("SUDO_USER"); by != "" {
		name += " (sudo by " + by + ")"
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return name + "@" + host
}

func clip(text string) string {
	if len(text) > textBytesMax {
		return text[:textBytesMax] + "..."
	}
	return text
}
