package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
)

// times returns the number for the form that runs.
func times(short, long int) int {
	if os.Getenv("WALPROXY_LONG") != "" {
		return long
	}
	return short
}

// hasty time-outs let a test see many of them.
func hasty() Timeouts {
	return Timeouts{
		Connect: 500 * time.Millisecond, Acquire: 2 * time.Second, Statement: time.Second,
		Lock: 500 * time.Millisecond, IdleInTransaction: time.Second, Lease: 2 * time.Second,
	}
}

// planners: one round trip per batch, and two.
func planners() map[string]planner {
	return map[string]planner{"one": &ledgerPlanner{}, "two": &ledgerPlanner{halves: true}}
}

// TestBackendsTerminated: an administrator ends every session, again and again,
// under load. Nothing is lost or doubled, and neither goroutines nor connections
// nor memory grow with it (F8).
func TestBackendsTerminated(t *testing.T) {
	for name, p := range planners() {
		t.Run(name, func(t *testing.T) {
			c := pgtest.Shared(t)
			dsn, database := newDatabase(t, c)
			l := openLedger(t, Options{DSN: dsn, Timeouts: hasty(), planner: p}, 4)
			ended := 0
			l.during(t, func() {
				l.progress(t, 5)
				goroutines, heap := runtime.NumGoroutine(), heapInUse()
				for range times(15, 1000) {
					ended += c.TerminateAll(t, database)
					l.progress(t, 1)
				}
				if n := runtime.NumGoroutine(); n > goroutines+20 {
					t.Errorf("%d goroutines, %d before %d sessions were ended", n, goroutines, ended)
				}
				if h := heapInUse(); h > heap+16<<20 {
					t.Errorf("heap of %d bytes, %d before", h, heap)
				}
			})
			if ended < 15 {
				t.Fatalf("only %d sessions ended", ended)
			}
			if n := l.sink.applyPool.Stat().TotalConns(); n > 8 {
				t.Errorf("%d connections of 8", n)
			}
			l.check(t, dsn)
			settled(t, c, database)
			t.Logf("%d sessions ended, %d records, %d unknown, %d retries", ended, l.total(), l.unknowns.Load(), l.retries.Load())
		})
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// TestServerKilled: kill -9 of the postmaster, of one backend (which makes all of
// them start anew), of everything, and an orderly restart.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	dsn, database := newDatabase(t, c)
	l := openLedger(t, Options{DSN: dsn, Timeouts: hasty(), planner: &ledgerPlanner{halves: true}}, 3)
	kills := map[string]func(){
		"postmaster": func() { c.Kill(t); c.Start(t) },
		"all":        func() { c.KillAll(t); c.Start(t) },
		"restart":    func() { c.Restart(t) },
		"backend": func() {
			conn, err := l.sink.acquire(bounded(t), l.sink.applyPool)
			if err != nil {
				return // all sessions were just ended: another round will do
			}
			pid := conn.Conn().PgConn().PID()
			l.sink.release(conn)
			_ = syscall.Kill(int(pid), syscall.SIGKILL) // it may have ended
		},
	}
	l.during(t, func() {
		for round := range times(1, 20) {
			for _, name := range []string{"postmaster", "backend", "all", "backend", "restart"} {
				l.progress(t, 3)
				kills[name]()
			}
			t.Logf("round %d: %d records, %d unknown, %d retries", round, l.total(), l.unknowns.Load(), l.retries.Load())
		}
		l.progress(t, 3)
	})
	if l.unknowns.Load() == 0 {
		t.Error("no commit without an answer: the kills came at the wrong moments")
	}
	l.check(t, dsn)
	settled(t, c, database)
}

// TestServerPaused: SIGSTOP of PostgreSQL for longer than every time-out. The
// calls end by themselves meanwhile.
func TestServerPaused(t *testing.T) {
	t.Parallel()
	c := pgtest.New(t, pgtest.Options{})
	dsn, database := newDatabase(t, c)
	limits := hasty()
	limits.Acquire, limits.Lease = time.Second, time.Second
	l := openLedger(t, Options{DSN: dsn, Timeouts: limits}, 3)
	l.timeout = time.Second
	l.during(t, func() {
		for range times(1, 5) {
			l.progress(t, 3)
			c.Pause(t)
			before := l.unknowns.Load() + l.retries.Load()
			pause(limits.Lease + 1500*time.Millisecond) // longer than each
			if l.unknowns.Load()+l.retries.Load() == before {
				t.Error("no call ended while the server was paused")
			}
			c.Continue(t)
			l.progress(t, 3)
		}
	})
	l.check(t, dsn)
	settled(t, c, database)

	// Close does not wait for a server that does not answer: not with idle
	// connections, and not longer than its context with a call under way.
	idle := mustOpen(t, Options{DSN: dsn, Schema: "idle", planner: &ledgerPlanner{}})
	if _, err := idle.Resume(bounded(t), claimOf(1)); err != nil {
		t.Fatal(err)
	}
	c.Pause(t)
	began := time.Now()
	closeSink(t, idle)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Close took %v with the server paused", took)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := l.sink.Apply(context.Background(), l.batch(0, l.cp.Lanes[0]))
		ended <- err
	}()
	eventually(t, "a call is under way", func() bool { return l.sink.applyPool.Stat().AcquiredConns()+int32(len(ended)) > 0 })
	brief, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := l.sink.Close(brief); !errors.Is(err, context.DeadlineExceeded) && len(ended) == 0 {
		t.Errorf("Close with a call under way: %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("an Apply succeeded on a paused server")
	}
	c.Continue(t)
}

// pause is the time that a test is about, not one it relies on.
func pause(d time.Duration) { <-time.After(d) }

// TestCutInCommit: the network cuts the round trip with the COMMIT before it,
// halfway, and behind it, when the server has committed and cannot say so.
func TestCutInCommit(t *testing.T) {
	for name, p := range planners() {
		t.Run(name, func(t *testing.T) {
			c := pgtest.Shared(t)
			dsn, database := newDatabase(t, c)
			proxy := pgtest.NewProxy(t, c.Addr())
			l := openLedger(t, Options{DSN: pgtest.DSN(proxy.Addr(), pgtest.Superuser, database), Timeouts: hasty(), planner: p}, 1)
			l.during(t, func() {
				for range times(4, 100) {
					for _, side := range []pgtest.Side{pgtest.BeforeServer, pgtest.Halfway, pgtest.AfterServer} {
						l.progress(t, 2)
						// A batch to come: the last of its records goes with the COMMIT.
						last := (l.applied[0].Load()/10 + 4) * 10
						before := proxy.Cuts()
						proxy.CutAt(fmt.Sprintf(",%d}", last), side, 1)
						eventually(t, "the cut", func() bool { return proxy.Cuts() > before || l.applied[0].Load() > last+1000 })
					}
				}
				l.progress(t, 2)
			})
			if proxy.Cuts() < times(4, 100) || l.unknowns.Load() == 0 {
				t.Errorf("%d cuts, %d unknown", proxy.Cuts(), l.unknowns.Load())
			}
			l.check(t, dsn)
			settled(t, c, database)
		})
	}
}

// TestCommitStillRunning: the connection is lost while the server is inside of
// COMMIT; the retry starts meanwhile, waits, and finds the batch applied.
func TestCommitStillRunning(t *testing.T) {
	t.Parallel()
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	admin := pgtest.Connect(t, dsn)
	for _, sql := range []string{
		`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.7); RETURN NULL; END $$`,
		`CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.lsn = 50) EXECUTE FUNCTION slow()`,
	} {
		if _, err := admin.Exec(bounded(t), sql); err != nil {
			t.Fatal(err)
		}
	}
	proxy := pgtest.NewProxy(t, c.Addr())
	o := Options{DSN: pgtest.DSN(proxy.Addr(), pgtest.Superuser, database), planner: &ledgerPlanner{halves: true}}
	l := openLedger(t, o, 1)
	l.during(t, func() {
		eventually(t, "a COMMIT that runs", func() bool {
			var n int
			err := admin.QueryRow(bounded(t), `SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND state = 'active'
				AND wait_event = 'PgSleep' AND query = 'COMMIT'`, database).Scan(&n)
			return err == nil && n == 1
		})
		proxy.Cut()
		eventually(t, "a retry that waits for it", func() bool {
			var n int
			err := admin.QueryRow(bounded(t), `SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'`, database).Scan(&n)
			return err == nil && n > 0 || l.applied[0].Load() > 50
		})
		l.progress(t, 6)
	})
	if l.unknowns.Load() == 0 {
		t.Error("the cut COMMIT was not reported unknown")
	}
	l.check(t, dsn)
	settled(t, c, database)
}

// TestReadOnDeadConnection: connections that died while nobody used them, as all
// do when the server restarts, are no reason for a read to fail.
func TestReadOnDeadConnection(t *testing.T) {
	t.Parallel()
	a := newApplier(t, Options{AutoCreate: true})
	k := mutation.String("k")
	a.put(set("things", k, fields{"n": int64(7)}))
	for range 3 {
		var readers sync.WaitGroup // so that there are several idle connections
		for range 4 {
			readers.Go(func() {
				if _, err := a.sink.Read(bounded(t), "things", k); err != nil {
					t.Error(err)
				}
			})
		}
		readers.Wait()
		const others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
		idle := a.query("SELECT array_agg(pid) " + others)
		a.query("SELECT count(pg_terminate_backend(pid)) " + others)
		eventually(t, "they are gone", func() bool { return a.query("SELECT count(*) "+others+" AND pid = ANY ('"+idle+"')") == "0" })
		if d, err := a.sink.Read(bounded(t), "things", k); err != nil || d.Fields["n"].GetInt64() != 7 {
			t.Errorf("read %v, %v", d, err)
		}
	}
}

// TestDiskFull: the server's disk fills up under load; when there is room again
// the sink goes on by itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: a small file system needs root")
	}
	c := pgtest.New(t, pgtest.Options{DiskBytes: 512 << 20, Settings: map[string]string{"max_wal_size": "'48MB'"}})
	dsn, database := newDatabase(t, c)
	l := openLedger(t, Options{DSN: dsn, Timeouts: hasty()}, 2)
	l.size = 50
	l.during(t, func() {
		for range times(2, 10) {
			l.progress(t, 2)
			c.Fill(t, 256<<10)
			before := l.retries.Load() + l.unknowns.Load()
			eventually(t, "the disk is full", func() bool { return l.retries.Load()+l.unknowns.Load() > before+5 })
			c.Free(t)
			// A full disk of the WAL ends the server, now or once its recovery has met
			// it, too; to start it again is its supervisor's work.
			passed := l.applied[0].Load()
			eventually(t, "the server works again", func() bool {
				if !c.Running() {
					c.KillAll(t)
					c.Start(t)
				}
				return l.applied[0].Load() > passed
			})
			l.progress(t, 2)
		}
	})
	l.check(t, dsn)
	settled(t, c, database)
}
