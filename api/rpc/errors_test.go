package rpc_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/sinks/sinktest"
	"github.com/walproxy/walproxy/wal"
)

// TestRefusals: bad requests name what is wrong, and nothing of them is logged.
func TestRefusals(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		code, field        string
		headers            []string
	}{
		{"PUT", "/v1/orders/1", ``, 400, "invalid", "", nil},
		{"PUT", "/v1/orders/1", `[1]`, 400, "invalid", "", nil},
		{"PUT", "/v1/orders/1", `{"a":1,"a":2}`, 400, "invalid", "a", nil},
		{"PUT", "/v1/orders/1", `{"a":{"b":[9223372036854775808]}}`, 400, "invalid", "a.b[0]", nil},
		{"PUT", "/v1/orders/1", `{"a":{"$decimal":"x"}}`, 400, "invalid", "a", nil},
		{"PATCH", "/v1/orders/1", `{}`, 400, "invalid", "merge", nil},
		{"POST", "/v1/orders/1:increment", `{"n":"x"}`, 400, "invalid", "n", nil},
		{"POST", "/v1/orders/1:unset", `{"n":1}`, 400, "invalid", "", nil},
		{"POST", "/v1/orders/1:touch", `{"n":1}`, 400, "invalid", "", nil},
		{"DELETE", "/v1/orders/1", `{"n":1}`, 400, "invalid", "", nil},
		{"DELETE", "/v1/orders/1?ttl=5s", ``, 400, "invalid", "expires_at", nil},
		{"POST", "/v1/orders/1/events", `{"events":[]}`, 400, "invalid", "events", nil},
		{"POST", "/v1/orders/1/events", `{"event":[{}]}`, 400, "invalid", "event", nil},
		{"POST", "/v1/orders/1/events", `{"expected_version":1,"events":[{}]}`, 400, "invalid", "expected_version",
			[]string{"If-Match", `"1"`}},
		{"POST", "/v1/orders/1:frobnicate", `{}`, 400, "invalid", "key", nil},
		{"PUT", "/v1/orders/a:b", `{}`, 400, "invalid", "key", nil},
		{"PUT", "/v1/numbers/x", `{}`, 400, "invalid", "key", nil},
		{"PUT", "/v1/numbers/042", `{}`, 400, "invalid", "key", nil},
		{"PUT", "/v1/seats/eu", `{}`, 400, "invalid", "key", nil},
		{"PUT", "/v1/orders/%FF", `{}`, 400, "invalid", "key", nil},
		{"PUT", "/v1/dlq/1", `{}`, 405, "method_not_allowed", "", nil},
		{"PUT", "/v1/mutations/1", `{}`, 400, "invalid", "collection", nil},
		{"PUT", "/v1/orders/1?akc=applied", `{}`, 400, "invalid", "akc", nil},
		{"PUT", "/v1/orders/1?ack=durable", `{}`, 400, "invalid", "ack", nil},
		{"PUT", "/v1/orders/1?timeout=1", `{}`, 400, "invalid", "timeout", nil},
		{"PUT", "/v1/orders/1?timeout=1s&timeout=2s", `{}`, 400, "invalid", "timeout", nil},
		{"PUT", "/v1/orders/1?ttl=-1s", `{}`, 400, "invalid", "ttl", nil},
		{"PUT", "/v1/orders/1?expires_at=soon", `{}`, 400, "invalid", "expires_at", nil},
		{"PUT", "/v1/orders/1", `{}`, 400, "invalid", "If-Match", []string{"If-Match", `3`}},
		{"PUT", "/v1/orders/1", `{}`, 400, "invalid", "If-Match", []string{"If-Match", `W/"3"`}},
		{"PUT", "/v1/orders/1", `{}`, 400, "invalid", "If-Match", []string{"If-Match", `"3"`, "If-None-Match", "*"}},
		{"PUT", "/v1/orders/1", `{}`, 400, "invalid", "If-None-Match", []string{"If-None-Match", `"3"`}},
		{"PUT", "/v1/orders/1", `{}`, 400, "invalid", "request_id", []string{"Idempotency-Key", strings.Repeat("x", 300)}},
		{"GET", "/v1/orders/1/events?limit=0", ``, 400, "invalid", "limit", nil},
		{"GET", "/v1/orders/1/events?from=0", ``, 400, "invalid", "from", nil},
		{"GET", "/v1/writes/0", ``, 400, "invalid", "lsn", nil},
		{"GET", "/v1/writes/x", ``, 400, "invalid", "lsn", nil},
		{"POST", "/v1/orders/1", `{}`, 405, "method_not_allowed", "", nil},
		{"GET", "/v1/mutations", ``, 405, "method_not_allowed", "", nil},
		{"PUT", "/v1/orders/1:touch", ``, 405, "method_not_allowed", "", nil},
		{"PUT", "/v1/orders/1", `{}`, 415, "unsupported_media_type", "Content-Type", []string{"Content-Type", "application/xml"}},
		{"PUT", "/v1/orders/1", `{}`, 415, "unsupported_media_type", "Content-Encoding", []string{"Content-Encoding", "br"}},
		{"PUT", "/v1/orders/1", `{"this": "is plain"}`, 400, "invalid", "Content-Encoding", []string{"Content-Encoding", "gzip"}},
		{"PUT", "/v1/orders/1", `{"this": "is plain"}`, 400, "invalid", "Content-Encoding", []string{"Content-Encoding", "zstd"}},
		{"PUT", "/v1/orders/1", ``, 400, "incomplete_body", "", []string{"Content-Encoding", "gzip"}},
		{"POST", "/v1/mutations", `[{}]`, 400, "invalid", "Content-Encoding", []string{"Content-Encoding", "zstd"}},
		{"PUT", "/v1/orders/1", `{}`, 403, "cross_origin", "", []string{"Sec-Fetch-Site", "cross-site"}},
		{"POST", "/v1/mutations", `{}`, 400, "invalid", "", nil},
		{"POST", "/v1/mutations", ``, 400, "incomplete_body", "", nil},
		{"POST", "/v1/mutations", `[]`, 400, "invalid", "Idempotency-Key", []string{"Idempotency-Key", "x"}},
		{"POST", "/v1/mutations?ttl=1s", `[]`, 400, "invalid", "ttl", nil},
	} {
		a := r.do(c.method, c.path, c.body, c.headers...)
		field := quote(c.field)
		if c.field == "" {
			field = "nothing"
		}
		if a.status != c.status || member(a.body, "code") != quote(c.code) || member(a.body, "field") != field ||
			member(a.body, "status") != fmt.Sprint(c.status) || member(a.body, "retryable") == "nothing" {
			t.Errorf("%s %s %s %q:\n got %d %s\nwant %d %s %s", c.method, c.path, c.body, c.headers, a.status, a.raw, c.status, c.code, c.field)
		}
	}
	if n := r.logged(); n != 0 {
		t.Errorf("%d refused requests were logged", n)
	}
	if allow := r.do("POST", "/v1/orders/1", ``).header.Get("Allow"); allow != "GET, PUT, PATCH, DELETE" {
		t.Errorf("Allow: %q", allow)
	}
}

func TestTooLarge(t *testing.T) {
	r := newRig(t, func(o *rigOptions) {
		o.rest.MaxItemBytes, o.rest.MaxBodyBytes = 10<<10, 1<<20
		o.proxy.Log.MaxRecordBytes = 8 << 10
	})
	large := `{"a":"` + strings.Repeat("x", 12<<10) + `"}`
	r.want(r.do("PUT", "/v1/orders/1", large), 413, "code", `"too_large"`, "details.max_bytes", "10240")
	chunked, err := r.try("PUT", "/v1/orders/1", io.MultiReader(strings.NewReader(large))) // no Content-Length
	if err != nil {
		t.Fatal(err)
	}
	r.want(chunked, 413, "code", `"too_large"`)
	r.want(r.do("PUT", "/v1/orders/1", `{"a":"`+strings.Repeat("x", 9<<10)+`"}`), 413, "code", `"too_large"`) // the log's bound
	if n := r.logged(); n != 0 {
		t.Errorf("%d were logged", n)
	}
	items := `[{"collection":"c","key":"1","set":{}},{"collection":"c","key":"2","set":` + large + `},{"collection":"c","key":"3","set":{}}]`
	a := r.want(r.do("POST", "/v1/mutations", items), 200)
	if !strings.Contains(a.raw, `{"index":0,"lsn":1,`) || !strings.Contains(a.raw, `{"index":1,"error":{"status":413,`) ||
		strings.Contains(a.raw, `"index":2`) {
		t.Errorf("got %s", a.raw)
	}
}

// TestBusy: beyond the bytes that may be read at once a request is told to come
// again.
func TestBusy(t *testing.T) {
	r := newRig(t, func(o *rigOptions) { o.rest.MaxItemBytes, o.rest.MaxInFlightBytes = 1<<10, 1<<10 })
	slow, body := io.Pipe()
	stalled := make(chan answer, 1)
	go func() {
		a, _ := r.try("PUT", "/v1/orders/slow", slow)
		stalled <- a
	}()
	if _, err := body.Write([]byte(`{"a":`)); err != nil {
		t.Fatal(err)
	}
	var a answer
	until(t, "the stalled request is being read", func() bool {
		a = r.do("PUT", "/v1/orders/1", `{}`)
		return a.status != http.StatusOK
	})
	r.want(a, 429, "code", `"too_many_requests"`, "retryable", "true")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if _, err := body.Write([]byte(`1}`)); err != nil {
		t.Fatal(err)
	}
	_ = body.Close()
	r.want(<-stalled, 200)
	r.want(r.do("PUT", "/v1/orders/1", `{}`), 200)
}

func TestLogFull(t *testing.T) {
	r := newRig(t, func(o *rigOptions) {
		o.proxy.Sinks[0].Paused = true
		o.proxy.Log.MaxBytes = 8 << 20
		o.proxy.Log.SegmentBytes = 1 << 20
	})
	body := `{"a":"` + strings.Repeat("x", 500<<10) + `"}`
	for i := range 100 {
		a := r.do("PUT", fmt.Sprintf("/v1/orders/%d", i), body)
		if a.status == 200 {
			continue
		}
		before := r.logged()
		r.want(a, 507, "code", `"log_full"`, "retryable", "true")
		if a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		many := `[{"collection":"c","key":"1","set":` + body + `},{"collection":"c","key":"2","set":` + body + `}]`
		if b := r.want(r.do("POST", "/v1/mutations", many), 200); strings.Count(b.raw, `"status":507`) != 2 {
			t.Errorf("got %s", b.raw)
		}
		if r.logged() != before {
			t.Error("a refused write was logged")
		}
		// What is in the log is there, and a paused sink cannot answer.
		r.want(r.do("GET", "/v1/orders/0", ""), 503, "code", `"sink_paused"`)
		return
	}
	t.Fatal("the log never filled")
}

func TestSinkHalted(t *testing.T) {
	r := newRig(t, func(o *rigOptions) {
		o.prepare = func(f *sinktest.Faulty) {
			f.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.Halt(sinktest.ErrAway), Times: sinktest.Always})
		}
	})
	r.want(r.do("PUT", "/v1/orders/1", `{}`), 200) // acks go on
	until(t, "the sink halts", func() bool { return strings.Contains(r.do("GET", "/v1/status", "").raw, `"state":"halted"`) })
	r.want(r.do("PUT", "/v1/orders/1?ack=applied", `{}`), 202, "state", `"logged"`)
	a := r.do("GET", "/v1/orders/1", "")
	if a.status != 503 || member(a.body, "code") == `"not_found"` {
		t.Errorf("got %d %s", a.status, a.raw)
	}
	// Its cause is mended; :resume starts it again.
	r.sink.Clear()
	r.want(r.do("POST", "/v1/sinks/main:resume", ""), 200, "paused", "false")
	until(t, "it goes on", func() bool { return r.do("GET", "/v1/orders/1", "").status == 200 })
	r.want(r.do("GET", "/v1/orders/1", ""), 200, "version", "2")
}

// TestStoreSilent is F12 over HTTP: a store that does not answer is an error,
// neither "absent" nor version 0.
func TestStoreSilent(t *testing.T) {
	r := newRig(t)
	r.want(r.do("PUT", "/v1/orders/1?ack=applied", `{"a":1}`), 200)
	r.sink.FailReads(sinktest.Always, sinktest.ErrAway)
	r.want(r.do("GET", "/v1/orders/1", ""), 503, "code", `"store_unavailable"`, "retryable", "true")
	before := r.logged()
	a := r.do("PUT", "/v1/orders/unread", `{}`, "If-None-Match", "*")
	r.want(a, 503, "code", `"store_unavailable"`)
	release := make(chan struct{})
	defer close(release)
	r.sink.Clear()
	r.sink.HoldReads(release)
	r.want(r.do("GET", "/v1/orders/1?timeout=50ms", ""), 504, "code", `"timeout"`)
	a = r.do("PUT", "/v1/orders/unread?timeout=50ms", `{}`, "If-None-Match", "*")
	if a.status != 503 || !strings.Contains(a.raw, "nothing was written") {
		t.Errorf("got %d %s", a.status, a.raw)
	}
	if r.logged() != before {
		t.Error("a write whose precondition is not known was logged")
	}
}

// broken is a core whose log fails at a chosen step; everything else is real.
type broken struct {
	api.Core
	submit, wait error
}

func (b broken) Submit(ctx context.Context, m *walproxyv1.Mutation) (api.Pending, error) {
	if b.submit != nil {
		return nil, b.submit
	}
	p, err := b.Core.Submit(ctx, m)
	if err != nil || b.wait == nil {
		return p, err
	}
	return brokenPending{p, b.wait}, nil
}

type brokenPending struct {
	api.Pending
	err error
}

func (p brokenPending) Wait(context.Context) (walproxy.Result, error) {
	return walproxy.Result{LSN: p.LSN()}, p.err
}

// TestFailedLog: a refused write and one of unknown outcome are never confused.
func TestFailedLog(t *testing.T) {
	for _, c := range []struct {
		name         string
		submit, wait error
		status       int
		code         string
		logged       walproxy.LSN
	}{
		{"poisoned before", fmt.Errorf("x: %w", wal.ErrPoisoned), nil, 503, "poisoned", 0},
		{"closed before", walproxy.ErrClosed, nil, 503, "closing", 0},
		{"no room in time", context.DeadlineExceeded, nil, 503, "overloaded", 0},
		{"unroutable", walproxy.ErrUnroutable, nil, 400, "no_route", 0},
		{"no reader", walproxy.ErrNoReader, nil, 501, "no_reader", 0},
		{"poisoned behind", nil, wal.ErrPoisoned, 503, "unknown_outcome", 3},
		{"closed behind", nil, wal.ErrClosed, 503, "unknown_outcome", 3},
		{"timed out behind", nil, context.DeadlineExceeded, 504, "unknown_outcome", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(o *rigOptions) {
				o.wrap = func(core api.Core) api.Core { return broken{core, c.submit, c.wait} }
			})
			unknown := c.wait != nil
			a := r.want(r.do("PUT", "/v1/orders/1", `{}`), c.status, "code", quote(c.code))
			if unknown {
				r.want(a, c.status, "details.lsn", "1", "retryable", "false") // not without an id
				r.want(r.do("PUT", "/v1/orders/1", `{}`, "Idempotency-Key", "x"), c.status, "retryable", "true")
			}
			if strings.Contains(a.raw, "nothing was written") == unknown && c.status == 503 {
				t.Errorf("says the wrong thing: %s", a.raw)
			}
			b := r.want(r.do("POST", "/v1/mutations", `[{"collection":"c","key":"1","set":{}}]`), 200)
			if !strings.Contains(b.raw, fmt.Sprintf(`{"index":0,"error":{"status":%d,"code":%q`, c.status, c.code)) {
				t.Errorf("got %s", b.raw)
			}
			if n := r.logged(); n != c.logged {
				t.Errorf("%d writes were logged, want %d", n, c.logged)
			}
		})
	}
}

func TestClosed(t *testing.T) {
	r := newRig(t)
	r.want(r.do("PUT", "/v1/orders/1", `{}`), 200)
	if err := r.proxy.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.want(r.do("PUT", "/v1/orders/1", `{}`), 503, "code", `"closing"`, "retryable", "true")
	r.want(r.do("GET", "/v1/orders/1", ""), 503, "code", `"closing"`)
}

// TestCutOff: a connection that ends within a body leaves nothing behind.
func TestCutOff(t *testing.T) {
	r := newRig(t)
	for _, head := range []string{
		"PUT /v1/orders/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"a\":1}",
		"PUT /v1/orders/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n",
		"POST /v1/mutations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[{\"collection\":\"c\",\"key\":\"1\",\"set\":{}",
		"POST /v1/mutations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nContent-Type: application/x-ndjson\r\n\r\n{\"collection\":\"c\",\"key\":\"1\",\"set\":{}}",
		"PUT /v1/orders/1 HTTP/1.1\r\nHost: x\r\nContent-",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, head); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		text, err := io.ReadAll(bufio.NewReader(conn)) // until the server has hung up
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), " 200 ") {
			t.Errorf("%.60q was answered %q", head, text)
		}
		_ = conn.Close()
	}
	if n := r.logged(); n != 0 {
		t.Errorf("%d half requests were logged", n)
	}
	r.want(r.do("PUT", "/v1/orders/1", `{}`), 200)
}

// TestCutOffAnywhere: a stream of lines that ends somewhere has written the lines that
// came whole, and nothing of the one that did not.
func TestCutOffAnywhere(t *testing.T) {
	r := newRig(t)
	line := `{"collection":"c","key":"1","increment":{"n":1}}` + "\n"
	body := line + line + line
	want := walproxy.LSN(0)
	for cut := 1; cut < len(body); cut += 5 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v1/mutations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nContent-Type: %s\r\n\r\n%s", len(body), ndjson, body[:cut])
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.Copy(io.Discard, conn); err != nil { // until the server has hung up
			t.Fatal(err)
		}
		_ = conn.Close()
		want += walproxy.LSN(strings.Count(body[:cut], "\n"))
		if got := r.logged(); got != want {
			t.Fatalf("cut at byte %d: %d writes are logged, want %d", cut, got, want)
		}
	}
	r.want(r.do("GET", "/v1/c/1", ""), 200, "fields.n", fmt.Sprint(uint64(want)))
}

// TestAnnouncedTooLarge: a body is refused by what its head announces, before it
// is sent and before anything is allocated for it.
func TestAnnouncedTooLarge(t *testing.T) {
	r := newRig(t)
	for _, head := range []string{
		"PUT /v1/orders/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n",
		"POST /v1/mutations HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(conn, head); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(line, " 413 ") {
			t.Errorf("got %q, %v", line, err)
		}
		_ = conn.Close()
	}
}
