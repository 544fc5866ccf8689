package postgres

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// tablePlanner keeps the catalogue as far as it is needed, and stages batches.
type tablePlanner struct {
	o   Options
	log *zap.Logger

	upserts bool // tests: never MERGE

	staging atomic.Int32 // batches that are being staged

	// lanes is the catalogue as Resume found it, which lane groups follow.
	lanes atomic.Pointer[relations]

	// load is held while the catalogue is read. It is taken before mu.
	load sync.Mutex
	mu   struct {
		sync.RWMutex
		relations *relations
		mappings  map[string]*mapping // by collection
		flags     map[string]*flags   // kept when mappings are read again
		tables    map[uint32]string   // the collection that has the table
	}
}

// newPlanner makes the planner of a sink whose options are filled in.
func newPlanner(o Options) (planner, error) {
	var errs []error
	for i, c := range o.Collections {
		if _, err := path.Match(c.Pattern, ""); err != nil {
			errs = append(errs, fmt.Errorf("collections[%d]: %q: %w", i, c.Pattern, err))
		}
		errs = append(errs, c.checkEvents(i))
		if c.Table == "" {
			continue
		}
		if _, _, err := parseName(c.Table); err != nil {
			errs = append(errs, fmt.Errorf("collections[%d]: %w", i, err))
		}
		if several(c.Pattern) {
			errs = append(errs, fmt.Errorf("collections[%d]: %q names many collections; each needs a table of its own", i, c.Pattern))
		}
	}
	p := &tablePlanner{o: o, log: o.Logger}
	p.mu.relations = &relations{}
	p.mu.flags = map[string]*flags{}
	p.forgetTables()
	return p, errors.Join(errs...)
}

// checkEvents says what is wrong with the name of the events' table.
func (c Collection) checkEvents(i int) error {
	if c.Events == nil {
		return nil
	}
	if _, _, err := parseName(c.Events.Table); err != nil {
		return fmt.Errorf("collections[%d].events: %w", i, err)
	}
	if several(c.Pattern) {
		return fmt.Errorf("collections[%d].events: %q names many collections; each needs a table of its own", i, c.Pattern)
	}
	return nil
}

// forgetTables; load is held, or nobody else is there.
func (p *tablePlanner) forgetTables() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.mappings, p.mu.tables = map[string]*mapping{}, map[uint32]string{}
}

// refresh implements planner. With resume the lanes follow what is found; later
// it must not ask for other lanes.
func (p *tablePlanner) refresh(ctx context.Context, conn *pgconn.PgConn, resume bool) error {
	p.load.Lock()
	defer p.load.Unlock()
	forget(conn)
	if resume {
		p.mu.Lock()
		p.mu.flags = map[string]*flags{} // another owner may have written since
		p.mu.Unlock()
	}
	p.forgetTables()
	r, err := p.reload(ctx, conn)
	if err == nil && resume {
		p.lanes.Store(r)
	}
	return err
}

func (p *tablePlanner) reload(ctx context.Context, conn *pgconn.PgConn) (*relations, error) {
	r, err := loadRelations(ctx, conn)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.relations = r
	return r, nil
}

// mapping returns what is known of a collection's table; nil: nothing.
func (p *tablePlanner) mapping(collection string) *mapping {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.mu.mappings[collection]
}

// expiring implements planner.
func (p *tablePlanner) expiring() (collections []string) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for name, f := range p.mu.flags {
		if f.expiring.Load() {
			collections = append(collections, name)
		}
	}
	return collections
}

// laneGroup implements planner.
func (p *tablePlanner) laneGroup(collection string) string {
	r := p.lanes.Load()
	if r == nil {
		return ""
	}
	return r.group(collection, p.o.collection(collection))
}

// laneGroups implements planner.
func (p *tablePlanner) laneGroups() map[string][]string {
	r := p.lanes.Load()
	if r == nil {
		return nil
	}
	groups := map[string][]string{}
	for oid, group := range r.groups {
		groups[group] = append(groups[group], r.names[oid].String())
	}
	for _, tables := range groups {
		slices.Sort(tables)
	}
	return groups
}

// warnings implements planner.
func (p *tablePlanner) warnings() (list []string) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for oid, collection := range p.mu.tables {
		if does := p.mu.relations.unseen[oid]; does != "" {
			list = append(list, unseenWarning(collection, p.mu.relations.names[oid], does))
		}
	}
	slices.Sort(list)
	return list
}

func unseenWarning(collection string, table relationName, does string) string {
	return fmt.Sprintf("collection %q, table %s: a trigger %s, so that what it reaches is not seen: if that is another table, put the collections of both into one lane_group", collection, table, does)
}

// prepare implements planner.
func (p *tablePlanner) prepare(ctx context.Context, conn *pgconn.PgConn, b *sinks.Batch) error {
	missing := map[string]*walproxyv1.Key{}
	last := ""
	for i := range b.Records {
		mutation.Keys(b.Records[i].Body, func(collection string, _ *walproxyv1.Key) {
			if collection == last {
				return
			}
			if last = collection; p.mapping(collection) == nil {
				missing[collection] = nil
			}
		})
	}
	for i := 0; i < len(b.Records) && len(missing) > 0; i++ {
		for m := range mutationsOf(b.Records[i].Body) { // a statement makes no table
			if key, ok := missing[m.GetCollection()]; ok && key == nil {
				missing[m.GetCollection()] = m.GetKey()
			}
		}
	}
	for collection, key := range missing {
		if err := p.find(ctx, conn, collection, key); err != nil {
			return err
		}
	}
	return p.noteEnds(ctx, conn, b)
}

// find reads a collection's table, or makes it for keys like key; nil: it does not.
func (p *tablePlanner) find(ctx context.Context, conn *pgconn.PgConn, collection string, key *walproxyv1.Key) error {
	p.load.Lock()
	defer p.load.Unlock()
	if p.mapping(collection) != nil {
		return nil
	}
	err := p.findLocked(ctx, conn, collection, key)
	if errors.Is(err, errStale) { // another table has had its name since all of them were read
		if _, err = p.reload(ctx, conn); err == nil {
			err = p.findLocked(ctx, conn, collection, key)
		}
	}
	return err
}

// findLocked is find by the names that were read last: load is held.
func (p *tablePlanner) findLocked(ctx context.Context, conn *pgconn.PgConn, collection string, key *walproxyv1.Key) error {
	o := p.o.collection(collection)
	p.mu.RLock()
	r := p.mu.relations
	p.mu.RUnlock()
	oid, name, err := r.find(collection, o)
	if err == nil && oid == 0 {
		if r, err = p.reload(ctx, conn); err == nil {
			oid, name, err = r.find(collection, o)
		}
	}
	if err != nil {
		return err
	}
	if oid == 0 {
		if key == nil {
			return halt("collection %q: there is no table %s, which was written by SQL: create it, or name another one (collections.*.table)", collection, name)
		}
		if !p.o.AutoCreate {
			return halt("collection %q: there is no table %s: create it, name another one (collections.*.table), or set auto_create", collection, name)
		}
		if err := p.create(ctx, conn, collection, name, key); err != nil {
			return err
		}
		if r, err = p.reload(ctx, conn); err != nil {
			return err
		}
		if oid, name, err = r.find(collection, o); err != nil || oid == 0 {
			return sinks.WithOutcome(sinks.Retry, errors.Join(fmt.Errorf("sink postgres: table %s is gone again", name), err))
		}
	}
	if !p.lanesHold(r, oid) {
		return halt("collection %q, table %s: its rows now depend on each other or on those of other tables (those of lane group %q): the lanes follow when the sink resumes", collection, name, r.groups[oid])
	}
	_, err = p.loadMapping(ctx, conn, collection, oid, name, o)
	return err
}

// lanesHold reports whether the lanes that Resume chose keep together what r says
// must be: the rows of the table, and those of the other tables in use.
func (p *tablePlanner) lanesHold(r *relations, oid uint32) bool {
	group, lanes := r.groups[oid], p.lanes.Load()
	if group == "" {
		return true
	}
	if lanes == nil || lanes.groups[oid] == "" {
		return false
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	for other := range p.mu.tables {
		if r.groups[other] == group && lanes.groups[other] != lanes.groups[oid] {
			return false
		}
	}
	return true
}

// lookup implements planner.
func (p *tablePlanner) lookup(ctx context.Context, conn *pgconn.PgConn, collection string) (*mapping, error) {
	if m := p.mapping(collection); m != nil {
		return m, nil
	}
	p.load.Lock()
	defer p.load.Unlock()
	if m := p.mapping(collection); m != nil {
		return m, nil
	}
	r, err := p.reload(ctx, conn)
	if err != nil {
		return nil, err
	}
	o := p.o.collection(collection)
	oid, name, err := r.find(collection, o)
	if err != nil {
		return nil, err
	}
	if oid == 0 {
		if p.o.AutoCreate {
			return nil, nil // nothing was written yet
		}
		return nil, halt("collection %q: there is no table %s", collection, name)
	}
	return p.loadMapping(ctx, conn, collection, oid, name, o)
}

// loadMapping reads a table; load is held. It is kept for writers only if the
// lanes hold.
func (p *tablePlanner) loadMapping(ctx context.Context, conn *pgconn.PgConn, collection string, oid uint32, name relationName, o Collection) (*mapping, error) {
	t, err := loadTable(ctx, conn, oid)
	if err != nil {
		return nil, err
	}
	if t.schema != name.schema || t.name != name.name {
		return nil, errStale
	}
	m, err := newMapping(collection, t, o)
	if err != nil {
		return nil, err
	}
	p.mu.RLock()
	r, other := p.mu.relations, p.mu.tables[oid]
	m.flags = p.mu.flags[collection]
	p.mu.RUnlock()
	if other != "" && other != collection {
		return nil, halt("collections %q and %q are both mapped to table %s: give each a table of its own", other, collection, t)
	}
	if o.Events != nil {
		if m.events, err = p.loadEventTable(ctx, conn, collection, t, o.Events); err != nil {
			return nil, err
		}
		p.mu.RLock()
		other := p.mu.tables[m.events.table.oid]
		p.mu.RUnlock()
		if other != "" && other != collection {
			return nil, halt("collections %q and %q both use table %s: give each a table of its own", other, collection, m.events.table)
		}
	}
	if m.group, m.effects = r.groups[oid], r.effects[oid]; m.group != "" {
		t.ordered = true // also for a table that only others' triggers write to
	}
	if !p.lanesHold(r, oid) || p.lanes.Load() == nil {
		return m, nil
	}
	if m.flags == nil {
		if m.flags, err = p.loadFlags(ctx, conn, m); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.mappings[collection], p.mu.tables[oid], p.mu.flags[collection] = m, collection, m.flags
	if m.events != nil {
		p.mu.tables[m.events.table.oid] = collection
	}
	p.log.Info("collection mapped", zap.String("collection", collection), zap.Stringer("table", t), zap.Bool("document", m.document))
	if does := r.unseen[oid]; does != "" {
		p.log.Warn(unseenWarning(collection, relationName{t.schema, t.name}, does))
	}
	return m, nil
}

func (p *tablePlanner) loadFlags(ctx context.Context, conn *pgconn.PgConn, m *mapping) (*flags, error) {
	schema := quote(p.o.Schema)
	ends := fmt.Sprintf("EXISTS (SELECT FROM %s.record WHERE collection = $1 AND expires_at IS NOT NULL)", schema)
	if m.document {
		ends = fmt.Sprintf("EXISTS (SELECT FROM %s WHERE expires_at IS NOT NULL)", m.table.quoted())
	}
	events := fmt.Sprintf("%s.event WHERE collection = $1", schema)
	if m.events != nil {
		events = m.events.table.quoted() + " WHERE $1 <> ''"
	}
	answers, err := runPipeline(ctx, conn, []command{{
		sql:    fmt.Sprintf("SELECT %s, EXISTS (SELECT FROM %s), EXISTS (SELECT FROM %s.record WHERE collection = $1)", ends, events, schema),
		types:  []uint32{oidText},
		params: [][]byte{[]byte(m.collection)},
	}})
	if err != nil {
		return nil, err
	}
	f := &flags{}
	f.expiring.Store(string(answers[0].rows[0][0]) == "t")
	f.streaming.Store(string(answers[0].rows[0][1]) == "t")
	f.recorded.Store(string(answers[0].rows[0][2]) == "t")
	return f, nil
}

// maxName is the longest identifier (NAMEDATALEN - 1); PostgreSQL would cut it.
const maxName = 63

// create makes a document table.
func (p *tablePlanner) create(ctx context.Context, conn *pgconn.PgConn, collection string, name relationName, key *walproxyv1.Key) error {
	if len(name.name) > maxName || len(name.schema) > maxName {
		return halt("collection %q: its name is too long for a table: name one (collections.*.table)", collection)
	}
	if name.schema == "" {
		return halt("collection %q: the search_path has no schema to create its table in", collection)
	}
	kind := `text COLLATE "C"`
	switch key.GetKind().(type) {
	case *walproxyv1.Key_Int64:
		kind = "bigint"
	case *walproxyv1.Key_Bytes:
		kind = "bytea"
	}
	table := quote(name.schema) + "." + quote(name.name)
	if err := createSchema(ctx, conn, collection, name); err != nil {
		return err
	}
	_, err := runPipeline(ctx, conn, []command{
		{sql: fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (key %s PRIMARY KEY, doc jsonb NOT NULL DEFAULT '{}', version bigint NOT NULL,
			updated_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz, event_count bigint NOT NULL DEFAULT 0)`, table, kind)},
		{sql: fmt.Sprintf("CREATE INDEX ON %s (expires_at) WHERE expires_at IS NOT NULL", table)},
	})
	if err != nil {
		err = fmt.Errorf("sink postgres: create table %s for collection %q: %w", name, collection, err)
		if outcome, _ := judge(err, false); outcome == sinks.Halt {
			return sinks.WithOutcome(sinks.Halt, err)
		}
		return sinks.WithOutcome(sinks.Retry, err) // no record is to blame
	}
	p.log.Info("document table created", zap.String("collection", collection), zap.Stringer("table", name))
	return nil
}

// createSchema makes the schema of a document table if it is not there: that of
// collection a.b is a, and may be nobody else's yet.
func createSchema(ctx context.Context, conn *pgconn.PgConn, collection string, name relationName) error {
	answers, err := runPipeline(ctx, conn, []command{{sql: "SELECT count(*)::text FROM pg_catalog.pg_namespace WHERE nspname = $1",
		types: []uint32{oidText}, params: [][]byte{[]byte(name.schema)}}})
	if err == nil && string(answers[0].rows[0][0]) == "0" {
		_, err = runPipeline(ctx, conn, []command{{sql: "CREATE SCHEMA IF NOT EXISTS " + quote(name.schema)}})
	}
	switch {
	case err == nil:
		return nil
	case codeOf(err) == "42501":
		return halt("collection %q: its table is to be made in schema %s, which is not there, and the role may not create it: %w; create it, or name a table (collections.*.table)", collection, quote(name.schema), err)
	}
	return sinks.WithOutcome(sinks.Retry, fmt.Errorf("sink postgres: schema %s for collection %q: %w", quote(name.schema), collection, err))
}
