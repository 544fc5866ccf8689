package rpc_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
)

// smallest has no more room for all requests than for one of the largest.
func smallest(o *rigOptions) {
	o.rest.MaxItemBytes, o.rest.MaxInFlightBytes = 256<<10, 256<<10
	o.rest.BodyTimeout = 5 * time.Minute
}

// line sends one line on a connection that begins a POST /v1/mutations, and reads the
// head of its answer and one line.
func (r *rig) stream(line string) net.Conn {
	r.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	text := fmt.Sprintf("POST /v1/mutations HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", ndjson, len(line), line)
	if _, err := io.WriteString(conn, text); err != nil {
		r.t.Fatal(err)
	}
	answer := bufio.NewReader(conn)
	for {
		got, err := answer.ReadString('\n')
		if err != nil {
			r.t.Fatalf("%q, %v", got, err)
		}
		if strings.HasPrefix(got, `{"index":0,`) {
			if !strings.Contains(got, `"lsn"`) {
				r.t.Fatalf("refused: %s", got)
			}
			return conn
		}
	}
}

// TestStreamsAtRest: streams that rest hold no room that others need, whether they have
// brought small items or large ones.
func TestStreamsAtRest(t *testing.T) {
	r := newRig(t, smallest)
	for i, pad := range []int{1, 100 << 10, 1, 200 << 10} {
		r.stream(fmt.Sprintf(`{"collection":"c","key":"%d","set":{"p":"%s"}}`+"\n", i, strings.Repeat("x", pad)))
		r.want(r.do("PUT", "/v1/c/other", `{"p":"`+strings.Repeat("x", 100<<10)+`"}`), 200)
	}
}

// TestStalledStreams: clients that take no answers keep nobody from writing, over either
// protocol.
func TestStalledStreams(t *testing.T) {
	r := newProcedureRig(t, []connect.ClientOption{connect.WithGRPC()}, smallest)
	for range 3 {
		if err := r.flood(time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	r.want(r.do("PUT", "/v1/c/other", `{"p":"`+strings.Repeat("x", 200<<10)+`"}`), 200)
}

// flood sends lines, and takes no answers, until nothing is taken for so long or the
// connection ends.
func (r *rig) flood(patience time.Duration) error {
	r.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	// With less the kernel drops what it has no room for, the acknowledgements of what was
	// sent with it, and the client is one that pauses.
	_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	_ = conn.(*net.TCPConn).SetWriteBuffer(32 << 10)
	_, err = io.WriteString(conn, "POST /v1/mutations HTTP/1.1\r\nHost: x\r\nContent-Type: "+ndjson+"\r\nContent-Length: 200000000\r\n\r\n")
	text := strings.Repeat(`{"collection":"c","nonsense":"this is refused, so that it is quick"}`+"\n", 50)
	for err == nil {
		_ = conn.SetWriteDeadline(time.Now().Add(patience))
		_, err = io.WriteString(conn, text)
	}
	return err
}

// TestCutAnswer: a client that takes no answers is cut, and counted, and one that sends nothing too.
func TestCutAnswer(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := newRig(t, func(o *rigOptions) { o.rest.BodyTimeout, o.rest.Registerer = 500*time.Millisecond, registry })
	_ = r.flood(2 * time.Second) // with its window closed a client need not hear of the cut
	until(t, "it is counted", func() bool { return value(t, registry, "walproxy_http_cut_total", "answer") == 1 })
	until(t, "it is cut", func() bool { return value(t, registry, "walproxy_http_requests_in_flight", "") == 0 })
	// A client that begins its request and does not go on.
	if conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://")); err != nil {
		t.Fatal(err)
	} else {
		defer conn.Close()
		_, _ = io.WriteString(conn, "PUT /v1/c/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
		until(t, "it is counted", func() bool { return value(t, registry, "walproxy_http_cut_total", "request") == 1 })
	}
	if n := value(t, registry, "walproxy_http_cut_total", "answer"); n != 1 {
		t.Errorf("%v answers are counted", n)
	}
}

// value of a metric, of that with a label or without.
func value(t *testing.T, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// TestShortPages: while clients that do not take their answers have the room for lists,
// those of others are shorter, and go on where they end.
func TestShortPages(t *testing.T) {
	r := newRig(t, listing, func(o *rigOptions) {
		o.rest.MaxInFlightBytes = 16 << 20 // 4 MiB for lists: one of the largest
		o.rest.BodyTimeout = 5 * time.Minute
	})
	pad := strings.Repeat("x", 32<<10)
	const records = 64
	for i := range records {
		r.want(r.do("PUT", fmt.Sprintf("/v1/large/%02d", i), `{"pad":"`+pad+`"}`), 200)
	}
	const parked = 400 // behind one that is dead
	r.want(r.do("PUT", "/v1/dead/1", `{"n":"text"}`), 200)
	r.want(r.do("POST", "/v1/mutations?ack=applied", "["+strings.Repeat(`{"collection":"dead","key":"1","increment":{"n":1}},`, parked)+`{"collection":"dead","key":"1","increment":{"n":1}}]`), 200)
	letters := func() (pages, total int) {
		for from := 1; ; pages++ {
			a := r.want(r.do("GET", fmt.Sprint("/v1/dlq/main?limit=1000&from=", from), ""), 200)
			total += len(a.body["dead_letters"].([]any))
			next, ok := a.body["next"].(float64)
			if !ok {
				return pages + 1, total
			}
			from = int(next)
		}
	}
	if pages, total := letters(); pages != 1 || total != parked+1 {
		t.Fatalf("%d dead letters in %d pages", total, pages)
	}
	lists := func() (pages, total int) {
		for token := ""; ; pages++ {
			a := r.want(r.do("GET", "/v1/large?limit=1000&page_token="+url.QueryEscape(token), ""), 200)
			total += len(a.body["records"].([]any))
			if next, ok := a.body["next_page_token"].(string); ok {
				token = next
				continue
			}
			return pages + 1, total
		}
	}
	if pages, total := lists(); pages != 1 || total != records {
		t.Fatalf("%d in %d pages", total, pages)
	}
	for range 4 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		for range 8 { // more than the kernel takes
			if _, err := io.WriteString(conn, "GET /v1/large?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "lists are shorter", func() bool {
		pages, total := lists()
		if total != records {
			t.Fatalf("%d in %d pages", total, pages)
		}
		return pages > 8
	})
	if pages, total := letters(); pages < 2 || total != parked+1 {
		t.Errorf("%d dead letters in %d pages", total, pages)
	}
}
