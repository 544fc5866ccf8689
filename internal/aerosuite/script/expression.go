package script

import (
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// expressionOp reads, writes or filters by an expression.
func (r *chance) expressionOp() *message {
	e := r.expression(3)
	switch r.IntN(5) {
	case 0:
		return operate(r.set, r.key, called(codec.OpExpModify, pick(r, "v", "w"), l(e, i(pick[int64](r, 0, 0, 1, 2, 4, 8, 16, 24, 28))))).
			info(0, pick[byte](r, 0, codec.Info2RespondAll), 0)
	case 1:
		return get(r.set, r.key).filter(r.truth(3))
	}
	return read(r.set, r.key, called(codec.OpExpRead, "e", l(e, i(pick[int64](r, 0, 0, 16)))))
}

// expression draws one of any type; one of twenty has a wrong one within.
func (r *chance) expression(depth int) value.Value {
	switch r.IntN(7) {
	case 0:
		return r.truth(depth)
	case 1:
		return r.float(depth)
	case 2:
		return r.textual(depth)
	case 3:
		return r.listed(depth)
	case 4:
		return r.mapped(depth)
	case 5:
		return r.bytes(depth)
	}
	return r.integer(depth)
}

func stored(kind int64, name string) value.Value { return l(i(81), i(kind), raw(name)) }

// quoted is a list that stands for itself.
func quoted(v value.Value) value.Value { return l(i(126), v) }

func (r *chance) integer(depth int) value.Value {
	if depth == 0 || r.IntN(20) == 0 {
		return pick(r, i(int64(r.IntN(9)-3)), i(int64(r.IntN(70))), stored(2, "i"), stored(2, pick(r, "v", "f", "absent")), l(i(82), raw(pick(r, "i", "s", "b", "l", "m", "t", "absent"))))
	}
	n := func() value.Value { return r.integer(depth - 1) }
	switch r.IntN(14) {
	case 0, 1:
		return l(i(pick[int64](r, 20, 21, 22, 23, 32, 33, 34, 50, 51)), n(), n())
	case 2:
		return l(i(pick[int64](r, 20, 21, 22, 23, 32, 33, 34, 50, 51)), n(), n(), n())
	case 3:
		return l(i(pick[int64](r, 21, 23, 27, 35, 39)), n())
	case 4:
		return l(i(26), n(), n())
	case 5:
		return l(i(pick[int64](r, 36, 37, 38)), n(), n())
	case 6:
		return l(i(pick[int64](r, 40, 41)), n(), r.truth(0))
	case 7:
		return l(i(30), r.float(depth-1))
	case 8:
		return l(i(123), r.truth(depth-1), n(), r.truth(depth-1), n(), pick(r, n(), l(i(0))))
	case 9:
		return l(i(125), raw("x"), n(), l(i(20), l(i(124), raw("x")), n()))
	case 10:
		return r.call(2, listOps, listCodes, r.listed(depth-1), 0, 5)
	case 11:
		return r.call(2, mapOps, mapCodes, r.mapped(depth-1), 0, 5)
	case 12:
		return l(i(127), i(2), i(1), l(i(51), i(int64(r.IntN(10))), i(int64(1+r.IntN(10)))), r.bytes(depth-1))
	}
	return pick(r, l(i(70)), n(), r.truth(depth-1), l(i(64), i(3)))
}

func (r *chance) float(depth int) value.Value {
	if depth == 0 {
		return pick(r, f(float64(r.IntN(9)-3)/2), stored(7, "f"), stored(7, "i"))
	}
	n := func() value.Value { return r.float(depth - 1) }
	switch r.IntN(5) {
	case 0:
		return l(i(pick[int64](r, 20, 21, 22, 23, 24, 50, 51)), n(), n())
	case 1:
		return l(i(pick[int64](r, 21, 23, 27, 28, 29)), n())
	case 2:
		return l(i(31), r.integer(depth-1))
	case 3:
		return l(i(25), n(), n())
	}
	return n()
}

func (r *chance) truth(depth int) value.Value {
	if depth == 0 {
		return pick(r, value.OfBool(true), value.OfBool(false), stored(1, "t"), stored(1, "absent"))
	}
	t := func() value.Value { return r.truth(depth - 1) }
	switch r.IntN(9) {
	case 0:
		return l(i(pick[int64](r, 16, 17, 19)), t(), t())
	case 1:
		return l(i(pick[int64](r, 16, 17, 19)), t(), t(), t())
	case 2:
		return l(i(18), t())
	case 3:
		return l(i(7), i(pick[int64](r, 0, 1, 2, 3)), raw(pick(r, "a", "^a", "b$", "a.*c", "[ab]", "A", "a+", "(a|b)")), r.textual(depth-1))
	case 4:
		return l(i(1), l(i(82), raw(pick(r, "i", "m"))), r.integer(depth-1))
	case 5:
		return l(i(int64(1+r.IntN(6))), r.textual(depth-1), r.textual(depth-1))
	case 6:
		return l(i(int64(1+r.IntN(6))), r.float(depth-1), r.float(depth-1))
	case 7:
		return l(i(int64(1+r.IntN(6))), r.listed(depth-1), r.listed(depth-1))
	}
	return l(i(int64(1+r.IntN(6))), r.integer(depth-1), pick(r, r.integer(depth-1), r.integer(depth-1), r.expression(depth-1)))
}

func (r *chance) textual(depth int) value.Value {
	return pick(r, r.text(), stored(3, "s"), stored(3, "i"), l(i(123), r.truth(min(depth, 1)), r.text(), stored(3, "s")))
}

func (r *chance) bytes(int) value.Value {
	return pick(r, r.blob(), stored(6, "b"), stored(6, "s"),
		l(i(127), i(6), i(1|0x40), l(i(7), i(int64(r.IntN(10))), i(int64(1+r.IntN(10))), i(0)), stored(6, "b")))
}

func (r *chance) listed(depth int) value.Value {
	if depth == 0 || r.IntN(3) == 0 {
		return pick(r, quoted(r.list()), stored(4, "l"), stored(4, "m"))
	}
	return r.call(4, listOps, listCodes, r.listed(depth-1), callModify, 7)
}

func (r *chance) mapped(depth int) value.Value {
	if depth == 0 || r.IntN(3) == 0 {
		return pick(r, r.dict(), stored(5, "m"), stored(5, "l"))
	}
	return r.call(5, mapOps, mapCodes, r.mapped(depth-1), callModify, 7)
}

// callModify marks a call that returns what is changed.
const callModify = 0x40

// call draws an operation on a list or map that reads, or changes a copy.
func (r *chance) call(kind int64, ops map[int64]string, all []int64, on value.Value, system int64, returned int64) value.Value {
	for {
		code, items := r.operationOf(ops, all)
		if isModify(code) != (system == callModify) {
			continue
		}
		for n := range items {
			if n == 0 {
				continue
			}
			switch {
			case n <= len(ops[code]) && ops[code][n-1] == 'r':
				items[n] = pick(r, items[n], i(returned), i(returned))
			case items[n].Kind() == value.List:
				items[n] = quoted(items[n])
			}
		}
		return l(i(127), i(kind), i(system), l(items...), on)
	}
}
