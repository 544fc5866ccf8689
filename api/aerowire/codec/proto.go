package codec

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ProtoBytes is the size of a proto header.
const ProtoBytes = 8

// ProtoVersion is the only version there is.
const ProtoVersion = 2

// Types of proto messages.
const (
	TypeInfo       = 1
	TypeSecurity   = 2
	TypeMessage    = 3
	TypeCompressed = 4
)

// SizeMax is the largest message that any server takes (PROTO_SIZE_MAX).
const SizeMax = 128 << 20

// ErrMalformed: the bytes are no message of the protocol.
var ErrMalformed = errors.New("aerowire: malformed message")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Proto is the header in front of every message.
type Proto struct {
	Type byte
	Size int // bytes behind the header
}

// ParseProto reads a header of ProtoBytes and refuses a body above limit.
func ParseProto(b []byte, limit int) (Proto, error) {
	if len(b) < ProtoBytes {
		return Proto{}, malformed("header of %d bytes", len(b))
	}
	if b[0] != ProtoVersion {
		return Proto{}, malformed("version %d, this is %d", b[0], ProtoVersion)
	}
	size := binary.BigEndian.Uint64(b) & (1<<48 - 1)
	if size > uint64(limit) {
		return Proto{}, malformed("%d bytes, at most %d", size, limit)
	}
	return Proto{Type: b[1], Size: int(size)}, nil
}

// AppendProto appends a header.
func AppendProto(dst []byte, kind byte, size int) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(ProtoVersion)<<56|uint64(kind)<<48|uint64(size))
}

// SetProto writes a header over the first bytes of b, which hold a whole message.
func SetProto(b []byte, kind byte) {
	binary.BigEndian.PutUint64(b, uint64(ProtoVersion)<<56|uint64(kind)<<48|uint64(len(b)-ProtoBytes))
}

// Inflate returns the message in a compressed one's body: its type and its own
// body, at most limit bytes.
func Inflate(body []byte, limit int) (kind byte, inner []byte, err error) {
	if len(body) < 8 {
		return 0, nil, malformed("compressed message of %d bytes", len(body))
	}
	size := binary.BigEndian.Uint64(body)
	if size < ProtoBytes || size > uint64(limit)+ProtoBytes {
		return 0, nil, malformed("%d bytes when inflated, at most %d", size, limit)
	}
	r, err := zlib.NewReader(bytes.NewReader(body[8:]))
	if err != nil {
		return 0, nil, malformed("compressed message: %v", err)
	}
	defer r.Close() // nothing behind it is read
	// What is there is read, not what is claimed allocated.
	out, err := io.ReadAll(io.LimitReader(r, int64(size)+1))
	if err != nil || uint64(len(out)) != size {
		return 0, nil, malformed("compressed message: %d of %d bytes (%v)", len(out), size, err)
	}
	proto, err := ParseProto(out, limit)
	if err != nil {
		return 0, nil, err
	}
	if proto.Size != len(out)-ProtoBytes || proto.Type == TypeCompressed {
		return 0, nil, malformed("compressed message of type %d holds %d bytes and claims %d", proto.Type, len(out)-ProtoBytes, proto.Size)
	}
	return proto.Type, out[ProtoBytes:], nil
}

// Deflate appends a message of the given type, compressed.
func Deflate(dst []byte, kind byte, body []byte) ([]byte, error) {
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	head := AppendProto(nil, kind, len(body))
	if _, err := w.Write(head); err != nil {
		return dst, err
	}
	if _, err := w.Write(body); err != nil {
		return dst, err
	}
	if err := w.Close(); err != nil {
		return dst, err
	}
	dst = AppendProto(dst, TypeCompressed, 8+out.Len())
	dst = binary.BigEndian.AppendUint64(dst, uint64(len(head)+len(body)))
	return append(dst, out.Bytes()...), nil
}
