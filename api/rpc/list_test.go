package rpc_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"testing"

	"github.com/walproxy/walproxy/sinks/sinktest"
)

// listing: a Faulty lists no records.
func listing(o *rigOptions) {
	o.proxy.Sinks[0].Sink = o.proxy.Sinks[0].Sink.(*sinktest.Faulty).Inner()
}

type page struct {
	Records []struct {
		Key     any
		Version uint64
		Fields  map[string]any
	}
	Next string `json:"next_page_token"`
}

// keys follows the page tokens to the end and returns all keys.
func (r *rig) keys(path string) (keys []string) {
	r.t.Helper()
	for token := ""; ; {
		a := r.want(r.do("GET", path+"&page_token="+url.QueryEscape(token), ""), 200)
		var p page
		if err := json.Unmarshal([]byte(a.raw), &p); err != nil {
			r.t.Fatal(err)
		}
		for _, rec := range p.Records {
			if rec.Version == 0 || rec.Fields["n"] == nil {
				r.t.Fatalf("%s: a record without version or fields: %s", path, a.raw)
			}
			keys = append(keys, fmt.Sprint(rec.Key))
		}
		if token = p.Next; token == "" {
			return keys
		}
		if len(p.Records) == 0 {
			r.t.Fatalf("%s: an empty page is the end, but there is a token: %s", path, a.raw)
		}
	}
}

// TestList: pages hold every record once, in the order of the keys.
func TestList(t *testing.T) {
	r := newRig(t, listing)
	r.want(r.do("GET", "/v1/orders", ""), 200, "records", "[]", "next_page_token", "nothing")
	var all, some []string
	for i := range 25 {
		key := fmt.Sprintf("k%02d", i)
		all = append(all, key)
		if i < 10 {
			some = append(some, key)
		}
		r.want(r.do("PUT", "/v1/orders/"+key, `{"n":1}`), 200)
		r.want(r.do("PUT", fmt.Sprintf("/v1/numbers/%d", i-12), `{"n":1}`), 200)
		r.want(r.do("PUT", fmt.Sprintf("/v1/seats/%%5B%%22eu%%22%%2C%d%%5D", i), `{"n":1}`), 200)
	}
	r.want(r.do("PUT", "/v1/drain/1", `{"n":1}`), 200)
	for _, c := range []struct {
		path string
		want []string
	}{
		{"/v1/orders?limit=7", all},
		{"/v1/orders?limit=25", all},
		{"/v1/orders?limit=1000", all},
		{"/v1/orders?limit=3&prefix=k0", some},
		{"/v1/orders?prefix=x", nil},
		{"/v1/orders?limit=7&consistency=latest", all},
		{"/v1/%64rain?limit=1", []string{"1"}}, // its plain path is another thing's
	} {
		if got := r.keys(c.path); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.path, got, c.want)
		}
	}
	if got := r.keys("/v1/numbers?limit=4"); len(got) != 25 || got[0] != "-12" || got[24] != "12" {
		t.Errorf("numbers: %q", got)
	}
	if got := r.keys("/v1/seats?limit=4"); len(got) != 25 || got[24] != "[eu 24]" {
		t.Errorf("seats: %q", got)
	}
	token := r.do("GET", "/v1/orders?limit=1", "").body["next_page_token"].(string)
	for path, field := range map[string]string{
		"/v1/orders?limit=0":               "limit",
		"/v1/orders?limit=1001":            "limit",
		"/v1/orders?page_token=nonsense":   "page_token",
		"/v1/other?page_token=" + token:    "page_token",
		"/v1/orders?from=1":                "from",
		"/v1/orders?consistency=strong":    "consistency",
		"/v1/orders/1?consistency=strong":  "consistency",
		"/v1/numbers?prefix=1":             "prefix",
		"/v1/numbers?page_token=" + token:  "page_token",
		"/v1/orders/1/events?consistency=": "",
	} {
		a := r.do("GET", path, "")
		if field == "" {
			r.want(a, 404)
			continue
		}
		r.want(a, 400, "field", quote(field))
	}
	r.want(r.do("PUT", "/v1/orders", `{}`), 405, "code", `"method_not_allowed"`)
}

// TestConsistency: what is applied is read while the sink stands still, and only
// where that is asked for.
func TestConsistency(t *testing.T) {
	r := newRig(t, listing)
	r.want(r.do("PUT", "/v1/orders/1?ack=applied", `{"n":1}`), 200)
	r.want(r.do("POST", "/v1/orders/1/events?ack=applied", `{"events":[{"n":1}]}`), 200)
	r.want(r.do("POST", "/v1/sinks/main:pause", ""), 200)
	r.want(r.do("PUT", "/v1/orders/1", `{"n":2}`), 200)
	r.want(r.do("PUT", "/v1/orders/2", `{"n":2}`), 200)
	r.want(r.do("POST", "/v1/orders/1/events", `{"events":[{"n":2}]}`), 200)
	for _, path := range []string{"/v1/orders/1", "/v1/orders/2", "/v1/orders", "/v1/orders/1/events"} {
		r.want(r.do("GET", path, ""), 503, "code", `"sink_paused"`)
	}
	r.want(r.do("GET", "/v1/orders/1?consistency=applied", ""), 200, "fields.n", "1", "version", "2")
	r.want(r.do("GET", "/v1/orders/2?consistency=applied", ""), 404, "code", `"not_found"`)
	if got := r.keys("/v1/orders?consistency=applied"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("listed %q, want what is applied", got)
	}
	var events struct{ Events []any }
	a := r.want(r.do("GET", "/v1/orders/1/events?consistency=applied", ""), 200)
	if err := json.Unmarshal([]byte(a.raw), &events); err != nil || len(events.Events) != 1 {
		t.Errorf("events: %s, %v", a.raw, err)
	}
	r.want(r.do("POST", "/v1/sinks/main:resume", ""), 200)
	r.want(r.do("GET", "/v1/orders/1", ""), 200, "fields.n", "2")
}
