package postgres

import (
	"encoding/binary"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// arrayBuilder builds the binary form of a one-dimensional array: what unnest takes.
type arrayBuilder struct {
	buf   []byte
	count int
	nulls bool
	last  int  // where the last element's value begins; 0: it is null
	text  bool // it is an array literal; see literal
}

// arrayHead: dimensions, has-nulls flag, element type, length, lower bound.
const arrayHead = 20

func newArray(element uint32, capacity int) *arrayBuilder {
	a := &arrayBuilder{buf: make([]byte, 0, arrayHead+capacity*16)}
	a.reset(element)
	return a
}

// reset begins another array in the same memory.
func (a *arrayBuilder) reset(element uint32) {
	*a = arrayBuilder{buf: append(a.buf[:0], make([]byte, arrayHead)...)}
	binary.BigEndian.PutUint32(a.buf[8:], element)
}

// resetText begins an array literal, in the same memory.
func (a *arrayBuilder) resetText() {
	*a = arrayBuilder{buf: append(a.buf[:0], '{'), text: true}
}

// literal adds an element in text, as its type reads it, to an array literal; nil is
// null.
func (a *arrayBuilder) literal(raw []byte) {
	if a.count > 0 {
		a.buf = append(a.buf, ',')
	}
	a.count++
	if raw == nil {
		a.buf = append(a.buf, "NULL"...)
		return
	}
	a.buf = append(a.buf, '"')
	for _, b := range raw {
		if b == '"' || b == '\\' {
			a.buf = append(a.buf, '\\')
		}
		a.buf = append(a.buf, b)
	}
	a.buf = append(a.buf, '"')
}

func (a *arrayBuilder) null() {
	a.buf = binary.BigEndian.AppendUint32(a.buf, 0xFFFFFFFF)
	a.count++
	a.nulls, a.last = true, 0
}

// element adds an encoded element; nil is null.
func (a *arrayBuilder) element(raw []byte) {
	if raw == nil {
		a.null()
		return
	}
	a.buf = append(a.open(len(raw)), raw...)
	a.count++
}

// open begins an element that has size bytes.
func (a *arrayBuilder) open(size int) []byte {
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(size))
	a.last = len(a.buf)
	return a.buf
}

// fixed adds a number of 2, 4 or 8 bytes.
func (a *arrayBuilder) fixed(n uint64, size int) {
	a.buf = appendInteger(a.open(size), int64(n), size)
	a.count++
}

// value adds a value of a column. After an error the array is unfinished.
func (a *arrayBuilder) value(c *codec, v *walproxyv1.Value) error {
	if isNull(v) {
		a.null()
		return nil
	}
	out, err := c.encode(a.open(0), v)
	if err != nil {
		return err
	}
	a.close(out)
	return nil
}

// close takes over an element of unknown size that was begun with open.
func (a *arrayBuilder) close(out []byte) {
	binary.BigEndian.PutUint32(out[a.last-4:], uint32(len(out)-a.last))
	a.buf = out
	a.count++
}

// latest is the last element, nil for null. It is good until the next one.
func (a *arrayBuilder) latest() []byte {
	if a.last == 0 {
		return nil
	}
	return a.buf[a.last:len(a.buf):len(a.buf)]
}

// elementSize is that of the first element, in an array of values of one size.
func (a *arrayBuilder) elementSize() int { return int(binary.BigEndian.Uint32(a.buf[arrayHead:])) }

// bytes is the array; nothing may be added any more.
func (a *arrayBuilder) bytes() []byte {
	if a.text {
		a.buf = append(a.buf, '}')
		return a.buf
	}
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
