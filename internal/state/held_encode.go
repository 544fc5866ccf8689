package state

import (
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"github.com/walproxy/walproxy/internal/position"
)

// prefix of a sink's held records.
func (h *Held) prefix() []byte {
	key := append(make([]byte, 0, 16+len(h.sink)), 'h')
	key = binary.AppendUvarint(key, uint64(len(h.sink)))
	return append(key, h.sink...)
}

func (h *Held) key(lsn position.LSN) []byte {
	return binary.BigEndian.AppendUint64(h.prefix(), uint64(lsn))
}

func heldMarkKey(sink string) []byte { return append([]byte{'H'}, sink...) }

// heldPlace is how much was put before a record, since the range began: so that
// what is left after a trim is known without counting.
type heldPlace struct{ records, bytes uint64 }

// A held record's value: its place, two uvarints, then the payload.
func encodeHeld(place heldPlace, payload []byte) []byte {
	value := make([]byte, 0, 2*binary.MaxVarintLen64+len(payload))
	value = binary.AppendUvarint(value, place.records)
	value = binary.AppendUvarint(value, place.bytes)
	return append(value, payload...)
}

// decodeHeld returns a payload that lies in value. Errors are ErrCorrupt.
func decodeHeld(value []byte) (place heldPlace, payload []byte, err error) {
	for _, n := range []*uint64{&place.records, &place.bytes} {
		var size int
		if *n, size = binary.Uvarint(value); size <= 0 {
			return heldPlace{}, nil, fmt.Errorf("%w: place of a held record", ErrCorrupt)
		}
		value = value[size:]
	}
	return place, value, nil
}

// heldMark is what is stored of a HeldRange.
type heldMark struct {
	HeldRange
	putRecords, putBytes   uint64 // since the range began
	goneRecords, goneBytes uint64 // of these, trimmed
}

// counted returns m with Records and Bytes worked out.
func (m heldMark) counted() heldMark {
	m.Records, m.Bytes = m.putRecords-m.goneRecords, m.putBytes-m.goneBytes
	return m
}

// A mark's value: version; Low, Through, put and gone, records before bytes, 8
// bytes each; then incarnation and LSN, 16 and 8 bytes, of each point of the
// history.
const (
	heldVersion    = 1
	heldMarkFixed  = 1 + 6*8
	heldPointBytes = 16 + 8
)

func encodeHeldMark(m heldMark) []byte {
	value := append(make([]byte, 0, heldMarkFixed+heldPointBytes*len(m.History)), heldVersion)
	for _, n := range []uint64{uint64(m.Low), uint64(m.Through), m.putRecords, m.putBytes, m.goneRecords, m.goneBytes} {
		value = binary.BigEndian.AppendUint64(value, n)
	}
	for _, p := range m.History {
		value = append(value, p.Incarnation[:]...)
		value = binary.BigEndian.AppendUint64(value, uint64(p.LSN))
	}
	return value
}

// decodeHeldMark refuses what cannot be meant. Errors are ErrCorrupt.
func decodeHeldMark(value []byte) (m heldMark, err error) {
	if len(value) < heldMarkFixed || (len(value)-heldMarkFixed)%heldPointBytes != 0 || value[0] != heldVersion {
		return m, fmt.Errorf("%w: mark of %d bytes", ErrCorrupt, len(value))
	}
	at := func(i int) uint64 { return number(value[1+8*i:]) }
	m.Low, m.Through = position.LSN(at(0)), position.LSN(at(1))
	m.putRecords, m.putBytes, m.goneRecords, m.goneBytes = at(2), at(3), at(4), at(5)
	if m.Low >= m.Through || m.goneRecords > m.putRecords || m.goneBytes > m.putBytes {
		return heldMark{}, fmt.Errorf("%w: mark from %d to %d", ErrCorrupt, m.Low, m.Through)
	}
	last := position.LSN(0)
	for rest := value[heldMarkFixed:]; len(rest) > 0; rest = rest[heldPointBytes:] {
		p := position.Point{Incarnation: uuid.UUID(rest[:16]), LSN: position.LSN(number(rest[16:]))}
		if p.LSN <= last || p.LSN > m.Through {
			return heldMark{}, fmt.Errorf("%w: history of a mark: LSN %d after %d", ErrCorrupt, p.LSN, last)
		}
		last = p.LSN
		m.History = append(m.History, p)
	}
	return m.counted(), nil
}
