package crashtest_test

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/ledger"
	"github.com/walproxy/walproxy/internal/powerfs"
)

// callKinds are those that may fail, on any file: of the log, the state store, the store.
var callKinds = []powerfs.Op{powerfs.OpWrite, powerfs.OpSync, powerfs.OpRead, powerfs.OpCreate, powerfs.OpSyncDir, powerfs.OpRename,
	powerfs.OpRemove, powerfs.OpResize}

// TestAnyCallFails lets one call of each kind fail on any file of a server under load:
// it goes on, its sink halts, or it ends with an error and no panic. Then it is
// killed, or the power cut, and has what it acknowledged.
func TestAnyCallFails(t *testing.T) {
	t.Parallel()
	ctx, r := timeout(t, 3*time.Minute, time.Hour), rng(t)
	mount := newPowerMount(t)
	s := newServer(t, filepath.Join(mount.Dir(), "data"))
	s.pad = 1000
	fates := map[string]int{}
	first := r.IntN(len(callKinds))
	for i := range times(2, 20*len(callKinds)) {
		s.start(ctx, engine(i/len(callKinds)+i))
		fault := anyFault(r, callKinds[(first+i)%len(callKinds)])
		mount.Disk().Arm(fault)
		stop := s.load(ctx)
		acked := s.ledger.Acked()
		waitFor(ctx, t, "the fault meets a call", func() bool { // or there are none of the kind
			return mount.Disk().Met() > 0 || s.hasEnded() || s.ledger.Acked() > acked+1000
		})
		acked = s.ledger.Acked()
		waitFor(ctx, t, "more acks, or an end", func() bool { return s.hasEnded() || s.ledger.Acked() > acked+50 })
		fate := s.fate(mount.Disk().Disarm())
		fates[string(fault.Op)+": "+fate]++
		s.process.Kill()
		stop()
		t.Logf("%+v: %s", fault, fate)
		if r.IntN(2) > 0 {
			mount.Cut(powerfs.CutOptions{Keep: float64(r.IntN(3)) / 2, Granularity: 512, Seed: r.Uint64()})
			must(t, mount.Restart())
		}
		s.start(ctx)
		s.check(ctx)
		s.process.Kill()
	}
	t.Log(fates)
}

// anyFault of a kind of call.
func anyFault(r *rand.Rand, op powerfs.Op) powerfs.Fault {
	most := 60 // where there are fewer in a while, so that it is met
	if slices.Contains([]powerfs.Op{powerfs.OpRename, powerfs.OpRemove, powerfs.OpResize, powerfs.OpCreate, powerfs.OpSyncDir, powerfs.OpRead}, op) {
		most = 3
	}
	f := powerfs.Fault{Op: op, N: 1 + r.IntN(most), Err: []syscall.Errno{syscall.EIO, syscall.ENOSPC}[r.IntN(2)]}
	if op == powerfs.OpRead {
		f.Err = syscall.EIO
	}
	f.Tear = op == powerfs.OpWrite && r.IntN(2) > 0
	return f
}

func (s *server) hasEnded() bool {
	select {
	case <-s.process.Ended():
		return true
	default:
		return false
	}
}

// fate is what has become of a server after so many calls failed.
func (s *server) fate(met int) string {
	s.Helper()
	switch {
	case s.hasEnded():
		if code := s.process.ExitCode(); code <= 0 || strings.Contains(s.process.Tail(), "panic: ") || met == 0 {
			s.Fatalf("exit code %d, %d faults\n%s", code, met, s.process.Tail())
		}
		return "ended"
	case met == 0:
		return "not met"
	}
	status, err := s.client.Status(s.Context())
	if err == nil && slices.ContainsFunc(status.Sinks, func(sink ledger.SinkStatus) bool { return sink.State == "halted" }) {
		return "halted"
	}
	return "goes on"
}
