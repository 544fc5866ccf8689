package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/sinks"
)

// ledgerPlanner writes each record as a row of a table without any constraint:
// what was applied twice, not at all or out of order stays visible.
type ledgerPlanner struct {
	halves bool // in two round trips
	// before is called in front of the last round trip.
	before func()
}

const ledgerTable = `CREATE TABLE ledger (n bigserial, lane int, lsn bigint, filler text)`

func (*ledgerPlanner) refresh(context.Context, *pgconn.PgConn, bool) error { return nil }

func (*ledgerPlanner) lookup(context.Context, *pgconn.PgConn, string) (*mapping, error) {
	return nil, errors.ErrUnsupported
}

func (*ledgerPlanner) prepare(context.Context, *pgconn.PgConn, *sinks.Batch) error { return nil }

func (*ledgerPlanner) mapping(string) *mapping { return nil }

func (*ledgerPlanner) expiring() []string { return nil }

func (*ledgerPlanner) laneGroup(string) string { return "" }

func (*ledgerPlanner) laneGroups() map[string][]string { return nil }

func (*ledgerPlanner) warnings() []string { return nil }

func (p *ledgerPlanner) stage(ctx context.Context, l link, b *sinks.Batch) ([]sinks.Result, error) {
	var lsns []string
	for i := range b.Records {
		lsns = append(lsns, strconv.FormatUint(uint64(b.Records[i].LSN), 10))
	}
	insert := func(lsns []string) []command {
		return []command{{
			sql: `INSERT INTO ledger (lane, lsn, filler)
				SELECT $1::int, u.lsn, repeat('x', 200) FROM unnest($2::int8[]) WITH ORDINALITY AS u (lsn, i) ORDER BY u.i`,
			params: texts(strconv.Itoa(b.Moves[0].Lane), array(lsns)),
		}}
	}
	if p.halves {
		half := len(lsns) / 2
		if _, err := l.run(ctx, insert(lsns[:half]), false); err != nil {
			return nil, err
		}
		lsns = lsns[half:]
	}
	if p.before != nil {
		p.before()
	}
	_, err := l.run(ctx, insert(lsns), true)
	return nil, err
}

// ledger drives the lanes of a sink as the apply loop does: the same batch again
// until it is applied.
type ledger struct {
	sink     *Sink
	cp       sinks.Checkpoint
	inc      uuid.UUID
	size     int           // records per batch
	timeout  time.Duration // of one Apply
	last     atomic.Pointer[error]
	applied  []atomic.Int64 // records reported applied, per lane
	refused  []atomic.Int64 // batches refused because the lock is not held, per lane
	unknowns atomic.Int64
	retries  atomic.Int64
	// statements: the records are such, and the sink's own planner applies them.
	statements bool
}

// ledgerIncarnation lets processes that follow each other continue one log.
var ledgerIncarnation = uuid.MustParse("4d2ee99a-06b8-4b0c-a5a2-1f8b8e3ad111")

func newLedger(s *Sink, cp sinks.Checkpoint) *ledger {
	return &ledger{sink: s, cp: cp, inc: ledgerIncarnation, size: 10, timeout: 10 * time.Second, applied: make([]atomic.Int64, len(cp.Lanes)), refused: make([]atomic.Int64, len(cp.Lanes))}
}

// batch is the next one of a lane after a point: lane i has the LSNs that leave
// the remainder i.
func (l *ledger) batch(lane int, from sinks.Point) *sinks.Batch {
	lanes := sinks.LSN(len(l.cp.Lanes))
	next := from.LSN + lanes
	if from.LSN == 0 {
		next = lanes + sinks.LSN(lane)
	}
	b := &sinks.Batch{Epoch: l.cp.Epoch}
	for range l.size {
		body := &walproxyv1.Record{}
		if l.statements {
			body = ledgerStatement(lane, next)
		}
		b.Records = append(b.Records, sinks.Record{LSN: next, Body: body, Bytes: 200})
		next += lanes
	}
	b.Moves = []sinks.Move{{Lane: lane, From: from, To: sinks.Point{Incarnation: l.inc, LSN: next - lanes}}}
	return b
}

// lane applies batches until ctx ends (nil) or an outcome that no retry mends.
func (l *ledger) lane(ctx context.Context, lane int) error {
	from := l.cp.Lanes[lane]
	for ctx.Err() == nil {
		b := l.batch(lane, from)
		if err := l.send(ctx, b); err != nil || ctx.Err() != nil {
			return err
		}
		from = b.Moves[0].To
		l.applied[lane].Add(int64(len(b.Records)))
	}
	return nil
}

// send returns nil once b is applied or ctx has ended.
func (l *ledger) send(ctx context.Context, b *sinks.Batch) error {
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, l.timeout)
		results, err := l.sink.Apply(try, b)
		cancel()
		if err != nil {
			l.last.Store(&err)
			if errors.Is(err, errNotOwner) && sinks.OutcomeOf(err) == sinks.Retry {
				l.refused[b.Moves[0].Lane].Add(1)
			}
		}
		switch o := sinks.OutcomeOf(err); {
		case err == nil && len(results) == len(b.Records) && results[0].Outcome == sinks.Applied:
			return nil
		case err == nil:
			return fmt.Errorf("results %v", results)
		case o == sinks.Unknown:
			l.unknowns.Add(1)
		case o == sinks.Retry:
			l.retries.Add(1)
		case ctx.Err() == nil:
			return fmt.Errorf("%v: %w", o, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// during runs all lanes while f runs, and returns the first error of a lane.
func (l *ledger) during(t testing.TB, f func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	errs := make(chan error, len(l.cp.Lanes))
	for lane := range l.cp.Lanes {
		wg.Go(func() {
			if err := l.lane(ctx, lane); err != nil {
				errs <- fmt.Errorf("lane %d: %w", lane, err)
			}
		})
	}
	defer func() { // also when f ends the test: the error may be why
		cancel()
		wg.Wait()
		close(errs)
		for err := range errs {
			t.Error(err)
		}
	}()
	f()
}

// total is the number of records reported applied.
func (l *ledger) total() (n int64) {
	for i := range l.applied {
		n += l.applied[i].Load()
	}
	return n
}

// progress waits until every lane has applied some more.
func (l *ledger) progress(t testing.TB, batches int) {
	t.Helper()
	var want []int64
	for i := range l.applied {
		want = append(want, l.applied[i].Load()+int64(batches*l.size))
	}
	defer func() {
		if err := l.last.Load(); t.Failed() && err != nil {
			t.Logf("the last error of an Apply: %v", *err)
		}
	}()
	eventually(t, "every lane goes on", func() bool {
		for i := range l.applied {
			if l.applied[i].Load() < want[i] {
				return false
			}
		}
		return true
	})
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 40s: %s", what)
		}
	}
}

// openLedger makes the table in a new database and claims it.
func openLedger(t testing.TB, o Options, lanes int) *ledger {
	t.Helper()
	if o.planner == nil {
		o.planner = &ledgerPlanner{}
	}
	s := openSink(t, o)
	cp, err := s.Resume(bounded(t), claimOf(lanes))
	if err != nil {
		t.Fatal(err)
	}
	return newLedger(s, cp)
}

// newDatabase makes a database with a ledger.
func newDatabase(t testing.TB, c *pgtest.Cluster) (dsn, name string) {
	t.Helper()
	dsn = c.Database(t)
	conn := pgtest.Connect(t, dsn)
	if _, err := conn.Exec(bounded(t), ledgerTable); err != nil {
		t.Fatal(err)
	}
	return dsn, conn.Config().Database
}

// check compares the table with the checkpoint: every record of a lane up to it,
// once, in order, and nothing else; and with what was reported applied.
func (l *ledger) check(t testing.TB, dsn string) {
	t.Helper()
	checkLedger(t, dsn, len(l.cp.Lanes), l.cp.Lanes, l.applied)
}

func checkLedger(t testing.TB, dsn string, lanes int, from []sinks.Point, applied []atomic.Int64) {
	t.Helper()
	conn := pgtest.Connect(t, dsn)
	for lane := range lanes {
		var at int64
		if err := conn.QueryRow(bounded(t), "SELECT lsn FROM walproxy.lane WHERE lane = $1", lane).Scan(&at); err != nil {
			t.Fatal(err)
		}
		rows, err := conn.Query(bounded(t), "SELECT lsn FROM ledger WHERE lane = $1 ORDER BY n", lane)
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			t.Fatal(err)
		}
		var want []int64
		for lsn := int64(lanes + lane); lsn <= at; lsn += int64(lanes) {
			want = append(want, lsn)
		}
		if !slices.Equal(got, want) {
			t.Errorf("lane %d: %s", lane, differ(got, want))
		}
		if applied == nil {
			continue
		}
		before := int64(0)
		if from[lane].LSN > 0 {
			before = int64(from[lane].LSN) / int64(lanes)
		}
		if n := before + applied[lane].Load(); int64(len(got)) < n {
			t.Errorf("lane %d: %d rows, %d were reported applied", lane, len(got), n)
		}
	}
}

func differ(got, want []int64) string {
	seen := map[int64]int{}
	twice, disorder, lost := 0, 0, 0
	for i, lsn := range got {
		if seen[lsn]++; seen[lsn] > 1 {
			twice++
		}
		if i > 0 && lsn <= got[i-1] {
			disorder++
		}
	}
	for _, lsn := range want {
		if seen[lsn] == 0 {
			lost++
		}
	}
	return fmt.Sprintf("%d rows, want %d: lost %d, duplicated %d, out of order %d", len(got), len(want), lost, twice, disorder)
}

// settled wants no transaction left open in the database.
func settled(t testing.TB, c *pgtest.Cluster, database string) {
	t.Helper()
	eventually(t, "no open transactions", func() bool { return c.OpenTransactions(t, database) == 0 })
}

// TestLedgerSees: the ledger's check fails for a sink that applies twice.
func TestLedgerSees(t *testing.T) {
	for _, c := range []struct{ got, want []int64 }{
		{[]int64{1, 2, 2}, []int64{1, 2}}, {[]int64{2, 1}, []int64{1, 2}}, {[]int64{1}, []int64{1, 2}},
	} {
		if slices.Equal(c.got, c.want) || differ(c.got, c.want) == "" {
			t.Error("not seen")
		}
	}
}
