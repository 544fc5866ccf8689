package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// now is the clock that reads judge expiry by.
var now = time.Now

// Read implements sinks.Reader. It takes a connection of the read pool. In a
// mapped table every column is a field, null where it is NULL, but for those of
// the key.
func (s *Sink) Read(ctx context.Context, collection string, key *walproxyv1.Key) (d *mutation.Document, err error) {
	err = s.reading(ctx, collection, key, func(ctx context.Context, conn *pgconn.PgConn, r *row) error {
		answers, err := runPipeline(ctx, conn, []command{r.m.selection(s.o.Schema, []*row{r}, false)})
		if err != nil {
			return err
		}
		d, err = r.m.live(&answers[0])
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// ReadEvents implements sinks.Reader. One snapshot, so that a rewrite between
// record and stream does not show.
func (s *Sink) ReadEvents(ctx context.Context, collection string, key *walproxyv1.Key, from uint64, limit int) (events []mutation.StoredEvent, err error) {
	err = s.reading(ctx, collection, key, func(ctx context.Context, conn *pgconn.PgConn, r *row) error {
		answers, err := runPipeline(ctx, conn, []command{
			{sql: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"},
			r.m.selection(s.o.Schema, []*row{r}, false),
			r.m.eventsOf(quote(s.o.Schema), r, from, limit),
			{sql: "COMMIT"},
		})
		if err != nil {
			return err
		}
		d, err := r.m.live(&answers[1])
		if err != nil {
			return err
		}
		events, err = decodeEvents(answers[2].rows, d.EventCount)
		return err
	})
	return events, err
}

// live is the document of a SELECT of one key.
func (m *mapping) live(a *answer) (*mutation.Document, error) {
	if len(a.rows) == 0 {
		return nil, mutation.ErrNotFound
	}
	if err := m.check(a); err != nil {
		return nil, err
	}
	d, err := m.decode(a.rows[0], true)
	if err == nil && d.ExpiredAt(now()) {
		return nil, mutation.ErrNotFound
	}
	return d, err
}

// reading runs f with the row of a key; see mapped.
func (s *Sink) reading(ctx context.Context, collection string, key *walproxyv1.Key, f func(context.Context, *pgconn.PgConn, *row) error) error {
	return s.mapped(ctx, collection, func(ctx context.Context, pc *pgconn.PgConn, m *mapping) error {
		w := &work{arena: make([]byte, 0, 64)}
		values, err := w.keyValues(m, key)
		if err != nil {
			return mutation.ErrNotFound // no such key was ever written
		}
		stream, err := w.streamOf(m, key)
		if err != nil {
			return mutation.ErrNotFound
		}
		r := &row{m: m, key: values, stream: stream, id: mutation.AppendKey(nil, collection, key)[m.prefix:]}
		err = f(ctx, pc, r)
		if dataException(err) && m.noKey(ctx, pc, r, "") {
			return mutation.ErrNotFound
		}
		return err
	})
}

// dataException reports that a value was refused: one of a key, or one that a row
// holds, which the server cannot give.
func dataException(err error) bool { return strings.HasPrefix(codeOf(err), "22") }

// noKey reports whether a read has failed because the key of r, or the beginning of
// one, is no value of its columns, so that no row has it: the server refuses these by
// themselves, too. What a row holds is no reason to say that it is not there.
func (m *mapping) noKey(ctx context.Context, pc *pgconn.PgConn, r *row, prefix string) bool {
	commands := []command{{sql: "ROLLBACK"}, { // it has failed, if there was a transaction
		sql: "SELECT $1", types: []uint32{oidText}, params: [][]byte{[]byte(prefix)}, formats: binaryParams,
	}}
	add := func(inputs []input, key [][]byte) {
		c := command{formats: binaryParams}
		values := make([]string, len(inputs))
		for i, in := range inputs {
			a := newArray(in.element, 1)
			a.element(key[i])
			values[i], c.types, c.params = in.value(), append(c.types, in.array), append(c.params, a.bytes())
		}
		c.sql = fmt.Sprintf("SELECT %s FROM %s", strings.Join(values, ", "), source(inputs))
		commands = append(commands, c)
	}
	if r.key != nil {
		add(m.keyInputs(), r.key)
	}
	if r.stream != nil {
		add(m.events.stream.keyInputs(), r.stream)
	}
	_, err := runPipeline(ctx, pc, commands)
	return dataException(err)
}

// mapped runs f on a connection of the read pool; the collection's table is
// known, mutation.ErrNotFound if there is none. When the table has changed it is run
// again.
func (s *Sink) mapped(ctx context.Context, collection string, f func(context.Context, *pgconn.PgConn, *mapping) error) error {
	return s.readConn(ctx, func(conn *pgx.Conn) error {
		pc := conn.PgConn()
		for try := 1; ; try++ {
			m, err := s.planner.lookup(ctx, pc, collection)
			if err != nil {
				return err
			}
			if m == nil {
				return mutation.ErrNotFound
			}
			err = f(ctx, pc, m)
			if try > staleLimit || !errors.Is(err, errStale) && !staleCode(codeOf(err)) {
				return err
			}
			rollback(conn)
			if err := s.planner.refresh(ctx, pc, false); err != nil {
				return err
			}
		}
	})
}

// readConn runs f on a connection of the read pool, once more if that was dead.
func (s *Sink) readConn(ctx context.Context, f func(*pgx.Conn) error) error {
	ctx, leave, err := s.calls.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	lost := false
	read := func(conn *pgx.Conn) error {
		defer func() { lost = conn.PgConn().IsClosed() }()
		return f(conn)
	}
	err = s.onConn(ctx, s.readPool, read)
	if err != nil && lost && ctx.Err() == nil {
		// Connections die while they are idle, all of them when the server restarts.
		// The reader need not hear of it if the server answers on a new one.
		s.readPool.Reset()
		err = s.onConn(ctx, s.readPool, read)
	}
	if errors.Is(err, mutation.ErrNotFound) {
		return mutation.ErrNotFound
	}
	return s.classify(err, false)
}

// staleCode reports whether a SQLSTATE can come of a catalogue that was read
// before a change: undefined column or table, another type, a cached plan.
func staleCode(code string) bool {
	switch code {
	case "42703", "42P01", "42804", "42883", "0A000":
		return true
	}
	return false
}

var _ sinks.Reader = (*Sink)(nil)
