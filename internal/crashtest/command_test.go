package crashtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// killed runs a command that kills itself before its n-th change to the disk;
// false: it made no more than n-1, and has ended well.
func (s *server) killed(n int, args ...string) bool {
	s.Helper()
	out, err := s.command([]string{fmt.Sprintf("WALPROXY_FAILPOINTS=disk-change=%d", n)}, args...)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if err != nil && (!ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
		s.Fatalf("%v, to be killed at change %d: %v\n%s", args, n, err, out)
	}
	return err != nil
}

// eachKill has a command killed at its changes to the disk, in the long form at
// each of them, on a copy of dir each time: at(copy, n) returns what killed did.
func (s *server) eachKill(step int, at func(copied *server, n int) bool) {
	s.Helper()
	if long() {
		step = 1
	}
	kills, n := 0, 1+rng(s.T).IntN(step)
	defer func() {
		if s.Failed() {
			s.Logf("killed at change %d", n)
		}
	}()
	for ; ; n += step {
		copied := newServer(s.T, filepath.Join(s.TempDir(), "data"), s.env...)
		copied.ledger, copied.runs = s.ledger, s.runs
		if _, err := os.Stat(s.dir); err == nil {
			must(s.T, os.CopyFS(copied.dir, os.DirFS(s.dir)))
		}
		if !at(copied, n) {
			break
		}
		kills++
	}
	if s.Logf("killed %d times, each %d changes", kills, step); kills == 0 {
		s.Errorf("it was never killed: fewer than %d changes", step)
	}
}

// sound starts the server and compares.
func (s *server) sound(ctx context.Context, env ...string) {
	s.Helper()
	s.start(ctx, env...)
	s.check(ctx)
	s.stop()
}

// again runs an interrupted command to its end. If it had been carried out it may say
// done instead; "": it may not.
func (s *server) again(done string, args ...string) {
	s.Helper()
	if out, err := s.command(nil, args...); err != nil && (done == "" || !strings.Contains(out, done)) {
		s.Fatalf("%v again: %v\n%s", args, err, out)
	}
}

// kept is a server whose log keeps everything, and which has applied it.
func kept(t *testing.T, ctx context.Context) *server {
	s := newServer(t, t.TempDir(), "WALPROXY_SINKS__MAIN__RETAIN=32MiB")
	s.start(ctx)
	s.fill(ctx, 150, 0)
	s.check(ctx)
	s.stop()
	return s
}

// TestKillSinkAdd kills `sink add --from oldest`: the sink is unknown then or
// added, and the command, run again, gives it everything once.
func TestKillSinkAdd(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, 30*time.Minute)
	s := kept(t, ctx)
	s.env = append(s.env, "WALPROXY_SINKS__ARCHIVE__TYPE=pebble", "WALPROXY_SINKS__MAIN__TYPE=pebble",
		`WALPROXY_ROUTES=[{collections: ["*"], sinks: [archive, main]}]`) // the archive answers reads
	command := []string{"sink", "add", "archive", "--from", "oldest"}
	s.eachKill(12, func(copied *server, n int) bool {
		if !copied.killed(n, command...) {
			return false
		}
		copied.again("the data directory knows the sink already", command...)
		copied.sound(ctx)
		return true
	})
}

// TestKillSinkAccept kills `sink accept` of a store that is gone, and of one whose
// checkpoint is: run again it has the sink go on.
func TestKillSinkAccept(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, 30*time.Minute)
	s := kept(t, ctx)
	must(t, os.RemoveAll(filepath.Join(s.dir, "sinks")))
	command := []string{"sink", "accept", "main", "--after", "0", "--yes"}
	s.eachKill(25, func(copied *server, n int) bool {
		if !copied.killed(n, command...) {
			return false
		}
		copied.again("", command...)
		copied.sound(ctx)
		return true
	})
}

func TestPostgresKillSinkAccept(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, 10*time.Minute)
	dsn, r := pgtest.Shared(t).Database(t), rng(t)
	conn := pgtest.Connect(t, dsn)
	s := onPostgres(t, dsn, "WALPROXY_SINKS__MAIN__RETAIN=32MiB")
	s.start(ctx)
	for range times(4, 60) {
		s.fill(ctx, 50, 0)
		s.check(ctx)
		status, err := s.client.Status(ctx)
		must(t, err)
		s.stop()
		_, err = conn.Exec(ctx, "DELETE FROM walproxy.lane WHERE lane = 1")
		must(t, err)
		command := []string{"sink", "accept", "main", "--after", fmt.Sprint(status.Log.Durable), "--yes"}
		if s.killed(1+r.IntN(60), command...) {
			s.again("", command...)
		}
		s.start(ctx)
		s.check(ctx)
	}
	s.stop()
}

// TestKillBackup kills `backup` of a stopped directory: that is as good as before,
// and the command, run again, makes the backup; what a killed one left is no backup.
func TestKillBackup(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, 30*time.Minute)
	s := kept(t, ctx)
	for _, suffix := range []string{"", ".tar"} {
		s.eachKill(60, func(copied *server, n int) bool {
			path := filepath.Join(t.TempDir(), "backup"+suffix)
			if !copied.killed(n, "backup", path) {
				return false
			}
			_, err := copied.command(nil, "restore", path, "--verify")
			whole := err == nil
			if n%2 == 0 {
				copied.sound(ctx) // it takes away what was to be sent
				if left, err := filepath.Glob(filepath.Join(copied.dir, "backup*")); err != nil || len(left) > 0 {
					t.Errorf("change %d: %v, %v is left after a start", n, err, left)
				}
			}
			out, err := copied.command(nil, "backup", path)
			if err != nil != whole || whole && !strings.Contains(out, "there is something already") {
				t.Fatalf("change %d, whole %v: again: %v\n%s", n, whole, err, out)
			}
			copied.restored(path).sound(ctx)
			return true
		})
	}
}

// refused reports whether a start is refused because of what was interrupted, whose
// command it has to name.
func (s *server) refused(ctx context.Context, command string) bool {
	s.Helper()
	err := s.tryStart(ctx)
	if err == nil {
		s.process.Kill()
		return false
	}
	if !strings.Contains(err.Error(), "`"+command+"` that was interrupted: run that again") {
		s.Fatalf("a start amid `%s`: %v", command, err)
	}
	return true
}

// TestKillRestore kills `restore`: no start takes what is there for a data directory,
// old or new, before it is complete, and the command, run again, completes it.
func TestKillRestore(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, 30*time.Minute)
	s := kept(t, ctx)
	for _, suffix := range []string{"", ".tar"} {
		path := filepath.Join(t.TempDir(), "backup"+suffix)
		s.backup(path)
		from := newServer(t, filepath.Join(t.TempDir(), "none"), s.env...)
		from.ledger = s.ledger
		testKillMaking(t, ctx, from, 15, "restore", path)
	}
}

// TestKillImport kills `log import`, in the same way.
func TestKillImport(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, 30*time.Minute)
	s := newServer(t, t.TempDir())
	s.start(ctx, paused) // its store does not travel
	s.fill(ctx, 150, 0)
	s.process.Kill()
	path := filepath.Join(t.TempDir(), "log.export")
	if out, err := s.command(nil, "log", "export", path); err != nil {
		t.Fatalf("export: %v\n%s", err, out)
	}
	from := newServer(t, filepath.Join(t.TempDir(), "none"), s.env...)
	from.ledger = s.ledger
	testKillMaking(t, ctx, from, 15, "log", "import", path)
}

// testKillMaking kills a command that makes a data directory.
func testKillMaking(t *testing.T, ctx context.Context, s *server, step int, command ...string) {
	t.Helper()
	name := "walproxy " + strings.Join(command[:len(command)-1], " ")
	s.eachKill(step, func(copied *server, n int) bool {
		if !copied.killed(n, command...) {
			return false
		}
		begun, err := filepath.Glob(filepath.Join(copied.dir, "*"))
		must(t, err)
		if len(begun) > 0 && !copied.refused(ctx, name) {
			copied.sound(ctx)
			return true
		}
		copied.again("", command...)
		copied.sound(ctx)
		return true
	})
}
