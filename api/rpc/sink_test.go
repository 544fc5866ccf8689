package rpc_test

import (
	"context"
	"strings"
	"testing"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// Sinks are listed, paused and resumed; a paused one says so to reads and waits.
func TestSinks(t *testing.T) {
	r := newRig(t)
	list := r.want(r.do("GET", "/v1/sinks", ""), 200)
	for _, want := range []string{`"name":"main"`, `"lag":0`, `"lag_bytes":0`} {
		if !strings.Contains(list.raw, want) {
			t.Errorf("%s is not in %s", want, list.raw)
		}
	}
	r.want(r.do("PUT", "/v1/orders/1?ack=applied", `{"total": 1}`), 200, "state", `"applied"`)
	for range 2 {
		r.want(r.do("POST", "/v1/sinks/main:pause", ""), 200, "sink", `"main"`, "paused", "true")
	}
	r.want(r.do("PUT", "/v1/orders/1?ack=applied", `{"total": 2}`), 202, "state", `"logged"`)
	r.want(r.do("GET", "/v1/orders/1", ""), 503, "code", `"sink_paused"`)
	if status := r.do("GET", "/v1/status", ""); !strings.Contains(status.raw, `"paused":true`) || !strings.Contains(status.raw, `"lag":1`) {
		t.Errorf("got %s", status.raw)
	}
	r.want(r.do("POST", "/v1/sinks/main:resume", ""), 200, "paused", "false")
	r.want(r.do("GET", "/v1/orders/1", ""), 200, "version", "2")

	r.want(r.do("POST", "/v1/sinks/nobody:pause", ""), 404, "code", `"not_found"`)
	r.want(r.do("POST", "/v1/sinks/nobody:resume", ""), 404, "code", `"not_found"`)
	r.want(r.do("GET", "/v1/sinks/main:pause", ""), 405, "code", `"method_not_allowed"`)
	r.want(r.do("POST", "/v1/sinks", ""), 405)
	r.want(r.do("POST", "/v1/sinks/main:stop", ""), 400, "field", `"sink"`)
	r.want(r.do("GET", "/v1/sinks/main", ""), 404, "code", `"no_such_path"`)
	r.want(r.do("POST", "/v1/sinks/a/b:pause", ""), 404, "code", `"no_such_path"`)
}

// A pause while the store hangs is answered when its time is up: it holds.
func TestPauseOfAHungSink(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, func(o *rigOptions) {
		o.prepare = func(f *sinktest.Faulty) {
			f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(release)})
		}
	})
	r.want(r.do("PUT", "/v1/orders/1", `{}`), 200)
	until(t, "the apply", func() bool { return len(r.sink.Calls()) > 0 })
	r.want(r.do("POST", "/v1/sinks/main:pause?timeout=20ms", ""), 202, "paused", "true", "busy", "true")
	r.want(r.do("GET", "/v1/orders/1", ""), 503, "code", `"sink_paused"`)
	close(release)
	r.want(r.do("POST", "/v1/sinks/main:resume", ""), 200)
	r.want(r.do("GET", "/v1/orders/1", ""), 200)
}

// Two sinks, one down and at its bound: its writes are refused with its name and
// numbers, the other's are not, and the state of a write names both.
func TestSinkBehind(t *testing.T) {
	other := sinktest.NewFaulty(sinktest.NewMemory())
	other.Add(sinktest.Rule{Do: sinktest.FailBefore(sinks.Retry, sinktest.ErrAway), Times: sinktest.Always})
	t.Cleanup(func() { _ = other.Close(context.Background()) })
	r := newRig(t, func(o *rigOptions) {
		o.proxy.Sinks = append(o.proxy.Sinks, walproxy.SinkOptions{Name: "other", Sink: other, MaxLagBytes: 100})
		o.proxy.Routes = []walproxy.Route{
			{Collections: []string{"rare"}, Sinks: []string{"other"}}, {Collections: []string{"*"}, Sinks: []string{"main"}}}
	})
	r.want(r.do("PUT", "/v1/rare/1", `{"text": "`+strings.Repeat("x", 90)+`"}`), 200)
	refused := r.want(r.do("PUT", "/v1/rare/2", `{}`), 503, "code", `"sink_behind"`, "retryable", "true",
		"details.sink", `"other"`, "details.max_lag_bytes", "100")
	if refused.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	r.want(r.do("PUT", "/v1/orders/1?ack=applied", `{}`), 200, "state", `"applied"`)
	r.want(r.do("GET", "/v1/writes/1", ""), 200, "state", `"logged"`, "sinks.other", `"logged"`, "sinks.main", `"unrouted"`)
	r.want(r.do("GET", "/v1/writes/2", ""), 200, "state", `"applied"`, "sinks.other", `"unrouted"`, "sinks.main", `"applied"`)
	items := r.do("POST", "/v1/mutations", `[{"collection":"rare","key":"3","set":{}},{"collection":"orders","key":"3","set":{}}]`)
	if !strings.Contains(items.raw, `"sink_behind"`) || !strings.Contains(items.raw, `"lsn":3`) {
		t.Errorf("got %s", items.raw)
	}
	other.Clear()
}
