package walproxy

import (
	"context"
	"errors"
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/accept"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// Result of an accepted write.
type Result struct {
	// LSN of the write; also the new version of the record it wrote.
	LSN LSN
	// Repeat: the request id was seen before and LSN is the original write's.
	Repeat bool
	// EventCount of the record after an append_event under if_event_count; else 0.
	EventCount uint64
}

// Append returns once m is durable in the log.
//
// An error before the write got its LSN means that nothing was logged:
// *mutation.InvalidError, *ConflictError, ErrRequestMismatch, ErrUnroutable,
// *BehindError, wal.ErrFull, wal.ErrTooLarge, ErrDirect, ErrDraining, ErrClosed. After it (ctx ended, wal.ErrPoisoned)
// the outcome is unknown: the write may be applied; repeat it under the same
// request id. Result.LSN is set exactly then.
func (p *Proxy) Append(ctx context.Context, m *walproxyv1.Mutation) (Result, error) {
	return p.appendRecord(ctx, mutationRecord(m))
}

// AppendGroup is Append for several writes that are applied as one: one LSN,
// one transaction, all or none.
func (p *Proxy) AppendGroup(ctx context.Context, g *walproxyv1.Group) (Result, error) {
	return p.appendRecord(ctx, &walproxyv1.Record{Body: &walproxyv1.Record_Group{Group: g}})
}

func (p *Proxy) appendRecord(ctx context.Context, rec *walproxyv1.Record) (Result, error) {
	pending, err := p.submit(ctx, rec)
	if err != nil {
		return Result{}, err
	}
	return pending.Wait(ctx)
}

// AppendAsync returns once m has its LSN, before it is durable. Errors mean that
// nothing was logged. Only Pending tells when the write is acknowledged.
func (p *Proxy) AppendAsync(ctx context.Context, m *walproxyv1.Mutation) (*Pending, error) {
	return p.submit(ctx, mutationRecord(m))
}

// BatchResult is the outcome of one mutation of AppendBatch.
type BatchResult struct {
	Result
	Err error // as Append returns it
}

// AppendBatch appends every mutation on its own, in order, and returns when all
// outcomes are known. It is not atomic (that is AppendGroup); it shares fsyncs.
func (p *Proxy) AppendBatch(ctx context.Context, ms []*walproxyv1.Mutation) []BatchResult {
	results := make([]BatchResult, len(ms))
	pending := make([]*Pending, len(ms))
	for i, m := range ms {
		pending[i], results[i].Err = p.AppendAsync(ctx, m)
	}
	for i, w := range pending {
		if w != nil {
			results[i].Result, results[i].Err = w.Wait(ctx)
		}
	}
	return results
}

func mutationRecord(m *walproxyv1.Mutation) *walproxyv1.Record {
	return &walproxyv1.Record{Body: &walproxyv1.Record_Mutation{Mutation: m}}
}

func (p *Proxy) submit(ctx context.Context, rec *walproxyv1.Record) (*Pending, error) {
	return p.submitBy(ctx, rec, (*accept.Acceptor).Submit)
}

// submitBy is submit by a way of the acceptor's.
func (p *Proxy) submitBy(ctx context.Context, rec *walproxyv1.Record, way func(*accept.Acceptor, context.Context, *walproxyv1.Record) (*accept.Pending, error)) (*Pending, error) {
	if p.closing.Load() {
		return nil, ErrClosed
	}
	if err := p.intake.enter(); err != nil {
		return nil, err
	}
	defer p.intake.leave()
	w, err := way(p.acceptor, ctx, rec)
	if err != nil {
		return nil, closedError(err)
	}
	p.recent.note(w)
	return &Pending{w}, nil
}

// Pending is a write that has its LSN and is not known to be durable yet.
type Pending struct{ write *accept.Pending }

// LSN of the write. Having one is no acknowledgement.
func (p *Pending) LSN() LSN { return p.write.LSN() }

// Done is closed when the outcome is known.
func (p *Pending) Done() <-chan struct{} { return p.write.Done() }

// Wait returns nil once the write is durable. Errors mean that the outcome is
// unknown: wal.ErrPoisoned, or ctx's cause.
func (p *Pending) Wait(ctx context.Context) (Result, error) {
	r, err := p.write.Wait(ctx)
	return Result(r), err
}

// closedError makes the log's word for closed the caller's.
func closedError(err error) error {
	if errors.Is(err, wal.ErrClosed) {
		return ErrClosed
	}
	if errors.Is(err, sinks.ErrRewound) && !errors.Is(err, ErrHalted) { // a read that met it
		return fmt.Errorf("%w: %w", ErrHalted, err)
	}
	return err
}
