package rpc_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
)

// TestDeadLetters: what the store rejects is listed, shown and retried; reads of
// its key say so, and nothing of it is silent.
func TestDeadLetters(t *testing.T) {
	r := newRig(t)
	r.want(r.do("GET", "/v1/dlq/main", ""), 200, "dead_letters", "[]")
	r.want(r.do("PUT", "/v1/orders/1", `{"total": "text"}`), 200)
	r.want(r.do("POST", "/v1/orders/1:increment?ack=applied", `{"total": 1}`), 202, "lsn", "2", "state", `"dead"`)
	r.want(r.do("POST", "/v1/orders/1:increment?ack=applied", `{"total": 2}`), 202, "lsn", "3", "state", `"parked"`)
	r.want(r.do("PUT", "/v1/orders/2?ack=applied", `{}`), 200, "state", `"applied"`)

	r.want(r.do("GET", "/v1/writes/2", ""), 200, "state", `"dead"`, "sinks.main", `"dead"`)
	r.want(r.do("GET", "/v1/writes/3", ""), 200, "state", `"parked"`)
	r.want(r.do("GET", "/v1/orders/1", ""), 409, "code", `"parked"`, "retryable", "false")
	r.want(r.do("GET", "/v1/orders/1/events", ""), 409, "code", `"parked"`)
	r.want(r.do("PUT", "/v1/orders/1", `{}`, "If-None-Match", "*"), 409, "code", `"parked"`)

	list := r.want(r.do("GET", "/v1/dlq/main?limit=1", ""), 200, "next", "3")
	for _, want := range []string{`"lsn":2`, `"state":"dead"`, `"collection":"orders"`, `"key":"1"`, `"reason":"ops[0].increment.total`} {
		if !strings.Contains(list.raw, want) {
			t.Errorf("%s is not in %s", want, list.raw)
		}
	}
	r.want(r.do("GET", "/v1/dlq/main?from=3", ""), 200, "next", "nothing")
	if one := r.want(r.do("GET", "/v1/dlq/main/3", ""), 200, "lsn", "3", "state", `"parked"`); !strings.Contains(one.raw, `"record":"`) {
		t.Errorf("no record in %s", one.raw)
	}
	r.want(r.do("GET", "/v1/status", ""), 200)

	r.want(r.do("GET", "/v1/dlq/nobody", ""), 404, "code", `"not_found"`)
	r.want(r.do("GET", "/v1/dlq/main/1", ""), 404, "code", `"not_found"`)
	r.want(r.do("POST", "/v1/dlq/main/1:retry", ""), 404, "code", `"not_found"`)
	r.want(r.do("GET", "/v1/dlq/main/x", ""), 400, "field", `"lsn"`)
	r.want(r.do("POST", "/v1/dlq/main/2:bury", ""), 400, "field", `"lsn"`)
	r.want(r.do("POST", "/v1/dlq/main/2", ""), 405, "code", `"method_not_allowed"`)

	// The cause is still there: both come back, in order, under new LSNs.
	retried := r.want(r.do("POST", "/v1/dlq/main/2:retry", ""), 200)
	if !strings.Contains(retried.raw, `"lsns":[`) {
		t.Fatalf("got %s", retried.raw)
	}
	last := r.want(r.do("PUT", "/v1/orders/3?ack=applied", `{}`), 200)
	again := r.want(r.do("GET", "/v1/dlq/main", ""), 200)
	if strings.Count(again.raw, `"collection"`) != 2 || strings.Contains(again.raw, `"lsn":2,`) {
		t.Errorf("before LSN %s: %s", member(last.body, "lsn"), again.raw)
	}
	r.want(r.do("GET", fmt.Sprint("/v1/writes/", 2), ""), 200, "state", `"dead"`)
}

// TestExportDeadLetters: all of them come, in order, over page bounds; what is
// exported can be posted again; the stream goes on from anywhere.
func TestExportDeadLetters(t *testing.T) {
	r := newRig(t)
	r.want(r.do("PUT", "/v1/orders/1", `{"total": "text"}`), 200)
	const n = 50
	for i := range n {
		body := fmt.Sprintf(`{"total": %d}`, i)
		r.want(r.do("POST", "/v1/orders/1:increment", body, "Idempotency-Key", fmt.Sprint("id-", i)), 200)
	}
	r.want(r.do("PUT", "/v1/orders/2?ack=applied", `{}`), 200)
	type line struct {
		LSN      uint64            `json:"lsn"`
		Position uint64            `json:"position"`
		State    string            `json:"state"`
		Reason   string            `json:"reason"`
		Details  map[string]string `json:"details"`
		Attempts uint64            `json:"attempts"`
		When     time.Time         `json:"when"`
		Mutation json.RawMessage   `json:"mutation"`
		Record   []byte            `json:"record"`
	}
	export := func(path string, headers ...string) (lines []line) {
		t.Helper()
		a := r.do("GET", path, "", headers...)
		if a.status != 200 || a.header.Get("Content-Type") != "application/x-ndjson" {
			t.Fatalf("%d, %s: %s", a.status, a.header.Get("Content-Type"), a.raw)
		}
		for text := range strings.Lines(a.raw) {
			var l line
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			lines = append(lines, l)
		}
		return lines
	}
	all := export("/v1/dlq/main", "Accept", "application/x-ndjson")
	if len(all) != n {
		t.Fatalf("%d lines, want %d", len(all), n)
	}
	for i, l := range all {
		want := fmt.Sprintf(`{"collection":"orders","key":"1","increment":{"total":%d},"request_id":"id-%d"}`, i, i)
		if l.LSN != uint64(i+2) || l.Position != l.LSN || string(l.Mutation) != want || len(l.Record) == 0 || l.Reason == "" || l.When.IsZero() {
			t.Errorf("line %d: %+v, mutation %s; want %s", i, l, l.Mutation, want)
		}
		if (l.Attempts == 1) != (i == 0) || (l.State == "dead") != (i == 0) {
			t.Errorf("line %d: %d attempts, %s; want the first dead after one, the others parked", i, l.Attempts, l.State)
		}
	}
	if rest := export("/v1/dlq/main?format=ndjson&from=40"); len(rest) != n+2-40 || rest[0].LSN != 40 {
		t.Errorf("from 40: %d lines", len(rest))
	}
	if none := export("/v1/dlq/main?format=ndjson&from=1000"); len(none) != 0 {
		t.Errorf("behind the end: %d lines", len(none))
	}
	r.want(r.do("GET", "/v1/dlq/main?format=xml", ""), 400, "field", `"format"`)
	r.want(r.do("GET", "/v1/dlq/main?format=ndjson&limit=3", ""), 400, "field", `"limit"`)
	r.want(r.do("GET", "/v1/dlq/nobody?format=ndjson", ""), 404, "code", `"not_found"`)

	// Given up, all of them: the key is free.
	for _, l := range all {
		r.want(r.do("DELETE", fmt.Sprint("/v1/dlq/main/", l.LSN), ""), 200, "lsn", fmt.Sprint(l.LSN))
	}
	r.want(r.do("DELETE", "/v1/dlq/main/2", ""), 404, "code", `"not_found"`)
	r.want(r.do("GET", "/v1/writes/3", ""), 200, "state", `"dead"`)
	r.want(r.do("GET", "/v1/orders/1", ""), 200)
	if left := export("/v1/dlq/main?format=ndjson"); len(left) != 0 {
		t.Errorf("%d are left", len(left))
	}
	again := strings.Replace(string(all[7].Mutation), `"id-7"`, `"other"`, 1)
	r.want(r.do("POST", "/v1/orders/1:unset", `["total"]`), 200)
	if a := r.do("POST", "/v1/mutations?ack=applied", "["+again+"]"); !strings.Contains(a.raw, `"state":"applied"`) {
		t.Errorf("an exported mutation, posted again: %s", a.raw)
	}
	r.want(r.do("GET", "/v1/orders/1", ""), 200, "fields.total", "7")
}

// TestExportEnds: a stop, or a state store that fails, in mid-stream is said.
func TestExportEnds(t *testing.T) {
	r := newRig(t, func(o *rigOptions) { o.wrap = func(c api.Core) api.Core { return &brokenLetters{Core: c} } })
	r.want(r.do("PUT", "/v1/orders/1", `{"total": "text"}`), 200)
	for range 30 {
		r.want(r.do("POST", "/v1/orders/1:increment", `{"total": 1}`), 200)
	}
	r.want(r.do("PUT", "/v1/orders/2?ack=applied", `{}`), 200)
	a := r.do("GET", "/v1/dlq/main?format=ndjson", "")
	lines := strings.Split(strings.TrimSpace(a.raw), "\n")
	if last := lines[len(lines)-1]; len(lines) < 2 || len(lines) > 30 || !strings.HasPrefix(last, `{"error":{`) {
		t.Errorf("%d lines, the last %s; want an error", len(lines), last)
	}
}

// brokenLetters fails at the second page.
type brokenLetters struct {
	api.Core
	pages atomic.Int64
}

func (b *brokenLetters) DeadLetters(sink string, from walproxy.LSN, limit int) ([]walproxy.DeadLetter, error) {
	if b.pages.Add(1) > 1 {
		return nil, walproxy.ErrClosed
	}
	return b.Core.DeadLetters(sink, from, limit)
}
