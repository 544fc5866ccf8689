package expression

import (
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// typing finds the type of an expression before it is evaluated: one whose parts
// do not fit is refused, whatever the record.
type typing struct {
	names []string // variables, the innermost last
	kinds []int64
}

// typeNone is of a variable that is being defined.
const typeNone = -1

var errType = codec.Parameter

// of returns the type of v.
func (t *typing) of(v value.Value) (int64, error) {
	switch v.Kind() {
	case value.Nil:
		return typeNil, nil
	case value.False, value.True:
		return typeBool, nil
	case value.NegInt, value.Int:
		return typeInt, nil
	case value.Double:
		return typeFloat, nil
	case value.String:
		return typeString, nil
	case value.Map:
		return typeMap, nil
	case value.GeoJSON:
		return typeGeo, nil
	case value.Bytes:
		if v.IsHLL() {
			return typeHLL, nil
		}
		return typeBlob, nil
	case value.List:
		return t.ofList(v)
	}
	return 0, errType
}

func (t *typing) ofList(v value.Value) (int64, error) {
	code, args, err := split(v)
	if err != nil {
		return 0, err
	}
	switch code {
	case opUnknown, opKeyExists, opTombstone:
		return typeBool, nil
	case opEqual, opNotEqual, opGreater, opAtLeast, opLess, opAtMost:
		return t.comparison(args)
	case opRegex:
		return typeBool, t.all(args[2:], typeString)
	case opInList:
		if _, err := t.of(args[0]); err != nil {
			return 0, err
		}
		return typeBool, t.all(args[1:], typeList)
	case opAnd, opOr, opExclusive, opNot:
		return typeBool, t.all(args, typeBool)
	case opKey, opBin:
		return declared(code, args)
	case opMapKeys, opMapValues:
		return typeList, t.all(args, typeMap)
	case opCond:
		return t.cond(args)
	case opVar:
		return t.variable(args[0])
	case opLet:
		return t.let(args)
	case opQuote:
		if args[0].Kind() != value.List {
			return 0, errType
		}
		return typeList, nil
	case opCall:
		return t.call(args)
	case opSetName:
		return typeString, nil
	}
	if code >= opDigestMod && code <= opSize || code == opBinType {
		return typeInt, nil
	}
	return t.arithmetic(code, args)
}

// all holds the types of args against the one wanted.
func (t *typing) all(args []value.Value, wanted int64) error {
	for i := range args {
		kind, err := t.of(args[i])
		if err == nil && kind != wanted {
			err = errType
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// same returns the one type of args.
func (t *typing) same(args []value.Value) (int64, error) {
	kind, err := t.of(args[0])
	if err != nil {
		return 0, err
	}
	return kind, t.all(args[1:], kind)
}

func (t *typing) comparison(args []value.Value) (int64, error) {
	kind, err := t.same(args)
	if err == nil && (kind == typeGeo || kind == typeHLL) {
		err = errType
	}
	return typeBool, err
}

func (t *typing) arithmetic(code int64, args []value.Value) (int64, error) {
	switch code {
	case opPow, opLog, opFloor, opCeil:
		return typeFloat, t.all(args, typeFloat)
	case opToInt:
		return typeInt, t.all(args, typeFloat)
	case opToFloat:
		return typeFloat, t.all(args, typeInt)
	case opScanLeft, opScanRight:
		if err := t.all(args[:1], typeInt); err != nil {
			return 0, err
		}
		return typeInt, t.all(args[1:], typeBool)
	case opAdd, opSub, opMul, opDiv, opAbs, opMin, opMax:
		kind, err := t.same(args)
		if err == nil && kind != typeInt && kind != typeFloat {
			err = errType
		}
		return kind, err
	}
	return typeInt, t.all(args, typeInt)
}

// declared is the type that a bin or key is said to have.
func declared(code int64, args []value.Value) (int64, error) {
	if !args[0].IsInt() {
		return 0, errType
	}
	switch kind := args[0].Int64(); {
	case kind < typeNil || kind > typeHLL:
		return 0, errType
	case code == opKey && kind != typeInt && kind != typeString && kind != typeBlob:
		return 0, errType
	default:
		return kind, nil
	}
}

// cond: all that it may return is of one type, but for what is unknown.
func (t *typing) cond(args []value.Value) (int64, error) {
	out, known := int64(typeBool), false
	for i, arg := range args {
		kind, err := t.of(arg)
		if err != nil {
			return 0, err
		}
		condition := i%2 == 0 && i < len(args)-1
		switch {
		case condition && kind != typeBool:
			return 0, errType
		case condition || isUnknown(arg):
		case !known:
			out, known = kind, true
		case kind != out:
			return 0, errType
		}
	}
	return out, nil
}

func isUnknown(v value.Value) bool {
	code, _, err := split(v)
	return err == nil && v.Kind() == value.List && code == opUnknown
}

func (t *typing) variable(name value.Value) (int64, error) {
	raw, _ := name.Raw()
	for i := len(t.names) - 1; i >= 0; i-- {
		if t.names[i] == raw && t.kinds[i] != typeNone {
			return t.kinds[i], nil
		}
	}
	return 0, errType
}

func (t *typing) let(args []value.Value) (int64, error) {
	before := len(t.names)
	defer func() { t.names, t.kinds = t.names[:before], t.kinds[:before] }()
	for ; len(args) > 1; args = args[2:] {
		name, ok := args[0].Raw()
		if !ok || !isName(name) {
			return 0, errType
		}
		for _, other := range t.names {
			if other == name {
				return 0, errType
			}
		}
		at := len(t.names)
		t.names, t.kinds = append(t.names, name), append(t.kinds, typeNone)
		kind, err := t.of(args[1])
		if err != nil {
			return 0, err
		}
		t.kinds[at] = kind
	}
	return t.of(args[0])
}

// isName: letters, digits and _, not a digit in front.
func isName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// call checks what is called upon, and those arguments that are expressions.
func (t *typing) call(args []value.Value) (int64, error) {
	if !args[0].IsInt() || !args[1].IsInt() || args[0].Int64() < typeNil || args[0].Int64() > typeHLL {
		return 0, errType
	}
	for _, arg := range callArguments(args[2]) {
		if arg.Kind() == value.List {
			if _, err := t.of(arg); err != nil {
				return 0, err
			}
		}
	}
	on, err := t.of(args[3])
	if err != nil || on == typeNil {
		return typeNil, err
	}
	var fits bool
	switch args[1].Int64() &^ callModify {
	case callCDT:
		fits = on == typeList || on == typeMap
	case callBits:
		fits = on == typeBlob
	case callHLL:
		return 0, codec.Unsupported
	}
	if !fits {
		return 0, errType
	}
	return args[0].Int64(), nil
}
