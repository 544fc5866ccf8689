// Package sinks is the contract between the apply loop and a store.
//
// A sink applies records in batches and keeps, in the same store and moved in
// the same transaction, a checkpoint per lane. It does not know the log: it is
// told what to apply and where that moves the checkpoint. Package
// sinks/sinktest holds the suite that every sink must pass.
package sinks

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/position"
	"github.com/walproxy/walproxy/mutation"
)

type (
	// LSN is a record's position in its log; see wal.LSN.
	LSN = position.LSN
	// Point is a record in one history of a log.
	Point = position.Point
)

// Sink is a store that records are applied to.
//
// The loop calls Resume, again while it fails, before the first Apply. Who opened
// the sink closes it, after the loop has ended. Apply is called from several
// lanes at once, never twice at once for one lane.
type Sink interface {
	// Resume claims the stream with a new epoch, shutting out whoever held an
	// older one, and returns the checkpoint that applying continues from.
	//
	// Without a checkpoint for the stream it creates one at zero if
	// claim.Fresh, else it returns ErrNoCheckpoint and changes nothing. It
	// returns ErrForeignStream if the store belongs to another stream.
	Resume(ctx context.Context, claim Claim) (Checkpoint, error)

	// Apply applies the records of b and makes its moves, durably. results has
	// one entry per record, in order; a nil slice means that err says it for
	// all of them (OutcomeOf).
	//
	// Applying the same batch again after any outcome is safe: what was applied
	// is not applied twice and is reported Applied. A transactional sink applies
	// all or nothing: with a Rejected record in the batch it reports the others
	// Retry. A batch of another epoch, or whose moves start from elsewhere than
	// the stored checkpoint and do not end at it either, is ErrFenced
	// (Checkpoint.Begin).
	//
	// What comes with a batch is said by Batch.Validate. When ctx ends Apply
	// returns; what it sent may still be committed, which is what Unknown says.
	Apply(ctx context.Context, b *Batch) (results []Result, err error)

	// Close waits for running calls, bounded by ctx, and frees what the sink
	// opened. It may be called twice; calls of other methods after it return
	// ErrClosed.
	Close(ctx context.Context) error
}

// Claim says who wants a stream.
type Claim struct {
	Stream uuid.UUID
	// Owner names the claiming process for people: host, pid.
	Owner string
	// Lanes is how many lanes a fresh checkpoint gets. An existing one keeps its
	// number until a batch with Relane changes it.
	Lanes int
	// Fresh allows creating the checkpoint. It is set only while nothing can
	// have been applied yet or, of a Settler, nothing can have settled.
	Fresh bool
}

// Checkpoint is how far a sink has applied a stream: everything in lane i up to
// and including Lanes[i].
type Checkpoint struct {
	Stream uuid.UUID
	Epoch  uint64
	Lanes  []Point
}

// Low returns the lane point with the lowest LSN: everything up to it is
// applied.
func (c Checkpoint) Low() Point {
	var low Point
	for i, p := range c.Lanes {
		if i == 0 || p.LSN < low.LSN {
			low = p
		}
	}
	return low
}

// Batch is what one Apply does. The sink must not keep or change it.
type Batch struct {
	// Epoch is the one Resume returned.
	Epoch uint64
	// Records in LSN order. Empty when only checkpoints move.
	Records []Record
	// Moves of the lanes' checkpoints, in the same transaction as Records.
	Moves []Move
	// Relane makes Moves the whole new set of lanes, in order, whatever their
	// number was; From is not checked beyond the epoch. Records is empty.
	Relane bool
}

// Move says that a lane's checkpoint goes from one point to a later one.
type Move struct {
	Lane     int
	From, To Point
}

// Record is one record of the log, decoded.
type Record struct {
	LSN LSN
	// Accepted is when the write was accepted; expiry is judged by it.
	Accepted time.Time
	// Body is never nil and shared: read only.
	Body *walproxyv1.Record
	// Bytes is the record's size in the log.
	Bytes int
}

// Reader is a Sink that can answer reads. Calls may be concurrent with each
// other and with Apply. Unknown is an error, never "absent" and never version 0:
// only mutation.ErrNotFound says that a record is not there.
type Reader interface {
	// Read returns a record as of the last Apply that returned.
	Read(ctx context.Context, collection string, key *walproxyv1.Key) (*mutation.Document, error)
	// ReadEvents returns up to limit events of a record's stream, from the
	// from-th (1 is the first). An absent record is mutation.ErrNotFound.
	ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) ([]mutation.StoredEvent, error)
}

// Scanner is a Reader that can list records.
type Scanner interface {
	Reader
	// Scan returns up to limit records of a collection in the order of their keys,
	// from behind after (nil: from the first); a prefix that is not empty keeps to
	// the string keys that start with it. Continue with the last key; an empty
	// answer is the end.
	Scan(ctx context.Context, collection, prefix string, after *walproxyv1.Key, limit int) ([]Entry, error)
	// Collections returns up to limit names of collections that hold records, in
	// order, from behind after ("": from the first).
	Collections(ctx context.Context, after string, limit int) ([]string, error)
}

// Entry is one record of a Scan.
type Entry struct {
	Key      *walproxyv1.Key
	Document *mutation.Document
}

// Shaper is a Reader whose collections may be tables: they hold what has a column.
type Shaper interface {
	Reader
	// Shape says what a collection's records can hold, from memory where it is known.
	Shape(ctx context.Context, collection string) (Shape, error)
	// Exact reports whether a record of the collection, once it is written, is known
	// to be what mutation.Apply makes of it. It asks nobody.
	Exact(collection string) bool
}

// Shape of a collection's records, as it was when it was asked for.
type Shape interface {
	// Document: every field has its place, and is kept as it is.
	Document() bool
	// Check says why a write of these fields, of a whole record or of some of it, would
	// be rejected, as far as that can be known here: *mutation.RejectedError, of which
	// Field is "fields." and the name; nil if nothing is known against it.
	Check(fields map[string]*walproxyv1.Value, whole bool) error
	// Has reports whether a field has a place.
	Has(field string) bool
	// Computed reports whether the store computes a field, which nobody writes.
	Computed(field string) bool
}

// Identifier is a Sink that can say which store it is, so that a copy of the
// log never drains into another one: Postgres' system identifier, say.
type Identifier interface {
	Identity(ctx context.Context) (string, error)
}

// Yielder is a Sink that keeps others out while it has claimed the stream.
type Yielder interface {
	// Yield lets others claim it again: who has claimed it is not to go on. The next
	// Resume claims anew.
	Yield()
}

// Positioner is a Sink that can say how far it is without being claimed: for people
// who want to know what a replay would do.
type Positioner interface {
	// Position returns the checkpoint as the store has it, whatever its stream; its
	// owner, if there is one, goes on undisturbed, and nothing is changed.
	// ErrNoCheckpoint: there is none. It may be called at any time until Close.
	Position(ctx context.Context) (Checkpoint, error)
}

// Rebaser is a Positioner whose checkpoint a person may have replaced, because it
// does not fit the log any more and they know what the store holds.
type Rebaser interface {
	Positioner
	// Rebase makes the store's checkpoint that of to.Stream at to.Lanes, durably and
	// as one step, under an epoch that shuts out everybody from before. from is what
	// Position said, without lanes if it was ErrNoCheckpoint. If the store is at to
	// already nothing is done; if it is at neither the error is ErrMoved and nothing
	// is changed. Data is not touched. An owner that is alive may keep it waiting, or
	// fail it with Retry.
	Rebase(ctx context.Context, owner string, from, to Checkpoint) error
}

// SamePlace reports whether c and d are of one stream and at the same points.
func (c Checkpoint) SamePlace(d Checkpoint) bool {
	return slices.Equal(c.Lanes, d.Lanes) && (c.Stream == d.Stream || len(c.Lanes) == 0)
}

// Snapshotter is a Sink whose store is files of this process alone, which go with
// the log into a backup.
type Snapshotter interface {
	// Snapshot makes a copy of the store in dir, which does not exist yet, as it is
	// now, durably. It may be called beside Apply.
	Snapshot(ctx context.Context, dir string) error
}

// Expirer is a Sink that removes expired records behind what is applied, as far as
// accept times have come; see package horizon. Where nothing is written they stand
// still.
type Expirer interface {
	// UseHorizon has the sink ask f, now and then, how far time has come: nothing
	// above the LSN that f returns was accepted before the time, nor ever will be. f
	// waits for a disk. It may be called from then on until Close, from one goroutine.
	UseHorizon(f func(context.Context) (above LSN, at time.Time, err error))
}

// Linker is a Sink that knows which collections depend on each other: applying a
// record of one can fail because of another's (foreign keys, unique keys over
// several records, triggers).
type Linker interface {
	// LaneGroup names the group of collections that must share a lane with this
	// one; "": none. It is asked after Resume has returned a checkpoint, one call at
	// a time, and answers the same until the next Resume. It does not wait.
	LaneGroup(collection string) string
}

// Checker is a Sink that can say of a write that a person has changed what is wrong with
// it, beyond what every sink knows. It does not wait for the store. Errors are
// *mutation.InvalidError.
type Checker interface {
	Check(rec *walproxyv1.Record) error
}

// Describer is a Sink that has something to show in a status beside what its loop
// knows. Describe is a snapshot; it does not wait for the store.
type Describer interface {
	Describe() Description
}

// Description is what a Describer shows; what is unknown is left empty.
type Description struct {
	// Owner names the process that claimed the stream: this one, once it has.
	Owner string
	// LaneGroups lists, by the name of the lane group, the tables that share lanes
	// because of what the store says of them; sorted.
	LaneGroups map[string][]string
	// Warnings are what somebody should look at, in words for people; sorted.
	Warnings []string
}

// Settler is a Sink for which applied is not yet settled: a restart of the store
// may lose the last of what it acknowledged, and bring back what was deleted. So the
// log is kept for a while after records were applied, and applied again from there
// when such a restart was seen.
//
// It keeps this contract:
//
//   - Resume returns the settled checkpoint, at or below what was applied, with all
//     lanes at one point. What comes again is told by a version at each record, not by the checkpoint:
//     records that the store has are not applied twice, records that it lost are
//     applied in their order.
//   - Once a restart was seen Apply applies nothing and returns ErrRewound until the
//     next Resume.
//   - What became a dead letter is not offered again: such a decision stands.
type Settler interface {
	Sink
	// Settled returns the LSN up to which the store can lose nothing any more, the
	// checkpoint that says so included: no Resume returns a lower one. It only rises.
	Settled() LSN
	// Rewound is nil, or an error that is ErrRewound and says what was seen: the loop
	// is to resume. It stays until Resume.
	Rewound() error
	// News holds a token when what Settled or Rewound return has changed since it was
	// last taken. There is one taker.
	News() <-chan struct{}
}
