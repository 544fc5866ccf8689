// Package walproxy is the embedded mode: a durable log in front of the stores
// that the caller passes in.
//
// A write is framed, appended to a local log and fsync'd; only then does Append
// return. Loops behind the log apply it to the sinks in batches. After a crash
// at any instant Open replays, from each sink's own checkpoint, what was not
// applied yet.
//
//	Append ──► log (fsync) ──► ack
//	             │
//	             └──► loop per sink ──► batches ──► store + checkpoint ──► space freed
//
// Importing this package pulls in no network server and no driver of a store:
// sinks are separate packages (sinks/pebble and others), or the caller's own
// type, tested with sinks/sinktest.
package walproxy

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/internal/unfinished"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// LSN is the position of a write in the log, and the version that it gives to
// the record it writes.
type LSN = wal.LSN

var (
	// ErrClosed is returned by every call after Close began.
	ErrClosed = errors.New("walproxy: closed")
	// ErrUnfinished: Options.Dir holds what an interrupted restore or import left, and no log.
	ErrUnfinished = unfinished.Err
	// ErrUnknownLSN is returned for an LSN that was not given out yet.
	ErrUnknownLSN = errors.New("walproxy: no such LSN yet")
	// ErrHalted is returned when a call needs a sink that has halted; it wraps why.
	ErrHalted = errors.New("walproxy: the sink has halted")
	// ErrPaused is returned when a call needs a sink that is paused.
	ErrPaused = errors.New("walproxy: the sink is paused")
	// ErrConflict: a precondition does not hold; *ConflictError has the version.
	ErrConflict = accept.ErrConflict
	// ErrRequestMismatch: the request id was used with another payload.
	ErrRequestMismatch = accept.ErrRequestMismatch
	// ErrUnroutable: no route takes the collection.
	ErrUnroutable = accept.ErrUnroutable
	// ErrVersionUnknown: the store did not say a record's version, so that a
	// precondition could not be checked; nothing was logged.
	ErrVersionUnknown = accept.ErrVersionUnknown
	// ErrNoReader: the sink that would answer reads cannot.
	ErrNoReader = accept.ErrNoReader
	// ErrDirect: the collection is written past the log just now, see Direct; nothing
	// was logged.
	ErrDirect = accept.ErrDirect
)

// ErrParked: the key has acknowledged writes among the dead letters of the sink
// that answers; *ParkedError says which.
var ErrParked = accept.ErrParked

// ParkedError names the dead letter that parks a key.
type ParkedError = accept.ParkedError

// ErrBehind: a sink that the write is routed to has reached its MaxLagBytes;
// *BehindError says which. Nothing was logged: try again later.
var ErrBehind = accept.ErrBehind

// BehindError names the sink that holds up a write.
type BehindError = accept.BehindError

// ConflictError says what a record's version is.
type ConflictError = accept.ConflictError

// Options of Open. Dir and Sinks are required; the zero value of everything
// else is its default.
type Options struct {
	// Dir holds the log and the state store. One process at a time.
	Dir string
	// Log bounds and tunes the log. Open fills in what ties it to the rest:
	// Attach, ExtraBytes and Logger.
	Log   wal.Options
	Sinks []SinkOptions
	// Routes: the first that matches a write's collection decides where it
	// goes. None: every write to every sink, the first one answers reads.
	Routes []Route
	// KeyTypes: the first pattern that matches decides; mutation.KeyString if none.
	KeyTypes []KeyType
	// DrainTimeout bounds the drain in Close. 20 s.
	DrainTimeout time.Duration
	// RequestAge and RequestCount bound the window in which a request id is
	// remembered. 24 h, 1,000,000.
	RequestAge   time.Duration
	RequestCount int

	Logger     *zap.Logger           // nil: nothing is logged
	Registerer prometheus.Registerer // nil: no metrics
	// TracerProvider makes a span of each write, as a child of the one in the context of
	// the call, and of each batch on its way to a sink. It must not block: its exporter's
	// queue is to be bounded. The caller shuts it down, after Close. Nil: tracing is off.
	TracerProvider trace.TracerProvider
}

// SinkOptions of one sink. The caller opened Sink and closes it, after Close.
type SinkOptions struct {
	// Name is written into the log with every record routed to the sink: once
	// used it must stay.
	Name string
	Sink sinks.Sink
	// Paused begins with the sink paused: writes are acknowledged and stay in the
	// log, until ResumeSink.
	Paused bool
	// MaxLagBytes bounds what is routed to the sink and not passed by it, in
	// bytes of the log: a write beyond it is refused with *BehindError, other
	// sinks' go on. A record larger than it is let through alone. 0: no bound
	// but the log's.
	MaxLagBytes int64
	// Retain is how many bytes of log are kept below the sink's checkpoint, in
	// whole segments: a store that is restored to an older backup finds there
	// what it lacks. They give way when the log's room gets scarce. 0: none.
	Retain int64
	// Loop tunes lanes, batches, retries and dead letters. Name, Logger, TracerProvider and
	// OnCheckpoint are filled in; without OnReject every collection has
	// replay.ParkKey.
	Loop replay.Options
}

// Route sends the collections that match one of its patterns (path.Match) to
// Sinks; the first of them answers reads.
type Route struct {
	Collections []string
	Sinks       []string
}

// KeyType of the collections that match a pattern (path.Match).
type KeyType struct {
	Collection string
	Type       mutation.KeyType
}

const (
	defaultDrainTimeout = 20 * time.Second
	defaultRequestAge   = 24 * time.Hour
	defaultRequestCount = 1_000_000
)

// withDefaults returns o with every default filled in, or all its faults.
func (o Options) withDefaults() (Options, error) {
	if o.DrainTimeout == 0 {
		o.DrainTimeout = defaultDrainTimeout
	}
	if o.RequestAge == 0 {
		o.RequestAge = defaultRequestAge
	}
	if o.RequestCount == 0 {
		o.RequestCount = defaultRequestCount
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if len(o.Routes) == 0 {
		all := Route{Collections: []string{"*"}}
		for _, s := range o.Sinks {
			all.Sinks = append(all.Sinks, s.Name)
		}
		o.Routes = []Route{all}
	}
	return o, o.validate()
}

func (o Options) validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("walproxy: options: "+format, args...))
	}
	if o.Dir == "" {
		fault("Dir is empty")
	}
	if len(o.Sinks) == 0 {
		fault("Sinks is empty")
	}
	names := map[string]bool{}
	for i, s := range o.Sinks {
		switch {
		case s.Name == "":
			fault("Sinks[%d].Name is empty", i)
		case names[s.Name]:
			fault("Sinks[%d].Name: %q stands twice", i, s.Name)
		}
		if s.Sink == nil {
			fault("Sinks[%d].Sink is nil", i)
		}
		if s.MaxLagBytes < 0 {
			fault("Sinks[%d].MaxLagBytes is negative", i)
		}
		if s.Retain < 0 {
			fault("Sinks[%d].Retain is negative", i)
		}
		names[s.Name] = true
	}
	for i, r := range o.Routes {
		if len(r.Sinks) == 0 || len(r.Collections) == 0 {
			fault("Routes[%d]: needs collections and sinks", i)
		}
		for _, name := range r.Sinks {
			if !names[name] {
				fault("Routes[%d].Sinks: no sink is named %q", i, name)
			}
		}
		for _, pattern := range r.Collections {
			if _, err := path.Match(pattern, ""); err != nil {
				fault("Routes[%d].Collections: %q: %w", i, pattern, err)
			}
		}
	}
	for i, k := range o.KeyTypes {
		if _, err := path.Match(k.Collection, ""); err != nil {
			fault("KeyTypes[%d].Collection: %q: %w", i, k.Collection, err)
		}
	}
	return errors.Join(faults...)
}

// KeyType is the key type of a collection: of the first pattern that matches.
func (o Options) KeyType(collection string) mutation.KeyType {
	for _, k := range o.KeyTypes {
		if ok, _ := path.Match(k.Collection, collection); ok { // validated: no error
			return k.Type
		}
	}
	return mutation.KeyString
}

func (o Options) logDir() string   { return filepath.Join(o.Dir, "log") }
func (o Options) stateDir() string { return filepath.Join(o.Dir, "state") }
