package pgwire

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestWaitsEndWhenAway: a direct write at a gate, and a read that waits for its session's
// writes, are refused as soon as it is known that PostgreSQL is away, as what comes later
// is, and their sessions go on.
func TestWaitsEndWhenAway(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	r := newBehindRig(t, itemsDDL, []Table{assumed()}, func(o *behindOptions) {
		o.cluster = c
		o.change = append(o.change, quick(nil), func(o *Options) { o.WriteBehind.GateTimeout, o.WriteBehind.ReadTimeout = time.Hour, time.Hour })
	})
	writer, direct := r.connect(pgx.QueryExecModeExec), r.connect(pgx.QueryExecModeSimpleProtocol)
	do(t, direct, "SELECT 1")
	r.hold("items")
	do(t, writer, "INSERT INTO items (id, name) VALUES (1, 'x')")
	if r.logged() != 1 {
		t.Fatalf("not acknowledged from the log: %s", r.why())
	}
	waits := map[string]<-chan error{}
	for sql, conn := range map[string]*pgx.Conn{"UPDATE items SET n = n + 1": direct, "SELECT count(*) FROM items": writer} {
		waits[sql] = started(func() error { _, err := conn.Exec(bounded(t), sql); return err })
	}
	eventually(t, "both wait", func() bool {
		n := 0
		for _, x := range r.list() {
			if x.waiting.Load() != nil {
				n++
			}
		}
		return n == 2
	})
	c.KillAll(t)
	for sql, wait := range waits {
		err := ended(t, sql, wait)
		if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "57P03" || !strings.Contains(e.Hint, "The session goes on") {
			t.Errorf("%s: got %v, want 57P03 and the hint", sql, err)
		}
	}
	do(t, writer, "INSERT INTO items (id, name) VALUES (2, 'meanwhile')")
	c.Start(t)
	r.isAway(t, false)
	for _, conn := range []*pgx.Conn{direct, writer} {
		do(t, conn, "UPDATE items SET n = 1")
	}
	if n := one[int](t, writer, "SELECT count(*)::int FROM items"); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
}
