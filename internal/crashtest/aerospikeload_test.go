package crashtest_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"
)

// aerospike is the load of Aerospike clients on a server's endpoint: each writes its
// own numbers into records of its own, and counts them in the same operations.
type aerospike struct {
	*server
	set string
	// form is a write of a number; asks: it needs the store's answer.
	form func(n int) (ops []*as.Operation, asks bool)
	// also is what a client does behind the write of its n-th number; nil: nothing.
	also func(c *as.Client, client, n int)
	// comesBack is whether the server is started again at its address under the load.
	// Where it is not, clients end with it.
	comesBack bool
	// loses is whether the store may lose what it alone has acknowledged; lost counts that.
	loses bool
	lost  int
	mine  []*numbers // by client
	old   []*numbers // that were written before the last renew
	epoch int
	total atomic.Int64
}

// numbers are those of one record, from 1.
type numbers struct {
	key  *as.Key
	fate []fate
}

// fate of a write.
type fate byte

const (
	unsure  fate = iota // there or not
	refused             // not there
	logged              // acknowledged, from the log
	told                // acknowledged by the store
	fallen              // the same, and it was not there when it was looked for
)

func (n *numbers) most(of ...fate) (count int) {
	for _, f := range n.fate {
		if slices.Contains(of, f) {
			count++
		}
	}
	return count
}

// onEndpoint is the load of so many clients on a server's endpoint.
func onEndpoint(s *server, set string, clients int, form func(n int) ([]*as.Operation, bool)) *aerospike {
	s.Helper()
	a := &aerospike{server: s, set: set, form: form, mine: make([]*numbers, clients)}
	a.renew()
	return a
}

// renew has the clients write to other records from now on: they would grow too large.
func (a *aerospike) renew() {
	a.Helper()
	if a.mine[0] != nil {
		a.old = append(a.old, a.mine...)
	}
	a.epoch++
	for i := range a.mine {
		a.mine[i] = &numbers{key: a.key(fmt.Sprintf("%d, %d", a.epoch, i))}
	}
}

func (a *aerospike) key(name string) *as.Key {
	a.Helper()
	k, err := as.NewKey("test", a.set, name)
	if err != nil {
		a.Fatal(err)
	}
	return k
}

// evaluated are operations that walproxy does itself.
func evaluated(n int) ([]*as.Operation, bool) {
	return []*as.Operation{as.ListAppendOp("list", n), as.AddOp(as.NewBin("count", 1)),
		as.MapPutOp(as.DefaultMapPolicy(), "map", n%10, n)}, false
}

// connect returns a client that never repeats a write by itself.
func (a *aerospike) connect() *as.Client {
	a.Helper()
	hosts, err := as.NewHosts(a.process.Addr("aerowire"))
	if err != nil {
		a.Fatal(err)
	}
	policy := as.NewClientPolicy()
	policy.Timeout, policy.TendInterval, policy.MaxErrorRate = 30*time.Second, 50*time.Millisecond, 0
	c, err := as.NewClientWithPolicyAndHost(policy, hosts...)
	if err != nil {
		a.Fatal(err)
	}
	// It finds no connection for as long as there is none, however often it may try.
	c.DefaultWritePolicy.MaxRetries, c.DefaultWritePolicy.SleepBetweenRetries = 0, 20*time.Millisecond
	c.DefaultWritePolicy.TotalTimeout, c.DefaultWritePolicy.SocketTimeout = time.Minute, time.Minute
	c.DefaultPolicy.TotalTimeout, c.DefaultPolicy.SocketTimeout = time.Minute, time.Minute
	return c
}

// load writes until stop is called. The caller stops it before it reads what was
// written.
func (a *aerospike) load(c *as.Client) (stop func()) {
	var wg sync.WaitGroup
	ended := make(chan struct{})
	for i, mine := range a.mine {
		wg.Go(func() {
			for failed := false; ; {
				pause := time.After(0)
				if failed { // not as fast as it is refused
					pause = time.After(time.Millisecond)
				}
				select {
				case <-ended:
					return
				case <-pause:
				}
				n := len(mine.fate) + 1
				ops, asks := a.form(n)
				mine.fate = append(mine.fate, unsure)
				_, err := c.Operate(nil, mine.key, ops...)
				mine.fate[n-1] = fateOf(err, asks)
				if failed = err != nil; !failed {
					a.total.Add(1)
				}
				if mine.fate[n-1] == unsure && !a.comesBack {
					return // the next one would look for a connection for a minute
				}
				if a.also != nil {
					a.also(c, i, n)
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		close(ended)
		wg.Wait()
	})
}

func fateOf(err as.Error, asks bool) fate {
	switch {
	case err == nil && asks:
		return told
	case err == nil:
		return logged
	case err.Matches(types.PARTITION_UNAVAILABLE):
		return refused
	}
	return unsure
}

// more waits until n more writes are acknowledged.
func (a *aerospike) more(ctx context.Context, n int) {
	a.Helper()
	want := a.total.Load() + int64(n)
	waitFor(ctx, a.T, fmt.Sprint(n, " more writes"), func() bool { return a.total.Load() >= want })
}

// get reads a record once the store answers. nil: it is absent.
func (a *aerospike) get(ctx context.Context, c *as.Client, key *as.Key) (rec *as.Record) {
	a.Helper()
	waitFor(ctx, a.T, "the store's answer", func() bool {
		var err as.Error
		rec, err = c.Get(nil, key)
		return err == nil || err.Matches(types.KEY_NOT_FOUND_ERROR)
	})
	return rec
}

// check compares every record with what its client knows: each acknowledged number
// once, in order, none that was refused, and of the others none twice.
func (a *aerospike) check(ctx context.Context, c *as.Client) {
	a.Helper()
	for _, n := range a.mine {
		if err := a.compare(n, a.get(ctx, c, n.key)); err != nil {
			a.Fatalf("record %s: %v", n.key.Value(), err)
		}
	}
}

func (a *aerospike) compare(n *numbers, rec *as.Record) error {
	bins := as.BinMap{}
	if rec != nil {
		bins = rec.Bins
	}
	count, _ := bins["count"].(int)
	there, err := numbersIn(bins)
	if err != nil {
		return err
	}
	if there == nil { // it is a counter alone, or absent
		least, most := n.most(logged), n.most(logged, told, fallen, unsure)
		if !a.loses {
			least += n.most(told)
		}
		if count < least || count > most {
			return fmt.Errorf("it is %d, of %d acknowledged and %d sent", count, least, most)
		}
		return nil
	}
	if count != len(there) {
		return fmt.Errorf("%d numbers, counted %d", len(there), count)
	}
	if bins["map"] != nil && int(rec.Generation) != count {
		return fmt.Errorf("%d numbers, generation %d", count, rec.Generation)
	}
	last := 0
	for _, v := range there {
		if v <= last || v > len(n.fate) {
			return fmt.Errorf("%d stands behind %d, %d was sent last", v, last, len(n.fate))
		}
		if n.fate[v-1] == refused {
			return fmt.Errorf("%d was refused, and is there", v)
		}
		last = v
	}
	for i, f := range n.fate {
		_, has := slices.BinarySearch(there, i+1)
		_, asks := a.form(i + 1)
		switch {
		case f == told && a.loses && !has:
			n.fate[i], a.lost = fallen, a.lost+1
		case f == fallen && has: // a node that had it has come back
			n.fate[i], a.lost = told, a.lost-1
		case (f == logged || f == told) && !has:
			return fmt.Errorf("acknowledged %d is lost (%d numbers are there, of %d)", i+1, len(there), len(n.fate))
		case f == unsure && !asks: // the log decides once
			n.fate[i] = refused
			if has {
				n.fate[i] = logged
			}
		}
	}
	return sameNumbers(there, bins)
}

// numbersIn are the numbers that a record's list or text holds; nil: it has neither.
func numbersIn(bins as.BinMap) (list []int, err error) {
	switch text, isText := bins["text"].(string); {
	case isText:
		for _, word := range strings.Fields(text) {
			n, err := strconv.Atoi(word)
			if err != nil {
				return nil, err
			}
			list = append(list, n)
		}
	case bins["list"] != nil:
		for _, v := range bins["list"].([]any) {
			list = append(list, v.(int))
		}
	}
	return list, nil
}

// sameNumbers holds a record's other bins against its numbers: "slots" and "map" have
// the last of each remainder, "asked" those that the store was asked to write.
func sameNumbers(there []int, bins as.BinMap) error {
	slots, _ := bins["slots"].([]any)
	places, _ := bins["map"].(map[any]any)
	var asked []any
	last := map[int]int{}
	for _, n := range there {
		if asks(n) {
			asked = append(asked, n)
		}
		last[n%10] = n
	}
	if got, isList := bins["asked"].([]any); isList && !slices.Equal(got, asked) {
		return fmt.Errorf("the store was asked to write %v, it has %v", asked, got)
	}
	for place, n := range last {
		if places != nil && places[place] != n || slots != nil && (len(slots) <= place || slots[place] != n) {
			return fmt.Errorf("%d was written last to its place, which is %v, %v", n, places, slots)
		}
	}
	return nil
}

// waitFor polls a condition until ctx ends.
func waitFor(ctx context.Context, t *testing.T, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}
