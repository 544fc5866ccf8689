package expression

import (
	"github.com/walproxy/walproxy/api/aerowire/bits"
	"github.com/walproxy/walproxy/api/aerowire/cdt"
	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// What a call is made on, and whether it changes a copy of that.
const (
	callCDT    = 0
	callBits   = 1
	callHLL    = 2
	callModify = 0x40
)

// codeContext stands in front of the arguments of a call with a context.
const codeContext = 0xff

// callArguments are those of a call that may be expressions themselves.
func callArguments(v value.Value) []value.Value {
	items := v.Items()
	if hasContext(items) {
		items = items[2].Items()
	}
	if len(items) == 0 {
		return nil
	}
	return items[1:]
}

// call evaluates a call: declared type, what on, arguments, the value called upon.
func (w *work) call(args []value.Value) (value.Value, error) {
	if !args[0].IsInt() || !args[1].IsInt() {
		return value.Value{}, codec.Parameter
	}
	on, err := w.eval(args[3])
	if err != nil {
		return on, err
	}
	operation, err := w.callOperation(args[2])
	if err != nil {
		return on, err
	}
	system := args[1].Int64()
	switch system &^ callModify {
	case callCDT:
		return w.callOnCDT(operation, on, system&callModify != 0, args[0].Int64())
	case callBits:
		return w.callOnBits(operation, on, system&callModify != 0, args[0].Int64())
	}
	return on, codec.Unsupported
}

// hasContext reports whether a call's operation stands behind a context.
func hasContext(items []value.Value) bool {
	return len(items) == 3 && items[0].IsInt() && items[0].Int64() == codeContext
}

// callOperation returns the operation with its arguments evaluated.
func (w *work) callOperation(v value.Value) ([]value.Value, error) {
	items := v.Items()
	if hasContext(items) {
		inner := items[2].Items()
		if hasContext(inner) { // what stands in there was not prepared as an expression
			return nil, codec.Parameter
		}
		inner, err := w.evalOperation(inner)
		if err != nil {
			return nil, err
		}
		return []value.Value{items[0], items[1], value.OfList(inner, value.Unordered)}, nil
	}
	return w.evalOperation(items)
}

func (w *work) evalOperation(items []value.Value) ([]value.Value, error) {
	if len(items) == 0 {
		return nil, codec.Parameter
	}
	rest, err := w.evalAll(items[1:])
	return append([]value.Value{items[0]}, rest...), err
}

func (w *work) callOnCDT(operation []value.Value, on value.Value, modify bool, kind int64) (value.Value, error) {
	op, err := cdt.FromList(operation)
	if err != nil {
		return on, err
	}
	if op.IsModify() != modify {
		return on, codec.Parameter
	}
	if err := w.step(max(on.Len(), len(on.Text())) * op.Passes()); err != nil {
		return on, err
	}
	if modify {
		if err := w.make(int(op.Padding())); err != nil {
			return on, err
		}
		after, err := op.Modify(on, true)
		if err != nil || !after.Exists {
			return on, ErrUnknown
		}
		if err := w.made(after.Bin); err != nil {
			return on, err
		}
		return typed(after.Bin, kind)
	}
	v, ok, err := op.Read(on)
	if err != nil || !ok {
		return v, ErrUnknown
	}
	if err := w.make(v.Len()); err != nil {
		return v, err
	}
	return typed(v, kind)
}

func (w *work) callOnBits(operation []value.Value, on value.Value, modify bool, kind int64) (value.Value, error) {
	op, err := bits.FromList(operation)
	if err != nil {
		return on, err
	}
	if op.IsModify() != modify || on.Kind() != value.Bytes {
		return on, codec.Parameter
	}
	if err := w.step(len(on.Text())); err != nil {
		return on, err
	}
	if modify {
		after, _, err := op.Modify([]byte(on.Text()), true, BytesMax)
		if err != nil {
			return on, ErrUnknown
		}
		if err := w.step(len(after)); err != nil { // it may be longer than what it is made of
			return on, err
		}
		return typed(value.OfBytes(after), kind)
	}
	v, err := op.Read([]byte(on.Text()))
	if err != nil {
		return v, ErrUnknown
	}
	return typed(v, kind)
}
