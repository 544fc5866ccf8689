package aerospike

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/pebble"
)

// namespace that the tests write to.
const namespace = "test"

// realServers are the addresses, separated by commas, of all nodes of an Aerospike
// cluster that the tests run against instead of walproxy's own endpoint.
var realServers = split(os.Getenv("WALPROXY_TEST_AEROSPIKE"))

func split(hosts string) []string {
	if hosts == "" {
		return nil
	}
	return strings.Split(hosts, ",")
}

func TestMain(m *testing.M) {
	if config := os.Getenv(processEnv); config != "" {
		os.Exit(runProcess(config))
	}
	if os.Getenv("WALPROXY_LONG") == "" && flag.Lookup("rapid.checks") != nil {
		if err := flag.Set("rapid.checks", "12"); err != nil { // -rapid.checks still asks for more
			panic(err)
		}
	}
	goleak.VerifyTestMain(main{m})
}

type main struct{ *testing.M }

func (m main) Run() int {
	code := m.M.Run()
	if err := common.close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// common is the store that all tests share, each in sets of its own.
var common cluster

// cluster is the store: the endpoint on a Pebble sink, on a real connection, or the
// real server.
type cluster struct {
	once sync.Once
	err  error
	tls  *tls.Config

	addrs []string // of the nodes

	dir    string
	store  *pebble.Sink
	proxy  *walproxy.Proxy
	server *aerowire.Server
}

// at returns the addresses of the store's nodes.
func (c *cluster) at(t testing.TB) []string {
	t.Helper()
	c.once.Do(func() {
		if c.addrs = realServers; c.addrs == nil {
			c.err = c.open()
		}
	})
	if c.err != nil {
		t.Fatal(c.err)
	}
	return c.addrs
}

func (c *cluster) open() (err error) {
	if c.dir, err = os.MkdirTemp("", "sink-aerospike-*"); err != nil {
		return err
	}
	if c.store, err = pebble.Open(filepath.Join(c.dir, "sink"), pebble.Options{}); err != nil {
		return err
	}
	o := walproxy.Options{
		Dir: c.dir, Sinks: []walproxy.SinkOptions{{Name: "main", Sink: c.store}}, DrainTimeout: 20 * time.Second,
		KeyTypes: []walproxy.KeyType{
			{Collection: namespace, Type: mutation.KeyBytes}, {Collection: namespace + ".*", Type: mutation.KeyBytes},
		},
	}
	o.Log.MinFree = -1
	if c.proxy, err = walproxy.Open(context.Background(), o); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.addrs = []string{listener.Addr().String()}
	c.server, err = aerowire.Start(aerowire.Options{Core: api.New(c.proxy), Listener: listener, Namespaces: []string{namespace}, TLS: c.tls})
	return err
}

func (c *cluster) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	if c.server != nil {
		errs = append(errs, c.server.Close(ctx))
	}
	if c.proxy != nil {
		errs = append(errs, c.proxy.Close(ctx))
	}
	if c.store != nil {
		errs = append(errs, c.store.Close(ctx))
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

// options are for a sink in sets of its own.
func options(t testing.TB) Options {
	t.Helper()
	name := uuid.NewString()[:8]
	return Options{
		Hosts: common.at(t), Namespace: namespace,
		State: Place{namespace, "state-" + name},
		Collections: []Collection{{Pattern: "sinktest", Set: "set-" + name}, {Pattern: collection, Set: "things-" + name},
			{Pattern: rawCollection, Set: "raw-" + name, Digest: true}},
		Services: Services{SeedOnly: true},
		// A loaded machine is slow, not wrong.
		Timeouts: Timeouts{Connect: 30 * time.Second, Socket: 30 * time.Second, Total: 30 * time.Second},
	}
}

// long is whether the tests take as long as they like.
func long() bool { return os.Getenv("WALPROXY_LONG") != "" }

func closeSink(sink sinks.Sink) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return sink.Close(ctx)
}
