package aerowire_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"

	"github.com/walproxy/walproxy/api/aerowire"
)

// refusedWith wants an error of a code.
func refusedWith(t testing.TB, what string, err as.Error, code types.ResultCode) {
	t.Helper()
	if err == nil || !err.Matches(code) {
		t.Errorf("%s: %v, want %s", what, err, types.ResultCodeToString(code))
	}
}

// TestFront: what a client writes is in the cluster under the same names, what it asks
// is answered there with all that it has written, and what walproxy keeps beside it is
// not shown.
func TestFront(t *testing.T) {
	t.Parallel()
	r := newFrontRig(t, "")
	c, direct := connect(t, r.addr), connect(t, r.store)
	k := key(t, "front", "one")
	bins := func(c *as.Client) map[string]any {
		t.Helper()
		rec, err := c.Get(nil, k)
		if err != nil {
			t.Fatal(err)
		}
		own := maps.Clone(map[string]any(rec.Bins))
		maps.DeleteFunc(own, func(name string, _ any) bool { return name[:min(3, len(name))] == "wp." })
		if c != direct && len(own) != len(rec.Bins) {
			t.Errorf("bins of walproxy's show: %v", rec.Bins)
		}
		return own
	}
	must := func(err as.Error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, k := range []*as.Key{k, key(t, "", "of no set")} {
		must(c.Put(nil, k, as.BinMap{"n": i, "text": "a", "map": map[any]any{1: "x"}}))
		must(c.Add(nil, k, as.BinMap{"n": 5}))
		must(c.Append(nil, k, as.BinMap{"text": "b"}))
		rec, err := c.Get(nil, k)
		must(err)
		if got := fmt.Sprint(rec.Bins); got != fmt.Sprintf("map[map:map[1:x] n:%d text:ab]", i+5) {
			t.Errorf("%v: %s", k, got)
		}
		if rec, err := direct.Get(nil, k); err != nil || fmt.Sprint(rec.Bins["text"]) != "ab" {
			t.Errorf("%v in the cluster: %v, %v", k, rec, err)
		}
	}

	create := as.NewWritePolicy(0, 0)
	create.RecordExistsAction = as.CREATE_ONLY
	refusedWith(t, "create", c.Put(create, k, as.BinMap{"n": 1}), types.KEY_EXISTS_ERROR)
	rec, err := c.Operate(nil, k, as.AddOp(as.NewBin("n", 1)), as.GetBinOp("n"))
	must(err)
	if rec.Bins["n"] != 6 {
		t.Errorf("operate: %v", rec.Bins)
	}
	rec, err = c.Get(nil, k)
	must(err)
	same := as.NewWritePolicy(rec.Generation, 0)
	same.GenerationPolicy = as.EXPECT_GEN_EQUAL
	must(c.Put(same, k, as.BinMap{"n": 10}))
	refusedWith(t, "of an old generation", c.Put(same, k, as.BinMap{"n": 11}), types.GENERATION_ERROR)
	if _, err := c.Delete(same, k); err == nil || !err.Matches(types.GENERATION_ERROR) {
		t.Errorf("delete of an old generation: %v", err)
	}
	refusedWith(t, "a bin of walproxy's", c.Put(nil, k, as.BinMap{"wp.dead": 1}), types.BIN_NAME_TOO_LONG)

	refusedWith(t, "a set of walproxy's", c.Put(nil, key(t, r.state, "stream"), as.BinMap{"n": 1}), types.FAIL_FORBIDDEN)
	_, err = c.Get(nil, key(t, r.state, "stream"))
	refusedWith(t, "a set of walproxy's, read", err, types.FAIL_FORBIDDEN)

	if existed, err := c.Delete(nil, k); err != nil || !existed {
		t.Errorf("delete: %v, %v", existed, err)
	}
	if existed, err := c.Delete(nil, k); err != nil || existed {
		t.Errorf("second delete: %v, %v", existed, err)
	}
	if exists, err := c.Exists(nil, k); err != nil || exists {
		t.Errorf("exists: %v, %v", exists, err)
	}
	must(c.Put(create, k, as.BinMap{"anew": 1}))
	if got, in := fmt.Sprint(bins(c)), fmt.Sprint(bins(direct)); got != "map[anew:1]" || in != got {
		t.Errorf("made anew: %s, in the cluster %s", got, in)
	}
	if rec, err := c.Operate(nil, k, as.GetOp(), as.DeleteOp()); err != nil || rec.Bins["anew"] != 1 {
		t.Errorf("read and deleted: %v, %v", rec, err)
	}
	if exists, err := c.Exists(nil, k); err != nil || exists {
		t.Errorf("exists: %v, %v", exists, err)
	}

	var rows []as.BatchRecordIfc
	for i := range 100 {
		k := key(t, "batch", i)
		rows = append(rows, as.NewBatchWrite(nil, k, as.PutOp(as.NewBin("n", i))), as.NewBatchWrite(nil, k, as.AddOp(as.NewBin("n", 1)), as.GetBinOp("n")),
			as.NewBatchRead(nil, k, nil))
		if i%10 == 0 {
			rows = append(rows, as.NewBatchDelete(nil, k), as.NewBatchRead(nil, k, nil))
		}
	}
	must(c.BatchOperate(nil, rows))
	for i, at := 0, 0; i < 100; i++ {
		read := rows[at+2].BatchRec()
		if rows[at].BatchRec().ResultCode != types.OK || read.Err != nil || read.Record.Bins["n"] != i+1 {
			t.Fatalf("row %d: %v, %v", i, rows[at].BatchRec(), read)
		}
		at += 3
		if i%10 == 0 {
			if a, b := rows[at].BatchRec().ResultCode, rows[at+1].BatchRec().ResultCode; a != types.OK || b != types.KEY_NOT_FOUND_ERROR {
				t.Fatalf("row %d: deleted with %d, then read with %d", i, a, b)
			}
			at += 2
		}
	}
}

// TestFrontScan: scans show what was acknowledged, and nothing that was deleted or is
// walproxy's; a truncate deletes what they show.
func TestFrontScan(t *testing.T) {
	t.Parallel()
	r := newFrontRig(t, "")
	c := connect(t, r.addr)
	const n = 60
	for i := range n {
		if err := c.Put(nil, key(t, "scan", i), as.BinMap{"n": i}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Put(nil, key(t, "scan-other", 1), as.BinMap{"n": 1}); err != nil {
		t.Fatal(err)
	}
	if existed, err := c.Delete(nil, key(t, "scan", 0)); err != nil || !existed {
		t.Fatal(existed, err)
	}
	count := func(p *as.ScanPolicy, filter *as.PartitionFilter, set string) (count int) {
		t.Helper()
		results, err := c.ScanPartitions(p, filter, namespace, set)
		if err != nil {
			t.Fatal(err)
		}
		for res := range results.Results() {
			if res.Err != nil {
				t.Fatal(res.Err)
			}
			if got := fmt.Sprint(slices.Collect(maps.Keys(res.Record.Bins))); got != "[n]" {
				t.Errorf("bins %s", got)
			}
			count++
		}
		return count
	}
	check := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d records, want %d", what, got, want)
		}
	}
	check("a set", count(nil, as.NewPartitionFilterAll(), "scan"), n-1)
	check("halves", count(nil, as.NewPartitionFilterByRange(0, 2000), "scan")+count(nil, as.NewPartitionFilterByRange(2000, 2096), "scan"), n-1)
	few := as.NewScanPolicy()
	few.FilterExpression = as.ExpLess(as.ExpIntBin("n"), as.ExpIntVal(20))
	check("a filter", count(few, as.NewPartitionFilterAll(), "scan"), 19)
	pages, filter := 0, as.NewPartitionFilterAll()
	page := as.NewScanPolicy()
	page.MaxRecords = 25
	for !filter.IsDone() {
		pages += count(page, filter, "scan")
	}
	check("page by page", pages, n-1)
	if realServer == "" { // where there are others' records
		check("the namespace", count(nil, as.NewPartitionFilterAll(), ""), n)
	}
	before := time.Now()
	refusedWith(t, "truncate the older", c.Truncate(nil, namespace, "scan", &before), types.UNSUPPORTED_FEATURE)
	if err := c.Truncate(nil, namespace, "scan", nil); err != nil {
		t.Fatal(err)
	}
	check("truncated", count(nil, as.NewPartitionFilterAll(), "scan"), 0)
	check("the others", count(nil, as.NewPartitionFilterAll(), "scan-other"), 1)
}

// counter is one record that many raise, and what they were told.
type counter struct {
	key            *as.Key
	started, acked atomic.Int64
	mu             sync.Mutex
	told           []int
}

// raise calls f, which adds one and may say what the sum is then, and holds that
// against what had been acknowledged and begun.
func (n *counter) raise(t testing.TB, f func() (sum int, known bool, err as.Error)) bool {
	before := n.acked.Load()
	n.started.Add(1)
	sum, known, err := f()
	for end := time.Now().Add(time.Minute); err != nil && err.Matches(types.PARTITION_UNAVAILABLE) && !err.IsInDoubt() && time.Now().Before(end); {
		sum, known, err = f() // the store was late, and nothing was done
	}
	if err != nil {
		t.Error(err)
		return false
	}
	n.acked.Add(1)
	if !known {
		return true
	}
	if low, high := before+1, n.started.Load(); int64(sum) < low || int64(sum) > high {
		t.Errorf("the sum is %d; %d writes were acknowledged before, %d begun since", sum, low-1, high)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, sum)
	return true
}

// TestFrontOrder: on one record the writes that are logged and those that the cluster
// is asked for come one after the other: no sum is told twice, none is older than what
// was acknowledged before, none is lost.
func TestFrontOrder(t *testing.T) {
	t.Parallel()
	r := newFrontRig(t, "")
	c := connect(t, r.addr)
	var counters []*counter
	for i := range 3 {
		counters = append(counters, &counter{key: key(t, "order", i)})
	}
	const clients, ops = 8, 40
	var all sync.WaitGroup
	for g := range clients {
		rnd := rand.New(rand.NewPCG(uint64(g), 7))
		all.Go(func() {
			for range ops {
				n := counters[rnd.IntN(len(counters))]
				ok := true
				switch rnd.IntN(5) {
				case 0, 1:
					ok = n.raise(t, func() (int, bool, as.Error) { return 0, false, c.Add(nil, n.key, as.BinMap{"n": 1}) })
				case 2:
					ok = n.raise(t, func() (int, bool, as.Error) {
						rec, err := c.Operate(nil, n.key, as.AddOp(as.NewBin("n", 1)), as.GetBinOp("n"))
						if err != nil {
							return 0, false, err
						}
						return rec.Bins["n"].(int), true, nil
					})
				case 3:
					ok = n.raise(t, func() (int, bool, as.Error) { return readAndReplace(c, n.key) })
				case 4: // a read sees what was acknowledged
					before := n.acked.Load()
					rec, err := c.Get(nil, n.key)
					switch {
					case err != nil && before == 0 && err.Matches(types.KEY_NOT_FOUND_ERROR):
					case err != nil:
						t.Error(err)
						return
					case int64(rec.Bins["n"].(int)) < before:
						t.Errorf("read %v, %d were acknowledged", rec.Bins["n"], before)
					}
				}
				if !ok {
					return
				}
			}
		})
	}
	all.Wait()
	for _, n := range counters {
		rec, err := c.Get(nil, n.key)
		if err != nil || int64(rec.Bins["n"].(int)) != n.acked.Load() {
			t.Errorf("%v is %v (%v), want %d", n.key, rec, err, n.acked.Load())
		}
		slices.Sort(n.told)
		if len(slices.Compact(slices.Clone(n.told))) != len(n.told) {
			t.Errorf("%v: a sum was told twice: %v", n.key, n.told)
		}
	}
}

// readAndReplace adds one by generation: it reads, and writes if nobody has meanwhile.
func readAndReplace(c *as.Client, k *as.Key) (int, bool, as.Error) {
	for {
		policy, n := as.NewWritePolicy(0, 0), 0
		policy.RecordExistsAction = as.CREATE_ONLY
		rec, err := c.Get(nil, k)
		switch {
		case err == nil:
			n = rec.Bins["n"].(int)
			policy.RecordExistsAction, policy.GenerationPolicy, policy.Generation = as.UPDATE, as.EXPECT_GEN_EQUAL, rec.Generation
		case !err.Matches(types.KEY_NOT_FOUND_ERROR):
			return 0, false, err
		}
		err = c.Put(policy, k, as.BinMap{"n": n + 1})
		if err == nil {
			return n + 1, true, nil
		}
		if !err.Matches(types.GENERATION_ERROR, types.KEY_EXISTS_ERROR) {
			return 0, false, err
		}
	}
}

// TestFrontAway: while the cluster does not answer, or is not there, writes that need
// nothing of it are acknowledged, everything else is refused, at once; and when it is
// back all is there.
func TestFrontAway(t *testing.T) {
	t.Parallel()
	for _, logged := range []bool{false, true} {
		t.Run(fmt.Sprintf("logged deletes %v", logged), func(t *testing.T) {
			t.Parallel()
			l := newLink(t, newRig(t).addr)
			r := newFrontRig(t, l.addr(), func(o *aerowire.Options) {
				o.Patience, o.LogDeletes = 500*time.Millisecond, logged
			})
			c := connect(t, r.addr)
			c.DefaultWritePolicy.MaxRetries, c.DefaultPolicy.MaxRetries = 0, 0
			gone := key(t, "away", "gone")
			if err := c.Put(nil, gone, as.BinMap{"n": 0}); err != nil {
				t.Fatal(err)
			}
			read := func() as.Error { _, err := c.Get(nil, gone); return err }
			eventually(t, "the cluster answers", func() bool { return read() == nil })
			total := 0
			for _, stop := range []func() (start func()){l.hold, l.cut} {
				start := stop()
				eventually(t, "the cluster is known to be away", func() bool {
					err := read()
					return err != nil && err.Matches(types.PARTITION_UNAVAILABLE) && r.sink.Away() != nil
				})
				for i := range 50 {
					if err := c.Add(nil, key(t, "away", i%10), as.BinMap{"n": 1}); err != nil {
						t.Fatalf("a write that the cluster need not be asked for: %v", err)
					}
					total++
				}
				k := key(t, "away", 0)
				create := as.NewWritePolicy(0, 0)
				create.RecordExistsAction = as.CREATE_ONLY
				refusedWith(t, "read", read(), types.PARTITION_UNAVAILABLE)
				scanAway(t, c, "away")
				refusedWith(t, "create", c.Put(create, k, as.BinMap{"n": 1}), types.PARTITION_UNAVAILABLE)
				_, err := c.Operate(nil, k, as.AddOp(as.NewBin("n", 1)), as.GetBinOp("n"))
				refusedWith(t, "operate", err, types.PARTITION_UNAVAILABLE)
				if existed, err := c.Delete(nil, gone); logged && (err != nil || !existed) || !logged && (err == nil || !err.Matches(types.PARTITION_UNAVAILABLE)) {
					t.Errorf("delete: %v, %v", existed, err)
				}
				start()
				eventually(t, "all is applied", func() bool {
					sum := 0
					for i := range 10 {
						rec, err := c.Get(nil, key(t, "away", i))
						if err != nil {
							return false
						}
						sum += rec.Bins["n"].(int)
					}
					return sum == total
				})
			}
			if exists, err := c.Exists(nil, gone); err != nil || exists == logged {
				t.Errorf("exists: %v, %v", exists, err)
			}
		})
	}
}

// eventually polls for something that has to come true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in a minute: %s", what)
		}
	}
}
