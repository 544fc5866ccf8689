package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/admin"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a real proxy over the in-memory sink.
type rig struct {
	t     *testing.T
	proxy *walproxy.Proxy
	sink  *sinktest.Faulty
	admin *admin.Server
}

func newRig(t *testing.T, paused bool, wrap func(api.Core) api.Core, limits ...admin.Limits) *rig {
	t.Helper()
	r := &rig{t: t, sink: sinktest.NewFaulty(sinktest.NewMemory())}
	registry := prometheus.NewRegistry()
	var err error
	r.proxy, err = walproxy.Open(t.Context(), walproxy.Options{
		Dir: t.TempDir(), Log: wal.Options{MinFree: -1}, Registerer: registry, DrainTimeout: time.Second,
		Sinks: []walproxy.SinkOptions{{Name: "main", Sink: r.sink, Paused: paused}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.proxy.Close(context.Background()) // records may stay
		if err := r.sink.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	core := api.New(r.proxy)
	if wrap != nil {
		core = wrap(core)
	}
	limits = append(limits, admin.Limits{})
	r.admin = admin.New(admin.Options{Core: core, Gatherer: registry, Limits: limits[0]})
	return r
}

func (r *rig) get(path string) (int, string) {
	w := httptest.NewRecorder()
	r.admin.ServeHTTP(w, httptest.NewRequestWithContext(r.t.Context(), "GET", path, nil))
	return w.Code, w.Body.String()
}

func (r *rig) want(path string, status int, parts ...string) {
	r.t.Helper()
	code, body := r.get(path)
	if code != status {
		r.t.Errorf("%s: got %d, want %d: %s", path, code, status, body)
	}
	for _, part := range parts {
		if !strings.Contains(body, part) {
			r.t.Errorf("%s: %q is missing in %s", path, part, body)
		}
	}
}

func (r *rig) write() {
	r.t.Helper()
	m, err := mutation.Set("orders", mutation.String("1"), map[string]any{"a": 1})
	if err == nil {
		_, err = r.proxy.Append(r.t.Context(), m)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) until(path string, status int) {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if code, body := r.get(path); code == status {
			return
		} else if time.Now().After(deadline) {
			r.t.Fatalf("%s stays %d: %s", path, code, body)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestHealthy(t *testing.T) {
	r := newRig(t, false, nil)
	r.write()
	r.want("/healthz", 200, `"status":"ok"`)
	r.want("/readyz", 200, `"ready":true`, `"state":"writable"`, `"name":"main"`)
	r.want("/metrics", 200, "walproxy_log_appended_lsn 1", "walproxy_log_durable_lsn 1")
	r.want("/debug/pprof/goroutine?debug=1", 200, "goroutine profile")
	r.want("/", 404)
	r.admin.Stopping()
	r.want("/readyz", 503, `"ready":false`, `"state":"stopping"`)
	r.want("/healthz", 200)
	w := httptest.NewRecorder()
	r.admin.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", "/metrics", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: got %d", w.Code)
	}
}

func TestHaltedSink(t *testing.T) {
	r := newRig(t, false, nil)
	r.sink.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.Halt(errors.New("the table is gone")), Times: sinktest.Always})
	r.write()
	r.until("/readyz", 503)
	r.want("/readyz", 503, `"ready":false`, `"state":"halted"`, "the table is gone", `"state":"writable"`)
	r.want("/healthz", 200) // a restart would not help
}

// TestStoreAway: a store that cannot be reached is what walproxy is for.
func TestStoreAway(t *testing.T) {
	r := newRig(t, false, nil)
	r.sink.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.FailBefore(0, sinktest.ErrAway), Times: sinktest.Always})
	r.write()
	r.want("/readyz", 200, `"ready":true`, `"lag":1`)
}

func TestPausedSink(t *testing.T) {
	r := newRig(t, true, nil)
	r.write()
	r.want("/readyz", 200, `"state":"paused"`, `"lag":1`)
}

// poisoned is a core whose log has failed.
type poisoned struct{ api.Core }

func (poisoned) Err() error { return wal.ErrPoisoned }

func TestPoisonedLog(t *testing.T) {
	r := newRig(t, false, func(c api.Core) api.Core { return poisoned{c} })
	r.want("/healthz", 503, `"status":"poisoned"`)
	r.want("/readyz", 503, `"ready":false`, `"state":"poisoned"`)
	_, body := r.get("/readyz")
	if !json.Valid([]byte(body)) {
		t.Errorf("not JSON: %s", body)
	}
}

// TestFullLog: a log that refuses writes is not ready, and healthy.
func TestFullLog(t *testing.T) {
	for name, limits := range map[string]admin.Limits{"max_bytes": {MaxBytes: 16 << 10}, "min_free": {MinFree: 1 << 62}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, true, nil, limits)
			r.write()
			r.want("/readyz", 503, `"ready":false`, `"state":"full"`)
			r.want("/healthz", 200)
		})
	}
	r := newRig(t, true, nil, admin.Limits{MaxBytes: 1 << 30, MinFree: 1})
	r.write()
	r.want("/readyz", 200, `"state":"writable"`)
}
