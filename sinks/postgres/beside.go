package postgres

import "fmt"

// besides writes what tables record and event shall say at the end of the batch.
func (w *work) besides() []command {
	var commands []command
	schema := quote(w.planner.o.Schema)
	for _, m := range w.mappings {
		puts, gone := newBeside(), newArray(oidBytea, 0)
		dropped, events := newArray(oidBytea, 0), newEvents()
		for _, r := range w.order {
			if r.m != m || !r.touched {
				continue
			}
			switch {
			case !r.beside:
			case r.exists:
				puts.add(w, r)
			default:
				gone.element(r.id)
			}
			if r.drops {
				dropped.element(r.id)
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
		one(fmt.Sprintf("DELETE FROM %s.record AS r USING unnest($2) AS s(key) WHERE r.collection = $1 AND r.key = s.key", schema),
			[]uint32{1001}, gone)
		if dropped.count > 0 {
			commands = append(commands, m.dropEvents(schema, dropped))
		}
		one(fmt.Sprintf("INSERT INTO %s.event (collection, key, number, lsn, fields) "+
			"SELECT $1, s.key, s.number, s.lsn, s.fields FROM unnest($2, $3, $4, $5) AS s(key, number, lsn, fields)", schema),
			[]uint32{1001, 1016, 1016, 3807}, events.keys, events.numbers, events.lsns, events.fields)
	}
	return commands
}

// dropEvents removes the events of records, by their keys in walproxy's encoding.
func (m *mapping) dropEvents(schema string, ids *arrayBuilder) command {
	return command{
		sql:    fmt.Sprintf("DELETE FROM %s.event AS e USING unnest($2) AS s(key) WHERE e.collection = $1 AND e.key = s.key", schema),
		types:  []uint32{oidText, 1001},
		params: [][]byte{[]byte(m.collection), ids.bytes()}, formats: binaryParams,
	}
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

// events are rows of table event to write.
type events struct{ keys, numbers, lsns, fields *arrayBuilder }

func newEvents() *events {
	return &events{newArray(oidBytea, 0), newArray(oidInt8, 0), newArray(oidInt8, 0), newArray(oidJSONB, 0)}
}

func (e *events) add(w *work, r *row) {
	for _, stored := range r.appended {
		e.keys.element(r.id)
		e.numbers.fixed(stored.number, 8)
		e.lsns.fixed(uint64(stored.lsn), 8)
		e.fields.element(w.json(stored.fields))
	}
}
