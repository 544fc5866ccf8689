package walproxy_test

import (
	"context"
	"errors"
	"testing"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// TestLagAtMost: after a crash the lag is said to be an upper bound until the store
// has said where it is; then it is exact.
func TestLagAtMost(t *testing.T) {
	dir, store := t.TempDir(), sinktest.NewMemory()
	p := open(t, options(dir, store))
	const n = 50
	for range n {
		appendOne(t, p, increment("k"))
	}
	until(t, "all is applied", func() bool { return p.Status().Sinks[0].Lag == 0 })
	crashed := t.TempDir() // as a kill leaves it: how far the sink is was not noted
	copyTree(t, dir+"/log", crashed+"/log")
	copyTree(t, dir+"/state", crashed+"/state")
	closeProxy(t, p)

	away := sinktest.NewFaulty(store.Reopen())
	away.FailResume(1<<30, sinktest.ErrAway)
	p = open(t, options(crashed, away))
	if s := p.Status().Sinks[0]; !s.LagAtMost || s.Lag == 0 || s.Lag > n {
		t.Errorf("the store is away: lag %d, at most: %v", s.Lag, s.LagAtMost)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Close(ctx); !errors.As(err, new(*walproxy.RemainingError)) {
		t.Errorf("Close = %v", err)
	}
	p = open(t, options(crashed, store.Reopen()))
	until(t, "the store has said that it has all", func() bool { return p.Status().Sinks[0].Lag == 0 })
	if s := p.Status().Sinks[0]; s.LagAtMost {
		t.Errorf("%+v", s)
	}
	closeProxy(t, p)
}
