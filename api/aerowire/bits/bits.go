// Package bits is the operations on the bits of a blob: what a client sends in an
// op of type BITS_READ or BITS_MODIFY, or within an expression.
//
// Bits are numbered from the most significant one of the first byte; a negative
// offset counts from the end. Errors are codec.Result.
package bits

import (
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// Codes of operations (as_bits_op_type of the server).
const (
	codeResize   = 0
	codeInsert   = 1
	codeRemove   = 2
	codeSet      = 3
	codeOr       = 4
	codeXor      = 5
	codeAnd      = 6
	codeNot      = 7
	codeLeft     = 8
	codeRight    = 9
	codeAdd      = 10
	codeSubtract = 11
	codeSetInt   = 12
	codeGet      = 50
	codeCount    = 51
	codeScanUp   = 52
	codeScanDown = 53
	codeGetInt   = 54
)

// Flags of writes.
const (
	flagCreateOnly = 1
	flagUpdateOnly = 2
	flagNoFail     = 4
	flagPartial    = 8
)

// Flags of resize.
const (
	resizeFront  = 1
	resizeGrow   = 2
	resizeShrink = 4
)

// Flags of integers.
const (
	intSigned   = 1
	intSaturate = 2
	intWrap     = 4
)

// Op is one operation.
type Op struct {
	code     int
	offset   int64 // in bits
	size     int64 // in bits
	number   uint64
	bytes    []byte
	flags    int64
	subflags int64
}

// spec lists an operation's arguments: o offset, O offset in bytes, s size, S size
// in bytes, Z the same and may be 0, i size of an integer, n number, t truth, b
// bytes, f flags, x subflags; how many must be there; which flags it takes.
type spec struct {
	args     string
	least    int
	flags    int64
	subflags int64
}

const flagsOfModify = flagUpdateOnly | flagNoFail | flagPartial

var specs = map[int]spec{
	codeResize:   {"Zfx", 1, flagCreateOnly | flagUpdateOnly | flagNoFail, resizeFront | resizeGrow | resizeShrink},
	codeInsert:   {"Obf", 2, flagCreateOnly | flagUpdateOnly | flagNoFail, 0},
	codeRemove:   {"OSf", 2, flagsOfModify, 0},
	codeSet:      {"osbf", 3, flagsOfModify, 0},
	codeOr:       {"osbf", 3, flagsOfModify, 0},
	codeXor:      {"osbf", 3, flagsOfModify, 0},
	codeAnd:      {"osbf", 3, flagsOfModify, 0},
	codeNot:      {"osf", 2, flagsOfModify, 0},
	codeLeft:     {"osnf", 3, flagsOfModify, 0},
	codeRight:    {"osnf", 3, flagsOfModify, 0},
	codeAdd:      {"oinfx", 3, flagUpdateOnly | flagNoFail, intSigned | intSaturate | intWrap},
	codeSubtract: {"oinfx", 3, flagUpdateOnly | flagNoFail, intSigned | intSaturate | intWrap},
	codeSetInt:   {"oinf", 3, flagUpdateOnly | flagNoFail, 0},
	codeGet:      {"os", 2, 0, 0},
	codeCount:    {"os", 2, 0, 0},
	codeScanUp:   {"ost", 3, 0, 0},
	codeScanDown: {"ost", 3, 0, 0},
	codeGetInt:   {"oix", 2, 0, intSigned},
}

// bitsMax bounds offsets and sizes.
const bitsMax = int64(codec.SizeMax) * 8

// Parse reads an op's value: a list of the code and its arguments.
func Parse(data []byte) (Op, error) {
	list, err := value.Decode(data)
	if err != nil || list.Kind() != value.List {
		return Op{}, codec.Parameter
	}
	return FromList(list.Items())
}

// FromList is Parse of a list that was decoded already.
func FromList(items []value.Value) (Op, error) {
	if len(items) == 0 || items[0].Kind() != value.Int {
		return Op{}, codec.Parameter
	}
	op := Op{code: int(items[0].Int64())}
	s, ok := specs[op.code]
	args := items[1:]
	if !ok || len(args) < s.least || len(args) > len(s.args) {
		return Op{}, codec.Parameter
	}
	for i, arg := range args {
		if !op.argument(s.args[i], arg) {
			return Op{}, codec.Parameter
		}
	}
	both := op.flags&(flagCreateOnly|flagUpdateOnly) == flagCreateOnly|flagUpdateOnly ||
		op.code == codeResize && op.subflags&(resizeGrow|resizeShrink) == resizeGrow|resizeShrink ||
		op.code != codeResize && op.subflags&(intSaturate|intWrap) == intSaturate|intWrap
	if both || op.flags&^s.flags != 0 || op.subflags&^s.subflags != 0 {
		return Op{}, codec.Parameter
	}
	return op, nil
}

// argument sets one argument; false: it makes no sense.
func (o *Op) argument(kind byte, v value.Value) bool {
	switch kind {
	case 'o', 'O':
		limit := bitsMax
		if kind == 'O' {
			limit /= 8
		}
		o.offset = v.Int64()
		if !v.IsInt() || o.offset > limit || o.offset < -limit {
			return false
		}
		if kind == 'O' {
			o.offset *= 8
		}
		return true
	case 't':
		if v.Bool() {
			o.number = 1
		}
		return v.IsBool()
	case 'b':
		o.bytes = []byte(v.Text())
		if v.Kind() != value.Bytes && v.Kind() != value.String || len(o.bytes) == 0 {
			return false
		}
		if o.size == 0 {
			o.size = int64(len(o.bytes)) * 8
		}
		return int64(len(o.bytes))*8 >= o.size
	}
	if !v.IsInt() {
		return false
	}
	n := v.Int64()
	switch kind {
	case 'n':
		o.number = uint64(n)
		return o.code != codeLeft && o.code != codeRight || n >= 0 && n <= bitsMax
	case 'f':
		o.flags = n
	case 'x':
		o.subflags = n
	case 's':
		o.size = n
		return n > 0 && n <= bitsMax
	case 'i':
		o.size = n
		return n > 0 && n <= 64
	case 'S', 'Z':
		o.size = n * 8
		return n > 0 && n <= bitsMax/8 || n == 0 && kind == 'Z'
	}
	return n >= 0
}

// IsModify reports whether o writes.
func (o *Op) IsModify() bool { return o.code < codeGet }

// place makes the offset one from the front.
func (o *Op) place(blob []byte) (from int64, err error) {
	if o.offset >= 0 {
		return o.offset, nil
	}
	if from = int64(len(blob))*8 + o.offset; from < 0 {
		return 0, codec.Parameter
	}
	return from, nil
}

// end is the first byte behind the bits that o touches.
func end(from, size int64) int64 { return from/8 + (from%8+size+7)/8 }

// Read applies o to a blob.
func (o *Op) Read(blob []byte) (value.Value, error) {
	if o.IsModify() {
		return value.Value{}, codec.Parameter
	}
	from, err := o.place(blob)
	if err != nil {
		return value.Value{}, err
	}
	if end(from, o.size) > int64(len(blob)) {
		return value.Value{}, codec.NotApplicable
	}
	switch o.code {
	case codeGet:
		out := make([]byte, (o.size+7)/8)
		copyBits(out, 0, blob, from, o.size)
		return value.OfBytes(out), nil
	case codeCount:
		n := int64(0)
		for i := range o.size {
			n += int64(bit(blob, from+i))
		}
		return value.OfInt(n), nil
	case codeScanUp:
		for i := range o.size {
			if uint64(bit(blob, from+i)) == o.number {
				return value.OfInt(i), nil
			}
		}
		return value.OfInt(-1), nil
	case codeScanDown:
		for i := o.size - 1; i >= 0; i-- {
			if uint64(bit(blob, from+i)) == o.number {
				return value.OfInt(i), nil
			}
		}
		return value.OfInt(-1), nil
	}
	n := load(blob, from, o.size)
	if o.subflags&intSigned != 0 {
		n = extend(n, o.size)
	}
	return value.OfInt(int64(n)), nil
}

func bit(b []byte, at int64) byte { return b[at/8] >> (7 - at%8) & 1 }

func setBit(b []byte, at int64, v byte) {
	mask := byte(0x80) >> (at % 8)
	if v != 0 {
		b[at/8] |= mask
	} else {
		b[at/8] &^= mask
	}
}

// copyBits copies size bits; the two do not overlap.
func copyBits(to []byte, at int64, from []byte, off, size int64) {
	for i := int64(0); i < size; {
		if at%8 == 0 && off%8 == 0 && size-i >= 8 {
			n := (size - i) / 8
			copy(to[at/8:], from[off/8:off/8+n])
			at, off, i = at+8*n, off+8*n, i+8*n
			continue
		}
		setBit(to, at, bit(from, off))
		at, off, i = at+1, off+1, i+1
	}
}

// load reads an unsigned integer of size bits.
func load(b []byte, from, size int64) (n uint64) {
	for i := range size {
		n = n<<1 | uint64(bit(b, from+i))
	}
	return n
}

func store(b []byte, from, size int64, n uint64) {
	for i := range size {
		setBit(b, from+i, byte(n>>(size-1-i)&1))
	}
}

// extend makes a signed integer of size bits one of 64.
func extend(n uint64, size int64) uint64 {
	shift := 64 - size
	return uint64(int64(n<<shift) >> shift)
}
