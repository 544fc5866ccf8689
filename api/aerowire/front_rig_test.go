package aerowire_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/aerospike"
)

// frontRig is an endpoint in front of a cluster: another endpoint, on Pebble, or the
// real server.
type frontRig struct {
	t      testing.TB
	dir    string
	store  string // its address
	state  string // the set of the sink's state
	sink   *aerospike.Sink
	proxy  *walproxy.Proxy
	server *aerowire.Server
	addr   string
	change []func(*aerowire.Options)
	settle time.Duration
}

// newFrontRig puts an endpoint in front of the cluster at an address; empty: one of
// its own.
func newFrontRig(t testing.TB, store string, change ...func(*aerowire.Options)) *frontRig {
	t.Helper()
	if store == "" {
		if store = realServer; store == "" {
			store = newRig(t).addr
		}
	}
	r := &frontRig{t: t, dir: t.TempDir(), store: store, state: "state-" + uuid.NewString()[:8], change: change}
	r.open()
	t.Cleanup(r.close)
	return r
}

func (r *frontRig) open() {
	r.t.Helper()
	var err error
	r.sink, err = aerospike.Open(aerospike.Options{
		Hosts: []string{r.store}, Namespace: namespace, State: aerospike.Place{Namespace: namespace, Set: r.state},
		Collections: []aerospike.Collection{
			{Pattern: namespace, Namespace: namespace, NoSet: true, Digest: true},
			{Pattern: namespace + ".*", Namespace: namespace, Set: "*", Digest: true},
		},
		Services: aerospike.Services{SeedOnly: true}, Settle: r.settle,
		Timeouts: aerospike.Timeouts{Connect: 5 * time.Second, Socket: 30 * time.Second, Total: 30 * time.Second},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	o := walproxy.Options{
		Dir: filepath.Join(r.dir, "front"), Sinks: []walproxy.SinkOptions{{Name: "main", Sink: r.sink}}, DrainTimeout: 20 * time.Second,
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
	ao := aerowire.Options{Core: api.New(r.proxy), Listener: listener, Namespaces: []string{namespace}, Store: r.sink,
		Patience: time.Minute} // a loaded machine is slow, not wrong
	for _, f := range r.change {
		f(&ao)
	}
	if r.server, err = aerowire.Start(ao); err != nil {
		r.t.Fatal(err)
	}
}

// close stops everything as cmd/walproxy does.
func (r *frontRig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := r.server.Close(ctx); err != nil {
		r.t.Error(err)
	}
	if err := r.proxy.Close(ctx); err != nil {
		r.t.Error(err)
	}
	if err := r.sink.Close(ctx); err != nil {
		r.t.Error(err)
	}
}
