package value

import (
	"encoding/binary"
	"unsafe"
)

// Room is about how much memory the value in b takes while it is worked on, in
// bytes: decoded, and copied once. It reads heads only.
func Room(b []byte) int64 {
	const entryRoom = 2*int64(unsafe.Sizeof(Value{})) + 20 // and its place in an index
	size := int64(len(b))
	entries := int64(1)
	for len(b) > 0 && entries <= size {
		n, skip := head(b)
		entries += int64(n)
		if skip >= uint64(len(b)) {
			break
		}
		b = b[skip:]
	}
	return entryRoom*min(entries, size) + 2*size
}

// head returns how many entries a list or map claims, and the bytes up to the next
// head: its own, and those of a text or number.
func head(b []byte) (entries, skip uint64) {
	number := func(size int) uint64 {
		var full [8]byte
		if len(b) <= size {
			return 0
		}
		copy(full[8-size:], b[1:1+size])
		return binary.BigEndian.Uint64(full[:])
	}
	switch c := b[0]; {
	case c >= 0x80 && c < 0x90:
		return 2 * uint64(c&0x0f), 1
	case c >= 0x90 && c < 0xa0:
		return uint64(c & 0x0f), 1
	case c >= 0xa0 && c < 0xc0:
		return 0, 1 + uint64(c&0x1f)
	case c >= 0xc4 && c <= 0xc6:
		size := 1 << (c - 0xc4)
		return 0, uint64(1+size) + number(size)
	case c >= 0xc7 && c <= 0xc9:
		size := 1 << (c - 0xc7)
		return 0, uint64(2+size) + number(size)
	case c == 0xca:
		return 0, 5
	case c == 0xcb:
		return 0, 9
	case c >= 0xcc && c <= 0xcf:
		return 0, 1 + 1<<(c-0xcc)
	case c >= 0xd0 && c <= 0xd3:
		return 0, 1 + 1<<(c-0xd0)
	case c >= 0xd4 && c <= 0xd8:
		return 0, 2 + 1<<(c-0xd4)
	case c >= 0xd9 && c <= 0xdb:
		size := 1 << (c - 0xd9)
		return 0, uint64(1+size) + number(size)
	case c == 0xdc || c == 0xdd:
		size := 2 << (c - 0xdc)
		return number(size), uint64(1 + size)
	case c == 0xde || c == 0xdf:
		size := 2 << (c - 0xde)
		return 2 * number(size), uint64(1 + size)
	}
	return 0, 1
}
