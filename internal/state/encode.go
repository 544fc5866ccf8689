package state

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/walproxy/walproxy/internal/position"
)

func requestKey(principal, id string) []byte {
	key := append(make([]byte, 0, 2+len(principal)+len(id)+binary.MaxVarintLen32), 'i')
	key = binary.AppendUvarint(key, uint64(len(principal)))
	return append(append(key, principal...), id...)
}

// splitRequestKey is the inverse of requestKey, less the kind.
func splitRequestKey(key []byte) (principal, id string, err error) {
	n, size := binary.Uvarint(key)
	if size <= 0 || n > uint64(len(key)-size) {
		return "", "", fmt.Errorf("%w: request id key of %d bytes", ErrCorrupt, len(key))
	}
	rest := key[size:]
	return string(rest[:n]), string(rest[n:]), nil
}

// indexKey orders the request ids by LSN; request is a requestKey less its kind.
func indexKey(lsn position.LSN, request []byte) []byte {
	key := append(make([]byte, 0, 9+len(request)), 'l')
	return append(binary.BigEndian.AppendUint64(key, uint64(lsn)), request...)
}

// splitIndexKey is the inverse of indexKey; request is a whole requestKey.
func splitIndexKey(key []byte) (lsn position.LSN, request []byte, err error) {
	if len(key) < 9 {
		return 0, nil, fmt.Errorf("%w: index key of %d bytes", ErrCorrupt, len(key))
	}
	return position.LSN(binary.BigEndian.Uint64(key[1:])), append([]byte{'i'}, key[9:]...), nil
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
