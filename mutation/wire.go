package mutation

import "encoding/binary"

// Wire types of the protobuf encoding.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
)

// wire reads a protobuf message field by field, without allocating. What it
// cannot read, and what its user did not expect, makes it bad: the message is
// then left to package proto, which knows every case.
type wire struct {
	rest string
	bad  bool
}

// next returns the number and wire type of the next field; false: there is none.
func (w *wire) next() (number, kind int, ok bool) {
	if w.bad || len(w.rest) == 0 {
		return 0, 0, false
	}
	tag := w.varint()
	if w.bad || tag>>3 == 0 || tag>>3 > 1<<10 { // no schema here has such numbers
		w.bad = true
		return 0, 0, false
	}
	return int(tag >> 3), int(tag & 7), true
}

func (w *wire) varint() uint64 {
	if len(w.rest) > 0 && w.rest[0] < 0x80 {
		v := uint64(w.rest[0])
		w.rest = w.rest[1:]
		return v
	}
	return w.longVarint()
}

func (w *wire) longVarint() (v uint64) {
	for i := 0; i < len(w.rest) && i < binary.MaxVarintLen64; i++ {
		b := w.rest[i]
		if i == binary.MaxVarintLen64-1 && b > 1 {
			break // more than 64 bits
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			w.rest = w.rest[i+1:]
			return v
		}
	}
	w.bad = true
	return 0
}

// varints is how many there are.
func (w *wire) varints() (n int) {
	for i := range len(w.rest) {
		if w.rest[i] < 0x80 {
			n++
		}
	}
	return n
}

func (w *wire) zigzag() int64 {
	v := w.varint()
	return int64(v>>1) ^ -int64(v&1)
}

func (w *wire) fixed64() uint64 {
	if len(w.rest) < 8 {
		w.bad = true
		return 0
	}
	var b [8]byte
	copy(b[:], w.rest)
	w.rest = w.rest[8:]
	return binary.LittleEndian.Uint64(b[:])
}

// bytes returns the content of a field of wireBytes. It shares memory with w.
func (w *wire) bytes() string {
	n := w.varint()
	if n > uint64(len(w.rest)) {
		w.bad = true
		return ""
	}
	b := w.rest[:n]
	w.rest = w.rest[n:]
	return b
}

// skip passes a field's value.
func (w *wire) skip(kind int) {
	switch kind {
	case wireVarint:
		w.varint()
	case wireFixed64:
		w.fixed64()
	case wireBytes:
		w.bytes()
	default:
		w.bad = true
	}
}
