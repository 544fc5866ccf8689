package postgres

import "fmt"

// besides writes what tables record and event shall say at the end of the batch.
func (w *work) besides() []command {
	var commands []command
	schema := quote(w.planner.o.Schema)
	for _, m := range w.mappings {
		puts, moved, gone := newBeside(), newBeside(), newArray(oidBytea, 0)
		dropped, events := m.newStreams(), m.newAppends()
		for _, r := range w.order {
			if r.m != m || !r.touched {
				continue
			}
			switch {
			case r.moved:
				moved.keys.element(r.id)
				moved.versions.fixed(uint64(r.version), 8)
			case !r.beside:
			case r.exists:
				puts.add(w, r)
			default:
				gone.element(r.id)
			}
			if r.drops {
				dropped.add(r)
			}
			events.add(w, r)
		}
		one := func(sql string, types []uint32, arrays ...*arrayBuilder) {
			if arrays[0].count == 0 {
				return
			}
			params := [][]byte{[]byte(m.collection)}
			for _, a := range arrays {
				params = append(params, a.bytes())
			}
			commands = append(commands, command{
				sql: sql, types: append([]uint32{oidText}, types...), params: params, formats: binaryParams,
			})
		}
		one(fmt.Sprintf("INSERT INTO %s.record (collection, key, version, expires_at, event_count) "+
			"SELECT $1, s.key, s.version, s.expires_at, s.events FROM unnest($2, $3, $4, $5) AS s(key, version, expires_at, events) "+
			"ON CONFLICT (collection, key) DO UPDATE SET version = excluded.version, expires_at = excluded.expires_at, event_count = excluded.event_count", schema),
			[]uint32{1001, 1016, 1185, 1016}, puts.keys, puts.versions, puts.ends, puts.events)
		one(fmt.Sprintf("UPDATE %s.record AS r SET version = s.version FROM unnest($2, $3) AS s(key, version) WHERE r.collection = $1 AND r.key = s.key", schema),
			[]uint32{1001, 1016}, moved.keys, moved.versions)
		one(fmt.Sprintf("DELETE FROM %s.record AS r USING unnest($2) AS s(key) WHERE r.collection = $1 AND r.key = s.key", schema),
			[]uint32{1001}, gone)
		if !dropped.empty() {
			commands = append(commands, dropped.drop(schema))
		}
		if !events.empty() {
			commands = append(commands, events.insert(schema))
		}
	}
	return commands
}

// beside are rows of table record to write.
type beside struct{ keys, versions, ends, events *arrayBuilder }

func newBeside() *beside {
	return &beside{newArray(oidBytea, 0), newArray(oidInt8, 0), newArray(oidTimestamptz, 0), newArray(oidInt8, 0)}
}

func (b *beside) add(w *work, r *row) {
	b.keys.element(r.id)
	b.versions.fixed(uint64(r.version), 8)
	b.ends.element(w.end(r.expires))
	b.events.fixed(r.events, 8)
}
