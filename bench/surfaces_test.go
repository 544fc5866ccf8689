package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/api/proto/walproxy/v1/walproxyv1connect"
	"github.com/walproxy/walproxy/api/rpc"
	"github.com/walproxy/walproxy/client"
	"github.com/walproxy/walproxy/internal/httpserve"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks/pebble"
)

// atOnce is how many mutations a stream's client sends in a message, and then waits for.
const atOnce = 100

// surface is a way to write. begin is called by each client; what it returns writes n
// mutations, of keys from first on, and returns when all are acknowledged.
type surface struct {
	name   string
	atOnce int
	begin  func(b *testing.B, s *served) (write func(first, n int) error, end func())
}

var surfaces = []surface{
	{"embedded", 1, beginEmbedded},
	{"http-json", 1, beginJSON},
	{"grpc-unary", 1, func(b *testing.B, s *served) (func(int, int) error, func()) { return beginUnary(s) }},
	{"embedded-batch", atOnce, beginEmbeddedBatch},
	{"grpc-stream", atOnce, beginStream},
	{"go-client-stream", atOnce, beginClientStream}, // with the request ids that it makes
	{"ndjson", atOnce, beginLines},
}

// BenchmarkSurfaces writes 200-byte mutations through each surface on one proxy: acks per
// second at so many clients, each of which waits for what it has sent, in messages of
// 100 where the surface has them. Server and clients share the processors; the sink is
// paused, so that its work is not among it.
func BenchmarkSurfaces(b *testing.B) {
	for _, clients := range []int{1, 16, 64, 256} {
		for _, surface := range surfaces {
			b.Run(fmt.Sprintf("surface=%s/clients=%d", surface.name, clients), func(b *testing.B) {
				s := serve(b)
				writers := make([]func(int, int) error, clients)
				for i := range writers {
					write, end := surface.begin(b, s)
					defer end()
					writers[i] = write
				}
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for _, write := range writers {
					wg.Go(func() {
						for {
							end := int(next.Add(int64(surface.atOnce)))
							first := end - surface.atOnce
							if first >= b.N {
								return
							}
							if err := write(first, min(end, b.N)-first); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acks/s")
			})
		}
	}
}

// served is a proxy behind its API.
type served struct {
	proxy *walproxy.Proxy
	addr  string
	h2    *http.Client
}

func serve(b *testing.B) *served {
	ctx := context.Background()
	store, err := pebble.Open(b.TempDir(), pebble.Options{})
	if err != nil {
		b.Fatal(err)
	}
	o := walproxy.Options{Dir: b.TempDir(), Sinks: []walproxy.SinkOptions{{Name: "main", Sink: store, Paused: true}}}
	o.Log.MinFree = -1
	proxy, err := walproxy.Open(ctx, o)
	if err != nil {
		b.Fatal(err)
	}
	handler, err := rpc.New(rpc.Options{Core: api.New(proxy)})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := httpserve.Start(httpserve.Options{Name: "api", Listener: l, Handler: handler})
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	b.Cleanup(func() {
		transport.CloseIdleConnections()
		handler.Stop()
		stop, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_ = server.Close(stop)
		_ = proxy.Close(ctx) // a paused sink leaves its records, as it should
		handler.Wait()
		if err := store.Close(ctx); err != nil {
			b.Error(err)
		}
	})
	return &served{proxy, l.Addr().String(), &http.Client{Transport: transport}}
}

var surfacePayload = strings.Repeat("p", 160)

func surfaceMutation(n int) *walproxyv1.Mutation {
	return mutation.New("bench", mutation.String(fmt.Sprintf("%08d", n%100_000)),
		[]*walproxyv1.Op{mutation.SetOp(map[string]*walproxyv1.Value{"p": mutation.StringValue(surfacePayload)})})
}

func surfaceMutations(first, n int) []*walproxyv1.Mutation {
	ms := make([]*walproxyv1.Mutation, n)
	for i := range ms {
		ms[i] = surfaceMutation(first + i)
	}
	return ms
}

func beginEmbedded(_ *testing.B, s *served) (func(int, int) error, func()) {
	return func(first, _ int) error {
		_, err := s.proxy.Append(context.Background(), surfaceMutation(first))
		return err
	}, func() {}
}

func beginEmbeddedBatch(_ *testing.B, s *served) (func(int, int) error, func()) {
	return func(first, n int) error {
		for _, r := range s.proxy.AppendBatch(context.Background(), surfaceMutations(first, n)) {
			if r.Err != nil {
				return r.Err
			}
		}
		return nil
	}, func() {}
}

func beginUnary(s *served) (func(int, int) error, func()) {
	c := walproxyv1connect.NewWriteServiceClient(s.h2, "http://"+s.addr, connect.WithGRPC())
	return func(first, _ int) error {
		_, err := c.Write(context.Background(), connect.NewRequest(&walproxyv1.WriteRequest{
			Write: &walproxyv1.WriteRequest_Mutation{Mutation: surfaceMutation(first)}}))
		return err
	}, func() {}
}

// beginJSON has a connection of its own for each client, as HTTP/1.1 needs.
func beginJSON(_ *testing.B, s *served) (func(int, int) error, func()) {
	transport := &http.Transport{DisableCompression: true}
	c := &http.Client{Transport: transport}
	body := []byte(`{"p":"` + surfacePayload + `"}`)
	return func(first, _ int) error {
		r, err := http.NewRequest("PUT", fmt.Sprintf("http://%s/v1/bench/%08d", s.addr, first%100_000), bytes.NewReader(body))
		if err != nil {
			return err
		}
		answer, err := c.Do(r)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d", answer.StatusCode)
		}
		return err
	}, transport.CloseIdleConnections
}

// beginStream has a connection of its own for each client, as clients that are processes
// have.
func beginStream(_ *testing.B, s *served) (func(int, int) error, func()) {
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	c := walproxyv1connect.NewWriteServiceClient(&http.Client{Transport: transport}, "http://"+s.addr, connect.WithGRPC())
	ctx, cancel := context.WithCancel(context.Background())
	stream := c.WriteStream(ctx)
	return func(first, n int) error {
			if err := stream.Send(&walproxyv1.WriteStreamRequest{Mutations: surfaceMutations(first, n)}); err != nil {
				return err
			}
			answer, err := stream.Receive()
			if err != nil {
				return err
			}
			for _, o := range answer.GetOutcomes() {
				if o.GetWritten().GetLsn() == 0 {
					return fmt.Errorf("refused: %v", o.GetFailure())
				}
			}
			return nil
		}, func() {
			_ = stream.CloseRequest()
			cancel()
			_ = stream.CloseResponse()
			transport.CloseIdleConnections()
		}
}

func beginClientStream(b *testing.B, s *served) (func(int, int) error, func()) {
	c, err := client.New("http://"+s.addr, client.Options{GRPC: true})
	if err != nil {
		b.Fatal(err)
	}
	stream := c.Stream(client.StreamOptions{})
	return func(first, n int) error {
			sent, err := stream.Send(context.Background(), surfaceMutations(first, n)...)
			if err != nil {
				return err
			}
			outcomes, err := sent.Wait(context.Background())
			for _, o := range outcomes {
				if err == nil {
					err = o.Err
				}
			}
			return err
		}, func() {
			if err := stream.Close(context.Background()); err != nil {
				b.Error(err)
			}
			_ = c.Close()
		}
}

// beginLines is one POST /v1/mutations for each client.
func beginLines(b *testing.B, s *served) (func(int, int) error, func()) {
	transport := &http.Transport{DisableCompression: true}
	in, out := io.Pipe()
	r, err := http.NewRequest("POST", "http://"+s.addr+"/v1/mutations", in)
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	w := bufio.NewWriterSize(out, 64<<10)
	var answers *bufio.Reader
	var answer *http.Response
	return func(first, n int) error {
			for i := range n {
				fmt.Fprintf(w, `{"collection":"bench","key":"%08d","set":{"p":"%s"}}`+"\n", (first+i)%100_000, surfacePayload)
			}
			if answers == nil { // the head of the answer comes with the first item's
				flushed := make(chan error, 1)
				go func() { flushed <- w.Flush() }()
				if answer, err = transport.RoundTrip(r); err != nil {
					return err
				}
				if err := <-flushed; err != nil {
					return err
				}
				answers = bufio.NewReaderSize(answer.Body, 64<<10)
			} else if err := w.Flush(); err != nil {
				return err
			}
			for range n {
				line, err := answers.ReadSlice('\n')
				if err != nil {
					return err
				}
				if bytes.Contains(line, []byte(`"error"`)) {
					return fmt.Errorf("refused: %s", line)
				}
			}
			return nil
		}, func() {
			_ = out.Close()
			if answer != nil {
				_ = answer.Body.Close()
			}
			transport.CloseIdleConnections()
		}
}
