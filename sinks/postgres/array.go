package postgres

import "encoding/binary"

// arrayBuilder builds the binary form of a one-dimensional array: what unnest takes.
type arrayBuilder struct {
	buf   []byte
	count int
	nulls bool
}

// arrayHead: dimensions, has-nulls flag, element type, length, lower bound.
const arrayHead = 20

func newArray(element uint32, capacity int) *arrayBuilder {
	a := &arrayBuilder{buf: make([]byte, arrayHead, arrayHead+capacity*16)}
	binary.BigEndian.PutUint32(a.buf[8:], element)
	return a
}

func (a *arrayBuilder) null() {
	a.buf = binary.BigEndian.AppendUint32(a.buf, 0xFFFFFFFF)
	a.count++
	a.nulls = true
}

// element adds an encoded element; nil is null.
func (a *arrayBuilder) element(raw []byte) {
	if raw == nil {
		a.null()
		return
	}
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(len(raw)))
	a.buf = append(a.buf, raw...)
	a.count++
}

// fixed adds a number of 2, 4 or 8 bytes.
func (a *arrayBuilder) fixed(n uint64, size int) {
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(size))
	a.buf = appendInteger(a.buf, int64(n), size)
	a.count++
}

func (a *arrayBuilder) bytes() []byte {
	if a.count == 0 { // an array without elements has no dimension
		binary.BigEndian.PutUint32(a.buf, 0)
		return a.buf[:12]
	}
	binary.BigEndian.PutUint32(a.buf, 1)
	if a.nulls {
		binary.BigEndian.PutUint32(a.buf[4:], 1)
	}
	binary.BigEndian.PutUint32(a.buf[12:], uint32(a.count))
	binary.BigEndian.PutUint32(a.buf[16:], 1)
	return a.buf
}
