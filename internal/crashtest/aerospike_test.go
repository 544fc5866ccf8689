package crashtest_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
)

// aerospike is the load of Aerospike clients: each appends its own numbers to its
// own record's list, and counts them in the same operation.
type aerospike struct {
	*server
	clients int
	sent    []int   // by client: the last number that was sent
	acked   [][]int // by client: those acknowledged
}

func newAerospike(t *testing.T, clients int) *aerospike {
	s := newServer(t, t.TempDir(), "WALPROXY_AEROWIRE__LISTEN=127.0.0.1:0")
	return &aerospike{server: s, clients: clients, sent: make([]int, clients), acked: make([][]int, clients)}
}

// connect returns a client that never repeats a write by itself.
func (a *aerospike) connect() *as.Client {
	a.Helper()
	host, port, err := net.SplitHostPort(a.process.Addr("aerowire"))
	if err != nil {
		a.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		a.Fatal(err)
	}
	policy := as.NewClientPolicy()
	policy.Timeout = 30 * time.Second
	c, aerr := as.NewClientWithPolicy(policy, host, n)
	if aerr != nil {
		a.Fatal(aerr)
	}
	c.DefaultWritePolicy.MaxRetries = 0
	c.DefaultWritePolicy.TotalTimeout, c.DefaultWritePolicy.SocketTimeout = time.Minute, time.Minute
	c.DefaultPolicy.TotalTimeout, c.DefaultPolicy.SocketTimeout = time.Minute, time.Minute
	return c
}

func (a *aerospike) key(client int) *as.Key {
	k, err := as.NewKey("test", "crash", client)
	if err != nil {
		a.Fatal(err)
	}
	return k
}

// write has every client append until its first error, which is the server's end.
// total counts what is acknowledged.
func (a *aerospike) write(c *as.Client, total *atomic.Int64) {
	var wg sync.WaitGroup
	for i := range a.clients {
		wg.Go(func() {
			key := a.key(i)
			for {
				a.sent[i]++
				n := a.sent[i]
				_, err := c.Operate(nil, key, as.ListAppendOp("list", n), as.AddOp(as.NewBin("count", 1)),
					as.MapPutOp(as.DefaultMapPolicy(), "map", n%10, n))
				if err != nil {
					return
				}
				a.acked[i] = append(a.acked[i], n)
				total.Add(1)
			}
		})
	}
	wg.Wait()
}

// check compares every record with what its client knows: each acknowledged number
// once, in order, and of the others none twice.
func (a *aerospike) check(c *as.Client) {
	a.Helper()
	for i := range a.clients {
		rec, err := c.Get(nil, a.key(i))
		if err != nil {
			if len(a.acked[i]) == 0 {
				continue
			}
			a.Fatalf("client %d: %v", i, err)
		}
		list := rec.Bins["list"].([]any)
		if rec.Bins["count"] != len(list) || int(rec.Generation) != len(list) {
			a.Fatalf("client %d: %d numbers, counted %v, generation %d", i, len(list), rec.Bins["count"], rec.Generation)
		}
		there, last := map[int]bool{}, 0
		for _, v := range list {
			n := v.(int)
			if n <= last || n > a.sent[i] {
				a.Fatalf("client %d: %d stands behind %d", i, n, last)
			}
			there[n], last = true, n
		}
		for _, n := range a.acked[i] {
			if !there[n] {
				a.Fatalf("client %d: acknowledged %d is lost", i, n)
			}
		}
	}
}

// TestKillAerospike kills the server at random instants under operations that are
// evaluated by it, and compares after each restart.
func TestKillAerospike(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, time.Hour)
	a, r := newAerospike(t, 12), rng(t)
	a.start(ctx)
	for range times(6, 100) {
		c := a.connect()
		a.check(c)
		var total atomic.Int64
		var wg sync.WaitGroup
		wg.Go(func() { a.write(c, &total) })
		want := int64(1 + r.IntN(400))
		a.waitFor(ctx, fmt.Sprint(want, " writes"), func() bool { return total.Load() >= want })
		a.process.Kill()
		wg.Wait()
		c.Close()
		a.start(ctx)
	}
	c := a.connect()
	a.check(c)
	c.Close()
	a.stop()
}

// TestTerminateAerospike stops the server under load: every connection ends with an
// answer or without one, and what was answered is there.
func TestTerminateAerospike(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 2*time.Minute, 10*time.Minute)
	a := newAerospike(t, 12)
	a.start(ctx)
	for range times(2, 20) {
		c := a.connect()
		var total atomic.Int64
		var wg sync.WaitGroup
		wg.Go(func() { a.write(c, &total) })
		a.waitFor(ctx, "300 writes", func() bool { return total.Load() >= 300 })
		a.stop()
		wg.Wait()
		c.Close()
		a.start(ctx)
		c = a.connect()
		a.check(c)
		c.Close()
	}
	a.stop()
}

// waitFor polls a condition until ctx ends.
func (a *aerospike) waitFor(ctx context.Context, what string, ok func() bool) {
	a.Helper()
	for !ok() {
		select {
		case <-ctx.Done():
			a.Fatalf("%s: %v", what, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}
