package mutation

import (
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// Reading the log back is what a drain spends most of its time on, and nearly all
// of a log are writes to one key, mutations and statements. So those are decoded by hand: messages that
// come together are allocated together, and strings are cut out of the payload.
// Whatever is not exactly as Encode writes it (another kind of record, a field
// that is unknown, repeated, or of another wire type) is left to package proto
// and the check functions, which also find the words for an error. Where both
// read a payload they agree (FuzzDecodePlain).

// Field numbers of the schema.
const (
	recordFormat    = 1
	recordAccepted  = 2
	recordRoutes    = 3
	recordPrincipal = 4
	recordTrace     = 6
	recordMutation  = 10
	recordStatement = 12

	traceID     = 1
	traceSpanID = 2
	traceFlags  = 3
	traceState  = 4

	mutationCollection   = 1
	mutationKey          = 2
	mutationOps          = 3
	mutationPrecondition = 4
	mutationRequestID    = 5
	mutationExpiresAt    = 6

	keyString      = 1
	keyBytes       = 2
	keyInt64       = 3
	keyComposite   = 4
	compositeParts = 1

	opSet         = 1
	opMerge       = 2
	opUnset       = 3
	opIncrement   = 4
	opAppend      = 5
	opPrepend     = 6
	opTouch       = 7
	opDelete      = 8
	opAppendEvent = 9

	ifVersion    = 1
	ifAbsent     = 2
	ifEventCount = 3

	valueNull      = 1
	valueBool      = 2
	valueInt64     = 3
	valueDouble    = 4
	valueDecimal   = 5
	valueString    = 6
	valueBytes     = 7
	valueTimestamp = 8
	valueList      = 9
	valueMap       = 10
)

// plainDepth is how deep lists and maps nest before package proto takes over.
const plainDepth = 16

// plain is a record with a mutation, in one allocation.
type plain struct {
	record walproxyv1.Record
	body   walproxyv1.Record_Mutation
	routes [1]string
	plainMutation
}

// plainMutation is a mutation with most of what it consists of.
type plainMutation struct {
	mutation walproxyv1.Mutation
	key      walproxyv1.Key
	keyText  walproxyv1.Key_String_
	op       walproxyv1.Op
	ops      [1]*walproxyv1.Op
}

// DecodeMutations decodes what AppendMutation encodes, several at once; they share memory
// with payloads and with each other. ok is false where package proto has to do it.
func DecodeMutations(payloads []string) (ms []*walproxyv1.Mutation, ok bool) {
	all := make([]plainMutation, len(payloads))
	ms = make([]*walproxyv1.Mutation, len(payloads))
	for i := range all {
		if !all[i].decodeMutation(payloads[i]) {
			return nil, false
		}
		ms[i] = &all[i].mutation
	}
	return ms, true
}

// decodePlain decodes a record with a mutation or a statement; nil: left to others.
func decodePlain(payload string) *walproxyv1.Record {
	var p *plain
	var s *plainStatement
	var rec *walproxyv1.Record
	var routes []string
	switch bodyOf(payload) {
	case recordMutation:
		p = &plain{}
		rec, routes = &p.record, p.routes[:0]
	case recordStatement:
		s = &plainStatement{}
		rec, routes = &s.record, s.routes[:0]
	default:
		return nil
	}
	w := wire{rest: payload}
	for {
		number, kind, ok := w.next()
		if !ok {
			break
		}
		switch {
		case number == recordFormat && kind == wireVarint:
			rec.Format = uint32(w.varint())
		case number == recordAccepted && kind == wireVarint:
			rec.AcceptedUnixNanos = w.zigzag()
		case number == recordRoutes && kind == wireBytes:
			if rec.Routes == nil {
				rec.Routes = routes
			}
			rec.Routes = append(rec.Routes, w.text())
		case number == recordPrincipal && kind == wireBytes:
			rec.Principal = w.text()
		case number == recordTrace && kind == wireBytes && rec.Trace == nil:
			rec.Trace = decodeTrace(w.bytes())
			w.bad = rec.Trace == nil || w.bad
		case number == recordMutation && kind == wireBytes && rec.Body == nil && p != nil:
			p.body.Mutation = &p.mutation
			rec.Body = &p.body
			w.bad = !p.decodeMutation(w.bytes()) || w.bad
		case number == recordStatement && kind == wireBytes && rec.Body == nil && s != nil:
			s.body.Statement = &s.statement
			rec.Body = &s.body
			w.bad = !s.decodeStatement(w.bytes()) || w.bad
		default:
			return nil
		}
	}
	if w.bad || rec.Format != Format || rec.Body == nil {
		return nil
	}
	return rec
}

// bodyOf is the number of the field that is a plain record's body; 0: it has none.
func bodyOf(payload string) int {
	w := wire{rest: payload}
	for {
		number, kind, ok := w.next()
		if !ok || number == recordMutation || number == recordStatement {
			return number
		}
		w.skip(kind)
	}
}

// text is bytes of a string field.
func (w *wire) text() string {
	s := w.bytes()
	w.bad = w.bad || !utf8.ValidString(s)
	return s
}

// decodeTrace returns nil for what is left to others.
func decodeTrace(payload string) *walproxyv1.Trace {
	w, t := wire{rest: payload}, &walproxyv1.Trace{}
	for {
		number, kind, ok := w.next()
		if !ok {
			break
		}
		switch {
		case number == traceID && kind == wireBytes:
			t.TraceId = []byte(w.bytes())
		case number == traceSpanID && kind == wireBytes:
			t.SpanId = []byte(w.bytes())
		case number == traceFlags && kind == wireVarint:
			t.Flags = uint32(w.varint())
		case number == traceState && kind == wireBytes:
			t.State = w.text()
		default:
			return nil
		}
	}
	if w.bad {
		return nil
	}
	return t
}

func (p *plainMutation) decodeMutation(payload string) bool {
	w := wire{rest: payload}
	m := &p.mutation
	for {
		number, kind, ok := w.next()
		if !ok {
			break
		}
		switch {
		case kind != wireBytes:
			return false
		case number == mutationCollection:
			m.Collection = w.text()
		case number == mutationKey && m.Key == nil:
			m.Key = &p.key
			w.bad = !decodeKey(w.bytes(), &p.key, &p.keyText) || w.bad
		case number == mutationOps:
			op := &p.op
			if m.Ops == nil {
				m.Ops = p.ops[:0]
			} else {
				op = &walproxyv1.Op{}
			}
			m.Ops = append(m.Ops, op)
			w.bad = !decodeOp(w.bytes(), op) || w.bad
		case number == mutationPrecondition && m.Precondition == nil:
			m.Precondition = decodePrecondition(w.bytes())
			w.bad = m.Precondition == nil || w.bad
		case number == mutationRequestID:
			m.RequestId = w.text()
		case number == mutationExpiresAt && m.ExpiresAt == nil:
			m.ExpiresAt = decodeTimestamp(w.bytes())
			w.bad = m.ExpiresAt == nil || w.bad
		default:
			return false
		}
	}
	return !w.bad && m.Key != nil && len(m.Ops) > 0
}

// decodeKey fills key; text is for a string.
func decodeKey(payload string, key *walproxyv1.Key, text *walproxyv1.Key_String_) bool {
	w := wire{rest: payload}
	number, kind, _ := w.next()
	switch {
	case number == keyString && kind == wireBytes:
		text.String_ = w.text()
		key.Kind = text
	case number == keyBytes && kind == wireBytes:
		key.Kind = &walproxyv1.Key_Bytes{Bytes: []byte(w.bytes())}
	case number == keyInt64 && kind == wireVarint:
		key.Kind = &walproxyv1.Key_Int64{Int64: w.zigzag()}
	case number == keyComposite && kind == wireBytes && text != nil:
		composite := &walproxyv1.Key_Composite{}
		key.Kind = &walproxyv1.Key_Composite_{Composite: composite}
		parts := wire{rest: w.bytes()}
		for {
			number, kind, ok := parts.next()
			if !ok {
				break
			}
			if number != compositeParts || kind != wireBytes {
				return false
			}
			part := &walproxyv1.Key{}
			if b := parts.bytes(); !decodePart(b, part) {
				return false
			}
			composite.Parts = append(composite.Parts, part)
		}
		w.bad = w.bad || parts.bad
	default:
		return false
	}
	return !w.bad && len(w.rest) == 0
}

// decodePart is decodeKey inside a composite, which holds no composites.
func decodePart(payload string, part *walproxyv1.Key) bool {
	w := wire{rest: payload}
	if number, _, _ := w.next(); number == keyComposite {
		return false
	}
	return decodeKey(payload, part, &walproxyv1.Key_String_{})
}

func decodePrecondition(payload string) *walproxyv1.Precondition {
	w := wire{rest: payload}
	p := &walproxyv1.Precondition{}
	number, kind, _ := w.next()
	if kind != wireVarint {
		return nil
	}
	switch number {
	case ifVersion:
		p.Kind = &walproxyv1.Precondition_IfVersion{IfVersion: w.varint()}
	case ifAbsent:
		p.Kind = &walproxyv1.Precondition_IfAbsent{IfAbsent: w.varint() != 0}
	case ifEventCount:
		p.Kind = &walproxyv1.Precondition_IfEventCount{IfEventCount: w.varint()}
	default:
		return nil
	}
	if w.bad || len(w.rest) > 0 {
		return nil
	}
	return p
}

func decodeTimestamp(payload string) *timestamppb.Timestamp {
	const seconds, nanos = 1, 2
	w := wire{rest: payload}
	t := &timestamppb.Timestamp{}
	for {
		number, kind, ok := w.next()
		if !ok {
			break
		}
		switch {
		case number == seconds && kind == wireVarint:
			t.Seconds = int64(w.varint())
		case number == nanos && kind == wireVarint:
			t.Nanos = int32(w.varint())
		default:
			return nil
		}
	}
	if w.bad || !t.IsValid() {
		return nil
	}
	return t
}

func decodeOp(payload string, op *walproxyv1.Op) bool {
	w := wire{rest: payload}
	number, kind, _ := w.next()
	if kind != wireBytes {
		return false
	}
	body := w.bytes()
	if w.bad || len(w.rest) > 0 {
		return false
	}
	ok := true
	switch number {
	case opSet:
		o := &struct {
			kind walproxyv1.Op_Set_
			body walproxyv1.Op_Set
		}{}
		o.kind.Set, op.Kind = &o.body, &o.kind
		o.body.Fields, ok = decodeFields(body, plainDepth)
	case opMerge:
		o := &struct {
			kind walproxyv1.Op_Merge_
			body walproxyv1.Op_Merge
		}{}
		o.kind.Merge, op.Kind = &o.body, &o.kind
		o.body.Fields, ok = decodeFields(body, plainDepth)
	case opIncrement:
		o := &struct {
			kind walproxyv1.Op_Increment_
			body walproxyv1.Op_Increment
		}{}
		o.kind.Increment, op.Kind = &o.body, &o.kind
		o.body.Fields, ok = decodeFields(body, plainDepth)
	case opAppend:
		o := &walproxyv1.Op_Append{}
		op.Kind = &walproxyv1.Op_Append_{Append: o}
		o.Fields, ok = decodeFields(body, plainDepth)
	case opPrepend:
		o := &walproxyv1.Op_Prepend{}
		op.Kind = &walproxyv1.Op_Prepend_{Prepend: o}
		o.Fields, ok = decodeFields(body, plainDepth)
	case opUnset:
		o := &walproxyv1.Op_Unset{}
		op.Kind = &walproxyv1.Op_Unset_{Unset: o}
		o.Fields, ok = decodeNames(body)
	case opTouch:
		op.Kind = &walproxyv1.Op_Touch_{Touch: &walproxyv1.Op_Touch{}}
		ok = body == ""
	case opDelete:
		op.Kind = &walproxyv1.Op_Delete_{Delete: &walproxyv1.Op_Delete{}}
		ok = body == ""
	case opAppendEvent:
		o := &walproxyv1.Op_AppendEvent{}
		op.Kind = &walproxyv1.Op_AppendEvent_{AppendEvent: o}
		o.Events, ok = decodeEvents(body)
	default:
		return false
	}
	return ok
}

func decodeNames(payload string) (names []string, ok bool) {
	w := wire{rest: payload}
	for {
		number, kind, ok := w.next()
		if !ok {
			return names, !w.bad
		}
		if number != 1 || kind != wireBytes {
			return nil, false
		}
		names = append(names, w.text())
	}
}

func decodeEvents(payload string) (events []*walproxyv1.Event, ok bool) {
	w := wire{rest: payload}
	for {
		number, kind, ok := w.next()
		if !ok {
			return events, !w.bad
		}
		if number != 1 || kind != wireBytes {
			return nil, false
		}
		e := &walproxyv1.Event{}
		if e.Fields, ok = decodeFields(w.bytes(), plainDepth); !ok {
			return nil, false
		}
		events = append(events, e)
	}
}

// decodeFields decodes a message whose only field, number 1, is a map of values.
func decodeFields(payload string, depth int) (fields map[string]*walproxyv1.Value, ok bool) {
	n := 0
	for w := (wire{rest: payload}); ; n++ {
		number, kind, ok := w.next()
		if !ok {
			if w.bad {
				return nil, false
			}
			break
		}
		if number != 1 || kind != wireBytes {
			return nil, false
		}
		w.bytes()
	}
	if n == 0 {
		return nil, true
	}
	fields = make(map[string]*walproxyv1.Value, n)
	w := wire{rest: payload}
	for range n {
		w.next()
		entry := wire{rest: w.bytes()}
		number, kind, _ := entry.next()
		if number != 1 || kind != wireBytes {
			return nil, false
		}
		name := entry.text()
		number, kind, _ = entry.next()
		if number != 2 || kind != wireBytes {
			return nil, false
		}
		v := decodeValue(entry.bytes(), depth)
		if v == nil || entry.bad || len(entry.rest) > 0 {
			return nil, false
		}
		fields[name] = v
	}
	return fields, true
}

// decodeValue returns nil for what is left to others.
func decodeValue(payload string, depth int) (v *walproxyv1.Value) {
	w := wire{rest: payload}
	number, kind, _ := w.next()
	switch {
	case number == valueInt64 && kind == wireVarint:
		a := &struct {
			value walproxyv1.Value
			kind  walproxyv1.Value_Int64
		}{}
		a.kind.Int64 = w.zigzag()
		v, a.value.Kind = &a.value, &a.kind
	case number == valueString && kind == wireBytes:
		a := &struct {
			value walproxyv1.Value
			kind  walproxyv1.Value_String_
		}{}
		a.kind.String_ = w.text()
		v, a.value.Kind = &a.value, &a.kind
	case number == valueDouble && kind == wireFixed64:
		v = &walproxyv1.Value{Kind: &walproxyv1.Value_Double{Double: math.Float64frombits(w.fixed64())}}
	case number == valueBool && kind == wireVarint:
		v = &walproxyv1.Value{Kind: &walproxyv1.Value_Bool{Bool: w.varint() != 0}}
	case number == valueDecimal && kind == wireBytes:
		v = &walproxyv1.Value{Kind: &walproxyv1.Value_Decimal{Decimal: w.text()}}
	case number == valueBytes && kind == wireBytes:
		v = &walproxyv1.Value{Kind: &walproxyv1.Value_Bytes{Bytes: []byte(w.bytes())}}
	case number == valueNull && kind == wireVarint:
		w.bad = w.varint() != 0 || w.bad
		v = &walproxyv1.Value{Kind: &walproxyv1.Value_Null{Null: structpb.NullValue_NULL_VALUE}}
	case number == valueTimestamp && kind == wireBytes:
		t := decodeTimestamp(w.bytes())
		w.bad = t == nil || w.bad
		v = &walproxyv1.Value{Kind: &walproxyv1.Value_Timestamp{Timestamp: t}}
	case number == valueList && kind == wireBytes && depth > 0:
		list := &walproxyv1.Value_List{}
		w.bad = !decodeList(w.bytes(), list, depth-1) || w.bad
		v = &walproxyv1.Value{Kind: &walproxyv1.Value_List_{List: list}}
	case number == valueMap && kind == wireBytes && depth > 0:
		m, ok := &walproxyv1.Value_Map{}, false
		m.Fields, ok = decodeFields(w.bytes(), depth-1)
		w.bad = !ok || w.bad
		v = &walproxyv1.Value{Kind: &walproxyv1.Value_Map_{Map: m}}
	default:
		return nil
	}
	if w.bad || len(w.rest) > 0 {
		return nil
	}
	return v
}

func decodeList(payload string, list *walproxyv1.Value_List, depth int) bool {
	w := wire{rest: payload}
	for {
		number, kind, ok := w.next()
		if !ok {
			return !w.bad
		}
		if number != 1 || kind != wireBytes {
			return false
		}
		v := decodeValue(w.bytes(), depth)
		if v == nil {
			return false
		}
		list.Values = append(list.Values, v)
	}
}
