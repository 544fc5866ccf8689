package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/api/proto/walproxy/v1/walproxyv1connect"
	process "github.com/walproxy/walproxy/internal/child"
	"github.com/walproxy/walproxy/mutation"
)

// crowd is walproxy serve, with clients that rest and clients that take no answers.
type crowd struct {
	t          *testing.T
	server     *process.Process
	api, admin string
	undo       []func() // ends the clients
}

// dialCrowd connects with small buffers and segments, so that the kernels hold little of
// an answer that nobody takes: what is left is the server's.
func dialCrowd(ctx context.Context, network, address string) (net.Conn, error) {
	return dialSmall(ctx, network, address, 4<<10)
}

// dialH2 is dialCrowd for a client that takes what HTTP/2 lets it.
func dialH2(ctx context.Context, network, address string) (net.Conn, error) {
	return dialSmall(ctx, network, address, 128<<10)
}

func dialSmall(ctx context.Context, network, address string, receive int) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		control := raw.Control(func(fd uintptr) {
			err = errors.Join(syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1400),
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receive),
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 32<<10))
		})
		return errors.Join(err, control)
	}}
	return d.DialContext(ctx, network, address)
}

func newCrowd(t *testing.T, env ...string) *crowd {
	t.Helper()
	exe, err := exec.LookPath("walproxy")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	p, err := process.Start(ctx, process.Options{
		Command: []string{exe, "serve", "--data-dir", t.TempDir(), "--api", "127.0.0.1:0", "--admin", "127.0.0.1:0"},
		Env: append([]string{"GORACE=atexit_sleep_ms=0", "WALPROXY_LOG__MIN_FREE=-1", "WALPROXY_LOGGING__LEVEL=error",
			"WALPROXY_API__MAX_CONNECTIONS=15000", "WALPROXY_API__HTTP__IDLE_TIMEOUT=1h"}, env...),
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &crowd{t: t, server: p, api: p.Addr("api"), admin: p.Addr("admin")}
	t.Cleanup(func() {
		c.disperse()
		p.Kill()
		<-p.Ended()
	})
	return c
}

// disperse ends the clients.
func (c *crowd) disperse() {
	for _, f := range slices.Backward(c.undo) {
		f()
	}
	c.undo = nil
}

// join runs begin n times, some at once. What it returns ends one client.
func (c *crowd) join(n int, begin func(i int) (end func(), err error)) {
	c.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(n, 32) {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				end, err := begin(int(i))
				if err != nil {
					c.t.Errorf("client %d: %v", i, err)
					return
				}
				mu.Lock()
				c.undo = append(c.undo, end)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// rest opens a connection that carries nothing behind one request.
func (c *crowd) rest(int) (func(), error) {
	conn, err := dialCrowd(c.t.Context(), "tcp", c.api)
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(conn, "GET /v1/writes/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if err == nil {
		_, err = conn.Read(make([]byte, 64)) // the rest stays in the kernel
	}
	return func() { _ = conn.Close() }, err
}

// stalled is how long nothing moves on a connection that has come to rest.
const stalled = 500 * time.Millisecond

// send writes what text returns until the server takes no more.
func (c *crowd) send(head string, text func(n int) string) func(int) (func(), error) {
	return func(i int) (func(), error) {
		conn, err := dialCrowd(c.t.Context(), "tcp", c.api)
		if err != nil {
			return nil, err
		}
		_, err = io.WriteString(conn, strings.ReplaceAll(head, "NUMBER", strconv.Itoa(i)))
		for err == nil {
			if err = conn.SetWriteDeadline(time.Now().Add(stalled)); err == nil {
				_, err = io.WriteString(conn, text(i))
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		return func() { _ = conn.Close() }, err
	}
}

// h2 is a client of one connection of HTTP/2 that takes little in advance.
func (c *crowd) h2() *http.Transport {
	transport := &http.Transport{Protocols: &http.Protocols{}, DialContext: dialH2, DisableCompression: true,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 64 << 10}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	return transport
}

// restH2 is rest over HTTP/2.
func (c *crowd) restH2(int) (func(), error) {
	transport := c.h2()
	answer, err := (&http.Client{Transport: transport}).Get("http://" + c.api + "/v1/writes/1")
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return transport.CloseIdleConnections, errors.Join(err, answer.Body.Close())
}

// stream sends messages over gRPC until the server takes no more.
func (c *crowd) stream(mutations func(i int) []*walproxyv1.Mutation) func(int) (func(), error) {
	return func(i int) (func(), error) {
		transport := c.h2()
		ctx, cancel := context.WithCancel(context.Background())
		wire := walproxyv1connect.NewWriteServiceClient(&http.Client{Transport: transport}, "http://"+c.api, connect.WithGRPC()).WriteStream(ctx)
		sent, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			defer close(ended)
			for {
				if err := wire.Send(&walproxyv1.WriteStreamRequest{Mutations: mutations(i)}); err != nil {
					ended <- err
					return
				}
				select {
				case sent <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
		}()
		end := func() {
			cancel()
			_ = wire.CloseRequest()
			_ = wire.CloseResponse()
			for range ended {
			}
			transport.CloseIdleConnections()
		}
		for {
			select {
			case <-sent:
			case err := <-ended:
				return end, err
			case <-time.After(stalled):
				return end, nil
			}
		}
	}
}

// call makes a call whose answer is not taken.
func (c *crowd) call(procedure, body string) func(int) (func(), error) {
	return func(int) (func(), error) {
		transport := c.h2()
		r, err := http.NewRequest("POST", "http://"+c.api+procedure, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", "application/json")
		answer, err := (&http.Client{Transport: transport}).Do(r)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d", answer.StatusCode)
		}
		if err != nil {
			return nil, err
		}
		return func() { _ = answer.Body.Close(); transport.CloseIdleConnections() }, nil
	}
}

// do makes a request and returns the answer.
func (c *crowd) do(client *http.Client, method, url, body string) string {
	c.t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		c.t.Fatalf("%s %s: %d %s %v", method, url, answer.StatusCode, text, err)
	}
	return string(text)
}

// latencies of n acks one behind the other: the median, and that of the 99th of 100.
func (c *crowd) latencies(n int) (median, p99 time.Duration) {
	c.t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		c.do(client, "PUT", fmt.Sprintf("http://%s/v1/orders/%d", c.api, i), `{"n":1}`)
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[n/2], took[n*99/100]
}

var inUseLine = regexp.MustCompile(`(?m)^go_memstats_(?:heap|stack)_inuse_bytes (\S+)$`)

var answeredLine = regexp.MustCompile(`(?m)^walproxy_http_mutations_total\{.*\} (\S+)$`)

// settle waits until the server has come to rest: streams take nothing more, and what they
// brought is in the sink.
func (c *crowd) settle() {
	c.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answered := func() string {
		return fmt.Sprint(answeredLine.FindAllString(c.do(client, "GET", "http://"+c.admin+"/metrics", ""), -1))
	}
	deadline := time.Now().Add(3 * time.Minute)
	for was, same := answered(), 0; same < 3; {
		time.Sleep(100 * time.Millisecond)
		if now := answered(); now == was {
			same++
		} else if was, same = now, 0; time.Now().After(deadline) {
			c.t.Fatal("streams whose answers nobody takes go on")
		}
	}
	c.do(client, "PUT", "http://"+c.api+"/v1/orders/last?ack=applied&timeout=5m", `{"n":1}`)
}

// memory is what is in use behind a collection, heap and stacks, and what the process has.
func (c *crowd) memory() (live, resident int64) {
	c.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	c.settle()
	for range 2 { // a pool keeps its memory for one collection
		c.do(client, "GET", "http://"+c.admin+"/debug/pprof/heap?gc=1", "")
	}
	for _, found := range inUseLine.FindAllStringSubmatch(c.do(client, "GET", "http://"+c.admin+"/metrics", ""), -1) {
		n, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			c.t.Fatal(err)
		}
		live += int64(n)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.server.PID()))
	if err != nil {
		c.t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("VmRSS:"))
	if _, err := fmt.Sscan(string(rest), &resident); err != nil {
		c.t.Fatal(err)
	}
	return live, resident << 10
}

// TestCrowd: connections that rest and clients that take no answers cost a bounded memory
// each, and the others no ack. With WALPROXY_LONG 10,000 and 1,000 of them.
func TestCrowd(t *testing.T) {
	idle, slow, writes, inFlight := 100, 8, 50, int64(32<<20)
	env := []string{"WALPROXY_API__HTTP__BODY_TIMEOUT=1h"}
	long := os.Getenv("WALPROXY_LONG") != ""
	if long {
		idle, slow, writes, inFlight = 10_000, 1000, 1000, 256<<20 // the last as it is by default
	} else {
		env = append(env, "WALPROXY_API__MAX_INFLIGHT_BYTES=32MiB")
	}
	c := newCrowd(t, env...)
	c.prepare()
	writes100 := func(n int) []*walproxyv1.Mutation {
		out := make([]*walproxyv1.Mutation, 100)
		for i := range out {
			out[i] = mutation.New("stream", mutation.String(strconv.Itoa(n)), []*walproxyv1.Op{mutation.SetOp(map[string]*walproxyv1.Value{"s": mutation.StringValue("x")})})
		}
		return out
	}
	pad := strings.Repeat("x", 500) // for what the kernels hold to be few
	const lines = "POST /v1/mutations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 200000000\r\n\r\n"
	kinds := []struct {
		name  string
		share int // of all, in 100
		begin func(int) (func(), error)
	}{
		{"NDJSON, accepted", 15, c.send(lines, func(n int) string {
			return strings.Repeat(fmt.Sprintf(`{"collection":"lines","key":"%d","set":{"n":"%s"}}`+"\n", n, pad), 20)
		})},
		{"NDJSON, refused", 15, c.send(lines, func(int) string {
			return strings.Repeat(`{"collection":"lines","key":"1","nonsense":"`+pad+`"}`+"\n", 20)
		})},
		{"gRPC stream, accepted", 5, c.stream(writes100)},
		{"gRPC stream, refused", 20, c.stream(func(int) []*walproxyv1.Mutation {
			return slices.Repeat([]*walproxyv1.Mutation{{Collection: "refused"}}, 100)
		})},
		{"list", 15, c.send("", func(int) string { return "GET /v1/large?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n" })},
		{"Scan", 10, c.call("/walproxy.v1.ReadService/Scan", `{"collection":"large","limit":1000}`)},
		{"export", 10, c.send("", func(int) string { return "GET /v1/dlq/main?format=ndjson HTTP/1.1\r\nHost: localhost\r\n\r\n" })},
		{"openapi", 10, c.send("", func(int) string { return "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" })},
	}
	_, _ = c.latencies(writes) // caches, the first segment
	alone, tailAlone := c.latencies(writes)
	bare, bareRSS := c.memory()
	last, lastRSS := bare, bareRSS
	joined := func(name string, n int, begin func(int) (func(), error)) {
		t.Helper()
		began := time.Now()
		c.join(n, begin)
		took := time.Since(began)
		if !long {
			return
		}
		live, resident := c.memory()
		t.Logf("%5d %-22s %6d KiB in use each, %6d resident; %4d MiB, %4d MiB; in %v", n, name,
			(live-last)/int64(n)>>10, (resident-lastRSS)/int64(n)>>10, live>>20, resident>>20, took.Round(time.Millisecond))
		last, lastRSS = live, resident
	}
	joined("at rest", idle*9/10, c.rest)
	joined("at rest, HTTP/2", idle/10, c.restH2)
	for _, k := range kinds {
		if k.name == "list" {
			c.settle()
		}
		joined(k.name, max(slow*k.share/100, 1), k.begin)
	}
	c.settle()
	median, tail := c.latencies(writes)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, path := range []string{"/v1/large?limit=10", "/v1/lines/1", "/v1/stream/1", "/v1/dlq/main", "/openapi.json"} {
		c.do(client, "GET", "http://"+c.api+path, "") // others are served, and what was acknowledged stands
	}
	live, resident := c.memory()
	c.disperse()
	again, tailAgain := c.latencies(writes)
	t.Logf("an ack: %v, of 99 in 100 %v; alone before %v, %v; behind %v, %v", median, tail, alone, tailAlone, again, tailAgain)
	t.Logf("in use %d MiB, resident %d MiB; alone %d MiB, %d MiB", live>>20, resident>>20, bare>>20, bareRSS>>20)
	// A connection has two buffers of 4 KiB and a stack, over HTTP/2 some more. A stream has
	// what it keeps of its answers, its buffers, and over HTTP/2 up to 256 KiB of what the
	// client has sent; all lists together have half of what requests may hold.
	bound := int64(idle)*32<<10 + int64(slow)*448<<10 + inFlight/2
	if grown := live - bare; grown > bound {
		t.Errorf("the crowd holds %d MiB; at most %d", grown>>20, bound>>20)
	}
	if grown := resident - bareRSS; !raceEnabled && grown > bound+bound/2+64<<20 {
		t.Errorf("the process has grown by %d MiB; at most %d", grown>>20, (bound+bound/2+64<<20)>>20)
	}
	slack := 250 * time.Millisecond
	if long {
		slack = 50 * time.Millisecond
	}
	// With room for a machine that does something else meanwhile: a collector that runs
	// without a pause, or a queue behind the others, is more.
	if most := 4*max(alone, again) + slack; median > most {
		t.Errorf("an ack takes %v beside the crowd; at most %v", median, most)
	}
	if most := 10*max(tailAlone, tailAgain) + 4*slack; tail > most {
		t.Errorf("of 99 in 100 acks the longest takes %v beside the crowd; at most %v", tail, most)
	}
}

// prepare fills a collection with 4 MiB, and the dead letters.
func (c *crowd) prepare() {
	c.t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	const records, size = 256, 16 << 10
	pad := strings.Repeat("x", size)
	for i := range records {
		c.do(client, "PUT", fmt.Sprintf("http://%s/v1/large/%d", c.api, i), `{"pad":"`+pad+`"}`)
	}
	c.do(client, "PUT", "http://"+c.api+"/v1/dead/1", `{"n":"text"}`)
	for range 64 {
		c.do(client, "POST", "http://"+c.api+"/v1/mutations", `[{"collection":"dead","key":"1","increment":{"n":1}}]`)
	}
}
