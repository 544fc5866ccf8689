package aerowire

import (
	"context"
	"iter"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/expression"
)

// batch answers a message with many rows, each on its own: rows are done in their
// order, so that two writes to one key are too, and share fsyncs. If not every
// row is to be answered, a failure is the answer to all: they are done all the same.
func (s *Server) batch(ctx context.Context, m *codec.Message, field []byte, out *stream) error {
	b, err := codec.ParseBatch(field, m, s.o.MaxBatchRows)
	if err != nil {
		if isResult(err) {
			return out.last(resultOf(err))
		}
		return out.last(codec.Parameter)
	}
	var filter *expression.Expression
	sent, filtered := m.Field(codec.FieldFilter)
	if filtered && s.o.Store == nil {
		release, err := s.reserve(ctx, sent)
		if err != nil {
			return out.last(resultOf(err))
		}
		defer release()
		if filter, err = expression.Parse(sent); err != nil {
			return out.last(resultOf(err))
		}
	}
	result := codec.OK
	rows := s.rows(ctx, b, filter)
	if s.o.Store != nil {
		rows = s.frontRows(ctx, b, sent)
	}
	for i, a := range rows {
		a.Timeout = b.Rows[i].Index
		s.metrics.rows.add(kindOf(b.Rows[i].Message), a.Result)
		if a.Result == codec.NamespaceNotFound { // which ends the batch
			result = codec.Parameter
			out.drop()
			break
		}
		if b.Rows[i].Message.Info2&codec.Info2Write == 0 {
			for j := range a.ops {
				a.ops[j].Type = codec.OpRead
			}
		}
		switch a.Result {
		case codec.OK, codec.NotFound, codec.FilteredOut:
		default:
			if b.Flags&codec.BatchRespondAll == 0 {
				result = a.Result
			}
		}
		if err := out.add(a); err != nil {
			return err
		}
		if result != codec.OK { // the answer to all rows
			out.drop()
		}
	}
	return out.last(result)
}

// rows does the rows one after the other.
func (s *Server) rows(ctx context.Context, b *codec.Batch, filter *expression.Expression) iter.Seq2[int, *answer] {
	return func(yield func(int, *answer) bool) {
		for i := range b.Rows {
			if !yield(i, s.row(ctx, &b.Rows[i], filter)) {
				return
			}
		}
	}
}

// row does one row; the batch's filter counts where the row has none.
func (s *Server) row(ctx context.Context, row *codec.Row, filter *expression.Expression) *answer {
	o, err := s.operation(row.Message, &row.Digest)
	if err != nil {
		return failed(resultOf(err))
	}
	if o.rawFilter == nil {
		o.filter = filter
	}
	return s.one(ctx, o)
}

// attempt does a message for one record, or says what room it needs for that.
func (s *Server) attempt(ctx context.Context, o *operation) *answer {
	if s.o.Store != nil {
		return s.front(ctx, o)
	}
	if o.linearized() {
		return failed(codec.EnterpriseOnly)
	}
	if err := o.parseFilter(); err != nil {
		return s.failure(err)
	}
	switch {
	case o.Info2&codec.Info2Delete != 0 && o.Info2&codec.Info2Write != 0:
		return s.remove(ctx, o)
	case o.Info2&codec.Info2Write != 0:
		return s.write(ctx, o)
	case o.Info1&codec.Info1Read != 0:
		return s.read(ctx, o)
	}
	return failed(codec.Parameter)
}
