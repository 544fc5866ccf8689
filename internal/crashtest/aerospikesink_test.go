package crashtest_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
)

// aeroStore is an Aerospike node: walproxy's own endpoint on the embedded store, in
// a process of its own, or the real server of WALPROXY_TEST_AEROSPIKE.
type aeroStore struct {
	addr string
	node *server // nil: the real server
}

func newAeroStore(t *testing.T) *aeroStore {
	t.Helper()
	if addr := os.Getenv("WALPROXY_TEST_AEROSPIKE"); addr != "" {
		return &aeroStore{addr: addr}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // a port that it comes back to
	must(t, err)
	a := &aeroStore{addr: listener.Addr().String()}
	must(t, listener.Close())
	a.node = newServer(t, t.TempDir(), "WALPROXY_AEROWIRE__LISTEN="+a.addr)
	return a
}

func (a *aeroStore) start(ctx context.Context) {
	if a.node != nil {
		a.node.Helper()
		a.node.start(ctx)
	}
}

// kill reports false where there is nothing that may be killed.
func (a *aeroStore) kill() bool {
	if a.node != nil {
		a.node.process.Kill()
	}
	return a.node != nil
}

// onAerospike prepares a server whose store is that node, in sets of its own.
func onAerospike(t *testing.T, a *aeroStore, env ...string) *server {
	t.Helper()
	name := uuid.NewString()[:8]
	return newServer(t, t.TempDir(), append([]string{
		"WALPROXY_SINKS__MAIN__TYPE=aerospike", "WALPROXY_SINKS__MAIN__NAMESPACE=test",
		fmt.Sprintf("WALPROXY_SINKS__MAIN__HOSTS=[%q]", a.addr),
		fmt.Sprintf("WALPROXY_SINKS__MAIN__CLUSTER={seed_only: true, state: {set: state-%s}}", name),
		fmt.Sprintf("WALPROXY_SINKS__MAIN__COLLECTIONS={counters: {set: counters-%s}, registers: {set: registers-%s}, journals: {set: journals-%s}}", name, name, name),
		"WALPROXY_SINKS__MAIN__TIMEOUTS={connect: 5s, socket: 20s, total: 20s}",
	}, env...)...)
}

// TestAerospikeSinkKills kills walproxy, the node, and both, at random instants
// while clients write, and compares after each: numbers that are added and events
// that are appended, lost none, doubled none, in order.
func TestAerospikeSinkKills(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	a, r := newAeroStore(t), rng(t)
	a.start(ctx)
	s := onAerospike(t, a)
	s.start(ctx)
	for round := range times(6, 90) {
		stop := s.load(ctx)
		s.waitAcked(ctx, 1+r.IntN(300))
		time.Sleep(time.Duration(r.Int64N(int64(20 * time.Millisecond)))) // a random instant, not a condition
		killed := round%3 != 0 && a.kill()
		if killed {
			s.waitAcked(ctx, 100) // acks go on
		}
		if round%3 != 1 || !killed {
			s.process.Kill()
		}
		stop()
		if killed {
			a.start(ctx)
		}
		if round%3 != 1 || !killed {
			s.start(ctx)
		}
		s.check(ctx)
	}
	s.stop()
}

// TestAerospikeSinkKillsAtFailpoints lets walproxy kill itself before a batch, and
// between its records and their checkpoint.
func TestAerospikeSinkKillsAtFailpoints(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	a, r := newAeroStore(t), rng(t)
	a.start(ctx)
	s := onAerospike(t, a)
	for range times(1, 20) {
		for _, point := range []string{"sink-before-commit", "sink-after-commit", "replay-mid-apply"} {
			s.dieAt(ctx, fmt.Sprintf("%s=%d", point, 1+r.IntN(20)))
		}
	}
}

// TestAerospikeSinkFullQueue ends walproxy by SIGTERM, and by SIGKILL, with 10,000
// records queued for Aerospike: they are there after the restart, each once.
func TestAerospikeSinkFullQueue(t *testing.T) {
	t.Parallel()
	a := newAeroStore(t)
	a.start(timeout(t, time.Minute, time.Minute))
	endWithFullQueue(t, func(t *testing.T, env string) *server { return onAerospike(t, a, env) })
}
