// Package replay is the one apply loop: it reads the log from a sink's
// checkpoint on, in LSN order, and applies it to the sink in batches. Drain,
// start-up replay and the replay command are this loop, so the recovery path
// runs all day long.
//
//	log ──► reader ──► hash(collection, key) ──► lane 0 ──► batches ──► sink.Apply
//	          │                             ├──► lane 1 ──► ...
//	          │                             └──► lane N
//	          └── a record of several lanes: all lanes drain, it is applied alone
//
// A lane applies its records in LSN order and moves its own checkpoint in the
// same transaction. Each lane's checkpoint covers every record of that lane at
// or below it; it moves past the records of other lanes and of other sinks too.
//
// What it promises: nothing above the durable LSN is applied, nothing is
// skipped, the writes of one key are applied in LSN order, and a batch of
// unknown outcome is applied again unchanged, for the sink to tell. What the
// loop cannot resolve halts it: it stops applying, says why, and loses nothing.
//
// A batch with a record that the sink rejects is taken apart until that record
// is found. It counts as rejected only when it was tried alone with everything
// before it applied. Then it becomes a dead letter, durable in the state store
// before the checkpoint passes it, and (ParkKey) the later records of its keys
// queue behind it there. A record whose origin names a dead letter retries it:
// it is applied in its place, once, unless others are still in front of it.
package replay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/internal/tracing"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// Options of New; zero values are the defaults.
type Options struct {
	Name  string // the sink's name in the configuration; required
	Lanes int    // 4; with those of Classes at most 1024
	Batch struct {
		Records int // 1000
		Bytes   int // of the log; 1 MiB. A larger record is a batch of its own.
		// Linger is the longest that a batch waits for more records, from when its
		// first could have been taken. It is cut short by Wait, by the end of the log
		// and by a full queue. 100 ms; negative: no wait.
		Linger time.Duration
		// Rest is how long a lane that has applied a batch waits for more records, in
		// parts of the time that the batch took; Linger bounds it. So a record that
		// comes now and then is applied at once, and many make batches so large that
		// what each costs by itself does not count. 32; negative: as long as Linger.
		Rest float64
		// Latency is what an Apply should take: batches get smaller while it is
		// exceeded, and grow again, up to Records and Bytes. 200 ms.
		Latency time.Duration
	}
	// QueueBytes bounds the memory of the records read ahead of the lanes, all
	// lanes together, by an estimate. One larger record always passes. 16 MiB.
	QueueBytes int
	// Idle says how far the stored checkpoint of a lane without records may
	// fall behind before a batch without records moves it.
	Idle struct {
		Records  int           // 16,384
		Bytes    int           // of the log; 4 MiB
		Interval time.Duration // 1 s
	}
	RetryMin     time.Duration // 10 ms
	RetryMax     time.Duration // 10 s
	ApplyTimeout time.Duration // one Apply or Resume. 30 s
	// StopTimeout is how long an Apply in flight may go on once Run was told to
	// stop or the loop halted, and how long the last checkpoints may take. 5 s.
	// A sink that does not return when its context ends holds up Run.
	StopTimeout time.Duration
	// LaneKey names the group of a collection; "" is none. All records of a
	// group's collections share one lane: needed where applying a record of one
	// can fail because of another's (foreign keys, unique keys, triggers). It
	// must answer the same throughout a run; between runs it may change. Where it
	// says none, or is nil, a sink that is a sinks.Linker is asked.
	LaneKey func(collection string) (group string)
	// Classes have lanes of their own, beside Lanes: what is slow or much in one
	// class does not hold up the others, for each reads the log at its own speed
	// and has its own share of QueueBytes. Each reads all of the log. At most 15.
	Classes []Class
	// OwnLanes names the class of a collection; "" is none. A lane group is of the
	// class of that of its collections which comes first in the log. It must
	// answer the same throughout a run; between runs it, and Classes, may change.
	// Calls come one at a time.
	OwnLanes func(collection string) (class string)
	// OnReject is asked what a rejected record of a collection means. nil: Halt
	// for all, because dead letters need somebody who asks Parked before a read.
	OnReject func(collection string) Policy
	// DeadLetters bounds what is kept of the sink's dead letters. At a bound the
	// sink halts with ErrDeadLettersFull at the record that would become one more;
	// nothing is dropped (one alone always fits). It goes on, without a new start, when some are given up,
	// or retried if that is no further behind. Age: 0 is none.
	DeadLetters state.Bounds // 1 GiB
	// HoldAfter is how many bytes of the log the sink may keep from being freed
	// before a Holder copies its records out of it. 256 MiB or an eighth of the
	// log's MaxBytes, whichever is less; negative: never.
	HoldAfter int64
	// HaltRetry is about how long after a halt whose cause may pass by itself the
	// sink is worth another loop; see Loop.RetryAfter. 30 s; negative: never.
	HaltRetry time.Duration
	// Until ends Run, with nil, when everything up to it is applied, as the end of a
	// sealed log does: nothing above it is read. 0: there is no end but the log's.
	Until wal.LSN
	// Rate is how many records of the sink are read per second at most. 0: no limit.
	Rate float64
	// Rejects bounds the dead letters that Run makes; nil: no bound.
	Rejects *RejectLimit
	Owner   string // names this process to people who look into the sink
	Logger  *zap.Logger
	// TracerProvider makes spans of batches with records whose contexts are in the log.
	// Nil: tracing is off.
	TracerProvider trace.TracerProvider
	// OnCheckpoint is called when the lowest durable checkpoint rises, from one
	// goroutine, never after Run returned.
	OnCheckpoint func(wal.LSN)
	// OnResume is called by Run, once, when the sink was claimed and its checkpoint
	// found to belong to the log, with the lowest of its lanes'; nothing else has
	// changed yet.
	OnResume func(checkpoint wal.LSN)
}

// Class is a set of lanes.
type Class struct {
	Name  string
	Lanes int // 1
}

const (
	lanesMax   = 1024
	classesMax = 16 // the one of Lanes included
)

// Check returns all that is wrong with o.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

func (o Options) withDefaults() (Options, error) {
	fill(&o.Lanes, 4)
	o.Classes = slices.Clone(o.Classes)
	for i := range o.Classes {
		fill(&o.Classes[i].Lanes, 1)
	}
	fill(&o.Batch.Records, 1000)
	fill(&o.Batch.Bytes, 1<<20)
	fill(&o.Batch.Linger, 100*time.Millisecond)
	fill(&o.Batch.Rest, 32)
	fill(&o.Batch.Latency, 200*time.Millisecond)
	fill(&o.QueueBytes, 16<<20)
	fill(&o.Idle.Records, 16384)
	fill(&o.Idle.Bytes, 4<<20)
	fill(&o.Idle.Interval, time.Second)
	fill(&o.RetryMin, 10*time.Millisecond)
	fill(&o.RetryMax, 10*time.Second)
	fill(&o.ApplyTimeout, 30*time.Second)
	fill(&o.StopTimeout, 5*time.Second)
	fill(&o.HaltRetry, 30*time.Second)
	fill(&o.DeadLetters.Bytes, 1<<30)
	if o.OnReject == nil {
		o.OnReject = func(string) Policy { return Halt }
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o, o.validate()
}

// classes are all of them; nil if there is only that of Lanes.
func (o *Options) classes() []state.LaneClass {
	if len(o.Classes) == 0 {
		return nil
	}
	classes := []state.LaneClass{{Lanes: o.Lanes}}
	for _, c := range o.Classes {
		classes = append(classes, state.LaneClass{Name: c.Name, Lanes: c.Lanes})
	}
	return classes
}

// total is the number of all lanes.
func (o *Options) total() int {
	lanes := o.Lanes
	for _, c := range o.Classes {
		lanes += c.Lanes
	}
	return lanes
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (o Options) validate() error {
	var faults []error
	if o.Name == "" {
		faults = append(faults, errors.New("replay: options: Name is empty"))
	}
	if o.Lanes < 1 || o.Lanes > lanesMax {
		faults = append(faults, fmt.Errorf("replay: options: Lanes is %d, want 1 to %d", o.Lanes, lanesMax))
	}
	if len(o.Classes) >= classesMax {
		faults = append(faults, fmt.Errorf("replay: options: Classes: %d of them, want at most %d", len(o.Classes), classesMax-1))
	}
	for i, c := range o.Classes {
		if c.Name == "" || slices.ContainsFunc(o.Classes[:i], func(b Class) bool { return b.Name == c.Name }) {
			faults = append(faults, fmt.Errorf("replay: options: Classes[%d].Name: %q is empty or taken", i, c.Name))
		}
		if c.Lanes < 1 || c.Lanes > lanesMax {
			faults = append(faults, fmt.Errorf("replay: options: Classes[%d].Lanes is %d, want 1 to %d", i, c.Lanes, lanesMax))
		}
	}
	if n := o.total(); n > lanesMax && len(o.Classes) > 0 && len(faults) == 0 {
		faults = append(faults, fmt.Errorf("replay: options: Lanes and Classes are %d lanes, want at most %d", n, lanesMax))
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"Batch.Records", int64(o.Batch.Records)}, {"Batch.Bytes", int64(o.Batch.Bytes)},
		{"Batch.Latency", int64(o.Batch.Latency)},
		{"QueueBytes", int64(o.QueueBytes)}, {"Idle.Records", int64(o.Idle.Records)},
		{"Idle.Bytes", int64(o.Idle.Bytes)}, {"Idle.Interval", int64(o.Idle.Interval)},
		{"RetryMin", int64(o.RetryMin)}, {"RetryMax", int64(o.RetryMax)},
		{"ApplyTimeout", int64(o.ApplyTimeout)}, {"StopTimeout", int64(o.StopTimeout)},
	} {
		if f.value < 1 {
			faults = append(faults, fmt.Errorf("replay: options: %s is negative", f.name))
		}
	}
	if o.Rate < 0 {
		faults = append(faults, errors.New("replay: options: Rate is negative"))
	}
	if o.DeadLetters.Bytes < 0 || o.DeadLetters.Age < 0 {
		faults = append(faults, errors.New("replay: options: DeadLetters: a bound is negative"))
	}
	if o.RetryMin > o.RetryMax {
		faults = append(faults, fmt.Errorf("replay: options: RetryMin %v is above RetryMax %v", o.RetryMin, o.RetryMax))
	}
	return errors.Join(faults...)
}

// Loop applies a log to one sink. All methods may be called concurrently.
type Loop struct {
	o       Options
	log     *wal.Log
	state   *state.Store
	letters *state.DeadLetters
	held    *state.Held
	sink    sinks.Sink
	linker  sinks.Linker  // the sink, if it is one
	settler sinks.Settler // the sink, if it is one
	logger  *zap.Logger
	tracer  trace.Tracer // nil: tracing is off
	pace    *pace
	// throttle is Options.Rate.
	throttle *throttle
	random   func() float64 // [0, 1)
	started  atomic.Bool

	lanes struct {
		sync.Mutex
		stored state.LaneMap // as it is in the state store
	}
	// lastTrace: records up to it may have been dead letters that were given up.
	lastTrace wal.LSN       // fixed when the sink was resumed
	from      atomic.Uint64 // LSN: see start
	filledTo  atomic.Uint64 // LSN: see fill
	keeps     atomic.Bool   // the claim is settled

	lost struct {
		sync.Mutex
		ranges []state.LostRange // in LSN order
	}

	marks  watermarks
	passed passed
	pipe   atomic.Pointer[pipeline] // nil until the sink was resumed
	// serving is closed when pipe is the one that goes on for good.
	serving chan struct{}

	records, batches, retries    atomic.Uint64
	retriesUnknown, retriesStart atomic.Uint64 // of retries
	made                         atomic.Uint64 // dead letters

	health struct {
		sync.Mutex
		state    State
		epoch    uint64
		retrying int   // lanes that back off
		blocked  int   // lanes that wait for room in the dead letters
		full     error // why, while any does
		err      error // last failure while retrying; why halted
	}
}

// New returns a loop that does nothing until Run. log, st and sink stay the
// caller's, to be closed after Run has returned.
func New(log *wal.Log, st *state.Store, sink sinks.Sink, o Options) (*Loop, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Loop{o: o, log: log, state: st, letters: st.DeadLetters(o.Name), held: st.Held(o.Name), sink: sink, logger: o.Logger, pace: newPace(&o), throttle: newThrottle(o.Rate), random: rand.Float64}
	if l.o.HoldAfter == 0 {
		l.o.HoldAfter = min(holdAfterMax, log.MaxBytes()/8)
	}
	claim, _, err := st.Claim(o.Name)
	if err != nil {
		return nil, err
	}
	l.from.Store(uint64(claim.From))
	l.filledTo.Store(uint64(claim.Filled))
	if l.lost.ranges, err = st.Lost(o.Name); err != nil {
		return nil, err
	}
	l.tracer = tracing.Tracer(o.TracerProvider)
	l.linker, _ = sink.(sinks.Linker)
	l.settler, _ = sink.(sinks.Settler)
	l.CountPassed(0, log.Durable())
	l.serving = make(chan struct{})
	l.marks.rose = make(chan struct{}, 1)
	l.health.state = Starting
	return l, nil
}

// Applied is the low-water mark: everything up to it is in the sink or in the
// dead letters. 0 until the sink was reached.
func (l *Loop) Applied() wal.LSN { return l.marks.appliedNow() }

// Checkpoint is the lowest durable lane checkpoint; of a sinks.Settler, what of it
// is settled. 0 until the sink was reached.
func (l *Loop) Checkpoint() wal.LSN { return l.marks.checkpointNow() }

// Wait returns nil once Applied() >= lsn. It cuts lingering batches short, and long waits
// between two attempts. It returns the loop's error if it halted (while it is halted because of full dead
// letters, too), ErrClosed if it ended, ctx's cause.
// Before Run it waits.
func (l *Loop) Wait(ctx context.Context, lsn wal.LSN) error {
	w, err := l.marks.enter(lsn, true)
	if w == nil {
		return err
	}
	if p := l.pipe.Load(); p != nil {
		p.hurry(lsn)
	}
	l.pace.ask()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return l.marks.leave(w, context.Cause(ctx))
	}
}
