package postgres

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"github.com/jackc/pgx/v5/pgconn"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// errNeighbour is why a good record of a batch with a rejected one is Retry.
var errNeighbour = errors.New("not applied: another record of the batch was rejected")

// work is one batch on its way into statements. Writes that need to see their
// record are done by mutation.Apply on what one SELECT per table has returned;
// the others are not looked at. Both become operations, in the order of the log,
// which are collected into statements (group.go).
type work struct {
	planner *tablePlanner
	batch   *sinks.Batch
	link    link

	rows     map[string]*row
	order    []*row
	writes   []write // in the order of the log
	mappings []*mapping
	defers   bool
	arena    []byte // encoded keys; never nil: that would be NULL

	statements
	scratch

	session session // that is on behind the commands so far
}

// write is one mutation of the batch, or one statement.
type write struct {
	record    int // index in the batch
	mutation  *walproxyv1.Mutation
	statement *walproxyv1.Statement
	row       *row
}

// rejection says which record cannot be applied.
type rejection struct {
	record int
	err    error
}

func (e *rejection) Error() string { return e.err.Error() }

func (e *rejection) Unwrap() error { return e.err }

// stage implements planner.
func (p *tablePlanner) stage(ctx context.Context, l link, b *sinks.Batch) ([]sinks.Result, error) {
	w := newWork(p, l, b)
	defer w.free()
	if p.staging.Add(1) > 1 {
		w.grown = chunkGrowth // the server has other lanes to work at
	}
	defer p.staging.Add(-1)
	err := w.collect(ctx)
	if err == nil {
		err = w.apply(ctx)
	}
	if bad, ok := errors.AsType[*rejection](err); ok {
		return w.reject(ctx, bad)
	}
	return nil, err
}

// collect finds the row of every mutation, and what has to be read.
func (w *work) collect(ctx context.Context) error {
	if len(w.batch.Records) >= chunkRows && w.grown == 0 {
		if err := w.link.send(ctx, nil); err != nil { // the server moves the checkpoint meanwhile
			return err
		}
	}
	for i := range w.batch.Records {
		rec := &w.batch.Records[i]
		if m := rec.Body.GetMutation(); m != nil { // mostly
			if err := w.note(i, m); err != nil {
				return w.blame(i, err)
			}
			continue
		}
		if err := w.noteAll(i, rec); err != nil {
			return w.blame(i, err)
		}
	}
	// Only now, when the flags say it of the whole batch.
	for i := range w.writes {
		wr := &w.writes[i]
		wr.row.reads = wr.row.reads || wr.statement == nil && !wr.row.m.writesBlindly(wr.mutation)
	}
	return nil
}

// noteAll adds what record i consists of.
func (w *work) noteAll(i int, rec *sinks.Record) error {
	if s := rec.Body.GetStatement(); s != nil {
		return w.noteStatement(i, s)
	}
	members := rec.Body.GetGroup().GetMembers()
	for _, member := range members {
		var err error
		switch k := member.GetKind().(type) {
		case *walproxyv1.Group_Member_Mutation:
			err = w.note(i, k.Mutation)
		case *walproxyv1.Group_Member_Statement:
			err = w.noteStatement(i, k.Statement)
		default:
			_, unknown := mutation.Mutations(rec.Body)
			err = halt("LSN %v: %w", rec.LSN, unknown)
		}
		if err != nil {
			return err
		}
	}
	if len(members) == 0 {
		_, err := mutation.Mutations(rec.Body)
		return halt("LSN %v: %w", rec.LSN, err)
	}
	return nil
}

// note adds a mutation of record i.
func (w *work) note(i int, m *walproxyv1.Mutation) error {
	r, err := w.row(m.GetCollection(), m.GetKey())
	if err != nil {
		return err
	}
	w.writes = append(w.writes, write{record: i, mutation: m, row: r})
	r.m.raise(m)
	return nil
}

// blame marks an error of record i that no retry mends.
func (w *work) blame(i int, err error) error {
	if _, ok := errors.AsType[*mutation.RejectedError](err); ok {
		return &rejection{record: i, err: err}
	}
	return err
}

func (w *work) row(collection string, in *walproxyv1.Key) (*row, error) {
	var buf [128]byte
	id := mutation.AppendKey(buf[:0], collection, in)
	if r := w.rows[string(id)]; r != nil {
		return r, nil
	}
	mp, err := w.mapping(collection)
	if err != nil {
		return nil, err
	}
	key, err := w.keyValues(mp, in)
	if err != nil {
		return nil, err
	}
	stream, err := w.streamOf(mp, in)
	if err != nil {
		return nil, err
	}
	if len(w.slab) == cap(w.slab) { // a group has several: rows must not move
		w.slab = make([]row, 0, max(2*cap(w.slab), 64))
	}
	start := len(w.arena)
	w.arena = append(w.arena, id...)
	id = w.arena[start:len(w.arena):len(w.arena)]
	w.slab = append(w.slab, row{m: mp, key: key, stream: stream, id: id[mp.prefix:], last: -1})
	r := &w.slab[len(w.slab)-1]
	w.rows[unsafe.String(unsafe.SliceData(id), len(id))] = r // what the arena has stays as it is until the rows are cleared
	w.order = append(w.order, r)
	return r, nil
}

// mapping of a collection, noted as one of the batch's.
func (w *work) mapping(collection string) (*mapping, error) {
	for _, m := range w.mappings {
		if m.collection == collection {
			return m, nil
		}
	}
	m := w.planner.mapping(collection)
	if m == nil {
		return nil, errStale
	}
	w.mappings = append(w.mappings, m)
	w.defers = w.defers || m.table.defers
	return m, nil
}

// raise sets the flags that m's write makes true.
func (m *mapping) raise(mu *walproxyv1.Mutation) {
	if mu.GetExpiresAt() != nil {
		m.flags.expiring.Store(true)
	}
	for _, op := range mu.GetOps() {
		if op.GetAppendEvent() != nil {
			m.flags.streaming.Store(true)
		}
	}
	if m.beside() && !m.flags.recorded.Load() {
		m.flags.recorded.Store(true)
	}
}

// writesBlindly reports whether mu need not see its record. A trigger would see
// the difference between an update that changes nothing and none: with triggers
// it must not depend on the batch which of them is made.
func (m *mapping) writesBlindly(mu *walproxyv1.Mutation) bool {
	if m.table.triggers || m.flags.streaming.Load() || !blindly(mu, m.flags.expiring.Load()) {
		return false
	}
	if m.document {
		return true
	}
	known := false
	for _, op := range mu.GetOps() {
		switch k := op.GetKind().(type) {
		case *walproxyv1.Op_Set_, *walproxyv1.Op_Delete_, *walproxyv1.Op_Merge_:
			known = true // it is certain whether the row exists behind it
		case *walproxyv1.Op_Touch_:
			if m.beside() {
				return false
			}
		case *walproxyv1.Op_Unset_:
			if !known && m.beside() {
				return false
			}
			for _, name := range k.Unset.GetFields() {
				if m.byField[name] == nil {
					return false // of the overflow column, or of none
				}
			}
		}
	}
	return true
}

// apply does the batch.
func (w *work) apply(ctx context.Context) error {
	var stale []*row
	for _, r := range w.order {
		if r.reads {
			stale = append(stale, r)
		}
	}
	if err := w.read(ctx, stale); err != nil {
		return err
	}
	for i := range w.writes {
		wr := &w.writes[i]
		if wr.statement != nil {
			if err := w.writeStatement(wr); err != nil {
				return w.blame(wr.record, err)
			}
			if err := w.sendFull(ctx); err != nil {
				return err
			}
			continue
		}
		if wr.row.reads && !wr.row.known {
			if err := w.readAgain(ctx, i); err != nil {
				return err
			}
		}
		if err := w.write(wr.row, wr.mutation, wr.record); err != nil {
			return w.blame(wr.record, err)
		}
		if err := w.sendFull(ctx); err != nil {
			return err
		}
	}
	for _, r := range w.order {
		if err := w.finish(r); err != nil {
			return w.blame(r.record, err)
		}
		if err := w.sendFull(ctx); err != nil {
			return err
		}
	}
	commands, owners := w.commands()
	commands, owners = w.become(nil, -1, commands, owners)
	commands = append(commands, w.besides()...)
	commands = append(commands, w.checks()...)
	if _, err := w.exchange(ctx, commands, owners, true); err != nil {
		return err
	}
	w.inserts.fulfil()
	w.merges.fulfil()
	return nil
}

// finish makes the one operation of a record that was folded.
func (w *work) finish(r *row) error {
	if !r.touched || !r.m.folds() {
		return nil
	}
	b := &r.blind
	if r.reads {
		b = r.final()
	}
	if b.change == unchanged {
		return nil
	}
	return w.documentOperation(r, b, r.record)
}

var binaryParams = []int16{formatBinary}

// exchange is link.run, with its errors explained; owners has what is behind each
// command.
func (w *work) exchange(ctx context.Context, commands []command, owners []origin, commit bool) ([]answer, error) {
	owners = append(w.owners, owners...)
	w.owners = nil
	answers, err := w.link.run(ctx, commands, commit)
	w.recycle()
	if err != nil {
		return nil, w.explain(ctx, err, owners)
	}
	return answers, nil
}

// checks end the transaction if a table is not as its catalogue was read.
func (w *work) checks() []command {
	commands := make([]command, 0, len(w.mappings))
	for _, m := range w.mappings {
		commands = append(commands, m.unchanged(quote(w.planner.o.Schema))...)
	}
	return commands
}

// codeChanged is raised by walproxy's function unchanged.
const codeChanged = "WP002"

// isOutdated reports that a prepared statement yields something else by now: "cached plan must
// not change result type". Whoever raises the code in a trigger means something else.
func isOutdated(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == "0A000" && pgErr.Routine == "RevalidateCachedQuery"
}

// explain finds out what an error of a run means: that the catalogue is stale,
// or which record was refused. owners is as for exchange, of the whole round trip.
//
// What the server refuses counts only if the tables are as they were read: an
// insert that lacks a column made NOT NULL a moment ago, say, is no fault of its
// record. The transaction has failed, so that is looked up behind it.
func (w *work) explain(ctx context.Context, err error, owners []origin) error {
	at, ok := errors.AsType[*commandError](err)
	if !ok {
		return err
	}
	if codeOf(err) == codeChanged || isOutdated(err) {
		return fmt.Errorf("%w: %w", errStale, err)
	}
	if codeOf(err) == "23505" && (w.inserts.disappoint() || w.merges.disappoint()) {
		return fmt.Errorf("%w: %w", errExists, err)
	}
	from := ours
	if at.index >= 0 && at.index < len(owners) {
		from = owners[at.index]
	}
	outcome, said := judge(err, false)
	outcome, said = judgeFrom(err, from, outcome, said)
	if outcome != sinks.Rejected && outcome != sinks.Halt {
		return err
	}
	if _, err := w.link.run(ctx, append([]command{{sql: "ROLLBACK"}}, w.checks()...), false); codeOf(err) == codeChanged {
		return fmt.Errorf("%w: %w", errStale, err)
	}
	if outcome == sinks.Rejected && from.record >= 0 {
		return &rejection{record: from.record, err: said}
	}
	if from.writer || from.becomes {
		return sinks.WithOutcome(outcome, said)
	}
	return err
}

// reject reports a record that cannot be applied, if the tables are still as
// they were read. Nothing is committed.
func (w *work) reject(ctx context.Context, bad *rejection) ([]sinks.Result, error) {
	if _, server := errors.AsType[*pgconn.PgError](bad.err); !server {
		commands, owners := w.become(nil, -1, nil, nil)
		_, err := w.exchange(ctx, append(commands, w.checks()...), owners, false)
		if earlier, ok := errors.AsType[*rejection](err); ok {
			bad = earlier // of what was sent before
		} else if err != nil {
			return nil, err
		}
	}
	results := sinks.Results(len(w.batch.Records), sinks.Retry, errNeighbour)
	results[bad.record] = sinks.Result{Outcome: sinks.Rejected, Err: bad.err}
	return results, nil
}
