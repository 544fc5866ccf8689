package aerospike

import (
	"context"

	"github.com/walproxy/walproxy/sinks"
)

// Apply implements sinks.Sink.
func (s *Sink) Apply(ctx context.Context, b *sinks.Batch) ([]sinks.Result, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	t, err := s.owner.begin(ctx, b)
	if err != nil {
		return nil, err
	}
	defer t.release()
	if t.done {
		return sinks.Results(len(b.Records), sinks.Applied, nil), nil
	}
	return nil, errNotYet
}
