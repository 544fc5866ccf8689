package crashtest_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// backup makes one with the command line and returns the last LSN in it.
func (s *server) backup(path string, args ...string) (last uint64) {
	s.Helper()
	out, err := s.command(nil, append([]string{"backup", path, "--json"}, args...)...)
	if err != nil {
		s.Fatalf("backup: %v\n%s", err, out)
	}
	var answer struct{ Last uint64 }
	must(s.T, json.Unmarshal([]byte(out), &answer))
	return answer.Last
}

// restored is a server on a directory that a backup was restored to.
func (s *server) restored(path string) *server {
	s.Helper()
	copied := newServer(s.T, filepath.Join(s.TempDir(), "restored"), s.env...)
	if out, err := copied.command(nil, "restore", path); err != nil {
		s.Fatalf("restore: %v\n%s", err, out)
	}
	return copied
}

// TestBackupUnderLoad backs up, by directory and by file, while clients write, kills
// the server, restores and compares: what was acknowledged up to the backup's last LSN
// is there, each once, and nothing else.
func TestBackupUnderLoad(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, 10*time.Minute)
	s := newServer(t, t.TempDir())
	s.start(ctx)
	s.fill(ctx, 300, 200)
	for round := range times(2, 20) {
		path := filepath.Join(t.TempDir(), "backup")
		if round%2 == 0 {
			path += ".tar"
		}
		stop := s.load(ctx)
		s.waitAcked(ctx, 200)
		last := s.backup(path, "--rate", "20MiB")
		s.waitAcked(ctx, 100)
		s.process.Kill()
		stop()
		copied := s.restored(path)
		copied.ledger = s.ledger.Until(last)
		if copied.ledger.Acked() < 400 || copied.ledger.Acked() >= s.ledger.Acked() {
			t.Errorf("the backup has %d of %d", copied.ledger.Acked(), s.ledger.Acked())
		}
		copied.start(ctx)
		copied.check(ctx)
		copied.stop()
		s.start(ctx)
		s.check(ctx)
	}
	s.stop()
}

// TestBackupBesideOriginal runs a restored copy beside the original, on one
// PostgreSQL store: it waits while the original is there, and is refused after it, for the
// store has gone on.
func TestBackupBesideOriginal(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, 2*time.Minute)
	s := onPostgres(t, pgtest.Shared(t).Database(t))
	s.start(ctx)
	s.fill(ctx, 100, 0)
	s.check(ctx)
	path := filepath.Join(t.TempDir(), "backup")
	s.backup(path)
	copied := s.restored(path)
	copied.start(ctx)
	copied.runs = 100
	copied.fill(ctx, 10, 0) // acknowledged, and in its log
	for {
		status, err := copied.client.Status(ctx)
		must(t, err)
		if strings.Contains(status.Sinks[0].Error, "another process owns the stream") {
			break
		}
		time.Sleep(10 * time.Millisecond) // until ctx ends, which Status reports
	}
	s.fill(ctx, 100, 0)
	s.check(ctx)
	s.process.Kill()
	copied.halts(ctx, "diverged")
	s.start(ctx) // the refused one is no owner
	s.check(ctx)
	s.stop()
	copied.process.Kill()
}
