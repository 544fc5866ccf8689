package jsonform

import (
	"strconv"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// AppendMutation appends the JSON form of m, which DecodeMutation reads as m. ok
// is false, and dst unchanged, if m has none: its ops are in another order than
// that form has, or one stands twice.
func AppendMutation(dst []byte, m *walproxyv1.Mutation) (out []byte, ok bool) {
	out = appendString(append(dst, `{"collection":`...), m.GetCollection())
	if key := m.GetKey(); key != nil {
		out = AppendKey(append(out, `,"key":`...), key)
	}
	last := -1
	for _, op := range m.GetOps() {
		kind := kindOf(op)
		if kind <= last {
			return dst, false
		}
		last = kind
		out = appendOp(out, kind, op)
	}
	switch p := m.GetPrecondition().GetKind().(type) {
	case *walproxyv1.Precondition_IfVersion:
		out = strconv.AppendUint(append(out, `,"if_version":`...), p.IfVersion, 10)
	case *walproxyv1.Precondition_IfAbsent:
		out = append(out, `,"if_absent":true`...)
	case *walproxyv1.Precondition_IfEventCount:
		out = strconv.AppendUint(append(out, `,"if_event_count":`...), p.IfEventCount, 10)
	}
	if id := m.GetRequestId(); id != "" {
		out = appendString(append(out, `,"request_id":`...), id)
	}
	if at := m.GetExpiresAt(); at != nil {
		out = append(AppendTime(append(out, `,"expires_at":"`...), at.AsTime()), '"')
	}
	return append(out, '}'), true
}

// kindOf returns where op stands in the order of ops, -1 if nowhere.
func kindOf(op *walproxyv1.Op) int {
	switch op.GetKind().(type) {
	case *walproxyv1.Op_Delete_:
		return opDelete
	case *walproxyv1.Op_Set_:
		return opSet
	case *walproxyv1.Op_Merge_:
		return opMerge
	case *walproxyv1.Op_Unset_:
		return opUnset
	case *walproxyv1.Op_Increment_:
		return opIncrement
	case *walproxyv1.Op_Append_:
		return opAppend
	case *walproxyv1.Op_Prepend_:
		return opPrepend
	case *walproxyv1.Op_AppendEvent_:
		return opAppendEvent
	case *walproxyv1.Op_Touch_:
		return opTouch
	}
	return -1
}

var opNames = [opCount]string{"delete", "set", "merge", "unset", "increment", "append", "prepend", "append_event", "touch"}

func appendOp(dst []byte, kind int, op *walproxyv1.Op) []byte {
	dst = append(append(append(dst, `,"`...), opNames[kind]...), `":`...)
	switch k := op.GetKind().(type) {
	case *walproxyv1.Op_Set_:
		return AppendFields(dst, k.Set.GetFields())
	case *walproxyv1.Op_Merge_:
		return AppendFields(dst, k.Merge.GetFields())
	case *walproxyv1.Op_Increment_:
		return AppendFields(dst, k.Increment.GetFields())
	case *walproxyv1.Op_Append_:
		return AppendFields(dst, k.Append.GetFields())
	case *walproxyv1.Op_Prepend_:
		return AppendFields(dst, k.Prepend.GetFields())
	case *walproxyv1.Op_Unset_:
		return appendList(dst, k.Unset.GetFields(), appendString)
	case *walproxyv1.Op_AppendEvent_:
		return appendList(dst, k.AppendEvent.GetEvents(), func(dst []byte, e *walproxyv1.Event) []byte {
			return AppendFields(dst, e.GetFields())
		})
	}
	return append(dst, "true"...) // delete, touch
}

func appendList[T any](dst []byte, list []T, one func([]byte, T) []byte) []byte {
	dst = append(dst, '[')
	for i, item := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = one(dst, item)
	}
	return append(dst, ']')
}
