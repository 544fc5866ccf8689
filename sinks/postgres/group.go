package postgres

import (
	"context"
	"slices"
)

// statements are those that a batch is collected into.
type statements struct {
	// groups are numbered from base on: those before were sent.
	groups  []*group
	base    int
	recent  int            // number of the group that was added to last
	byShape map[*shape]int // number of the last group
	ordered int            // the last group of a table that keeps the log's order; -1: none
	full    bool           // a group is large enough to be sent
	grown   int            // how large that is, in chunks; 0: one
	owners  []origin       // of what was sent in this round trip; see exchange
	now     bool           // constraints have been set immediate

	inserts, merges hopes // for new rows; for rows that nobody else inserts
	byKey           bool  // the server has been told so
	used, spare     []*group
}

// group is one statement to be.
type group struct {
	shape  *shape
	arrays []arrayBuilder // one per input
	first  *parameters    // of the first row, of a statement's shape
	count  int
	owner  int  // the record behind all of it; -1: several
	again  bool // a row was written before in this batch, or was read
}

// The first group is sent when it has chunkRows, or chunkBytes in fewer: the server
// works at it while the rest is encoded. That is done long before the server is
// through, so that the next ones may be chunkGrowth times as large: each statement
// costs it as much as a dozen rows.
var chunkRows = 256 // tests: 3

const (
	chunkRowsMin = 32
	chunkBytes   = 64 << 10
	chunkGrowth  = 4
)

// maxStatementBytes is how many bytes of values a statement gets before the next
// one is begun: a message of the protocol has at most 1 GiB, a document
// mutation.MaxDocumentBytes.
var maxStatementBytes = 64 << 20 // tests: less

// place finds the group for an operation of shape s: one of that shape, behind
// the last one that writes the row, or behind all in a table that keeps the log's
// order. It adds the row's key. nil: there is nothing to do.
func (w *work) place(s *shape, r *row, record int) *group {
	if len(s.sqls) == 0 {
		return nil
	}
	g := w.groupOf(s, r, record)
	for i, v := range r.key {
		g.arrays[i].element(v)
	}
	w.fill(g)
	w.unsettle(s, r)
	return g
}

// groupOf is place without any value.
func (w *work) groupOf(s *shape, r *row, record int) *group {
	t := s.mapping.table
	at, ok := w.latest(s)
	if t.ordered {
		at, ok = w.ordered, w.ordered >= w.base && !t.rowwise && w.groups[w.ordered-w.base].shape == s &&
			(!t.unique || len(s.sqls) == 1 && s.change != alter && s.change != patch)
	}
	if !ok || at <= r.last || s.logged != nil && !s.logged.folds || w.groups[at-w.base].bytes() >= maxStatementBytes {
		at = w.base + len(w.groups)
		w.groups = append(w.groups, w.newGroup(s, record))
	}
	if t.ordered {
		w.ordered = at
	}
	if w.recent != at {
		w.recent, w.byShape[s] = at, at
	}
	g := w.groups[at-w.base]
	if g.owner != record {
		g.owner = -1
	}
	g.again = g.again || r.last >= 0 || r.reads
	g.count++
	r.last = at
	return g
}

// fill notes that a group, or all of them, is large enough to be sent.
func (w *work) fill(g *group) {
	grown := max(w.grown, 1)
	w.full = w.full || g.count >= grown*chunkRows || g.count >= chunkRowsMin && g.bytes() >= grown*chunkBytes || len(w.groups) >= grown*chunkRows
}

// latest is the number of the last group of shape s that was not sent.
func (w *work) latest(s *shape) (at int, ok bool) {
	if w.recent >= w.base && w.recent-w.base < len(w.groups) && w.groups[w.recent-w.base].shape == s {
		return w.recent, true
	}
	at, ok = w.byShape[s]
	return at, ok && at >= w.base
}

func (w *work) newGroup(s *shape, record int) *group {
	g := &group{}
	if n := len(w.spare); n > 0 {
		g, w.spare = w.spare[n-1], w.spare[:n-1]
	}
	*g = group{shape: s, arrays: slices.Grow(g.arrays[:0], len(s.inputs))[:len(s.inputs)], owner: record}
	for i, in := range s.inputs {
		if in.text {
			g.arrays[i].resetText()
			continue
		}
		g.arrays[i].reset(in.element)
	}
	return g
}

// bytes of its parameters so far.
func (g *group) bytes() (n int) {
	for i := range g.arrays {
		n += len(g.arrays[i].buf)
	}
	return n
}

// unsettle marks the rows that the server may change along with r: by a cascade,
// or by a trigger.
func (w *work) unsettle(s *shape, r *row) {
	m := s.mapping
	if m.effects == nil {
		return
	}
	group := m.effects.group || m.effects.removal && s.change == remove
	for _, o := range w.order {
		if o != r && (group && o.m.group == m.group || m.effects.tables[o.m.table.oid]) {
			o.known = false
		}
	}
}

// origin is what is behind a command.
type origin struct {
	record  int  // the only record; -1: several, or none
	writer  bool // it is a statement that was logged, and runs under its session
	becomes bool // it takes a session on
}

var ours = origin{record: -1}

// commands turns the statements collected into commands, with what is behind each.
// They are good until recycle.
func (w *work) commands() (commands []command, owners []origin) {
	if w.defers && len(w.batch.Records) > 1 && !w.now {
		// What would be found at the commit has to be found with the record.
		commands, owners = append(commands, command{sql: "SET CONSTRAINTS ALL IMMEDIATE"}), append(owners, ours)
		w.now = true
	}
	for _, g := range w.groups {
		if g.shape.logged != nil {
			commands, owners = w.statement(g, commands, owners)
			continue
		}
		commands, owners = w.become(nil, -1, commands, owners)
		w.sort(g)
		params := g.params()
		sqls := g.shape.sqls
		if w.hopes(g) {
			sqls = []string{g.shape.insert}
		} else if w.merging(g) {
			if low, high, dense := g.dense(); dense {
				commands, owners = w.mergeRange(g, append(params, low, high), commands, owners)
				continue
			}
			sqls = []string{g.shape.merge}
			commands, owners = w.findByKey(commands, owners)
		}
		for _, sql := range sqls {
			commands = append(commands, command{sql: sql, types: g.shape.types, params: params, formats: binaryParams})
			owners = append(owners, origin{record: g.owner})
		}
	}
	w.base += len(w.groups)
	w.used, w.groups, w.full = append(w.used, w.groups...), w.groups[:0], false
	return commands, owners
}

func (g *group) params() [][]byte {
	params := make([][]byte, len(g.arrays))
	for i := range g.arrays {
		params[i] = g.arrays[i].bytes()
	}
	return params
}

// findByKey tells the server byKey, once in a transaction.
func (w *work) findByKey(commands []command, owners []origin) ([]command, []origin) {
	if w.byKey {
		return commands, owners
	}
	w.byKey = true
	return append(commands, command{sql: byKey, path: w.path()}), append(owners, ours)
}

// mergeRange is the MERGE of a group with dense keys. Whatever comes behind it is
// planned byKey again: a plan byRange that is kept would read all of a table.
func (w *work) mergeRange(g *group, params [][]byte, commands []command, owners []origin) ([]command, []origin) {
	key := g.shape.inputs[0].element
	commands = append(commands, command{sql: byRange, path: w.path()},
		command{sql: g.shape.dense, types: append(slices.Clone(g.shape.types), key, key), params: params, formats: binaryParams})
	owners = append(owners, ours, origin{record: g.owner})
	w.byKey = false
	return w.findByKey(commands, owners)
}

// A group's keys are dense if they are at least one in denseKeys of their range: reading
// that costs less than looking each of them up (BenchmarkForms). The join keeps all
// rows of the group, which denseBytes bounds.
const (
	denseKeys  = 2
	denseBytes = 1 << 20
)

// dense returns the lowest and the highest key of a group whose keys are dense.
func (g *group) dense() (low, high []byte, ok bool) {
	if g.shape.dense == "" || g.bytes() > denseBytes {
		return nil, nil, false
	}
	keys := &g.arrays[0]
	size := keys.elementSize()
	var least, most int64
	for at := arrayHead + 4; at < len(keys.buf); at += 4 + size {
		raw := keys.buf[at : at+size]
		n := readInteger(raw)
		if low == nil || n < least {
			least, low = n, raw
		}
		if high == nil || n > most {
			most, high = n, raw
		}
	}
	return low, high, uint64(most)-uint64(least) < denseKeys*uint64(g.count)
}

// sendFull sends the statements collected if one of them is large.
func (w *work) sendFull(ctx context.Context) error {
	if !w.full {
		return nil
	}
	commands, owners := w.commands()
	w.owners = append(w.owners, owners...)
	err := w.link.send(ctx, commands)
	w.recycle()
	w.grown = chunkGrowth
	return err
}

// recycle takes back the memory of groups that were sent.
func (w *work) recycle() {
	w.spare, w.used = append(w.spare, w.used...), w.used[:0]
}

// hopes reports whether a statement may take its rows for new ones.
func (w *work) hopes(g *group) bool {
	m := g.shape.mapping
	return g.shape.insert != "" && !g.again && !m.table.ordered && g.count >= minHope && w.inserts.try(&m.flags.hope)
}

// merging reports whether a statement may be a MERGE: not in a transaction with
// triggers, whose own statements byKey would slow down, for good where their
// plans are kept.
func (w *work) merging(g *group) bool {
	m := g.shape.mapping
	return g.shape.merge != "" && g.count >= minHope && !w.planner.upserts && w.unordered() && w.merges.try(&m.flags.alone)
}

// unordered reports whether no trigger can run in the transaction.
func (w *work) unordered() bool {
	return !slices.ContainsFunc(w.mappings, func(m *mapping) bool { return m.table.ordered })
}

// minHope is how many rows a statement needs for its second try to be worth it.
var minHope = 16 // tests: 1
