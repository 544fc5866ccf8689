package pgwire

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walproxy/walproxy/mutation"
)

func logging(o *behindOptions) {
	o.change = append(o.change, func(o *Options) { o.WriteBehind.LogTransactions = true })
}

// txRig is a session of an endpoint that logs transactions at COMMIT.
type txRig struct {
	*behindRig
	conn *pgx.Conn
}

func (r *txRig) why() string {
	return one[string](r.t, r.conn, "SHOW walproxy.why", pgx.QueryExecModeExec)
}

// refused wants statements to fail with a code each, 'code: statement'.
func (r *txRig) refused(list ...string) {
	r.t.Helper()
	for _, s := range list {
		want, sql, _ := strings.Cut(s, ": ")
		if _, err := r.conn.Exec(bounded(r.t), sql); code(err) != want {
			r.t.Errorf("%s: %v, want %s", sql, err, want)
		}
	}
}

// ids in the table, as PostgreSQL has it.
func (r *txRig) ids() []int32 {
	r.t.Helper()
	rows, err := r.admin.Query(bounded(r.t), "SELECT id FROM items ORDER BY id")
	if err != nil {
		r.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		r.t.Fatal(err)
	}
	return ids
}

// TestTransactions: a transaction of eligible writes is one record, logged at COMMIT;
// one that does anything else is PostgreSQL's, with what came before.
func TestTransactions(t *testing.T) {
	t.Parallel()
	r := &txRig{behindRig: newBehindRig(t, itemsDDL, []Table{table("items", mutation.KeyInt64), table("other", mutation.KeyInt64)}, logging)}
	r.conn = r.connect()
	step := func(name string, logged int, ids []int32, f func()) {
		t.Helper()
		before := r.logged()
		f()
		r.applied()
		if got := r.logged() - before; got != logged {
			t.Errorf("%s: %d records, want %d: %s", name, got, logged, r.why())
		}
		if got := r.ids(); !slices.Equal(got, ids) {
			t.Errorf("%s: ids are %v, want %v", name, got, ids)
		}
		do(t, r.admin, "TRUNCATE items, other")
	}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		step("commit", 1, []int32{1, 2}, func() {
			newest := r.proxy.Newest("items")
			err := pgx.BeginFunc(bounded(t), r.connect(mode), func(tx pgx.Tx) error {
				for i := range 2 {
					if _, err := tx.Exec(bounded(t), "INSERT INTO items (id, name) VALUES ($1, $2)", i+1, "it's"); err != nil {
						return err
					}
				}
				_, err := tx.Exec(bounded(t), "INSERT INTO other VALUES ($1, 'x')", 7)
				if r.proxy.Newest("items") != newest {
					t.Error("something is logged before COMMIT")
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			r.applied()
			if n := one[int](t, r.admin, "SELECT count(DISTINCT at)::int FROM items"); n != 1 {
				t.Errorf("now() is %d times within a transaction", n)
			}
			if n := one[int](t, r.admin, "SELECT count(*)::int FROM other"); n != 1 {
				t.Errorf("%d rows in the other table", n)
			}
		})
	}
	step("rollback", 0, nil, func() {
		do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')")
		if !slices.ContainsFunc(r.list(), func(x *session) bool { return x.stateNow() == stateTransaction }) {
			t.Error("no session is in a transaction")
		}
		do(t, r.conn, "ROLLBACK")
	})
	step("nothing", 0, nil, func() { do(t, r.conn, "BEGIN", "SHOW walproxy.lsn", "COMMIT") })
	step("a read", 0, []int32{1, 2}, func() {
		do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')")
		if n := one[int](t, r.conn, "SELECT count(*)::int FROM items"); n != 1 {
			t.Errorf("its read sees %d rows", n)
		}
		do(t, r.conn, "INSERT INTO items VALUES (2, 'a')", "COMMIT")
	})
	step("a savepoint", 0, []int32{1, 3}, func() {
		do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')", "SAVEPOINT s", "INSERT INTO items VALUES (2, 'a')", "ROLLBACK TO s", "INSERT INTO items VALUES (3, 'a')", "COMMIT")
	})
	step("bad values", 0, nil, func() {
		do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')")
		r.refused("23502: INSERT INTO items VALUES (2, NULL)", "25P02: INSERT INTO items VALUES (3, 'a')", "25P02: SELECT 1", "25P02: SHOW walproxy.lsn")
		if tag, err := r.conn.Exec(bounded(t), "COMMIT"); err != nil || tag.String() != "ROLLBACK" {
			t.Errorf("COMMIT of a failed transaction: %v %v", tag, err)
		}
		do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')")
		r.refused("22P02: INSERT INTO items VALUES (2, 'a', 'x')")
		if tag, err := r.conn.Exec(bounded(t), "END"); err != nil || tag.String() != "ROLLBACK" { // PostgreSQL was not asked
			t.Errorf("END of a failed transaction: %v %v", tag, err)
		}
	})
	step("statements that are closed", 1, []int32{1, 2}, func() { // as pgx does before a COMMIT, too
		for _, name := range []string{"within", "failed"} {
			if _, err := r.conn.PgConn().Prepare(bounded(t), name, "INSERT INTO items VALUES ($1, 'a')", nil); err != nil {
				t.Fatal(err)
			}
		}
		do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')")
		if err := r.conn.PgConn().Deallocate(bounded(t), "within"); err != nil {
			t.Error(err)
		}
		do(t, r.conn, "INSERT INTO items VALUES (2, 'a')", "COMMIT", "BEGIN")
		r.refused("23502: INSERT INTO items VALUES (3, NULL)")
		if err := r.conn.PgConn().Deallocate(bounded(t), "failed"); err != nil || r.conn.PgConn().TxStatus() != txFailed {
			t.Errorf("%v; the transaction stands at %c", err, r.conn.PgConn().TxStatus())
		}
		r.refused("25P02: INSERT INTO items VALUES (4, 'a')")
		do(t, r.conn, "ROLLBACK")
		if n := one[int](t, r.conn, "SELECT count(*)::int FROM pg_prepared_statements WHERE name IN ('within', 'failed')"); n != 0 {
			t.Errorf("PostgreSQL has %d of two statements that were closed", n)
		}
	})
	step("a row that is there", 1, []int32{1}, func() {
		do(t, r.conn, "INSERT INTO items VALUES (1, 'a')", "BEGIN", "INSERT INTO items VALUES (1, 'b')")
		r.refused("23505: SELECT 1", "25P02: SELECT 1")
		do(t, r.conn, "ROLLBACK")
	})
	step("a row twice", 0, nil, func() {
		do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')")
		r.refused("23505: INSERT INTO items VALUES (1, 'b')")
		do(t, r.conn, "ROLLBACK")
	})
	step("a COMMIT that fails", 0, nil, func() {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
			alter := func(sql string) {
				do(t, r.admin, "ALTER TABLE items "+sql)
				if _, err := r.tables.watch.Refresh(bounded(t)); err != nil {
					t.Fatal(err)
				}
			}
			do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')")
			alter("ADD CONSTRAINT few CHECK (id > 5)")
			var err error
			if mode == pgx.QueryExecModeExec {
				err = r.conn.PgConn().ExecParams(bounded(t), "COMMIT", nil, nil, nil, nil).Read().Err
			} else {
				_, err = r.conn.Exec(bounded(t), "COMMIT")
			}
			if code(err) != "23514" {
				t.Errorf("COMMIT: %v", err)
			}
			if status := r.conn.PgConn().TxStatus(); status != txIdle {
				t.Errorf("behind a COMMIT that failed the session stands at %c", status)
			}
			alter("DROP CONSTRAINT few")
		}
	})
	step("an upsert of the row", 1, []int32{1}, func() {
		do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')", "INSERT INTO items VALUES (1, 'b') ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name", "COMMIT")
		r.applied()
		if name := one[string](t, r.admin, "SELECT name FROM items"); name != "b" {
			t.Errorf("the row is %q", name)
		}
	})
	step("a direct writer", 0, []int32{1, 2}, func() {
		other := r.connect()
		do(t, other, "BEGIN", "INSERT INTO items SELECT 2, 'b'")
		do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')", "COMMIT")
		do(t, other, "COMMIT")
	})
	step("ack off", 0, []int32{1}, func() {
		do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')", "SET walproxy.ack = off", "COMMIT", "RESET walproxy.ack")
	})
	step("too much", 0, []int32{1, 2}, func() {
		do(t, r.conn, "BEGIN", "INSERT INTO items VALUES (1, 'a')", "INSERT INTO items VALUES (2, '"+strings.Repeat("x", heldBytesMax)+"')", "COMMIT")
	})
	step("an idempotency key, twice: else a dead letter", 2, []int32{1}, func() {
		for range 2 {
			do(t, r.conn, "SET walproxy.idempotency_key = 'tx'", "BEGIN", "INSERT INTO items VALUES (1, 'a', 1, '2026-01-01 00:00Z')", "COMMIT")
			if one[string](t, r.conn, "SHOW walproxy.idempotency_key", pgx.QueryExecModeExec) != "" {
				t.Error("COMMIT left the key")
			}
		}
	})
}

// TestHeldTransactionEnds: who leaves a transaction open that is held is as one who
// leaves one open in PostgreSQL.
func TestHeldTransactionEnds(t *testing.T) {
	t.Parallel()
	r := newBehindRig(t, itemsDDL, items(), logging, func(o *behindOptions) {
		o.change = append(o.change, func(o *Options) { o.IdleInTransactionTimeout = 500 * time.Millisecond })
	})
	conn := r.connect()
	do(t, conn, "BEGIN")
	message, err := conn.PgConn().ReceiveMessage(bounded(t))
	if e, ok := message.(*pgproto3.ErrorResponse); err == nil && (!ok || e.Code != "25P03") || err != nil && code(err) != "25P03" {
		t.Errorf("it was told %v, %v", message, err)
	}
}
