package crashtest_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/powerfs"
)

// soakEvents are what may happen to the server in a round of TestSoak.
var soakEvents = []string{"kill", "terminate", "power", "power at a call", "fault", "slow", "nothing"}

// TestSoak does to a server and an embedded proxy, for as long as WALPROXY_SOAK says,
// whatever chance says of what the other tests do, and compares after each round.
// Memory and goroutines stay flat. The engines take turns.
func TestSoak(t *testing.T) {
	duration := 3 * time.Second
	if text := os.Getenv("WALPROXY_SOAK"); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		must(t, err)
	} else if !long() {
		t.Skip("NOT TESTED: make soak DURATION=10m")
	}
	ctx, r := timeout(t, duration+5*time.Minute, duration+5*time.Minute), rng(t)
	mount := newPowerMount(t)
	s := newServer(t, filepath.Join(mount.Dir(), "data"))
	w := newWriter(t)
	w.dir = filepath.Join(mount.Dir(), "embedded")
	happened, goroutines := map[string]int{}, 0
	for began, round := time.Now(), 0; time.Since(began) < duration; round++ {
		s.start(ctx, engine(r.IntN(2)))
		must(t, w.start(ctx, engine(r.IntN(2))))
		event := soakEvents[r.IntN(len(soakEvents))]
		happened[event]++
		cut := s.soak(ctx, r, mount, event)
		w.kill()
		if cut {
			must(t, mount.Restart())
		}
		if s.process == nil {
			s.start(ctx, engine(r.IntN(2)))
		}
		s.check(ctx)
		w.check(ctx)
		s.memory("after a round")
		now := s.goroutines(ctx)
		if goroutines == 0 {
			goroutines = now
		}
		if now > goroutines+50 {
			t.Fatalf("%d goroutines, %d in the first round", now, goroutines)
		}
		s.stop()
		s.process = nil
	}
	t.Logf("%v; %d acked by the server, %d embedded", happened, s.ledger.Acked(), w.ledger.Acked())
}

// soak loads the server while event happens to it, and leaves it down, but for
// "nothing" and "slow". It reports whether the power was cut.
func (s *server) soak(ctx context.Context, r *rand.Rand, mount *powerfs.Mount, event string) (cut bool) {
	s.Helper()
	stop := s.load(ctx)
	defer stop()
	options := powerfs.CutOptions{Keep: float64(r.IntN(4)) / 3, Granularity: 512 << (3 * r.IntN(2)), Seed: r.Uint64()}
	met := func(f powerfs.Fault) {
		mount.Disk().Arm(f)
		waitMet(ctx, s.T, mount, s.process.Ended())
		mount.Disk().Disarm()
	}
	s.waitAcked(ctx, 1+r.IntN(2000))
	switch event {
	case "kill":
		s.process.Kill()
	case "terminate":
		stop()
		s.stop()
	case "power":
		mount.Cut(options)
		s.process.Kill()
		cut = true
	case "power at a call":
		met(powerfs.Fault{Op: powerfs.OpChange, N: 1 + r.IntN(2000), Cut: &options})
		s.process.Kill()
		cut = true
	case "fault":
		// The embedded proxy's files have the same names: whoever meets it is poisoned.
		met(logFault(r))
		s.process.Kill()
	case "slow":
		mount.Disk().Arm(powerfs.Fault{Op: powerfs.OpSync, Stay: true, Delay: time.Duration(r.IntN(20)) * time.Millisecond})
		s.waitAcked(ctx, 200)
		mount.Disk().Disarm()
		return false
	default:
		return false
	}
	s.process = nil
	return cut
}

// goroutines is how many the server has.
func (s *server) goroutines(ctx context.Context) int {
	s.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/metrics", s.process.Addr("admin")), nil)
	must(s.T, err)
	answer, err := http.DefaultClient.Do(request)
	must(s.T, err)
	defer func() { must(s.T, answer.Body.Close()) }()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			n, err := strconv.Atoi(text)
			must(s.T, err)
			return n
		}
	}
	s.Fatal("the metrics have no go_goroutines")
	return 0
}
