package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/api/rpc"
	"github.com/walproxy/walproxy/client"
	"github.com/walproxy/walproxy/internal/httpserve"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a proxy on Pebble behind its real API.
type rig struct {
	t     *testing.T
	proxy *walproxy.Proxy
	addr  string
}

type rigOptions struct {
	fullTimes int // every hundredth write finds no room, so often
}

func newRig(t *testing.T, change ...func(*rigOptions)) *rig {
	t.Helper()
	var o rigOptions
	for _, f := range change {
		f(&o)
	}
	dir := t.TempDir()
	store, err := pebble.Open(filepath.Join(dir, "sink"), pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	po := walproxy.Options{Dir: dir, Sinks: []walproxy.SinkOptions{{Name: "main", Sink: store}}, DrainTimeout: 5 * time.Second}
	po.Log.MinFree, po.Log.SegmentBytes = -1, 1<<20
	r := &rig{t: t}
	if r.proxy, err = walproxy.Open(t.Context(), po); err != nil {
		t.Fatal(err)
	}
	handler, err := rpc.New(rpc.Options{Core: &full{Core: api.New(r.proxy), times: int64(o.fullTimes)}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	server := httpserve.Start(httpserve.Options{Name: "api", Listener: l, Handler: handler, MaxConnections: 256})
	t.Cleanup(func() {
		handler.Stop()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Close(ctx)
		if err := r.proxy.Close(context.Background()); err != nil {
			t.Error(err)
		}
		handler.Wait()
		if err := store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// full is a core whose log now and then has no room; everything else is real.
type full struct {
	api.Core
	times, n int64
}

func (f *full) Submit(ctx context.Context, m *walproxyv1.Mutation) (api.Pending, error) {
	if n := atomic.AddInt64(&f.n, 1); n%50 == 0 && n/50 <= f.times {
		return nil, context.DeadlineExceeded // no room in the log's queue in time
	}
	return f.Core.Submit(ctx, m)
}

func (r *rig) logged() wal.LSN { return r.proxy.Status().Log.Appended }

func (r *rig) cut() *cutter { return newCutter(r.t, r.addr) }

func (r *rig) client(o client.Options) *client.Client { return r.clientVia("http://"+r.addr, o) }

func (r *rig) clientVia(address string, o client.Options) *client.Client {
	r.t.Helper()
	c, err := client.New(address, o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return c
}

func TestClient(t *testing.T) {
	for name, o := range map[string]client.Options{"connect": {}, "grpc": {GRPC: true}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c := r.client(o)
			ctx, key := t.Context(), mutation.String("42")
			if _, err := c.Get(ctx, "orders", key); !errors.Is(err, client.ErrNotFound) {
				t.Fatalf("absent: %v", err)
			}
			first, err := c.Put(ctx, "orders", key, map[string]any{"total": 10, "tags": []any{"a"}}, mutation.IfAbsent())
			if err != nil || first.LSN == 0 || first.State != client.Logged || first.Repeat {
				t.Fatalf("%+v, %v", first, err)
			}
			_, err = c.Put(ctx, "orders", key, nil, mutation.IfAbsent())
			if failed, ok := errors.AsType[*client.Error](err); !errors.Is(err, client.ErrConflict) || !ok || failed.Version != first.LSN || failed.RequestID == "" {
				t.Errorf("conflict: %+v", err)
			}
			if _, err := c.Increment(ctx, "orders", key, map[string]any{"total": 5}, mutation.IfVersion(wal.LSN(first.LSN))); err != nil {
				t.Error(err)
			}
			if _, err := c.Merge(ctx, "orders", key, map[string]any{"note": "x"}); err != nil {
				t.Error(err)
			}
			if _, err := c.Append(ctx, "orders", key, map[string]any{"tags": []any{"b"}}); err != nil {
				t.Error(err)
			}
			last, err := c.Applied().AppendEvents(ctx, "orders", key, []map[string]any{{"kind": "paid"}, {"kind": "sent"}})
			if err != nil || last.State != client.Applied {
				t.Errorf("%+v, %v", last, err)
			}
			got, err := c.AsApplied().Get(ctx, "orders", key)
			if err != nil || got.Fields["total"] != int64(15) || got.Fields["note"] != "x" || fmt.Sprint(got.Fields["tags"]) != "[a b]" || got.Version != last.LSN || got.EventCount != 2 {
				t.Errorf("%+v, %v", got, err)
			}
			state, sinks, err := c.GetWrite(ctx, last.LSN)
			if err != nil || state != client.Applied || sinks["main"] != client.Applied {
				t.Errorf("%v %v %v", state, sinks, err)
			}
			for n := range 3 {
				repeat, err := c.Increment(ctx, "orders", key, map[string]any{"total": 1}, mutation.WithRequestID("once"))
				if err != nil || repeat.Repeat != (n > 0) {
					t.Errorf("%+v, %v", repeat, err)
				}
			}
			if _, err := c.Delete(ctx, "orders", key, mutation.WithRequestID("once")); !errors.Is(err, client.ErrMismatch) {
				t.Errorf("another write under the id: %v", err)
			}
			if _, err := c.WriteAtomic(ctx, "", mutation.Delete("orders", key), mutation.Touch("orders", mutation.String("43"))); err != nil {
				t.Error(err)
			}
			if _, err := c.Put(ctx, "orders", key, map[string]any{"x": struct{}{}}); !errors.Is(err, client.ErrInvalid) {
				t.Errorf("no value: %v", err)
			}
			checkPages(t, c)
		})
	}
}

func checkPages(t *testing.T, c *client.Client) {
	t.Helper()
	ctx := t.Context()
	s := c.Stream(client.StreamOptions{})
	for i := range 1200 {
		m, err := mutation.AppendEvents("pages", mutation.String(fmt.Sprintf("k%d", i%600)), []map[string]any{{"i": i}})
		if err == nil {
			_, err = s.Send(ctx, m)
		}
		if err == nil && i < 600 {
			m, err = mutation.AppendEvents("pages", mutation.String("all"), []map[string]any{{"i": i}})
		}
		if err == nil && i < 600 {
			_, err = s.Send(ctx, m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	last, n := "", 0
	for r, err := range c.Scan(ctx, "pages", "k") {
		if err != nil || mutation.KeyText(r.Key) <= last || r.EventCount != 2 {
			t.Fatalf("%+v behind %s, %v", r, last, err)
		}
		last = mutation.KeyText(r.Key)
		n++
	}
	if n != 600 {
		t.Errorf("%d records, want 600", n)
	}
	next := uint64(3)
	for e, err := range c.GetEvents(ctx, "pages", mutation.String("all"), next) {
		if err != nil || e.Number != next || e.Fields["i"] != int64(next-1) {
			t.Fatalf("%+v, want %d: %v", e, next, err)
		}
		next++
	}
	if next != 601 {
		t.Errorf("the last event is %d, want 600", next-1)
	}
	for range c.Scan(ctx, "pages", "") {
		break // and no page more
	}
	for _, err := range c.GetEvents(ctx, "pages", mutation.String("none"), 1) {
		if !errors.Is(err, client.ErrNotFound) {
			t.Errorf("events of none: %v", err)
		}
	}
}

// TestAway: what cannot be sent is unavailable; what may have been is of unknown outcome.
func TestAway(t *testing.T) {
	r := newRig(t)
	away := r.cut()
	c := r.clientVia(away.address(), client.Options{RetryFor: 40 * time.Millisecond})
	away.stop()
	_, err := c.Put(t.Context(), "c", mutation.String("1"), nil)
	if !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrUnknownOutcome) {
		t.Errorf("nobody there: %v", err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and no more
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c = r.clientVia("http://"+silent.Addr().String(), client.Options{Timeout: 50 * time.Millisecond, RetryFor: -1})
	_, err = c.Put(t.Context(), "c", mutation.String("1"), nil)
	if failed, ok := errors.AsType[*client.Error](err); !errors.Is(err, client.ErrUnknownOutcome) || !ok || failed.RequestID == "" {
		t.Errorf("no answer: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c = r.clientVia("http://"+silent.Addr().String(), client.Options{})
	if _, err = c.Get(ctx, "c", mutation.String("1")); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, client.ErrNotFound) {
		t.Errorf("a read without an answer: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = c.Get(t.Context(), "c", mutation.String("1")); !errors.Is(err, client.ErrClosed) {
		t.Errorf("behind Close: %v", err)
	}
	for _, address := range []string{"", "host:1", "ftp://host", "http://"} {
		if _, err := client.New(address, client.Options{}); err == nil {
			t.Errorf("New(%q) takes it", address)
		}
	}
}

// TestSomethingElseAnswers: behind an attempt that may have been done, what somebody else
// at the address says of the next one, as while a proxy is replaced, is not its outcome.
func TestSomethingElseAnswers(t *testing.T) {
	var calls atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			_, _ = io.Copy(io.Discard, r.Body)
			panic(http.ErrAbortHandler)
		}
		http.NotFound(w, r)
	}))
	server.Config.Protocols = &http.Protocols{}
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	c, err := client.New(server.URL, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Put(t.Context(), "orders", mutation.String("1"), map[string]any{"n": 1})
	if !errors.Is(err, client.ErrUnknownOutcome) || calls.Load() != 2 {
		t.Errorf("after %d calls: %v", calls.Load(), err)
	}
	if _, err = c.Put(t.Context(), "orders", mutation.String("1"), map[string]any{"n": 1}); err == nil || errors.Is(err, client.ErrUnknownOutcome) {
		t.Errorf("what was never taken: %v", err)
	}
}
