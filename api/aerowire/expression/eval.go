package expression

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// work is an expression on one record.
type work struct {
	e    *Expression
	r    *Record
	vars []variable // the innermost last
	left int        // of stepsMax
	room int        // of madeMax
}

// stepsMax bounds one evaluation: expressions, and entries of the lists and maps
// that they go through.
const stepsMax = 20_000_000

// step counts an expression that goes through so many entries.
func (w *work) step(entries int) error {
	if w.left -= 1 + entries; w.left < 0 {
		return codec.Unsupported
	}
	return nil
}

// madeMax bounds the entries, at every depth, of the lists and maps that one
// evaluation makes. They share what they hold, so that a few calls can make one that
// nobody could write down: a list that is appended to itself, again and again.
const madeMax = 1 << 20

// make counts entries that are about to be made.
func (w *work) make(entries int) error {
	if w.room -= entries; w.room < 0 {
		return codec.Unsupported
	}
	return nil
}

// made counts what a call has made.
func (w *work) made(v value.Value) error {
	entries, depth := value.Weigh(v, w.room)
	if depth > value.MaxDepth {
		return codec.Parameter
	}
	return w.make(entries)
}

type variable struct {
	name string
	v    value.Value
	err  error // ErrUnknown
}

func (w *work) eval(v value.Value) (value.Value, error) {
	if v.Kind() != value.List {
		return v, nil
	}
	code, args, err := split(v)
	if err != nil {
		return v, err
	}
	if err := w.step(0); err != nil {
		return v, err
	}
	switch code {
	case opUnknown:
		return v, ErrUnknown
	case opQuote:
		return args[0], nil
	case opEqual, opNotEqual, opGreater, opAtLeast, opLess, opAtMost:
		return w.compare(code, args)
	case opRegex:
		return w.regex(args)
	case opInList:
		return w.inList(args)
	case opAnd, opOr:
		return w.junction(args, code == opOr)
	case opNot:
		b, err := w.bool(args[0])
		return value.OfBool(!b), err
	case opExclusive:
		return w.exclusive(args)
	case opKey, opBin, opBinType:
		return w.stored(code, args)
	case opMapKeys, opMapValues:
		return w.parts(code, args[0])
	case opCond:
		return w.cond(args)
	case opVar:
		return w.variable(args[0])
	case opLet:
		return w.let(args)
	case opCall:
		return w.call(args)
	}
	if code >= opDigestMod && code <= opSize {
		return w.meta(code, args)
	}
	return w.arithmetic(code, args)
}

func (w *work) evalAll(args []value.Value) ([]value.Value, error) {
	values := make([]value.Value, len(args))
	for i := range args {
		var err error
		if values[i], err = w.eval(args[i]); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (w *work) bool(v value.Value) (bool, error) {
	v, err := w.eval(v)
	if err == nil && !v.IsBool() {
		err = codec.Parameter
	}
	return v.Bool(), err
}

// sameType reports whether two values may be compared.
func sameType(a, b value.Value) bool {
	return a.Kind() == b.Kind() || a.IsInt() && b.IsInt() || a.IsBool() && b.IsBool()
}

func (w *work) compare(code int64, args []value.Value) (value.Value, error) {
	values, err := w.evalAll(args)
	if err != nil {
		return value.Value{}, err
	}
	a, b := values[0], values[1]
	if !sameType(a, b) {
		return a, codec.Parameter
	}
	inA, _ := value.Weigh(a, w.left)
	inB, _ := value.Weigh(b, w.left)
	if err := w.step(max(inA, inB, len(a.Text()))); err != nil {
		return a, err
	}
	if hasUnordered(a) || hasUnordered(b) {
		return a, ErrUnknown // a server has them in no order
	}
	c := value.Compare(a, b)
	if a.Kind() == value.Double && (a.Double() != a.Double() || b.Double() != b.Double()) {
		return value.OfBool(code == opNotEqual), nil // NaN
	}
	switch code {
	case opEqual:
		return value.OfBool(c == 0), nil
	case opNotEqual:
		return value.OfBool(c != 0), nil
	case opGreater:
		return value.OfBool(c > 0), nil
	case opAtLeast:
		return value.OfBool(c >= 0), nil
	case opLess:
		return value.OfBool(c < 0), nil
	}
	return value.OfBool(c <= 0), nil
}

// hasUnordered reports whether v is or holds an unordered map.
func hasUnordered(v value.Value) bool {
	return v.Kind() == value.Map && !v.IsOrdered() || slices.ContainsFunc(v.Items(), hasUnordered) ||
		slices.ContainsFunc(v.Pairs(), func(p value.Pair) bool { return hasUnordered(p.Value) })
}

// instructionsAStep of a pattern are tried in about the time of a step.
const instructionsAStep = 16

func (w *work) regex(args []value.Value) (value.Value, error) {
	text, _ := args[1].Raw()
	v, err := w.eval(args[2])
	if err != nil {
		return v, err
	}
	if v.Kind() != value.String {
		return v, codec.Parameter
	}
	p := w.e.patterns[pattern{args[0].Int64(), text}]
	if err := w.step(len(v.Text()) * (1 + p.size/instructionsAStep)); err != nil {
		return v, err
	}
	return value.OfBool(p.MatchString(v.Text())), nil
}

func (w *work) inList(args []value.Value) (value.Value, error) {
	values, err := w.evalAll(args)
	if err != nil {
		return value.Value{}, err
	}
	if values[1].Kind() != value.List {
		return value.Value{}, codec.Parameter
	}
	inList, _ := value.Weigh(values[1], w.left)
	if err := w.step(inList + len(values[0].Text())); err != nil {
		return value.Value{}, err
	}
	return value.OfBool(slices.ContainsFunc(values[1].Items(), func(v value.Value) bool { return value.Equal(v, values[0]) })), nil
}

// junction is and, or or: what decides it decides, else what is unknown.
func (w *work) junction(args []value.Value, or bool) (value.Value, error) {
	var unknown error
	for i := range args {
		b, err := w.bool(args[i])
		switch {
		case errors.Is(err, ErrUnknown):
			unknown = err
		case err != nil:
			return value.Value{}, err
		case b == or:
			return value.OfBool(or), nil
		}
	}
	return value.OfBool(!or), unknown
}

// exclusive: exactly one is true.
func (w *work) exclusive(args []value.Value) (value.Value, error) {
	n := 0
	for i := range args {
		b, err := w.bool(args[i])
		if err != nil {
			return value.Value{}, err
		}
		if b {
			n++
		}
		if n > 1 {
			break // whatever the others are
		}
	}
	return value.OfBool(n == 1), nil
}

func (w *work) cond(args []value.Value) (value.Value, error) {
	for len(args) > 1 {
		b, err := w.bool(args[0])
		if err != nil {
			return value.Value{}, err
		}
		if b {
			return w.eval(args[1])
		}
		args = args[2:]
	}
	return w.eval(args[0])
}

func (w *work) variable(name value.Value) (value.Value, error) {
	raw, _ := name.Raw()
	for _, v := range slices.Backward(w.vars) {
		if v.name == raw {
			return v.v, v.err
		}
	}
	return value.Value{}, codec.Parameter
}

func (w *work) let(args []value.Value) (value.Value, error) {
	before := len(w.vars)
	defer func() { w.vars = w.vars[:before] }()
	for ; len(args) > 1; args = args[2:] {
		name, ok := args[0].Raw()
		if !ok {
			return value.Value{}, codec.Parameter
		}
		v, err := w.eval(args[1])
		if err != nil && !errors.Is(err, ErrUnknown) {
			return v, err
		}
		w.vars = append(w.vars, variable{name, v, err})
	}
	return w.eval(args[0])
}

// isType reports whether v is of a declared type.
func isType(v value.Value, kind int64) bool {
	switch kind {
	case typeNil:
		return v.Kind() == value.Nil
	case typeBool:
		return v.IsBool()
	case typeInt:
		return v.IsInt()
	case typeString:
		return v.Kind() == value.String
	case typeList:
		return v.Kind() == value.List
	case typeMap:
		return v.Kind() == value.Map
	case typeBlob:
		return v.Kind() == value.Bytes && !v.IsHLL()
	case typeFloat:
		return v.Kind() == value.Double
	case typeGeo:
		return v.Kind() == value.GeoJSON
	case typeHLL:
		return v.IsHLL()
	}
	return false
}

// typed returns v if it is of a declared type, else unknown.
func typed(v value.Value, kind int64) (value.Value, error) {
	if kind < typeNil || kind > typeHLL {
		return v, codec.Parameter
	}
	if !isType(v, kind) {
		return v, ErrUnknown
	}
	return v, nil
}

func (w *work) stored(code int64, args []value.Value) (value.Value, error) {
	switch code {
	case opKey:
		if !args[0].IsInt() {
			return value.Value{}, codec.Parameter
		}
		if !w.r.HasKey {
			return value.Value{}, ErrUnknown
		}
		return typed(w.r.Key, args[0].Int64())
	case opBinType:
		name, ok := args[0].Raw()
		if !ok {
			return value.Value{}, codec.Parameter
		}
		_, particle, _ := w.r.Bin(name)
		return value.OfInt(int64(particle)), nil
	}
	name, ok := args[1].Raw()
	if !ok || !args[0].IsInt() {
		return value.Value{}, codec.Parameter
	}
	v, _, ok := w.r.Bin(name)
	if !ok {
		return v, ErrUnknown
	}
	return typed(v, args[0].Int64())
}

func (w *work) parts(code int64, arg value.Value) (value.Value, error) {
	v, err := w.eval(arg)
	if err != nil {
		return v, err
	}
	if v.Kind() != value.Map {
		return v, codec.Parameter
	}
	if err := w.make(v.Len()); err != nil {
		return v, err
	}
	var items []value.Value
	for _, p := range v.Pairs() {
		if code == opMapKeys {
			items = append(items, p.Key)
		} else {
			items = append(items, p.Value)
		}
	}
	return value.OfList(items, value.Unordered), nil
}

func (w *work) meta(code int64, args []value.Value) (value.Value, error) {
	r := w.r
	switch code {
	case opDigestMod:
		// The last four bytes of the digest, little-endian.
		mod := args[0].Int64()
		if !args[0].IsInt() || mod == 0 || int64(int32(mod)) != mod {
			return value.Value{}, codec.Parameter
		}
		n := binary.LittleEndian.Uint32(r.Digest[codec.DigestBytes-4:])
		return value.OfInt(int64(n) % mod), nil
	case opUpdated, opSince:
		if r.Updated.IsZero() { // written otherwise, or kept where that has no place
			return value.Value{}, ErrUnknown
		}
	}
	switch code {
	case opUpdated:
		return value.OfInt(r.Updated.UnixNano()), nil
	case opSince:
		return value.OfInt(max(0, r.Now.Sub(r.Updated).Milliseconds())), nil
	case opVoidTime:
		if r.Expires.IsZero() {
			return value.OfInt(-1), nil
		}
		return value.OfInt(r.Expires.Unix() * 1e9), nil
	case opTTL:
		if r.Expires.IsZero() {
			return value.OfInt(-1), nil
		}
		return value.OfInt(r.Expires.Unix() - r.Now.Unix()), nil
	case opSetName:
		return value.OfString(r.Set), nil
	case opKeyExists:
		return value.OfBool(r.HasKey), nil
	case opTombstone:
		return value.OfBool(false), nil
	case opMemory:
		return value.OfInt(0), nil
	case opDevice, opSize:
		return value.OfInt(int64(r.Size)), nil
	}
	return value.Value{}, codec.Unsupported
}
