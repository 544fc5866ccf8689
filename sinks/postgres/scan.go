package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// scanMax bounds the rows of one page, whatever is asked for.
const scanMax = 10_000

// Scan implements sinks.Scanner: in the order that the database has for the
// primary key, page by page by its index. The keys come as the columns hold them:
// whole numbers as int64, composite ones of a document table as their JSON.
func (s *Sink) Scan(ctx context.Context, collection, prefix string, after *walproxyv1.Key, limit int) ([]sinks.Entry, error) {
	limit = min(limit, scanMax)
	var entries []sinks.Entry
	err := s.mapped(ctx, collection, func(ctx context.Context, pc *pgconn.PgConn, m *mapping) error {
		entries = nil
		var from [][]byte
		if after != nil {
			w := &work{}
			values, err := w.keyValues(m, after)
			if err != nil {
				return mutation.ErrNotFound // nothing is behind what can be no key
			}
			from = values
		}
		for len(entries) < limit { // expired ones are left out
			page, last, err := m.page(ctx, pc, s.o.Schema, prefix, from, limit-len(entries))
			if dataException(err) && m.noKey(ctx, pc, &row{key: from}, prefix) {
				return mutation.ErrNotFound
			}
			if err != nil {
				return err
			}
			entries = append(entries, page...)
			if last == nil {
				return nil
			}
			from = last
		}
		return nil
	})
	if errors.Is(err, mutation.ErrNotFound) {
		return nil, nil
	}
	return entries, err
}

// page reads up to limit rows from behind a key, nil: from the first. last is the
// key to go on from; nil: there are no more.
func (m *mapping) page(ctx context.Context, pc *pgconn.PgConn, schema, prefix string, from [][]byte, limit int) (entries []sinks.Entry, last [][]byte, err error) {
	if prefix != "" && (len(m.key) > 1 || m.key[0].codec.element != oidText) {
		return nil, nil, nil // no string keys
	}
	answers, err := runPipeline(ctx, pc, []command{{sql: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}, m.keysBehind(prefix, from, limit)})
	if err != nil {
		return nil, nil, err
	}
	found := answers[1].rows
	rows, keys := make([]*row, len(found)), make([]*walproxyv1.Key, len(found))
	w := &work{}
	for i, raw := range found {
		if keys[i], err = m.keyOf(raw); err != nil {
			return nil, nil, err
		}
		r := &row{m: m, id: mutation.AppendKey(nil, m.collection, keys[i])[m.prefix:]}
		if r.key, err = w.keyValues(m, keys[i]); err != nil {
			return nil, nil, fmt.Errorf("table %s: a row's key cannot be read: %w", m.table, err)
		}
		rows[i] = r
	}
	commands := []command{}
	if len(rows) > 0 {
		commands = append(commands, m.selection(schema, rows, false))
	}
	if texts := m.textKeys(rows); len(texts) > 0 {
		commands = append(commands, m.selection(schema, texts, false))
	}
	commands = append(commands, command{sql: "COMMIT"})
	if answers, err = runPipeline(ctx, pc, commands); err != nil || len(rows) == 0 {
		return nil, nil, err
	}
	documents := make([]*mutation.Document, len(rows)) // a join says nothing of the order
	for i := range answers[:len(answers)-1] {
		if err := m.check(&answers[i]); err != nil {
			return nil, nil, err
		}
		for _, raw := range answers[i].rows {
			d, err := m.decode(raw, true)
			if err != nil {
				return nil, nil, err
			}
			if at := &documents[readInteger(raw[0])-1]; *at == nil || fuller(d, *at) {
				*at = d
			}
		}
	}
	for i, d := range documents {
		if d != nil && !d.ExpiredAt(now()) {
			entries = append(entries, sinks.Entry{Key: keys[i], Document: d})
		}
	}
	if len(rows) == limit {
		last = rows[limit-1].key
	}
	return entries, last, nil
}

// textKeys are rows of whole numbers by the keys that these have in a collection with
// keys of text (work.keyValues takes both), by which table record may know them; nil:
// it has nothing to say of them.
func (m *mapping) textKeys(rows []*row) []*row {
	if m.document || len(m.key) != 1 || !m.key[0].isInteger() || m.version != nil && m.flags != nil && !m.beside() {
		return nil
	}
	texts := make([]*row, len(rows))
	for i, r := range rows {
		key := mutation.String(strconv.FormatInt(readInteger(r.key[0]), 10))
		texts[i] = &row{m: m, key: r.key, id: mutation.AppendKey(nil, m.collection, key)[m.prefix:]}
	}
	return texts
}

// fuller reports whether d, of one row as e, is by the key that table record has it by.
func fuller(d, e *mutation.Document) bool {
	return d.Version > e.Version || d.Version == e.Version && e.ExpiresAt.IsZero() && e.EventCount == 0
}

// keysBehind selects the keys of a page.
func (m *mapping) keysBehind(prefix string, from [][]byte, limit int) command {
	c := command{formats: binaryParams}
	columns, order, bounds := make([]string, len(m.key)), make([]string, len(m.key)), make([]string, len(m.key))
	for i, k := range m.key {
		columns[i], order[i] = "t."+k.selects, "t."+quote(k.name)
		c.results = append(c.results, k.codec.format())
		if from != nil {
			in := inputOf("", k)
			bounds[i] = fmt.Sprintf("($%d)[1]%s", i+1, in.cast)
			a := newArray(in.element, 1)
			a.element(from[i])
			c.types, c.params = append(c.types, in.array), append(c.params, a.bytes())
		}
	}
	var conditions []string
	if from != nil {
		conditions = append(conditions, fmt.Sprintf("(%s) > (%s)", strings.Join(order, ", "), strings.Join(bounds, ", ")))
	}
	if prefix != "" {
		c.types, c.params = append(c.types, oidText), append(c.params, []byte(prefix))
		conditions = append(conditions, fmt.Sprintf("starts_with(%s::pg_catalog.text, $%d)", order[0], len(c.params)))
	}
	where := ""
	if len(conditions) > 0 {
		where = " WHERE " + strings.Join(conditions, " AND ")
	}
	c.types, c.params = append(c.types, oidInt8), append(c.params, appendInteger(nil, int64(limit), 8))
	c.sql = fmt.Sprintf("SELECT %s FROM %s AS t%s ORDER BY %s LIMIT $%d", strings.Join(columns, ", "), m.table.quoted(), where,
		strings.Join(order, ", "), len(c.params))
	return c
}

// keyOf is the key of a row, as keyValues takes it.
func (m *mapping) keyOf(raw [][]byte) (*walproxyv1.Key, error) {
	parts := make([]*walproxyv1.Key, len(m.key))
	for i, c := range m.key {
		v, err := c.codec.decode(raw[i])
		if err != nil {
			return nil, fmt.Errorf("key column %s.%s: %w", m.table, c.name, err)
		}
		switch k := v.GetKind().(type) {
		case *walproxyv1.Value_Int64:
			parts[i] = mutation.Int64(k.Int64)
		case *walproxyv1.Value_Bytes:
			parts[i] = mutation.Bytes(k.Bytes)
		case *walproxyv1.Value_Timestamp:
			parts[i] = mutation.String(string(jsonform.AppendTime(nil, k.Timestamp.AsTime())))
		case *walproxyv1.Value_String_:
			parts[i] = mutation.String(k.String_)
		default:
			return nil, fmt.Errorf("key column %s.%s: %s is no key", m.table, c.name, mutation.KindName(v))
		}
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	return mutation.Composite(parts...), nil
}

const readableSQL = `SELECT c.oid::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname <> $1 AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')`

// Collections implements sinks.Scanner: the names that tables with rows go by,
// where they are not named in the configuration their own. walproxy's own tables
// and those of events are none.
func (s *Sink) Collections(ctx context.Context, after string, limit int) (names []string, err error) {
	err = s.readConn(ctx, func(conn *pgx.Conn) error {
		tables, err := s.collectionTables(ctx, conn.PgConn())
		if err != nil {
			return err
		}
		names = nil
		behind := slices.DeleteFunc(slices.Sorted(maps.Keys(tables)), func(name string) bool { return name <= after })
		for part := range slices.Chunk(behind, max(limit, 1)) {
			selects := make([]string, len(part))
			for i, name := range part {
				selects[i] = fmt.Sprintf("SELECT %d AS n WHERE EXISTS (SELECT FROM %s.%s)", i, quote(tables[name].schema), quote(tables[name].name))
			}
			results, err := conn.PgConn().Exec(ctx, strings.Join(selects, " UNION ALL ")+" ORDER BY n").ReadAll()
			if err != nil {
				return err
			}
			for _, raw := range results[0].Rows {
				if len(names) < limit {
					names = append(names, part[parseOID(string(raw[0]))])
				}
			}
			if len(names) == limit {
				break
			}
		}
		return nil
	})
	return names, err
}

// collectionTables are the tables that can be read, by the collection that each
// belongs to.
func (s *Sink) collectionTables(ctx context.Context, pc *pgconn.PgConn) (map[string]relationName, error) {
	r, err := loadRelations(ctx, pc)
	if err != nil {
		return nil, err
	}
	answers, err := runPipeline(ctx, pc, []command{{sql: readableSQL, types: []uint32{oidText}, params: [][]byte{[]byte(s.o.Schema)}}})
	if err != nil {
		return nil, err
	}
	readable := map[uint32]bool{}
	for _, raw := range answers[0].rows {
		readable[parseOID(string(raw[0]))] = true
	}
	tables, taken := map[string]relationName{}, map[uint32]bool{}
	take := func(collection string) {
		o := s.o.collection(collection)
		if oid, name, err := r.find(collection, o); err == nil && readable[oid] && !taken[oid] {
			tables[collection], taken[oid] = name, true
		}
	}
	for _, c := range s.o.Collections { // first: a table that is named belongs to no other
		if c.Events != nil {
			if schema, name, err := parseName(c.Events.Table); err == nil {
				oid, _, _ := r.find(name, Collection{Table: quoted(schema, name)})
				taken[oid] = true
			}
		}
		if c.Table != "" {
			take(c.Pattern)
		}
	}
	for _, name := range r.byOID() {
		take(name.name)
		take(name.schema + "." + name.name)
	}
	return tables, nil
}

// quoted is a table's name as parseName reads it.
func quoted(schema, name string) string {
	if schema == "" {
		return quote(name)
	}
	return quote(schema) + "." + quote(name)
}

// byOID lists the tables in an order that does not change.
func (r *relations) byOID() []relationName {
	names := make([]relationName, 0, len(r.names))
	for _, oid := range slices.Sorted(maps.Keys(r.names)) {
		names = append(names, r.names[oid])
	}
	return names
}

var _ sinks.Scanner = (*Sink)(nil)
