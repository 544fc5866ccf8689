package mutation

import (
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// Validate checks m against the schema's rules and limits; *InvalidError.
//
// Which ops go together: touch stands alone; delete comes first, and nothing
// but it may; set comes first or right behind delete; the others mix freely.
// expires_at needs an op that leaves a record, so not delete alone.
func Validate(m *walproxyv1.Mutation) error {
	if m == nil {
		return &InvalidError{"mutation", "is missing"}
	}
	if reason := checkCollection(m.GetCollection()); reason != "" {
		return &InvalidError{"collection", reason}
	}
	if err := validateKey("key", m.GetKey()); err != nil {
		return err
	}
	if reason := checkRequestID(m.GetRequestId()); reason != "" {
		return &InvalidError{"request_id", reason}
	}
	if reason := checkExpiry(m); reason != "" {
		return &InvalidError{"expires_at", reason}
	}
	if err := validatePrecondition(m.GetPrecondition()); err != nil {
		return err
	}
	return validateOps(m)
}

func checkCollection(name string) string {
	switch {
	case name == "":
		return "must not be empty"
	case len(name) > MaxCollectionBytes:
		return fmt.Sprintf("is %d bytes; at most %d", len(name), MaxCollectionBytes)
	case reserved[name]:
		return fmt.Sprintf("%q is a reserved name", name)
	}
	return checkText("name", name)
}

func checkRequestID(id string) string {
	if len(id) > MaxRequestIDBytes {
		return fmt.Sprintf("is %d bytes; at most %d", len(id), MaxRequestIDBytes)
	}
	return checkText("id", id)
}

func validatePrecondition(p *walproxyv1.Precondition) error {
	if p == nil {
		return nil
	}
	switch k := p.Kind.(type) {
	case *walproxyv1.Precondition_IfVersion, *walproxyv1.Precondition_IfEventCount:
	case *walproxyv1.Precondition_IfAbsent:
		if !k.IfAbsent {
			return &InvalidError{"precondition.if_absent", "must be true or left out"}
		}
	default:
		return &InvalidError{"precondition", "is empty"}
	}
	return nil
}

func validateOps(m *walproxyv1.Mutation) error {
	ops := m.GetOps()
	if n := len(ops); n < 1 || n > MaxOps {
		return &InvalidError{"ops", fmt.Sprintf("has %d ops; 1 to %d", n, MaxOps)}
	}
	events := 0
	for i, op := range ops {
		path := fmt.Sprintf("ops[%d]", i)
		if err := validatePlacement(path, ops, i); err != nil {
			return err
		}
		if err := validateOp(path, op); err != nil {
			return err
		}
		events += len(op.GetAppendEvent().GetEvents())
	}
	if events > MaxEvents {
		return &InvalidError{"ops", fmt.Sprintf("append %d events; at most %d", events, MaxEvents)}
	}
	if m.GetExpiresAt() != nil && len(ops) == 1 && ops[0].GetDelete() != nil {
		return &InvalidError{"expires_at", "a delete leaves nothing that could expire"}
	}
	return nil
}

func validatePlacement(path string, ops []*walproxyv1.Op, i int) error {
	switch ops[i].GetKind().(type) {
	case *walproxyv1.Op_Touch_:
		if len(ops) > 1 {
			return &InvalidError{path + ".touch", "must be the only op"}
		}
	case *walproxyv1.Op_Delete_:
		if i > 0 {
			return &InvalidError{path + ".delete", "must be the first op"}
		}
	case *walproxyv1.Op_Set_:
		if i > 1 || i == 1 && ops[0].GetDelete() == nil {
			return &InvalidError{path + ".set", "must be the first op, or the second behind delete"}
		}
	}
	return nil
}

func validateOp(path string, op *walproxyv1.Op) error {
	switch k := op.GetKind().(type) {
	case *walproxyv1.Op_Set_:
		return validateFields(path+".set", k.Set.GetFields(), 0)
	case *walproxyv1.Op_Merge_:
		return validateSome(path+".merge", k.Merge.GetFields(), nil)
	case *walproxyv1.Op_Unset_:
		return validateUnset(path+".unset", k.Unset.GetFields())
	case *walproxyv1.Op_Increment_:
		return validateSome(path+".increment", k.Increment.GetFields(), checkNumber)
	case *walproxyv1.Op_Append_:
		return validateSome(path+".append", k.Append.GetFields(), checkSequence)
	case *walproxyv1.Op_Prepend_:
		return validateSome(path+".prepend", k.Prepend.GetFields(), checkSequence)
	case *walproxyv1.Op_Touch_, *walproxyv1.Op_Delete_:
		return nil
	case *walproxyv1.Op_AppendEvent_:
		return validateEvents(path+".append_event", k.AppendEvent.GetEvents())
	}
	return &InvalidError{path, "has no op"}
}

// validateSome is validateFields for an op that must name a field; check says
// why a value is of the wrong kind, or "".
func validateSome(path string, fields map[string]*walproxyv1.Value, check func(*walproxyv1.Value) string) error {
	if len(fields) == 0 {
		return &InvalidError{path, "names no field"}
	}
	if err := validateFields(path, fields, 0); err != nil || check == nil {
		return err
	}
	for name, v := range fields {
		if reason := check(v); reason != "" {
			return &InvalidError{path + "." + name, reason}
		}
	}
	return nil
}

func checkNumber(v *walproxyv1.Value) string {
	switch v.GetKind().(type) {
	case *walproxyv1.Value_Int64, *walproxyv1.Value_Double, *walproxyv1.Value_Decimal:
		return ""
	}
	return "is " + KindName(v) + "; want an int64, double or decimal"
}

func checkSequence(v *walproxyv1.Value) string {
	switch v.GetKind().(type) {
	case *walproxyv1.Value_String_, *walproxyv1.Value_Bytes, *walproxyv1.Value_List_:
		return ""
	}
	return "is " + KindName(v) + "; want a string, bytes or a list"
}

func validateUnset(path string, names []string) error {
	if n := len(names); n < 1 || n > MaxFields {
		return &InvalidError{path, fmt.Sprintf("names %d fields; 1 to %d", n, MaxFields)}
	}
	for i, name := range names {
		if reason := checkFieldName(name); reason != "" {
			return &InvalidError{fmt.Sprintf("%s[%d]", path, i), reason}
		}
	}
	return nil
}

func validateEvents(path string, events []*walproxyv1.Event) error {
	if len(events) == 0 {
		return &InvalidError{path, "has no event"}
	}
	for i, e := range events {
		path := fmt.Sprintf("%s.events[%d]", path, i)
		if e == nil {
			return &InvalidError{path, "is missing"}
		}
		if err := validateFields(path, e.GetFields(), 0); err != nil {
			return err
		}
	}
	return nil
}

// KindName is what v is, for messages: "an int64".
func KindName(v *walproxyv1.Value) string {
	switch v.GetKind().(type) {
	case *walproxyv1.Value_Null:
		return "null"
	case *walproxyv1.Value_Bool:
		return "a bool"
	case *walproxyv1.Value_Int64:
		return "an int64"
	case *walproxyv1.Value_Double:
		return "a double"
	case *walproxyv1.Value_Decimal:
		return "a decimal"
	case *walproxyv1.Value_String_:
		return "a string"
	case *walproxyv1.Value_Bytes:
		return "bytes"
	case *walproxyv1.Value_Timestamp:
		return "a timestamp"
	case *walproxyv1.Value_List_:
		return "a list"
	case *walproxyv1.Value_Map_:
		return "a map"
	}
	return "nothing"
}
