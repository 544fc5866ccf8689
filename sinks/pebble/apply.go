package pebble

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/horizon"
	"github.com/walproxy/walproxy/internal/pebblekit"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// errNeighbour is why a good record of a batch with a rejected one is Retry.
var errNeighbour = errors.New("not applied: another record of the batch was rejected")

// Apply implements sinks.Sink. If ctx ends during the commit, Apply returns
// outcome unknown and the commit goes on; the next Apply on its lanes waits for
// it. A body that is no mutation or group of mutations halts the sink.
func (s *Sink) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	leave, err := s.enter()
	if err != nil {
		return nil, err
	}
	release, err := s.take(ctx, b)
	if err != nil {
		leave()
		return nil, notBegun(err)
	}
	end := func() { release(); leave() }

	next, done, err := s.begin(b)
	if err != nil || done {
		end()
		if err != nil {
			return nil, err
		}
		return sinks.Results(len(b.Records), sinks.Applied, nil), nil
	}
	// b is the caller's again when Apply returns, so it is read here; only the
	// commit may go on behind an Apply whose context ended.
	t := newTransaction(s)
	results, err := t.stage(ctx, b, next)
	if err != nil || results != nil {
		t.batch.Close()
		end()
		return results, err
	}
	moved := transition{
		next: next, moves: slices.Clone(b.Moves), relane: b.Relane, sample: horizon.SampleOf(b),
	}
	records := len(b.Records)
	return run(ctx, s, func() ([]sinks.Result, error) {
		defer end()
		if err := s.commit(t.batch); err != nil {
			return nil, err
		}
		s.advance(moved)
		return sinks.Results(records, sinks.Applied, nil), nil
	})
}

// take waits for the batch's lanes.
func (s *Sink) take(ctx context.Context, b *sinks.Batch) (release func(), err error) {
	if b.Relane {
		return s.gate.all(ctx, s.stop)
	}
	lanes := make([]int, len(b.Moves))
	for i, m := range b.Moves {
		lanes[i] = m.Lane
	}
	return s.gate.lanes(ctx, s.stop, lanes)
}

// begin compares the batch with the checkpoint; its lanes are taken.
func (s *Sink) begin(b *sinks.Batch) (next sinks.Checkpoint, done bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.claimed {
		return next, false, sinks.ErrNoCheckpoint
	}
	if b.Relane && len(b.Moves) > maxLanes {
		return next, false, sinks.WithOutcome(sinks.Halt, fmt.Errorf("%d lanes, at most %d", len(b.Moves), maxLanes))
	}
	return s.mu.checkpoint.Begin(b)
}

// transition is what a commit changed of the checkpoint.
type transition struct {
	next   sinks.Checkpoint
	moves  []sinks.Move
	relane bool
	sample horizon.Sample
}

// advance makes a synced checkpoint the one that later batches are compared
// with. Other lanes may have moved since begin.
func (s *Sink) advance(t transition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.relane {
		s.mu.checkpoint = t.next
	} else {
		for _, m := range t.moves {
			s.mu.checkpoint.Lanes[m.Lane] = m.To
		}
	}
	if s.mu.horizon.Observe(t.sample, s.mu.checkpoint.Low().LSN) {
		s.sweep.wake()
	}
}

// commit writes b, returns once it is synced and takes b over. Any failure is the
// store's end; b is then left to the garbage collector and not to Pebble's pool,
// for the dead database may still write to it.
func (s *Sink) commit(b *pebble.Batch) error {
	if s.readOnly {
		return sinks.WithOutcome(sinks.Halt, errReadOnly)
	}
	failpoint.Hit("sink-before-commit")
	if err := s.writeBatch(b, true); err != nil {
		return err
	}
	if err := b.SyncWait(); err != nil {
		return s.fail(fmt.Errorf("sync: %w", err), false)
	}
	if err := s.failure(); err != nil { // pebblekit.FS hides it from Pebble
		return err
	}
	failpoint.Hit("sink-after-commit")
	return b.Close()
}

// writeBatch puts b into the WAL's buffer and the memtable; with sync the WAL's
// sync is under way when it returns. Should Pebble panic in here, its commit
// lock stays held.
func (s *Sink) writeBatch(b *pebble.Batch, sync bool) (err error) {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.failure(); err != nil {
		return err
	}
	defer func() { // before the unlock: nobody follows into a dead database
		if err != nil {
			err = s.fail(err, true)
		}
	}()
	defer pebblekit.Catch(&err)
	if !sync {
		return s.db.Apply(b, pebble.NoSync)
	}
	return s.db.ApplyNoSyncWait(b, pebble.Sync)
}

// A batch is bounded in what its records say, not in what they are done to: a small
// increment may be of a large document. documentsMax bounds the stored forms of the
// documents that a batch reads and writes, so that it fits into memory, and into a Pebble
// batch, which panics from 4 GiB on.
var (
	documentsMax = 256 << 20 // of several records; tests: less
	recordMax    = 2 << 30   // of one, with many members; tests: less
)

// errDocuments is why a record is to be tried without those before it.
var errDocuments = errors.New("the documents of the batch are too large together")

// transaction collects what a batch of records does, as one Pebble batch.
type transaction struct {
	sink  *Sink
	batch *pebble.Batch
	rows  map[string]*row // by document key: what earlier records made of it
	order []*row
	bytes int // of documents, read and written
}

// row is a record that the transaction touched.
type row struct {
	key     []byte
	stored  *mutation.Document // as in the store; nil: absent
	current *mutation.Document
	encoded []byte // of current, once changed
	changed bool
}

func newTransaction(s *Sink) *transaction {
	return &transaction{sink: s, batch: s.db.NewBatch(), rows: map[string]*row{}}
}

// stage fills the batch. A result means that nothing is to be applied: one
// record was rejected.
func (t *transaction) stage(ctx context.Context, b *sinks.Batch, next sinks.Checkpoint) ([]sinks.Result, error) {
	for i := range b.Records {
		if ctx.Err() != nil {
			return nil, notBegun(context.Cause(ctx))
		}
		err := t.record(&b.Records[i], i > 0)
		if errors.Is(err, errDocuments) || errors.As(err, new(*mutation.RejectedError)) {
			results := sinks.Results(len(b.Records), sinks.Retry, errNeighbour)
			results[i] = sinks.Result{Outcome: sinks.Rejected, Err: err}
			return results, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, errors.Join(t.documents(), t.checkpoint(b, next))
}

// record does one record, all of its mutations. The first error ends the
// transaction, so a group needs no undo. behind: behind others.
func (t *transaction) record(r *sinks.Record, behind bool) error {
	mutations, err := mutation.Mutations(r.Body)
	if err != nil {
		return sinks.WithOutcome(sinks.Halt, fmt.Errorf("sink pebble: LSN %v: %w", r.LSN, err))
	}
	for _, m := range mutations {
		row, err := t.row(documentKey(m.GetCollection(), m.GetKey()))
		if err != nil {
			return fmt.Errorf("sink pebble: LSN %v: %w", r.LSN, err)
		}
		effect, err := mutation.Apply(row.current, m, r.LSN, r.Accepted)
		if err != nil {
			return err
		}
		if effect.Unchanged {
			continue
		}
		if err := t.events(row, effect, r.LSN); err != nil {
			return fmt.Errorf("sink pebble: LSN %v: %w", r.LSN, err)
		}
		t.bytes -= len(row.encoded)
		if err := row.become(effect.Document); err != nil {
			return err
		}
		t.bytes += len(row.encoded)
		switch {
		case behind && t.bytes > documentsMax: // the loop takes a rejection for true only of a record alone
			return errDocuments
		case t.bytes > recordMax:
			return &mutation.RejectedError{Field: "group", Reason: fmt.Sprintf("its documents are more than %d bytes together", recordMax)}
		}
	}
	return nil
}

// become encodes after every write, not only the last of the batch: which record
// made the document too large must not depend on how records were batched.
func (r *row) become(d *mutation.Document) (err error) {
	r.current, r.changed, r.encoded = d, true, r.encoded[:0]
	if d != nil {
		r.encoded, err = mutation.EncodeDocument(r.encoded, d)
	}
	return err
}

// row returns the record at key as the transaction has it.
func (t *transaction) row(key []byte) (*row, error) {
	if r := t.rows[string(key)]; r != nil {
		return r, nil
	}
	d, size, err := t.sink.document(key)
	if err != nil {
		return nil, t.sink.readFailed(err)
	}
	t.bytes += size
	r := &row{key: key, stored: d, current: d}
	t.rows[string(key)] = r
	t.order = append(t.order, r)
	return r, nil
}

// events writes what effect does to the record's stream. Within a Pebble batch
// the later operation wins, so they are written as they come.
func (t *transaction) events(r *row, effect *mutation.Effect, lsn sinks.LSN) error {
	if effect.DropEvents {
		if err := dropEvents(t.batch, r.key, r.current); err != nil {
			return err
		}
	}
	prefix := eventPrefix(r.key)
	for i, e := range effect.Events {
		enc, err := encodeEvent(lsn, e)
		if err != nil {
			return err
		}
		if err := t.batch.Set(eventKey(prefix, effect.FirstEvent+uint64(i)), enc, nil); err != nil {
			return err
		}
	}
	return nil
}

// documents writes each changed record once, with its place in the expiry index.
func (t *transaction) documents() error {
	for _, r := range t.order {
		if !r.changed {
			continue
		}
		if err := errors.Join(t.document(r), t.expiry(r)); err != nil {
			return err
		}
	}
	return nil
}

func (t *transaction) document(r *row) error {
	if r.current == nil {
		return t.batch.Delete(r.key, nil)
	}
	return t.batch.Set(r.key, r.encoded, nil)
}

func (t *transaction) expiry(r *row) error {
	was, is := expiresAt(r.stored), expiresAt(r.current)
	if was.Equal(is) {
		return nil
	}
	if !was.IsZero() {
		if err := t.batch.Delete(expiryKey(was, r.key), nil); err != nil {
			return err
		}
	}
	if is.IsZero() {
		return nil
	}
	return t.batch.Set(expiryKey(is, r.key), nil, nil)
}

// checkpoint writes the moves.
func (t *transaction) checkpoint(b *sinks.Batch, next sinks.Checkpoint) error {
	if !b.Relane {
		for _, m := range b.Moves {
			if err := t.batch.Set(laneKey(m.Lane), encodePoint(m.To), nil); err != nil {
				return err
			}
		}
		return nil
	}
	first := laneKey(0)
	return errors.Join(
		t.batch.DeleteRange(first, successor(metaKey("lane")), nil),
		putClaim(t.batch, next),
		putLanes(t.batch, next),
	)
}
