package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/sinks"
)

// TestSixProcesses: of six processes that claim one stream one owns it. One that
// is paused in the middle of a transaction is replaced after its lease, and when
// it wakes its commit fails and it is fenced; one that is killed is replaced at
// once. The stream is applied once (F9).
func TestSixProcesses(t *testing.T) {
	t.Parallel()
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	const lanes = 2
	stream := uuid.New()
	start := func(name string, hold bool) *process {
		return startProcess(t, processOptions{DSN: dsn, Stream: stream, Name: name, Lanes: lanes, Hold: hold})
	}
	first := start("process 0", true)
	eventually(t, "the first process owns the stream and is in a transaction", func() bool { _, ok := first.saw("holding"); return ok })
	all := []*process{first}
	for i := range 5 {
		all = append(all, start(fmt.Sprintf("process %d", i+1), false))
	}
	eventually(t, "the others wait for the first", func() bool {
		return !slices.ContainsFunc(all[1:], func(p *process) bool {
			said, _ := p.saw("waits")
			return said != "waits process 0"
		})
	})
	owners := func() (list []*process) {
		for _, p := range all {
			if _, ok := p.saw("owns"); ok {
				list = append(list, p)
			}
		}
		return list
	}
	if n := len(owners()); n != 1 {
		t.Fatalf("%d owners", n)
	}
	if err := syscall.Kill(-first.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another takes over from the paused one", func() bool { return len(owners()) == 2 })
	eventually(t, "it applies", func() bool { return owners()[1].applies() })
	if _, err := first.stdin.Write([]byte("\n")); err != nil { // to be read when it wakes
		t.Fatal(err)
	}
	if err := syscall.Kill(-first.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the one that wakes is fenced", func() bool { _, ok := first.saw("fenced"); return ok })
	if code := first.ExitCode(); code != 3 {
		t.Errorf("exit code %d: %s", code, first.Tail())
	}
	second := owners()[1]
	second.Kill()
	eventually(t, "a third takes over from the dead one", func() bool { return len(owners()) == 3 })
	eventually(t, "it applies", func() bool {
		return slices.ContainsFunc(owners(), func(p *process) bool { return p != first && p != second && p.applies() })
	})
	if n := len(owners()); n != 3 { // each kill below makes another
		t.Errorf("%d processes owned the stream, want 3", n)
	}
	for _, p := range all {
		p.Kill()
	}
	settled(t, c, database)
	checkLedger(t, dsn, lanes, nil, nil)
}

// applies reports whether the process said that it applied something.
func (p *process) applies() bool {
	said, ok := p.saw("applied")
	return ok && said != "applied 0"
}

// TestProcessKilled: kill -9 of the process that applies, at no particular
// moments; each successor continues from the checkpoint.
func TestProcessKilled(t *testing.T) {
	t.Parallel()
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	stream := uuid.New()
	for i := range times(6, 100) {
		p := startProcess(t, processOptions{DSN: dsn, Stream: stream, Name: fmt.Sprint("life ", i), Lanes: 3})
		eventually(t, "it applies", p.applies)
		p.Kill()
		var told int64
		said, _ := p.saw("applied")
		if _, err := fmt.Sscanf(said, "applied %d", &told); err != nil {
			t.Fatal(err)
		}
	}
	settled(t, c, database)
	checkLedger(t, dsn, 3, nil, nil)
}

// TestLockLost: applying stops at once when the connection with the lock is
// lost, goes on under the same epoch when it is held again, and ends if somebody
// else claimed the stream meanwhile.
func TestLockLost(t *testing.T) {
	c := pgtest.Shared(t)
	dsn, _ := newDatabase(t, c)
	o := Options{DSN: dsn, Timeouts: hasty(), planner: &ledgerPlanner{}}
	s := openSink(t, o)
	claim := claimOf(2)
	cp, err := s.Resume(bounded(t), claim)
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger(s, cp)
	rival := pgtest.Connect(t, dsn)
	key := lockKey("stream", DefaultSchema, claim.Stream.String())
	l.during(t, func() {
		l.progress(t, 2)
		got := make(chan error, 1)
		go func() {
			_, err := rival.Exec(context.Background(), "SELECT pg_advisory_lock($1)", key)
			got <- err
		}()
		eventually(t, "the rival waits for the lock", func() bool {
			var n int
			err := pgtest.Connect(t, dsn).QueryRow(bounded(t), "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").Scan(&n)
			return err == nil && n == 1
		})
		c.TerminateBackend(t, s.owner.pid.Load())
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		eventually(t, "the loss is noticed", func() bool { return !s.owner.holds() })
		// What was under way may still end well; nothing new does.
		_, err := s.Apply(bounded(t), l.batch(0, l.cp.Lanes[0]))
		if sinks.OutcomeOf(err) == sinks.Applied && err != nil {
			t.Error(err)
		}
		eventually(t, "the applies of every lane are refused", func() bool {
			return l.refused[0].Load() > 0 && l.refused[1].Load() > 0
		})
		before := l.total()
		pause(100 * time.Millisecond)
		if n := l.total(); n != before {
			t.Errorf("%d records applied without the lock", n-before)
		}
		if _, err := rival.Exec(bounded(t), "SELECT pg_advisory_unlock_all()"); err != nil {
			t.Fatal(err)
		}
		l.progress(t, 2)
	})
	l.check(t, dsn)
	if stored, err := storedCheckpoint(t, s); err != nil || stored.Epoch != cp.Epoch {
		t.Errorf("epoch %d (%v), want %d: the lock was taken again, nobody claimed", stored.Epoch, err, cp.Epoch)
	}
	// Somebody else claims while the lock is lost.
	other := openSink(t, o)
	waiting := make(chan error, 1)
	go func() {
		for {
			_, err := other.Resume(context.Background(), claim)
			if !errors.Is(err, ErrOwned) {
				waiting <- err
				return
			}
		}
	}()
	eventually(t, "the other claims", func() bool {
		c.TerminateBackend(t, s.owner.pid.Load())
		return len(waiting) == 1
	})
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(bounded(t), l.batch(0, l.cp.Lanes[0])); !errors.Is(err, sinks.ErrFenced) {
		t.Errorf("an Apply of the old owner: %v", err)
	}
}

func storedCheckpoint(t testing.TB, s *Sink) (stored, error) {
	conn, err := s.acquire(bounded(t), s.applyPool)
	if err != nil {
		return stored{}, err
	}
	defer s.release(conn)
	return s.checkpoint(bounded(t), conn.Conn())
}

// TestOwned: a healthy owner is not fenced: who comes second waits, and is told
// for whom; when the owner closes it gets the stream.
func TestOwned(t *testing.T) {
	dsn, _ := newDatabase(t, pgtest.Shared(t))
	o := Options{DSN: dsn, Timeouts: hasty(), planner: &ledgerPlanner{}}
	s, other := openSink(t, o), openSink(t, o)
	claim := claimOf(1)
	claim.Owner = "host a, pid 7"
	d := resumed(t, s, claim)
	claim.Owner = "host b"
	_, err := other.Resume(bounded(t), claim)
	owned, ok := errors.AsType[*OwnedError](err)
	if !ok || sinks.OutcomeOf(err) != sinks.Retry || owned.Owner != "host a, pid 7" || owned.Epoch != d.cp.Epoch ||
		owned.PID != s.owner.pid.Load() || owned.Silent < 0 {
		t.Fatalf("%v: %+v", err, owned)
	}
	d.apply(d.move(0, 5))
	closeSink(t, s)
	if next := resumed(t, other, claim); next.cp.Lanes[0].LSN != 5 {
		t.Errorf("resumed at %v", next.cp.Lanes)
	}
}

// TestCloseFreesTheLock: whoever opens next gets the stream at once (F6), also
// with another sink on the same server that goes on (F4).
func TestCloseFreesTheLock(t *testing.T) {
	c := pgtest.Shared(t)
	dsn, database := newDatabase(t, c)
	o := Options{DSN: dsn, planner: &ledgerPlanner{}}
	beside := o
	beside.Schema = "beside"
	neighbour := resumed(t, openSink(t, beside), claimOf(1))
	claim := claimOf(1)
	at := sinks.LSN(0)
	for range times(8, 200) {
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		d := resumed(t, s, claim)
		if took := time.Since(began); took > time.Second && at > 0 {
			t.Errorf("the lock was free after %v", took)
		}
		if d.cp.Lanes[0].LSN != at {
			t.Fatalf("resumed at %v, want %v", d.cp.Lanes[0], at)
		}
		claim.Fresh = false
		at++
		d.apply(d.move(0, at))
		closeSink(t, s)
		neighbour.apply(neighbour.move(0, at))
	}
	settled(t, c, database)
}
