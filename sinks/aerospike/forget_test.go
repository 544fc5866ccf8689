package aerospike

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

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
	t    *testing.T
	addr string
	dir  string

	store  *pebble.Sink
	proxy  *walproxy.Proxy
	server *aerowire.Server
}

// realRestart kills the server of WALPROXY_TEST_AEROSPIKE and starts it again.
var realRestart = os.Getenv("WALPROXY_TEST_AEROSPIKE_RESTART")

func newForgetful(t *testing.T) *forgetful {
	t.Helper()
	f := &forgetful{t: t, addr: realServer, dir: filepath.Join(t.TempDir(), "store")}
	if realServer != "" {
		if realRestart == "" {
			t.Skip("WALPROXY_TEST_AEROSPIKE_RESTART names no command that kills the server and starts it again")
		}
		return f
	}
	f.addr = "127.0.0.1:0"
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
	listener, err := net.Listen("tcp", f.addr)
	f.must(err)
	f.addr = listener.Addr().String()
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
	if realServer != "" {
		during()
		out, err := exec.CommandContext(f.t.Context(), "sh", "-c", realRestart).CombinedOutput()
		if err != nil {
			f.t.Fatalf("%s: %v: %s", realRestart, err, out)
		}
		return
	}
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

// want is what a key has to hold.
type want struct {
	n    int64
	text strings.Builder
}

// TestStoreForgets: a store is killed under load, several times, and loses what it
// had acknowledged last; deleted records are there again. In the end every increment
// and every letter is there once, in order, and what was deleted stays so. Reads see
// what was acknowledged, or fail.
func TestStoreForgets(t *testing.T) {
	f := newForgetful(t)
	name := uuid.NewString()[:8]
	o := Options{
		Hosts: []string{f.addr}, Namespace: namespace, State: Place{namespace, "state-" + name},
		Collections: []Collection{{Pattern: collection, Set: "things-" + name}},
		Services:    Services{SeedOnly: true}, Settle: 3 * time.Second,
		Timeouts: Timeouts{Connect: 10 * time.Second, Socket: 10 * time.Second, Total: 10 * time.Second},
	}
	sink := open(t, o)
	po := walproxy.Options{Dir: t.TempDir(), Sinks: []walproxy.SinkOptions{{Name: "main", Sink: sink}}, DrainTimeout: time.Minute}
	po.Log.MinFree = -1
	po.Sinks[0].Loop.RetryMax = 100 * time.Millisecond
	p, err := walproxy.Open(t.Context(), po)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	const keys = 40
	wants := make([]*want, keys)
	for i := range wants {
		wants[i] = &want{}
	}
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	write := func(writes int) (last walproxy.LSN) {
		t.Helper()
		for range writes {
			i := random.IntN(keys)
			last = wants[i].write(t, p, fmt.Sprint("k", i), random)
		}
		return last
	}
	wait := func(lsn walproxy.LSN) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for {
			err := p.Wait(ctx, lsn, walproxy.Applied)
			if err == nil {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("LSN %d is not applied: %v", lsn, err)
			}
		}
	}
	rewinds := 0
	for round := range 3 {
		wait(write(300))
		f.restart(func() {
			wait(write(300))
			write(300) // some of it is under way
		})
		for i, w := range wants {
			w.read(t, p, fmt.Sprint("k", i), false)
		}
		wait(write(300))
		rewinds = round + 1
	}
	for i, w := range wants {
		w.read(t, p, fmt.Sprint("k", i), true)
	}
	t.Logf("%d restarts", rewinds)
}

// write appends one record.
func (w *want) write(t *testing.T, p *walproxy.Proxy, key string, random *rand.Rand) walproxy.LSN {
	t.Helper()
	k := mutation.String(key)
	letter := string(rune('a' + random.IntN(26)))
	var err error
	m := mutation.Delete(collection, k)
	switch random.IntN(8) {
	case 0:
		w.n = 0
		w.text.Reset()
	case 1, 2, 3:
		m, err = mutation.Increment(collection, k, map[string]any{"n": int64(1)})
		w.n++
	default:
		m, err = mutation.Append(collection, k, map[string]any{"text": letter})
		w.text.WriteString(letter)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Append(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return r.LSN
}

// read compares. A read may fail while the store goes back, unless it must not.
func (w *want) read(t *testing.T, p *walproxy.Proxy, key string, must bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		d, err := p.Read(ctx, collection, mutation.String(key))
		if errors.Is(err, mutation.ErrNotFound) {
			d, err = &mutation.Document{}, nil
		}
		if err != nil && must && ctx.Err() == nil {
			continue
		}
		if err != nil && (must || errors.Is(err, context.DeadlineExceeded)) {
			t.Fatalf("%s: %v", key, err)
		}
		if err != nil {
			return
		}
		n, text := d.Fields["n"].GetInt64(), d.Fields["text"].GetString_()
		if n != w.n || text != w.text.String() {
			t.Errorf("%s is %d, %q; want %d, %q", key, n, text, w.n, w.text.String())
		}
		return
	}
}
