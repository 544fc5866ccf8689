// Package streamcodec encodes and decodes what streams of writes send, as package proto
// does, in less time: with package proto a stream spends more of it on that than on the
// log. Every other message is left to package proto.
package streamcodec

import (
	"encoding/binary"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// Codec of Connect, for both sides.
type Codec struct{}

// Name implements connect.Codec: it takes the place of Connect's own.
func (Codec) Name() string { return "proto" }

// IsBinary says that the encoding is no text.
func (Codec) IsBinary() bool { return true }

// Marshal implements connect.Codec.
func (c Codec) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalStable encodes what is the same to the same bytes.
func (Codec) MarshalStable(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, notProto(message)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// MarshalAppend appends to dst.
func (Codec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	switch m := message.(type) {
	case *walproxyv1.WriteStreamRequest:
		if len(m.ProtoReflect().GetUnknown()) == 0 {
			return appendRequest(dst, m)
		}
	case *walproxyv1.WriteStreamResponse:
		if len(m.ProtoReflect().GetUnknown()) == 0 {
			return appendResponse(dst, m)
		}
	}
	m, ok := message.(proto.Message)
	if !ok {
		return nil, notProto(message)
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, m)
}

// Unmarshal implements connect.Codec.
func (Codec) Unmarshal(data []byte, message any) error {
	switch m := message.(type) {
	case *walproxyv1.WriteStreamRequest:
		if readRequest(data, m) {
			return nil
		}
	case *walproxyv1.WriteStreamResponse:
		if readResponse(data, m) {
			return nil
		}
	}
	m, ok := message.(proto.Message)
	if !ok {
		return notProto(message)
	}
	if err := proto.Unmarshal(data, m); err != nil {
		return fmt.Errorf("unmarshal into %T: %w", message, err)
	}
	return nil
}

func notProto(message any) error {
	return fmt.Errorf("streamcodec: %T is no protobuf message", message)
}

// Field numbers of the schema.
const (
	requestMutations = 1
	requestAck       = 2
	requestOrdered   = 3

	responseOutcomes = 1
	outcomeWritten   = 1
	outcomeFailure   = 2

	writtenLSN        = 1
	writtenState      = 2
	writtenRepeat     = 3
	writtenEventCount = 4
)

func appendRequest(dst []byte, m *walproxyv1.WriteStreamRequest) ([]byte, error) {
	out := dst
	for _, one := range m.GetMutations() {
		var err error
		out = protowire.AppendTag(out, requestMutations, protowire.BytesType)
		if out, err = appendSized(out, one); err != nil {
			return dst, err
		}
	}
	out = appendNumber(out, requestAck, uint64(m.GetAck()))
	return appendNumber(out, requestOrdered, protowire.EncodeBool(m.GetOrdered())), nil
}

// appendSized appends a mutation behind its length.
func appendSized(dst []byte, m *walproxyv1.Mutation) ([]byte, error) {
	at := len(dst) + 2 // most are of 128 to 16383 bytes
	out, err := mutation.AppendMutation(append(dst, 0, 0), m)
	if err != nil {
		return dst, err
	}
	n := len(out) - at
	size := protowire.SizeVarint(uint64(n))
	for range size - 2 {
		out = append(out, 0)
	}
	if size != 2 {
		copy(out[at-2+size:], out[at:at+n])
		out = out[:at-2+size+n]
	}
	binary.PutUvarint(out[at-2:], uint64(n))
	return out, nil
}

func appendNumber(dst []byte, number protowire.Number, n uint64) []byte {
	if n == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, number, protowire.VarintType), n)
}

func appendResponse(dst []byte, m *walproxyv1.WriteStreamResponse) ([]byte, error) {
	out := dst
	for _, o := range m.GetOutcomes() {
		written, ok := o.GetKind().(*walproxyv1.WriteStreamResponse_Outcome_Written)
		if !ok || len(o.ProtoReflect().GetUnknown()) > 0 || len(written.Written.ProtoReflect().GetUnknown()) > 0 {
			b, err := proto.Marshal(o)
			if err != nil {
				return dst, err
			}
			out = protowire.AppendBytes(protowire.AppendTag(out, responseOutcomes, protowire.BytesType), b)
			continue
		}
		w := written.Written
		// Numbers take at most 4 times 11 bytes: the lengths are one byte.
		out = protowire.AppendTag(out, responseOutcomes, protowire.BytesType)
		out = append(out, 0, outcomeWritten<<3|byte(protowire.BytesType), 0)
		at := len(out)
		out = appendNumber(out, writtenLSN, w.GetLsn())
		out = appendNumber(out, writtenState, uint64(w.GetState()))
		out = appendNumber(out, writtenRepeat, protowire.EncodeBool(w.GetRepeat()))
		out = appendNumber(out, writtenEventCount, w.GetEventCount())
		out[at-1], out[at-3] = byte(len(out)-at), byte(len(out)-at+2)
	}
	return out, nil
}

// field cuts the next one off.
func field(data string) (number protowire.Number, kind protowire.Type, value uint64, content, rest string, ok bool) {
	tag, data, ok := varint(data)
	if number, kind = protowire.DecodeTag(tag); !ok || number < protowire.MinValidNumber {
		return 0, 0, 0, "", "", false
	}
	if kind != protowire.VarintType && kind != protowire.BytesType {
		return 0, 0, 0, "", "", false
	}
	value, data, ok = varint(data)
	if kind == protowire.VarintType || !ok {
		return number, kind, value, "", data, ok
	}
	if value > uint64(len(data)) {
		return 0, 0, 0, "", "", false
	}
	return number, kind, value, data[:value], data[value:], true
}

func varint(data string) (v uint64, rest string, ok bool) {
	for i := range min(len(data), 10) {
		b := data[i]
		if i == 9 && b > 1 {
			break // more than 64 bits
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return v, data[i+1:], true
		}
	}
	return 0, "", false
}

// readRequest fills m, or reports that package proto has to.
func readRequest(data []byte, m *walproxyv1.WriteStreamRequest) bool {
	text := string(data) // which the mutations share
	var few [128]string
	payloads := few[:0]
	var ack, ordered uint64
	for rest := text; len(rest) > 0; {
		number, kind, value, content, left, ok := field(rest)
		switch {
		case !ok:
			return false
		case number == requestMutations && kind == protowire.BytesType:
			payloads = append(payloads, content)
		case number == requestAck && kind == protowire.VarintType && value <= 1<<7:
			ack = value
		case number == requestOrdered && kind == protowire.VarintType:
			ordered = value
		default:
			return false
		}
		rest = left
	}
	ms, ok := mutation.DecodeMutations(payloads)
	if !ok {
		return false
	}
	for _, one := range ms {
		// It is kept for longer than the rest, of which it must not keep the memory.
		one.RequestId = strings.Clone(one.RequestId)
	}
	proto.Reset(m)
	m.Mutations, m.Ack, m.Ordered = ms, walproxyv1.Ack(ack), ordered != 0
	return true
}

// readResponse fills m, or reports that package proto has to.
func readResponse(data []byte, m *walproxyv1.WriteStreamResponse) bool {
	type known struct {
		outcome walproxyv1.WriteStreamResponse_Outcome
		kind    walproxyv1.WriteStreamResponse_Outcome_Written
		written walproxyv1.WriteResponse
	}
	text := string(data)
	n := 0
	for rest := text; len(rest) > 0; n++ {
		number, kind, _, _, left, ok := field(rest)
		if !ok || number != responseOutcomes || kind != protowire.BytesType {
			return false
		}
		rest = left
	}
	all, outcomes := make([]known, n), make([]*walproxyv1.WriteStreamResponse_Outcome, n)
	rest := text
	for i := range all {
		_, _, _, content, left, _ := field(rest)
		rest = left
		to := &all[i]
		outcomes[i] = &to.outcome
		number, kind, _, inner, behind, ok := field(content)
		if !ok || kind != protowire.BytesType || behind != "" {
			return false
		}
		if number == outcomeWritten {
			to.kind.Written, to.outcome.Kind = &to.written, &to.kind
			if !readWritten(inner, &to.written) {
				return false
			}
		} else if proto.Unmarshal([]byte(content), &to.outcome) != nil {
			return false
		}
	}
	proto.Reset(m)
	m.Outcomes = outcomes
	return true
}

func readWritten(data string, w *walproxyv1.WriteResponse) bool {
	for len(data) > 0 {
		number, kind, value, _, rest, ok := field(data)
		if !ok || kind != protowire.VarintType {
			return false
		}
		data = rest
		switch number {
		case writtenLSN:
			w.Lsn = value
		case writtenState:
			w.State = walproxyv1.State(int32(value))
		case writtenRepeat:
			w.Repeat = value != 0
		case writtenEventCount:
			w.EventCount = value
		default:
			return false
		}
	}
	return true
}
