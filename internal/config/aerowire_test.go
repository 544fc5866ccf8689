package config

import (
	"strings"
	"testing"
)

// TestAeroWireFront: an endpoint in front of a cluster, and what does not fit it.
func TestAeroWireFront(t *testing.T) {
	const cluster = "{type: aerospike, hosts: [as1], namespace: shop}"
	load := func(text string) error {
		_, err := Parse("w.yaml", []byte(text), nil)
		return err
	}
	good := "aerowire: {namespaces: [shop]}\nsinks: {main: " + cluster + "}\n"
	c, err := Parse("w.yaml", []byte(good), nil)
	if err != nil || c.AeroWire.Deletes != "asked" || c.AeroWire.Patience == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, also := range []string{
		"routes: [{collections: [shopping, 'shops.*', other, 's?'], sinks: [copy]}, {collections: ['shop.*', shop], sinks: [main]}, {collections: ['shop.*', '*'], sinks: [copy]}]\n",
		"routes: [{collections: [shop.orders], sinks: [main]}, {collections: ['*'], sinks: [main]}]\n",
	} {
		if err := load("aerowire: {namespaces: [shop], sink: main}\nsinks: {main: " + cluster + ", copy: {}}\n" + also); err != nil {
			t.Errorf("%s: %v", also, err)
		}
	}
	for _, bad := range []struct{ text, want string }{
		{"aerowire: {deletes: logged}\n", "aerowire.deletes: is for a sink of type aerospike; main is of type pebble"},
		{"aerowire: {patience: 1s}\n", "aerowire.patience: is for a sink of type aerospike; main is of type pebble"},
		{"aerowire: {deletes: never}\nsinks: {main: " + cluster + "}\n", `aerowire.deletes: "never": want asked or logged`},
		{"aerowire: {patience: 1h}\nsinks: {main: " + cluster + "}\n", "aerowire.patience: 1h0m0s is out of range"},
		{"aerowire: {}\nsinks: {main: {type: postgres, dsn: 'postgres://x/y', collections: {a: {record_column: r, overflow_column: o}}}}\n", "is not needed beside overflow_column"},
		{"aerowire: {}\nsinks: {main: {type: pebble, collections: {a: {record_column: r}}}}\n", "record_column: is for type postgres"},
		{"aerowire: {namespaces: [shop], sink: main}\nsinks: {main: " + cluster + ", copy: {}}\nroutes: [{collections: ['*'], sinks: [main, copy]}]\n",
			"the routes send collection shop to main, copy"},
		{"aerowire: {namespaces: [shop]}\nsinks: {main: {type: aerospike, hosts: [as1], namespace: shop, collections: {'shop.*': {set: '*'}}}}\n",
			"sinks.main.collections.shop.*: aerowire.namespaces says where collection shop.set is"},
		{"aerowire: {namespaces: [shop]}\nsinks: {main: {type: aerospike, hosts: [as1], namespace: shop, collections: {'shop.orders': {set: other}}}}\n",
			"sinks.main.collections.shop.orders: aerowire.namespaces says where collection shop.orders is"},
		{"aerowire: {namespaces: [shop], sink: main}\nsinks: {main: " + cluster + ", copy: {}}\nroutes: [{collections: [shop.orders], sinks: [copy]}, {collections: ['*'], sinks: [main]}]\n",
			"the routes send collections shop.orders to copy"},
		{"aerowire: {namespaces: [shop], sink: main}\nsinks: {main: " + cluster + ", copy: {}}\nroutes: [{collections: ['sh*9'], sinks: [main, copy]}, {collections: ['*'], sinks: [main]}]\n",
			"the routes send collections sh*9 to main, copy"},
	} {
		if err := load(bad.text); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v, want %s", bad.text, err, bad.want)
		}
	}
}
