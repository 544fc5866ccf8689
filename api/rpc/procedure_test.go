package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/api/proto/walproxy/v1/walproxyv1connect"
	"github.com/walproxy/walproxy/sinks/sinktest"
)

// wires are the protocols that clients come with.
var wires = map[string][]connect.ClientOption{
	"connect":  nil,
	"json":     {connect.WithProtoJSON()},
	"grpc":     {connect.WithGRPC()},
	"grpc-web": {connect.WithGRPCWeb()},
	"gzip":     {connect.WithGRPC(), connect.WithSendGzip()},
	"zstd":     zstdWire(),
}

// procedureRig is a rig with clients of its procedures, over HTTP/2.
type procedureRig struct {
	*rig
	writes walproxyv1connect.WriteServiceClient
	reads  walproxyv1connect.ReadServiceClient
	http   *http.Client
}

func newProcedureRig(t *testing.T, wire []connect.ClientOption, change ...func(*rigOptions)) *procedureRig {
	t.Helper()
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: transport}
	r := newRig(t, change...)
	t.Cleanup(client.CloseIdleConnections)
	return &procedureRig{rig: r, http: client,
		writes: walproxyv1connect.NewWriteServiceClient(client, r.base, wire...),
		reads:  walproxyv1connect.NewReadServiceClient(client, r.base, wire...)}
}

func stringKey(s string) *walproxyv1.Key {
	return &walproxyv1.Key{Kind: &walproxyv1.Key_String_{String_: s}}
}

func number(n int64) *walproxyv1.Value {
	return &walproxyv1.Value{Kind: &walproxyv1.Value_Int64{Int64: n}}
}

func setOf(collection, key string, n int64) *walproxyv1.Mutation {
	return &walproxyv1.Mutation{Collection: collection, Key: stringKey(key), Ops: []*walproxyv1.Op{{Kind: &walproxyv1.Op_Set_{
		Set: &walproxyv1.Op_Set{Fields: map[string]*walproxyv1.Value{"n": number(n)}}}}}}
}

func writeOf(m *walproxyv1.Mutation) *connect.Request[walproxyv1.WriteRequest] {
	return connect.NewRequest(&walproxyv1.WriteRequest{Write: &walproxyv1.WriteRequest_Mutation{Mutation: m}})
}

// failureOf is what err carries; code is the protocol's.
func failureOf(t *testing.T, err error, code connect.Code) *walproxyv1.Failure {
	t.Helper()
	failed, ok := errors.AsType[*connect.Error](err)
	if !ok || failed.Code() != code {
		t.Fatalf("got %v; want %v", err, code)
	}
	for _, detail := range failed.Details() {
		if value, err := detail.Value(); err == nil {
			return value.(*walproxyv1.Failure)
		}
	}
	t.Fatalf("%v has no detail", err)
	return nil
}

func (r *procedureRig) n(collection, key string) int64 {
	r.t.Helper()
	got, err := r.reads.Get(r.t.Context(), connect.NewRequest(&walproxyv1.GetRequest{Collection: collection, Key: stringKey(key)}))
	if err != nil {
		r.t.Fatalf("%s %s: %v", collection, key, err)
	}
	return got.Msg.GetDocument().GetFields()["n"].GetInt64()
}

func TestProcedures(t *testing.T) {
	for name, wire := range wires {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newProcedureRig(t, wire, listing)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r.checkUnary(ctx)
			r.checkStream(ctx)
			r.checkScan(ctx)
		})
	}
}

func (r *procedureRig) checkUnary(ctx context.Context) {
	t := r.t
	first, err := r.writes.Write(ctx, writeOf(setOf("c", "k", 1)))
	if err != nil || first.Msg.GetLsn() == 0 || first.Msg.GetState() != walproxyv1.State_STATE_LOGGED {
		t.Fatalf("%v, %v", first, err)
	}
	second := setOf("c", "k", 2)
	second.RequestId = "once"
	for range 2 {
		in := writeOf(second)
		in.Msg.Ack = walproxyv1.Ack_ACK_APPLIED
		got, err := r.writes.Write(ctx, in)
		if err != nil || got.Msg.GetLsn() != first.Msg.GetLsn()+1 || got.Msg.GetState() != walproxyv1.State_STATE_APPLIED {
			t.Fatalf("%v, %v", got, err)
		}
	}
	if n := r.n("c", "k"); n != 2 {
		t.Fatalf("read %d; want 2", n)
	}
	was := setOf("c", "k", 3)
	was.Precondition = &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfVersion{IfVersion: first.Msg.GetLsn()}}
	_, err = r.writes.Write(ctx, writeOf(was))
	if f := failureOf(t, err, connect.CodeAborted); f.GetCode() != "version_conflict" || f.GetVersion() != first.Msg.GetLsn()+1 {
		t.Fatalf("conflict says %v", f)
	}
	_, err = r.writes.Write(ctx, writeOf(setOf("", "k", 3)))
	if f := failureOf(t, err, connect.CodeInvalidArgument); f.GetField() != "collection" {
		t.Fatalf("invalid says %v", f)
	}
	_, err = r.reads.Get(ctx, connect.NewRequest(&walproxyv1.GetRequest{Collection: "c", Key: stringKey("none")}))
	failureOf(t, err, connect.CodeNotFound)
	_, err = r.writes.Write(ctx, connect.NewRequest(&walproxyv1.WriteRequest{Write: &walproxyv1.WriteRequest_Atomic_{
		Atomic: &walproxyv1.WriteRequest_Atomic{Mutations: []*walproxyv1.Mutation{setOf("c", "a", 7), setOf("c", "b", 8)}}}}))
	if err != nil || r.n("c", "a") != 7 || r.n("c", "b") != 8 {
		t.Fatalf("atomic: %v", err)
	}
	state, err := r.writes.GetWrite(ctx, connect.NewRequest(&walproxyv1.GetWriteRequest{Lsn: first.Msg.GetLsn()}))
	if err != nil || state.Msg.GetSinks()["main"] != walproxyv1.State_STATE_APPLIED {
		t.Fatalf("%v, %v", state, err)
	}
}

func (r *procedureRig) checkStream(ctx context.Context) {
	t := r.t
	stream := r.writes.WriteStream(ctx)
	const messages, each = 20, 10
	sent := make(chan error, 1)
	go func() {
		for i := range messages {
			m := &walproxyv1.WriteStreamRequest{}
			for j := range each {
				m.Mutations = append(m.Mutations, setOf("s", fmt.Sprint(j), int64(i)))
			}
			m.Mutations[3].Collection = "" // refused by itself
			if err := stream.Send(m); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseRequest()
	}()
	var last uint64
	for range messages {
		m, err := stream.Receive()
		if err != nil || len(m.GetOutcomes()) != each {
			t.Fatalf("%v, %v", m, err)
		}
		for j, o := range m.GetOutcomes() {
			if lsn := o.GetWritten().GetLsn(); j == 3 && o.GetFailure().GetField() != "collection" || j != 3 && lsn <= last {
				t.Fatalf("outcome %d: %v behind %d", j, o, last)
			} else if j != 3 {
				last = lsn
			}
		}
	}
	if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
		t.Fatalf("the end: %v", err)
	}
	if err := errors.Join(<-sent, stream.CloseResponse()); err != nil {
		t.Fatal(err)
	}
	if n := r.n("s", "9"); n != messages-1 {
		t.Fatalf("read %d; want %d", n, messages-1)
	}
}

func (r *procedureRig) checkScan(ctx context.Context) {
	t := r.t
	all := r.writes.WriteAll(ctx)
	const records = 150
	for i := range records {
		m := &walproxyv1.WriteAllRequest{Mutations: []*walproxyv1.Mutation{setOf("scan", fmt.Sprintf("a%03d", i), int64(i)), setOf("scan", fmt.Sprintf("b%03d", i), 0)}}
		if err := all.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	got, err := all.CloseAndReceive()
	if err != nil || got.Msg.GetCount() != 2*records {
		t.Fatalf("%v, %v", got, err)
	}
	seen := 0
	in := &walproxyv1.ScanRequest{Collection: "scan", Prefix: "a", Limit: 40}
	for pages := 0; ; pages++ {
		page, err := r.reads.Scan(ctx, connect.NewRequest(in))
		if err != nil || pages > records {
			t.Fatalf("page %d: %v", pages, err)
		}
		for _, e := range page.Msg.GetEntries() {
			if want := fmt.Sprintf("a%03d", seen); e.GetKey().GetString_() != want || e.GetDocument().GetFields()["n"].GetInt64() != int64(seen) {
				t.Fatalf("got %v; want %s", e, want)
			}
			seen++
		}
		if in.After = page.Msg.GetNext(); in.After == nil {
			break
		}
	}
	if seen != records {
		t.Fatalf("saw %d; want %d", seen, records)
	}
}

// TestWriteAllEndsAtRefused: nothing behind the refused mutation is written.
func TestWriteAllEndsAtRefused(t *testing.T) {
	r := newProcedureRig(t, nil)
	stream := r.writes.WriteAll(t.Context())
	wrong := setOf("c", "c", 3)
	wrong.Ops = nil
	m := &walproxyv1.WriteAllRequest{Mutations: []*walproxyv1.Mutation{setOf("c", "a", 1), setOf("c", "b", 2), wrong, setOf("c", "d", 4)}}
	if err := stream.Send(m); err != nil {
		t.Fatal(err)
	}
	_, err := stream.CloseAndReceive()
	if f := failureOf(t, err, connect.CodeInvalidArgument); f.GetWritten() != 2 || f.GetField() != "ops" {
		t.Fatalf("says %v", f)
	}
	if r.n("c", "b") != 2 || r.logged() != 2 {
		t.Fatalf("%d are logged; want 2", r.logged())
	}
}

// TestStreamsRest: streams that send nothing hold none of the room of others, and
// a stop answers what they have sent and ends them.
func TestStreamsRest(t *testing.T) {
	r := newProcedureRig(t, []connect.ClientOption{connect.WithGRPC()}, func(o *rigOptions) {
		o.rest.MaxItemBytes, o.rest.MaxInFlightBytes = 1<<16, 2<<16 // room for two messages
	})
	var streams []*connect.BidiStreamForClient[walproxyv1.WriteStreamRequest, walproxyv1.WriteStreamResponse]
	for i := range 20 {
		stream := r.writes.WriteStream(t.Context())
		if err := stream.Send(&walproxyv1.WriteStreamRequest{Mutations: []*walproxyv1.Mutation{setOf("c", "k", int64(i))}}); err != nil {
			t.Fatal(err)
		}
		if m, err := stream.Receive(); err != nil || m.GetOutcomes()[0].GetWritten().GetLsn() == 0 {
			t.Fatalf("stream %d: %v, %v", i, m, err)
		}
		streams = append(streams, stream)
	}
	r.want(r.do("PUT", "/v1/c/other", `{"n":1}`), http.StatusOK)
	r.rest.Stop()
	for i, stream := range streams {
		if _, err := stream.Receive(); connect.CodeOf(err) != connect.CodeUnavailable {
			t.Fatalf("stream %d ended with %v", i, err)
		}
		_ = stream.CloseRequest() // ended by the other side
		_ = stream.CloseResponse()
	}
}

// TestMessageTooLarge: it is refused by its announced size.
func TestMessageTooLarge(t *testing.T) {
	r := newProcedureRig(t, nil, func(o *rigOptions) { o.rest.MaxItemBytes = 1 << 10 })
	m := setOf("c", "k", 1)
	m.RequestId = string(make([]byte, 2<<10))
	if _, err := r.writes.Write(t.Context(), writeOf(m)); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Fatalf("%d bytes: %v", proto.Size(m), err)
	}
	if r.logged() != 0 {
		t.Fatal("it is logged")
	}
}

// TestStreamWindow: a stream whose answers wait is read no further than its window,
// and a stop does not wait for them.
func TestStreamWindow(t *testing.T) {
	const window = 8 // a message of one mutation takes as much room as two
	release := make(chan struct{})
	r := newProcedureRig(t, []connect.ClientOption{connect.WithGRPC()}, func(o *rigOptions) { o.rest.Window = 2 * window })
	r.sink.Add(sinktest.Rule{Do: sinktest.HoldBefore(release), Times: sinktest.Always})
	defer close(release)
	stream := r.writes.WriteStream(t.Context())
	for i := range 5 * window {
		m := &walproxyv1.WriteStreamRequest{Mutations: []*walproxyv1.Mutation{setOf("c", fmt.Sprint(i), 1)}, Ack: walproxyv1.Ack_ACK_APPLIED}
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the window is full", func() bool { return r.logged() == window })
	// A write of somebody else comes behind all that the stream was let bring.
	r.want(r.do("PUT", "/v1/c/other", `{"n":1}`), http.StatusOK)
	r.rest.Stop()
	for range window {
		if m, err := stream.Receive(); err != nil || m.GetOutcomes()[0].GetWritten().GetState() != walproxyv1.State_STATE_LOGGED {
			t.Fatalf("%v, %v", m, err)
		}
	}
	if got := r.logged(); got > window+1+1 { // one may be on its way when the stop comes
		t.Fatalf("%d are logged", got)
	}
	_ = stream.CloseRequest() // ended by the other side
	_ = stream.CloseResponse()
}

// TestWaitEndsWithItsClient: a client that goes while its write waits for the sinks leaves
// nothing behind that waits on, however long it would have waited. The write stands.
func TestWaitEndsWithItsClient(t *testing.T) {
	for name, wire := range map[string][]connect.ClientOption{"connect": wires["connect"], "grpc": wires["grpc"]} {
		registry := prometheus.NewRegistry()
		r := newProcedureRig(t, wire, func(o *rigOptions) { o.rest.Registerer = registry })
		release := make(chan struct{})
		r.sink.Add(sinktest.Rule{When: sinktest.NotEmpty, Do: sinktest.HoldBefore(release)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				in := writeOf(setOf("c", "k", 1))
				in.Msg.Ack = walproxyv1.Ack_ACK_APPLIED
				if _, err := r.writes.Write(ctx, in); err == nil {
					t.Error("a write was applied by a sink that hangs")
				}
			})
		}
		until(t, "they are logged", func() bool { return r.logged() == 3 })
		cancel()
		calls.Wait()
		until(t, name+": nobody waits", func() bool { return value(t, registry, "walproxy_http_requests_in_flight", "") == 0 })
		close(release)
		if n := r.n("c", "k"); n != 1 {
			t.Errorf("%s: %d", name, n)
		}
	}
}
