package pebble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"google.golang.org/protobuf/proto"
)

// The first byte of every key says what it holds. key(c, k) is
// mutation.AppendKey: no such key is a prefix of another, so a record's events
// are one range that holds nothing else.
//
//	0x01 name                          meta: "format", "identity", "claim", "lane" uint32
//	0x02 key(c, k)                     document: mutation.EncodeDocument
//	0x03 key(c, k) uint64 number       event: uint64 LSN, walproxyv1.Event
//	0x04 uint64 seconds uint32 nanos key(c, k)   expiry index: empty
//
// Numbers are big-endian. The expiry index holds each document that ends, by
// when; seconds has its sign bit flipped so that it sorts.
const (
	prefixMeta     = 0x01
	prefixDocument = 0x02
	prefixEvent    = 0x03
	prefixExpiry   = 0x04
)

// formatVersion of the layout above. Another one is refused, never guessed.
const formatVersion = 1

// ErrFormat: the directory holds something else, or a version of the layout
// that this program does not know.
var ErrFormat = errors.New("sink pebble: not a store this version can read")

// ErrCorrupt: a stored value is damaged.
var ErrCorrupt = errors.New("sink pebble: corrupt value")

func corrupt(what, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrCorrupt, what, fmt.Sprintf(format, args...))
}

func metaKey(name string) []byte { return append([]byte{prefixMeta}, name...) }

func laneKey(lane int) []byte {
	return binary.BigEndian.AppendUint32(metaKey("lane"), uint32(lane))
}

func documentKey(collection string, key *walproxyv1.Key) []byte {
	return mutation.AppendKey([]byte{prefixDocument}, collection, key)
}

// eventPrefix is the common prefix of the events of the record at document.
func eventPrefix(document []byte) []byte {
	prefix := make([]byte, 0, len(document)+8)
	return append(append(prefix, prefixEvent), document[1:]...)
}

func eventKey(prefix []byte, number uint64) []byte {
	return binary.BigEndian.AppendUint64(prefix[:len(prefix):len(prefix)], number)
}

// expiryKey is the index entry of the record at document.
func expiryKey(at time.Time, document []byte) []byte {
	key := make([]byte, 0, 12+len(document))
	return append(appendExpiry(key, at), document[1:]...)
}

func appendExpiry(dst []byte, at time.Time) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, prefixExpiry), uint64(at.Unix())^(1<<63))
	return binary.BigEndian.AppendUint32(dst, uint32(at.Nanosecond()))
}

// expiredDocument returns the document's key of an index entry.
func expiredDocument(entry []byte) ([]byte, error) {
	const head = 1 + 8 + 4
	if len(entry) <= head || entry[0] != prefixExpiry {
		return nil, corrupt("expiry index", "entry of %d bytes", len(entry))
	}
	return append([]byte{prefixDocument}, entry[head:]...), nil
}

// successor is the first key behind all that start with prefix.
func successor(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil // prefix is all 0xFF: no end
}

func encodeFormat() []byte { return binary.BigEndian.AppendUint32(nil, formatVersion) }

func decodeFormat(enc []byte) error {
	if len(enc) != 4 {
		return fmt.Errorf("%w: format of %d bytes, want 4", ErrFormat, len(enc))
	}
	if v := binary.BigEndian.Uint32(enc); v != formatVersion {
		return fmt.Errorf("%w: it has format %d, this program knows %d", ErrFormat, v, formatVersion)
	}
	return nil
}

func decodeIdentity(enc []byte) (uuid.UUID, error) {
	id, err := uuid.FromBytes(enc)
	if err != nil || id == uuid.Nil {
		return uuid.Nil, corrupt("identity", "%d bytes", len(enc))
	}
	return id, nil
}

// claim is who owns the stream: uuid stream, uint64 epoch, uint32 lanes.
type claim struct {
	stream uuid.UUID
	epoch  uint64
	lanes  int
}

// maxLanes bounds what a damaged claim can make us allocate.
const maxLanes = 1 << 16

func (c claim) encode() []byte {
	enc := append([]byte(nil), c.stream[:]...)
	enc = binary.BigEndian.AppendUint64(enc, c.epoch)
	return binary.BigEndian.AppendUint32(enc, uint32(c.lanes))
}

func decodeClaim(enc []byte) (claim, error) {
	if len(enc) != 28 {
		return claim{}, corrupt("claim", "%d bytes, want 28", len(enc))
	}
	c := claim{
		stream: uuid.UUID(enc[:16]),
		epoch:  binary.BigEndian.Uint64(enc[16:]),
		lanes:  int(binary.BigEndian.Uint32(enc[24:])),
	}
	if c.lanes < 1 || c.lanes > maxLanes || c.epoch == 0 {
		return claim{}, corrupt("claim", "%d lanes, epoch %d", c.lanes, c.epoch)
	}
	return c, nil
}

// encodePoint is uuid incarnation, uint64 LSN.
func encodePoint(p sinks.Point) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(nil), p.Incarnation[:]...), uint64(p.LSN))
}

func decodePoint(enc []byte) (sinks.Point, error) {
	if len(enc) != 24 {
		return sinks.Point{}, corrupt("lane", "%d bytes, want 24", len(enc))
	}
	return sinks.Point{
		Incarnation: uuid.UUID(enc[:16]),
		LSN:         sinks.LSN(binary.BigEndian.Uint64(enc[16:])),
	}, nil
}

func encodeEvent(lsn sinks.LSN, e *walproxyv1.Event) ([]byte, error) {
	enc := binary.BigEndian.AppendUint64(nil, uint64(lsn))
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend(enc, e)
}

func decodeEvent(number uint64, enc []byte) (mutation.StoredEvent, error) {
	if len(enc) < 8 {
		return mutation.StoredEvent{}, corrupt("event", "%d bytes", len(enc))
	}
	e := &walproxyv1.Event{}
	if err := proto.Unmarshal(enc[8:], e); err != nil {
		return mutation.StoredEvent{}, corrupt("event", "%v", err)
	}
	return mutation.StoredEvent{Number: number, LSN: sinks.LSN(binary.BigEndian.Uint64(enc)), Event: e}, nil
}
