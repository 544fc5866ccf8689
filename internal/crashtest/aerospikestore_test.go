package crashtest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/aeronodes"
	"github.com/walproxy/walproxy/internal/pgtest"
)

// aeroStore is an Aerospike cluster of one node or more: walproxy's own endpoint on the
// embedded store, in a process of its own, or the real servers of
// WALPROXY_TEST_AEROSPIKE.
type aeroStore struct {
	*testing.T
	addrs []string
	node  *server            // nil: real servers
	nodes *aeronodes.Cluster // in front of node; nil: it is one node
	// forgets has the node lose, by every second kill, all that it was given since the
	// one before. A real one loses its last moments by every kill.
	forgets bool
	older   string // its files of then
}

// Commands that kill a real server, and start it. NODE is its place among the
// addresses, from 0. The second returns when the server answers.
const (
	aeroKill  = "WALPROXY_TEST_AEROSPIKE_KILL"
	aeroStart = "WALPROXY_TEST_AEROSPIKE_START"
)

// newAeroStore starts nodes. Real ones run already, however many they are.
func newAeroStore(ctx context.Context, t *testing.T, nodes int) *aeroStore {
	t.Helper()
	if addrs := os.Getenv("WALPROXY_TEST_AEROSPIKE"); addrs != "" {
		a := &aeroStore{T: t, addrs: strings.Split(addrs, ",")}
		a.stable(ctx)
		return a
	}
	a := &aeroStore{T: t, addrs: []string{keptAddr(t)}}
	a.node = newServer(t, t.TempDir(), "WALPROXY_AEROWIRE__LISTEN="+a.addrs[0])
	a.node.start(ctx)
	if nodes > 1 {
		var err error
		a.nodes, err = aeronodes.Start(a.addrs[0], nodes, "test")
		must(t, err)
		t.Cleanup(a.nodes.Close)
		a.addrs = a.nodes.Addrs()
	}
	return a
}

// keptAddr is an address that a process which is killed comes back to.
func keptAddr(t *testing.T) string {
	t.Helper()
	port, err := pgtest.FreePort()
	must(t, err)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// killable skips a test where nothing kills the real servers.
func (a *aeroStore) killable() {
	a.Helper()
	if a.node == nil && (os.Getenv(aeroKill) == "" || os.Getenv(aeroStart) == "") {
		a.Skipf("NOT TESTED: %s and %s do not say how a server is killed and started", aeroKill, aeroStart)
	}
}

// kill kills a node.
func (a *aeroStore) kill(ctx context.Context, i int) {
	a.Helper()
	switch {
	case a.nodes != nil:
		a.nodes.Kill(i)
	case a.node == nil:
		a.command(ctx, aeroKill, i)
	default:
		a.node.process.Kill()
		if a.forgets {
			a.forget()
		}
	}
}

// start starts a node that was killed, and returns when it has its partitions.
func (a *aeroStore) start(ctx context.Context, i int) {
	a.Helper()
	switch {
	case a.nodes != nil:
		must(a.T, a.nodes.Restart(i))
		a.nodes.Move()
	case a.node == nil:
		a.command(ctx, aeroStart, i)
		a.stable(ctx)
	default:
		a.node.start(ctx)
	}
}

// loses reports that a kill may take back what a node has acknowledged.
func (a *aeroStore) loses() bool { return a.node == nil || a.forgets }

// forget puts the files of a node that does not run aside, or back.
func (a *aeroStore) forget() {
	a.Helper()
	if a.older != "" {
		must(a.T, os.RemoveAll(a.node.dir), os.Rename(a.older, a.node.dir))
		a.older = ""
		return
	}
	a.older = filepath.Join(a.TempDir(), "older")
	must(a.T, os.CopyFS(a.older, os.DirFS(a.node.dir)))
}

func (a *aeroStore) command(ctx context.Context, name string, i int) {
	a.Helper()
	cmd := exec.CommandContext(ctx, "sh", "-c", os.Getenv(name))
	cmd.Env = append(os.Environ(), fmt.Sprint("NODE=", i))
	if out, err := cmd.CombinedOutput(); err != nil {
		a.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// stable waits until real servers have formed their cluster and moved no partition any
// more: another kill before that would take both copies of some away.
func (a *aeroStore) stable(ctx context.Context) {
	a.Helper()
	ask := fmt.Sprintf("cluster-stable:size=%d;ignore-migrations=false", len(a.addrs))
	for _, addr := range a.addrs {
		a.waitFor(ctx, addr+" is stable", func() bool {
			host, err := as.NewHosts(addr)
			if err != nil {
				a.Fatal(err)
			}
			conn, err := as.NewConnection(as.NewClientPolicy(), host[0])
			if err != nil {
				return false
			}
			defer conn.Close()
			if err := conn.SetTimeout(time.Time{}, 5*time.Second); err != nil {
				return false
			}
			answer, err := conn.RequestInfo(ask)
			return err == nil && answer[ask] != "" && !strings.HasPrefix(strings.ToUpper(answer[ask]), "ERROR")
		})
	}
}

// waitFor polls a condition until ctx ends.
func (a *aeroStore) waitFor(ctx context.Context, what string, ok func() bool) {
	a.Helper()
	waitFor(ctx, a.T, what, ok)
}

// onAerospike prepares a server whose store that is, in sets of its own.
func onAerospike(t *testing.T, a *aeroStore, env ...string) *server {
	t.Helper()
	name := uuid.NewString()[:8]
	settle := "10s"
	if a.forgets { // what it loses may be as old as the machine is slow
		settle = "1h"
	}
	return newServer(t, t.TempDir(), append([]string{
		"WALPROXY_SINKS__MAIN__TYPE=aerospike", "WALPROXY_SINKS__MAIN__NAMESPACE=test",
		fmt.Sprintf("WALPROXY_SINKS__MAIN__HOSTS=[%s]", strings.Join(a.addrs, ", ")),
		fmt.Sprintf("WALPROXY_SINKS__MAIN__CLUSTER={seed_only: %t, settle: %s, state: {set: state-%s}}", len(a.addrs) == 1, settle, name),
		fmt.Sprintf("WALPROXY_SINKS__MAIN__COLLECTIONS={counters: {set: counters-%s}, registers: {set: registers-%s}, journals: {set: journals-%s}}", name, name, name),
		"WALPROXY_SINKS__MAIN__TIMEOUTS={connect: 5s, socket: 20s, total: 20s}",
	}, env...)...)
}
