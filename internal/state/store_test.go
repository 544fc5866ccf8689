package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/walproxy/walproxy/internal/pebblekit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustOpen(t *testing.T, dir string, fs vfs.FS) *Store {
	t.Helper()
	s, err := open(dir, Options{}, fs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, pebblekit.ErrFatal) {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// crash returns the files as a power cut would leave them: what was not synced
// is gone, with a chance of keeping some of it.
func crash(fs *vfs.MemFS) *vfs.MemFS { return fs.CrashClone(vfs.CrashCloneCfg{}) }

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	stream := uuid.New()
	for boot := uint64(1); boot <= 3; boot++ {
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := s.Stream(); ok != (boot > 1) || ok && got != stream {
			t.Errorf("start %d: Stream() = %s, %t", boot, got, ok)
		}
		if got, err := s.Bind(stream, boot == 1, boot-1); err != nil || got != boot || s.Boot() != boot {
			t.Fatalf("Bind = %d, %v at start %d; Boot() = %d", got, err, boot, s.Boot())
		}
		if s.Bytes() <= 0 {
			t.Errorf("Bytes() = %d", s.Bytes())
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBind(t *testing.T) {
	s := mustOpen(t, "state", vfs.NewMem())
	stream := uuid.New()
	if _, err := s.Bind(stream, false, 3); !errors.Is(err, ErrMissing) {
		t.Fatalf("Bind of a new store to a log with records: %v, want ErrMissing", err)
	}
	if _, ok := s.Stream(); ok {
		t.Fatal("a refused Bind bound the store")
	}
	if _, err := s.Bind(stream, true, 0); err != nil {
		t.Fatal(err)
	}
	if boot, err := s.Bind(stream, false, 1); err != nil || boot != 2 {
		t.Fatalf("Bind to the same stream: %d, %v", boot, err)
	}
	for range 2 { // a refusal is not a start: it does not catch up with the log
		if _, err := s.Bind(stream, false, 3); !errors.Is(err, ErrOlder) {
			t.Fatalf("Bind to a log of 3 starts: %v, want ErrOlder", err)
		}
	}
	for _, empty := range []bool{false, true} {
		if _, err := s.Bind(uuid.New(), empty, 2); !errors.Is(err, ErrForeign) {
			t.Fatalf("Bind to another stream (empty %t): %v, want ErrForeign", empty, err)
		}
	}
}

// TestPowerCut checks after every durable call that a power cut keeps it, and
// that the boot counter does not go back.
func TestPowerCut(t *testing.T) {
	fs := vfs.NewCrashableMem()
	stream := uuid.New()
	boot := uint64(0)
	check := func(step string, f func(s *Store)) {
		t.Helper()
		s := mustOpen(t, "state", crash(fs))
		if s.Boot() != boot {
			t.Errorf("after %s: boot counter %d, want %d", step, s.Boot(), boot)
		}
		f(s)
	}
	s := mustOpen(t, "state", fs)
	check("open", func(s *Store) {})
	var err error
	if boot, err = s.Bind(stream, true, 0); err != nil || boot != 1 {
		t.Fatal(boot, err)
	}
	check("Bind", func(s *Store) {
		if got, ok := s.Stream(); !ok || got != stream {
			t.Errorf("Stream() = %s, %t", got, ok)
		}
	})
	claim := Claim{Sink: "main", Identity: "x", Settled: true}
	if err := s.PutClaim(claim); err != nil {
		t.Fatal(err)
	}
	check("PutClaim", func(s *Store) {
		if got, ok, err := s.Claim("main"); got != claim || !ok || err != nil {
			t.Errorf("Claim = %+v, %t, %v", got, ok, err)
		}
	})
	lanes := LaneMap{Classes: []LaneClass{{"", 4}, {"hot", 2}}, Places: map[string]LanePlace{"orders": {"shop", ""}, "lines": {"shop", "hot"}}}
	if err := s.PutLaneMap("main", lanes); err != nil {
		t.Fatal(err)
	}
	check("PutLaneMap", func(s *Store) {
		if got, err := s.LaneMap("main"); !reflect.DeepEqual(got, lanes) || err != nil {
			t.Errorf("LaneMap = %v, %v", got, err)
		}
		if got, err := s.LaneMap("other"); len(got.Classes)+len(got.Places) != 0 || err != nil {
			t.Errorf("LaneMap of another sink = %v, %v", got, err)
		}
	})
	if err := s.PutRequests(requests(1, 10), 10); err != nil {
		t.Fatal(err)
	}
	check("PutRequests", func(s *Store) {
		// Either way: but never a mark without its ids.
		checkRequests(t, s, 10)
	})
	if mark, err := s.SyncRequests(); mark != 10 || err != nil {
		t.Fatalf("SyncRequests = %d, %v", mark, err)
	}
	check("SyncRequests", func(s *Store) {
		if mark, err := s.RequestMark(); mark != 10 || err != nil {
			t.Errorf("RequestMark = %d, %v", mark, err)
		}
		checkRequests(t, s, 10)
	})
}

// TestCopyWhileOpen copies a real directory under writes, file by file, as
// kill -9 would leave it.
func TestCopyWhileOpen(t *testing.T) {
	root := t.TempDir()
	s := mustOpen(t, filepath.Join(root, "state"), vfs.Default)
	for i := range 20 {
		claim := Claim{Sink: fmt.Sprint("sink", i), Settled: true}
		if err := s.PutClaim(claim); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(root, fmt.Sprint("copy", i))
		if ok, err := vfs.Clone(vfs.Default, vfs.Default, filepath.Join(root, "state"), to); !ok || err != nil {
			t.Fatal(ok, err)
		}
		c := mustOpen(t, to, vfs.Default)
		for j := range i + 1 {
			if got, ok, err := c.Claim(fmt.Sprint("sink", j)); !ok || !got.Settled || err != nil {
				t.Fatalf("copy %d: claim %d = %+v, %t, %v", i, j, got, ok, err)
			}
		}
	}
}

func TestFormatRefused(t *testing.T) {
	for _, c := range []struct{ name, key string }{{"newer", string(keyFormat)}, {"somebody else's", "zzz"}} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.NewMem()
			db, err := pebble.Open("state", &pebble.Options{FS: fs, Logger: pebblekit.NewLogger(nil)})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Set([]byte(c.key), binary.BigEndian.AppendUint64(nil, format+1), pebble.Sync); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the first refusal must not have marked it as ours
				if _, err := open("state", Options{}, fs); !errors.Is(err, ErrFormat) {
					t.Fatalf("open: %v, want ErrFormat", err)
				}
			}
		})
	}
}

func TestSecondOpenRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	mustOpen(t, dir, vfs.Default)
	if s, err := Open(dir, Options{}); err == nil {
		_ = s.Close()
		t.Fatal("the same directory was opened twice")
	}
}

func TestClosed(t *testing.T) {
	s := mustOpen(t, "state", vfs.NewMem())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, claimErr := s.Claim("a")
	_, _, lookupErr := s.LookupRequest(t.Context(), "", "a")
	_, bindErr := s.Bind(uuid.New(), true, 0)
	_, syncErr := s.SyncRequests()
	_, markErr := s.RequestMark()
	for name, err := range map[string]error{
		"Bind": bindErr, "Claim": claimErr, "PutClaim": s.PutClaim(Claim{Sink: "a"}),
		"LookupRequest": lookupErr, "PutRequests": s.PutRequests(nil, 1), "SyncRequests": syncErr,
		"RequestMark": markErr, "ExpireRequests": s.ExpireRequests(time0, 0, 0),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", name, err)
		}
	}
	s.Bytes()
}

func TestCloseRacesWithCalls(t *testing.T) {
	s := mustOpen(t, "state", vfs.NewMem())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := uint64(1); ; n++ {
				err := s.PutRequests(requests(n, n), 0)
				if err == nil {
					err = s.PutClaim(Claim{Sink: fmt.Sprint(i)})
				}
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("racing with Close: %v", err)
					}
					return
				}
			}
		})
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// TestFailedSync: the call gets an error, everything after it too, Close does
// not hang, and a restart keeps what was durable before.
func TestFailedSync(t *testing.T) {
	mem := vfs.NewCrashableMem()
	fail := errorfs.Toggle{Injector: errorfs.ErrInjected}
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			return fail.MaybeError(op)
		}
		return nil
	}))
	s := mustOpen(t, "state", fs)
	if err := s.PutClaim(Claim{Sink: "a", Settled: true}); err != nil {
		t.Fatal(err)
	}
	fail.On()
	if err := s.PutClaim(Claim{Sink: "b"}); !errors.Is(err, pebblekit.ErrFatal) {
		t.Fatalf("PutClaim with a failing sync: %v, want ErrFatal", err)
	}
	fail.Off()
	if err := s.PutClaim(Claim{Sink: "c"}); !errors.Is(err, pebblekit.ErrFatal) {
		t.Fatalf("PutClaim after a failed sync: %v, want ErrFatal", err)
	}
	for range 2 {
		if err := s.Close(); !errors.Is(err, pebblekit.ErrFatal) || !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("Close after a failed sync: %v, want ErrFatal and why", err)
		}
	}
	again := mustOpen(t, "state", crash(mem))
	if _, ok, err := again.Claim("a"); !ok || err != nil {
		t.Fatalf("durable claim after restart: %t, %v", ok, err)
	}
	if _, ok, _ := again.Claim("c"); ok {
		t.Fatal("a claim that was refused is there")
	}
}
