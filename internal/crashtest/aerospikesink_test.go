package crashtest_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/aeronodes"
)

// aeroStore is an Aerospike node: walproxy's own endpoint on the embedded store, in
// a process of its own, or the real servers of WALPROXY_TEST_AEROSPIKE.
type aeroStore struct {
	addrs []string
	node  *server            // nil: real servers
	nodes *aeronodes.Cluster // in front of node; nil: it is one node
	again *exec.Cmd          // is killing a real server, and starting it again
}

// aeroRestart kills a real server, and starts it again after a while.
var aeroRestart = os.Getenv("WALPROXY_TEST_AEROSPIKE_RESTART")

func newAeroStore(t *testing.T) *aeroStore {
	t.Helper()
	if addrs := os.Getenv("WALPROXY_TEST_AEROSPIKE"); addrs != "" {
		return &aeroStore{addrs: strings.Split(addrs, ",")}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // a port that it comes back to
	must(t, err)
	a := &aeroStore{addrs: []string{listener.Addr().String()}}
	must(t, listener.Close())
	a.node = newServer(t, t.TempDir(), "WALPROXY_AEROWIRE__LISTEN="+a.addrs[0])
	return a
}

// newAeroCluster is several nodes in front of such a store, or real ones.
func newAeroCluster(t *testing.T, n int) *aeroStore {
	t.Helper()
	a := newAeroStore(t)
	if a.node == nil {
		return a
	}
	var err error
	a.nodes, err = aeronodes.Start(a.addrs[0], n, "test")
	must(t, err)
	t.Cleanup(a.nodes.Close)
	a.addrs = a.nodes.Addrs()
	return a
}

func (a *aeroStore) start(ctx context.Context) {
	switch {
	case a.node != nil:
		a.node.Helper()
		a.node.start(ctx)
	case a.again != nil:
		if err := a.again.Wait(); err != nil {
			fmt.Fprintln(os.Stderr, aeroRestart, err) // the test will see
		}
		a.again = nil
	}
}

// kill reports false where there is nothing that may be killed.
func (a *aeroStore) kill() bool {
	switch {
	case a.node != nil:
		a.node.process.Kill()
	case aeroRestart != "":
		a.again = exec.Command("sh", "-c", aeroRestart)
		return a.again.Start() == nil
	default:
		return false
	}
	return true
}

// onAerospike prepares a server whose store is that node, in sets of its own.
func onAerospike(t *testing.T, a *aeroStore, env ...string) *server {
	t.Helper()
	name := uuid.NewString()[:8]
	return newServer(t, t.TempDir(), append([]string{
		"WALPROXY_SINKS__MAIN__TYPE=aerospike", "WALPROXY_SINKS__MAIN__NAMESPACE=test",
		fmt.Sprintf("WALPROXY_SINKS__MAIN__HOSTS=[%s]", strings.Join(a.addrs, ", ")),
		fmt.Sprintf("WALPROXY_SINKS__MAIN__CLUSTER={seed_only: %t, state: {set: state-%s}}", len(a.addrs) == 1, name),
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

// TestAerospikeClusterKills kills nodes of a cluster, and walproxy, while clients
// write: partitions go to other nodes and back, and every write is there once, in
// order.
func TestAerospikeClusterKills(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, time.Hour)
	a, r := newAeroCluster(t, 3), rng(t)
	a.start(ctx)
	s := onAerospike(t, a)
	s.start(ctx)
	for round := range times(3, 60) {
		stop := s.load(ctx)
		s.waitAcked(ctx, 1+r.IntN(300))
		if a.nodes != nil {
			a.nodes.Kill(round % 3)
		} else {
			a.kill()
		}
		s.waitAcked(ctx, 100)
		if round%2 == 1 {
			s.process.Kill()
			s.start(ctx)
		}
		s.waitAcked(ctx, 100)
		if a.nodes != nil {
			must(t, a.nodes.Restart(round%3))
			a.nodes.Move()
		} else {
			a.start(ctx)
		}
		s.waitAcked(ctx, 100)
		stop()
		s.check(ctx)
	}
	s.stop()
}

// TestAerospikeRestartWhileStopped: the node loses what walproxy has applied last while
// walproxy does not run; it is there again after the next start.
func TestAerospikeRestartWhileStopped(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, time.Hour)
	a := newAeroStore(t)
	if a.node == nil && aeroRestart == "" {
		t.Skip("WALPROXY_TEST_AEROSPIKE_RESTART names no command that kills the server and starts it again")
	}
	a.start(ctx)
	s := onAerospike(t, a)
	if a.node != nil { // what it loses here may be as old as the machine is slow
		for i, env := range s.env {
			s.env[i] = strings.Replace(env, "seed_only: true", "settle: 1h, seed_only: true", 1)
		}
	}
	for round := range times(2, 20) {
		s.start(ctx)
		s.fill(ctx, 200, 0)
		s.check(ctx)
		older := a.copy(ctx)
		s.fill(ctx, 500, 0)
		s.check(ctx) // applied, as far as anybody can tell
		if round%2 == 0 {
			s.stop()
		} else {
			s.process.Kill()
		}
		a.kill()
		a.putBack(older)
		a.start(ctx)
		s.start(ctx)
		s.check(ctx)
		s.stop()
	}
}

// copy returns a copy of the node's files, of a moment when it did not run; "": a real
// server loses by itself what was not written to its disk.
func (a *aeroStore) copy(ctx context.Context) (dir string) {
	if a.node == nil {
		return ""
	}
	a.kill()
	dir = filepath.Join(a.node.TempDir(), "copy")
	must(a.node.T, os.CopyFS(dir, os.DirFS(a.node.dir)))
	a.start(ctx)
	return dir
}

// putBack has the node have the files of copy again.
func (a *aeroStore) putBack(copied string) {
	if copied != "" {
		must(a.node.T, os.RemoveAll(a.node.dir), os.Rename(copied, a.node.dir))
	}
}
