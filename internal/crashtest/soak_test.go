package crashtest_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/powerfs"
)

// TestSoak does to servers with clients of every kind (see soakedOf) and to an embedded
// proxy, all on one disk, for as long as WALPROXY_SOAK says, whatever chance says of
// what the other tests do, and compares after each round. Memory, goroutines and open
// files stay flat. The engines take turns.
func TestSoak(t *testing.T) {
	duration := time.Duration(0) // one round of what is usual
	if text := os.Getenv("WALPROXY_SOAK"); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		must(t, err)
	} else if long() {
		duration = 3 * time.Minute
	} else {
		t.Parallel()
	}
	_, _ = buildWriter() // not on the clock either
	ctx := timeout(t, duration+10*time.Minute, duration+10*time.Minute)
	k := newSoak(ctx, t, duration > 0)
	began, round := time.Now(), 0
	for ; round == 0 || time.Since(began) < duration; round++ {
		event := "kill"
		if duration > 0 {
			event = soakEvents[k.r.IntN(len(soakEvents))]
		}
		k.happened[event]++
		was := time.Now()
		k.round(event)
		t.Logf("round %d, %s: %s; %v", round, event, time.Since(was).Round(time.Millisecond), k)
	}
	for _, s := range k.servers {
		if s.alive() {
			s.stop()
		}
	}
	t.Logf("%d rounds: %v", round, k.happened)
}

// soakEvents are what may happen in a round of TestSoak. What comes twice does so more often.
var soakEvents = []string{"kill", "kill", "terminate", "power", "power at a call", "fault", "fault", "slow", "full", "no space",
	"postgres", "node", "nothing"}

// hurt lets event happen under the load. Who ended by it is started again.
func (k *soak) hurt(event string) {
	k.Helper()
	disk := k.mount.Disk()
	options := powerfs.CutOptions{Keep: float64(k.r.IntN(4)) / 3, Granularity: 512 << (3 * k.r.IntN(2)), Seed: k.r.Uint64()}
	switch event {
	case "kill":
		for _, s := range k.some() {
			s.process.Kill()
		}
	case "terminate":
		for _, s := range k.some() {
			s.endUnderLoad(k.ctx)
		}
	case "power":
		k.mount.Cut(options)
		k.blackout()
	case "power at a call":
		disk.Arm(powerfs.Fault{Op: powerfs.OpChange, N: 1 + k.r.IntN(3000), Cut: &options})
		waitMet(k.ctx, k.T, k.mount, nil)
		disk.Disarm()
		k.blackout()
	case "fault": // whoever meets it is poisoned
		disk.Arm(logFault(k.r))
		waitMet(k.ctx, k.T, k.mount, nil)
		disk.Disarm()
		waitFor(k.ctx, k.T, "an end", func() bool {
			select {
			case <-k.writer.process.Ended():
				return true
			default:
				return slices.ContainsFunc(k.servers, func(s *soaked) bool { return !s.alive() })
			}
		})
		for _, s := range k.servers {
			if !s.alive() {
				s.endedWell()
			}
		}
	case "slow":
		disk.Arm(powerfs.Fault{Op: powerfs.OpSync, Stay: true, Delay: time.Duration(k.r.IntN(20)) * time.Millisecond})
		k.more(20)
		disk.Disarm()
	case "full": // up to the floor, which the embedded one has not: refused, and nobody ends
		k.writer.kill()
		disk.SetCapacity(disk.Stats().Bytes + soakFloor + mib/2)
		for _, s := range k.servers {
			waitFor(k.ctx, k.T, s.name+" refuses", func() bool { return s.refuses(k.ctx) })
		}
		disk.SetCapacity(soakDisk)
	case "no space": // whoever meets it may end, with an error
		disk.SetCapacity(disk.Stats().Bytes + k.r.Int64N(mib))
		met := time.Now().Add(time.Duration(50+k.r.IntN(500)) * time.Millisecond) // chance, not a condition
		waitFor(k.ctx, k.T, "no space", func() bool { return time.Now().After(met) })
		disk.SetCapacity(soakDisk)
		k.forgiving = true
	case "postgres":
		k.behind.lose(k.r)
		k.more(20) // acks go on
		k.behind.cluster.Start(k.T)
	case "node":
		k.store.kill(k.ctx, 0)
		k.more(20)
		k.store.start(k.ctx, 0)
	}
	k.startAll()
}

// some are some of the servers, one at least.
func (k *soak) some() []*soaked {
	list := slices.Clone(k.servers)
	k.r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:1+k.r.IntN(len(list))]
}

// blackout ends everything on a disk that has lost its power, and gives it back.
func (k *soak) blackout() {
	k.Helper()
	for _, s := range k.servers {
		s.process.Kill()
	}
	k.writer.kill()
	must(k.T, k.mount.Restart())
}

func (k *soak) String() string {
	text := fmt.Sprintf("embedded %d acked", k.writer.ledger.Acked())
	for _, s := range k.servers {
		text += fmt.Sprintf("; %s %d", s.name, s.acked())
		if s.alive() {
			text += fmt.Sprintf(" (%v)", s.uses(k.ctx))
		}
	}
	return text
}
