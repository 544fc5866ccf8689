package state

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/walproxy/walproxy/internal/position"
)

// Kinds of request ids, and of what format 1 had instead.
const (
	kindOldRequest = 'i'
	kindRequest    = 'j'
	kindOldIndex   = 'l'
	kindGeneration = 'y'
)

func appendRequest(key []byte, principal, id string) []byte {
	key = binary.AppendUvarint(key, uint64(len(principal)))
	return append(append(key, principal...), id...)
}

// splitRequestKey is the inverse of generation.key, of both kinds.
func splitRequestKey(key []byte) (principal, id string, err error) {
	rest := key
	switch {
	case len(key) > 0 && key[0] == kindOldRequest:
		rest = key[1:]
	case len(key) > 9 && key[0] == kindRequest:
		rest = key[9:]
	default:
		return "", "", fmt.Errorf("%w: request id key of %d bytes", ErrCorrupt, len(key))
	}
	n, size := binary.Uvarint(rest)
	if size <= 0 || n > uint64(len(rest)-size) {
		return "", "", fmt.Errorf("%w: request id key of %d bytes", ErrCorrupt, len(key))
	}
	rest = rest[size:]
	return string(rest[:n]), string(rest[n:]), nil
}

// A request id's value: LSN, accepted (Unix nanoseconds), payload hash.
const requestBytes = 8 + 8 + 16

func encodeRequest(r RequestID) []byte {
	value := make([]byte, 0, requestBytes)
	value = binary.BigEndian.AppendUint64(value, uint64(r.LSN))
	value = binary.BigEndian.AppendUint64(value, uint64(r.Accepted.UnixNano()))
	return append(value, r.PayloadHash[:]...)
}

func decodeRequest(value []byte) (r RequestID, err error) {
	if len(value) != requestBytes {
		return RequestID{}, fmt.Errorf("%w: request id of %d bytes, want %d", ErrCorrupt, len(value), requestBytes)
	}
	r.LSN = position.LSN(binary.BigEndian.Uint64(value))
	r.Accepted = time.Unix(0, int64(binary.BigEndian.Uint64(value[8:])))
	copy(r.PayloadHash[:], value[16:])
	return r, nil
}
