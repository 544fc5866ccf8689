package mutation

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// Option is a part of a mutation beside its ops.
type Option func(*walproxyv1.Mutation)

// IfVersion: the record's version, the LSN of its last write, must be v; 0: it
// must not exist.
func IfVersion(v LSN) Option {
	return func(m *walproxyv1.Mutation) {
		m.Precondition = &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfVersion{IfVersion: uint64(v)}}
	}
}

// IfAbsent: the record must not exist.
func IfAbsent() Option {
	return func(m *walproxyv1.Mutation) {
		m.Precondition = &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfAbsent{IfAbsent: true}}
	}
}

// IfEventCount: the record's event stream must hold n events.
func IfEventCount(n uint64) Option {
	return func(m *walproxyv1.Mutation) {
		m.Precondition = &walproxyv1.Precondition{Kind: &walproxyv1.Precondition_IfEventCount{IfEventCount: n}}
	}
}

// WithRequestID makes a repeat with the same id answer with the first one's
// result.
func WithRequestID(id string) Option {
	return func(m *walproxyv1.Mutation) { m.RequestId = id }
}

// ExpiresAt is when the record ends.
func ExpiresAt(t time.Time) Option {
	return func(m *walproxyv1.Mutation) { m.ExpiresAt = timestamppb.New(t) }
}

// New returns a mutation of several ops. Validate says whether they go together.
func New(collection string, key *walproxyv1.Key, ops []*walproxyv1.Op, options ...Option) *walproxyv1.Mutation {
	m := &walproxyv1.Mutation{Collection: collection, Key: key, Ops: ops}
	for _, option := range options {
		option(m)
	}
	return m
}

func one(collection string, key *walproxyv1.Key, op *walproxyv1.Op, options []Option) *walproxyv1.Mutation {
	return New(collection, key, []*walproxyv1.Op{op}, options...)
}

// fromFields is the common part of the ops that name fields and values.
func fromFields(collection string, key *walproxyv1.Key, fields map[string]any, options []Option,
	op func(map[string]*walproxyv1.Value) *walproxyv1.Op) (*walproxyv1.Mutation, error) {
	values, err := FieldsFromAny(fields)
	if err != nil {
		return nil, err
	}
	return one(collection, key, op(values), options), nil
}

// Set replaces the whole record; fields are as for FromAny.
func Set(collection string, key *walproxyv1.Key, fields map[string]any, options ...Option) (*walproxyv1.Mutation, error) {
	return fromFields(collection, key, fields, options, SetOp)
}

// Merge sets the named fields and keeps the others.
func Merge(collection string, key *walproxyv1.Key, fields map[string]any, options ...Option) (*walproxyv1.Mutation, error) {
	return fromFields(collection, key, fields, options, MergeOp)
}

// Increment adds numbers to fields.
func Increment(collection string, key *walproxyv1.Key, fields map[string]any, options ...Option) (*walproxyv1.Mutation, error) {
	return fromFields(collection, key, fields, options, IncrementOp)
}

// Append adds to the end of strings, bytes or lists.
func Append(collection string, key *walproxyv1.Key, fields map[string]any, options ...Option) (*walproxyv1.Mutation, error) {
	return fromFields(collection, key, fields, options, AppendOp)
}

// Prepend adds to the front of strings, bytes or lists.
func Prepend(collection string, key *walproxyv1.Key, fields map[string]any, options ...Option) (*walproxyv1.Mutation, error) {
	return fromFields(collection, key, fields, options, PrependOp)
}

// Unset removes fields.
func Unset(collection string, key *walproxyv1.Key, fields []string, options ...Option) *walproxyv1.Mutation {
	return one(collection, key, UnsetOp(fields...), options)
}

// Touch gives an existing record a new version and, with ExpiresAt, expiry.
func Touch(collection string, key *walproxyv1.Key, options ...Option) *walproxyv1.Mutation {
	return one(collection, key, TouchOp(), options)
}

// Delete removes the record and its events.
func Delete(collection string, key *walproxyv1.Key, options ...Option) *walproxyv1.Mutation {
	return one(collection, key, DeleteOp(), options)
}

// AppendEvents appends to the record's event stream.
func AppendEvents(collection string, key *walproxyv1.Key, events []map[string]any, options ...Option) (*walproxyv1.Mutation, error) {
	list := make([]*walproxyv1.Event, len(events))
	for i, event := range events {
		fields, err := FieldsFromAny(event)
		if err != nil {
			return nil, err
		}
		list[i] = &walproxyv1.Event{Fields: fields}
	}
	return one(collection, key, AppendEventOp(list...), options), nil
}
