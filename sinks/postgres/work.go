package postgres

import (
	"context"
	"errors"
	"fmt"

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
// which are collected into statements.
type work struct {
	planner *tablePlanner
	batch   *sinks.Batch
	link    link

	rows      map[string]*row
	order     []*row
	mutations [][]*walproxyv1.Mutation // per record
	byRecord  [][]*row                 // per record, per mutation
	mappings  []*mapping
	defers    bool

	groups  []*group
	byShape map[*shape]int
	hoped   []*mapping
	ordered int // the last statement of a table that keeps the log's order; -1: none

	// Memory that rows and operations share: a batch has thousands.
	arena      []byte // encoded values; never nil: that would be NULL
	slab       []row
	operations []operation
	values     [][]byte
	// Good until the next use.
	single            blind
	columns, defaults []*column
	shapeID           []byte
}

// group is one statement to be.
type group struct {
	shape *shape
	ops   []*operation
	bytes int  // of their values
	again bool // a row was written before in this batch, or was read
}

// maxStatementBytes is how many bytes of values a statement gets before the next
// one is begun: a message of the protocol has at most 1 GiB, a document
// mutation.MaxDocumentBytes.
var maxStatementBytes = 64 << 20 // tests: less

// rejection says which record cannot be applied.
type rejection struct {
	record int
	err    error
}

func (e *rejection) Error() string { return e.err.Error() }

func (e *rejection) Unwrap() error { return e.err }

// stage implements planner.
func (p *tablePlanner) stage(ctx context.Context, l link, b *sinks.Batch) ([]sinks.Result, error) {
	w := &work{planner: p, batch: b, link: l, rows: map[string]*row{}, byShape: map[*shape]int{}, ordered: -1,
		arena: make([]byte, 0, 1024)}
	err := w.collect()
	if err == nil {
		err = w.run(ctx)
	}
	if bad, ok := errors.AsType[*rejection](err); ok {
		return w.reject(ctx, bad)
	}
	return nil, err
}

// collect finds the row of every mutation, and what has to be read.
func (w *work) collect() error {
	n := len(w.batch.Records)
	w.mutations, w.byRecord = make([][]*walproxyv1.Mutation, n), make([][]*row, n)
	for i := range w.batch.Records {
		rec := &w.batch.Records[i]
		ms, err := mutation.Mutations(rec.Body)
		if err != nil {
			return halt("LSN %v: %w", rec.LSN, err)
		}
		w.mutations[i] = ms
		for _, m := range ms {
			r, err := w.row(m)
			if err != nil {
				return w.blame(i, err)
			}
			w.byRecord[i] = append(w.byRecord[i], r)
			r.m.raise(m)
		}
	}
	// Only now, when the flags say it of the whole batch.
	for i, ms := range w.mutations {
		for j, m := range ms {
			r := w.byRecord[i][j]
			r.reads = r.reads || !r.m.writesBlindly(m)
		}
	}
	return nil
}

// blame marks an error of record i that no retry mends.
func (w *work) blame(i int, err error) error {
	if _, ok := errors.AsType[*mutation.RejectedError](err); ok {
		return &rejection{record: i, err: err}
	}
	return err
}

func (w *work) row(m *walproxyv1.Mutation) (*row, error) {
	var buf [128]byte
	id := mutation.AppendKey(buf[:0], m.GetCollection(), m.GetKey())
	if r := w.rows[string(id)]; r != nil {
		return r, nil
	}
	mp, err := w.mapping(m.GetCollection())
	if err != nil {
		return nil, err
	}
	key, err := w.keyValues(mp, m.GetKey())
	if err != nil {
		return nil, err
	}
	stream, err := w.streamOf(mp, m.GetKey())
	if err != nil {
		return nil, err
	}
	if len(w.slab) == cap(w.slab) {
		w.slab = make([]row, 0, min(max(len(w.batch.Records), 1), 256))
	}
	start := len(w.arena)
	w.arena = append(w.arena, id[mp.prefix:]...)
	w.slab = append(w.slab, row{m: mp, key: key, stream: stream, id: w.arena[start:len(w.arena):len(w.arena)], last: -1})
	r := &w.slab[len(w.slab)-1]
	w.rows[string(id)] = r
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

// run does the batch.
func (w *work) run(ctx context.Context) error {
	var stale []*row
	for _, r := range w.order {
		if r.reads {
			stale = append(stale, r)
		}
	}
	if err := w.read(ctx, stale); err != nil {
		return err
	}
	for i, ms := range w.mutations {
		for j, m := range ms {
			r := w.byRecord[i][j]
			if r.reads && !r.known {
				if err := w.readAgain(ctx, i); err != nil {
					return err
				}
			}
			if err := w.write(r, m, i); err != nil {
				return w.blame(i, err)
			}
		}
	}
	for _, r := range w.order {
		if err := w.finish(r); err != nil {
			return w.blame(r.record, err)
		}
	}
	commands, owners := w.commands()
	commands = append(commands, w.besides()...)
	commands = append(commands, w.checks()...)
	_, err := w.link.run(ctx, commands, true)
	if err == nil {
		for _, m := range w.hoped {
			m.flags.hope.fulfil()
		}
		return nil
	}
	return w.explain(ctx, err, owners)
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
	op, err := w.documentOperation(r, b, r.record)
	if err == nil {
		w.add(op)
	}
	return err
}

// add puts an operation into a statement: one of its shape, behind the last one
// that writes the row, or behind all in a table that keeps the log's order.
func (w *work) add(op *operation) {
	if len(op.shape.sqls) == 0 {
		return
	}
	t := op.shape.mapping.table
	at, ok := w.byShape[op.shape]
	if t.ordered {
		at, ok = w.ordered, w.ordered >= 0 && !t.rowwise && w.groups[max(w.ordered, 0)].shape == op.shape &&
			(!t.unique || len(op.shape.sqls) == 1 && op.shape.change != alter && op.shape.change != patch)
	}
	if !ok || at <= op.row.last || w.groups[at].bytes >= maxStatementBytes {
		at = len(w.groups)
		w.groups = append(w.groups, &group{shape: op.shape})
	}
	if w.byShape[op.shape] = at; t.ordered {
		w.ordered = at
	}
	w.groups[at].ops = append(w.groups[at].ops, op)
	for _, v := range op.values {
		w.groups[at].bytes += len(v)
	}
	w.groups[at].again = w.groups[at].again || op.row.last >= 0 || op.row.reads
	op.row.last = at
	w.unsettle(op)
}

// unsettle marks the rows that the server may change along with op's: by a
// cascade, or by a trigger.
func (w *work) unsettle(op *operation) {
	m := op.shape.mapping
	if m.effects == nil {
		return
	}
	group := m.effects.group || m.effects.removal && op.shape.change == remove
	for _, r := range w.order {
		if r != op.row && (group && r.m.group == m.group || m.effects.tables[r.m.table.oid]) {
			r.known = false
		}
	}
}

// commands turns the statements collected into commands; owners has the only
// record behind each of them, or -1.
func (w *work) commands() (commands []command, owners []int) {
	for _, g := range w.groups {
		arrays := make([]*arrayBuilder, len(g.shape.inputs))
		for i, in := range g.shape.inputs {
			arrays[i] = newArray(in.element, len(g.ops))
		}
		owner := g.ops[0].record
		for _, op := range g.ops {
			for i, v := range op.values {
				arrays[i].element(v)
			}
			if op.record != owner {
				owner = -1
			}
		}
		params := make([][]byte, len(arrays))
		for i, a := range arrays {
			params[i] = a.bytes()
		}
		sqls := g.shape.sqls
		if w.hopes(g) {
			sqls = []string{g.shape.insert}
		}
		for _, sql := range sqls {
			commands = append(commands, command{sql: sql, types: g.shape.types, params: params, formats: binaryParams})
			owners = append(owners, owner)
		}
	}
	if w.defers && len(w.batch.Records) > 1 {
		// What would be found at the commit has to be found with the record.
		commands = append([]command{{sql: "SET CONSTRAINTS ALL IMMEDIATE"}}, commands...)
		owners = append([]int{-1}, owners...)
	}
	w.groups, w.byShape, w.ordered = nil, map[*shape]int{}, -1
	for _, r := range w.order {
		r.last = -1
	}
	return commands, owners
}

// hopes reports whether a statement may take its rows for new ones.
func (w *work) hopes(g *group) bool {
	m := g.shape.mapping
	if g.shape.insert == "" || g.again || m.table.ordered || len(g.ops) < minHope || !m.flags.hope.tries() {
		return false
	}
	w.hoped = append(w.hoped, m)
	return true
}

// minHope is how many rows a statement needs for its second try to be worth it.
var minHope = 16 // tests: 1

var binaryParams = []int16{formatBinary}

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

// explain finds out what an error of a run means: that the catalogue is stale,
// or which record was refused. owners is as commands has returned it.
//
// What the server refuses counts only if the tables are as they were read: an
// insert that lacks a column made NOT NULL a moment ago, say, is no fault of its
// record. The transaction has failed, so that is looked up behind it.
func (w *work) explain(ctx context.Context, err error, owners []int) error {
	at, ok := errors.AsType[*commandError](err)
	if !ok {
		return err
	}
	switch codeOf(err) {
	case codeChanged, "0A000": // cached plan must not change result type
		return fmt.Errorf("%w: %w", errStale, err)
	}
	if codeOf(err) == "23505" && len(w.hoped) > 0 {
		for _, m := range w.hoped {
			m.flags.hope.disappoint()
		}
		return fmt.Errorf("%w: %w", errExists, err)
	}
	outcome, said := judge(err, false)
	if outcome != sinks.Rejected && outcome != sinks.Halt {
		return err
	}
	if _, err := w.link.run(ctx, append([]command{{sql: "ROLLBACK"}}, w.checks()...), false); codeOf(err) == codeChanged {
		return fmt.Errorf("%w: %w", errStale, err)
	}
	if outcome == sinks.Rejected && at.index >= 0 && at.index < len(owners) && owners[at.index] >= 0 {
		return &rejection{record: owners[at.index], err: said}
	}
	return err
}

// reject reports a record that cannot be applied, if the tables are still as
// they were read. Nothing is committed.
func (w *work) reject(ctx context.Context, bad *rejection) ([]sinks.Result, error) {
	if _, server := errors.AsType[*pgconn.PgError](bad.err); !server {
		if _, err := w.link.run(ctx, w.checks(), false); err != nil {
			return nil, w.explain(ctx, err, nil)
		}
	}
	results := sinks.Results(len(w.batch.Records), sinks.Retry, errNeighbour)
	results[bad.record] = sinks.Result{Outcome: sinks.Rejected, Err: bad.err}
	return results, nil
}
