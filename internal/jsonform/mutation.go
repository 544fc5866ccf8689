package jsonform

import (
	"encoding/base64"
	"slices"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// DecodeFields reads a whole text that is one object of fields.
func DecodeFields(data []byte) (map[string]*walproxyv1.Value, error) {
	var m fields
	err := whole(data, func(p *parser) (err *Error) {
		m, err = p.fields()
		return err
	})
	return m, err
}

// DecodeNames reads a whole text that is one array of field names.
func DecodeNames(data []byte) ([]string, error) {
	var names []string
	err := whole(data, func(p *parser) (err *Error) {
		names, err = p.names()
		return err
	})
	return names, err
}

func (p *parser) names() ([]string, *Error) {
	var names []string
	if p.peek() != '[' {
		return nil, p.fail("want an array of field names, found %s", p.found())
	}
	err := p.array(func(int) *Error {
		p.space()
		name, err := p.string()
		names = append(names, name)
		return err
	})
	return names, err
}

// DecodeEvents reads {"expected_version": N, "events": [{...}]}. Without
// expected_version count is nil.
func DecodeEvents(data []byte) (count *uint64, events []*walproxyv1.Event, err error) {
	err = whole(data, func(p *parser) *Error {
		return p.members([]member{
			{"expected_version", func() *Error {
				n, err := p.unsigned()
				count = &n
				return err
			}},
			{"events", func() (err *Error) {
				events, err = p.events()
				return err
			}},
		})
	})
	return count, events, err
}

func (p *parser) events() ([]*walproxyv1.Event, *Error) {
	var events []*walproxyv1.Event
	if p.peek() != '[' {
		return nil, p.fail("want an array of events, found %s", p.found())
	}
	err := p.array(func(int) *Error {
		m, err := p.fields()
		events = append(events, &walproxyv1.Event{Fields: m})
		return err
	})
	return events, err
}

// DecodeKey reads a whole text that is one key: text, a whole number,
// {"$bytes": ...}, or an array of these.
func DecodeKey(data []byte) (*walproxyv1.Key, error) {
	var key *walproxyv1.Key
	err := whole(data, func(p *parser) (err *Error) {
		key, err = p.key()
		return err
	})
	return key, err
}

func (p *parser) key() (*walproxyv1.Key, *Error) {
	if p.peek() != '[' {
		return p.keyPart()
	}
	var parts []*walproxyv1.Key
	err := p.array(func(int) *Error {
		part, err := p.keyPart()
		parts = append(parts, part)
		return err
	})
	return mutation.Composite(parts...), err
}

func (p *parser) keyPart() (*walproxyv1.Key, *Error) {
	switch c := p.peek(); {
	case c == '"':
		s, err := p.string()
		return mutation.String(s), err
	case c == '-' || '0' <= c && c <= '9':
		n, err := p.integer()
		return mutation.Int64(n), err
	case c == '{':
		start := p.pos
		v, err := p.mapOrWrapped()
		if err != nil {
			return nil, err
		}
		if b, ok := v.GetKind().(*walproxyv1.Value_Bytes); ok {
			return mutation.Bytes(b.Bytes), nil
		}
		p.pos = start
	}
	return nil, p.fail(`want a key: text, a whole number, {"$bytes": ...} or an array of these`)
}

// member is a known member of an object.
type member struct {
	name string
	read func() *Error
}

// members reads an object that has no other members than known ones, each at
// most once.
func (p *parser) members(known []member) *Error {
	if p.peek() != '{' {
		return p.fail("want an object, found %s", p.found())
	}
	var seen uint64
	return p.object(func(name string) *Error {
		i := slices.IndexFunc(known, func(m member) bool { return m.name == name })
		if i < 0 {
			return p.fail("unknown member")
		}
		if seen&(1<<i) != 0 {
			return p.fail("stands twice")
		}
		seen |= 1 << i
		return known[i].read()
	})
}

// DecodeMutation reads one mutation:
//
//	{"collection": "orders", "key": "42", "set": {...}, ...}
//
// Its ops are applied in this order, whatever the order of the members: delete,
// set, merge, unset, increment, append, prepend, append_event, touch.
func DecodeMutation(data []byte) (*walproxyv1.Mutation, error) {
	var m *walproxyv1.Mutation
	err := whole(data, func(p *parser) (err *Error) {
		m, err = p.mutation()
		return err
	})
	return m, err
}

// DecodeMutations reads an array of mutations, as they are in a group.
func DecodeMutations(data []byte) ([]*walproxyv1.Mutation, error) {
	var all []*walproxyv1.Mutation
	err := whole(data, func(p *parser) *Error {
		if p.peek() != '[' {
			return p.fail("want an array of mutations, found %s", p.found())
		}
		return p.array(func(int) *Error {
			m, err := p.mutation()
			all = append(all, m)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (p *parser) mutation() (*walproxyv1.Mutation, *Error) {
	r := mutationReader{p: p, m: &walproxyv1.Mutation{}}
	if err := p.members(r.members()); err != nil {
		return nil, err
	}
	for _, op := range r.ops {
		if op != nil {
			r.m.Ops = append(r.m.Ops, op)
		}
	}
	return r.m, nil
}

const (
	opDelete = iota
	opSet
	opMerge
	opUnset
	opIncrement
	opAppend
	opPrepend
	opAppendEvent
	opTouch
	opCount
)

type mutationReader struct {
	p   *parser
	m   *walproxyv1.Mutation
	ops [opCount]*walproxyv1.Op
}

func (r *mutationReader) members() []member {
	return []member{
		{"collection", func() (err *Error) { r.m.Collection, err = r.p.string(); return err }},
		{"key", func() (err *Error) { r.m.Key, err = r.p.key(); return err }},
		{"set", func() *Error { return r.fieldsOp(opSet) }},
		{"merge", func() *Error { return r.fieldsOp(opMerge) }},
		{"unset", r.unset},
		{"increment", func() *Error { return r.fieldsOp(opIncrement) }},
		{"append", func() *Error { return r.fieldsOp(opAppend) }},
		{"prepend", func() *Error { return r.fieldsOp(opPrepend) }},
		{"append_event", r.appendEvent},
		{"touch", func() *Error { return r.switchOp(opTouch) }},
		{"delete", func() *Error { return r.switchOp(opDelete) }},
		{"if_version", func() *Error { return r.precondition("if_version") }},
		{"if_absent", func() *Error { return r.precondition("if_absent") }},
		{"if_event_count", func() *Error { return r.precondition("if_event_count") }},
		{"request_id", func() (err *Error) { r.m.RequestId, err = r.p.string(); return err }},
		{"expires_at", r.expiresAt},
	}
}

func (r *mutationReader) fieldsOp(kind int) *Error {
	m, err := r.p.fields()
	if err != nil {
		return err
	}
	r.ops[kind] = fieldsOp(kind, m)
	return nil
}

func fieldsOp(kind int, m fields) *walproxyv1.Op {
	switch kind {
	case opSet:
		return &walproxyv1.Op{Kind: &walproxyv1.Op_Set_{Set: &walproxyv1.Op_Set{Fields: m}}}
	case opMerge:
		return &walproxyv1.Op{Kind: &walproxyv1.Op_Merge_{Merge: &walproxyv1.Op_Merge{Fields: m}}}
	case opIncrement:
		return &walproxyv1.Op{Kind: &walproxyv1.Op_Increment_{Increment: &walproxyv1.Op_Increment{Fields: m}}}
	case opAppend:
		return &walproxyv1.Op{Kind: &walproxyv1.Op_Append_{Append: &walproxyv1.Op_Append{Fields: m}}}
	}
	return &walproxyv1.Op{Kind: &walproxyv1.Op_Prepend_{Prepend: &walproxyv1.Op_Prepend{Fields: m}}}
}

func (r *mutationReader) unset() *Error {
	names, err := r.p.names()
	r.ops[opUnset] = &walproxyv1.Op{Kind: &walproxyv1.Op_Unset_{Unset: &walproxyv1.Op_Unset{Fields: names}}}
	return err
}

func (r *mutationReader) appendEvent() *Error {
	events, err := r.p.events()
	r.ops[opAppendEvent] = &walproxyv1.Op{Kind: &walproxyv1.Op_AppendEvent_{
		AppendEvent: &walproxyv1.Op_AppendEvent{Events: events}}}
	return err
}

func (r *mutationReader) switchOp(kind int) *Error {
	op := &walproxyv1.Op{Kind: &walproxyv1.Op_Touch_{Touch: &walproxyv1.Op_Touch{}}}
	if kind == opDelete {
		op = &walproxyv1.Op{Kind: &walproxyv1.Op_Delete_{Delete: &walproxyv1.Op_Delete{}}}
	}
	r.ops[kind] = op
	return r.p.isTrue()
}

func (r *mutationReader) precondition(name string) *Error {
	if r.m.Precondition != nil {
		return r.p.fail("a mutation has one precondition: if_version, if_absent or if_event_count")
	}
	r.m.Precondition = &walproxyv1.Precondition{}
	if name == "if_absent" {
		r.m.Precondition.Kind = &walproxyv1.Precondition_IfAbsent{IfAbsent: true}
		return r.p.isTrue()
	}
	n, err := r.p.unsigned()
	if name == "if_version" {
		r.m.Precondition.Kind = &walproxyv1.Precondition_IfVersion{IfVersion: n}
	} else {
		r.m.Precondition.Kind = &walproxyv1.Precondition_IfEventCount{IfEventCount: n}
	}
	return err
}

func (r *mutationReader) expiresAt() *Error {
	start := r.p.pos
	text, err := r.p.string()
	if err != nil {
		return err
	}
	t, parseErr := ParseTime(text)
	if parseErr != nil {
		r.p.pos = start
		return r.p.fail("%s", parseErr)
	}
	r.m.ExpiresAt = t
	return nil
}

// AppendKey appends the JSON form of a key.
func AppendKey(dst []byte, key *walproxyv1.Key) []byte {
	switch k := key.GetKind().(type) {
	case *walproxyv1.Key_String_:
		return appendString(dst, k.String_)
	case *walproxyv1.Key_Int64:
		return appendInt(dst, k.Int64)
	case *walproxyv1.Key_Bytes:
		dst = append(dst, `{"$bytes":"`...)
		return append(base64.StdEncoding.AppendEncode(dst, k.Bytes), `"}`...)
	case *walproxyv1.Key_Composite_:
		dst = append(dst, '[')
		for i, part := range k.Composite.GetParts() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendKey(dst, part)
		}
		return append(dst, ']')
	}
	return append(dst, "null"...)
}
