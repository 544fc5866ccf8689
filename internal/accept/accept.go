// Package accept turns a write into a log record: canonical keys, key locks,
// preconditions, request ids, the pending table.
//
// A write passes through it in this order:
//
//	validate, make keys canonical -> route -> request id -> key locks
//	-> precondition -> accepted time and LSN -> pending table -> unlock
//
// The key locks are held until the write has its LSN, so that a precondition
// and the write behind it are one step; the store is asked without them, and its
// answer counts only if nothing was written to the key meanwhile. The order lock makes the accepted time
// and the LSN rise together; it is taken last and held for the Enqueue alone.
package accept

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

var (
	// ErrConflict: the precondition does not hold; *ConflictError.
	ErrConflict = errors.New("version conflict")
	// ErrRequestMismatch: the request id was used with another payload.
	ErrRequestMismatch = errors.New("request id was used for a different write")
	// ErrUnroutable: no route takes the collection.
	ErrUnroutable = errors.New("no route for collection")
	// ErrVersionUnknown: a precondition could not be judged, because the store
	// did not answer or pending writes were not applied in time. Nothing was
	// logged. The cause is wrapped.
	ErrVersionUnknown = errors.New("the record's current version is unknown")
	// ErrNoReader: the sink that answers reads for the collection cannot.
	ErrNoReader = errors.New("the sink cannot answer reads")
	// ErrRequestsLost: the log was freed beyond what the state store knows of
	// its request ids.
	ErrRequestsLost = errors.New("accept: request ids were lost")
)

// ConflictError says what the record's version is, once that is durable.
type ConflictError struct {
	Version wal.LSN // 0: the record does not exist
	// EventCount of the record; set when if_event_count did not hold.
	EventCount uint64
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%v: the record's version is %d", ErrConflict, e.Version)
}
func (e *ConflictError) Unwrap() error { return ErrConflict }

// Applied is the apply loop, as seen from here.
type Applied interface {
	Applied() wal.LSN
	// WaitKey returns nil once every write to a canonical key up to lsn is passed.
	WaitKey(ctx context.Context, collection string, key *walproxyv1.Key, lsn wal.LSN) error
	// Parked returns the dead letter that parks a canonical key, if any: of what
	// was passed.
	Parked(collection string, key *walproxyv1.Key) (lsn wal.LSN, ok bool, err error)
}

// Route says where the writes of matching collections go.
type Route struct {
	// Collections are path.Match patterns; "*" alone matches every name.
	Collections []string
	Sinks       []string // the first one answers reads
}

// Target is a sink.
type Target struct {
	Loop   Applied
	Reader sinks.Reader // nil: cannot read
	Lag    Lag          // nil: nobody asks
	// Turn changes before anything that was passed comes again, as when a sink that
	// halted goes on: it takes back dead letters that its store's checkpoint had not
	// passed. nil: it never does.
	Turn func() uint64
	// Exact reports whether a record of a collection, once written, is what
	// mutation.Apply makes of it; nil: it always is.
	Exact func(collection string) bool
}

// Options of New.
type Options struct {
	Routes   []Route
	Targets  map[string]Target // by sink name
	KeyTypes func(collection string) mutation.KeyType
	Window   struct {
		Age   time.Duration // 24 h
		Count int           // 1,000,000
	}
	PendingExact int // entries in the exact map of pending writes. 65,536
	// PendingBytes bounds the records with pending writes that Modify keeps. 32 MiB.
	PendingBytes int
	// LookupTimeout bounds how long a precondition waits for the store. 10 s.
	LookupTimeout time.Duration
	Now           func() time.Time
	Logger        *zap.Logger
	// Tracer makes a span of each write, whose context goes into the log. Nil: tracing
	// is off.
	Tracer trace.Tracer
}

func (o Options) withDefaults() (Options, error) {
	if o.KeyTypes == nil {
		o.KeyTypes = func(string) mutation.KeyType { return mutation.KeyString }
	}
	if o.Window.Age == 0 {
		o.Window.Age = 24 * time.Hour
	}
	if o.Window.Count == 0 {
		o.Window.Count = 1_000_000
	}
	if o.PendingExact == 0 {
		o.PendingExact = 65_536
	}
	if o.PendingBytes == 0 {
		o.PendingBytes = 32 << 20
	}
	if o.LookupTimeout == 0 {
		o.LookupTimeout = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Window.Age < 0 || o.Window.Count < 0 || o.PendingExact < 0 || o.PendingBytes < 0 || o.LookupTimeout < 0 {
		return o, errors.New("accept: options: a bound is negative")
	}
	return o, nil
}

// Acceptor accepts writes. All methods may be called concurrently.
type Acceptor struct {
	o      Options
	log    *wal.Log
	router atomic.Pointer[router]
	// routing serialises changes of router.
	routing sync.Mutex

	keys     keyLocks
	order    order
	buckets  buckets
	exact    *exactMap
	images   *images
	requests *requests
	newest   newest
	tracer   trace.Tracer // nil: tracing is off
	acks     acks         // with tracer

	// closing ends every wait in a call; its cause is wal.ErrClosed.
	closing context.Context
	close   context.CancelCauseFunc
	gate    struct {
		sync.RWMutex
		closed bool
	}
	calls sync.WaitGroup // between enter and leave
	done  chan struct{}  // Close has finished
	err   error          // of Close; read after done
}

// New reads the log above the stored mark, for the request ids that the state
// store lacks, and starts storing them in the background.
func New(ctx context.Context, log *wal.Log, st *state.Store, o Options) (*Acceptor, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	router, err := newRouter(o.Routes, o.Targets, nil)
	if err != nil {
		return nil, err
	}
	a := &Acceptor{
		o:      o,
		log:    log,
		exact:  newExactMap(o.PendingExact),
		images: newImages(o.PendingBytes),
		done:   make(chan struct{}),
	}
	a.requests = newRequests(log, st, o, &a.order.last)
	a.router.Store(router)
	a.keys.init()
	a.order.lock.init()
	last, err := rescan(ctx, log, st)
	if err != nil {
		return nil, err
	}
	a.order.last.Store(last)
	// What was logged before this start may be pending for any key.
	a.buckets.fill(log.Appended())
	a.closing, a.close = context.WithCancelCause(context.Background())
	a.requests.closing = a.closing.Done()
	a.requests.start()
	if a.tracer = o.Tracer; a.tracer != nil {
		a.acks.start(a.closing.Done())
	}
	return a, nil
}

// enter begins a call; leave ends it.
func (a *Acceptor) enter() error {
	a.gate.RLock()
	defer a.gate.RUnlock()
	if a.gate.closed {
		return wal.ErrClosed
	}
	a.calls.Add(1)
	return nil
}

func (a *Acceptor) leave() { a.calls.Done() }

// bound returns ctx, ended by Close as well. For slow paths only.
func (a *Acceptor) bound(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(a.closing, func() { cancel(context.Cause(a.closing)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// SyncBelow makes every request id of an LSN below lsn durable in the state
// store; call it before the log's space is released. lsn is at most one above
// the log's durable LSN.
func (a *Acceptor) SyncBelow(lsn wal.LSN) error {
	if err := a.enter(); err != nil {
		return err
	}
	defer a.leave()
	return a.requests.syncBelow(lsn)
}

// Close ends the calls that wait, stores the remaining durable request ids and
// joins every goroutine. After it every call is wal.ErrClosed. It may be called
// twice; the second call waits for the first.
func (a *Acceptor) Close() error {
	a.gate.Lock()
	first := !a.gate.closed
	a.gate.closed = true
	a.gate.Unlock()
	if !first {
		<-a.done
		return a.err
	}
	defer close(a.done)
	a.close(wal.ErrClosed)
	a.calls.Wait()
	if a.tracer != nil {
		a.acks.stop()
	}
	a.err = a.requests.stop()
	return a.err
}
