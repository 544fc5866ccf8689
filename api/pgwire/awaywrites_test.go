package pgwire

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
)

// TestWritesWhileAway: while PostgreSQL is away, sessions that were there and those
// that log in write to tables that are written behind, in every mode of pgx's; what
// needs PostgreSQL is refused at once; all that was acknowledged is there once
// afterwards, also what was prepared meanwhile. That the schema has changed elsewhere, or
// may have and cannot be looked at any more, is no reason to refuse any of them.
func TestWritesWhileAway(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	var unread atomic.Bool // the catalogue
	r := newBehindRig(t, itemsDDL+"; CREATE TABLE numbered (id serial PRIMARY KEY, v text)", append(items(), table("numbered", mutation.KeyInt64)), logging, func(o *behindOptions) {
		o.cluster = c
		o.change = append(o.change, quick(nil), func(o *Options) {
			o.WriteBehind.ReadTimeout, o.WriteBehind.SequenceBlock = patience, 4
			query := o.WriteBehind.Query
			o.WriteBehind.Query = func(ctx context.Context, sql string) ([][]string, error) {
				if unread.Load() {
					return nil, errors.New("it is not to be read")
				}
				return query(ctx, sql)
			}
		})
	})
	modes := []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol}
	const insert = "INSERT INTO items (id, name) VALUES ($1, $2)"
	id := 0
	write := func(conn *pgx.Conn, when string) {
		t.Helper()
		id++
		if _, err := conn.Exec(bounded(t), insert, id, when); err != nil {
			t.Errorf("%s: %v", when, err)
			id--
		}
	}
	var before, during []*pgx.Conn
	for _, mode := range modes {
		conn := r.connect(mode)
		write(conn, "before")
		do(t, conn, "SELECT count(*) FROM items")
		before = append(before, conn)
	}
	fresh := r.connect() // has said nothing yet
	within := r.connect()
	do(t, within, "INSERT INTO numbered (v) VALUES ('before')", "BEGIN")
	write(within, "in a transaction")
	known := r.tables.watch.Current()
	do(t, r.admin, "CREATE TABLE unrelated (v int)")
	if now, err := r.tables.watch.Refresh(bounded(t)); err != nil || now == known {
		t.Errorf("another table was not noticed: %v", err)
	}
	r.applied()
	unread.Store(true)
	do(t, r.connect(), "DO 'BEGIN END'") // which may have changed the schema
	if r.tables.watch.Current() != nil {
		t.Error("what may have changed is still known")
	}
	_ = r.admin.Close(bounded(t))
	c.KillAll(t)
	r.isAway(t, true)
	was := r.logged()
	write(within, "in a transaction")
	do(t, within, "COMMIT", "BEGIN", "INSERT INTO items VALUES (0, 'never')")
	for _, want := range []string{"57P03", "25P02"} { // a transaction is over that needs PostgreSQL
		if _, err := within.Exec(bounded(t), "SELECT 1"); code(err) != want {
			t.Errorf("a read in a transaction: %v, want %s", err, want)
		}
	}
	do(t, within, "ROLLBACK")
	for n := range 4 { // as far as the block reaches
		want := ""
		if n == 3 {
			want = "57P03"
		}
		if _, err := within.Exec(bounded(t), "INSERT INTO numbered (v) VALUES ('meanwhile')"); code(err) != want {
			t.Errorf("value %d of a sequence: %v", n+2, err)
		}
	}
	for round := range 3 {
		for _, conn := range before {
			write(conn, "by who was there")
			began := time.Now()
			if _, err := conn.Exec(bounded(t), "SELECT count(*) FROM items"); code(err) != "57P03" || time.Since(began) > patience/2 {
				t.Errorf("a read: %v after %v", err, time.Since(began))
			}
		}
		if round == 0 {
			for _, mode := range modes {
				during = append(during, r.connect(mode))
			}
		}
		for _, conn := range append(during, fresh) {
			write(conn, "by who logged in meanwhile")
		}
	}
	if got := r.logged() - was; got != 1+3+3*(2*len(modes)+1) {
		t.Errorf("%d writes were acknowledged", got)
	}
	unread.Store(false)
	c.Start(t)
	r.isAway(t, false)
	for _, conn := range append(append(before, during...), fresh) {
		if n := one[int](t, conn, "SELECT count(*) FROM items WHERE name = $1", "before"); n != len(modes) {
			t.Errorf("%d rows", n)
		}
		write(conn, "after") // what was prepared meanwhile is there
		do(t, conn, "BEGIN")
		write(conn, "inside")
		do(t, conn, "COMMIT")
	}
	r.applied()
	direct := pgtest.Connect(t, r.direct)
	if n, last := one[int](t, direct, "SELECT count(*) FROM items"), one[int](t, direct, "SELECT max(id) FROM items"); n != id || last != id {
		t.Errorf("%d rows up to %d, acknowledged were %d", n, last, id)
	}
}

// TestKilledUnderWriters: PostgreSQL is killed and started again, twice, under
// sessions that write to a table that is written behind: no write fails, and each
// row is there once.
func TestKilledUnderWriters(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	r := newBehindRig(t, itemsDDL, items(), func(o *behindOptions) { o.cluster, o.change = c, append(o.change, quick(nil)) })
	_ = r.admin.Close(bounded(t))
	var writers sync.WaitGroup
	var written, goal, began atomic.Int64
	goal.Store(1 << 40)
	for w := range 4 {
		conn := r.connect([]pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol}[w%2])
		writers.Go(func() {
			for n := 0; written.Load() < goal.Load(); n++ {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				_, err := conn.Exec(ctx, "INSERT INTO items (id, name) VALUES ($1, $2)", w<<20+n, "x")
				cancel()
				if err != nil {
					t.Errorf("writer %d, row %d: %v: %s", w, n, err, r.why())
					goal.Store(0)
					return
				}
				if written.Add(1); n == 0 {
					began.Add(1)
				}
			}
		})
	}
	more := func() {
		from := written.Load()
		// What a session is set to PostgreSQL is asked before its first write.
		eventually(t, "more is written", func() bool { return written.Load() > from+200 && began.Load() == 4 || goal.Load() == 0 })
	}
	for range 2 {
		more()
		c.KillAll(t)
		r.isAway(t, true)
		more()
		c.Start(t)
		r.isAway(t, false)
	}
	more()
	goal.Store(0)
	writers.Wait()
	r.applied()
	if n := one[int64](t, pgtest.Connect(t, r.direct), "SELECT count(*) FROM items"); n != written.Load() {
		t.Errorf("%d rows, %d were acknowledged", n, written.Load())
	}
}

// TestWritesOfNewcomers: while PostgreSQL is away those write whose like has only logged
// in before; who notices first that it is away does, too; and a driver that drops its
// prepared statements after an error goes on.
func TestWritesOfNewcomers(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	r := newBehindRig(t, itemsDDL+"; CREATE ROLE app LOGIN; GRANT ALL ON items TO app", items(), func(o *behindOptions) {
		o.cluster = c
		o.change = append(o.change, quick(nil), func(o *Options) { o.Away.CheckInterval = time.Hour })
	})
	as := strings.Replace(r.through, "postgres@", "app@", 1)
	login := func(dsn string) *pgx.Conn {
		t.Helper()
		conn, err := pgx.Connect(bounded(t), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn
	}
	if err := login(as).Close(bounded(t)); err != nil { // without a word
		t.Fatal(err)
	}
	first := r.connect()
	do(t, first, "INSERT INTO items (id, name) VALUES (1, 'before')")
	eventually(t, "both logins are known", func() bool {
		known, roster := 0, r.presence.roster
		roster.mu.Lock()
		defer roster.mu.Unlock()
		for _, g := range roster.mu.granted {
			if g.Known != nil {
				known++
			}
		}
		return known == 2
	})
	r.applied()
	quiet := r.connect(pgx.QueryExecModeExec)
	_ = r.admin.Close(bounded(t))
	c.KillAll(t)
	do(t, quiet, "INSERT INTO items (id, name) VALUES (2, 'by who notices')")
	app := login(as)
	for id := 3; id < 12; id += 3 {
		if _, err := app.Exec(bounded(t), "INSERT INTO items (id, name) VALUES ($1, $2)", id, "by a newcomer"); err != nil {
			t.Errorf("a newcomer: %v: %s", err, r.why())
		}
		if _, err := app.Exec(bounded(t), "INSERT INTO items (id, name) VALUES ($1, $2)", id+1, "\xff"); code(err) != "22021" {
			t.Errorf("a text that is none: %v", err)
		}
		var b pgx.Batch // the driver closes the statement that failed first
		b.Queue("INSERT INTO items (id, name) VALUES ($1, $2)", id+1, "behind a failure")
		if err := app.SendBatch(bounded(t), &b).Close(); err != nil {
			t.Errorf("behind a failure: %v", err)
		}
	}
	c.Start(t)
	r.presence.check(bounded(t))
	for _, conn := range []*pgx.Conn{app, quiet, first} {
		if n := one[int](t, conn, "SELECT count(*)::int FROM items WHERE id > $1", 0); n < 1 {
			t.Errorf("%d rows", n)
		}
	}
	r.applied()
	if n := one[int](t, pgtest.Connect(t, r.direct), "SELECT count(*)::int FROM items"); n != 8 {
		t.Errorf("%d rows, want 8", n)
	}
}

// TestWritesWhileRecovering: PostgreSQL is there, and lets nobody in for as long as it
// recovers: writes go on, also in sessions that wrote past the log before, or tried to
// when it went away.
func TestWritesWhileRecovering(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	r := newBehindRig(t, itemsDDL+`; CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER nothing AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION nothing()`, []Table{func() Table { d := items()[0]; d.Safe = true; return d }()},
		func(o *behindOptions) { o.cluster, o.change = c, append(o.change, quick(nil)) })
	const insert = "INSERT INTO items (id, name) VALUES ($1, 'x')"
	conn := r.connect(pgx.QueryExecModeExec)
	do(t, conn, "INSERT INTO items (id, name) VALUES (1, 'x')", "INSERT INTO items (id, name) VALUES (2, 'x') RETURNING id")
	r.applied()
	_ = r.admin.Close(bounded(t))
	c.KillAll(t)
	for name, text := range map[string]string{"recovery.signal": "", "postgresql.auto.conf": "restore_command = 'until [ -e go ]; do sleep 0.1; done; false'\n"} {
		if err := os.WriteFile(filepath.Join(c.Dir(), name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	going := started(func() error { c.Start(t); return nil })
	open := sync.OnceFunc(func() {
		if err := os.WriteFile(filepath.Join(c.Dir(), "go"), nil, 0o644); err != nil {
			t.Error(err)
		}
	})
	defer open()
	eventually(t, "PostgreSQL recovers", func() bool {
		_, err := pgx.Connect(bounded(t), r.direct)
		return code(err) == "57P03"
	})
	if _, err := conn.Exec(bounded(t), "INSERT INTO items (id, name) VALUES (3, 'x') RETURNING id"); code(err) != "57P03" {
		t.Errorf("a statement that needs PostgreSQL: %v", err)
	}
	r.presence.check(bounded(t))
	if _, away := r.presence.away(); away == nil {
		t.Error("a PostgreSQL that recovers is there")
	}
	for id, conn := range []*pgx.Conn{conn, r.connect(pgx.QueryExecModeExec)} {
		for n := range 2 {
			if _, err := conn.Exec(bounded(t), insert, 10*id+n+10); err != nil {
				t.Errorf("session %d: %v: %s", id, err, r.why())
			}
		}
	}
	open()
	if err := ended(t, "the recovery", going); err != nil {
		t.Fatal(err)
	}
	r.isAway(t, false)
	r.applied()
	if n := one[int](t, conn, "SELECT count(*)::int FROM items"); n != 6 {
		t.Errorf("%d rows, want 6", n)
	}
}
