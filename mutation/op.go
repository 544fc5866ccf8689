package mutation

import walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"

// SetOp replaces the whole record. It keeps fields, like the others here.
func SetOp(fields map[string]*walproxyv1.Value) *walproxyv1.Op {
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Set_{Set: &walproxyv1.Op_Set{Fields: fields}}}
}

// MergeOp sets the named fields and keeps the others.
func MergeOp(fields map[string]*walproxyv1.Value) *walproxyv1.Op {
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Merge_{Merge: &walproxyv1.Op_Merge{Fields: fields}}}
}

// UnsetOp removes fields.
func UnsetOp(fields ...string) *walproxyv1.Op {
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Unset_{Unset: &walproxyv1.Op_Unset{Fields: fields}}}
}

// IncrementOp adds numbers to fields.
func IncrementOp(fields map[string]*walproxyv1.Value) *walproxyv1.Op {
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Increment_{Increment: &walproxyv1.Op_Increment{Fields: fields}}}
}

// AppendOp adds to the end of strings, bytes or lists.
func AppendOp(fields map[string]*walproxyv1.Value) *walproxyv1.Op {
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Append_{Append: &walproxyv1.Op_Append{Fields: fields}}}
}

// PrependOp adds to the front of strings, bytes or lists.
func PrependOp(fields map[string]*walproxyv1.Value) *walproxyv1.Op {
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Prepend_{Prepend: &walproxyv1.Op_Prepend{Fields: fields}}}
}

// TouchOp gives an existing record a new version and expiry.
func TouchOp() *walproxyv1.Op {
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Touch_{Touch: &walproxyv1.Op_Touch{}}}
}

// DeleteOp removes the record and its events.
func DeleteOp() *walproxyv1.Op {
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Delete_{Delete: &walproxyv1.Op_Delete{}}}
}

// AppendEventOp appends to the record's event stream.
func AppendEventOp(events ...*walproxyv1.Event) *walproxyv1.Op {
	return &walproxyv1.Op{Kind: &walproxyv1.Op_AppendEvent_{AppendEvent: &walproxyv1.Op_AppendEvent{Events: events}}}
}
