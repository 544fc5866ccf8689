package crashtest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// replayEvent is what these tests read of `walproxy replay --json`.
type replayEvent struct {
	Event, Sink, State, Why string
	Applied, Done, Left     uint64
	LeftExact               bool    `json:"left_exact"`
	Rate                    float64 `json:"rate"`
	ExitCode                int     `json:"exit_code"`
	Made                    uint64  `json:"dead_letters_made"`
}

// replaying is a `walproxy replay --json` under way.
type replaying struct {
	s      *server
	cmd    *exec.Cmd
	events chan replayEvent // closed when it has ended
	stderr bytes.Buffer
	began  time.Time
	took   time.Duration
	last   map[string]replayEvent // by event; read after end
	// most is the most memory that it held until its last event, in bytes: rusage
	// would count that of this process, which it began as a copy of.
	most int64
}

// replay starts one on the server's directory, which no server has open.
func (s *server) replay(ctx context.Context, env []string, args ...string) *replaying {
	s.Helper()
	binary, err := buildServe()
	must(s.T, err)
	p := &replaying{s: s, events: make(chan replayEvent, 1<<16), began: time.Now(), last: map[string]replayEvent{}}
	p.cmd = exec.CommandContext(ctx, binary, append([]string{"replay", "--json", "--data-dir", s.dir}, args...)...)
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "WALPROXY_") })
	p.cmd.Env = append(append(p.cmd.Env, s.env...), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	must(s.T, err, p.cmd.Start())
	go func() {
		defer close(p.events)
		for in := bufio.NewScanner(out); in.Scan(); {
			var e replayEvent
			if held, ok := peak(p.cmd.Process.Pid); ok {
				p.most = held
			}
			if json.Unmarshal(in.Bytes(), &e) == nil {
				p.events <- e
			}
		}
	}()
	s.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

// await reads events until one is as it should be.
func (p *replaying) await(what string, ok func(replayEvent) bool) {
	p.s.Helper()
	for e := range p.events {
		p.last[e.Event] = e
		if ok(e) {
			return
		}
	}
	p.s.Fatalf("the replay ended before %s: %+v, exit code %d\n%s", what, p.last, p.wait(), p.stderr.String())
}

// end waits until it is gone, and wants an exit code; -1: killed.
func (p *replaying) end(want ...int) {
	p.s.Helper()
	for e := range p.events {
		p.last[e.Event] = e
	}
	if code := p.wait(); !slices.Contains(want, code) {
		p.s.Fatalf("replay: exit code %d, want %v: %+v\n%s", code, want, p.last, p.stderr.String())
	}
}

func (p *replaying) wait() int {
	var exited *exec.ExitError
	if err := p.cmd.Wait(); err != nil && !errors.As(err, &exited) {
		p.s.Fatal(err)
	}
	p.took = time.Since(p.began)
	return p.cmd.ProcessState.ExitCode()
}

func (p *replaying) signal(sig syscall.Signal) {
	p.s.Helper()
	must(p.s.T, p.cmd.Process.Signal(sig))
}

// pebbleServer and postgresServer make a server for a test of both.
func pebbleServer(t *testing.T, env ...string) *server { return newServer(t, t.TempDir(), env...) }

func postgresServer(t *testing.T, env ...string) *server {
	return onPostgres(t, pgtest.Shared(t).Database(t), env...)
}

var bothStores = []struct {
	name string
	make func(t *testing.T, env ...string) *server
}{{"pebble", pebbleServer}, {"postgres", postgresServer}}

// TestReplayKills kills a replay at random instants, again and again, lets others
// end and interrupts some; what the store holds at the end is what was acked.
func TestReplayKills(t *testing.T) {
	t.Parallel()
	for _, store := range bothStores {
		t.Run(store.name, func(t *testing.T) {
			ctx := timeout(t, 2*time.Minute, time.Hour)
			s, r := store.make(t), rng(t)
			for range times(2, 30) {
				s.start(ctx, paused)
				s.fill(ctx, 2000+r.IntN(4000), 100)
				s.process.Kill()
				for range times(4, 10) {
					args := []string{"--rate", fmt.Sprint(2000 + r.IntN(20000)), "--lanes", fmt.Sprint(1 + r.IntN(6))}
					p := s.replay(ctx, nil, args...)
					time.Sleep(time.Duration(r.Int64N(int64(150 * time.Millisecond)))) // a random instant, not a condition
					if r.IntN(3) == 0 {
						p.signal(syscall.SIGINT)
						p.end(-1, 0, exitRemaining) // -1: before the handler was there
					} else {
						p.signal(syscall.SIGKILL)
						p.end(-1, 0)
					}
				}
			}
			s.replay(ctx, nil).end(0)
			s.start(ctx)
			s.check(ctx)
			s.stop()
		})
	}
}

// TestReplayFailpoints lets a replay kill itself on both sides of a commit, before
// a checkpoint frees space, and while its own log is begun.
func TestReplayFailpoints(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	s, r := pebbleServer(t), rng(t)
	for range times(1, 20) {
		for _, point := range []string{"replay-mid-apply", "sink-before-commit", "sink-after-commit", "replay-before-checkpoint-release", "state-before-sync", "wal-mid-recovery", "wal-after-activate"} {
			s.start(ctx, paused)
			s.fill(ctx, 3000, 100)
			s.process.Kill()
			n := 1
			if !strings.HasPrefix(point, "wal-") {
				n += r.IntN(4)
			}
			s.replay(ctx, []string{fmt.Sprintf("WALPROXY_FAILPOINTS=%s=%d", point, n)}).end(-1, 0)
			s.replay(ctx, nil).end(0)
		}
	}
	s.start(ctx)
	s.check(ctx)
	s.stop()
}

// TestReplayInterrupt interrupts a replay in the middle, by SIGINT and by SIGTERM:
// it says exactly what is left, and each run goes on where the last one stood.
func TestReplayInterrupt(t *testing.T) {
	t.Parallel()
	const n = 20_000
	ctx := timeout(t, 2*time.Minute, 2*time.Minute)
	s := pebbleServer(t)
	s.start(ctx, paused)
	s.fill(ctx, n, 0)
	s.process.Kill()
	done := uint64(0)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		p := s.replay(ctx, nil, "--rate", "10000/s", "--interval", "50ms")
		p.await("it had done something and counted the rest", func(e replayEvent) bool {
			return e.Event == "progress" && e.Done > 1000 && e.LeftExact
		})
		p.signal(sig)
		p.end(exitRemaining)
		last := p.last["sink"]
		done += last.Done
		if last.State != "stopped" || !last.LeftExact || last.Left == 0 || done+last.Left != n {
			t.Errorf("%v: %d of %d done in all, and it says %+v", sig, done, n, last)
		}
	}
	p := s.replay(ctx, nil)
	p.end(0)
	if last := p.last["sink"]; last.State != "done" || done+last.Done != n || last.Left != 0 {
		t.Errorf("%d were done before, and at the end it says %+v", done, last)
	}
	// A second signal does not wait for the store; nothing is lost by that either.
	s.start(ctx, paused)
	s.fill(ctx, n, 0)
	s.process.Kill()
	p = s.replay(ctx, nil, "--rate", "100/s", "--interval", "50ms")
	p.await("it had begun", func(e replayEvent) bool { return e.Event == "progress" && e.Done > 0 })
	p.signal(syscall.SIGTERM)
	p.signal(syscall.SIGINT)
	p.end(exitRemaining, 128+int(syscall.SIGINT), 128+int(syscall.SIGTERM)) // it may have ended in between
	s.replay(ctx, nil).end(0)
	s.start(ctx)
	s.check(ctx)
	s.stop()
}

// TestReplayStoreAway: a store that is away is waited for; --timeout ends that in
// order. When it is back the same replay goes on.
func TestReplayStoreAway(t *testing.T) {
	t.Parallel()
	const n = 5000
	ctx := timeout(t, 2*time.Minute, 2*time.Minute)
	c := pgtest.New(t, pgtest.Options{})
	s := onPostgres(t, c.Database(t))
	s.start(ctx)
	s.fill(ctx, 100, 0)
	must(t, s.client.WaitDrained(ctx))
	s.process.Kill()
	s.start(ctx, paused)
	s.fill(ctx, n, 0)
	s.process.Kill()

	c.Stop(t)
	p := s.replay(ctx, nil, "--timeout", "2s")
	p.end(exitRemaining)
	if last := p.last["sink"]; last.State != "stopped" || last.Left < n {
		t.Errorf("with the store away it says %+v", last)
	}
	p = s.replay(ctx, nil, "--interval", "50ms")
	p.await("it had tried", func(e replayEvent) bool { return e.Event == "progress" && e.Why != "" })
	c.Start(t)
	p.end(0)
	if last := p.last["sink"]; last.State != "done" || last.Done != n {
		t.Errorf("with the store back it says %+v", last)
	}
	s.start(ctx)
	s.check(ctx)
	s.stop()
}

// TestReplayStoreHung: a store that hangs in the middle does not keep a signal from
// ending the replay in time; what remains is exact.
func TestReplayStoreHung(t *testing.T) {
	t.Parallel()
	const n = 20_000
	ctx := timeout(t, 2*time.Minute, 2*time.Minute)
	c := pgtest.New(t, pgtest.Options{})
	s := onPostgres(t, c.Database(t))
	s.start(ctx, paused)
	s.fill(ctx, n, 0)
	s.process.Kill()
	p := s.replay(ctx, nil, "--rate", "4000/s", "--interval", "50ms")
	p.await("it had done something and counted the rest", func(e replayEvent) bool {
		return e.Event == "progress" && e.Done > 500 && e.LeftExact
	})
	c.Pause(t)
	began := time.Now()
	p.signal(syscall.SIGTERM)
	p.end(exitRemaining)
	if took := time.Since(began); took > 30*time.Second { // 5 s for what is in flight, 5 s to close
		t.Errorf("it took %v to stop beside a hung store", took)
	}
	last := p.last["sink"]
	if last.State != "stopped" || !last.LeftExact || last.Done+last.Left != n {
		t.Errorf("it says %+v", last)
	}
	c.Continue(t)
	again := s.replay(ctx, nil)
	again.end(0)
	// What was sent when it hung may have been committed since.
	if e := again.last["sink"]; e.State != "done" || e.Done > last.Left {
		t.Errorf("%d were left, and then it says %+v", last.Left, e)
	}
	s.start(ctx)
	s.check(ctx)
	s.stop()
}

// piled writes n records to the log of a server that does not run, whose sink stays
// behind, in a program of its own: over the network, and under the race detector, it
// would take longer than all the rest.
func (s *server) piled(ctx context.Context, n, keys int) {
	s.Helper()
	binary, err := buildWriter()
	must(s.T, err)
	cmd := exec.CommandContext(ctx, binary, s.dir, "e", fmt.Sprint(n), fmt.Sprint(keys))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	must(s.T, err, cmd.Start())
	in := bufio.NewScanner(out)
	for in.Scan() {
		must(s.T, s.ledger.Note(in.Text()))
	}
	if err := errors.Join(in.Err(), cmd.Wait()); err != nil || s.ledger.Acked() != n {
		s.Fatalf("%d of %d records were acked: %v\n%s", s.ledger.Acked(), n, err, said.String())
	}
}

// TestReplayBacklog replays 30,000 records (5,000,000 in the long form) after a
// kill -9, beside the same backlog drained by a server in the same run: the memory
// stays below 300 MB, the rate is no less than the server's, and the store holds
// what was acked.
func TestReplayBacklog(t *testing.T) {
	n := times(30_000, 5_000_000)
	log := pebbleServer(t)
	log.piled(timeout(t, 5*time.Minute, time.Hour), n-1000, times(100, 1000))
	for _, store := range bothStores {
		t.Run(store.name, func(t *testing.T) {
			ctx := timeout(t, 5*time.Minute, 3*time.Hour)
			s := store.make(t, "WALPROXY_LOG__SEGMENT_BYTES=16MiB")
			must(t, os.RemoveAll(s.dir), os.CopyFS(s.dir, os.DirFS(log.dir)))
			s.ledger = log.ledger.Until(uint64(n))
			s.start(ctx, paused)
			s.fill(ctx, 1000, 50)
			s.process.Kill()
			twin := store.make(t, "WALPROXY_LOG__SEGMENT_BYTES=16MiB")
			must(t, os.RemoveAll(twin.dir), os.CopyFS(twin.dir, os.DirFS(s.dir)))

			began := time.Now()
			twin.start(ctx)
			must(t, twin.client.WaitDrained(ctx))
			serving := time.Since(began)
			twin.stop()

			p := s.replay(ctx, nil, "--interval", "200ms")
			p.end(0)
			if last := p.last["sink"]; last.State != "done" || last.Done != uint64(n) || last.Left != 0 {
				t.Errorf("it says %+v", last)
			}
			perSecond := func(took time.Duration) float64 { return float64(n) / took.Seconds() }
			t.Logf("%d records: a server has drained them %v after its start (%.0f/s), a replay has ended after %v (%.0f/s, %.0f%%) and held at most %d MiB",
				n, serving.Round(time.Millisecond), perSecond(serving), p.took.Round(time.Millisecond), perSecond(p.took), 100*serving.Seconds()/p.took.Seconds(), p.most/mib)
			if p.most == 0 {
				t.Error("NOT TESTED: the kernel does not tell a process's memory")
			}
			if p.most > memoryMost {
				t.Errorf("the replay held %d MiB, want at most %d", p.most/mib, memoryMost/mib)
			}
			// The short form's drains take a second: its rates say little. Two runs on a
			// machine with other work differ by as much as is allowed for here.
			if long() && perSecond(p.took) < 0.9*perSecond(serving) {
				t.Errorf("replay %.0f/s, server %.0f/s: want no less", perSecond(p.took), perSecond(serving))
			}
			s.start(ctx)
			s.check(ctx)
			s.stop()
		})
	}
}
