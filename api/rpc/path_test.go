package rpc

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	for _, c := range []struct {
		raw  string
		want target
	}{
		{"/v1/orders/42", target{route: routeRecord, collection: "orders", key: "42"}},
		{"/v1/orders/42:increment", target{route: routeVerb, collection: "orders", key: "42", verb: "increment"}},
		{"/v1/orders/a%3Ab", target{route: routeRecord, collection: "orders", key: "a:b"}},
		{"/v1/orders/a%3Aé", target{route: routeRecord, collection: "orders", key: "a:é"}}, // é unescaped
		{"/v1/orders/a%3Ab:touch", target{route: routeVerb, collection: "orders", key: "a:b", verb: "touch"}},
		{"/v1/orders/a:b:touch", target{route: routeVerb, collection: "orders", key: "a:b", verb: "touch"}},
		{"/v1/orders/a:b", target{route: routeVerb, collection: "orders", key: "a", verb: "b"}},
		{"/v1/orders/a%2Fb/events", target{route: routeEvents, collection: "orders", key: "a/b"}},
		{"/v1/orders/events", target{route: routeRecord, collection: "orders", key: "events"}},
		{"/v1/orders/..", target{route: routeRecord, collection: "orders", key: ".."}},
		{"/v1/orders/+%20%25", target{route: routeRecord, collection: "orders", key: "+ %"}},
		{"/v1/orders/%FF%00", target{route: routeRecord, collection: "orders", key: "\xff\x00"}},
		{"/v1/a%2Fb/k", target{route: routeRecord, collection: "a/b", key: "k"}},
		{"/v1/orders", target{route: routeRecords, collection: "orders"}},
		{"/v1/%64rain", target{route: routeRecords, collection: "drain"}},
		{"/v1/status", target{route: routeStatus}},
		{"/v1/mutations", target{route: routeMutations}},
		{"/v1/writes/12", target{route: routeWrite, lsn: "12"}},
	} {
		got, err := parsePath(c.raw)
		if err != nil || got != c.want {
			t.Errorf("%s: got %+v, %v; want %+v", c.raw, got, err, c.want)
		}
	}
	for raw, code := range map[string]string{
		"/":                         "no_such_path",
		"/v1":                       "no_such_path",
		"/v1/":                      "no_such_path",
		"/v1/writes":                "no_such_path",
		"/v1/dlq":                   "no_such_path",
		"/v1/%FF":                   codeInvalid,
		"/v2/orders/1":              "no_such_path",
		"/v1/orders/1/2":            "no_such_path",
		"/v1/orders/1/events/3":     "no_such_path",
		"/v1//orders/1":             "no_such_path",
		"/v1/orders/":               codeInvalid,
		"/v1/orders/:touch":         codeInvalid,
		"/v1/orders/%4":             codeInvalid,
		"/v1/orders/%zz":            codeInvalid,
		"/v1/%FF/k":                 codeInvalid,
		"/v1/orders/a:b/events":     codeInvalid,
		"/v1/orders/a:touch/events": codeInvalid,
	} {
		if got, err := parsePath(raw); err == nil || err.Code != code {
			t.Errorf("%s: got %+v, %v; want %s", raw, got, err, code)
		}
	}
}

func TestRawPath(t *testing.T) {
	for uri, want := range map[string]string{
		"/v1/c/k?ack=applied&x=://":      "/v1/c/k",
		"http://host:80/v1/c/a%3Aé?x":    "/v1/c/a%3Aé",
		"http://host":                    "/",
		"/v1/c/http://x":                 "/v1/c/http://x",
		"*":                              "*",
		"/v1/c/k%3Fnot-a-query?timeout=": "/v1/c/k%3Fnot-a-query",
	} {
		if got := rawPath(&http.Request{RequestURI: uri, URL: &url.URL{}}); got != want {
			t.Errorf("%s: got %s, want %s", uri, got, want)
		}
	}
	if got := rawPath(&http.Request{URL: &url.URL{Path: "/v1/c/a:b", RawPath: "/v1/c/a%3Ab"}}); got != "/v1/c/a%3Ab" {
		t.Errorf("without a request line: got %s", got)
	}
}

// FuzzParsePath: every key and collection can be written into a path, and comes
// out as it was; nothing panics.
func FuzzParsePath(f *testing.F) {
	f.Add("orders", "42", "/v1/orders/42:increment")
	f.Add("a/b", "a:b/c%", "/v1/writes/../status")
	f.Add("é", "\xff\x00", "http://h/v1/%zz/:?")
	f.Fuzz(func(t *testing.T, collection, key, raw string) {
		_, _ = parsePath(rawPath(&http.Request{RequestURI: raw, URL: &url.URL{}}))
		if key == "" {
			return
		}
		// PathEscape leaves colons: they are ours to escape.
		escaped := strings.ReplaceAll(url.PathEscape(key), ":", "%3A")
		path := "/v1/" + url.PathEscape(collection) + "/" + escaped
		for suffix, route := range map[string]string{"": routeRecord, ":touch": routeVerb, "/events": routeEvents} {
			got, err := parsePath(path + suffix)
			if err != nil {
				if err.Field == "collection" || collection == "writes" {
					continue
				}
				t.Fatalf("%s%s: %v", path, suffix, err)
			}
			if collection == "writes" {
				continue
			}
			if got.collection != collection || got.key != key || got.route != route {
				t.Fatalf("%s%s: got %+v", path, suffix, got)
			}
		}
	})
}
