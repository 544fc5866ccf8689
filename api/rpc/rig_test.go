package rpc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	"github.com/walproxy/walproxy/api/rpc"
	"github.com/walproxy/walproxy/internal/httpserve"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/pebble"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(holdVariable); what != "" {
		if err := holdConnections(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// rig is the real thing on a real connection: HTTP server, log, loop and Pebble.
// Only the sink can be told to fail.
type rig struct {
	t      *testing.T
	proxy  *walproxy.Proxy
	rest   *rpc.Server
	server *httpserve.Server
	sink   *sinktest.Faulty
	client *http.Client
	base   string
}

type rigOptions struct {
	proxy   walproxy.Options
	rest    rpc.Options
	prepare func(*sinktest.Faulty)
	wrap    func(api.Core) api.Core
	// connections at once. 256
	connections int
}

func newRig(t *testing.T, change ...func(*rigOptions)) *rig {
	t.Helper()
	dir := t.TempDir()
	store, err := pebble.Open(filepath.Join(dir, "sink"), pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, sink: sinktest.NewFaulty(store)}
	o := rigOptions{
		proxy: walproxy.Options{
			Dir: dir, Sinks: []walproxy.SinkOptions{{Name: "main", Sink: r.sink}}, DrainTimeout: 5 * time.Second,
			KeyTypes: []walproxy.KeyType{
				{Collection: "numbers", Type: mutation.KeyInt64},
				{Collection: "blobs", Type: mutation.KeyBytes},
				{Collection: "seats", Type: mutation.KeyComposite},
			},
		},
		wrap:        func(c api.Core) api.Core { return c },
		connections: 256,
	}
	o.proxy.Log.MinFree = -1
	o.proxy.Log.SegmentBytes = 64 << 10
	o.rest.KeyType = func(collection string) mutation.KeyType {
		for _, k := range o.proxy.KeyTypes {
			if k.Collection == collection {
				return k.Type
			}
		}
		return mutation.KeyString
	}
	for _, f := range change {
		f(&o)
	}
	if o.prepare != nil {
		o.prepare(r.sink)
	}
	if r.proxy, err = walproxy.Open(t.Context(), o.proxy); err != nil {
		t.Fatal(err)
	}
	o.rest.Core = o.wrap(api.New(r.proxy))
	if r.rest, err = rpc.New(o.rest); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.base = "http://" + listener.Addr().String()
	r.server = httpserve.Start(httpserve.Options{Name: "api", Listener: listener, Handler: r.rest, MaxConnections: o.connections})
	r.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 3 * time.Minute}
	t.Cleanup(func() {
		r.client.CloseIdleConnections()
		r.stop()
		_ = r.proxy.Close(context.Background()) // what it says is the test's own business
		r.rest.Wait()
		if err := r.sink.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// stop closes the front as cmd/walproxy does.
func (r *rig) stop() {
	r.rest.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = r.server.Close(ctx)
}

// answer is a response, read.
type answer struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

// do sends a request. headers are name, value, name, value.
func (r *rig) do(method, path, body string, headers ...string) answer {
	r.t.Helper()
	a, err := r.try(method, path, strings.NewReader(body), headers...)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (r *rig) try(method, path string, body io.Reader, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, r.base+path, body)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
	_ = json.Unmarshal(raw, &a.body) // lines and arrays stay raw
	return a, err
}

// streamed begins a POST /v1/mutations and returns the answers' body.
func (r *rig) streamed(body io.Reader, headers ...string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(context.Background(), "POST", r.base+"/v1/mutations", body)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// want checks status and members of the answer: name, value, as JSON prints it.
func (r *rig) want(a answer, status int, members ...string) answer {
	r.t.Helper()
	if a.status != status {
		r.t.Fatalf("got %d %s; want %d", a.status, a.raw, status)
	}
	for i := 0; i < len(members); i += 2 {
		if got := member(a.body, members[i]); got != members[i+1] {
			r.t.Fatalf("%s: got %s in %s; want %s", members[i], got, a.raw, members[i+1])
		}
	}
	return a
}

// member is the JSON of a.b.c in body.
func member(body map[string]any, path string) string {
	var at any = body
	for name := range strings.SplitSeq(path, ".") {
		m, ok := at.(map[string]any)
		if !ok {
			return "nothing"
		}
		if at, ok = m[name]; !ok {
			return "nothing"
		}
	}
	out, err := json.Marshal(at)
	if err != nil {
		return err.Error()
	}
	return string(out)
}

func (a answer) version() string { return member(a.body, "version") }

// count is a number of the status.
func (r *rig) logged() walproxy.LSN { return r.proxy.Status().Log.Appended }

// until waits for cond, which must come true by itself.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func quote(s string) string { return fmt.Sprintf("%q", s) }
