package aerospike

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	as "github.com/aerospike/aerospike-client-go/v7"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// TestPlaces: which set a collection is, and what a key is there.
func TestPlaces(t *testing.T) {
	o := Options{Namespace: "shop", Collections: []Collection{
		{Pattern: "orders", Set: "o", SendKey: true},
		{Pattern: "history.*", Namespace: "cold", Set: "*"},
		{Pattern: "raw", Namespace: "cold", Digest: true},
	}}.withDefaults()
	digest := bytes.Repeat([]byte{7}, 20)
	for _, c := range []struct {
		collection string
		key        *walproxyv1.Key
		want       place
		user       any // nil: by digest
	}{
		{"things", mutation.String("x"), place{Place: Place{"shop", "things"}}, "x"},
		{"orders", mutation.Int64(42), place{Place: Place{"shop", "o"}, sendKey: true}, int64(42)},
		{"history.orders", mutation.Bytes([]byte{1}), place{Place: Place{"cold", "orders"}}, []byte{1}},
		{"shop.things", mutation.String("x"), place{Place: Place{"shop", "shop.things"}}, "x"},
		{"raw", mutation.Bytes(digest), place{Place: Place{"cold", "raw"}, digest: true}, nil},
		{"things", mutation.Composite(mutation.Int64(1), mutation.String("a")), place{Place: Place{"shop", "things"}},
			append(append([]byte{0x40, 0x10, 0x80, 0, 0, 0, 0, 0, 0, 1, 0x20, 'a', 0, 1}, 1), []byte{}...)},
	} {
		key, p, err := o.keyOf(c.collection, c.key)
		if err != nil || p != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.collection, p, err, c.want)
			continue
		}
		want := digest
		if c.user != nil {
			k, err := as.NewKey(p.Namespace, p.Set, c.user)
			if err != nil {
				t.Fatal(err)
			}
			want = k.Digest()
		}
		if !bytes.Equal(key.Digest(), want) {
			t.Errorf("%s: digest %s, want %s", c.collection, hex.EncodeToString(key.Digest()), hex.EncodeToString(want))
		}
	}
	for what, c := range map[string]struct {
		collection string
		key        *walproxyv1.Key
	}{
		"at most 63":                {strings.Repeat("s", 64), mutation.String("x")},
		"contains : or ;":           {"a:b", mutation.String("x")},
		"no digest of 20 bytes":     {"raw", mutation.Bytes([]byte{1})},
		"no digest of 20 bytes, ":   {"raw", mutation.String("x")},
		"notes whose sets they are": {claimsSet, mutation.String("x")},
		"keeps its checkpoints":     {DefaultStateSet, mutation.String("x")},
	} {
		if _, _, err := o.keyOf(c.collection, c.key); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(what, ", ")) {
			t.Errorf("%q: %v, want %q", c.collection, err, what)
		}
	}
}

// TestOneCollectionASet: a second collection in a set is rejected, not mixed in.
func TestOneCollectionASet(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Collections = append(o.Collections, Collection{Pattern: "x.*", Set: "*"})
	d := newDirect(t, o)
	name := o.Collections[1].Set
	d.want(d.batch(add("k", 1)), sinks.Applied)
	r := d.want(d.batch(must(mutation.Increment("x."+name, key("k"), fields{"n": int64(1)}))), sinks.Rejected)
	if !strings.Contains(r[0].Err.Error(), `is that of collection "things"`) {
		t.Errorf("rejected with %v", r[0].Err)
	}
	d.fields("k", fields{"n": int64(1)})
}

// TestOptions: what is wrong is said, all of it.
func TestOptions(t *testing.T) {
	for what, change := range map[string]func(*Options){
		"hosts: missing":                  func(o *Options) { o.Hosts = nil },
		"hosts[0]":                        func(o *Options) { o.Hosts = []string{"h:x"} },
		"namespace: missing":              func(o *Options) { o.Namespace = "" },
		"state.set":                       func(o *Options) { o.State.Set = "a;b" },
		"batch_keys":                      func(o *Options) { o.BatchKeys = 9999 },
		"connections":                     func(o *Options) { o.Connections = -1 },
		"needs tls":                       func(o *Options) { o.Login.External = true },
		"timeouts.total":                  func(o *Options) { o.Timeouts.Total = -1 },
		"would be the set of several":     func(o *Options) { o.Collections = []Collection{{Pattern: "a*", Set: "s"}} },
		"stands for, and there is none":   func(o *Options) { o.Collections = []Collection{{Pattern: "a", Set: "*"}} },
		"is the set of a too":             func(o *Options) { o.Collections = []Collection{{Pattern: "a", Set: "s"}, {Pattern: "b", Set: "s"}} },
		"a digest has no key":             func(o *Options) { o.Collections = []Collection{{Pattern: "a", Digest: true, SendKey: true}} },
		"collections[0].pattern: \"\" is": func(o *Options) { o.Collections = []Collection{{}} },
	} {
		o := Options{Hosts: []string{"h"}, Namespace: "n"}
		change(&o)
		if s, err := Open(o); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v; want %q", err, what)
			if s != nil {
				_ = closeSink(s)
			}
		}
	}
}
