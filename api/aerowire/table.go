package aerowire

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
)

// table is what is known of where a set's records are kept.
type table struct {
	shape sinks.Shape // nil: documents
	// keeps: what a record has beside its bins has a place. Without one there is no
	// generation, no time of the last write and no user's key, and what asks for them
	// is refused.
	keeps bool
}

// tableOf asks the store, if it has tables.
func (s *Server) tableOf(ctx context.Context, collection string) (table, error) {
	if s.o.Tables == nil {
		return table{keeps: true}, nil
	}
	shape, err := s.o.Tables.Shape(ctx, collection)
	if err != nil {
		return table{}, err
	}
	return table{shape: shape, keeps: shape.Has(recordField)}, nil
}

// mapped: bins are columns, which keep what they have a type for.
func (t table) mapped() bool { return t.shape != nil && !t.shape.Document() }

// record is fromDocument for a document of t's.
func (t table) record(d *mutation.Document) (*record, error) {
	r, err := fromDocument(d)
	if r != nil && !t.keeps {
		r.generation = 0
	}
	return r, err
}

// serves refuses what a record of t's cannot answer: o is a write if changes is set.
func (t table) serves(o *operation, changes bool) error {
	if t.keeps {
		return nil
	}
	if o.Info2&(codec.Info2Generation|codec.Info2GenerationGT) != 0 && o.Info2&codec.Info2Write != 0 || changes && o.key.Type != 0 {
		return codec.Unsupported
	}
	return nil
}

// check holds what is to be written against t: the error says what a client is told.
func (t table) check(fields map[string]*walproxyv1.Value, whole bool) error {
	if t.shape == nil {
		return nil
	}
	err := t.shape.Check(fields, whole)
	refused, ok := errors.AsType[*mutation.RejectedError](err)
	if !ok {
		return err
	}
	for name := range fields {
		if refused.Field != "fields."+name {
			continue
		}
		switch _, null := fields[name].GetKind().(*walproxyv1.Value_Null); {
		case !t.shape.Has(name), t.shape.Computed(name):
			return refusal{codec.BinName, err}
		case !null:
			return refusal{codec.IncompatibleType, err}
		}
	}
	return refusal{codec.Parameter, err} // a null, or nothing, where there must be a value
}

// refusal is a result, and why.
type refusal struct {
	codec.Result
	why error
}

func (r refusal) Unwrap() []error { return []error{r.Result, r.why} }

// explain logs why a write was refused, which the client is not told.
func (s *Server) explain(o *operation, err error) {
	if r, ok := errors.AsType[refusal](err); ok {
		s.log.Debug("a write does not fit its table", zap.String("collection", o.collection()), zap.Error(r.why))
	}
}
