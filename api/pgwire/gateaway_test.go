package pgwire

import (
	"context"
	"errors"
	"net"
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

// TestOutlastUntilAway: a question to a PostgreSQL that hangs ends when it gets known that
// it is away, and one that is asked while it is away is asked.
func TestOutlastUntilAway(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp4", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	s := start(t, listener.Addr().String(), func(o *Options) { o.Away = &Away{CheckInterval: time.Hour} })
	asked := make(chan error)
	go func() {
		ctx, cancel := s.unlessUpstreamGoes(bounded(t), time.Hour)
		defer cancel()
		asked <- s.passCancel(ctx, Address{"tcp", listener.Addr().String()}, make([]byte, 8))
	}()
	conn, err := listener.Accept() // it is under way
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	s.presence.lost(errors.New("it hangs"))
	if err := ended(t, "the question", asked); err == nil {
		t.Error("a question to a server that hangs has an answer")
	}
	ctx, cancel := s.unlessUpstreamGoes(bounded(t), time.Hour)
	defer cancel()
	if ctx.Err() != nil {
		t.Error("while PostgreSQL is away nobody finds out whether it is back")
	}
	s.presence.found()
	if err := context.Cause(s.whileUpstream()); err != nil {
		t.Errorf("PostgreSQL is back: %v", err)
	}
}
