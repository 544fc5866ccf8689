package state

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/walproxy/walproxy/internal/position"
)

// prefix of the entries of one kind: the kind, the sink's name and its length.
func (d *DeadLetters) prefix(kind byte) []byte {
	key := append(make([]byte, 0, 64+len(d.sink)), kind)
	key = binary.AppendUvarint(key, uint64(len(d.sink)))
	return append(key, d.sink...)
}

func (d *DeadLetters) lsnKey(kind byte, lsn position.LSN) []byte {
	return binary.BigEndian.AppendUint64(d.prefix(kind), uint64(lsn))
}

// queueKey is the prefix of a key's queue: what follows is position and LSN. No
// key's encoding is a prefix of another's.
func (d *DeadLetters) queueKey(key []byte) []byte { return append(d.prefix('q'), key...) }

func (d *DeadLetters) placeKey(key []byte, letter *DeadLetter) []byte {
	place := binary.BigEndian.AppendUint64(d.queueKey(key), uint64(letter.Position))
	return binary.BigEndian.AppendUint64(place, uint64(letter.LSN))
}

// asideKey is of a dead letter that by retries.
func (d *DeadLetters) asideKey(by, lsn position.LSN) []byte {
	return binary.BigEndian.AppendUint64(d.lsnKey('x', by), uint64(lsn))
}

func number(key []byte) uint64 { return binary.BigEndian.Uint64(key) }

// lastNumber is the LSN that ends a key.
func lastNumber(key []byte) uint64 { return number(key[len(key)-8:]) }

// prefixEnd is the first key behind those that begin with prefix.
func prefixEnd(prefix []byte) []byte {
	end := slices.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// parks is a place's value if its dead letter parks the key.
const parks = 1

// A dead letter's value: version, kind, parks (0 or 1), position and when (Unix
// nanoseconds), 8 bytes each, number of keys, then the keys, the reason and the
// payload, each after its length. Lengths and the number are uvarints.
const (
	letterVersion = 1
	letterHeader  = 3 + 8 + 8
)

func encodeLetter(letter *DeadLetter) []byte {
	value := make([]byte, 0, letterHeader+32+len(letter.Reason)+len(letter.Payload))
	value = append(value, letterVersion, byte(letter.Kind), 0)
	if letter.Parks {
		value[2] = parks
	}
	value = binary.BigEndian.AppendUint64(value, uint64(letter.Position))
	value = binary.BigEndian.AppendUint64(value, uint64(letter.When.UnixNano()))
	value = binary.AppendUvarint(value, uint64(len(letter.Keys)))
	for _, key := range letter.Keys {
		value = appendPiece(value, key)
	}
	value = appendPiece(value, []byte(letter.Reason))
	return appendPiece(value, letter.Payload)
}

func appendPiece(value, piece []byte) []byte {
	return append(binary.AppendUvarint(value, uint64(len(piece))), piece...)
}

// decodeLetter does not keep value. Errors are ErrCorrupt.
func decodeLetter(value []byte) (letter DeadLetter, err error) {
	if len(value) < letterHeader {
		return letter, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(value))
	}
	if value[0] != letterVersion || value[1] != byte(Rejected) && value[1] != byte(Parked) || value[2] > parks {
		return letter, fmt.Errorf("%w: version %d, kind %d, parks %d", ErrCorrupt, value[0], value[1], value[2])
	}
	letter.Kind, letter.Parks = Kind(value[1]), value[2] == parks
	letter.Position = position.LSN(number(value[3:]))
	letter.When = time.Unix(0, int64(number(value[11:])))
	keys, size := binary.Uvarint(value[letterHeader:])
	rest := value[letterHeader:]
	if size <= 0 || keys > uint64(len(rest)) { // a key takes a byte at least
		return letter, fmt.Errorf("%w: number of keys", ErrCorrupt)
	}
	rest = rest[size:]
	var piece []byte
	for range keys {
		if piece, rest, err = takePiece(rest); err != nil {
			return letter, err
		}
		letter.Keys = append(letter.Keys, slices.Clone(piece))
	}
	if piece, rest, err = takePiece(rest); err != nil {
		return letter, err
	}
	letter.Reason = string(piece)
	if piece, rest, err = takePiece(rest); err != nil {
		return letter, err
	}
	letter.Payload = slices.Clone(piece)
	if len(rest) > 0 {
		return letter, fmt.Errorf("%w: %d bytes behind the payload", ErrCorrupt, len(rest))
	}
	return letter, nil
}

func takePiece(value []byte) (piece, rest []byte, err error) {
	n, size := binary.Uvarint(value)
	if size <= 0 || n > uint64(len(value)-size) {
		return nil, nil, fmt.Errorf("%w: a length is beyond the %d bytes left", ErrCorrupt, len(value))
	}
	return value[size : size+int(n)], value[size+int(n):], nil
}
