package aeronodes_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"
	"go.uber.org/goleak"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/internal/aeronodes"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/pebble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const namespace = "test"

// endpoint starts walproxy's endpoint on a Pebble sink.
func endpoint(t *testing.T) (addr string) {
	t.Helper()
	dir := t.TempDir()
	store, err := pebble.Open(filepath.Join(dir, "sink"), pebble.Options{})
	must(t, err)
	o := walproxy.Options{
		Dir: dir, Sinks: []walproxy.SinkOptions{{Name: "main", Sink: store}}, DrainTimeout: 20 * time.Second,
		KeyTypes: []walproxy.KeyType{{Collection: namespace + ".*", Type: mutation.KeyBytes}},
	}
	o.Log.MinFree = -1
	proxy, err := walproxy.Open(t.Context(), o)
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server, err := aerowire.Start(aerowire.Options{Core: api.New(proxy), Listener: listener, Namespaces: []string{namespace}})
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, err := range []error{server.Close(ctx), proxy.Close(ctx), store.Close(ctx)} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return listener.Addr().String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// connect returns the official client, connected by one seed.
func connect(t *testing.T, addr string) *as.Client {
	t.Helper()
	at, err := net.ResolveTCPAddr("tcp", addr)
	must(t, err)
	policy := as.NewClientPolicy()
	policy.Timeout, policy.TendInterval = 30*time.Second, 20*time.Millisecond
	c, aerr := as.NewClientWithPolicyAndHost(policy, as.NewHost(at.IP.String(), at.Port))
	if aerr != nil {
		t.Fatal(aerr)
	}
	t.Cleanup(c.Close)
	c.DefaultWritePolicy.MaxRetries, c.DefaultWritePolicy.TotalTimeout = 0, time.Minute
	c.DefaultBatchPolicy.MaxRetries, c.DefaultBatchPolicy.TotalTimeout = 0, time.Minute
	return c
}

func soon(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

func keys(t *testing.T, n int) (list []*as.Key) {
	t.Helper()
	for i := range n {
		k, err := as.NewKey(namespace, "things", i)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, k)
	}
	return list
}

// TestNodes: the official client finds all nodes by one, asks each for its own
// partitions, and goes on when one leaves, comes back, and when partitions move.
func TestNodes(t *testing.T) {
	nodes, err := aeronodes.Start(endpoint(t), 3, namespace)
	must(t, err)
	t.Cleanup(nodes.Close)
	c := connect(t, nodes.Addrs()[1])
	all := keys(t, 60)
	put := func(k *as.Key) bool { return c.Put(nil, k, as.BinMap{"n": 1}) == nil }
	members := func(n int) {
		t.Helper()
		soon(t, "the client knows the members", func() bool { return len(c.GetNodes()) == n })
	}
	members(3)
	for _, k := range all {
		if !put(k) {
			t.Fatal("a put failed")
		}
	}
	for i, n := range nodes.Served() {
		if n < 5 {
			t.Errorf("node %d served %d of %d records", i, n, len(all))
		}
	}
	if n := nodes.Strays(); n != 0 {
		t.Errorf("%d records were asked of nodes that do not own them", n)
	}
	nodes.Kill(1)
	for _, k := range all {
		soon(t, "a put to those that are left", func() bool { return put(k) })
	}
	must(t, nodes.Restart(1))
	members(3)
	nodes.Move()
	soon(t, "the client asks the new owners", func() bool {
		before := nodes.Strays()
		for _, k := range all {
			soon(t, "a put", func() bool { return put(k) })
		}
		return nodes.Strays() == before
	})
}

// TestRefuse: of a batch those records are refused that are to be, and no others.
func TestRefuse(t *testing.T) {
	nodes, err := aeronodes.Start(endpoint(t), 2, namespace)
	must(t, err)
	t.Cleanup(nodes.Close)
	c := connect(t, nodes.Addrs()[0])
	// One that is not tried again finds no connection of a new client.
	if _, err := c.WarmUp(4); err != nil {
		t.Fatal(err)
	}
	all := keys(t, 40)
	codes := map[codec.Result]types.ResultCode{codec.OK: types.OK, codec.KeyBusy: types.KEY_BUSY, codec.Unavailable: types.PARTITION_UNAVAILABLE}
	refuse := func(partition int) codec.Result {
		switch partition % 4 {
		case 0:
			return codec.KeyBusy
		case 1:
			return codec.Unavailable
		}
		return codec.OK
	}
	for _, refused := range []func(int) codec.Result{refuse, func(int) codec.Result { return codec.KeyBusy }, nil} {
		nodes.Refuse(refused)
		var entries []as.BatchRecordIfc
		for i, k := range all {
			if i%3 == 0 {
				entries = append(entries, as.NewBatchWrite(nil, k, as.AddOp(as.NewBin("n", 1))))
			} else { // those in a row repeat what the first says
				entries = append(entries, as.NewBatchWrite(nil, k, as.PutOp(as.NewBin("same", 1))))
			}
		}
		policy := as.NewWriteBatchPolicy()
		policy.TotalTimeout, policy.SocketTimeout, policy.MaxRetries = time.Minute, time.Minute, 0
		if err := c.BatchOperate(policy, entries); err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			want := codec.OK
			if refused != nil {
				want = refused(aeronodes.PartitionOf([20]byte(all[i].Digest())))
			}
			if got := e.BatchRec().ResultCode; got != codes[want] {
				t.Errorf("record %d: %d, want %d", i, got, codes[want])
			}
			if refused == nil {
				continue
			}
			if err := c.Put(c.DefaultWritePolicy, all[i], as.BinMap{"m": 1}); (err == nil) != (want == codec.OK) || err != nil && !err.Matches(codes[want]) {
				t.Errorf("a put of record %d: %v, want %d", i, err, codes[want])
			}
		}
	}
}
