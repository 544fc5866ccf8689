package mutation

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// Most records are one mutation, and package proto spends most of its time on their maps.
// So those are encoded by hand, byte for byte as package proto does it in its deterministic
// way: request ids are compared by a hash of that. What it would refuse, and what nests
// deeper than plainDepth, is left to it.

// AppendMutation appends m's encoding to dst, by itself, as package proto has it.
func AppendMutation(dst []byte, m *walproxyv1.Mutation) ([]byte, error) {
	if checkMutation(m) == nil { // nothing is unknown, or missing
		e := encoder{out: dst}
		if e.mutation(m); !e.bad {
			return e.out, nil
		}
	}
	out, err := deterministic.MarshalAppend(dst, m)
	if err != nil {
		return dst, fmt.Errorf("%w: %w", ErrEncoding, err)
	}
	return out, nil
}

// appendMutationRecord is Encode of a record that was checked; false: it is left to others.
func appendMutationRecord(dst []byte, rec *walproxyv1.Record) ([]byte, bool) {
	body, ok := rec.Body.(*walproxyv1.Record_Mutation)
	if !ok || rec.Origin != nil {
		return dst, false
	}
	out, ok := appendHead(dst, rec)
	if !ok {
		return dst, false
	}
	e := encoder{out: out}
	at := e.begin(recordMutation)
	e.mutation(body.Mutation)
	e.end(at)
	if e.bad {
		return dst, false
	}
	return e.out, true
}

// appendHead appends what a record has before its body, but for an origin.
func appendHead(dst []byte, rec *walproxyv1.Record) (out []byte, ok bool) {
	ok = utf8.ValidString(rec.Principal)
	out = protowire.AppendVarint(protowire.AppendTag(dst, recordFormat, protowire.VarintType), uint64(rec.Format))
	if rec.AcceptedUnixNanos != 0 {
		out = protowire.AppendVarint(protowire.AppendTag(out, recordAccepted, protowire.VarintType), protowire.EncodeZigZag(rec.AcceptedUnixNanos))
	}
	for _, route := range rec.Routes {
		ok = ok && utf8.ValidString(route)
		out = protowire.AppendString(protowire.AppendTag(out, recordRoutes, protowire.BytesType), route)
	}
	out = appendField(out, recordPrincipal, rec.Principal)
	out, traced := appendTrace(out, rec.Trace)
	return out, ok && traced
}

// encoder appends to out. What it does not do makes it bad.
type encoder struct {
	out []byte
	bad bool
}

// begin begins a message in a field; end ends it.
func (e *encoder) begin(number protowire.Number) (at int) {
	e.out = append(protowire.AppendTag(e.out, number, protowire.BytesType), 0)
	return len(e.out)
}

// end writes the length of what was appended since begin. There is room for a short one.
func (e *encoder) end(at int) {
	n := len(e.out) - at
	if n < 0x80 {
		e.out[at-1] = byte(n)
		return
	}
	var room [binary.MaxVarintLen64]byte
	e.out = append(e.out, room[:protowire.SizeVarint(uint64(n))-1]...)
	copy(e.out[len(e.out)-n:], e.out[at:])
	binary.PutUvarint(e.out[at-1:], uint64(n))
}

func (e *encoder) varint(number protowire.Number, v uint64) {
	e.out = protowire.AppendVarint(protowire.AppendTag(e.out, number, protowire.VarintType), v)
}

// text is a string that is there also if it is empty.
func (e *encoder) text(number protowire.Number, s string) {
	e.bad = e.bad || !utf8.ValidString(s)
	e.out = protowire.AppendString(protowire.AppendTag(e.out, number, protowire.BytesType), s)
}

func (e *encoder) bytes(number protowire.Number, b []byte) {
	e.out = protowire.AppendBytes(protowire.AppendTag(e.out, number, protowire.BytesType), b)
}

func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func (e *encoder) mutation(m *walproxyv1.Mutation) {
	if m.Collection != "" {
		e.text(mutationCollection, m.Collection)
	}
	at := e.begin(mutationKey)
	e.key(m.Key)
	e.end(at)
	for _, op := range m.Ops {
		at := e.begin(mutationOps)
		e.op(op)
		e.end(at)
	}
	if m.Precondition != nil {
		at := e.begin(mutationPrecondition)
		e.precondition(m.Precondition)
		e.end(at)
	}
	if m.RequestId != "" {
		e.text(mutationRequestID, m.RequestId)
	}
	if m.ExpiresAt != nil {
		e.timestamp(mutationExpiresAt, m.ExpiresAt)
	}
}

func (e *encoder) key(key *walproxyv1.Key) {
	switch k := key.Kind.(type) {
	case *walproxyv1.Key_String_:
		e.text(keyString, k.String_)
	case *walproxyv1.Key_Bytes:
		e.bytes(keyBytes, k.Bytes)
	case *walproxyv1.Key_Int64:
		e.varint(keyInt64, protowire.EncodeZigZag(k.Int64))
	case *walproxyv1.Key_Composite_:
		at := e.begin(keyComposite)
		for _, part := range k.Composite.GetParts() {
			at := e.begin(compositeParts)
			e.key(part) // which is no composite: it was checked
			e.end(at)
		}
		e.end(at)
	default:
		e.bad = true
	}
}

func (e *encoder) precondition(p *walproxyv1.Precondition) {
	switch k := p.Kind.(type) {
	case *walproxyv1.Precondition_IfVersion:
		e.varint(ifVersion, k.IfVersion)
	case *walproxyv1.Precondition_IfAbsent:
		e.varint(ifAbsent, flag(k.IfAbsent))
	case *walproxyv1.Precondition_IfEventCount:
		e.varint(ifEventCount, k.IfEventCount)
	default:
		e.bad = true
	}
}

func (e *encoder) timestamp(number protowire.Number, t *timestamppb.Timestamp) {
	at := e.begin(number)
	if t.Seconds != 0 {
		e.varint(1, uint64(t.Seconds))
	}
	if t.Nanos != 0 {
		e.varint(2, uint64(int64(t.Nanos)))
	}
	e.end(at)
}

func (e *encoder) op(op *walproxyv1.Op) {
	switch k := op.Kind.(type) {
	case *walproxyv1.Op_Set_:
		e.opFields(opSet, k.Set.GetFields())
	case *walproxyv1.Op_Merge_:
		e.opFields(opMerge, k.Merge.GetFields())
	case *walproxyv1.Op_Increment_:
		e.opFields(opIncrement, k.Increment.GetFields())
	case *walproxyv1.Op_Append_:
		e.opFields(opAppend, k.Append.GetFields())
	case *walproxyv1.Op_Prepend_:
		e.opFields(opPrepend, k.Prepend.GetFields())
	case *walproxyv1.Op_Unset_:
		at := e.begin(opUnset)
		for _, name := range k.Unset.GetFields() {
			e.text(1, name)
		}
		e.end(at)
	case *walproxyv1.Op_Touch_:
		e.end(e.begin(opTouch))
	case *walproxyv1.Op_Delete_:
		e.end(e.begin(opDelete))
	case *walproxyv1.Op_AppendEvent_:
		at := e.begin(opAppendEvent)
		for _, event := range k.AppendEvent.GetEvents() {
			e.opFields(1, event.GetFields())
		}
		e.end(at)
	default:
		e.bad = true
	}
}

// opFields is a message whose only field, number 1, is a map of values.
func (e *encoder) opFields(number protowire.Number, fields map[string]*walproxyv1.Value) {
	at := e.begin(number)
	e.fields(fields, plainDepth)
	e.end(at)
}

func (e *encoder) fields(fields map[string]*walproxyv1.Value, depth int) {
	if len(fields) == 1 {
		for name, v := range fields {
			e.field(name, v, depth)
		}
		return
	}
	var few [16]string
	names := few[:0]
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		e.field(name, fields[name], depth)
	}
}

func (e *encoder) field(name string, v *walproxyv1.Value, depth int) {
	at := e.begin(1)
	e.text(1, name)
	e.value(2, v, depth)
	e.end(at)
}

func (e *encoder) value(number protowire.Number, v *walproxyv1.Value, depth int) {
	at := e.begin(number)
	switch k := v.Kind.(type) {
	case *walproxyv1.Value_Null:
		e.varint(valueNull, 0)
	case *walproxyv1.Value_Bool:
		e.varint(valueBool, flag(k.Bool))
	case *walproxyv1.Value_Int64:
		e.varint(valueInt64, protowire.EncodeZigZag(k.Int64))
	case *walproxyv1.Value_Double:
		e.out = protowire.AppendFixed64(protowire.AppendTag(e.out, valueDouble, protowire.Fixed64Type), math.Float64bits(k.Double))
	case *walproxyv1.Value_Decimal:
		e.text(valueDecimal, k.Decimal)
	case *walproxyv1.Value_String_:
		e.text(valueString, k.String_)
	case *walproxyv1.Value_Bytes:
		e.bytes(valueBytes, k.Bytes)
	case *walproxyv1.Value_Timestamp:
		e.timestamp(valueTimestamp, k.Timestamp)
	case *walproxyv1.Value_List_:
		if depth == 0 {
			e.bad = true
			return
		}
		at := e.begin(valueList)
		for _, item := range k.List.GetValues() {
			e.value(1, item, depth-1)
		}
		e.end(at)
	case *walproxyv1.Value_Map_:
		if depth == 0 {
			e.bad = true
			return
		}
		at := e.begin(valueMap)
		e.fields(k.Map.GetFields(), depth-1)
		e.end(at)
	default:
		e.bad = true
	}
	e.end(at)
}
