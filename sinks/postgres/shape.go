package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// recordPrefix begins the names of the fields that Collection.RecordColumn takes: what
// an Aerospike record has beside its bins. They are longer than a bin's name can be.
const recordPrefix = "$aerospike.record"

// errUnshaped: nothing is known of a collection's table.
var errUnshaped = errors.New("sink postgres: the collection's table is not known yet, and the server does not answer")

// Shape implements sinks.Shaper. Beside a server that does not answer, a collection
// without an entry in the configuration is taken for documents if those are made
// (Options.AutoCreate): what else would it be.
func (s *Sink) Shape(ctx context.Context, collection string) (sinks.Shape, error) {
	if m := s.planner.mapping(collection); m != nil {
		return m, nil
	}
	var found *mapping
	err := s.mapped(ctx, collection, func(_ context.Context, _ *pgconn.PgConn, m *mapping) error {
		found = m
		return nil
	})
	switch {
	case err == nil:
		return found, nil
	case errors.Is(err, mutation.ErrNotFound): // there is no table yet, and one of documents will be made
		return documents{}, nil
	}
	// Retry and unknown say nothing against the collection.
	if outcome := sinks.OutcomeOf(err); outcome != sinks.Halt && s.o.AutoCreate && s.o.collection(collection).Table == "" {
		return documents{}, nil
	}
	return nil, fmt.Errorf("%w: %w", errUnshaped, err)
}

// Exact implements sinks.Shaper.
func (s *Sink) Exact(collection string) bool {
	m := s.planner.mapping(collection)
	return m != nil && m.Document()
}

// documents is the shape of a document table that is not there yet.
type documents struct{}

func (documents) Document() bool                                 { return true }
func (documents) Check(map[string]*walproxyv1.Value, bool) error { return nil }
func (documents) Has(string) bool                                { return true }
func (documents) Computed(string) bool                           { return false }

// Document implements sinks.Shape.
func (m *mapping) Document() bool { return m.document && !m.table.triggers }

// Has implements sinks.Shape.
func (m *mapping) Has(field string) bool {
	return m.document || m.byField[field] != nil || m.keeps(field)
}

// Computed implements sinks.Shape.
func (m *mapping) Computed(field string) bool {
	c := m.byField[field]
	return c != nil && (c.generated || c.always)
}

// Check implements sinks.Shape: what columnsOf and operation would reject, and nulls
// where there must be none. Not known here are lengths, CHECKs, and what is unique.
func (m *mapping) Check(fields map[string]*walproxyv1.Value, whole bool) error {
	if m.document {
		return nil
	}
	w := &work{}
	columns, values, _, err := w.columnsOf(m, fields)
	if err != nil {
		return err
	}
	for i, c := range columns {
		if err := newArray(c.codec.element, 1).value(c.codec, values[i]); err != nil {
			return rejected("fields."+c.name, "%s (%s)", err, c.typeName)
		}
		if c.notNull && isNull(values[i]) {
			return rejected("fields."+c.name, "must not be null (%s)", c.typeName)
		}
	}
	if !whole {
		return nil
	}
	for _, c := range m.fields {
		if c.notNull && !c.hasValue && !c.kept && !c.generated && !slices.Contains(columns, c) && !m.triggered() {
			return rejected("fields."+c.name, "is missing, must not be null and has no default (%s)", c.typeName)
		}
	}
	return nil
}

// triggered: a trigger may fill in what is missing.
func (m *mapping) triggered() bool { return m.table.triggers }

// keeps reports whether the overflow column takes a field that has no column.
func (m *mapping) keeps(field string) bool {
	if m.overflow == nil || field == m.overflow.name || m.version != nil && field == m.version.name {
		return false
	}
	return m.prefixed == "" || len(field) >= len(m.prefixed) && field[:len(m.prefixed)] == m.prefixed
}

var (
	_ sinks.Shaper = (*Sink)(nil)
	_ sinks.Shape  = (*mapping)(nil)
)
