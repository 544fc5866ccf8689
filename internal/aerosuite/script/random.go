package script

import (
	"fmt"
	"math/rand/v2"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// Random is operations on lists, maps and bits, and expressions, drawn by chance:
// always the same ones for a seed. What they work on is small, so that they meet.
func Random(seed uint64, records int) []Case {
	var out []Case
	for _, kind := range []struct {
		name string
		draw func(*chance) *message
		from func(*chance) value.Value
	}{
		{"lists", (*chance).listOp, (*chance).list}, {"maps", (*chance).mapOp, (*chance).orderedDict},
		{"unordered maps", (*chance).unorderedOp, (*chance).unorderedDict}, {"nested", (*chance).nestedOp, (*chance).nested},
		{"bits", (*chance).bitsOp, (*chance).blob}, {"expressions", (*chance).expressionOp, (*chance).number},
	} {
		c := begin("random " + kind.name)
		r := &chance{Rand: rand.New(rand.NewPCG(seed, uint64(len(kind.name)))), set: "random " + kind.name}
		for n := range records {
			r.key = fmt.Sprint(n)
			if r.IntN(8) > 0 {
				c.send(r.start(kind.from))
			}
			for range 3 + r.IntN(8) {
				c.send(kind.draw(r))
			}
			c.send(get(r.set, r.key))
		}
		out = append(out, c.Case)
	}
	return out
}

// chance draws.
type chance struct {
	*rand.Rand
	set, key string
}

func pick[T any](r *chance, from ...T) T { return from[r.IntN(len(from))] }

// start writes the bin that ops work on, and the bins that expressions look at.
func (r *chance) start(from func(*chance) value.Value) *message {
	return write(r.set, r.key, set("v", from(r)), set("i", i(int64(r.IntN(9)-4))), set("f", f(float64(r.IntN(9)-4)/2)), set("s", r.text()),
		set("b", r.blob()), set("l", r.list()), set("m", r.dict()), set("t", value.OfBool(r.IntN(2) == 0)))
}

func (r *chance) text() value.Value { return s(pick(r, "", "a", "b", "ab", "abc", "c")) }

func (r *chance) number() value.Value {
	return pick(r, i(int64(r.IntN(7)-2)), i(int64(r.IntN(7)-2)), i(int64(r.Uint64())), f(float64(r.IntN(7)-2)/2))
}

func (r *chance) blob() value.Value {
	out := make([]byte, r.IntN(6))
	for n := range out {
		out[n] = byte(r.IntN(256))
	}
	return b(out...)
}

func (r *chance) plain() value.Value {
	return pick(r, i(int64(r.IntN(6)-1)), i(int64(r.IntN(6)-1)), i(int64(r.IntN(6)-1)), r.text(), f(1.5), b(1), value.OfBool(true), value.Value{})
}

// some is a value, seldom a nested one.
func (r *chance) some() value.Value {
	switch r.IntN(12) {
	case 0:
		return r.list()
	case 1:
		return r.dict()
	}
	return r.plain()
}

func (r *chance) list() value.Value {
	items := make([]value.Value, r.IntN(7))
	for n := range items {
		items[n] = r.plain()
		if r.IntN(9) == 0 {
			items[n] = l(r.plain(), r.plain())
		}
	}
	if r.IntN(2) == 0 {
		return lo(items...)
	}
	return l(items...)
}

func (r *chance) mapKey() value.Value {
	return pick(r, i(int64(r.IntN(5))), i(int64(r.IntN(5))), s(pick(r, "a", "b", "c")), b(byte(r.IntN(2))))
}

func (r *chance) dict() value.Value { return r.dictOf(pick[byte](r, 0, 1, 3)) }

func (r *chance) orderedDict() value.Value { return r.dictOf(pick[byte](r, 1, 3)) }

// unorderedDict has different values: which of equal ones comes first depends on
// the order of its entries, which is kept here in the order of keys.
func (r *chance) unorderedDict() value.Value {
	n := r.IntN(5)
	var kv []value.Value
	for _, at := range r.Perm(5)[:n] {
		kv = append(kv, i(int64(at)), pick(r, i(int64(at)), s(fmt.Sprint(at))))
	}
	return m(0, kv...)
}

func (r *chance) dictOf(order byte) value.Value {
	var kv []value.Value
	held := map[string]bool{}
	for range r.IntN(6) {
		key := r.mapKey()
		if enc := string(value.Append(nil, key)); !held[enc] {
			held[enc] = true
			kv = append(kv, key, r.plain())
		}
	}
	return m(order, kv...)
}

func (r *chance) nested() value.Value {
	switch r.IntN(3) {
	case 0:
		return l(r.list(), r.dict(), i(1), l(r.list(), r.dict()))
	case 1:
		return m(pick[byte](r, 0, 1, 3), i(0), r.list(), i(1), r.dict(), i(2), i(7), s("a"), m(1, s("b"), r.list(), s("c"), r.dict()))
	}
	return lo(r.list(), r.dict(), i(3))
}

// small is an index, rank, count or the like.
func (r *chance) small() value.Value { return i(int64(r.IntN(11) - 4)) }

// listOps and mapOps say for each code what it takes: i index, c count, p value to
// compare with, P several, s value to store, S several, k key, K several, M map,
// n number, r return type, o order, w flags of a write, t flags of a sort.
var (
	listOps = map[int64]string{0: "o", 1: "sow", 2: "Sow", 3: "isw", 4: "iSw", 5: "i", 6: "ic", 7: "i", 8: "ic", 9: "isw", 10: "ic", 11: "", 12: "inow", 13: "t",
		16: "", 17: "i", 18: "ic", 19: "ri", 20: "rp", 21: "ri", 22: "rp", 23: "rP", 24: "ric", 25: "rpp", 26: "ric", 27: "rpic",
		32: "ri", 33: "rp", 34: "ri", 35: "rp", 36: "rP", 37: "ric", 38: "rpp", 39: "ric", 40: "rpic"}
	mapOps = map[int64]string{64: "o", 65: "kso", 66: "Mo", 67: "ksow", 68: "Mow", 69: "ks", 70: "M", 73: "kno", 74: "kno", 75: "", 76: "rk", 77: "ri", 78: "rp",
		79: "ri", 81: "rK", 82: "rp", 83: "rP", 84: "rkk", 85: "ric", 86: "rpp", 87: "ric", 88: "rkic", 89: "rpic",
		96: "", 97: "rk", 98: "ri", 99: "rp", 100: "ri", 102: "rp", 103: "rkk", 104: "ric", 105: "rpp", 106: "ric", 107: "rK", 108: "rP", 109: "rkic", 110: "rpic"}
	listCodes, mapCodes = codes(listOps), codes(mapOps)
)

func codes(of map[int64]string) []int64 {
	var out []int64
	for code := range int64(128) {
		if _, ok := of[code]; ok {
			out = append(out, code)
		}
	}
	return out
}

func isModify(code int64) bool { return code < 16 || code >= 32 && code < 96 }

func (r *chance) argument(kind rune) value.Value {
	switch kind {
	case 'i':
		return r.small()
	case 'c':
		return i(int64(r.IntN(6)))
	case 'p', 's':
		return r.some()
	case 'P', 'S':
		return l(r.some(), r.some(), r.some())
	case 'k':
		return r.mapKey()
	case 'K':
		return l(r.mapKey(), r.mapKey())
	case 'M':
		return r.dict()
	case 'n':
		return r.number()
	case 'o':
		return pick(r, i(0), i(0), i(1), i(1), i(3))
	case 'w':
		return pick(r, i(0), i(0), i(1), i(2), i(1|4), i(2|4), i(1|4|8), i(2|4|8), i(1|2))
	case 't':
		return i(int64(r.IntN(3))) // both are refused, seemingly by mistake
	}
	return i(pick[int64](r, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 8, 13, 16, 17)) // no client sends 9 to 12
}

// inverted marks a return type of an operation that selects several entries. For
// the indexes of a range of ranks of a map servers answer in no order.
func (r *chance) inverted(code int64, kinds value.Value) value.Value {
	ranks := code == 87 || code == 89 || code == 106 || code == 110
	switch {
	case code >= 17 && code <= 21, code >= 32 && code <= 34, code >= 76 && code <= 79, code >= 97 && code <= 100:
		return kinds
	case r.IntN(6) > 0, ranks && (kinds.Int64() == 1 || kinds.Int64() == 2):
		return kinds
	}
	return i(kinds.Int64() | 0x10000)
}

// operation draws an operation's code and arguments; the last may be missing.
func (r *chance) operation() (code int64, items []value.Value) {
	spec, all := listOps, listCodes
	if r.IntN(2) == 0 {
		spec, all = mapOps, mapCodes
	}
	return r.operationOf(spec, all)
}

func (r *chance) operationOf(spec map[int64]string, all []int64) (code int64, items []value.Value) {
	code = pick(r, all...)
	items = []value.Value{i(code)}
	for _, kind := range spec[code] {
		v := r.argument(kind)
		switch {
		case kind == 'r':
			v = r.inverted(code, v)
		case kind == 'o' && code < 64:
			v = i(v.Int64() & 1)
		case kind == 'w' && code == 68: // onto no map at all it is done whatever it may not
			v = i(v.Int64() &^ 2)
		}
		items = append(items, v)
	}
	if len(items) > 2 && r.IntN(6) == 0 {
		items = items[:len(items)-1]
	}
	return code, items
}

// cdt sends an operation, within a message that answers it.
func (r *chance) cdt(code int64, v value.Value) *message {
	kind, respond := byte(codec.OpCDTRead), byte(0)
	if isModify(code) {
		kind = codec.OpCDTModify
	}
	if r.IntN(2) == 0 {
		respond = codec.Info2RespondAll
	}
	if kind == codec.OpCDTRead && r.IntN(2) == 0 {
		return read(r.set, r.key, called(kind, "v", v))
	}
	return operate(r.set, r.key, called(kind, "v", v)).info(0, respond, 0)
}

func (r *chance) listOp() *message {
	code, items := r.operationOf(listOps, listCodes)
	return r.cdt(code, l(items...))
}

// unorderedOp reads, but for a removal by key: the map's values stay different.
func (r *chance) unorderedOp() *message {
	for {
		code, items := r.operationOf(mapOps, mapCodes)
		if code == 76 || code == 81 || !isModify(code) {
			return r.cdt(code, l(items...))
		}
	}
}

func (r *chance) mapOp() *message {
	code, items := r.operationOf(mapOps, mapCodes)
	return r.cdt(code, l(items...))
}

// nestedOp is an operation behind a context.
func (r *chance) nestedOp() *message {
	code, items := r.operation()
	var path []value.Value
	for range 1 + r.IntN(3) {
		by := pick[int64](r, 0x10, 0x10, 0x11, 0x13, 0x20, 0x21, 0x22, 0x22, 0x22, 0x23)
		var at value.Value
		switch by & 0x0f {
		case 2:
			at = pick(r, i(0), i(1), s("a"), s("b"), s("c"), s("new"))
		case 3:
			at = r.plain()
		default:
			at = i(int64(r.IntN(6) - 2))
		}
		if by == 0x10 || by == 0x22 {
			by |= pick[int64](r, 0, 0, 0x40, 0x80, 0xc0)
		}
		path = append(path, i(by), at)
	}
	return r.cdt(code, l(i(0xff), l(path...), l(items...)))
}

// bitsOps are as listOps: o offset, O in bytes, z size, Z in bytes, N size of an
// integer, n number, c small number, t truth, b bytes, w flags, x of a resize, y of
// integers, Y signed or not.
var bitsOps = map[int64]string{0: "Zwx", 1: "Obw", 2: "OZw", 3: "ozbw", 4: "ozbw", 5: "ozbw", 6: "ozbw", 7: "ozw", 8: "ozcw", 9: "ozcw", 10: "oNnwy", 11: "oNnwy",
	12: "oNnw", 50: "oz", 51: "oz", 52: "ozt", 53: "ozt", 54: "oNY"}

var bitsCodes = codes(bitsOps)

func (r *chance) bits() (code int64, items []value.Value) {
	code = pick(r, bitsCodes...)
	items = []value.Value{i(code)}
	for _, kind := range bitsOps[code] {
		var v value.Value
		switch kind {
		case 'o':
			v = i(int64(r.IntN(50) - 15))
			if code == 53 {
				v = i(int64(r.IntN(5) * 8)) // else a bit in front of it may be found
			}
		case 'O':
			v = i(int64(r.IntN(9) - 3))
		case 'z':
			v = i(int64(r.IntN(30)))
		case 'Z':
			v = i(int64(r.IntN(7)))
		case 'N':
			v = i(int64(r.IntN(30)))
		case 'n':
			v = pick(r, i(int64(r.IntN(300)-50)), i(int64(r.Uint64())))
		case 'c':
			v = i(int64(r.IntN(12)))
		case 't':
			v = value.OfBool(r.IntN(2) == 0)
		case 'b':
			v = r.blob()
		case 'w':
			v = pick(r, i(0), i(0), i(0), i(1), i(2), i(4), i(8), i(12), i(6))
			if code == 8 || code == 9 {
				v = i(v.Int64() &^ 8) // which reads and writes behind the blob, and ends the server
			}
		case 'x':
			v = pick(r, i(0), i(1), i(2), i(4), i(3), i(5))
		case 'y':
			v = pick(r, i(0), i(1), i(2), i(4), i(3), i(5))
		case 'Y':
			v = i(int64(r.IntN(2)))
		}
		items = append(items, v)
	}
	if len(items) > 2 && r.IntN(8) == 0 {
		items = items[:len(items)-1]
	}
	return code, items
}

func (r *chance) bitsOp() *message {
	code, items := r.bits()
	if code >= 50 {
		return read(r.set, r.key, called(codec.OpBitsRead, "v", l(items...)))
	}
	return operate(r.set, r.key, called(codec.OpBitsModify, "v", l(items...))).info(0, pick[byte](r, 0, codec.Info2RespondAll), 0)
}
