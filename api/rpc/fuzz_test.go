package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// taking is a core that takes every valid write and has no record.
type taking struct{ api.Core }

func (taking) Submit(_ context.Context, m *walproxyv1.Mutation) (api.Pending, error) {
	if err := mutation.Validate(m); err != nil {
		return nil, err
	}
	return taken{}, nil
}

func (taking) Read(context.Context, string, *walproxyv1.Key) (*mutation.Document, error) {
	return nil, mutation.ErrNotFound
}

func (taking) ReadEvents(context.Context, string, *walproxyv1.Key, uint64, int) ([]mutation.StoredEvent, error) {
	return nil, mutation.ErrNotFound
}

func (taking) Scan(context.Context, string, string, *walproxyv1.Key, int) ([]sinks.Entry, error) {
	return nil, nil
}

func (t taking) ReadApplied(ctx context.Context, c string, k *walproxyv1.Key) (*mutation.Document, error) {
	return t.Read(ctx, c, k)
}

func (t taking) ReadEventsApplied(ctx context.Context, c string, k *walproxyv1.Key, from uint64, n int) ([]mutation.StoredEvent, error) {
	return t.ReadEvents(ctx, c, k, from, n)
}

func (taking) ScanApplied(context.Context, string, string, *walproxyv1.Key, int) ([]sinks.Entry, error) {
	return nil, nil
}

func (taking) Wait(context.Context, walproxy.LSN, walproxy.Level) error { return nil }

func (taking) WriteState(walproxy.LSN) (walproxy.WriteState, error) {
	return walproxy.WriteState{State: walproxy.StateApplied}, nil
}

type taken struct{}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (taken) LSN() walproxy.LSN     { return 1 }
func (taken) Done() <-chan struct{} { return closed }
func (taken) Wait(context.Context) (walproxy.Result, error) {
	return walproxy.Result{LSN: 1}, nil
}

// fuzzed are the routes that the fuzzer asks: those that take what anybody makes up.
var fuzzed = []string{routeRecord, routeRecords, routeVerb, routeEvents, routeMutations, routeWrite, routeOpenAPI}

// FuzzRequest: whatever is sent, the answer is in the one form, nothing panics, and what is
// held for it is given back.
func FuzzRequest(f *testing.F) {
	f.Add("PUT", "/v1/orders/42?ack=applied", "", "", []byte(`{"total": 10, "a": {"$bytes": "AP8="}}`))
	f.Add("POST", "/v1/mutations", contentLines, "", []byte(`{"collection":"c","key":["a",1],"increment":{"n":1}}`+"\n{}\n"))
	f.Add("POST", "/v1/mutations", "application/json", "", []byte(`[{"collection":"c","key":1,"append_event":[{}]},{"key":`))
	f.Add("POST", "/v1/carts/7/events", "", "", []byte(`{"expected_version": 0, "events": [{"kind": "x"}]}`))
	f.Add("POST", "/v1/seats/%5B%22eu%22%5D:unset", "", "", []byte(`["a"]`))
	f.Add("GET", "/v1/orders?prefix=4&limit=3&page_token=b3JkZXJzAAEgNDIAAQ", "", "", []byte{})
	f.Add("GET", "/v1/orders/1/events?from=2&consistency=applied", "", "", []byte{})
	f.Add("PUT", "/v1/orders/1", "", "zstd", []byte("\x28\xb5\x2f\xfd\x04\x00\x11\x00\x00{}"))
	f.Add("POST", "/v1/mutations", "", "gzip", []byte("\x1f\x8b\x08\x00"))
	s, err := New(Options{Core: taking{}, MaxItemBytes: 4 << 10, MaxBodyBytes: 16 << 10, MaxInFlightBytes: 32 << 20})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, uri, contentType, encoding string, body []byte) {
		u, err := url.ParseRequestURI(uri)
		if err != nil || len(method) == 0 || len(body) > 64<<10 {
			return
		}
		r := &http.Request{Method: method, URL: u, RequestURI: uri, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}
		if at, failed := parsePath(rawPath(r)); failed == nil && !slices.Contains(fuzzed, at.route) || isProcedure(u.Path) {
			return
		}
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Content-Encoding", encoding)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r.WithContext(t.Context()))
		if w.Code >= 300 {
			var e Error
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code == "" || e.Status != w.Code || e.Message == "" {
				t.Fatalf("%s %s: %d %q: %v", method, uri, w.Code, w.Body, err)
			}
		} else if w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s %s: %q is no JSON", method, uri, w.Body)
		}
		if !s.limits.Load().inFlight.TryAcquire(s.options.MaxInFlightBytes) {
			t.Fatalf("%s %s: bytes in flight were not given back", method, uri)
		}
		s.limits.Load().inFlight.Release(s.options.MaxInFlightBytes)
	})
}
