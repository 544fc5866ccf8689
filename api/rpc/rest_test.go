package rpc_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walproxy/walproxy/sinks/sinktest"
)

// TestRecord walks through every route of one record.
func TestRecord(t *testing.T) {
	r := newRig(t)
	put := r.want(r.do("PUT", "/v1/orders/42", `{"total": 10, "price": 1.0, "tags": ["a"], "note": "n"}`),
		200, "state", `"logged"`)
	if put.version() != member(put.body, "lsn") || put.header.Get("ETag") != quote(put.version()) {
		t.Errorf("version, LSN and ETag differ: %s %s", put.raw, put.header.Get("ETag"))
	}
	r.want(r.do("GET", "/v1/orders/42", ""), 200, "key", `"42"`, "version", put.version(), "fields.total", "10")
	if a := r.do("GET", "/v1/orders/42", ""); !strings.Contains(a.raw, `"price":1.0`) {
		t.Errorf("a double stays a double: %s", a.raw)
	}
	r.want(r.do("PATCH", "/v1/orders/42", `{"note": null, "b": {"$bytes": "AP8="}}`), 200)
	r.want(r.do("POST", "/v1/orders/42:increment", `{"total": 5}`), 200)
	r.want(r.do("POST", "/v1/orders/42:append", `{"tags": ["b"]}`), 200)
	r.want(r.do("POST", "/v1/orders/42:prepend", `{"tags": ["z"]}`), 200)
	r.want(r.do("GET", "/v1/orders/42", ""), 200, "fields.total", "15", "fields.note", "null",
		"fields.tags", `["z","a","b"]`, "fields.b", `{"$bytes":"AP8="}`)
	r.want(r.do("POST", "/v1/orders/42:unset", `["note", "b"]`), 200)
	r.want(r.do("GET", "/v1/orders/42", ""), 200, "fields.note", "nothing", "fields.b", "nothing")
	touched := r.want(r.do("POST", "/v1/orders/42:touch?ttl=1h", ""), 200)
	got := r.want(r.do("GET", "/v1/orders/42", ""), 200, "version", touched.version())
	if at, err := time.Parse(`"`+time.RFC3339Nano+`"`, member(got.body, "expires_at")); err != nil || time.Until(at) > time.Hour {
		t.Errorf("expires_at: %v in %s", err, got.raw)
	}
	r.want(r.do("GET", "/v1/orders/42", "", "If-None-Match", quote(touched.version())), 304)
	if head := r.do("HEAD", "/v1/orders/42", ""); head.status != 200 || head.header.Get("ETag") == "" || head.raw != "" {
		t.Errorf("HEAD: %+v", head)
	}
	r.want(r.do("PUT", "/v1/orders/42", `{}`), 200) // set clears fields and expiry
	r.want(r.do("GET", "/v1/orders/42", ""), 200, "fields", "{}", "expires_at", "nothing")
	r.want(r.do("DELETE", "/v1/orders/42", ""), 200)
	r.want(r.do("GET", "/v1/orders/42", ""), 404, "code", `"not_found"`)
}

func TestEvents(t *testing.T) {
	r := newRig(t)
	r.want(r.do("GET", "/v1/carts/1/events", ""), 404, "code", `"not_found"`)
	r.want(r.do("POST", "/v1/carts/1/events", `{"expected_version": 0, "events": [{"kind": "opened"}, {"n": 2}]}`),
		200, "event_count", "2")
	r.want(r.do("POST", "/v1/carts/1/events", `{"expected_version": 0, "events": [{"kind": "late"}]}`),
		409, "code", `"version_conflict"`, "details.event_count", "2")
	r.want(r.do("POST", "/v1/carts/1/events", `{"events": [{"n": 3}]}`), 200)
	r.want(r.do("GET", "/v1/carts/1", ""), 200, "event_count", "3")
	first := r.want(r.do("GET", "/v1/carts/1/events?limit=2", ""), 200, "key", `"1"`, "next", "3")
	if !strings.Contains(first.raw, `{"number":1,"lsn":1,"fields":{"kind":"opened"}},{"number":2,"lsn":1,"fields":{"n":2}}`) {
		t.Errorf("got %s", first.raw)
	}
	rest := r.want(r.do("GET", "/v1/carts/1/events?from=3&limit=2", ""), 200, "next", "nothing")
	if !strings.Contains(rest.raw, `"events":[{"number":3,`) {
		t.Errorf("got %s", rest.raw)
	}
	r.want(r.do("GET", "/v1/carts/1/events?from=4", ""), 200, "events", "[]")
}

func TestKeys(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct{ path, key string }{
		{"/v1/orders/a%2Fb%3Ac%25", `"a/b:c%"`},
		{"/v1/orders/%C3%A9+", `"é+"`},
		{"/v1/orders/..", `".."`},
		{"/v1/numbers/-42", `-42`},
		{"/v1/blobs/%00%FF", `{"$bytes":"AP8="}`},
		{"/v1/blobs/text", `{"$bytes":"dGV4dA=="}`},
		{"/v1/seats/%5B%22eu%22%2C7%5D", `["eu",7]`},
	} {
		r.want(r.do("PUT", c.path, `{"path": `+quote(c.path)+`}`), 200)
		r.want(r.do("GET", c.path, ""), 200, "key", c.key, "fields.path", quote(c.path))
	}
	// The same records by their keys in JSON.
	items := `[{"collection":"numbers","key":"-42","merge":{"x":1}},{"collection":"numbers","key":-42,"merge":{"y":1}},
		{"collection":"blobs","key":{"$bytes":"AP8="},"merge":{"x":1}},{"collection":"seats","key":["eu",7],"merge":{"x":1}}]`
	if a := r.want(r.do("POST", "/v1/mutations", items), 200); strings.Contains(a.raw, "error") {
		t.Fatal(a.raw)
	}
	r.want(r.do("GET", "/v1/numbers/-42", ""), 200, "fields.x", "1", "fields.y", "1")
	r.want(r.do("GET", "/v1/blobs/%00%FF", ""), 200, "fields.x", "1")
	r.want(r.do("GET", "/v1/seats/%5B%22eu%22,7%5D", ""), 200, "fields.x", "1")
}

func TestAckApplied(t *testing.T) {
	r := newRig(t)
	a := r.want(r.do("PUT", "/v1/orders/1?ack=applied", `{"a":1}`), 200, "state", `"applied"`)
	r.want(r.do("GET", "/v1/writes/"+a.version(), ""), 200, "state", `"applied"`, "sinks.main", `"applied"`)

	release := make(chan struct{})
	r.sink.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(release)})
	a = r.want(r.do("PUT", "/v1/orders/2?ack=applied&timeout=50ms", `{"a":1}`), 202, "state", `"logged"`)
	r.want(r.do("GET", "/v1/writes/"+a.version(), ""), 200, "state", `"logged"`)
	r.want(r.do("GET", "/v1/status", ""), 200, "log.durable", a.version(), "sinks", member(r.do("GET", "/v1/status", "").body, "sinks"))
	// Not applied yet: a read waits and says so, it does not answer "absent".
	r.want(r.do("GET", "/v1/orders/2?timeout=50ms", ""), 504, "code", `"timeout"`, "retryable", "true")
	close(release)
	r.want(r.do("GET", "/v1/orders/2", ""), 200, "fields.a", "1")
	until(t, "the write is applied", func() bool {
		return member(r.do("GET", "/v1/writes/"+a.version(), "").body, "state") == `"applied"`
	})
}

func TestIdempotency(t *testing.T) {
	r := newRig(t)
	id := []string{"Idempotency-Key", "order-1"}
	first := r.want(r.do("POST", "/v1/orders/1:increment", `{"n": 1}`, id...), 200, "repeat", "nothing")
	again := r.want(r.do("POST", "/v1/orders/1:increment", `{"n": 1}`, id...), 200, "repeat", "true")
	if first.version() != again.version() {
		t.Errorf("a repeat got another LSN: %s, %s", first.raw, again.raw)
	}
	r.want(r.do("POST", "/v1/orders/1:increment", `{"n": 2}`, id...), 422, "code", `"idempotency_mismatch"`, "retryable", "false")
	r.want(r.do("GET", "/v1/orders/1", ""), 200, "fields.n", "1")
	r.want(r.do("PUT", "/v1/orders/1?ttl=1h", `{}`, id...), 400, "field", `"ttl"`)
	at := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	r.want(r.do("PUT", "/v1/orders/1?expires_at="+at, `{}`, "Idempotency-Key", "order-2"), 200)
	r.want(r.do("GET", "/v1/orders/1", ""), 200, "expires_at", quote(at))
}

func TestExpiry(t *testing.T) {
	r := newRig(t)
	r.want(r.do("PUT", "/v1/sessions/1?ttl=100ms", `{"a":1}`), 200)
	r.want(r.do("PUT", "/v1/sessions/2?ttl=1h", `{"a":1}`), 200)
	until(t, "the session ends", func() bool { return r.do("GET", "/v1/sessions/1", "").status == http.StatusNotFound })
	r.want(r.do("GET", "/v1/sessions/2", ""), 200)
}

func TestPreconditions(t *testing.T) {
	r := newRig(t)
	first := r.want(r.do("PUT", "/v1/orders/1", `{"n":1}`, "If-None-Match", "*"), 200)
	conflict := r.want(r.do("PUT", "/v1/orders/1", `{"n":2}`, "If-None-Match", "*"), 412,
		"code", `"version_conflict"`, "details.version", first.version())
	if conflict.header.Get("ETag") != quote(first.version()) {
		t.Errorf("ETag: got %s, want %q", conflict.header.Get("ETag"), first.version())
	}
	second := r.want(r.do("PATCH", "/v1/orders/1", `{"n":2}`, "If-Match", quote(first.version())), 200)
	r.want(r.do("DELETE", "/v1/orders/1", "", "If-Match", quote(first.version())), 412, "details.version", second.version())
	r.want(r.do("PUT", "/v1/orders/none", `{}`, "If-Match", `"7"`), 412, "details.version", "0")
	body := `[{"collection":"orders","key":"1","set":{},"if_version":` + first.version() + `}]`
	a := r.want(r.do("POST", "/v1/mutations", body), 200)
	if !strings.Contains(a.raw, `"status":409,"code":"version_conflict"`) {
		t.Errorf("got %s", a.raw)
	}
	r.want(r.do("GET", "/v1/orders/1", ""), 200, "fields.n", "2")
}

// TestOneOfFifty is F11 over HTTP: of 50 writers with one expected version one
// wins, and the others are told the winner's version.
func TestOneOfFifty(t *testing.T) {
	r := newRig(t)
	for round := range 5 {
		path := fmt.Sprintf("/v1/orders/%d", round)
		base := r.want(r.do("PUT", path, `{"by": -1}`), 200)
		answers := make([]answer, 50)
		var writers sync.WaitGroup
		begin := make(chan struct{})
		for i := range answers {
			writers.Go(func() {
				<-begin
				var err error
				answers[i], err = r.try("PUT", path, strings.NewReader(fmt.Sprintf(`{"by": %d}`, i)), "If-Match", quote(base.version()))
				if err != nil {
					t.Error(err)
				}
			})
		}
		close(begin)
		writers.Wait()
		winner, version := -1, ""
		for i, a := range answers {
			if a.status == http.StatusOK {
				if winner >= 0 {
					t.Fatalf("both %d and %d won", winner, i)
				}
				winner, version = i, a.version()
			}
		}
		if winner < 0 {
			t.Fatal("nobody won")
		}
		for i, a := range answers {
			if i != winner {
				r.want(a, 412, "code", `"version_conflict"`, "details.version", version)
			}
		}
		r.want(r.do("GET", path, ""), 200, "version", version, "fields.by", fmt.Sprint(winner))
	}
}

// TestNotFound is F14: one code for "is not there" in every surface.
func TestNotFound(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"/v1/orders/none", "/v1/orders/none/events", "/v1/numbers/1", "/v1/writes/1", "/v1/writes/99999"} {
		r.want(r.do("GET", path, ""), 404, "code", `"not_found"`, "retryable", "false", "status", "404")
	}
	r.want(r.do("PUT", "/v1/orders/1", `{}`), 200)
	r.want(r.do("DELETE", "/v1/orders/1", ""), 200)
	r.want(r.do("GET", "/v1/orders/1", ""), 404, "code", `"not_found"`)
	r.want(r.do("GET", "/v1/orders/1/events", ""), 404, "code", `"not_found"`)
	r.want(r.do("GET", "/v2/orders/1", ""), 404, "code", `"no_such_path"`) // another thing, another code
}

func TestStatus(t *testing.T) {
	r := newRig(t)
	r.want(r.do("PUT", "/v1/orders/1?ack=applied", `{}`), 200)
	a := r.want(r.do("GET", "/v1/status", ""), 200, "log.appended", "1", "log.durable", "1")
	for _, want := range []string{`"stream":"`, `"name":"main"`, `"state":"running"`, `"lag":0`} {
		if !strings.Contains(a.raw, want) {
			t.Errorf("%s is missing in %s", want, a.raw)
		}
	}
}

// TestEventsInPages: an answer is bounded in bytes, and following next finds
// every event once.
func TestEventsInPages(t *testing.T) {
	r := newRig(t)
	const events = 40
	pad := strings.Repeat("x", 300<<10)
	for n := range events {
		r.want(r.do("POST", "/v1/carts/1/events", fmt.Sprintf(`{"events": [{"n": %d, "pad": %q}]}`, n+1, pad)), 200)
	}
	from, seen, answers := uint64(1), uint64(0), 0
	for from != 0 {
		a := r.want(r.do("GET", fmt.Sprintf("/v1/carts/1/events?from=%d&limit=1000", from), ""), 200)
		if len(a.raw) > 16<<20 { // 4 MiB and a page of 16
			t.Errorf("an answer of %d bytes", len(a.raw))
		}
		var page struct {
			Events []struct{ Number uint64 }
			Next   uint64
		}
		if err := json.Unmarshal([]byte(a.raw), &page); err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			if seen++; e.Number != seen {
				t.Fatalf("event %d where %d is due", e.Number, seen)
			}
		}
		from = page.Next
		answers++
	}
	if seen != events || answers < 2 {
		t.Errorf("%d events in %d answers, want %d in several", seen, answers, events)
	}
}
