package rpc_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

const ndjson = "application/x-ndjson"

type itemAnswer struct {
	Index   int
	LSN     walproxy.LSN
	Version walproxy.LSN
	State   string
	Repeat  bool
	Error   *struct {
		Status    int
		Code      string
		Field     string
		Retryable bool
	}
}

func decodeLines(t *testing.T, in io.Reader) []itemAnswer {
	t.Helper()
	var answers []itemAnswer
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var a itemAnswer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		answers = append(answers, a)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return answers
}

// TestStream: 10,000 writes on one connection, answered in order while they are
// sent, many of them per fsync, with a bounded window.
func TestStream(t *testing.T) {
	r := newRig(t, func(o *rigOptions) { o.rest.Window = 256 })
	const items = 10_000
	in, out := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		w := bufio.NewWriter(out)
		for i := range items {
			fmt.Fprintf(w, `{"collection":"counters","key":"%d","increment":{"n":1},"request_id":"r%d"}`+"\n", i%100, i)
		}
		err := w.Flush()
		sent <- err
		_ = out.CloseWithError(err) // nil: the end of the body
	}()
	resp, err := r.client.Post(r.base+"/v1/mutations", ndjson, in)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answers := decodeLines(t, resp.Body)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != ndjson || len(answers) != items {
		t.Fatalf("got %d %s, %d answers", resp.StatusCode, resp.Header.Get("Content-Type"), len(answers))
	}
	for i, a := range answers {
		if a.Index != i || a.Error != nil || a.LSN != walproxy.LSN(i+1) || a.State != "logged" {
			t.Fatalf("answer %d: %+v", i, a)
		}
	}
	for i := range 100 {
		r.want(r.do("GET", fmt.Sprintf("/v1/counters/%d", i), ""), 200, "fields.n", "100")
	}
	if syncs := r.proxy.Status().Log.Syncs; syncs > items/2 {
		t.Errorf("%d fsyncs for %d writes: they do not share", syncs, items)
	} else {
		t.Logf("%d writes, %d fsyncs", items, syncs)
	}
}

// TestStreamInteractive: an answer comes before the next item is sent.
func TestStreamInteractive(t *testing.T) {
	r := newRig(t)
	in, out := io.Pipe()
	first := `{"collection":"c","key":"1","set":{}}` + "\n"
	go func() { _, _ = io.WriteString(out, first) }()
	resp, err := r.client.Post(r.base+"/v1/mutations", ndjson, in)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	for i := range 3 {
		line, err := answers.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, fmt.Sprintf(`{"index":%d,"lsn":%d,`, i, i+1)) {
			t.Fatalf("%q, %v", line, err)
		}
		if _, err := io.WriteString(out, first); err != nil {
			t.Fatal(err)
		}
	}
	_ = out.Close()
	if rest, err := io.ReadAll(answers); err != nil || strings.Count(string(rest), "\n") != 1 {
		t.Fatalf("%q, %v", rest, err)
	}
}

// TestItemErrors: an item that is refused leaves the others alone, in both forms.
func TestItemErrors(t *testing.T) {
	r := newRig(t)
	items := []string{
		`{"collection":"c","key":"1","set":{"a":1}}`,
		`{"collection":"c","key":"1","sett":{"a":1}}`,
		`{"collection":"status","key":"1","set":{"a":1}}`,
		`{"collection":"c","key":"1","increment":{"a":"x"}}`,
		`{"collection":"c","key":"1","delete":true,"touch":true}`,
		`{"collection":"c","key":"1","merge":{"b":1},"if_absent":true}`,
		`nonsense`,
		`{"collection":"c","key":"1","merge":{"c":1}}`,
	}
	want := []struct {
		status int
		field  string
	}{{}, {400, "sett"}, {400, "collection"}, {400, "increment.a"}, {400, "touch"}, {409, ""}, {400, ""}, {}}
	lines := r.do("POST", "/v1/mutations", strings.Join(items, "\n"), "Content-Type", ndjson)
	array := r.do("POST", "/v1/mutations", "["+strings.Join(items, ",")+"]")
	var fromArray []itemAnswer
	if err := json.Unmarshal([]byte(array.raw), &fromArray); err != nil {
		t.Fatalf("%v: %s", err, array.raw)
	}
	for form, answers := range map[string][]itemAnswer{"lines": decodeLines(t, strings.NewReader(lines.raw)), "array": fromArray} {
		if len(answers) != len(want) {
			t.Fatalf("%s: %d answers to %d items: %s", form, len(answers), len(want), lines.raw)
		}
		for i, a := range answers {
			switch {
			case a.Index != i:
				t.Errorf("%s: answer %d has index %d", form, i, a.Index)
			case want[i].status == 0 && (a.Error != nil || a.LSN == 0 || a.Version != a.LSN):
				t.Errorf("%s: item %d: %+v", form, i, a.Error)
			case want[i].status != 0 && (a.Error == nil || a.Error.Status != want[i].status || a.Error.Field != want[i].field):
				t.Errorf("%s: item %d: got %+v, want %+v", form, i, a.Error, want[i])
			}
		}
	}
	if n := r.logged(); n != 4 {
		t.Errorf("%d logged, want 4", n)
	}
	r.want(r.do("POST", "/v1/mutations", `[]`), 200)
	r.want(r.do("POST", "/v1/mutations", ``, "Content-Type", ndjson), 200)
}

// TestBrokenStream: what came before the break is written and answered, the
// break itself is told, and nothing behind it is.
func TestBrokenStream(t *testing.T) {
	r := newRig(t)
	a := r.want(r.do("POST", "/v1/mutations", `[{"collection":"c","key":"1","set":{}}}`), 200)
	var answers []itemAnswer
	if err := json.Unmarshal([]byte(a.raw), &answers); err != nil || len(answers) != 2 || answers[1].Error == nil {
		t.Fatalf("%v: %s", err, a.raw)
	}
	a = r.want(r.do("POST", "/v1/mutations", `[{"collection":"c","key":"2","set":{}},{"collection":"c","key":"3","set":{}`), 200)
	if err := json.Unmarshal([]byte(a.raw), &answers); err != nil || len(answers) != 2 || answers[1].Error.Code != "incomplete_body" {
		t.Fatalf("%v: %s", err, a.raw)
	}
	if n := r.logged(); n != 2 {
		t.Errorf("%d logged, want 2", n)
	}
}

func TestStreamApplied(t *testing.T) {
	r := newRig(t)
	body := strings.Repeat(`{"collection":"c","key":"1","increment":{"n":1}}`+"\n", 100)
	a := r.want(r.do("POST", "/v1/mutations?ack=applied", body, "Content-Type", ndjson), 200)
	for _, item := range decodeLines(t, strings.NewReader(a.raw)) {
		if item.State != "applied" {
			t.Fatalf("got %+v", item)
		}
	}
	release := make(chan struct{})
	defer close(release)
	r.sink.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(release), Times: sinktest.Always})
	start := time.Now()
	a = r.want(r.do("POST", "/v1/mutations?ack=applied&timeout=1s", body, "Content-Type", ndjson), 200)
	for _, item := range decodeLines(t, strings.NewReader(a.raw)) {
		if item.State != "logged" || item.Error != nil {
			t.Fatalf("got %+v", item)
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("100 items waited %v: one behind the other", took)
	}
}

// TestClientStopsReading: a client that takes no answers is given up, and the
// server keeps no more than the window for it.
func TestClientStopsReading(t *testing.T) {
	r := newRig(t, func(o *rigOptions) { o.rest.Window, o.rest.BodyTimeout = 16, 300*time.Millisecond })
	in, out := io.Pipe()
	go func() {
		var err error
		for i := 0; err == nil && i < 5_000_000; i++ { // ends when the server hangs up
			_, err = fmt.Fprintf(out, `{"collection":"c","key":"%d","touch":true}`+"\n", i%10)
		}
		_ = out.Close()
	}()
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.base+"/v1/mutations", in)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", ndjson)
	// A small window, so that the answers stall soon.
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		}
		return conn, err
	}}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() // never read
	last := walproxy.LSN(0)
	until(t, "the server stops taking items", func() bool {
		time.Sleep(time.Second) // longer than BodyTimeout: no item within it means it has given up
		now := r.logged()
		defer func() { last = now }()
		return now > 0 && now == last
	})
}

// TestStopEndsStreams: a stop answers what was accepted, says why it goes no
// further, and does not wait for a client that has more to send.
func TestStopEndsStreams(t *testing.T) {
	r := newRig(t)
	in, out := io.Pipe()
	defer out.Close()
	go func() { _, _ = io.WriteString(out, `{"collection":"c","key":"1","set":{}}`+"\n") }()
	resp, err := r.client.Post(r.base+"/v1/mutations", ndjson, in)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, `"lsn":1`) {
		t.Fatalf("%q, %v", line, err)
	}
	start := time.Now()
	r.stop()
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("the stop took %v", took)
	}
	rest, _ := io.ReadAll(answers) // the connection is closed behind the answer
	if !strings.Contains(string(rest), `{"index":1,"error":{"status":503,"code":"closing"`) {
		t.Errorf("got %q", rest)
	}
}

// TestWaitOutlastsBodyTimeout: the time a client may take for its body does not
// bound how long the write may take behind it.
func TestWaitOutlastsBodyTimeout(t *testing.T) {
	r := newRig(t, func(o *rigOptions) { o.rest.BodyTimeout = 100 * time.Millisecond })
	for _, send := range []func() answer{
		func() answer { return r.do("PUT", "/v1/orders/1?ack=applied", `{}`) },
		func() answer {
			return r.do("POST", "/v1/mutations?ack=applied", `[{"collection":"c","key":"1","set":{}}]`)
		},
		func() answer {
			return r.do("POST", "/v1/mutations?ack=applied", `{"collection":"c","key":"1","set":{}}`, "Content-Type", ndjson)
		},
	} {
		r.sink.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.Delay(400 * time.Millisecond)})
		if a := r.want(send(), 200); !strings.Contains(a.raw, `"state":"applied"`) {
			t.Errorf("got %s", a.raw)
		}
	}
}

// TestStopAnswersWaiters: a stop ends waiting for the sinks, with the ack.
func TestStopAnswersWaiters(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	defer close(release)
	r.sink.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(release), Times: sinktest.Always})
	answers := make(chan answer, 2)
	go func() {
		a, _ := r.try("PUT", "/v1/orders/1?ack=applied", strings.NewReader(`{}`))
		answers <- a
	}()
	until(t, "the write is logged", func() bool { return r.logged() == 1 })
	go func() {
		a, _ := r.try("GET", "/v1/orders/1", strings.NewReader(""))
		answers <- a
	}()
	until(t, "the read waits", func() bool { return r.do("GET", "/v1/orders/1?timeout=1ms", "").status == 504 })
	start := time.Now()
	r.stop()
	for range 2 {
		a := <-answers
		if a.status == 202 {
			r.want(a, 202, "state", `"logged"`)
		} else if a.status != 0 { // the read may not have reached the server yet
			r.want(a, 503, "code", `"closing"`)
		}
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("the stop took %v", took)
	}
}

// TestAnswersDoNotWaitForLaterItems: what is known is sent while a later item
// waits for its sink.
func TestAnswersDoNotWaitForLaterItems(t *testing.T) {
	r := newRig(t, func(o *rigOptions) { o.proxy.Sinks[0].Loop.Batch.Records = 1 })
	release := make(chan struct{})
	r.sink.Add(sinktest.Rule{When: sinktest.LSN(2), Do: sinktest.HoldBefore(release)})
	body := strings.Repeat(`{"collection":"c","key":"1","touch":true}`+"\n", 50) // one key: one lane, in order
	resp, err := r.client.Post(r.base+"/v1/mutations?ack=applied", ndjson, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	line, err := answers.ReadString('\n')
	if err != nil || !strings.Contains(line, `{"index":0,"lsn":1,"version":1,"state":"applied"}`) {
		t.Fatalf("%q, %v", line, err)
	}
	close(release)
	if rest := decodeLines(t, answers); len(rest) != 49 || rest[48].State != "applied" {
		t.Errorf("%d more answers: %+v", len(rest), rest[len(rest)-1])
	}
}
