package aerowire_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/internal/pgtest"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/pebble"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// rig is the real thing on a real connection: endpoint, log, loop and Pebble.
type rig struct {
	t      testing.TB
	dir    string
	store  *pebble.Sink
	proxy  *walproxy.Proxy
	server *aerowire.Server
	addr   string
}

// namespace that the tests write to.
const namespace = "test"

func newRig(t testing.TB, change ...func(*aerowire.Options)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	r.open(change...)
	t.Cleanup(r.close)
	return r
}

func (r *rig) open(change ...func(*aerowire.Options)) {
	r.t.Helper()
	var err error
	if r.store, err = pebble.Open(filepath.Join(r.dir, "sink"), pebble.Options{}); err != nil {
		r.t.Fatal(err)
	}
	o := walproxy.Options{
		Dir: r.dir, Sinks: []walproxy.SinkOptions{{Name: "main", Sink: r.store}}, DrainTimeout: 20 * time.Second,
		KeyTypes: []walproxy.KeyType{
			{Collection: namespace, Type: mutation.KeyBytes}, {Collection: namespace + ".*", Type: mutation.KeyBytes},
		},
	}
	o.Log.MinFree = -1
	if r.proxy, err = walproxy.Open(context.Background(), o); err != nil {
		r.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr = listener.Addr().String()
	ao := aerowire.Options{Core: api.New(r.proxy), Listener: listener, Namespaces: []string{namespace}}
	for _, f := range change {
		f(&ao)
	}
	if r.server, err = aerowire.Start(ao); err != nil {
		r.t.Fatal(err)
	}
}

// close stops everything as cmd/walproxy does.
func (r *rig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.server.Close(ctx); err != nil {
		r.t.Error(err)
	}
	if err := r.proxy.Close(ctx); err != nil {
		r.t.Error(err)
	}
	if err := r.store.Close(ctx); err != nil {
		r.t.Error(err)
	}
}

// client connects the official client; it is closed before the endpoint.
func (r *rig) client() *as.Client {
	r.t.Helper()
	return connect(r.t, r.addr)
}

// realServer is the address of an Aerospike server that the tests of behaviour run
// against instead of the endpoint: its namespace test is emptied.
var realServer = os.Getenv("WALPROXY_TEST_AEROSPIKE")

// throughFront has the tests of behaviour talk to an endpoint in front of the endpoint,
// or of the real server.
var throughFront = os.Getenv("WALPROXY_TEST_FRONT") != ""

// client connects to the endpoint, or to the real server if there is one.
func client(t testing.TB) *as.Client {
	t.Helper()
	if throughFront {
		return connect(t, newFrontRig(t, "").addr)
	}
	if realServer == "" {
		return newRig(t).client()
	}
	c := connect(t, realServer)
	if err := c.Truncate(nil, namespace, "", nil); err != nil {
		t.Fatal(err)
	}
	return c
}

func connect(t testing.TB, addr string) *as.Client {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	policy := as.NewClientPolicy()
	policy.Timeout = 30 * time.Second
	c, aerr := as.NewClientWithPolicy(policy, host, n)
	if aerr != nil {
		t.Fatal(aerr)
	}
	// A loaded machine is slow, not wrong.
	c.DefaultPolicy.TotalTimeout, c.DefaultPolicy.SocketTimeout = time.Minute, time.Minute
	c.DefaultWritePolicy.TotalTimeout, c.DefaultWritePolicy.SocketTimeout = time.Minute, time.Minute
	c.DefaultBatchPolicy.TotalTimeout, c.DefaultBatchPolicy.SocketTimeout = time.Minute, time.Minute
	t.Cleanup(c.Close)
	return c
}

func key(t testing.TB, set string, k any) *as.Key {
	t.Helper()
	out, err := as.NewKey(namespace, set, k)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
