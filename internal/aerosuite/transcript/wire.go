package transcript

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// request is what is used of a message that a client sends.
type request struct {
	kind    byte
	message *codec.Message // of TypeMessage
	names   []string       // of TypeInfo
}

// parse reads a whole request.
func parse(b []byte) (*request, error) {
	p, err := codec.ParseProto(b, codec.SizeMax)
	if err != nil {
		return nil, err
	}
	kind, body := p.Type, b[codec.ProtoBytes:]
	if kind == codec.TypeCompressed {
		if kind, body, err = codec.Inflate(body, codec.SizeMax); err != nil {
			return nil, err
		}
	}
	r := &request{kind: kind}
	switch kind {
	case codec.TypeMessage:
		r.message, err = codec.ParseMessage(body)
	case codec.TypeInfo:
		r.names = codec.ParseInfo(body)
	}
	return r, err
}

// many reports whether the answer is several records and an end.
func (r *request) many() bool { return r.isBatch() || r.isScan() }

func (r *request) isBatch() bool {
	return r.has(codec.FieldBatch) || r.has(codec.FieldBatchWithSet)
}

func (r *request) isScan() bool {
	return r.kind == codec.TypeMessage && !r.isBatch() && !r.has(codec.FieldDigest) && !r.has(codec.FieldKey)
}

func (r *request) has(field byte) bool {
	if r.kind != codec.TypeMessage {
		return false
	}
	_, ok := r.message.Field(field)
	return ok
}

// again returns b as it may be sent once more: servers refuse a scan of a number
// that they know.
func (r *request) again(b []byte) []byte {
	if !r.isScan() || !r.has(codec.FieldTaskID) {
		return b
	}
	m := *r.message
	m.Fields = slices.Clone(m.Fields)
	for i := range m.Fields {
		if m.Fields[i].Type == codec.FieldTaskID {
			m.Fields[i].Data = binary.BigEndian.AppendUint64(nil, rand.Uint64())
		}
	}
	b = codec.AppendMessage(codec.AppendProto(nil, codec.TypeMessage, 0), &m)
	codec.SetProto(b, codec.TypeMessage)
	return b
}

// readProto reads one message with its header.
func readProto(in io.Reader) ([]byte, error) {
	b := make([]byte, codec.ProtoBytes)
	if _, err := io.ReadFull(in, b); err != nil {
		return nil, err
	}
	p, err := codec.ParseProto(b, codec.SizeMax)
	if err != nil {
		return nil, err
	}
	b = append(b, make([]byte, p.Size)...)
	_, err = io.ReadFull(in, b[codec.ProtoBytes:])
	return b, err
}

// readAnswer reads everything that answers r. each gets every message as it comes.
func readAnswer(in io.Reader, r *request, each func([]byte) error) (answer []byte, err error) {
	for {
		b, err := readProto(in)
		if err != nil {
			return answer, err
		}
		answer = append(answer, b...)
		if err := each(b); err != nil || !r.many() {
			return answer, err
		}
		records, err := records(b)
		if err != nil {
			return answer, err
		}
		if len(records) == 0 {
			return answer, errors.New("an answer without records")
		}
		last := records[len(records)-1]
		if last.Info3&codec.Info3Last != 0 || r.isScan() && last.Result != codec.OK && last.Info3&codec.Info3PartitionDone == 0 {
			return answer, nil // a scan that is refused has no other end
		}
	}
}

// records of an answer, which may be several proto messages.
func records(answer []byte) ([]*codec.Message, error) {
	var all []*codec.Message
	for len(answer) > 0 {
		p, err := codec.ParseProto(answer, codec.SizeMax)
		if err != nil {
			return nil, err
		}
		if p.Type != codec.TypeMessage || p.Size > len(answer)-codec.ProtoBytes {
			return nil, fmt.Errorf("answer of type %d and %d bytes, there are %d", p.Type, p.Size, len(answer))
		}
		some, err := codec.ParseMessages(answer[codec.ProtoBytes : codec.ProtoBytes+p.Size])
		if err != nil {
			return nil, err
		}
		all, answer = append(all, some...), answer[codec.ProtoBytes+p.Size:]
	}
	return all, nil
}
