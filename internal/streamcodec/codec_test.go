package streamcodec

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// requests and responses that streams send, and some that no client of ours does.
func requests(t testing.TB) []*walproxyv1.WriteStreamRequest {
	t.Helper()
	var some []*walproxyv1.Mutation
	for _, size := range []int{0, 1, 60, 100, 127, 128, 200, 16_200, 16_400, 1 << 21} { // lengths of one to four bytes
		m, err := mutation.Set("orders", mutation.String("k"), map[string]any{"pad": strings.Repeat("x", size), "n": size}, mutation.WithRequestID("id"))
		if err != nil {
			t.Fatal(err)
		}
		some = append(some, m)
	}
	unknown := mutation.Touch("orders", mutation.Int64(1))
	unknown.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	return []*walproxyv1.WriteStreamRequest{
		{}, {Mutations: some, Ordered: true}, {Mutations: some[:1], Ack: walproxyv1.Ack_ACK_APPLIED}, {Ack: -1},
		{Mutations: []*walproxyv1.Mutation{{}, unknown, mutation.Delete("", mutation.Composite(mutation.String("a")))}},
	}
}

func responses() []*walproxyv1.WriteStreamResponse {
	written := func(w *walproxyv1.WriteResponse) *walproxyv1.WriteStreamResponse_Outcome {
		return &walproxyv1.WriteStreamResponse_Outcome{Kind: &walproxyv1.WriteStreamResponse_Outcome_Written{Written: w}}
	}
	failed := &walproxyv1.WriteStreamResponse_Outcome{Kind: &walproxyv1.WriteStreamResponse_Outcome_Failure{
		Failure: &walproxyv1.Failure{Code: "invalid", Message: "no", Field: "key", Retryable: true}}}
	return []*walproxyv1.WriteStreamResponse{
		{},
		{Outcomes: []*walproxyv1.WriteStreamResponse_Outcome{written(&walproxyv1.WriteResponse{Lsn: 1, State: walproxyv1.State_STATE_LOGGED}), failed,
			written(&walproxyv1.WriteResponse{Lsn: 1<<64 - 1, State: -1, Repeat: true, EventCount: 1<<64 - 1}), written(&walproxyv1.WriteResponse{})}},
		{Outcomes: []*walproxyv1.WriteStreamResponse_Outcome{{}, failed}},
	}
}

// TestAlike: what is encoded and decoded here is what package proto makes of it.
func TestAlike(t *testing.T) {
	var messages []proto.Message
	for _, m := range requests(t) {
		messages = append(messages, m)
	}
	for _, m := range responses() {
		messages = append(messages, m)
	}
	messages = append(messages, &walproxyv1.WriteRequest{}, &walproxyv1.GetWriteRequest{Lsn: 7})
	for _, m := range messages {
		got, err := Codec{}.MarshalAppend([]byte("before"), m)
		want, protoErr := proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte("before"), m)
		if err != nil || protoErr != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: %d bytes, %v; package proto makes %d, %v", proto.Size(m), len(got), err, len(want), protoErr)
		}
		back := m.ProtoReflect().New().Interface()
		if err := (Codec{}).Unmarshal(got[len("before"):], back); err != nil || !proto.Equal(m, back) {
			t.Errorf("%v: %v, %v", m, back, err)
		}
	}
	plain := requests(t)[1]
	wire, err := Codec{}.Marshal(plain)
	if err != nil || !readRequest(wire, new(walproxyv1.WriteStreamRequest)) {
		t.Errorf("a plain request is left to package proto, %v", err)
	}
	if wire, err = (Codec{}).Marshal(responses()[1]); err != nil || !readResponse(wire, new(walproxyv1.WriteStreamResponse)) {
		t.Errorf("a plain response is left to package proto, %v", err)
	}
	if _, err := (Codec{}).Marshal(&walproxyv1.WriteStreamRequest{Mutations: []*walproxyv1.Mutation{{Collection: "\xff"}}}); err == nil {
		t.Error("text that is none is encoded")
	}
	if _, err := (Codec{}).Marshal("text"); err == nil {
		t.Error("what is no message is encoded")
	}
	if err := (Codec{}).Unmarshal(nil, "text"); err == nil {
		t.Error("what is no message is decoded")
	}
}

// FuzzUnmarshal: whatever comes is what package proto takes it for.
func FuzzUnmarshal(f *testing.F) {
	add := func(m proto.Message) {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		if len(b) < 1<<10 {
			f.Add(b)
		}
	}
	for _, m := range requests(f) {
		add(m)
	}
	for _, m := range responses() {
		add(m)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range []proto.Message{&walproxyv1.WriteStreamRequest{}, &walproxyv1.WriteStreamResponse{}} {
			want := m.ProtoReflect().New().Interface()
			wantErr := proto.Unmarshal(data, want)
			err := Codec{}.Unmarshal(data, m)
			if (err == nil) != (wantErr == nil) || err == nil && !proto.Equal(m, want) {
				t.Fatalf("%x: %v, %v; package proto: %v, %v", data, m, err, want, wantErr)
			}
		}
	})
}
