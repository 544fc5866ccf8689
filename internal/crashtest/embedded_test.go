package crashtest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/child"
	"github.com/walproxy/walproxy/internal/crashtest/embedded"
	"github.com/walproxy/walproxy/internal/ledger"
)

// writer is a child process that writes to an embedded proxy.
type writer struct {
	*testing.T
	dir     string
	ledger  *ledger.Ledger
	process *child.Process
	runs    int
	reading sync.WaitGroup
}

func newWriter(t *testing.T) *writer {
	w := &writer{T: t, dir: t.TempDir(), ledger: ledger.New()}
	t.Cleanup(func() {
		if w.process != nil {
			w.process.Kill()
			if t.Failed() {
				t.Logf("the writer's last words:\n%s", w.process.Tail())
			}
		}
		w.reading.Wait()
	})
	return w
}

// start starts the child; it may die before it is ready.
func (w *writer) start(ctx context.Context, env ...string) error {
	binary, err := buildWriter()
	if err != nil {
		w.Fatal(err)
	}
	var again strings.Builder
	for _, u := range w.ledger.Unknown() {
		again.WriteString(u.Try() + "\n")
	}
	w.runs++
	out, in := io.Pipe()
	w.reading.Go(func() { w.read(out) })
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	process, err := child.Start(ctx, child.Options{
		Command: []string{binary, w.dir, fmt.Sprintf("w%d", w.runs)},
		Env:     env, Stdin: strings.NewReader(again.String()), Stdout: in,
	})
	if err != nil {
		_ = in.Close()
		w.reading.Wait()
		return err
	}
	w.process = process
	w.reading.Go(func() { // the output ends with the child
		<-process.Ended()
		_ = in.Close()
	})
	return nil
}

func (w *writer) read(out io.Reader) {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return // what came without its end was not said
		}
		if err := w.ledger.Note(strings.TrimSpace(line)); err != nil {
			w.Error(err)
			return
		}
	}
}

// kill kills the child and waits for its last words.
func (w *writer) kill() {
	w.process.Kill()
	w.reading.Wait()
}

// check opens what the child left, in this process, and compares.
func (w *writer) check(ctx context.Context) {
	w.Helper()
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	proxy, err := embedded.Open(ctx, w.dir)
	if err != nil {
		w.Fatal(err)
	}
	if err := proxy.WaitDrained(ctx); err != nil {
		w.Error(err)
	}
	report, err := w.ledger.Check(ctx, proxy)
	if err != nil {
		w.Error(err)
	}
	if !report.OK() {
		w.Errorf("after a restart: %s", report)
	}
	if err := proxy.Close(ctx); err != nil {
		w.Error(err)
	}
	if w.Failed() {
		w.FailNow()
	}
}

// checkEvery so many kills: the child's own start recovers in between.
const checkEvery = 3

// TestKillEmbedded kills a process that has walproxy embedded at random instants,
// its start included.
func TestKillEmbedded(t *testing.T) {
	t.Parallel()
	ctx, r := timeout(t, 2*time.Minute, time.Hour), rng(t)
	w := newWriter(t)
	acked := 0
	for i := range times(20, 1000) {
		if i%25 == 0 && i > 0 { // a new directory keeps the comparison short
			acked += w.ledger.Acked()
			w = newWriter(t)
		}
		life := time.Duration(r.Int64N(int64(250 * time.Millisecond)))
		started, cancel := context.WithTimeout(ctx, life)
		err := w.start(started)
		if err == nil {
			<-started.Done()
			w.kill()
		} else if started.Err() == nil {
			t.Fatal(err)
		}
		cancel()
		if i%checkEvery == 0 {
			w.check(ctx)
		}
	}
	w.check(ctx)
	if acked += w.ledger.Acked(); acked == 0 {
		t.Fatal("nothing was ever acked")
	}
	t.Logf("%d writes acked", acked)
}

// TestKillEmbeddedAtFailpoints lets such a process kill itself at each named
// place.
func TestKillEmbeddedAtFailpoints(t *testing.T) {
	t.Parallel()
	ctx, r := timeout(t, 3*time.Minute, time.Hour), rng(t)
	for _, point := range failpoints {
		w := newWriter(t)
		if point.name == "wal-mid-recovery" { // something to recover
			must(t, w.start(ctx))
			w.waitAcked(ctx, 100)
			w.kill()
		}
		for range times(2, 40) {
			spec := fmt.Sprintf("WALPROXY_FAILPOINTS=%s=%d", point.name, 1+r.IntN(point.most))
			err := w.start(ctx, spec)
			if err == nil {
				select {
				case <-w.process.Ended():
				case <-time.After(readyTimeout):
					t.Fatalf("%s was never reached", spec)
				}
				w.kill()
				if code := w.process.ExitCode(); code != -1 {
					t.Fatalf("%s: exit code %d\n%s", spec, code, w.process.Tail())
				}
			} else if !strings.Contains(err.Error(), "exit code -1\n") {
				t.Fatalf("%s: %v", spec, err)
			}
		}
		w.check(ctx)
	}
}

func (w *writer) waitAcked(ctx context.Context, n int) {
	w.Helper()
	for w.ledger.Acked() < n {
		select {
		case <-ctx.Done():
			w.Fatalf("%d of %d writes are acked: %v", w.ledger.Acked(), n, context.Cause(ctx))
		case <-w.process.Ended():
			w.Fatalf("the writer ended by itself\n%s", w.process.Tail())
		case <-time.After(time.Millisecond):
		}
	}
}
