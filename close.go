package walproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// RemainingError says that Close ran out of time, or a sink had halted, with
// records in the log that are not applied. Nothing is lost: the next Open
// applies exactly these.
type RemainingError struct {
	// Records by sink: what is routed to it and was not passed. Exact, but where
	// Open found a backlog that was not counted yet: an upper bound then.
	Records map[string]uint64
}

func (e *RemainingError) Error() string {
	parts := make([]string, 0, len(e.Records))
	for _, name := range slices.Sorted(maps.Keys(e.Records)) {
		parts = append(parts, fmt.Sprintf("%d for sink %s", e.Records[name], name))
	}
	return "walproxy: records stay in the log for the next start: " + strings.Join(parts, ", ")
}

var errDrainTimeout = errors.New("walproxy: drain timed out")

// Close takes no new work, makes the last group durable, drains until ctx or
// Options.DrainTimeout ends (paused sinks are left as they are), stores the checkpoints and closes everything that
// Open opened. It blocks until all of it is done, whatever ctx says, and every
// step runs whatever failed before it. A second call waits for the first and
// returns the same.
//
// *RemainingError says what was not applied; wal.ErrPoisoned that the log had
// failed.
func (p *Proxy) Close(ctx context.Context) error {
	if p.closing.Swap(true) {
		<-p.closed
		return p.closeErr
	}
	defer close(p.closed)
	drainCtx, cancel := context.WithTimeoutCause(ctx, p.options.DrainTimeout, errDrainTimeout)
	defer cancel()

	close(p.ending)
	p.stopPaused()
	sealErr := p.log.Seal(context.WithoutCancel(ctx)) // the last fsync and its acks
	p.drain(drainCtx)
	close(p.stopSpace)
	p.stopHold()
	p.stopCount()
	p.space.Wait()
	p.noteApplied()
	remaining := p.remaining()
	if p.replayTo != nil {
		remaining = nil // Status tells
	}
	p.releasing.Lock() // a backup reads the log's files
	defer p.releasing.Unlock()
	p.closeErr = errors.Join(sealErr, p.release(), remaining)
	return p.closeErr
}

// drain waits until every loop has applied all of the sealed log or drainCtx
// ends, and then until every loop has returned.
func (p *Proxy) drain(drainCtx context.Context) {
	done := make(chan struct{})
	go func() { // ends with the loops, which are joined here
		p.loops.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-drainCtx.Done():
	}
	p.stopLoops(context.Cause(drainCtx))
	<-done
}

// remaining returns a *RemainingError, or nil if every sink has everything.
func (p *Proxy) remaining() error {
	records := map[string]uint64{}
	for _, s := range p.sinks {
		if left, _, _ := p.lagOf(s); left > 0 {
			records[s.name] = left
		}
	}
	if len(records) == 0 {
		return nil
	}
	return &RemainingError{Records: records}
}

// release closes what open opened, also when open failed halfway.
func (p *Proxy) release() error {
	var errs []error
	if p.metrics != nil {
		p.options.Registerer.Unregister(p.metrics)
	}
	if p.acceptor != nil {
		errs = append(errs, p.acceptor.Close())
	}
	// The state store goes before the log: the log's lock covers both.
	if p.state != nil {
		errs = append(errs, p.state.Close())
	}
	if p.log != nil {
		errs = append(errs, p.log.Close())
	}
	return errors.Join(errs...)
}
