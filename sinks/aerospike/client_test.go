package aerospike

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"

	"github.com/walproxy/walproxy/sinks"
)

func open(t *testing.T, o Options) *Sink {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closeSink(s); err != nil {
			t.Error(err)
		}
	})
	return s
}

// works fails unless the sink's client answers.
func works(t *testing.T, s *Sink) *as.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := s.client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := s.readPolicy(ctx)
	if err != nil {
		t.Fatal(err)
	}
	key, aerr := as.NewKey(namespace, s.o.State.Set, "nothing")
	if aerr != nil {
		t.Fatal(aerr)
	}
	if _, aerr := c.Exists(policy, key); aerr != nil {
		t.Fatal(aerr)
	}
	return c
}

// TestSharedClient: sinks on one cluster have one client; it goes on until the last
// of them is closed, and a sink opened after that has one that works (F4).
func TestSharedClient(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Clients = NewClients()
	for range 3 {
		a, b := open(t, o), open(t, o)
		client := works(t, a)
		if works(t, b) != client {
			t.Fatal("two sinks on one cluster have two clients")
		}
		if err := closeSink(a); err != nil {
			t.Fatal(err)
		}
		if err := closeSink(a); err != nil {
			t.Fatalf("the second Close: %v", err)
		}
		if works(t, b) != client || !client.IsConnected() {
			t.Fatal("the client ended with the first of its sinks")
		}
		if err := closeSink(b); err != nil {
			t.Fatal(err)
		}
		if client.IsConnected() {
			t.Fatal("the client outlives its sinks")
		}
	}
	if n := len(o.Clients.shared); n != 0 {
		t.Fatalf("%d clients are left", n)
	}
}

// TestClientsApart: another user is another client.
func TestClientsApart(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Clients = NewClients()
	a := open(t, o)
	o.Timeouts.Total = 40 * time.Second
	if works(t, a) == works(t, open(t, o)) {
		t.Fatal("sinks with other time-outs share a client")
	}
}

// TestClientRaces opens, uses and closes sinks on one cluster at once.
func TestClientRaces(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Clients = NewClients()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				s, err := Open(o)
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if _, err := s.client(ctx); err != nil {
					t.Error(err)
				}
				cancel()
				if err := closeSink(s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestAway: a cluster that is away is no error of Open; calls say retry, and work
// once it is there.
func TestAway(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := options(t)
	o.Hosts = []string{listener.Addr().String()}
	o.Timeouts.Connect = time.Second
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.client(ctx); sinks.OutcomeOf(err) != sinks.Retry {
		t.Fatalf("with nobody there: %v, outcome %v; want retry", err, sinks.OutcomeOf(err))
	}
	cancelled, stop := context.WithCancel(ctx)
	stop()
	if _, err := s.client(cancelled); err == nil {
		t.Fatal("a cancelled call got a client of nobody")
	}
	if err := closeSink(s); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client(ctx); !errors.Is(err, sinks.ErrClosed) {
		t.Fatalf("after Close: %v, want sinks.ErrClosed", err)
	}
}

// TestWrongCluster: what no retry mends halts, and says what to do.
func TestWrongCluster(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(*Options){
		"correct hosts or cluster_name": func(o *Options) { o.ClusterName = "another" },
		"leave user and password out":   func(o *Options) { o.Login = Login{User: "u", Password: "p"} },
	} {
		o := options(t)
		change(&o)
		s := open(t, o)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := s.client(ctx); sinks.OutcomeOf(err) != sinks.Halt || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, outcome %v; want halt, and %q", err, sinks.OutcomeOf(err), what)
		}
	}
	o := options(t)
	o.Namespace, o.Collections = "elsewhere", nil
	d := newDirect(t, o)
	r := d.want(d.batch(add("k", 1)), sinks.Halt)
	if !strings.Contains(r[0].Err.Error(), "create the namespace") {
		t.Errorf("%v does not say what to do", r[0].Err)
	}
	r = d.want(d.batch(add("k", 1), add("l", 1)), sinks.Halt)
	if !strings.Contains(r[1].Err.Error(), "create the namespace") {
		t.Errorf("%v does not say what to do", r[1].Err)
	}
}
