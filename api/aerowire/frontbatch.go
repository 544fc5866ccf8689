package aerowire

import (
	"context"
	"iter"
	"sync"

	"github.com/walproxy/walproxy"
	"github.com/walproxy/walproxy/api/aerowire/codec"
)

const (
	// frontRowsMax rows of a batch are done at once, and their answers kept.
	frontRowsMax = 32
	// frontKeysMax of these wait for the cluster at once, if one of them writes.
	frontKeysMax = 8
)

// frontRows does the rows of a batch, some at once: those of one record in their
// order. filter counts where a row has none.
func (s *Server) frontRows(ctx context.Context, b *codec.Batch, filter []byte) iter.Seq2[int, *answer] {
	return func(yield func(int, *answer) bool) {
		for first := 0; first < len(b.Rows); first += frontRowsMax {
			part := b.Rows[first:min(first+frontRowsMax, len(b.Rows))]
			for i, a := range s.frontPart(ctx, part, filter) {
				if !yield(first+i, a) {
					return
				}
			}
		}
	}
}

// frontRow is a row that waits for its turn.
type frontRow struct {
	at int // in the answers
	o  *operation
}

// frontPart does some rows and returns their answers.
func (s *Server) frontPart(ctx context.Context, part []codec.Row, filter []byte) []*answer {
	answers := make([]*answer, len(part))
	var rows []frontRow
	reads := true
	for i := range part {
		o, err := s.operation(part[i].Message, &part[i].Digest)
		if err != nil {
			answers[i] = failed(resultOf(err))
			continue
		}
		if o.rawFilter == nil {
			o.rawFilter = filter
		}
		reads = reads && o.Info2&codec.Info2Write == 0 && o.Info1&codec.Info1Read != 0
		rows = append(rows, frontRow{i, o})
	}
	if reads {
		s.askAll(ctx, rows, answers)
	} else {
		s.frontKeys(ctx, rows, answers)
	}
	return answers
}

// askAll is ask for many records: they are asked for in one go.
func (s *Server) askAll(ctx context.Context, rows []frontRow, answers []*answer) {
	if err := s.o.Store.Away(); err != nil {
		for _, row := range rows {
			answers[row.at] = failed(codec.Unavailable)
		}
		return
	}
	ctx, cancel := s.patient(ctx)
	defer cancel()
	var messages []*codec.Message
	var of []frontRow
	for _, row := range rows {
		nothing := func(context.Context) error { return nil }
		if err := s.o.Core.See(ctx, row.o.collection(), row.o.documentKey(), nothing); err != nil {
			answers[row.at] = failed(s.late(err))
			continue
		}
		messages, of = append(messages, row.o.message()), append(of, row)
	}
	replies, errs := s.o.Store.Forward(ctx, messages, make([]walproxy.LSN, len(messages)))
	for i, row := range of {
		answers[row.at] = s.replied(messages[i], replies[i], errs[i])
	}
}

// frontKeys does rows of several records at once.
func (s *Server) frontKeys(ctx context.Context, rows []frontRow, answers []*answer) {
	byKey := map[string][]frontRow{}
	var order []string
	for _, row := range rows {
		key := row.o.collection() + "\x00" + string(row.o.digest[:])
		if byKey[key] == nil {
			order = append(order, key)
		}
		byKey[key] = append(byKey[key], row)
	}
	var done sync.WaitGroup
	slots := make(chan struct{}, frontKeysMax)
	panicked := make(chan any, len(order))
	for _, key := range order {
		slots <- struct{}{}
		done.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					panicked <- v
				}
				<-slots
			}()
			for _, row := range byKey[key] {
				answers[row.at] = s.one(ctx, row.o)
			}
		})
	}
	done.Wait()
	select {
	case v := <-panicked:
		panic(v) // where the connection survives it
	default:
	}
}
