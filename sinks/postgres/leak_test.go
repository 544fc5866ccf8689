package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// exitPlanner leaves stage in a way of its own, with the transaction open.
type exitPlanner struct {
	ledgerPlanner
	exit func(ctx context.Context, l link) ([]sinks.Result, error)
}

func (p *exitPlanner) stage(ctx context.Context, l link, b *sinks.Batch) ([]sinks.Result, error) {
	if p.exit == nil {
		return p.ledgerPlanner.stage(ctx, l, b)
	}
	if _, err := l.run(ctx, []command{{sql: "INSERT INTO ledger (lane, lsn) VALUES (0, -1)"}}, false); err != nil {
		return nil, err
	}
	return p.exit(ctx, l)
}

// TestEveryExit: whatever way an Apply ends, no transaction stays open and no
// connection is missing from the pool, and nothing of it is in the table (F10).
// The server's own time-outs are out of the way.
func TestEveryExit(t *testing.T) {
	t.Parallel()
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	p := &exitPlanner{}
	slow := Timeouts{Statement: time.Hour, Lock: time.Hour, IdleInTransaction: time.Hour}
	brief := slow
	brief.Statement, brief.Lock = 700*time.Millisecond, 500*time.Millisecond
	idle := slow
	idle.IdleInTransaction = 300 * time.Millisecond
	blocker := pgtest.Connect(t, dsn)
	if _, err := blocker.Exec(bounded(t), "CREATE TABLE held (n int); INSERT INTO held VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	run := func(sql string) func(context.Context, link) ([]sinks.Result, error) {
		return func(ctx context.Context, l link) ([]sinks.Result, error) {
			_, err := l.run(ctx, []command{{sql: sql}}, true)
			return nil, err
		}
	}
	why := errors.New("why")
	stream := claimOf(1)
	var s *Sink
	var at Timeouts
	for _, e := range []struct {
		name     string
		timeouts Timeouts
		within   time.Duration // the caller's context
		exit     func(context.Context, link) ([]sinks.Result, error)
		want     sinks.Outcome
	}{
		{"rejected", slow, 0, func(context.Context, link) ([]sinks.Result, error) {
			return sinks.Results(10, sinks.Rejected, why), nil
		}, sinks.Rejected},
		{"error", slow, 0, func(context.Context, link) ([]sinks.Result, error) { return nil, why }, sinks.Retry},
		{"halt", slow, 0, func(context.Context, link) ([]sinks.Result, error) { return nil, sinks.WithOutcome(sinks.Halt, why) }, sinks.Halt},
		{"stale for ever", slow, 0, func(context.Context, link) ([]sinks.Result, error) { return nil, errStale }, sinks.Retry},
		{"without commit", slow, 0, func(context.Context, link) ([]sinks.Result, error) { return nil, nil }, sinks.Halt},
		{"server's error", slow, 0, run("SELECT 1/0"), sinks.Rejected},
		{"deadlock", slow, 0, run("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"), sinks.Retry},
		{"cancelled", slow, 150 * time.Millisecond, run("SELECT pg_sleep(30)"), sinks.Retry},
		{"cancelled before", slow, time.Nanosecond, run("SELECT 1"), sinks.Retry},
		{"cancelled between", slow, 100 * time.Millisecond, func(ctx context.Context, l link) ([]sinks.Result, error) {
			<-ctx.Done()
			return run("SELECT 1")(ctx, l)
		}, sinks.Unknown}, // a commit was about to be sent
		{"statement time-out", brief, 0, run("SELECT pg_sleep(30)"), sinks.Retry},
		{"lock time-out", brief, 0, run("UPDATE held SET n = 2"), sinks.Retry},
		{"given up while the server works", slow, 0, sendThen("INSERT INTO ledger (lane, lsn) SELECT 0, -n FROM generate_series(2, 50000) AS n",
			func(context.Context, link) ([]sinks.Result, error) { return nil, why }), sinks.Retry},
		{"given up behind an error of the server", slow, 0, sendThen("SELECT 1/0",
			func(context.Context, link) ([]sinks.Result, error) { return nil, why }), sinks.Retry},
		{"cancelled while the server works", slow, 150 * time.Millisecond, sendThen("SELECT pg_sleep(30)", run("SELECT 1")), sinks.Retry},
		{"silent while the server waits", idle, 0, sendThen("SELECT 1", func(ctx context.Context, l link) ([]sinks.Result, error) {
			eventually(t, "the server has ended the transaction", func() bool { return c.OpenTransactions(t, database) == 0 })
			return run("SELECT 1")(ctx, l)
		}), sinks.Unknown},
		{"panic while the server works", slow, 0, sendThen("SELECT pg_sleep(0.2)",
			func(context.Context, link) ([]sinks.Result, error) { panic("a bug") }), sinks.Unknown},
		{"panic", slow, 0, func(context.Context, link) ([]sinks.Result, error) { panic("a bug") }, sinks.Unknown},
	} {
		t.Run(e.name, func(t *testing.T) {
			if s == nil || at != e.timeouts {
				if s != nil {
					closeSink(t, s)
				}
				s, at = mustOpen(t, Options{DSN: dsn, Timeouts: e.timeouts, planner: p}), e.timeouts
			}
			p.exit = e.exit
			cp, err := s.Resume(bounded(t), stream)
			if err != nil {
				t.Fatal(err)
			}
			if e.name == "lock time-out" {
				if _, err := blocker.Exec(bounded(t), "BEGIN; UPDATE held SET n = 3"); err != nil {
					t.Fatal(err)
				}
				defer func() { _, _ = blocker.Exec(context.Background(), "ROLLBACK") }()
			}
			l := newLedger(s, cp)
			ctx := bounded(t)
			if e.within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, e.within)
				defer cancel()
			}
			b := l.batch(0, cp.Lanes[0])
			results, err := applyRecovered(ctx, s, b)
			got := sinks.OutcomeOf(err)
			if results != nil {
				got = results[0].Outcome
			}
			if got != e.want {
				t.Errorf("outcome %v (%v), want %v", got, err, e.want)
			}
			open := 0
			if e.name == "lock time-out" {
				open = 1 // the blocker's
			}
			eventually(t, "no open transactions", func() bool { return c.OpenTransactions(t, database) == open })
			if n := s.applyPool.Stat().AcquiredConns(); n != 0 {
				t.Errorf("%d connections were not given back", n)
			}
			// And the next Apply works.
			p.exit = nil
			if err := l.send(bounded(t), b); err != nil {
				t.Error(err)
			}
		})
	}
	closeSink(t, s)
	checkLedger(t, dsn, 1, nil, nil)
}

// sendThen leaves a statement to the server and goes on.
func sendThen(sql string, exit func(context.Context, link) ([]sinks.Result, error)) func(context.Context, link) ([]sinks.Result, error) {
	return func(ctx context.Context, l link) ([]sinks.Result, error) {
		if err := l.send(ctx, []command{{sql: sql}}); err != nil {
			return nil, err
		}
		return exit(ctx, l)
	}
}

func applyRecovered(ctx context.Context, s *Sink, b *sinks.Batch) (results []sinks.Result, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return s.Apply(ctx, b)
}

// TestPoolsAreApart: 200 users of pools of 4 connections, and the owner's lock
// beside them: nobody fails (F7).
func TestPoolsAreApart(t *testing.T) {
	c := pgtest.Shared(t)
	dsn := c.Database(t)
	s := openSink(t, Options{DSN: dsn, AutoCreate: true, Pools: Pools{Apply: 4, Read: 4}})
	const lanes = 100
	absent := &walproxyv1.Key{Kind: &walproxyv1.Key_String_{String_: "absent"}}
	d := resumed(t, s, claimOf(lanes))
	var wg sync.WaitGroup
	var failures atomic.Int64
	fail := func(what string, err error) {
		if failures.Add(1) < 5 {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx := bounded(t)
	for user := range 2 * lanes {
		wg.Go(func() {
			for i := range times(5, 100) {
				if user >= lanes {
					if _, err := s.Read(ctx, "c", absent); !errors.Is(err, mutation.ErrNotFound) {
						fail("read", err)
					}
					continue
				}
				b := d.move(user, sinks.LSN(i+1))
				b.Moves[0].From.LSN = sinks.LSN(i)
				if i > 0 {
					b.Moves[0].From.Incarnation = d.inc
				}
				if _, err := s.Apply(ctx, b); err != nil {
					fail("apply", err)
				}
			}
		})
	}
	wg.Wait()
	if n := failures.Load(); n > 0 {
		t.Errorf("%d failures", n)
	}
	if n := s.applyPool.Stat().MaxConns(); n != 4 {
		t.Errorf("%d connections, want 4", n)
	}
}

// TestSharedPoolDeadlocks is the control: users that hold a connection for their
// lock and take a second one for their work from the same pool of 4 wait for each
// other for ever, until their time-out. Were this to pass, TestPoolsAreApart
// would prove nothing.
func TestSharedPoolDeadlocks(t *testing.T) {
	config, err := pgxpool.ParseConfig(pgtest.Shared(t).Database(t))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(bounded(t), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var wg sync.WaitGroup
	var stuck, holding atomic.Int64
	all := make(chan struct{})
	for range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			lock, err := pool.Acquire(ctx)
			if err != nil {
				stuck.Add(1)
				return
			}
			defer lock.Release()
			if holding.Add(1) == 4 {
				close(all)
			}
			select {
			case <-all:
			case <-ctx.Done():
			}
			work, err := pool.Acquire(ctx)
			if err != nil {
				stuck.Add(1)
				return
			}
			work.Release()
		})
	}
	wg.Wait()
	if stuck.Load() < 190 { // one may get through when others give up
		t.Errorf("%d of 200 users were stuck: the control does not deadlock", stuck.Load())
	}
}
