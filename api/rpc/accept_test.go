package rpc_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy/internal/audit"
	"github.com/walproxy/walproxy/replay"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// TestAcceptSink: what it means is shown first, and done only as it was shown.
func TestAcceptSink(t *testing.T) {
	dir := t.TempDir()
	store := sinktest.NewMemory()
	if err := store.Rebase(t.Context(), "another log", sinks.Checkpoint{}, sinks.Checkpoint{Stream: [16]byte{7}, Lanes: []sinks.Point{{}}}); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(o *rigOptions) {
		o.rest.Audit = audit.New(dir, nil)
		o.proxy.Sinks[0].Sink = store
	})
	for deadline := time.Now().Add(30 * time.Second); !errors.Is(r.proxy.Status().Sinks[0].Err, replay.ErrForeignStream); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the sink is not refused")
		}
	}
	r.want(r.do("PUT", "/v1/orders/1", `{"total": 5}`), 200)
	r.want(r.do("GET", "/v1/sinks/nobody:accept", ""), 404, "code", `"not_found"`)
	r.want(r.do("GET", "/v1/sinks/main:accept?after=x", ""), 400, "field", `"after"`)
	r.want(r.do("GET", "/v1/sinks/main:accept?after=99", ""), 409, "code", `"after_unfit"`)
	r.want(r.do("DELETE", "/v1/sinks/main:accept", ""), 405)
	shown := r.want(r.do("GET", "/v1/sinks/main:accept", ""), 200)
	if !strings.Contains(shown.raw, "belongs to another stream") || !strings.Contains(shown.raw, `"effects":["the store no longer belongs`) {
		t.Errorf("got %s", shown.raw)
	}
	token := strings.Trim(member(shown.body, "token"), `"`)
	r.want(r.do("POST", "/v1/sinks/main:accept", ""), 400, "field", `"token"`)
	r.want(r.do("POST", "/v1/sinks/main:accept?after=1&token="+token, ""), 409, "code", `"plan_changed"`)
	r.want(r.do("POST", "/v1/sinks/main:accept?token="+token, "", "Walproxy-Actor", "alice"), 200)
	// The sink counts as halted until it has got further: nobody waits for it before.
	until(t, "writes are applied", func() bool {
		return r.do("PUT", "/v1/orders/2?ack=applied", `{"total": 5}`).status == 200
	})
	r.want(r.do("GET", "/v1/sinks/main:accept", ""), 409, "code", `"nothing_to_accept"`)
	entries, err := audit.Read(dir)
	if err != nil || len(entries) != 4 {
		t.Fatalf("%+v, %v in %s", entries, err, filepath.Join(dir, audit.Name))
	}
	for i, want := range []string{audit.Begin, audit.Failed, audit.Begin, audit.Done} {
		if e := entries[i]; e.Phase != want || e.Action != "sink accept" || e.Sink != "main" || !strings.Contains(e.Detail, "another stream") {
			t.Errorf("line %d: %+v", i, e)
		}
	}
}
