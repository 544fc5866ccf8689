package config

import (
	"slices"
	"strings"
	"testing"
)

func routes(text string) (list []Route) {
	for part := range strings.FieldsSeq(text) {
		patterns, sinks, _ := strings.Cut(part, "=")
		list = append(list, Route{Collections: strings.Split(patterns, ","), Sinks: strings.Split(sinks, ",")})
	}
	return list
}

// TestUnread: who answers reads of a collection stays.
func TestUnread(t *testing.T) {
	for _, c := range []struct {
		was, is string
		ok      bool
	}{
		{"*=a", "*=a", true},
		{"*=a", "*=a,b", true},
		{"*=a,b", "*=a", true},
		{"*=a,b", "*=b,a", false},
		{"*=a", "orders=b *=a", false},
		{"*=a", "orders=a,b *=a", true},
		{"orders=b *=a", "*=a", false},
		{"orders=b *=a", "orders=b,a *=a,b", true},
		{"orders=b *=a", "orders=b", true}, // the others are taken no more
		{"orders=b", "orders=b *=a", true},
		{"shop.*=b *=a", "shop.*=b,a *=a", true},
		{"shop.*=b *=a", "*=a shop.*=b", false},
		{"shop.*=b *=a", "shop.x=a shop.*=b *=a", false},
		{"shop.*=b user.*=a", "user.*=a shop.*=b", true},
		{"shop.*=b shop?*=a", "shop?*=a shop.*=b", false},
		{"a*=a", "b*=b a*=a", true},
		{"a*=a", "a?=b a*=a", false},
	} {
		if reason := Unread(routes(c.was), routes(c.is)); (reason == "") != c.ok {
			t.Errorf("%s to %s: %q", c.was, c.is, reason)
		}
	}
}

// TestMerged: of two configurations that differ in every live key, any one of them can
// change alone, and nothing else changes with it.
func TestMerged(t *testing.T) {
	const was = "sinks: { main: { collections: { a.b: { on_reject: skip } } }, copy: {} }\nroutes: [{ collections: [\"*\"], sinks: [main] }]\n"
	a, err := Parse("a", []byte(was+"pgwire: { upstream: \"postgres://db\" }\naerowire: { namespaces: [test], sink: main }\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Parse("b", []byte(`
api: { hosts: [x], max_connections: 9, max_item_bytes: 2MiB, max_body_bytes: 9MiB, max_inflight_bytes: 9MiB,
  tokens: [{ name: t, hash: "sha256:80678dd7982de860618fc6fb082e3f75a502a21f72341ffe2701bff264071dfa", rights: [read] }] }
admin: { hosts: [x], max_connections: 9 }
aerowire: { namespaces: [test], sink: main, max_connections: 9 }
pgwire: { upstream: "postgres://db", max_connections: 9, max_user_connections: 9, max_database_connections: 9 }
logging: { level: debug, sampling: { disabled: true, every: 2s, first: 1, thereafter: 2 } }
sinks:
  main: { lanes: 2, batch: { records: 7, bytes: 7KiB, linger: 7ms, latency: 7ms }, apply_timeout: 7s, halt_retry: 7s, hold_after: 7MiB,
    max_lag_bytes: 7MiB, retain: 7MiB, dead_letters: { bytes: 7MiB, age: 7h },
    collections: { a.b: { on_reject: halt, lane_group: g }, c: { own_lanes: 2 } } }
  copy: {}
routes: [{ collections: ["*"], sinks: [main, copy] }]
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, key := range Changed(a, b) {
		if !Live(key) {
			t.Errorf("%s cannot change", key)
		}
		seen[general(key)] = true
		one, err := Merged(a, b, []string{key})
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
		if got := Changed(a, one); !slices.Equal(got, []string{key}) {
			t.Errorf("%s: %v changed", key, got)
		}
		if left := Changed(one, b); slices.Contains(left, key) {
			t.Errorf("%s did not change", key)
		}
	}
	for _, key := range live {
		if !seen[key] && !strings.HasSuffix(key, ".tls") {
			t.Errorf("%s: the test does not change it", key)
		}
	}
	all, err := Merged(a, b, Changed(a, b))
	if left := Changed(all, b); err != nil || len(left) > 0 {
		t.Errorf("%v: %v", err, left)
	}
	if c, _ := Parse("a", []byte(was+"pgwire: { upstream: \"postgres://db\" }\naerowire: { namespaces: [test], sink: main }\n"), nil); len(Changed(a, c)) > 0 {
		t.Errorf("what was there has changed: %v", Changed(a, c))
	}
	if _, err := Merged(a, &Config{API: API{MaxItemBytes: 1}}, []string{"api.max_item_bytes"}); err == nil {
		t.Error("what does not fit together is merged")
	}
}
