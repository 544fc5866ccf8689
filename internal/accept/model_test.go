package accept

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/wal"
)

// call is what one Submit was asked and said, and which LSNs existed around it.
type call struct {
	m             *walproxyv1.Mutation
	lsn           wal.LSN // 0: conflict
	conflict      ConflictError
	before, after wal.LSN // appended when it began and ended
}

// Writers with random preconditions on few keys, a store that lags at random, a
// tiny exact map: per key, the log is one history in which every accepted
// precondition held, and every conflict names a version that the record had
// while the call ran and that its precondition did not allow.
func TestLinearizable(t *testing.T) {
	rounds, writes := 3, 150
	if os.Getenv("WALPROXY_LONG") != "" {
		rounds, writes = 50, 1000
	}
	for range rounds {
		seed := rand.Uint64()
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { linearizable(t, seed, writes) }) {
			t.Logf("set seed in TestLinearizable to %d", seed)
		}
	}
}

func linearizable(t *testing.T, seed uint64, writes int) {
	r := newRig(t, t.TempDir(), func(r *rig) {
		r.opts.PendingExact = []int{1, 64 * 2, 1 << 16}[seed%3]
		r.opts.LookupTimeout = time.Minute
	})
	stop := make(chan struct{})
	var lag, writers sync.WaitGroup
	lag.Go(func() { lagging(r, rand.New(rand.NewPCG(seed, 0)), stop) })
	calls := make([][]call, 8)
	for w := range calls {
		writers.Go(func() { calls[w] = randomWrites(t, r, rand.New(rand.NewPCG(seed, uint64(w)+1)), writes) })
	}
	writers.Wait()
	close(stop)
	lag.Wait()
	// The store applied every precondition again, in LSN order.
	if err := r.store.Wait(t.Context(), r.log.Appended()); err != nil {
		t.Fatalf("the sink rejected what was accepted: %v", err)
	}
	checkHistory(t, r, calls)
}

// lagging holds and frees the store until stop, and leaves it free.
func lagging(r *rig, random *rand.Rand, stop chan struct{}) {
	defer r.store.holdAt(0)
	for {
		r.store.holdAt(r.log.Appended())
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(random.IntN(2000)) * time.Microsecond):
		}
		r.store.holdAt(0)
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(random.IntN(500)) * time.Microsecond):
		}
	}
}

func randomWrites(t *testing.T, r *rig, random *rand.Rand, n int) (calls []call) {
	event := &walproxyv1.Event{}
	lists := [][]*walproxyv1.Op{
		{mutation.SetOp(one)}, {mutation.MergeOp(one)}, {mutation.UnsetOp("n")}, {mutation.IncrementOp(one)}, {mutation.TouchOp()},
		{mutation.DeleteOp()}, {mutation.DeleteOp(), mutation.AppendEventOp(event)}, {mutation.AppendEventOp(event)},
	}
	known := map[string]ConflictError{} // what this writer believes
	for range n {
		key := string(rune('a' + random.IntN(3)))
		m := mutation.New("c", mutation.String(key), lists[random.IntN(len(lists))])
		switch random.IntN(6) {
		case 0, 1, 2:
			mutation.IfVersion(known[key].Version)(m)
		case 3:
			mutation.IfAbsent()(m)
		case 4:
			mutation.IfEventCount(known[key].EventCount)(m)
		}
		c := call{m: m, before: r.log.Appended()}
		res, err := r.do(t.Context(), record(m))
		c.after, c.lsn = r.log.Appended(), res.LSN
		var conflict *ConflictError
		switch {
		case errors.As(err, &conflict):
			c.lsn, c.conflict = 0, *conflict
			known[key] = *conflict
		case err != nil:
			t.Errorf("%v: %v", m, err)
			return calls
		default:
			known[key] = ConflictError{Version: res.LSN, EventCount: res.EventCount}
		}
		calls = append(calls, c)
	}
	return calls
}

// checkHistory replays the log over a map and holds every call against it.
func checkHistory(t *testing.T, r *rig, calls [][]call) {
	docs := map[string]*mutation.Document{}
	// history holds each key's record behind every LSN, from 0.
	history := map[string][]*mutation.Document{"a": {nil}, "b": {nil}, "c": {nil}}
	for i, rec := range r.records() {
		m := rec.GetMutation()
		key := m.GetKey().GetString_()
		e, err := mutation.Apply(docs[key], m, wal.LSN(i+1), unixTime(rec.AcceptedUnixNanos))
		if err != nil {
			t.Fatalf("LSN %d: %v", i+1, err)
		}
		docs[key] = e.Document
		for k := range history {
			history[k] = append(history[k], docs[k])
		}
	}
	conflicts := 0
	for _, list := range calls {
		for _, c := range list {
			if c.lsn != 0 {
				if c.lsn <= c.before || c.lsn > c.after {
					t.Fatalf("LSN %d outside of %d..%d", c.lsn, c.before, c.after)
				}
				continue
			}
			conflicts++
			if !justified(c, history[c.m.GetKey().GetString_()]) {
				t.Fatalf("%v: a conflict with version %d, %d events, which it had at no time in %d..%d", c.m, c.conflict.Version, c.conflict.EventCount, c.before, c.after)
			}
		}
	}
	if conflicts == 0 {
		t.Error("nothing ever conflicted")
	}
}

func justified(c call, history []*mutation.Document) bool {
	_, events := c.m.GetPrecondition().GetKind().(*walproxyv1.Precondition_IfEventCount)
	for _, doc := range history[c.before : c.after+1] {
		k := knownOf(doc)
		if k.version == c.conflict.Version && (!events || k.events == c.conflict.EventCount) && !k.judge(c.m.GetPrecondition(), noon).holds {
			return true
		}
	}
	return false
}
