package aerospike

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/pebble"
)

// forgetful is a store that loses its last moments: a real server that is killed, by
// a command that the environment names, or the endpoint on a copy of its files that
// was made some moments before.
type forgetful struct {
	t     *testing.T
	addrs []string
	dir   string

	clock clock // that settling goes by

	store  *pebble.Sink
	proxy  *walproxy.Proxy
	server *aerowire.Server
}

// clock stands still when it is told to: what is applied then does not settle, however
// slow the machine is.
type clock struct {
	mu    sync.Mutex
	since time.Time // it stands, if anybody has stopped it
	stops int
	lost  time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stops > 0 {
		return c.since.Add(-c.lost)
	}
	return time.Now().Add(-c.lost)
}

// stop returns what has it go on, once all have said so who stopped it.
func (c *clock) stop() (start func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stops++; c.stops == 1 {
		c.since = time.Now()
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.stops--; c.stops == 0 {
			c.lost += time.Since(c.since)
		}
	}
}

// realCommands kill the first server of WALPROXY_TEST_AEROSPIKE, and start it again.
var realCommands = []string{os.Getenv("WALPROXY_TEST_AEROSPIKE_KILL"), os.Getenv("WALPROXY_TEST_AEROSPIKE_START")}

func newForgetful(t *testing.T) *forgetful {
	t.Helper()
	f := &forgetful{t: t, addrs: realServers, dir: filepath.Join(t.TempDir(), "store")}
	if realServers != nil {
		if slices.Contains(realCommands, "") {
			t.Skip("NOT TESTED: WALPROXY_TEST_AEROSPIKE_KILL and _START do not say how a server is killed and started")
		}
		return f
	}
	f.addrs = []string{"127.0.0.1:0"}
	f.start()
	t.Cleanup(f.stop)
	return f
}

func (f *forgetful) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *forgetful) start() {
	f.t.Helper()
	var err error
	f.store, err = pebble.Open(filepath.Join(f.dir, "sink"), pebble.Options{})
	f.must(err)
	o := walproxy.Options{
		Dir: f.dir, Sinks: []walproxy.SinkOptions{{Name: "main", Sink: f.store}}, DrainTimeout: 30 * time.Second,
		KeyTypes: []walproxy.KeyType{
			{Collection: namespace, Type: mutation.KeyBytes}, {Collection: namespace + ".*", Type: mutation.KeyBytes},
		},
	}
	o.Log.MinFree = -1
	f.proxy, err = walproxy.Open(context.Background(), o)
	f.must(err)
	listener, err := net.Listen("tcp", f.addrs[0])
	f.must(err)
	f.addrs = []string{listener.Addr().String()}
	f.server, err = aerowire.Start(aerowire.Options{Core: api.New(f.proxy), Listener: listener, Namespaces: []string{namespace}})
	f.must(err)
}

func (f *forgetful) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(f.server.Close(ctx), f.proxy.Close(ctx), f.store.Close(ctx)); err != nil {
		f.t.Error(err)
	}
}

// restart runs during, and then has the store lose what it was given meanwhile, or
// some of it.
func (f *forgetful) restart(during func()) {
	f.t.Helper()
	if realServers != nil {
		during()
		for _, command := range realCommands {
			cmd := exec.CommandContext(f.t.Context(), "sh", "-c", command)
			cmd.Env = append(os.Environ(), "NODE=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				f.t.Fatalf("%s: %v: %s", command, err, out)
			}
		}
		return
	}
	defer f.clock.stop()()
	copied := f.dir + ".copy"
	f.stop()
	f.must(os.RemoveAll(copied))
	f.must(os.CopyFS(copied, os.DirFS(f.dir)))
	f.start()
	during()
	f.stop()
	f.must(os.RemoveAll(f.dir))
	f.must(os.Rename(copied, f.dir))
	f.start()
}

// apart runs a test beside others, but where it kills the server of all.
func apart(t *testing.T) {
	if realServers == nil {
		t.Parallel()
	}
}

// TestStoreForgets: a store is killed under load, several times, and loses what it
// had acknowledged last; deleted records are there again. In the end every increment
// and every letter is there once, in order, and what was deleted stays so. Reads see
// what was acknowledged, or fail.
func TestStoreForgets(t *testing.T) {
	apart(t)
	f := newForgetful(t)
	o := bookOptions(f.addrs)
	if realServers == nil {
		o.now, o.Settle = f.clock.now, 300*time.Millisecond
	}
	b := newBook(t, o)
	for range unless(realServers == nil, 2, 3) {
		b.wait(b.write(300))
		f.restart(func() {
			b.wait(b.write(300))
			b.write(300) // some of it is under way
		})
		b.read(false)
		b.wait(b.write(300))
	}
	b.read(true)
	if n := b.rewinds(); n == 0 {
		t.Error("no restart was noticed")
	}
}

// TestRestartWhileStopped: the store is killed, and loses its last moments, while
// walproxy does not run; its start is enough to have all of it there again.
func TestRestartWhileStopped(t *testing.T) {
	apart(t)
	f := newForgetful(t)
	o := bookOptions(f.addrs)
	if realServers == nil {
		o.now = f.clock.now
	}
	b := newBook(t, o)
	for range 2 {
		b.wait(b.write(200))
		f.restart(func() {
			b.wait(b.write(200))
			b.close()
		})
		b.open()
		b.read(true)
	}
}

// TestFirstRestart: what a store loses when it is killed for the first time may be the
// state record itself. Nothing was settled, so all of it is in the log: nobody has to do
// anything.
func TestFirstRestart(t *testing.T) {
	apart(t)
	f := newForgetful(t)
	o := bookOptions(f.addrs)
	if realServers == nil {
		o.now = f.clock.now
	}
	var b *book
	f.restart(func() {
		b = newBook(t, o)
		b.wait(b.write(100))
	})
	b.wait(b.write(100))
	b.read(true)
	// The same while walproxy does not run.
	o.State, o.Collections = bookOptions(f.addrs).State, bookOptions(f.addrs).Collections
	b = newBook(t, o)
	f.restart(func() {
		b.wait(b.write(100))
		b.close()
	})
	b.open()
	b.wait(b.write(100))
	b.read(true)
}

// TestSettlesBetweenRestarts: a store is killed so often that nothing settles by its age.
// What it is found to have after a start is settled all the same, and what it was given
// before it was killed is not.
func TestSettlesBetweenRestarts(t *testing.T) {
	apart(t)
	f := newForgetful(t)
	o := bookOptions(f.addrs)
	o.Settle = time.Second // by a clock that stands
	defer f.clock.stop()()
	o.now = f.clock.now
	b := newBook(t, o)
	settles := func(lsn walproxy.LSN) bool { // in the state record
		for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(20 * time.Millisecond) {
			if st, err := b.sink.owner.load(t.Context()); err == nil && st != nil && st.checkpoint().Low().LSN >= lsn {
				return true
			}
		}
		return false
	}
	var first walproxy.LSN
	for round := range unless(long(), 40, 2) {
		before := first
		for try := 0; ; try++ { // a slow machine may need more than one
			first = b.write(200)
			b.wait(first)
			b.sighted(first)
			f.restart(func() { // what is lost now has been seen, too
				last := b.write(50)
				b.wait(last)
				b.sighted(last)
			})
			b.wait(b.write(50))
			if settles(first) && b.sink.Settled() >= before {
				break
			}
			if try == 10 {
				t.Fatalf("round %d: LSN %d was there before the node was restarted and is not settled; the log may be freed up to %d, want %d at least",
					round, first, b.sink.Settled(), before)
			}
		}
		b.read(true)
	}
}

// sighted waits until it is known that what was applied up to lsn, and what the state
// record says, is older than a node that is started from now on.
func (b *book) sighted(lsn walproxy.LSN) {
	b.Helper()
	const blur = 1200 * time.Millisecond // nodes tell their age in seconds
	o := b.sink.owner
	soon(b, "the lanes were seen there", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, s := range o.mu.sights {
			if s.low.LSN >= lsn && time.Since(s.taken) > blur {
				return time.Since(o.mu.saved) > blur
			}
		}
		return false
	})
}
