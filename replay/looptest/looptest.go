// Package looptest drives stores through the real log, state store and apply
// loops, from one seed: one to three sinks on one log, each with routes of its
// own; random writes and groups; lanes, lane groups and batch sizes that change
// from run to run; faults of every outcome, calls that never return, stores that
// are away, pauses; records held outside the log, which is freed; rejected
// records, retries and discards of dead letters, dead letters that are full;
// deaths at any call of the store or of all of them at one instant, restarts. In
// the end every store, its versions, the dead letters, their order and the fate of
// every record must be what a serial model makes of the log, which applies one
// record after the other.
//
// It is the companion of package sinktest: that one checks a sink's contract, this
// one what the loop makes of it.
package looptest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/walproxy/walproxy/sinks/sinktest"
)

// Seeds of Run, and with WALPROXY_LONG set.
const (
	shortSeeds = 4
	longSeeds  = 4000
)

// Run drives stores of h, one for each of a few seeds, or some thousand if
// WALPROXY_LONG is set. A failure prints the seed; with WALPROXY_SEED set to it
// only that one is run. What happens at the same moment is up to the scheduler,
// so a seed repeats what was drawn, not every interleaving.
func Run(t *testing.T, h sinktest.Harness) {
	if h.New == nil {
		t.Fatal("looptest: Harness.New is missing")
	}
	if text := os.Getenv("WALPROXY_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("WALPROXY_SEED: %v", err)
		}
		runSeed(t, h, seed)
		return
	}
	seeds := shortSeeds
	if os.Getenv("WALPROXY_LONG") != "" {
		seeds = longSeeds
	}
	base := rand.Uint64() >> 16
	for i := range seeds {
		runSeed(t, h, base+uint64(i))
	}
}

// runSeed is one history, from an empty store to the comparison.
func runSeed(t *testing.T, h sinktest.Harness, seed uint64) {
	t.Helper()
	t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
		defer func() {
			if t.Failed() {
				t.Logf("again: WALPROXY_SEED=%d go test -run '%s' (in this package)", seed, rootName(t))
			}
		}()
		d := newDriver(t, h, rand.New(rand.NewPCG(seed, 0)))
		for range 1 + d.draw(5) {
			d.live()
		}
		d.finish()
	})
}

// rootName is the name of the test function.
func rootName(t *testing.T) string {
	name := t.Name()
	for i := range name {
		if name[i] == '/' {
			return name[:i]
		}
	}
	return name
}
