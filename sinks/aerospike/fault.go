package aerospike

import (
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// fieldsFault is why a mutation has a field that cannot be a bin: a
// *mutation.RejectedError, or nil. It does not depend on the record.
func fieldsFault(m *walproxyv1.Mutation) error {
	for i, op := range m.GetOps() {
		for name, v := range fieldsOf(op) {
			if reason := nameFault(name); reason != "" {
				return &mutation.RejectedError{Field: fmt.Sprintf("ops[%d]", i), Reason: fmt.Sprintf("the name %q %s", name, reason)}
			}
			if reason := valueFault(v, true); reason != "" {
				return &mutation.RejectedError{Field: fmt.Sprintf("ops[%d].%s", i, name), Reason: reason}
			}
		}
	}
	return nil
}

// fieldsOf are the fields that an op gives values.
func fieldsOf(op *walproxyv1.Op) map[string]*walproxyv1.Value {
	switch k := op.GetKind().(type) {
	case *walproxyv1.Op_Set_:
		return k.Set.GetFields()
	case *walproxyv1.Op_Merge_:
		return k.Merge.GetFields()
	case *walproxyv1.Op_Increment_:
		return k.Increment.GetFields()
	case *walproxyv1.Op_Append_:
		return k.Append.GetFields()
	case *walproxyv1.Op_Prepend_:
		return k.Prepend.GetFields()
	}
	return nil
}

// valueFault is why a value cannot be in a bin, or top: be a bin; "": it can. It
// says what toBin and toItem would.
func valueFault(v *walproxyv1.Value, top bool) string {
	switch k := v.GetKind().(type) {
	case *walproxyv1.Value_List_:
		for i, item := range k.List.GetValues() {
			if reason := valueFault(item, false); reason != "" {
				return fmt.Sprintf("[%d] %s", i, reason)
			}
		}
	case *walproxyv1.Value_Map_:
		if content, ok := particle(v); ok && top {
			if len(content) == 0 {
				return "is an empty " + wrapParticle
			}
			return ""
		}
		for name, item := range k.Map.GetFields() {
			if len(k.Map.GetFields()) == 1 && wraps(name) {
				return fmt.Sprintf("is a map with the one name %s, which is reserved", name)
			}
			if reason := valueFault(item, false); reason != "" {
				return fmt.Sprintf(".%s %s", name, reason)
			}
		}
	}
	return ""
}
