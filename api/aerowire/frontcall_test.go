package aerowire_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"

	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// calls is a client that calls functions.
type calls struct {
	testing.TB
	*as.Client
}

func (c calls) call(k *as.Key, function string, args ...int) int {
	c.Helper()
	values := []as.Value{}
	for _, a := range args {
		values = append(values, as.NewValue(a))
	}
	got, err := c.Execute(nil, k, "walproxy_test", function, values...)
	if err != nil {
		c.Fatalf("%s %v: %v", k, function, err)
	}
	return got.(int)
}

func (c calls) must(err as.Error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// is wants bin n to be n; -1: the record to be absent.
func (c calls) is(what string, k *as.Key, n int) {
	c.Helper()
	rec, err := c.Get(nil, k)
	switch {
	case n < 0 && err != nil && err.Matches(types.KEY_NOT_FOUND_ERROR):
	case err != nil:
		c.Errorf("%s: %v, want n=%d", what, err, n)
	case n < 0 || len(rec.Bins) != 1 || rec.Bins["n"] != n:
		c.Errorf("%s: %v, want n=%d", what, rec.Bins, n)
	}
}

// TestFrontCalls: functions run on what was acknowledged, and what they have done stays
// as it is when the log is applied again: to records that were deleted before, that the
// function removes, and of which it takes the guard or the last bin.
func TestFrontCalls(t *testing.T) {
	t.Parallel()
	r, client := newFunctionsRig(t)
	c, set := calls{t, client}, "calls-"+r.state
	put := func(k *as.Key, n int) { c.must(c.Put(nil, k, as.BinMap{"n": n})) }
	after := map[string]int{}
	k := func(name string, n int) *as.Key {
		after[name] = n
		return key(t, set, name)
	}
	remove := func(k *as.Key) {
		if existed, err := c.Delete(nil, k); err != nil || !existed {
			t.Fatal(existed, err)
		}
	}

	made := k("made", 3)
	if got := c.call(made, "read"); got != -1 {
		t.Errorf("read of an absent record: %d", got)
	}
	c.call(made, "write", 3)

	added := k("added", 8)
	put(added, 1)
	c.must(c.Add(nil, added, as.BinMap{"n": 2}))
	if got := c.call(added, "add", 4); got != 7 {
		t.Errorf("the function saw another record than was acknowledged: the sum is %d, want 7", got)
	}
	c.must(c.Add(nil, added, as.BinMap{"n": 1}))

	anew := k("made anew", 5)
	put(anew, 1)
	remove(anew)
	if got := c.call(anew, "read"); got != -1 {
		t.Errorf("read of a deleted record: %d", got)
	}
	c.is("read behind that", anew, -1)
	c.call(anew, "write", 5)

	still := k("read, deleted", -1)
	put(still, 1)
	remove(still)
	c.call(still, "read")

	removed := k("removed", -1)
	put(removed, 1)
	c.call(removed, "remove")
	c.is("removed", removed, -1)

	emptied := k("emptied", -1)
	put(emptied, 1)
	c.call(emptied, "empty")
	if exists, err := c.Exists(nil, emptied); err != nil || exists {
		t.Errorf("a record without bins exists: %v, %v", exists, err)
	}

	stripped := k("stripped", 2)
	put(stripped, 1)
	c.must(c.Add(nil, stripped, as.BinMap{"n": 1}))
	c.call(stripped, "strip")

	policy := as.NewWritePolicy(0, 0)
	policy.FilterExpression = as.ExpEq(as.ExpIntBin("n"), as.ExpIntVal(99))
	_, err := c.Execute(policy, stripped, "walproxy_test", "write", as.NewValue(9))
	refusedWith(t, "of a filter", err, types.FILTERED_OUT)

	rows := []as.BatchRecordIfc{}
	for i := range 20 {
		rows = append(rows, as.NewBatchUDF(nil, k(fmt.Sprint("batch", i), 6), "walproxy_test", "write", as.NewValue(6)))
	}
	c.must(c.BatchOperate(nil, rows))
	for _, row := range rows {
		if rec := row.BatchRec(); rec.Err != nil || rec.Record.Bins["SUCCESS"] != 6 {
			t.Errorf("%v: %v, %v", rec.Key, rec.Record, rec.Err)
		}
	}

	absent := key(t, set, "absent")
	reply, _, failed := r.sink.Call(t.Context(), &codec.Message{Header: codec.Header{Info2: codec.Info2Write}, Fields: []codec.Field{
		{Type: codec.FieldNamespace, Data: []byte(namespace)}, {Type: codec.FieldSet, Data: []byte(set)}, {Type: codec.FieldDigest, Data: absent.Digest()},
		{Type: codec.FieldUDFPackage, Data: []byte("walproxy_test")}, {Type: codec.FieldUDFFunction, Data: []byte("write")},
		{Type: codec.FieldUDFArguments, Data: []byte{0x91, 1}}}}, 0, true)
	if failed != nil || reply.Result != codec.NotFound {
		t.Errorf("of a record that has to be there: %v, %v", reply, failed)
	}
	c.is("of a record that has to be there", absent, -1)

	for name, n := range after {
		c.is(name, key(t, set, name), n)
	}
	r.close()
	r.open() // and the log is applied again
	c = calls{t, connect(t, r.addr)}
	for name, n := range after {
		c.is(name+", applied again", key(t, set, name), n)
	}
}

// TestFrontCallsCut: the node is cut off in the middle of a call, behind the function,
// and before or behind what is written after it. The client is not told anything; what
// was done is there once, whatever is applied again, and what comes later builds on it.
func TestFrontCallsCut(t *testing.T) {
	t.Parallel()
	f := newFunctions(t, newRig(t).addr)
	r, client := functionsRig(t, f.listener.Addr().String())
	once := as.NewWritePolicy(0, 0)
	once.MaxRetries = 0
	c, set := calls{t, client}, "calls-"+r.state
	after := map[string]int{}
	for _, cut := range []struct {
		function string
		moment   int32
		left     int
	}{{"add", cutAnswer, 5}, {"remove", cutAnswer, 0}, {"strip", cutAnswer, 1}, {"strip", cutGuard, 1}, {"strip", cutGuarded, 1}} {
		name := fmt.Sprint(cut.function, cut.moment)
		k := key(t, set, name)
		c.must(c.Put(nil, k, as.BinMap{"n": 1}))
		c.call(k, "read") // behind what was put
		f.cut.Store(cut.moment)
		if got, err := c.Execute(once, k, "walproxy_test", cut.function, as.NewValue(4)); err == nil {
			t.Errorf("%s: %v was answered", name, got)
		}
		if n := f.cut.Load(); n != 0 {
			t.Fatalf("%s: nothing was cut (%d)", name, n)
		}
		c.must(c.Add(nil, k, as.BinMap{"n": 2}))
		after[name] = cut.left + 2
	}
	check := func(what string) {
		t.Helper()
		for name, n := range after {
			rec, err := c.Get(nil, key(t, set, name))
			// A removal that was not acknowledged may be undone.
			if undone := strings.HasPrefix(name, "remove") && err == nil && rec.Bins["n"] == n+1; !undone {
				c.is(name+what, key(t, set, name), n)
			}
		}
	}
	check("")
	r.close()
	r.open()
	c = calls{t, connect(t, r.addr)}
	check(", applied again")
}

// TestFrontCallsOrder: functions and logged writes to one record come one after the
// other.
func TestFrontCallsOrder(t *testing.T) {
	t.Parallel()
	r, c := newFunctionsRig(t)
	n := &counter{key: key(t, "calls-"+r.state, "order")}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 16 {
				if !n.raise(t, func() (int, bool, as.Error) {
					if i%2 == 0 {
						return 0, false, c.Add(nil, n.key, as.BinMap{"n": 1})
					}
					sum, err := c.Execute(nil, n.key, "walproxy_test", "add", as.NewValue(1))
					if err != nil {
						return 0, false, err
					}
					return sum.(int), true, nil
				}) {
					return
				}
			}
		})
	}
	all.Wait()
	calls{t, c}.is("the sum", n.key, int(n.acked.Load()))
}

// TestFrontJobs: a background query changes every record that is there, each in its
// turn among the other writes, and says how far it is.
func TestFrontJobs(t *testing.T) {
	t.Parallel()
	r, client := newFunctionsRig(t)
	c, set := calls{t, client}, "jobs-"+r.state
	const n = 40
	for i := range n {
		c.must(c.Put(nil, key(t, set, i), as.BinMap{"n": i}))
	}
	if existed, err := c.Delete(nil, key(t, set, 0)); err != nil || !existed {
		t.Fatal(existed, err)
	}
	done := func(_ *as.ExecuteTask, err as.Error) { // this client does not send the task's id
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the query is done", func() bool {
			jobs, err := c.GetNodes()[0].RequestInfo(as.NewInfoPolicy(), "query-show")
			return err == nil && strings.Contains(jobs["query-show"], "status=done(ok)") && !strings.Contains(jobs["query-show"], "active(")
		})
	}
	all := func() *as.Statement { return as.NewStatement(namespace, set) }
	done(c.ExecuteUDF(nil, all(), "walproxy_test", "add", as.NewValue(100)))
	few := as.NewWritePolicy(0, 0)
	few.FilterExpression = as.ExpLess(as.ExpIntBin("n"), as.ExpIntVal(110))
	done(c.QueryExecute(nil, few, all(), as.AddOp(as.NewBin("n", 1000))))
	_, err := c.QueryExecute(nil, nil, all(), as.PutOp(as.NewBin("wp.dead", 1)))
	refusedWith(t, "a bin of walproxy's", err, types.BIN_NAME_TOO_LONG)
	check := func(what string) {
		t.Helper()
		c.is(what, key(t, set, 0), -1)
		for i := 1; i < n; i++ {
			want := i + 100
			if want < 110 {
				want += 1000
			}
			c.is(what, key(t, set, i), want)
		}
	}
	check("changed")
	r.close()
	r.open()
	c = calls{t, connect(t, r.addr)}
	check("applied again")
}

// TestFrontCallsAway: what calls a function is refused at once while the cluster is away.
func TestFrontCallsAway(t *testing.T) {
	t.Parallel()
	store := realServer
	if store == "" {
		store = newFunctions(t, newRig(t).addr).listener.Addr().String()
	}
	l := newLink(t, store)
	r := newFrontRig(t, l.addr(), func(o *aerowire.Options) { o.Patience = 500 * time.Millisecond })
	c := connect(t, r.addr)
	c.DefaultWritePolicy.MaxRetries, c.DefaultPolicy.MaxRetries = 0, 0
	k := key(t, "calls-"+r.state, "away")
	if err := c.Put(nil, k, as.BinMap{"n": 0}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cluster answers", func() bool { _, err := c.Get(nil, k); return err == nil })
	start := l.cut()
	eventually(t, "the cluster is known to be away", func() bool {
		_, err := c.Get(nil, k)
		return err != nil && r.sink.Away() != nil
	})
	began := time.Now()
	_, err := c.Execute(nil, k, "walproxy_test", "read")
	refusedWith(t, "a function", err, types.PARTITION_UNAVAILABLE)
	_, err = c.ExecuteUDF(nil, as.NewStatement(namespace, k.SetName()), "walproxy_test", "read")
	refusedWith(t, "a background query", err, types.PARTITION_UNAVAILABLE)
	if _, err := c.RegisterUDF(nil, []byte("x"), "x.lua", as.LUA); err == nil {
		t.Error("a function was registered nowhere")
	}
	if waited := time.Since(began); waited > 30*time.Second {
		t.Errorf("the refusals took %v", waited)
	}
	start()
}
