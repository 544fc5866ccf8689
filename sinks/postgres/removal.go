package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/failpoint"
	"github.com/walproxy/walproxy/internal/jsonform"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// removal is one transaction that removes expired rows of a collection. It takes
// no lock that a batch holds: such rows are skipped.
type removal struct {
	sink  *Sink
	e     *expiring
	until time.Time // rows that ended before it
	epoch uint64

	found, removed int
	last           cursor // the last row found
}

// due is what stands behind WHERE to find the next rows of a table (or of table
// record) with the columns expires_at and key, and its parameters.
func (r *removal) due(alias string, key uint32, cast string) (sql string, types []uint32, params [][]byte) {
	sql = fmt.Sprintf("%s.expires_at < LEAST($1, now() - $2::float8 * interval '1 microsecond')", alias)
	types = []uint32{oidTimestamptz, oidInt8, oidInt8}
	params = [][]byte{appendInteger(nil, microseconds(r.until), 8), appendInteger(nil, r.sink.o.Expiry.Margin.Microseconds(), 8),
		appendInteger(nil, int64(r.e.limit), 8)}
	if after := r.e.cursor; after.end != nil {
		sql += fmt.Sprintf(" AND (%[1]s.expires_at, %[1]s.key) > ($4, $5%[2]s)", alias, cast)
		types, params = append(types, oidTimestamptz, key), append(params, after.end, after.key)
	}
	return sql + fmt.Sprintf(" ORDER BY %[1]s.expires_at, %[1]s.key LIMIT $3", alias), types, params
}

func (r *removal) run(ctx context.Context, conn *pgconn.PgConn) error {
	r.last = r.e.cursor
	m, err := r.sink.planner.lookup(ctx, conn, r.e.collection)
	if err != nil || m == nil {
		return err
	}
	t := &transaction{conn: conn, lead: []command{
		{sql: begin},
		{sql: fmt.Sprintf("SELECT set_config('lock_timeout', '%d', true)", sweepLock.Milliseconds())},
		{
			// A claim waits for this transaction, or this one finds the new epoch.
			sql:    fmt.Sprintf("SELECT %[1]s.moved((SELECT count(*) FROM (SELECT FROM %[1]s.store WHERE epoch = $1::int8 FOR SHARE) s), 1)", r.sink.schema),
			params: texts(strconv.FormatUint(r.epoch, 10)),
		},
	}}
	if m.document {
		err = r.documents(ctx, t, m)
	} else {
		err = r.rows(ctx, t, m)
	}
	if errors.Is(err, errNotMoved) {
		return fmt.Errorf("%w: the epoch is no longer %d", sinks.ErrFenced, r.epoch)
	}
	return err
}

// documents removes rows of a document table.
func (r *removal) documents(ctx context.Context, t *transaction, m *mapping) error {
	key := m.key[0]
	which, types, params := r.due("t", key.codec.element, key.cast)
	answers, err := t.run(ctx, []command{{
		sql:   fmt.Sprintf("SELECT t.expires_at, t.event_count, t.%s FROM %s AS t WHERE %s FOR UPDATE OF t SKIP LOCKED", key.selects, m.table.quoted(), which),
		types: types, params: params, formats: binaryParams, results: []int16{formatBinary, formatBinary, key.codec.format()},
	}}, false)
	if err != nil {
		return err
	}
	found := answers[0].rows
	if r.found = len(found); r.found == 0 {
		return nil
	}
	w := &work{arena: make([]byte, 0, 64)}
	keys, streams := newArray(key.codec.element, len(found)), m.newStreams()
	for _, raw := range found {
		keys.element(raw[2])
		if readInteger(raw[1]) == 0 {
			continue
		}
		value, err := key.codec.decode(raw[2])
		if err != nil {
			return halt("the key of table %s: %w", m.table, err)
		}
		for _, key := range documentKeys(value) {
			one := &row{id: mutation.AppendKey(nil, m.collection, key)[m.prefix:]}
			if one.stream, err = w.streamOf(m, key); err == nil {
				streams.add(one)
			}
		}
	}
	last := found[len(found)-1]
	r.last = cursor{end: last[0], key: last[2]}
	inputs := m.keyInputs()
	commands := []command{{
		sql:    fmt.Sprintf("DELETE FROM %s AS t USING %s WHERE %s", m.table.quoted(), source(inputs), m.sameKey()),
		types:  []uint32{inputs[0].array},
		params: [][]byte{keys.bytes()}, formats: binaryParams,
	}}
	return r.commit(ctx, t, m, commands, streams)
}

// commit ends the transaction behind the deletion of rows with that of their
// events; the first command's count is that of the rows.
func (r *removal) commit(ctx context.Context, t *transaction, m *mapping, commands []command, streams *streams) error {
	if !streams.empty() {
		commands = append(commands, streams.drop(r.sink.schema))
	}
	commands = append(commands, m.unchanged(r.sink.schema)...)
	failpoint.Hit("expiry-before-commit")
	answers, err := t.run(ctx, commands, true)
	if codeOf(err) == codeChanged {
		return fmt.Errorf("%w: %w", errStale, err)
	}
	if err != nil {
		return err
	}
	failpoint.Hit("expiry-after-commit")
	r.removed = int(answers[0].tag.RowsAffected())
	return nil
}

// rows removes rows of a mapped table, whose ends are in table record. A row is
// locked before what table record says of it is believed: a batch that changes the
// one holds the other.
func (r *removal) rows(ctx context.Context, t *transaction, m *mapping) error {
	ends, err := r.ends(ctx, t, m)
	if err != nil || len(ends) == 0 {
		return err
	}
	w := &work{arena: make([]byte, 0, 1024)}
	var rows []*row
	byID := map[string]*row{}
	prefix := mutation.AppendCollection(nil, m.collection)
	for _, raw := range ends {
		_, key, err := mutation.ParseKey(append(slices.Clone(prefix), raw[0]...))
		if err != nil {
			return halt("table record of collection %q: %w", m.collection, err)
		}
		values, err := w.keyValues(m, key)
		if err != nil {
			continue // the key was of another type when it was written
		}
		stream, err := w.streamOf(m, key)
		if err != nil {
			continue
		}
		one := &row{m: m, key: values, stream: stream, id: raw[0], version: sinks.LSN(readInteger(raw[1])), events: uint64(readInteger(raw[3])),
			expires: fromMicroseconds(readInteger(raw[2]))}
		rows = append(rows, one)
		byID[string(one.id)] = one
	}
	taken, err := r.lock(ctx, t, m, rows)
	if err != nil || len(taken) == 0 {
		return err
	}
	beside := newBeside()
	for _, one := range taken {
		beside.add(w, one)
	}
	answers, err := t.run(ctx, []command{{
		sql: fmt.Sprintf(`DELETE FROM %[1]s.record AS r USING (SELECT l.key FROM %[1]s.record AS l
			JOIN unnest($2, $3, $4) AS s(key, version, expires_at) ON l.key = s.key AND l.version = s.version AND l.expires_at = s.expires_at
			WHERE l.collection = $1 FOR UPDATE OF l SKIP LOCKED) AS d WHERE r.collection = $1 AND r.key = d.key RETURNING r.key`, r.sink.schema),
		types:   []uint32{oidText, 1001, 1016, 1185},
		params:  [][]byte{[]byte(m.collection), beside.keys.bytes(), beside.versions.bytes(), beside.ends.bytes()},
		formats: binaryParams, results: binaryParams,
	}}, false)
	if err != nil {
		return err
	}
	arrays, streams := make([]*arrayBuilder, len(m.key)), m.newStreams()
	inputs := m.keyInputs()
	types, params := make([]uint32, len(inputs)), make([][]byte, len(inputs))
	for i, in := range inputs {
		arrays[i], types[i] = newArray(in.element, len(taken)), in.array
	}
	for _, raw := range answers[0].rows {
		one := byID[string(raw[0])]
		for i, v := range one.key {
			arrays[i].element(v)
		}
		if one.events > 0 {
			streams.add(one)
		}
	}
	for i, a := range arrays {
		params[i] = a.bytes()
	}
	return r.commit(ctx, t, m, []command{{
		sql:   fmt.Sprintf("DELETE FROM %s AS t USING %s WHERE %s", m.table.quoted(), source(inputs), m.sameKey()),
		types: types, params: params, formats: binaryParams,
	}}, streams)
}

// ends are the records of a mapped table that may be due: key, version, end and
// event count.
func (r *removal) ends(ctx context.Context, t *transaction, m *mapping) ([][][]byte, error) {
	which, types, params := r.due("r", oidBytea, "")
	answers, err := t.run(ctx, []command{{
		sql: fmt.Sprintf("SELECT r.key, r.version, r.expires_at, r.event_count FROM %s.record AS r WHERE r.collection = $%d AND %s",
			r.sink.schema, len(params)+1, which),
		types: append(types, oidText), params: append(params, []byte(m.collection)),
		formats: binaryParams, results: binaryParams,
	}}, false)
	if err != nil {
		return nil, err
	}
	found := answers[0].rows
	if r.found = len(found); r.found > 0 {
		last := found[len(found)-1]
		r.last = cursor{end: last[2], key: last[0]}
	}
	return found, nil
}

// lock locks the rows that nobody else has locked, and returns them along with
// those that do not exist: somebody deleted them around walproxy.
func (r *removal) lock(ctx context.Context, t *transaction, m *mapping, rows []*row) (taken []*row, err error) {
	if len(rows) == 0 {
		return nil, nil
	}
	inputs := m.keyInputs()
	types, params := make([]uint32, len(inputs)), make([][]byte, len(inputs))
	for i, in := range inputs {
		a := newArray(in.element, len(rows))
		for _, one := range rows {
			a.element(one.key[i])
		}
		types[i], params[i] = in.array, a.bytes()
	}
	from := numbered(inputs)
	var commands []command
	for _, sql := range []string{
		fmt.Sprintf("SELECT s.n FROM %s JOIN %s AS t ON %s FOR UPDATE OF t SKIP LOCKED", from, m.table.quoted(), m.sameKey()),
		fmt.Sprintf("SELECT s.n FROM %s WHERE NOT EXISTS (SELECT FROM %s AS t WHERE %s)", from, m.table.quoted(), m.sameKey()),
	} {
		commands = append(commands, command{sql: sql, types: types, params: params, formats: binaryParams, results: binaryParams})
	}
	answers, err := t.run(ctx, commands, false)
	if err != nil {
		return nil, err
	}
	for _, a := range answers {
		for _, raw := range a.rows {
			taken = append(taken, rows[readInteger(raw[0])-1])
		}
	}
	return taken, nil
}

// documentKeys are the keys that a document's key column can stand for: text holds
// strings, numbers, and composite keys as JSON.
func documentKeys(value *walproxyv1.Value) (keys []*walproxyv1.Key) {
	switch v := value.GetKind().(type) {
	case *walproxyv1.Value_Int64:
		return []*walproxyv1.Key{mutation.Int64(v.Int64), mutation.String(strconv.FormatInt(v.Int64, 10))}
	case *walproxyv1.Value_Bytes:
		return []*walproxyv1.Key{mutation.Bytes(v.Bytes)}
	case *walproxyv1.Value_Timestamp:
		return []*walproxyv1.Key{mutation.String(string(jsonform.AppendTime(nil, v.Timestamp.AsTime())))}
	case *walproxyv1.Value_String_:
		keys = append(keys, mutation.String(v.String_))
		if n, err := strconv.ParseInt(v.String_, 10, 64); err == nil && strconv.FormatInt(n, 10) == v.String_ {
			keys = append(keys, mutation.Int64(n))
		}
		if key, err := jsonform.DecodeKey([]byte(v.String_)); err == nil && key.GetComposite() != nil {
			keys = append(keys, key)
		}
	}
	return keys
}
