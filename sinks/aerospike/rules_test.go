package aerospike

import (
	"fmt"
	"testing"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/command"
)

// TestRules: what the nodes say of a namespace, as servers do, and which writes they
// may refuse for it.
func TestRules(t *testing.T) {
	t.Parallel()
	// Of Aerospike Community Edition 8.0.0.15, shortened.
	const usual = "ns_cluster_size=1;clock_skew_stop_writes=false;stop_writes=false;allow-ttl-without-nsup=false;conflict-resolve-writes=false;" +
		"default-ttl=0;disallow-null-setname=false;max-record-size=1048576;nsup-period=120;reject-non-xdr-writes=false;strong-consistency=false"
	const set = "ns=test:set=s:objects=95:tombstones=0:data_used_bytes=100:default-ttl=0:stop-writes-count=0:stop-writes-size=0;"
	put := func(ttl uint32, set string, bytes int) *codec.Message {
		return &codec.Message{Header: codec.Header{Info2: codec.Info2Write, TTL: ttl},
			Fields: []codec.Field{{Type: codec.FieldNamespace, Data: []byte("test")}, {Type: codec.FieldSet, Data: []byte(set)}},
			Ops:    []codec.Op{{Type: codec.OpWrite, Particle: 4, Name: []byte("b"), Value: make([]byte, bytes)}}}
	}
	replace := put(command.TTLNever, "s", 1)
	replace.Info3 = codec.Info3CreateOrReplace
	for _, c := range []struct {
		what         string
		config, sets string
		m            *codec.Message
		refused      bool
	}{
		{"the usual", usual, set, put(100, "s", 10), false},
		{"a new set", usual, set, put(0, "", 10), false},
		{"an end where there are none", usual + ";nsup-period=0", set, put(100, "s", 10), true},
		{"no end where there are none", usual + ";nsup-period=0", set, put(command.TTLNever, "s", 10), false},
		{"the end as it is", usual + ";nsup-period=0", set, put(command.TTLDontUpdate, "s", 10), false},
		{"the namespace's end, none", usual + ";nsup-period=0", set, put(0, "s", 10), false},
		{"the namespace's end", usual + ";nsup-period=0;default-ttl=50", set, put(0, "s", 10), true},
		{"the set's end", usual + ";nsup-period=0", set + "ns=test:set=ends:default-ttl=9;", put(0, "ends", 10), true},
		{"ends allowed", usual + ";nsup-period=0;allow-ttl-without-nsup=true", set, put(100, "s", 10), false},
		{"stop-writes", usual + ";stop_writes=true", set, put(0, "s", 10), true},
		{"clocks", usual + ";clock_skew_stop_writes=true", set, put(0, "s", 10), true},
		{"others' writes only", usual + ";reject-non-xdr-writes=true", set, put(0, "s", 10), true},
		{"sets only", usual + ";disallow-null-setname=true", set, put(0, "", 10), true},
		{"sets only, one", usual + ";disallow-null-setname=true", set, put(0, "s", 10), false},
		{"nothing is replaced", usual + ";conflict-resolve-writes=true", set, replace, true},
		{"too large", usual, set, put(0, "s", 1<<20), true},
		{"nearly too large", usual, set, put(0, "s", 1<<20-100), true},
		{"large", usual, set, put(0, "s", 1<<19), false},
		{"near the set's count", usual, set + "ns=test:set=few:objects=95:stop-writes-count=100;", put(0, "few", 1), true},
		{"far from the set's count", usual, set + "ns=test:set=few:objects=5:stop-writes-count=100;", put(0, "few", 1), false},
		{"near the set's size", usual, set + "ns=test:set=few:data_used_bytes=95:stop-writes-size=100;", put(0, "few", 1), true},
		{"walproxy's own endpoint", "nsup-period=120;default-ttl=0;max-record-size=1048576;stop_writes=false", "", put(100, "s", 10), false},
	} {
		ns := parseRules(c.config, c.sets)
		set, _ := c.m.Field(codec.FieldSet)
		if got := ns.refuses(c.m, string(set)); got != c.refused || ns.missing {
			t.Errorf("%s: may be refused: %v, want %v (missing: %v)", c.what, got, c.refused, ns.missing)
		}
		usual := parseRules(usual, "")
		usual.join(ns)
		if got := usual.refuses(c.m, string(set)); got != c.refused {
			t.Errorf("%s, on one of two nodes: may be refused: %v, want %v", c.what, got, c.refused)
		}
	}
	for _, text := range []string{"type=unknown", "ERROR:20:namespace not found"} {
		if ns := parseRules(text, ""); !ns.missing {
			t.Errorf("%q is taken for a namespace", text)
		}
	}
	if ns := parseRules("strong-consistency=true", ""); !ns.strong {
		t.Error("strong consistency is not seen")
	}
}

// TestPlacesAreBounded: what clients name costs no memory without end.
func TestPlacesAreBounded(t *testing.T) {
	t.Parallel()
	r := newRules(nil)
	var taken places
	for i := range 3 * placesMax {
		at := Place{namespace, fmt.Sprint("set", i)}
		if r.look(at); !r.looked(at) {
			t.Fatalf("%v is forgotten at once", at)
		}
		if err := taken.take(at, at.Set); err != nil {
			t.Fatal(err)
		}
		if err := taken.take(at, "another"); err == nil {
			t.Fatalf("two collections are in %v", at)
		}
	}
	if n := max(len(r.mu.looked), len(taken.taken)); n > placesMax {
		t.Errorf("%d sets are remembered, want %d at most", n, placesMax)
	}
}
