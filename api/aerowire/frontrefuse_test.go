package aerowire_test

import (
	"testing"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"

	"github.com/walproxy/walproxy/api/aerowire"
	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// TestFrontRefuses: what the cluster would refuse is refused before it is acknowledged,
// with the cluster's result, and what is acknowledged behind it is applied.
func TestFrontRefuses(t *testing.T) {
	t.Parallel()
	var store string
	var noEnds func(*as.Client, bool)
	if realServer == "" {
		f := newFunctions(t, newRig(t, func(o *aerowire.Options) { o.MaxRecordBytes = 64 << 10 }).addr)
		store, noEnds = f.listener.Addr().String(), func(_ *as.Client, on bool) { f.noEnds.Store(on) }
	} else {
		store = realServer
		noEnds = func(direct *as.Client, on bool) {
			period := map[bool]string{true: "0", false: "120"}[on]
			for _, n := range direct.GetNodes() {
				if _, err := n.RequestInfo(as.NewInfoPolicy(), "set-config:context=namespace;id="+namespace+";nsup-period="+period); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	r := newFrontRig(t, store, func(o *aerowire.Options) { o.Namespaces = []string{namespace, "nowhere"} })
	c, direct := connect(t, r.addr), connect(t, store)
	set := "refuse-" + r.state
	applied := func(what, set string) {
		t.Helper()
		k := key(t, set, what)
		if err := c.Put(nil, k, as.BinMap{"n": 1}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := c.Get(nil, k); err != nil {
			t.Fatalf("%s: a write that was acknowledged is not applied: %v", what, err)
		}
	}
	applied("at first", set)

	size := 100 << 10
	if realServer != "" {
		size = 1<<20 + 100
	}
	refusedWith(t, "a record that is too large", c.Put(nil, key(t, set, 1), as.BinMap{"b": make([]byte, size)}), types.RECORD_TOO_BIG)
	applied("behind a large record", set)

	ending := &codec.Message{Header: codec.Header{Info2: codec.Info2Write, TTL: 1000},
		Fields: []codec.Field{{Type: codec.FieldNamespace, Data: []byte(namespace)}, {Type: codec.FieldSet, Data: []byte(set)}}}
	known := func(refused bool) func() bool { // what is acknowledged before that halts the sink
		return func() bool { _, ask := r.sink.Foresee(t.Context(), ending); return ask == refused }
	}
	noEnds(direct, true)
	defer noEnds(direct, false)
	eventually(t, "it is known that records cannot end", known(true))
	short := as.NewWritePolicy(0, 1000)
	refusedWith(t, "a record that is to end", c.Put(short, key(t, set, 2), as.BinMap{"n": 1}), types.FAIL_FORBIDDEN)
	applied("behind one that was to end", set)
	noEnds(direct, false)
	eventually(t, "it is known that records can end", known(false))
	if err := c.Put(short, key(t, set, 2), as.BinMap{"n": 1}); err != nil {
		t.Errorf("a record that is to end: %v", err)
	}

	nowhere, err := as.NewKey("nowhere", "s", 1)
	if err != nil {
		t.Fatal(err)
	}
	refusedWith(t, "a namespace that is not there", c.Put(nil, nowhere, as.BinMap{"n": 1}), types.INVALID_NAMESPACE)

	for _, logged := range []bool{false, true} {
		other := newFrontRig(t, store, func(o *aerowire.Options) { o.LogDeletes = logged })
		c = connect(t, other.addr)
		k := key(t, set, "at first")
		refusedWith(t, "a put to another log's set", c.Put(nil, k, as.BinMap{"n": 2}), types.FAIL_FORBIDDEN)
		_, err = c.Operate(nil, k, as.AddOp(as.NewBin("n", 1)), as.GetBinOp("n"))
		refusedWith(t, "a forwarded write to another log's set", err, types.FAIL_FORBIDDEN)
		_, err = c.Delete(nil, k)
		refusedWith(t, "a deletion in another log's set", err, types.FAIL_FORBIDDEN)
		if rec, err := c.Get(nil, k); err != nil || rec.Bins["n"] != 1 {
			t.Errorf("another log's set is read: %v, %v", rec, err)
		}
		applied("in a set of its own", "own-"+other.state)
	}
}
