package aerowire

import (
	"context"

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
	if sent, ok := m.Field(codec.FieldFilter); ok {
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
	for i := range b.Rows {
		a := s.row(ctx, &b.Rows[i], filter)
		a.Timeout = b.Rows[i].Index
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
