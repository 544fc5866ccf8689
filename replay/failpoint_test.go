//go:build failpoint

package replay

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// TestFailpoints kills a process that applies a log full of rejected records and
// retries, at every step between log, dead letters and store, and starts it
// again, until one gets through. Then every record is in the store or in the
// dead letters, as the serial model has it. Run with -tags failpoint.
func TestFailpoints(t *testing.T) {
	if dir := os.Getenv("WALPROXY_TEST_DIR"); dir != "" {
		applyAll(t, dir)
		return
	}
	for _, point := range []string{"replay-before-dead-letter", "replay-after-dead-letter", "state-before-sync",
		"replay-mid-apply", "sink-before-commit", "sink-after-commit", "replay-before-checkpoint-release"} {
		t.Run(point, func(t *testing.T) { killAndCheck(t, newRig(t), point) })
	}
}

// TestHeldFailpoints is TestFailpoints where the process holds the records of
// the sink, lets the log be freed, and only then applies them.
func TestHeldFailpoints(t *testing.T) {
	if dir := os.Getenv("WALPROXY_TEST_DIR"); dir != "" {
		r := &rig{t: t, dir: dir, model: map[string]*modelRow{}, seg: 4096}
		r.open()
		for l := r.loop(sinktest.NewMemory(), fast()); ; {
			sealed := slices.DeleteFunc(r.sealed(), func(last wal.LSN) bool { return last < l.Needs() })
			if len(sealed) == 0 {
				break
			}
			r.hold(l, sealed[0])
		}
		r.close()
		applyAll(t, dir)
		return
	}
	for _, point := range []string{"hold-after-copy", "state-before-sync", "wal-mid-trash", "replay-after-dead-letter",
		"sink-before-commit", "sink-after-commit", "replay-before-checkpoint-release"} {
		t.Run(point, func(t *testing.T) { killAndCheck(t, newHoldRig(t), point) })
	}
}

// killAndCheck writes a history and has it applied by processes of the test that
// are killed at point.
func killAndCheck(t *testing.T, r *rig, point string) {
	writeHistory(r)
	if len(r.dead) == 0 {
		t.Fatal("nothing is rejected in the end")
	}
	r.close()
	kills := 0
	// Each start is killed a little later than the one before.
	for count := 1; killedAt(t, r.dir, fmt.Sprintf("%s=%d", point, count)); count += 1 + count/3 {
		kills++
	}
	t.Logf("killed %d times", kills)
	if kills == 0 {
		t.Fatal("never killed")
	}
	r.open()
	store := openPebble(t, filepath.Join(r.dir, "store"))
	run := r.start(store, fast())
	run.await(r.log.Durable())
	r.check(store)
	r.checkLetters(run.Loop)
}

// writeHistory logs writes of some keys of which some are rejected, parked, and
// retried, some twice.
func writeHistory(r *rig) {
	for i := range 120 {
		key := fmt.Sprint("k", i*7%11)
		switch {
		case i%9 == 4:
			r.write(text(key))
		case i%13 == 6:
			r.write([]*walproxyv1.Mutation{bump(key), bump("k3"), bump("k8")})
		default:
			r.write([]*walproxyv1.Mutation{bump(key)})
		}
		if i%15 != 14 {
			continue
		}
		for j, d := range r.queue(key) {
			ms := r.wrote[d.lsn]
			if j == 0 && len(d.keys) == 1 {
				ms = number(key)
			}
			r.retry(d.lsn, ms)
			if j%2 == 0 {
				r.retry(d.lsn, ms)
			}
		}
	}
}

// killedAt runs a process that applies all, and reports whether the failpoint
// killed it.
func killedAt(t *testing.T, dir, spec string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+strings.Split(t.Name(), "/")[0]+"$")
	cmd.Env = append(os.Environ(), "WALPROXY_TEST_DIR="+dir, "WALPROXY_FAILPOINTS="+spec)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL || ctx.Err() != nil {
		t.Fatalf("%s: %v: %s", spec, err, out)
	}
	return true
}

// applyAll is the process that is killed.
func applyAll(t *testing.T, dir string) {
	r := &rig{t: t, dir: dir, model: map[string]*modelRow{}}
	r.open()
	store, err := pebble.Open(filepath.Join(dir, "store"), pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := fast()
	o.Lanes, o.Batch.Records = 3, 7
	o.OnCheckpoint = func(at wal.LSN) { r.log.Release(at + 1) }
	run := r.start(store, o)
	run.await(r.log.Durable())
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.close()
}
