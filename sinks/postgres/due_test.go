package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// idleLog answers for a log in which nothing is written.
type idleLog struct {
	sync.Mutex
	above sinks.LSN
	at    time.Time
	err   error
	asked int
}

func (l *idleLog) ask(context.Context) (sinks.LSN, time.Time, error) {
	l.Lock()
	defer l.Unlock()
	l.asked++
	return l.above, l.at, l.err
}

func (l *idleLog) set(above sinks.LSN, at time.Time, err error) {
	l.Lock()
	defer l.Unlock()
	l.above, l.at, l.err = above, at, err
}

func (l *idleLog) times() int {
	l.Lock()
	defer l.Unlock()
	return l.asked
}

// asked waits until the log was asked once more.
func (a *applier) asked(l *idleLog) {
	a.t.Helper()
	before := l.times()
	eventually(a.t, "the log is asked", func() bool { return l.times() > before })
}

// TestExpiredAreDeletedIdle: rows go at their end where nothing is applied any
// more, after a start too; not before the log said that time has come so far, and
// every lane has passed the LSN that this is said of.
func TestExpiredAreDeletedIdle(t *testing.T) {
	for _, collection := range []string{"docs", "plain"} {
		t.Run(collection, func(t *testing.T) {
			t.Parallel()
			a := newExpiringApplier(t, expiringOptions(eager))
			log := &idleLog{err: errors.New("the log is closed")}
			a.sink.UseHorizon(log.ask)
			for i := range 10 { // more than a batch
				a.put(set(collection, mutation.String(fmt.Sprint("gone", i)), fields{}, a.until(time.Hour)))
			}
			a.put(set(collection, mutation.String("later"), fields{}, a.until(9*time.Hour)), set(collection, mutation.String("never"), fields{}))
			rows := func(want string) bool { return a.query("SELECT count(*) FROM "+collection) == want }
			a.asked(log)
			log.set(a.last, a.clock.Add(time.Minute), nil)
			a.sink.sweep.changed() // it waits for relook after a failure
			a.asked(log)
			a.asked(log)
			if !rows("12") {
				t.Fatal("rows went before their end")
			}
			log.set(a.last+1, a.clock.Add(2*time.Hour), nil)
			a.asked(log)
			times := log.times()
			a.sink.sweep.changed()
			eventually(t, "the answer is known", func() bool {
				a.sink.sweep.mu.Lock()
				defer a.sink.sweep.mu.Unlock()
				return a.sink.sweep.mu.asked == a.last+1
			})
			if at, _ := a.sink.sweep.reach(); at.After(a.clock.Add(time.Minute)) || log.times() > times+1 {
				t.Fatalf("the horizon is %v while a record is not applied, the log was asked %d times more", at, log.times()-times)
			}
			a.last++
			a.apply(a.move(0, a.last))
			eventually(t, "rows go at their end", func() bool { return rows("2") })

			// Another process, in which nothing is ever applied.
			o := a.sink.o
			o.Registerer = nil
			closeSink(t, a.sink)
			next := openSink(t, o)
			log.set(a.last, a.clock.Add(10*time.Hour), nil)
			next.UseHorizon(log.ask)
			resumed(t, next, sinks.Claim{Stream: a.cp.Stream, Owner: "next", Lanes: 1})
			eventually(t, "rows go after a start", func() bool { return rows("1") })
		})
	}
}

// TestNextEnd: the log is asked when an end has come and no sooner, so that a
// store in which nothing ends soon is left alone; what is passed over is looked
// at again in its time.
func TestNextEnd(t *testing.T) {
	for _, collection := range []string{"docs", "plain"} {
		a := newExpiringApplier(t, expiringOptions(Expiry{Disabled: true, Margin: 10 * time.Minute}))
		e := &expiring{collection: collection, limit: 9}
		next := func(name string, want, tolerance time.Duration) {
			t.Helper()
			_, due, err := a.sink.sweep.nextOf(e)
			in := time.Until(due)
			switch {
			case err != nil:
				t.Fatalf("%s, %s: %v", collection, name, err)
			case want == 0 && !due.IsZero(), want != 0 && (in < want-tolerance || in > want+tolerance):
				t.Errorf("%s, %s: due in %v, want %v", collection, name, in, want)
			}
		}
		next("no table", 0, 0)
		a.clock = time.Now()
		a.put(set(collection, mutation.String("never"), fields{}))
		next("no end", 0, 0)
		a.put(set(collection, mutation.String("far"), fields{}, a.until(300*time.Hour)))
		next("a far end", lookAnew, time.Minute)
		a.put(set(collection, mutation.String("soon"), fields{}, a.until(20*time.Minute)))
		next("an end and the margin", 30*time.Minute, 2*time.Minute)
		end := a.query("SELECT min(expires_at)::text FROM " + map[string]string{"docs": "docs", "plain": "walproxy.record"}[collection])
		at, err := time.Parse("2006-01-02 15:04:05.999999-07", end)
		if err != nil {
			t.Fatal(err)
		}
		e.cursor = cursor{end: appendInteger(nil, microseconds(at), 8), key: []byte("soon")}
		e.again = time.Now().Add(time.Minute)
		next("passed over", time.Minute, 30*time.Second)
		e.again = time.Now().Add(2 * time.Hour)
		next("passed over, and a far end", lookAnew, time.Minute)
	}
}

// TestClaimWaitsForExpiry: a claim waits for a deletion of the former owner that is
// under way, so that none commits behind it.
func TestClaimWaitsForExpiry(t *testing.T) {
	const held = 7001 // an advisory lock that stops the deletion between its statements
	trigger := fmt.Sprintf(`CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		WHILE NOT pg_try_advisory_xact_lock(%d) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN OLD; END $$`, held)
	o := expiringOptions(Expiry{Disabled: true, Margin: time.Millisecond})
	a := newApplier(t, o, append(strings.Split(mappedExpiring, ";"), trigger,
		"CREATE TRIGGER wait BEFORE DELETE ON plain FOR EACH ROW EXECUTE FUNCTION wait()")...)
	a.put(set("plain", mutation.String("k"), fields{}, a.until(time.Hour)))
	if _, err := a.conn.Exec(bounded(t), "SELECT pg_advisory_lock($1)", held); err != nil {
		t.Fatal(err)
	}
	r := &removal{sink: a.sink, e: &expiring{collection: "plain", limit: 9}, until: a.clock.Add(2 * time.Hour), epoch: a.cp.Epoch}
	removed, claimed := make(chan error, 1), make(chan error, 1)
	go func() { removed <- a.sink.sweep.byHand(t, r) }()
	waiting := func(n string, which string) bool {
		return a.query("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "+which) == n
	}
	eventually(t, "the deletion is under way", func() bool { return waiting("1", "query LIKE 'DELETE FROM%plain%' AND state = 'active'") })
	go func() {
		_, err := a.sink.Resume(bounded(t), sinks.Claim{Stream: a.cp.Stream, Owner: "next", Lanes: 1})
		claimed <- err
	}()
	eventually(t, "the claim waits for it", func() bool {
		if len(claimed) > 0 {
			t.Fatal("the claim did not wait")
		}
		return waiting("1", "cardinality(pg_blocking_pids(pid)) > 0")
	})
	if _, err := a.conn.Exec(bounded(t), "SELECT pg_advisory_unlock($1)", held); err != nil {
		t.Fatal(err)
	}
	if err := <-removed; err != nil || r.removed != 1 {
		t.Errorf("the deletion: %v, %d rows", err, r.removed)
	}
	if err := <-claimed; err != nil {
		t.Errorf("the claim: %v", err)
	}
	if got := a.query("SELECT count(*) FROM plain"); got != "0" {
		t.Errorf("%s rows are left", got)
	}
}
