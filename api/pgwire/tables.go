package pgwire

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/pgwire/catalogue"
	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// WriteBehind says which writes are acknowledged from the log. Core, Sink, Tables
// and Query are required.
type WriteBehind struct {
	Core api.Core
	// Sink, of type postgres, applies what is logged to the database that Upstream's
	// clients write to.
	Sink   string
	Tables []Table
	// Query asks that database about its catalogue.
	Query catalogue.Query
	// Interval is how long a change of the schema made past the proxy may go
	// unnoticed. 1 s.
	Interval time.Duration
	// GateTimeout bounds how long a direct write waits for what is pending of its
	// tables. 10 s.
	GateTimeout time.Duration
	// ReadTimeout bounds how long a read waits for its session's writes. 10 s.
	ReadTimeout time.Duration
	// LogTransactions: a BEGIN .. COMMIT of nothing but writes that can be written behind
	// is held until its COMMIT, and acknowledged as one record.
	LogTransactions bool
	// SequenceBlock is how many values of a sequence are drawn at once, ahead of the
	// INSERTs that leave them to it. 100.
	SequenceBlock int
	// AckTimeout bounds how long a write waits for its place in the log, and with
	// walproxy.ack = 'applied' for being applied. 30 s.
	AckTimeout time.Duration
}

// Table is one that is declared write-behind.
type Table struct {
	catalogue.Declared
	// AssumeRows: UPDATE, DELETE and ON CONFLICT DO NOTHING are acknowledged from the
	// log, too, with the number of rows that they would affect if each row were there
	// (of an INSERT: were not).
	AssumeRows bool
}

func (o *WriteBehind) withDefaults() error {
	if o.Core == nil || o.Sink == "" || len(o.Tables) == 0 || o.Query == nil {
		return errors.New("pgwire: options: WriteBehind needs Core, Sink, Tables and Query")
	}
	o.Interval = positive(o.Interval, time.Second)
	o.GateTimeout = positive(o.GateTimeout, 10*time.Second)
	o.ReadTimeout = positive(o.ReadTimeout, 10*time.Second)
	if o.SequenceBlock < 1 {
		o.SequenceBlock = 100
	}
	o.AckTimeout = positive(o.AckTimeout, 30*time.Second)
	return nil
}

// statementCacheBytes is what is kept of texts, for all sessions.
const statementCacheBytes = 16 << 20

// tables are those that are written behind, with what all sessions share of them.
type tables struct {
	s     *Server
	o     WriteBehind
	watch *catalogue.Watch
	cache *statement.Cache
	rows  map[string]bool // collections with AssumeRows
	m     *behindMetrics

	sequences *sequences
	next      func(*catalogue.Sequence) (int64, bool) // sequences'
	gates     *gates
	latest    atomic.Pointer[attended] // wrote behind last; nil: nobody that is still here
	named     atomic.Pointer[string]   // the database, as storeSQL names it
}

func newTables(s *Server, o WriteBehind, m *behindMetrics) *tables {
	t := &tables{s: s, o: o, cache: statement.NewCache(statementCacheBytes), rows: map[string]bool{}, m: m}
	var declared []catalogue.Declared
	for _, table := range o.Tables {
		declared = append(declared, table.Declared)
		t.rows[table.Collection] = table.AssumeRows
		o.Core.Track(table.Collection)
	}
	t.watch = catalogue.NewWatch(o.Query, declared, o.Interval, s.log.Named("catalogue"))
	t.sequences = newSequences(s, t.watch.Ask, o)
	t.next = t.sequences.next
	t.gates = &gates{s: s, t: t, in: map[*attended]struct{}{}}
	return t
}

// refreshTimeout bounds how long a statement waits for the catalogue to be read.
const refreshTimeout = 5 * time.Second

// catalogue returns what is known of the tables, and waits for it where it has just
// changed; nil: it cannot be said. While PostgreSQL is away it is what was known before:
// most of what may have changed the schema (CALL, say) has not.
func (t *tables) catalogue(ctx context.Context) *catalogue.Snapshot {
	if s := t.watch.Current(); s != nil {
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	defer context.AfterFunc(t.s.whileUpstream(), cancel)()
	s, err := t.watch.Await(ctx)
	if err == nil {
		return s
	}
	if p := t.s.presence; p != nil && !t.s.isUpstreamAway() && ctx.Err() == nil {
		p.check(t.s.logins) // it may have just gone
	}
	if t.s.isUpstreamAway() {
		return t.watch.Last()
	}
	return nil // Run says why
}

// store names the database that the sink applies to; "": it cannot be said now.
func (t *tables) store(ctx context.Context) string {
	if named := t.named.Load(); named != nil {
		return *named
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	rows, err := t.watch.Ask(ctx, "SELECT "+storeSQL)
	if err != nil || len(rows) != 1 || len(rows[0]) != 1 {
		return ""
	}
	t.named.Store(&rows[0][0])
	return rows[0][0]
}

// collections of tables, each once, in order.
func collections(tables []*catalogue.Table) []string {
	var list []string
	for _, t := range tables {
		list = append(list, t.Collection)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// all collections, in order.
func (t *tables) all() []string {
	var list []string
	for _, table := range t.o.Tables {
		list = append(list, table.Collection)
	}
	slices.SortFunc(list, strings.Compare)
	return slices.Compact(list)
}
