package walproxy

import (
	"context"
	"fmt"

	"github.com/walproxy/walproxy/replay"
)

// Track has Newest and Direct know a collection from now on. Few collections are to be tracked:
// they stay so.
func (p *Proxy) Track(collection string) { p.acceptor.Track(collection) }

// Newest is the LSN of the last write to a tracked collection, or a higher one: with
// it applied nothing is pending that was acknowledged before the call. It is 0 if
// there surely is none, or if the collection is not tracked.
func (p *Proxy) Newest(collection string) LSN { return p.acceptor.Newest(collection) }

// Direct waits until a sink has applied everything that is pending of a tracked
// collection, and keeps it so until leave is called: for who writes to the store past
// the log. Meanwhile other writes to the collection wait, for a while: then they are
// ErrDirect. Errors are those of WaitSink; leave is nil then.
func (p *Proxy) Direct(ctx context.Context, sink, collection string) (leave func(), err error) {
	leave, err = p.acceptor.Direct(ctx, collection, func(ctx context.Context, lsn LSN) error { return p.WaitSink(ctx, sink, lsn) })
	return leave, closedError(err)
}

// WaitSink returns nil once everything up to lsn that is routed to the sink is
// applied there or a dead letter; SinkFate tells which. It returns ErrUnknownLSN,
// ErrHalted, ErrPaused, or ctx's cause.
func (p *Proxy) WaitSink(ctx context.Context, sink string, lsn LSN) error {
	s, err := p.sink(sink)
	if err != nil {
		return err
	}
	if lsn > p.log.Appended() {
		return fmt.Errorf("%w: %d", ErrUnknownLSN, lsn)
	}
	return closedError(s.Wait(ctx, lsn))
}

// SinkFate is what became of a write at a sink, which may not have passed it yet.
func (p *Proxy) SinkFate(sink string, lsn LSN) (replay.Fate, error) {
	s, err := p.sink(sink)
	if err != nil {
		return "", err
	}
	return s.loop().Fate(lsn)
}
