package rpc_test

import (
	"fmt"
	"strings"
	"testing"
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
