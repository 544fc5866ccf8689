package bits

import (
	"errors"
	"math"
	"slices"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// errNothing: there is nothing to do, and that is no failure.
const errNothing = codec.OK

// denied is err, unless the operation is not to fail.
func (o *Op) denied(err codec.Result) error {
	if o.flags&flagNoFail != 0 {
		return errNothing
	}
	return err
}

// Modify returns what a blob is after o, which it does not change. exists says
// whether there is one, before and after. A result above limit bytes is
// codec.RecordTooBig.
func (o *Op) Modify(blob []byte, exists bool, limit int) (after []byte, has bool, err error) {
	if !o.IsModify() {
		return blob, exists, codec.Parameter
	}
	after, err = o.modify(blob, exists, limit)
	if errors.Is(err, errNothing) {
		return blob, exists, nil
	}
	return after, true, err
}

func (o *Op) modify(blob []byte, exists bool, limit int) ([]byte, error) {
	switch {
	case exists && o.flags&flagCreateOnly != 0:
		return nil, o.denied(codec.BinExists)
	case !exists && (o.code > codeInsert || o.flags&flagUpdateOnly != 0):
		return nil, o.denied(codec.BinNotFound)
	case !exists && o.offset < 0:
		return nil, codec.Parameter
	}
	from, err := o.place(blob)
	if err != nil {
		return nil, err
	}
	switch o.code {
	case codeResize:
		return o.resize(blob, limit)
	case codeInsert:
		at := int(from / 8)
		if at > limit || max(len(blob), at)+len(o.bytes) > limit {
			return nil, codec.RecordTooBig
		}
		out := slices.Clone(blob)
		if at > len(out) {
			out = append(out, make([]byte, at-len(out))...)
		}
		return slices.Insert(out, at, o.bytes...), nil
	case codeRemove:
		return o.remove(blob, from)
	case codeAdd, codeSubtract, codeSetInt:
		return o.integer(blob, from)
	}
	size := o.size
	if from/8 >= int64(len(blob)) {
		return nil, o.denied(codec.NotApplicable)
	}
	if end(from, size) > int64(len(blob)) {
		if o.flags&flagPartial == 0 {
			return nil, o.denied(codec.NotApplicable)
		}
		size = int64(len(blob))*8 - from
	}
	out := slices.Clone(blob)
	o.overwrite(out, blob, from, size)
	return out, nil
}

// overwrite changes size bits of out, a copy of blob.
func (o *Op) overwrite(out, blob []byte, from, size int64) {
	switch o.code {
	case codeSet:
		copyBits(out, from, o.bytes, 0, size)
	case codeLeft:
		o.shift(out, blob, from, size, int64(min(o.number, uint64(size))))
	case codeRight:
		o.shift(out, blob, from, size, -int64(min(o.number, uint64(size))))
	default:
		for i := range size {
			old, v := bit(blob, from+i), byte(0)
			switch o.code {
			case codeOr:
				v = old | bit(o.bytes, i)
			case codeXor:
				v = old ^ bit(o.bytes, i)
			case codeAnd:
				v = old & bit(o.bytes, i)
			case codeNot:
				v = 1 - old
			}
			setBit(out, from+i, v)
		}
	}
}

// shift moves bits to the left, or by a negative number to the right.
func (o *Op) shift(out, blob []byte, from, size, by int64) {
	for i := range size {
		v := byte(0)
		if source := i + by; source >= 0 && source < size {
			v = bit(blob, from+source)
		}
		setBit(out, from+i, v)
	}
}

func (o *Op) resize(blob []byte, limit int) ([]byte, error) {
	size := int(o.size / 8)
	switch {
	case size == len(blob):
		return nil, errNothing
	case size < len(blob) && o.subflags&resizeGrow != 0, size > len(blob) && o.subflags&resizeShrink != 0:
		return nil, o.denied(codec.Parameter)
	case size > limit:
		return nil, codec.RecordTooBig
	}
	front := o.subflags&resizeFront != 0
	switch {
	case size < len(blob) && front:
		return slices.Clone(blob[len(blob)-size:]), nil
	case size < len(blob):
		return slices.Clone(blob[:size]), nil
	}
	out := make([]byte, size)
	if front {
		copy(out[size-len(blob):], blob)
	} else {
		copy(out, blob)
	}
	return out, nil
}

func (o *Op) remove(blob []byte, from int64) ([]byte, error) {
	at, n := from/8, o.size/8
	if at >= int64(len(blob)) {
		return nil, o.denied(codec.Parameter)
	}
	if at+n > int64(len(blob)) {
		if o.flags&flagPartial == 0 {
			return nil, o.denied(codec.Parameter)
		}
		n = int64(len(blob)) - at
	}
	return slices.Delete(slices.Clone(blob), int(at), int(at+n)), nil
}

// integer is add, subtract and set of an integer.
func (o *Op) integer(blob []byte, from int64) ([]byte, error) {
	if end(from, o.size) > int64(len(blob)) {
		return nil, o.denied(codec.NotApplicable)
	}
	mask := uint64(math.MaxUint64) >> (64 - o.size)
	old, n := load(blob, from, o.size), o.number&mask
	switch o.code {
	case codeAdd, codeSubtract:
		var ok bool
		if n, ok = o.sum(old, n, mask); !ok {
			return nil, o.denied(codec.NotApplicable)
		}
	}
	out := slices.Clone(blob)
	store(out, from, o.size, n)
	return out, nil
}

// sum adds or subtracts within so many bits; false: it overflows.
func (o *Op) sum(a, b, mask uint64) (n uint64, ok bool) {
	subtract := o.code == codeSubtract
	if subtract {
		n = (a - b) & mask
	} else {
		n = (a + b) & mask
	}
	if o.subflags&intWrap != 0 {
		return n, true
	}
	var over, under bool
	top := mask
	bottom := uint64(0)
	if o.subflags&intSigned == 0 {
		over, under = !subtract && n < a, subtract && n > a
	} else {
		negative := func(v uint64) bool { return v&(mask>>1+1) != 0 }
		adds := negative(b) == subtract // the value grows: by a positive, or less a negative one
		over = adds && !negative(a) && negative(n)
		under = !adds && negative(a) && !negative(n)
		top, bottom = mask>>1, mask>>1+1
	}
	switch {
	case over && o.subflags&intSaturate != 0:
		return top, true
	case under && o.subflags&intSaturate != 0:
		return bottom, true
	}
	return n, !over && !under
}
