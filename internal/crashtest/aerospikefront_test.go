package crashtest_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/google/uuid"
)

// front is the load of Aerospike clients on an endpoint in front of a node: each
// appends its own numbers to its own record's text, and counts them in the same
// operation. Every fifth wants to know the count, which the node has to say.
type front struct {
	*aerospike
	node *aeroStore
	set  string
}

func newFront(t *testing.T, clients int) *front {
	node := newAeroStore(t)
	s := onAerospike(t, node, "WALPROXY_AEROWIRE__LISTEN=127.0.0.1:0")
	return &front{&aerospike{server: s, clients: clients, sent: make([]int, clients), acked: make([][]int, clients)}, node, "crash-" + uuid.NewString()[:8]}
}

func (f *front) key(client int) *as.Key {
	k, err := as.NewKey("test", f.set, client)
	if err != nil {
		f.Fatal(err)
	}
	return k
}

// write has every client write until the server has ended: until a write fails that
// does not need the node.
func (f *front) write(c *as.Client, total *atomic.Int64) {
	var wg sync.WaitGroup
	for i := range f.clients {
		wg.Go(func() {
			key := f.key(i)
			for {
				f.sent[i]++
				n := f.sent[i]
				ops := []*as.Operation{as.AppendOp(as.NewBin("text", fmt.Sprint(n, " "))), as.AddOp(as.NewBin("count", 1))}
				asks := n%5 == 0
				if asks {
					ops = append(ops, as.GetBinOp("count"))
				}
				if _, err := c.Operate(nil, key, ops...); err == nil {
					f.acked[i] = append(f.acked[i], n)
					total.Add(1)
				} else if !asks {
					return
				}
			}
		})
	}
	wg.Wait()
}

// check is aerospike's check, once the node answers.
func (f *front) check(ctx context.Context, c *as.Client) {
	f.Helper()
	for i := range f.clients {
		var rec *as.Record
		var err as.Error
		f.waitFor(ctx, "the node's answer", func() bool {
			rec, err = c.Get(nil, f.key(i))
			return err == nil || len(f.acked[i]) == 0
		})
		if err != nil {
			continue
		}
		there, last := map[int]bool{}, 0
		list := strings.Fields(rec.Bins["text"].(string))
		if rec.Bins["count"] != len(list) {
			f.Fatalf("client %d: %d numbers, counted %v", i, len(list), rec.Bins["count"])
		}
		for _, text := range list {
			n, err := strconv.Atoi(text)
			if err != nil || n <= last || n > f.sent[i] {
				f.Fatalf("client %d: %q stands behind %d (%v)", i, text, last, err)
			}
			there[n], last = true, n
		}
		for _, n := range f.acked[i] {
			if !there[n] {
				f.Fatalf("client %d: acknowledged %d is lost", i, n)
			}
		}
	}
}

// TestKillAerospikeFront kills walproxy, the node, and both, under clients whose
// writes are logged and forwarded, and compares after each.
func TestKillAerospikeFront(t *testing.T) {
	t.Parallel()
	ctx := timeout(t, 3*time.Minute, time.Hour)
	f, r := newFront(t, 8), rng(t)
	f.node.start(ctx)
	f.start(ctx)
	for round := range times(3, 90) {
		c := f.connect()
		f.check(ctx, c)
		var total atomic.Int64
		var wg sync.WaitGroup
		wg.Go(func() { f.write(c, &total) })
		more := func(n int64) {
			want := total.Load() + n
			f.waitFor(ctx, fmt.Sprint(want, " writes"), func() bool { return total.Load() >= want })
		}
		more(1 + r.Int64N(200))
		if round%3 != 0 && f.node.kill() {
			more(50) // acks go on
			if round%3 == 1 {
				f.node.start(ctx)
				more(1 + r.Int64N(100))
			}
		}
		f.process.Kill()
		wg.Wait()
		c.Close()
		if round%3 == 2 {
			f.node.start(ctx)
		}
		f.start(ctx)
	}
	c := f.connect()
	f.check(ctx, c)
	c.Close()
	f.stop()
}
