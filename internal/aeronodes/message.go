package aeronodes

import (
	"encoding/binary"
	"net"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// message passes a message on, but for the records that are refused.
func (m *node) message(near, far net.Conn, kind byte, body []byte) error {
	v, many := m.cluster.view(), true
	var refusals []byte // answers of a batch's rows
	if kind == codec.TypeMessage {
		message, err := codec.ParseMessage(body)
		if err != nil {
			return err
		}
		digest, single := message.Field(codec.FieldDigest)
		if many = !single; single {
			if code := m.admit(v, [codec.DigestBytes]byte(digest)); code != codec.OK {
				return write(near, codec.TypeMessage, header(code, 0, 0))
			}
		}
		if field, batch := batchOf(message); batch {
			rest, some, err := m.admitted(v, message, body, field, &refusals)
			if err != nil {
				return err
			}
			if !some {
				return write(near, codec.TypeMessage, append(refusals, header(codec.OK, codec.Info3Last, 0)...))
			}
			body = rest
		}
	}
	if err := write(far, kind, body); err != nil {
		return err
	}
	if len(refusals) > 0 {
		if err := write(near, codec.TypeMessage, refusals); err != nil {
			return err
		}
	}
	for {
		kind, answer, err := read(far)
		if err != nil {
			return err
		}
		if err := write(near, kind, answer); err != nil || !many || last(kind, answer) {
			return err
		}
	}
}

// admit counts a record that was asked of the node, and says what is answered in the
// place of the store.
func (m *node) admit(v view, digest [codec.DigestBytes]byte) codec.Result {
	partition := PartitionOf(digest)
	m.served.Add(1)
	if v.owner(partition, 0) != m {
		m.cluster.mu.Lock()
		m.cluster.mu.strays++
		m.cluster.mu.Unlock()
	}
	if v.refuse != nil {
		return v.refuse(partition)
	}
	return codec.OK
}

// header is an AS_MSG without fields and ops; row is of a batch's answer.
func header(code codec.Result, info3 byte, row uint32) []byte {
	b := make([]byte, codec.HeaderBytes)
	b[0], b[3], b[5] = codec.HeaderBytes, info3, byte(code)
	binary.BigEndian.PutUint32(b[14:], row)
	return b
}

// last reports whether an answer of many records ends in this message.
func last(kind byte, answer []byte) bool {
	if kind == codec.TypeCompressed {
		var err error
		if _, answer, err = codec.Inflate(answer, codec.SizeMax); err != nil {
			return true
		}
	}
	list, err := codec.ParseMessages(answer)
	return err != nil || len(list) == 0 || list[len(list)-1].Info3&codec.Info3Last != 0
}

func batchOf(message *codec.Message) ([]byte, bool) {
	if field, ok := message.Field(codec.FieldBatchWithSet); ok {
		return field, true
	}
	return message.Field(codec.FieldBatch)
}

// Flags of a batch's row.
const (
	rowRepeat     = 0x01
	rowInfo       = 0x02
	rowGeneration = 0x04
	rowTTL        = 0x08
	rowInfo4      = 0x10
)

// admitted is the message without the rows that are refused, which are answered;
// false: none is left.
func (m *node) admitted(v view, message *codec.Message, body, field []byte, refusals *[]byte) (rest []byte, some bool, err error) {
	batch, err := codec.ParseBatch(field, message, 1<<20)
	if err != nil {
		return nil, false, err
	}
	const head = 4 + codec.DigestBytes + 1
	out := append([]byte(nil), field[:5]...)
	count, at := uint32(0), 5
	var content []byte // of the last row that said anything
	var flags byte
	for _, row := range batch.Rows {
		start := field[at : at+head]
		at += head
		if start[head-1]&rowRepeat == 0 {
			n := rowBytes(start[head-1], field[at:])
			content, flags = field[at:at+n], start[head-1]
			at += n
		}
		if code := m.admit(v, row.Digest); code != codec.OK {
			*refusals = append(*refusals, header(code, 0, row.Index)...)
			continue
		}
		out = append(append(append(out, start[:head-1]...), flags), content...)
		count++
	}
	binary.BigEndian.PutUint32(out, count)
	// The batch is the last field: its length is in front of its type.
	start := len(body) - len(field) - 5
	rest = append([]byte(nil), body[:start]...)
	rest = binary.BigEndian.AppendUint32(rest, uint32(len(out)+1))
	return append(append(rest, body[start+4]), out...), count > 0, nil
}

// rowBytes is how long the content of a row is, which codec.ParseBatch has parsed.
func rowBytes(flags byte, b []byte) int {
	n := 1
	for _, f := range []struct {
		flag byte
		size int
	}{{rowInfo, 2}, {rowInfo4, 1}, {rowGeneration, 2}, {rowTTL, 4}} {
		if flags&f.flag != 0 {
			n += f.size
		}
	}
	parts := max(int(binary.BigEndian.Uint16(b[n:])), 1) + int(binary.BigEndian.Uint16(b[n+2:]))
	n += 4
	for range parts {
		n += 4 + int(binary.BigEndian.Uint32(b[n:]))
	}
	return n
}
