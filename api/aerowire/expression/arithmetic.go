package expression

import (
	"math"
	"math/bits"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// arithmetic evaluates what works on numbers alone: all integers or all floats.
func (w *work) arithmetic(code int64, args []value.Value) (value.Value, error) {
	values, err := w.evalAll(args)
	if err != nil {
		return value.Value{}, err
	}
	switch code {
	case opScanLeft, opScanRight:
		return scan(code, values[0], values[1])
	case opToInt:
		return toInt(values[0])
	case opToFloat:
		if values[0].Kind() == value.Double {
			return values[0], nil
		}
		if !values[0].IsInt() {
			return values[0], codec.Parameter
		}
		return value.OfDouble(float64(values[0].Int64())), nil
	}
	ints, floats := true, true
	for _, v := range values {
		ints = ints && v.IsInt()
		floats = floats && v.Kind() == value.Double
	}
	switch {
	case ints:
		numbers := make([]int64, len(values))
		for i, v := range values {
			numbers[i] = v.Int64()
		}
		n, err := ofInts(code, numbers)
		return value.OfInt(n), err
	case floats:
		numbers := make([]float64, len(values))
		for i, v := range values {
			numbers[i] = v.Double()
		}
		f, err := ofFloats(code, numbers)
		return value.OfDouble(f), err
	}
	return value.Value{}, codec.Parameter
}

func toInt(v value.Value) (value.Value, error) {
	if v.IsInt() {
		return v, nil
	}
	if v.Kind() != value.Double {
		return v, codec.Parameter
	}
	f := v.Double()
	if math.IsNaN(f) || f < math.MinInt64 || f >= math.MaxInt64 {
		return v, ErrUnknown
	}
	return value.OfInt(int64(f)), nil
}

// fold applies f from left to right.
func fold[T any](numbers []T, f func(a, b T) T) T {
	out := numbers[0]
	for _, n := range numbers[1:] {
		out = f(out, n)
	}
	return out
}

func ofInts(code int64, n []int64) (int64, error) {
	switch code {
	case opAdd:
		return fold(n, func(a, b int64) int64 { return a + b }), nil
	case opSub:
		if len(n) == 1 {
			return -n[0], nil
		}
		return fold(n, func(a, b int64) int64 { return a - b }), nil
	case opMul:
		return fold(n, func(a, b int64) int64 { return a * b }), nil
	case opDiv:
		return divide(n)
	case opMod:
		if n[1] == 0 {
			return 0, ErrUnknown
		}
		return n[0] % n[1], nil
	case opAbs:
		return max(n[0], -n[0]), nil
	case opMin:
		return fold(n, func(a, b int64) int64 { return min(a, b) }), nil
	case opMax:
		return fold(n, func(a, b int64) int64 { return max(a, b) }), nil
	case opIntAnd:
		return fold(n, func(a, b int64) int64 { return a & b }), nil
	case opIntOr:
		return fold(n, func(a, b int64) int64 { return a | b }), nil
	case opIntXor:
		return fold(n, func(a, b int64) int64 { return a ^ b }), nil
	case opIntNot:
		return ^n[0], nil
	case opCount:
		return int64(bits.OnesCount64(uint64(n[0]))), nil
	case opShiftLeft, opShiftLog, opShiftArit:
		return shift(code, n[0], n[1])
	case opPow, opLog, opFloor, opCeil:
		return 0, codec.Parameter // of floats only
	}
	return 0, codec.Unsupported
}

// divide: one number is a reciprocal.
func divide(n []int64) (int64, error) {
	if len(n) == 1 {
		n = []int64{1, n[0]}
	}
	switch by := fold(n[1:], func(a, b int64) int64 { return a * b }); by {
	case 0:
		return 0, ErrUnknown
	case -1:
		return -n[0], nil // the least integer has no opposite, and wraps
	default:
		return n[0] / by, nil
	}
}

func shift(code, n, by int64) (int64, error) {
	by &= 63 // as the server's processor has it
	switch code {
	case opShiftLeft:
		return n << by, nil
	case opShiftLog:
		return int64(uint64(n) >> by), nil
	}
	return n >> by, nil
}

// scan returns the position, from the left, of the first bit that is as sought; -1
// if there is none.
func scan(code int64, v, sought value.Value) (value.Value, error) {
	if !v.IsInt() || !sought.IsBool() {
		return v, codec.Parameter
	}
	n := uint64(v.Int64())
	if !sought.Bool() {
		n = ^n
	}
	switch {
	case n == 0:
		return value.OfInt(-1), nil
	case code == opScanLeft:
		return value.OfInt(int64(bits.LeadingZeros64(n))), nil
	}
	return value.OfInt(int64(63 - bits.TrailingZeros64(n))), nil
}

func ofFloats(code int64, n []float64) (float64, error) {
	switch code {
	case opAdd:
		return fold(n, func(a, b float64) float64 { return a + b }), nil
	case opSub:
		if len(n) == 1 {
			return 0 - n[0], nil
		}
		return fold(n, func(a, b float64) float64 { return a - b }), nil
	case opMul:
		return fold(n, func(a, b float64) float64 { return a * b }), nil
	case opDiv:
		if len(n) == 1 {
			return 1 / n[0], nil
		}
		return fold(n, func(a, b float64) float64 { return a / b }), nil
	case opPow:
		return math.Pow(n[0], n[1]), nil
	case opLog:
		return math.Log(n[0]) / math.Log(n[1]), nil
	case opAbs:
		return math.Abs(n[0]), nil
	case opFloor:
		return math.Floor(n[0]), nil
	case opCeil:
		return math.Ceil(n[0]), nil
	case opMin:
		return fold(n, math.Min), nil
	case opMax:
		return fold(n, math.Max), nil
	}
	return 0, codec.Parameter
}
