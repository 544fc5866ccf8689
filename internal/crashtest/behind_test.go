package crashtest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// entryDDL is a table in whose journal everything that was done to it stays visible,
// in the order of each record's changes.
const entryDDL = `
CREATE TABLE entry (id bigint PRIMARY KEY, v bigint NOT NULL, note varchar(40));
CREATE TABLE journal (seq bigserial PRIMARY KEY, tx xid8 NOT NULL DEFAULT pg_current_xact_id(), id bigint NOT NULL, v bigint NOT NULL, deletes bool NOT NULL);
CREATE FUNCTION journalled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF TG_OP = 'DELETE' THEN
    INSERT INTO journal (id, v, deletes) VALUES (OLD.id, OLD.v, true);
  ELSE
    INSERT INTO journal (id, v, deletes) VALUES (NEW.id, NEW.v, false);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER journalled AFTER INSERT OR UPDATE OR DELETE ON entry FOR EACH ROW EXECUTE FUNCTION journalled()`

// behind is a server with a table that is written behind, and its clients.
type behind struct {
	*server
	cluster *pgtest.Cluster
	direct  string // DSN of the database
	clients []*behindClient
	total   atomic.Int64 // units that were acknowledged
	port    atomic.Pointer[string]
	mode    atomic.Int32
	waits   chan int64 // numbers of clients whose direct write is about to wait
}

// What the clients do.
const (
	mixed      int32 = iota
	writeKeyed       // under idempotency keys, nothing else: nothing of that is passed through
	raceOnce         // see race; behind that as writeKeyed
	halfKeyed        // half of them as mixed, the others as writeKeyed
)

func newBehind(t *testing.T, r *rand.Rand, clients int) *behind {
	b := &behind{cluster: pgtest.New(t, pgtest.Options{}), waits: make(chan int64, clients)}
	b.direct = b.cluster.Database(t)
	conn := pgtest.Connect(t, b.direct)
	if _, err := conn.Exec(t.Context(), entryDDL); err != nil {
		t.Fatal(err)
	}
	must(t, conn.Close(t.Context())) // PostgreSQL is going to be killed
	b.server = onPostgres(t, b.direct,
		"WALPROXY_SINKS__MAIN__COLLECTIONS={entry: {table: public.entry, key: [id], key_type: int64}}",
		"WALPROXY_PGWIRE__LISTEN=127.0.0.1:0", "WALPROXY_PGWIRE__UPSTREAM=postgres://"+b.cluster.Addr(),
		"WALPROXY_PGWIRE__AWAY={check_interval: 50ms, keep_logins: true}", "WALPROXY_PGWIRE__SINK=main",
		"WALPROXY_PGWIRE__WRITE_BEHIND={public.entry: {safe: true, assume_rows: true}}")
	for n := range clients {
		b.clients = append(b.clients, &behindClient{behind: b, number: int64(n + 1), r: rand.New(rand.NewPCG(r.Uint64(), 0)), own: map[int64]int64{}, seen: map[int64]bool{}})
	}
	return b
}

// dsn of the database by way of the endpoint.
func (b *behind) dsn() string {
	config, err := pgx.ParseConfig(b.direct)
	if err != nil {
		b.Fatal(err)
	}
	return pgtest.DSN(*b.port.Load(), config.User, config.Database)
}

// begin starts the server.
func (b *behind) begin(ctx context.Context, env ...string) {
	b.Helper()
	b.start(ctx, env...)
	addr := b.process.Addr("pgwire")
	b.port.Store(&addr)
}

// load has the clients write until the returned function is called.
func (b *behind) load(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	for _, c := range b.clients {
		wg.Go(func() {
			if err := c.run(ctx, stopped); err != nil && ctx.Err() == nil {
				b.Error(err)
			}
		})
	}
	stop = sync.OnceFunc(func() { close(stopped); wg.Wait(); cancel() })
	b.Cleanup(func() { cancel(); stop() })
	return stop
}

// more waits until n more units are acknowledged, or the server has ended.
func (b *behind) more(ctx context.Context, n int64) {
	b.Helper()
	for want := b.total.Load() + n; b.total.Load() < want; {
		select {
		case <-ctx.Done():
			for _, c := range b.clients {
				if said := c.said.Load(); said != nil {
					b.Logf("client %d was told last: %s", c.number, *said)
				}
			}
			b.Fatalf("%d units are not acknowledged: %v\n%s", want-b.total.Load(), context.Cause(ctx), b.process.Tail())
		case <-b.process.Ended():
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// turn has every client begin something in a mode; false: the server has ended.
func (b *behind) turn(ctx context.Context, mode int32) bool {
	b.Helper()
	for _, c := range b.clients {
		c.at.Store(-1)
	}
	b.mode.Store(mode)
	for _, c := range b.clients {
		for c.at.Load() != mode {
			select {
			case <-b.process.Ended():
				return false
			case <-ctx.Done():
				for _, c := range b.clients {
					b.Logf("client %d, which began what it does in mode %d, was told last: %v", c.number, c.at.Load(), textOf(c.said.Load()))
				}
				b.Fatalf("client %d does not begin anything in mode %d: %v\n%s", c.number, mode, context.Cause(ctx), b.activity())
			case <-time.After(time.Millisecond):
			}
		}
	}
	return true
}

// unreported has PostgreSQL report no commit, and waits until walproxy has a batch that is
// applied and not reported; false: the server has ended. No client is at a direct write
// then, which would keep the others' out of the log.
func (b *behind) unreported(ctx context.Context) bool {
	b.Helper()
	if !b.turn(ctx, writeKeyed) {
		return false
	}
	u := unreported{b.T, b.direct}
	u.begin(ctx)
	return u.applied(ctx, b.process.Ended())
}

// race has each client write records behind, which stay pending, and then directly. What
// walproxy has in flight loses its connections meanwhile.
func (b *behind) race(ctx context.Context) {
	b.Helper()
	for len(b.waits) > 0 {
		<-b.waits
	}
	if !b.unreported(ctx) || !b.turn(ctx, raceOnce) {
		return
	}
	for range b.clients {
		select {
		case <-b.waits:
		case <-b.process.Ended():
		case <-ctx.Done():
			b.Fatalf("not all clients race: %v", context.Cause(ctx))
		}
	}
	u := unreported{b.T, b.direct}
	u.cut(ctx)
	time.Sleep(headStart)
	u.end(ctx)
	b.turn(ctx, writeKeyed)
}

// activity is what PostgreSQL's sessions do, for people.
func (b *behind) activity() (text string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, b.direct)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := conn.QueryRow(ctx, "SELECT string_agg(concat_ws(' ', pid, application_name, state, wait_event, query), E'\\n') FROM pg_stat_activity WHERE datname IS NOT NULL").Scan(&text); err != nil {
		return err.Error()
	}
	return text
}

func textOf(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

// entered is a row of the journal.
type entered struct {
	Seq, Tx int64
	change
}

// compare waits until everything is applied and compares the journal with what the
// clients were told.
func (b *behind) compare(ctx context.Context) {
	b.Helper()
	must(b.T, b.client.WaitDrained(ctx))
	conn := pgtest.Connect(b.T, b.direct)
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, "SELECT seq, tx::text::bigint, id, v, deletes FROM journal ORDER BY seq")
	must(b.T, err)
	there := map[change][]entered{}
	last := map[int64]change{}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e entered, err error) {
		return e, row.Scan(&e.Seq, &e.Tx, &e.id, &e.v, &e.deletes)
	})
	must(b.T, err)
	for _, e := range all {
		there[e.change] = append(there[e.change], e)
		last[e.id] = e.change
	}
	known := map[change]bool{} // false: every unit with it was refused, which a deletion may be more than once
	counts := map[fate]int{}
	for _, c := range b.clients {
		for _, u := range c.units {
			for _, ch := range u.changes {
				known[ch] = known[ch] || u.fate != refused
			}
		}
	}
	for _, c := range b.clients {
		order := map[int64]int64{} // by record: where the last acknowledged change stands
		for _, u := range c.units {
			if counts[u.fate]++; u.fate == refused {
				continue // known tells
			}
			b.compareUnit(c, u, there, order)
		}
	}
	for ch := range there {
		if may, sent := known[ch]; !may {
			b.Errorf("%+v was refused, or not even sent (%v)", ch, sent)
		}
	}
	b.compareRows(ctx, conn, last)
	if status, err := b.client.Status(ctx); err != nil || status.Sinks[0].DeadLetters > 0 {
		b.Errorf("there are dead letters, of writes that PostgreSQL takes: %+v %v", status, err)
	}
	b.Logf("%d units acknowledged, %d refused, %d unknown; %d changes", counts[logged], counts[refused], counts[unsure], len(all))
	if b.Failed() {
		letters, err := b.command(nil, "dlq", "ls")
		b.Fatalf("the dead letters: %s %v", letters, err)
	}
}

func (b *behind) compareUnit(c *behindClient, u *unit, there map[change][]entered, order map[int64]int64) {
	b.Helper()
	done := 0
	var tx int64
	for _, ch := range u.changes {
		found := there[ch]
		if len(found) > 1 {
			b.Errorf("client %d: %s: %+v was done %d times", c.number, u.how, ch, len(found))
		}
		if len(found) == 0 {
			continue
		}
		if done++; tx != 0 && tx != found[0].Tx {
			b.Errorf("client %d: %s: %+v is in another transaction than what came with it", c.number, u.how, ch)
		}
		tx = found[0].Tx
		if u.fate == logged {
			if found[0].Seq < order[ch.id] {
				b.Errorf("client %d: %s: %+v was done before what was acknowledged before it", c.number, u.how, ch)
			}
			order[ch.id] = found[0].Seq
		}
	}
	switch {
	case u.fate == logged && done < len(u.changes):
		b.Errorf("client %d: %s was acknowledged, and %d of %d are lost: %+v", c.number, u.how, len(u.changes)-done, len(u.changes), u.changes)
	case done > 0 && done < len(u.changes):
		b.Errorf("client %d: %s: only %d of %d are done: %+v", c.number, u.how, done, len(u.changes), u.changes)
	}
}

// compareRows: the table is what its journal says.
func (b *behind) compareRows(ctx context.Context, conn *pgx.Conn, last map[int64]change) {
	b.Helper()
	rows, err := conn.Query(ctx, "SELECT id, v FROM entry")
	must(b.T, err)
	var id, v int64
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&id, &v}, func() error {
		if n++; last[id] != (change{id: id, v: v}) {
			b.Errorf("record %d holds %d, its last change was %+v", id, v, last[id])
		}
		return nil
	})
	must(b.T, err)
	for _, ch := range last {
		if !ch.deletes {
			n--
		}
	}
	if n != 0 {
		b.Errorf("%d records more than the journal says", n)
	}
}

// TestKillBehind kills walproxy, PostgreSQL, and both, at random instants and at named
// places, also while what is applied is not reported, under clients of tables that are
// written behind: nothing that was acknowledged is lost, nothing is doubled or half done,
// nor by its repeat under the same key, nothing that was refused is there, and each record
// has its changes in their order, those that race past the log among them.
func TestKillBehind(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	r := rng(t)
	b := newBehind(t, r, 6)
	points := []string{"wal-after-write", "wal-after-sync", "accept-after-enqueue", "sink-before-commit", "sink-after-commit"}
	for round := range times(4, 100) {
		b.mode.Store(mixed)
		if point := points[r.IntN(len(points))]; round%2 == 1 {
			b.begin(ctx, fmt.Sprintf("WALPROXY_FAILPOINTS=%s=%d", point, 20+r.IntN(200)))
		} else {
			b.begin(ctx)
		}
		stop := b.load(ctx)
		b.more(ctx, 50+r.Int64N(100))
		switch round % 4 {
		case 0:
			b.unreported(ctx)
		case 2:
			b.race(ctx)
			b.unreported(ctx)
			fallthrough
		case 3:
			b.lose(r)
			b.mode.Store(mixed)
			b.more(ctx, 50) // acks go on
			if round%8 < 4 {
				b.cluster.Start(t)
				b.more(ctx, 50+r.Int64N(100))
			}
		}
		last := halfKeyed
		if round%4 == 0 {
			last = writeKeyed // directly nothing is done now
		}
		if b.turn(ctx, last) {
			b.more(ctx, 20)
		}
		time.Sleep(time.Duration(r.Int64N(int64(20 * time.Millisecond)))) // a random instant, not a condition
		b.process.Kill()
		stop()
		if !b.cluster.Running() {
			b.cluster.Start(t)
		}
		b.begin(ctx)
		if round%4 == 0 { // what the last one has applied is reported while the next one claims the store
			unreported{t, b.direct}.end(ctx)
		}
		b.settleKeyed(ctx)
		b.compare(ctx)
		b.process.Kill()
	}
}

// lose takes PostgreSQL away, in one of the ways there are.
func (b *behind) lose(r *rand.Rand) {
	[]func(testing.TB){b.cluster.Kill, b.cluster.KillAll, b.cluster.Stop}[r.IntN(3)](b.T)
}

// settleKeyed repeats what was sent under a key until its outcome is known, and the last
// ones whose outcome is known: it is the same.
func (b *behind) settleKeyed(ctx context.Context) {
	b.Helper()
	for _, c := range b.clients {
		for c.again != nil {
			if ctx.Err() != nil {
				b.Fatalf("client %d: %s is not settled: %v", c.number, c.again.how, context.Cause(ctx))
			}
			if c.conn == nil || c.conn.IsClosed() {
				if err := c.connect(ctx); err != nil {
					continue
				}
			}
			c.repeat(ctx)
		}
		c.repeatKnown(ctx)
		c.hangUp()
	}
}
