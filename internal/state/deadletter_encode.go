package state

import (
	"encoding/binary"
	"fmt"
	"maps"
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
// payload, each after its length. Version 2 goes on with the attempts, the number
// of details, and of each the name and what it says. Lengths and numbers are
// uvarints. Version 1 is still written where there is nothing to go on with, so
// that a letter of before weighs what it weighed when it was stored.
const (
	letterVersion         = 1
	letterVersionDetailed = 2
	letterHeader          = 3 + 8 + 8
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
	value = appendPiece(value, letter.Payload)
	if letter.Attempts == 0 && len(letter.Details) == 0 {
		return value
	}
	value[0] = letterVersionDetailed
	value = binary.AppendUvarint(value, letter.Attempts)
	value = binary.AppendUvarint(value, uint64(len(letter.Details)))
	for _, name := range slices.Sorted(maps.Keys(letter.Details)) {
		value = appendPiece(value, []byte(name))
		value = appendPiece(value, []byte(letter.Details[name]))
	}
	return value
}

func appendPiece(value, piece []byte) []byte {
	return append(binary.AppendUvarint(value, uint64(len(piece))), piece...)
}

// decodeLetter does not keep value. Errors are ErrCorrupt.
func decodeLetter(value []byte) (letter DeadLetter, err error) {
	if len(value) < letterHeader {
		return letter, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(value))
	}
	if value[0] != letterVersion && value[0] != letterVersionDetailed ||
		value[1] != byte(Rejected) && value[1] != byte(Parked) || value[2] > parks {
		return letter, fmt.Errorf("%w: version %d, kind %d, parks %d", ErrCorrupt, value[0], value[1], value[2])
	}
	letter.Kind, letter.Parks = Kind(value[1]), value[2] == parks
	letter.Position = position.LSN(number(value[3:]))
	letter.When = time.Unix(0, int64(number(value[11:])))
	r := pieces{rest: value[letterHeader:]}
	for range r.count("number of keys") {
		letter.Keys = append(letter.Keys, slices.Clone(r.piece()))
	}
	letter.Reason = string(r.piece())
	letter.Payload = slices.Clone(r.piece())
	if value[0] == letterVersionDetailed {
		letter.Attempts = r.number("attempts")
		n := r.count("number of details")
		if n > 0 {
			letter.Details = map[string]string{}
		}
		for range n {
			name := string(r.piece())
			letter.Details[name] = string(r.piece())
		}
	}
	if r.err == nil && len(r.rest) > 0 {
		r.err = fmt.Errorf("%w: %d bytes behind the end", ErrCorrupt, len(r.rest))
	}
	return letter, r.err
}

// pieces reads what a value is made of, until the first error.
type pieces struct {
	rest []byte
	err  error
}

func (p *pieces) number(what string) uint64 {
	n, size := binary.Uvarint(p.rest)
	if size <= 0 && p.err == nil {
		p.err = fmt.Errorf("%w: %s", ErrCorrupt, what)
	}
	if p.err != nil {
		return 0
	}
	p.rest = p.rest[size:]
	return n
}

// count is the number of pieces that follow, of a byte at least each.
func (p *pieces) count(what string) uint64 {
	n := p.number(what)
	if n > uint64(len(p.rest)) {
		p.err = fmt.Errorf("%w: %s", ErrCorrupt, what)
		return 0
	}
	return n
}

func (p *pieces) piece() (piece []byte) {
	if p.err == nil {
		piece, p.rest, p.err = takePiece(p.rest)
	}
	return piece
}

func takePiece(value []byte) (piece, rest []byte, err error) {
	n, size := binary.Uvarint(value)
	if size <= 0 || n > uint64(len(value)-size) {
		return nil, nil, fmt.Errorf("%w: a length is beyond the %d bytes left", ErrCorrupt, len(value))
	}
	return value[size : size+int(n)], value[size+int(n):], nil
}
