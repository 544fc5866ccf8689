package value

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrMalformed: the bytes are no value.
var ErrMalformed = errors.New("aerowire: malformed value")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// MaxDepth is how deep lists and maps nest.
const MaxDepth = 128

// Decode reads one MessagePack value that takes all of b. Maps come out sorted
// by key, ordered lists sorted.
func Decode(b []byte) (Value, error) {
	v, rest, err := DecodeFirst(b)
	if err == nil && len(rest) > 0 {
		err = malformed("%d bytes behind the value", len(rest))
	}
	return v, err
}

// DecodeFirst reads the value at the start of b and returns what follows it.
func DecodeFirst(b []byte) (v Value, rest []byte, err error) {
	d := decoder{rest: b, left: uint64(len(b))}
	v = d.value(0)
	return v, d.rest, d.err
}

// decoder reads from the front of rest; the first error stays.
type decoder struct {
	rest []byte
	left uint64 // entries that lists and maps may still claim to hold: each is a byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = malformed(format, args...)
	}
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.fail("%d bytes, %d are left", n, len(d.rest))
	}
	if d.err != nil {
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// number reads a big-endian number of up to 8 bytes.
func (d *decoder) number(size int) uint64 {
	b := d.take(uint64(size))
	if b == nil {
		return 0
	}
	var full [8]byte
	copy(full[8-size:], b)
	return binary.BigEndian.Uint64(full[:])
}

func (d *decoder) value(depth int) Value {
	head := d.take(1)
	if head == nil {
		return Value{}
	}
	switch b := head[0]; {
	case b < 0x80:
		return Value{kind: Int, num: uint64(b)}
	case b < 0x90:
		return d.dict(uint64(b&0x0f), depth)
	case b < 0xa0:
		return d.list(uint64(b&0x0f), depth)
	case b < 0xc0:
		return d.text(uint64(b & 0x1f))
	case b >= 0xe0:
		return OfInt(int64(int8(b)))
	case b >= 0xcc && b <= 0xcf:
		return Value{kind: Int, num: d.number(1 << (b - 0xcc))}
	case b >= 0xd0 && b <= 0xd3:
		size := 1 << (b - 0xd0)
		shift := 64 - 8*size
		return OfInt(int64(d.number(size)<<shift) >> shift)
	case b >= 0xd4 && b <= 0xd8:
		return d.ext(1 << (b - 0xd4))
	default:
		return d.special(b, depth)
	}
}

func (d *decoder) special(b byte, depth int) Value {
	switch b {
	case 0xc0:
		return Value{}
	case 0xc2:
		return Value{kind: False}
	case 0xc3:
		return Value{kind: True}
	case 0xc4, 0xd9:
		return d.text(d.number(1))
	case 0xc5, 0xda:
		return d.text(d.number(2))
	case 0xc6, 0xdb:
		return d.text(d.number(4))
	case 0xc7:
		return d.ext(d.number(1))
	case 0xc8:
		return d.ext(d.number(2))
	case 0xc9:
		return d.ext(d.number(4))
	case 0xca:
		return OfDouble(float64(math.Float32frombits(uint32(d.number(4)))))
	case 0xcb:
		return Value{kind: Double, num: d.number(8)}
	case 0xdc:
		return d.list(d.number(2), depth)
	case 0xdd:
		return d.list(d.number(4), depth)
	case 0xde:
		return d.dict(d.number(2), depth)
	case 0xdf:
		return d.dict(d.number(4), depth)
	}
	d.fail("type 0x%02x", b)
	return Value{}
}

// text reads a string or blob; the first byte is its particle type.
func (d *decoder) text(n uint64) Value {
	b := d.take(n)
	if len(b) == 0 {
		return Value{kind: Bytes}
	}
	v := Value{kind: Bytes, sub: b[0], text: string(b[1:])}
	switch b[0] {
	case ParticleString:
		v.kind, v.sub = String, 0
	case ParticleGeoJSON:
		v.kind, v.sub = GeoJSON, 0
	}
	return v
}

// extCompare is the type of wildcard and infinity.
const extCompare = 0xff

func (d *decoder) ext(n uint64) Value {
	kind := d.take(1)
	b := d.take(n)
	if d.err != nil {
		return Value{}
	}
	if kind[0] == extCompare && len(b) == 1 {
		switch b[0] {
		case 0:
			return Value{kind: Wildcard}
		case 1:
			return InfinityValue
		}
	}
	return Value{kind: Ext, sub: kind[0], text: string(b)}
}

// isExt reports whether an order mark comes next.
func (d *decoder) isExt() bool {
	if len(d.rest) == 0 {
		return false
	}
	b := d.rest[0]
	return b >= 0xc7 && b <= 0xc9 || b >= 0xd4 && b <= 0xd8 && !(len(d.rest) > 1 && d.rest[1] == extCompare)
}

// enter checks a count of entries, each at least size bytes, before anything is
// made for them.
func (d *decoder) enter(n, size uint64, depth int) bool {
	if depth >= MaxDepth {
		d.fail("nests deeper than %d", MaxDepth)
	}
	if n *= size; n > uint64(len(d.rest)) || n > d.left {
		d.fail("%d entries in %d bytes", n, len(d.rest))
		return false
	}
	d.left -= n
	return d.err == nil
}

func (d *decoder) list(n uint64, depth int) Value {
	if !d.enter(n, 1, depth) {
		return Value{}
	}
	flags := byte(Unordered)
	if n > 0 && d.isExt() {
		flags = d.value(depth).sub & Ordered
		n--
	}
	items := make([]Value, 0, n)
	for range n {
		items = append(items, d.value(depth+1))
		if d.err != nil {
			return Value{}
		}
	}
	if flags&Ordered != 0 {
		SortItems(items)
	}
	return OfList(items, flags)
}

func (d *decoder) dict(n uint64, depth int) Value {
	if !d.enter(n, 2, depth) {
		return Value{}
	}
	flags := byte(Unordered)
	if n > 0 && d.isExt() {
		flags = d.value(depth).sub & (Ordered | ByValue)
		d.value(depth + 1) // whatever it is: it may be a map that begins the same way
		n--
	}
	pairs := make([]Pair, 0, n)
	for range n {
		pairs = append(pairs, Pair{d.value(depth + 1), d.value(depth + 1)})
		if d.err != nil {
			return Value{}
		}
	}
	if !SortPairs(pairs) {
		d.fail("a map holds a key twice")
	}
	return OfMap(pairs, flags)
}
