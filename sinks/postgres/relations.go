package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// relations are the names of a database's tables, and which of them depend on
// each other.
type relations struct {
	path    []string // schemas that names without one are looked up in
	byName  map[relationName]uint32
	names   map[uint32]relationName
	groups  map[uint32]string // tables that must share a lane with others, or all their rows one
	effects map[uint32]*effects
	unseen  map[uint32]string // why not all that a table's triggers reach is known
}

// effects of writes to a table on rows of other tables, or its own, that the
// server changes along.
type effects struct {
	tables  map[uint32]bool // that its triggers name
	group   bool            // any of its lane group: what its triggers do cannot be seen, or ON UPDATE CASCADE
	removal bool            // any of its lane group, but only by a removal: ON DELETE CASCADE
}

func (r *relations) effect(oid uint32) *effects {
	if r.effects[oid] == nil {
		r.effects[oid] = &effects{tables: map[uint32]bool{}}
	}
	return r.effects[oid]
}

type relationName struct{ schema, name string }

func (n relationName) String() string { return n.schema + "." + n.name }

const relationsSQL = `SELECT c.oid::text, n.nspname, c.relname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
 AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname NOT LIKE 'pg\_temp\_%'`

const pathSQL = `SELECT unnest(pg_catalog.current_schemas(false))`

// A partition stands for the table it is part of.
const linksSQL = `SELECT coalesce(pg_catalog.pg_partition_root(conrelid), conrelid)::oid::text,
 coalesce(pg_catalog.pg_partition_root(confrelid), confrelid)::oid::text, confdeltype::text, confupdtype::text
FROM pg_catalog.pg_constraint WHERE contype = 'f'`

const uniqueSQL = `SELECT DISTINCT coalesce(pg_catalog.pg_partition_root(i.indrelid), i.indrelid)::oid::text
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary
 AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')`

const triggerLinksSQL = `SELECT coalesce(pg_catalog.pg_partition_root(t.tgrelid), t.tgrelid)::oid::text, p.prosrc, l.lanname
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'`

// loadRelations reads them in one round trip.
func loadRelations(ctx context.Context, conn *pgconn.PgConn) (*relations, error) {
	answers, err := runPipeline(ctx, conn, []command{
		{sql: relationsSQL}, {sql: pathSQL}, {sql: linksSQL}, {sql: uniqueSQL}, {sql: triggerLinksSQL},
	})
	if err != nil {
		return nil, fmt.Errorf("reading the catalogue: %w", err)
	}
	r := &relations{byName: map[relationName]uint32{}, names: map[uint32]relationName{},
		effects: map[uint32]*effects{}, unseen: map[uint32]string{}}
	for _, raw := range answers[0].rows {
		row := texted(raw)
		r.add(parseOID(row[0]), relationName{row[1], row[2]})
	}
	for _, raw := range answers[1].rows {
		r.path = append(r.path, string(raw[0]))
	}
	r.link(answers[2].rows, answers[3].rows, answers[4].rows)
	return r, nil
}

func parseOID(text string) uint32 {
	n, _ := strconv.ParseUint(text, 10, 32) // the catalogue's own
	return uint32(n)
}

func (r *relations) add(oid uint32, name relationName) {
	r.byName[name], r.names[oid] = oid, name
}

// find returns the table of a collection; 0: there is none.
func (r *relations) find(collection string, o Collection) (oid uint32, name relationName, err error) {
	name = relationName{name: collection}
	if o.Table != "" {
		if name.schema, name.name, err = parseName(o.Table); err != nil {
			return 0, name, halt("collection %q: %v", collection, err)
		}
	}
	if name.schema != "" {
		return r.byName[name], name, nil
	}
	for _, schema := range r.path {
		if oid := r.byName[relationName{schema, name.name}]; oid != 0 {
			return oid, relationName{schema, name.name}, nil
		}
	}
	if schema, rest, ok := strings.Cut(name.name, "."); ok && o.Table == "" {
		full := relationName{schema, rest}
		return r.byName[full], full, nil
	}
	if len(r.path) > 0 {
		name.schema = r.path[0]
	}
	return 0, name, nil
}

// link joins tables that judge each other's rows. A trigger is taken to reach
// every table that its function's source names, of its table's schema or of one
// in the search path.
func (r *relations) link(foreign, unique, triggers [][][]byte) {
	sets := links{}
	for _, raw := range foreign {
		row := texted(raw)
		from, to := parseOID(row[0]), parseOID(row[1])
		sets.join(from, to)
		const acts = "cnd" // cascade, set null, set default
		if strings.Contains(acts, row[2]) {
			r.effect(to).removal = true
		}
		if strings.Contains(acts, row[3]) {
			r.effect(to).group = true
		}
	}
	for _, raw := range unique {
		oid := parseOID(string(raw[0]))
		sets.join(oid, oid)
	}
	if len(triggers) > 0 {
		byWord := map[string][]uint32{}
		for name, oid := range r.byName {
			byWord[strings.ToLower(name.name)] = append(byWord[strings.ToLower(name.name)], oid)
		}
		for _, raw := range triggers {
			oid := parseOID(string(raw[0]))
			sets.join(oid, oid)
			effects := r.effect(oid)
			if language := string(raw[2]); language != "plpgsql" {
				effects.group = true
				r.unseen[oid] = "is written in " + language
			}
			for _, word := range strings.FieldsFunc(strings.ToLower(string(raw[1])), notInName) {
				switch word {
				case "execute": // whatever that does
					effects.group = true
					r.unseen[oid] = "runs dynamic SQL (EXECUTE)"
				case "perform", "call":
					effects.group = true
					if r.unseen[oid] == "" {
						r.unseen[oid] = "calls other functions (PERFORM, CALL)"
					}
				}
				for _, other := range byWord[word] {
					if schema := r.names[other].schema; schema == r.names[oid].schema || slices.Contains(r.path, schema) {
						sets.join(oid, other)
						effects.tables[other] = true
					}
				}
			}
		}
	}
	r.groups = sets.named(r.names)
}

func notInName(c rune) bool {
	return !(c == '_' || c == '$' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || c > 127)
}

// links is a union-find over tables.
type links map[uint32]uint32

func (l links) root(oid uint32) uint32 {
	parent, ok := l[oid]
	if !ok {
		l[oid] = oid
		return oid
	}
	if parent == oid {
		return oid
	}
	root := l.root(parent)
	l[oid] = root
	return root
}

func (l links) join(a, b uint32) { l[l.root(a)] = l.root(b) }

// named names every set by the first of its tables' names, so that the name does
// not depend on oids.
func (l links) named(names map[uint32]relationName) map[uint32]string {
	first := map[uint32]string{}
	members := make([]uint32, 0, len(l))
	for oid := range l {
		members = append(members, oid)
	}
	slices.Sort(members)
	for _, oid := range members {
		root, name := l.root(oid), names[oid].String()
		if old, ok := first[root]; !ok || name < old {
			first[root] = name
		}
	}
	groups := map[uint32]string{}
	for _, oid := range members {
		groups[oid] = first[l.root(oid)]
	}
	return groups
}

// group is the lane group of a collection, "" for none.
func (r *relations) group(collection string, o Collection) string {
	oid, _, err := r.find(collection, o)
	if err != nil || oid == 0 {
		return ""
	}
	return r.groups[oid]
}
