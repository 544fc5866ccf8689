package bits

import (
	"bytes"
	"errors"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

func of(arg any) value.Value {
	switch a := arg.(type) {
	case int:
		return value.OfInt(int64(a))
	case int64:
		return value.OfInt(a)
	case bool:
		return value.OfBool(a)
	case []byte:
		return value.OfBytes(a)
	}
	return arg.(value.Value)
}

func parse(args ...any) (Op, error) {
	var items []value.Value
	for _, a := range args {
		items = append(items, of(a))
	}
	return FromList(items)
}

func op(t *rapid.T, args ...any) Op {
	o, err := parse(args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return o
}

func unpack(b []byte) []bool {
	var out []bool
	for i := range len(b) * 8 {
		out = append(out, bit(b, int64(i)) == 1)
	}
	return out
}

func pack(bits []bool) []byte {
	out := make([]byte, (len(bits)+7)/8)
	for i, v := range bits {
		if v {
			setBit(out, int64(i), 1)
		}
	}
	return out
}

// Operations on the bits of a blob are those on a slice of booleans.
func TestLikeBooleans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		blob := rapid.SliceOfN(rapid.Byte(), 1, 12).Draw(t, "blob")
		model := unpack(blob)
		from := rapid.IntRange(0, len(model)-1).Draw(t, "from")
		size := rapid.IntRange(1, len(model)-from).Draw(t, "size")
		offset := from
		if rapid.Bool().Draw(t, "negative") {
			offset = from - len(model)
		}
		arg := rapid.SliceOfN(rapid.Byte(), (size+7)/8, (size+7)/8).Draw(t, "argument")
		given, window := unpack(arg), model[from:from+size]
		by := rapid.IntRange(0, size+3).Draw(t, "by")
		want := slices.Clone(model)
		var o Op
		switch code := rapid.IntRange(codeSet, codeRight).Draw(t, "code"); code {
		case codeNot:
			o = op(t, code, offset, size)
			for i := range window {
				want[from+i] = !window[i]
			}
		case codeLeft, codeRight:
			o = op(t, code, offset, size, by)
			for i := range window {
				source := i + by
				if code == codeRight {
					source = i - by
				}
				want[from+i] = source >= 0 && source < size && window[source]
			}
		default:
			o = op(t, code, offset, size, arg)
			for i := range window {
				want[from+i] = map[int]bool{codeSet: given[i], codeOr: window[i] || given[i],
					codeXor: window[i] != given[i], codeAnd: window[i] && given[i]}[code]
			}
		}
		before := bytes.Clone(blob)
		after, exists, err := o.Modify(blob, true, 100)
		if err != nil || !exists || !bytes.Equal(after, pack(want)) {
			t.Fatalf("%+v on %x: %x, %v; want %x", o, blob, after, err, pack(want))
		}
		if !bytes.Equal(blob, before) {
			t.Fatalf("%+v changed its blob", o)
		}
		checkReads(t, blob, offset, size, window)
	})
}

func checkReads(t *rapid.T, blob []byte, offset, size int, window []bool) {
	ones := 0
	for _, v := range window {
		if v {
			ones++
		}
	}
	last := func(v bool) int64 {
		for i, w := range slices.Backward(window) {
			if w == v {
				return int64(i)
			}
		}
		return -1
	}
	for _, c := range []struct {
		o    Op
		want value.Value
	}{
		{op(t, codeGet, offset, size), value.OfBytes(pack(window))},
		{op(t, codeCount, offset, size), value.OfInt(int64(ones))},
		{op(t, codeScanUp, offset, size, true), value.OfInt(int64(slices.Index(window, true)))},
		{op(t, codeScanUp, offset, size, false), value.OfInt(int64(slices.Index(window, false)))},
		{op(t, codeScanDown, offset, size, true), value.OfInt(last(true))},
		{op(t, codeScanDown, offset, size, false), value.OfInt(last(false))},
	} {
		if got, err := c.o.Read(blob); err != nil || !value.Equal(got, c.want) {
			t.Fatalf("%+v on %x: %+v, %v; want %+v", c.o, blob, got, err, c.want)
		}
	}
}

// Integers of any size add as whole numbers do, until they overflow.
func TestIntegers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 64).Draw(t, "size")
		offset := rapid.IntRange(0, 7).Draw(t, "offset")
		blob := rapid.SliceOfN(rapid.Byte(), 9, 9).Draw(t, "blob")
		n := rapid.Int64().Draw(t, "number")
		signed := rapid.Bool().Draw(t, "signed")
		action := rapid.SampledFrom([]int{0, intSaturate, intWrap}).Draw(t, "overflow")
		code := rapid.SampledFrom([]int{codeAdd, codeSubtract}).Draw(t, "code")
		flags := action
		if signed {
			flags |= intSigned
		}
		read := func(b []byte) *big.Int {
			v := new(big.Int).SetUint64(load(b, int64(offset), int64(size)))
			if signed && v.Bit(size-1) == 1 {
				v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(size)))
			}
			return v
		}
		// The argument is taken as so many bits, too.
		arg := make([]byte, 9)
		store(arg, int64(offset), int64(size), uint64(n))
		sum := new(big.Int)
		if code == codeAdd {
			sum.Add(read(blob), read(arg))
		} else {
			sum.Sub(read(blob), read(arg))
		}
		top := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(size)), big.NewInt(1))
		bottom := big.NewInt(0)
		if signed {
			top.Rsh(top, 1)
			bottom.Sub(new(big.Int).Neg(top), big.NewInt(1))
		}
		out := sum.Cmp(top) > 0 || sum.Cmp(bottom) < 0
		after, _, err := func() ([]byte, bool, error) {
			o := op(t, code, offset, size, n, 0, flags)
			return o.Modify(blob, true, 100)
		}()
		switch {
		case !out:
		case action == 0:
			if !errors.Is(err, codec.NotApplicable) {
				t.Fatalf("%v overflows: %x, %v", sum, after, err)
			}
			return
		case action == intSaturate && sum.Cmp(top) > 0:
			sum = top
		case action == intSaturate:
			sum = bottom
		default:
			mod := new(big.Int).Lsh(big.NewInt(1), uint(size))
			sum.Mod(sum, mod)
			if signed && sum.Cmp(top) > 0 {
				sum.Sub(sum, mod)
			}
		}
		if err != nil || read(after).Cmp(sum) != 0 {
			t.Fatalf("%v, %v; want %v", read(after), err, sum)
		}
		o := op(t, codeGetInt, offset, size, flags&intSigned)
		if got, err := o.Read(after); err != nil || uint64(got.Int64()) != uint64(sum.Int64()) && got.Int64() != int64(sum.Uint64()) {
			t.Fatalf("read %v, %v; want %v", got.Int64(), err, sum)
		}
	})
}

func TestSizes(t *testing.T) {
	blob := []byte{1, 2, 3}
	for _, c := range []struct {
		name   string
		args   []any
		exists bool
		want   []byte
		err    error
	}{
		{"grow", []any{codeResize, 5}, true, []byte{1, 2, 3, 0, 0}, nil},
		{"grow in front", []any{codeResize, 5, 0, resizeFront}, true, []byte{0, 0, 1, 2, 3}, nil},
		{"shrink", []any{codeResize, 2}, true, []byte{1, 2}, nil},
		{"shrink in front", []any{codeResize, 2, 0, resizeFront}, true, []byte{2, 3}, nil},
		{"only grow", []any{codeResize, 2, 0, resizeGrow}, true, nil, codec.Parameter},
		{"only shrink, without failing", []any{codeResize, 5, flagNoFail, resizeShrink}, true, blob, nil},
		{"too big", []any{codeResize, 101}, true, nil, codec.RecordTooBig},
		{"insert", []any{codeInsert, 1, []byte{9}}, true, []byte{1, 9, 2, 3}, nil},
		{"insert behind the end", []any{codeInsert, 4, []byte{9}}, true, []byte{1, 2, 3, 0, 9}, nil},
		{"insert far behind", []any{codeInsert, 1 << 20, []byte{9}}, true, nil, codec.RecordTooBig},
		{"insert into nothing", []any{codeInsert, 1, []byte{9}}, false, []byte{0, 9}, nil},
		{"remove", []any{codeRemove, 1, 1}, true, []byte{1, 3}, nil},
		{"remove too much", []any{codeRemove, 1, 9}, true, nil, codec.Parameter},
		{"remove what there is", []any{codeRemove, 1, 9, flagPartial}, true, []byte{1}, nil},
		{"set behind the end", []any{codeSet, 24, 8, []byte{1}}, true, nil, codec.NotApplicable},
		{"set in nothing", []any{codeSet, 0, 8, []byte{1}}, false, nil, codec.BinNotFound},
		{"create only", []any{codeResize, 5, flagCreateOnly}, true, nil, codec.BinExists},
		{"offset before the start", []any{codeSet, -25, 8, []byte{1}}, true, nil, codec.Parameter},
	} {
		o, err := parse(c.args...)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		on := blob
		if !c.exists {
			on = nil
		}
		got, _, err := o.Modify(on, c.exists, 100)
		if !errors.Is(err, c.err) || c.err == nil && !bytes.Equal(got, c.want) {
			t.Errorf("%s: %x, %v; want %x, %v", c.name, got, err, c.want, c.err)
		}
	}
	for _, args := range [][]any{{}, {99}, {codeSet, 0, 8}, {codeSet, 0, 0, []byte{1}}, {codeSet, 0, 9, []byte{1}}, {codeAdd, 0, 65, 1},
		{codeGet, 0, 8, 0}, {codeResize, 1, flagPartial}, {codeResize, -1}, {codeAdd, 0, 8, 1, 0, intSaturate | intWrap}} {
		if o, err := parse(args...); !errors.Is(err, codec.Parameter) {
			t.Errorf("%v is an operation: %+v, %v", args, o, err)
		}
	}
}

func FuzzOperation(f *testing.F) {
	for _, args := range [][]any{{codeSet, 3, 8, []byte{1}}, {codeAdd, 0, 8, 1, 0, 1}, {codeInsert, 2, []byte{1, 2}}, {codeGet, -8, 8}} {
		var items []value.Value
		for _, a := range args {
			items = append(items, of(a))
		}
		f.Add(value.Append(nil, value.OfList(items, 0)), []byte{1, 2, 3})
	}
	f.Fuzz(func(t *testing.T, data, blob []byte) {
		o, err := Parse(data)
		if err != nil {
			return
		}
		if !o.IsModify() {
			_, _ = o.Read(blob) // it only must not panic
			return
		}
		if after, _, err := o.Modify(blob, len(blob) > 0, 1000); err == nil && len(after) > max(1000, len(blob)) {
			t.Fatalf("%d bytes", len(after))
		}
	})
}
