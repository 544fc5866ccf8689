package aerowire_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"
)

// want checks the result code of a call; types.OK: none.
func want(t testing.TB, what string, err as.Error, code types.ResultCode) {
	t.Helper()
	switch {
	case code == types.OK && err == nil:
	case err == nil:
		t.Errorf("%s: no error, want %v", what, code)
	case !err.Matches(code):
		t.Errorf("%s: %v, want %v", what, err, code)
	}
}

// fresh is the default write policy, to be changed.
func fresh(c *as.Client) *as.WritePolicy {
	p := *c.DefaultWritePolicy
	return &p
}

// A linearized read is of namespaces with strong consistency, which the Community
// Edition has none of.
func TestReadModes(t *testing.T) {
	c := client(t)
	k, absent := key(t, "modes", 1), key(t, "modes", 2)
	want(t, "put", c.Put(nil, k, as.BinMap{"a": 1}), types.OK)
	for mode, code := range map[as.ReadModeSC]types.ResultCode{as.ReadModeSCSession: types.OK, as.ReadModeSCLinearize: types.ENTERPRISE_ONLY,
		as.ReadModeSCAllowReplica: types.OK, as.ReadModeSCAllowUnavailable: types.OK} {
		p := *c.DefaultPolicy
		p.ReadModeSC, p.MaxRetries = mode, 0
		_, err := c.Get(&p, k)
		want(t, fmt.Sprint("get, mode ", mode), err, code)
		if code != types.OK {
			_, err = c.Get(&p, absent)
			want(t, fmt.Sprint("of nothing, mode ", mode), err, code)
		}
		b := *c.DefaultBatchPolicy
		b.ReadModeSC, b.MaxRetries = mode, 0
		_, err = c.BatchGet(&b, []*as.Key{k})
		want(t, fmt.Sprint("batch, mode ", mode), err, code)
		_, err = c.Operate(&as.WritePolicy{BasePolicy: p}, k, as.GetOp())
		want(t, fmt.Sprint("operate, mode ", mode), err, code)
	}
}

func TestExistencePolicies(t *testing.T) {
	c := client(t)
	put := func(k *as.Key, action as.RecordExistsAction, bins as.BinMap) as.Error {
		p := fresh(c)
		p.RecordExistsAction = action
		return c.Put(p, k, bins)
	}
	k := key(t, "s", 1)
	want(t, "update-only of nothing", put(k, as.UPDATE_ONLY, as.BinMap{"a": 1}), types.KEY_NOT_FOUND_ERROR)
	want(t, "replace-only of nothing", put(k, as.REPLACE_ONLY, as.BinMap{"a": 1}), types.KEY_NOT_FOUND_ERROR)
	want(t, "create", put(k, as.CREATE_ONLY, as.BinMap{"a": 1}), types.OK)
	want(t, "create again", put(k, as.CREATE_ONLY, as.BinMap{"a": 2}), types.KEY_EXISTS_ERROR)
	want(t, "update", put(k, as.UPDATE_ONLY, as.BinMap{"b": 2}), types.OK)
	rec, err := c.Get(nil, k)
	want(t, "get", err, types.OK)
	if fmt.Sprint(rec.Bins) != "map[a:1 b:2]" || rec.Generation != 2 {
		t.Errorf("%v, generation %d", rec.Bins, rec.Generation)
	}
	want(t, "replace", put(k, as.REPLACE, as.BinMap{"c": 3}), types.OK)
	if rec, err = c.Get(nil, k); err != nil || fmt.Sprint(rec.Bins) != "map[c:3]" || rec.Generation != 3 {
		t.Errorf("%v, %v", rec, err)
	}
	want(t, "the last bin", c.Put(nil, k, as.BinMap{"c": nil}), types.OK)
	if exists, err := c.Exists(nil, k); err != nil || exists {
		t.Errorf("a record without bins exists: %v, %v", exists, err)
	}
	want(t, "touch of nothing", c.Touch(nil, k), types.KEY_NOT_FOUND_ERROR)
}

// Of many that expect one generation, one wins.
func TestGenerationIsOneStep(t *testing.T) {
	c := client(t)
	k := key(t, "s", 1)
	if err := c.Put(nil, k, as.BinMap{"n": 0}); err != nil {
		t.Fatal(err)
	}
	const writers, rounds = 16, 5
	for round := range rounds {
		var won, lost atomic.Int64
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				p := fresh(c)
				p.GenerationPolicy, p.Generation = as.EXPECT_GEN_EQUAL, uint32(round+1)
				p.MaxRetries = 0
				switch err := c.Put(p, k, as.BinMap{"n": w}); {
				case err == nil:
					won.Add(1)
				case err.Matches(types.GENERATION_ERROR):
					lost.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || lost.Load() != writers-1 {
			t.Fatalf("round %d: %d won, %d lost", round, won.Load(), lost.Load())
		}
	}
	p := fresh(c)
	p.GenerationPolicy, p.Generation = as.EXPECT_GEN_GT, rounds+1
	want(t, "not greater", c.Put(p, k, as.BinMap{"n": 1}), types.GENERATION_ERROR)
	p.Generation = rounds + 2
	want(t, "greater", c.Put(p, k, as.BinMap{"n": 1}), types.OK)
	p.GenerationPolicy, p.Generation = as.EXPECT_GEN_EQUAL, 1
	_, err := c.Delete(p, k)
	want(t, "delete", err, types.GENERATION_ERROR)
}

func TestExpiry(t *testing.T) {
	c := client(t)
	k := key(t, "s", 1)
	ttl := func(seconds uint32) *as.WritePolicy {
		p := fresh(c)
		p.Expiration = seconds
		return p
	}
	expiration := func() uint32 {
		t.Helper()
		rec, err := c.GetHeader(nil, k)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Expiration
	}
	near := func(what string, low, high uint32) {
		t.Helper()
		if got := expiration(); got < low || got > high {
			t.Errorf("%s: expires in %d s; want %d to %d", what, got, low, high)
		}
	}
	want(t, "put", c.Put(ttl(1000), k, as.BinMap{"a": 1}), types.OK)
	near("1000 s", 900, 1001)
	want(t, "put", c.Put(ttl(as.TTLDontUpdate), k, as.BinMap{"a": 2}), types.OK)
	near("not updated", 900, 1001)
	want(t, "touch", c.Touch(ttl(5000), k), types.OK)
	near("touched", 4900, 5001)
	want(t, "put", c.Put(ttl(as.TTLDontExpire), k, as.BinMap{"a": 3}), types.OK)
	if got := expiration(); got != as.TTLDontExpire {
		t.Errorf("expires in %d s, want never", got)
	}
	want(t, "put", c.Put(ttl(100), k, as.BinMap{"a": 4}), types.OK)
	want(t, "put", c.Put(nil, k, as.BinMap{"a": 5}), types.OK)
	if got := expiration(); got != as.TTLDontExpire {
		t.Errorf("by default expires in %d s, want never", got)
	}
	want(t, "beyond ten years", c.Put(ttl(11*365*24*3600), k, as.BinMap{"a": 1}), types.PARAMETER_ERROR)

	want(t, "put", c.Put(ttl(1), k, as.BinMap{"a": 6, "b": 1}), types.OK)
	deadline := time.Now().Add(30 * time.Second)
	for {
		exists, err := c.Exists(nil, k)
		want(t, "exists", err, types.OK)
		if !exists {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a record of one second is there after thirty")
		}
		time.Sleep(50 * time.Millisecond)
	}
	want(t, "create what expired", c.Put(nil, k, as.BinMap{"a": 7}), types.OK)
	rec, err := c.Get(nil, k)
	if err != nil || fmt.Sprint(rec.Bins) != "map[a:7]" || rec.Generation != 1 {
		t.Errorf("%v, %v: the expired record shines through", rec, err)
	}
}

func TestSendKey(t *testing.T) {
	c := client(t)
	k := key(t, "s", "mine")
	p := fresh(c)
	p.SendKey = true
	want(t, "put", c.Put(p, k, as.BinMap{"a": 1}), types.OK)
	want(t, "put without it", c.Put(nil, k, as.BinMap{"b": 1}), types.OK)
	other := key(t, "s", "other")
	want(t, "put of no key", c.Put(nil, other, as.BinMap{"a": 1}), types.OK)
	set, err := c.ScanAll(nil, namespace, "s")
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for res := range set.Results() {
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		keys[fmt.Sprint(res.Record.Key.Value())] = true
	}
	if len(keys) != 2 || !keys["mine"] || !keys["<nil>"] {
		t.Errorf("keys %v, want mine and none", keys)
	}
	byDigest, err := as.NewKeyWithDigest(namespace, "s", nil, k.Digest())
	if err != nil {
		t.Fatal(err)
	}
	if rec, err := c.Get(nil, byDigest); err != nil || fmt.Sprint(rec.Bins) != "map[a:1 b:1]" {
		t.Errorf("by digest: %v, %v", rec, err)
	}
}

func TestFilters(t *testing.T) {
	c := client(t)
	k := key(t, "s", 1)
	want(t, "put", c.Put(nil, k, as.BinMap{"n": 5}), types.OK)
	p := fresh(c)
	p.FilterExpression = as.ExpGreater(as.ExpIntBin("n"), as.ExpIntVal(5))
	want(t, "put", c.Put(p, k, as.BinMap{"n": 9}), types.FILTERED_OUT)
	_, err := c.Delete(p, k)
	want(t, "delete", err, types.FILTERED_OUT)
	read := *c.DefaultPolicy
	read.FilterExpression = p.FilterExpression
	_, err = c.Get(&read, k)
	want(t, "get", err, types.FILTERED_OUT)
	read.FilterExpression = as.ExpEq(as.ExpStringBin("n"), as.ExpStringVal("5"))
	_, err = c.Get(&read, k)
	want(t, "of another type", err, types.FILTERED_OUT)
	want(t, "of a record that is not there", c.Put(p, key(t, "s", 2), as.BinMap{"n": 1}), types.OK)
	// The guard of a sink that writes each record once, by LSN.
	for lsn, code := range map[int64]types.ResultCode{5: types.FILTERED_OUT, 4: types.FILTERED_OUT, 6: types.OK} {
		p.FilterExpression = as.ExpOr(as.ExpNot(as.ExpBinExists("n")), as.ExpLess(as.ExpIntBin("n"), as.ExpIntVal(lsn)))
		_, err := c.Operate(p, k, as.PutOp(as.NewBin("x", lsn)))
		want(t, fmt.Sprint("guarded by ", lsn), err, code)
	}
}

func TestOperate(t *testing.T) {
	c := client(t)
	k := key(t, "s", 1)
	rec, err := c.Operate(nil, k, as.PutOp(as.NewBin("n", 1)), as.AddOp(as.NewBin("n", 4)), as.GetBinOp("n"),
		as.AppendOp(as.NewBin("t", "b")), as.PrependOp(as.NewBin("t", "a")), as.GetBinOp("t"))
	if err != nil || fmt.Sprint(rec.Bins) != "map[n:5 t:ab]" {
		t.Fatalf("%v, %v", rec, err)
	}
	_, err = c.Operate(nil, k, as.PutOp(as.NewBin("n", 100)), as.AddOp(as.NewBin("t", 1)))
	want(t, "add to text", err, types.BIN_TYPE_ERROR)
	if rec, err = c.Get(nil, k); err != nil || rec.Bins["n"] != 5 || rec.Generation != 1 {
		t.Errorf("all or nothing: %v, %v", rec, err)
	}
	rec, err = c.Operate(nil, k, as.ListAppendOp("l", 1, 2, 3), as.ListPopOp("l", 0), as.ListSizeOp("l"),
		as.MapPutOp(as.DefaultMapPolicy(), "m", "k", 1), as.MapGetByKeyOp("m", "k", as.MapReturnType.VALUE))
	if err != nil || fmt.Sprint(rec.Bins) != "map[l:[3 1 2] m:[1 1]]" {
		t.Errorf("several answers of one bin: %v, %v", rec, err)
	}
	rec, err = c.Operate(nil, k, as.ExpReadOp("sum", as.ExpNumAdd(as.ExpIntBin("n"), as.ExpIntVal(1)), as.ExpReadFlagDefault),
		as.ExpWriteOp("n", as.ExpIntVal(70), as.ExpWriteFlagDefault), as.GetBinOp("n"))
	if err != nil || rec.Bins["sum"] != 6 || fmt.Sprint(rec.Bins["n"]) != "[<nil> 70]" && rec.Bins["n"] != 70 {
		t.Errorf("expressions: %v, %v", rec, err)
	}
	if realServer != "" {
		return
	}
	_, err = c.Operate(nil, k, as.HLLInitOp(as.DefaultHLLPolicy(), "h", 8, 0))
	want(t, "what there is not", err, types.UNSUPPORTED_FEATURE)
	_, err = c.Execute(nil, k, "package", "function")
	want(t, "functions of the user", err, types.UNSUPPORTED_FEATURE)
	want(t, "too big", c.Put(nil, k, as.BinMap{"b": make([]byte, 1<<20)}), types.RECORD_TOO_BIG)
	want(t, "another namespace", c.Put(nil, mustKey(t, "other", "s", 1), as.BinMap{"a": 1}), types.INVALID_NAMESPACE)
}

func mustKey(t testing.TB, namespace, set string, k any) *as.Key {
	t.Helper()
	out, err := as.NewKey(namespace, set, k)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
