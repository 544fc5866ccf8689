package crashtest_test

import (
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/pgtest"
)

// TestKillAerospike kills the server at random instants under operations that are
// evaluated by it, and compares after each restart.
func TestKillAerospike(t *testing.T) {
	t.Parallel()
	s := newServer(t, t.TempDir(), "WALPROXY_AEROWIRE__LISTEN=127.0.0.1:0")
	killEvaluating(t, onEndpoint(s, "crash", 12, evaluated), times(6, 100), 400)
}

// TestKillAerospikeOnPostgres does the same on what PostgreSQL holds.
func TestKillAerospikeOnPostgres(t *testing.T) {
	t.Parallel()
	s := onPostgres(t, pgtest.Shared(t).Database(t), "WALPROXY_AEROWIRE__LISTEN=127.0.0.1:0")
	killEvaluating(t, onEndpoint(s, "crash", 6, evaluated), times(3, 60), 200)
}

// killEvaluating kills the server after at most so many acknowledged writes, each
// round.
func killEvaluating(t *testing.T, a *aerospike, rounds, most int) {
	ctx, r := timeout(t, 2*time.Minute, time.Hour), rng(t)
	a.start(ctx)
	for range rounds {
		c := a.connect()
		stop := a.load(c)
		a.more(ctx, 1+r.IntN(most))
		a.process.Kill()
		stop()
		c.Close()
		a.start(ctx)
		c = a.connect()
		a.check(ctx, c)
		c.Close()
	}
	a.stop()
}

// TestTerminateAerospike stops the server under load: every connection ends with an
// answer or without one, and what was answered is there.
func TestTerminateAerospike(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, 10*time.Minute)
	a := onEndpoint(newServer(t, t.TempDir(), "WALPROXY_AEROWIRE__LISTEN=127.0.0.1:0"), "crash", 12, evaluated)
	a.start(ctx)
	for range times(2, 20) {
		c := a.connect()
		stop := a.load(c)
		a.more(ctx, 300)
		a.server.stop()
		stop()
		c.Close()
		a.start(ctx)
		c = a.connect()
		a.check(ctx, c)
		c.Close()
	}
	a.stop()
}
