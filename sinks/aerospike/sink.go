package aerospike

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/gate"
	"github.com/walproxy/walproxy/sinks"
)

// Sink is a store in the sets of an Aerospike cluster. All methods may be called
// concurrently.
type Sink struct {
	o       Options
	log     *zap.Logger
	shared  *shared
	owner   *owner
	reach   *reach
	rules   *rules
	places  places
	metrics *metrics

	// Calls that Close waits for: those of the contract, and behind them the
	// messages that were given up and whose answer is still to come.
	calls *gate.Gate
	// Those of the latter that may still write what was written since; see strays.
	strays strays

	closed struct {
		once sync.Once
		ch   chan struct{} // closed when nothing runs and the client is given back
	}
}

// Open returns a sink. It connects when it is used: a cluster that is away is no
// error here. The caller must Close it.
func Open(o Options) (*Sink, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("sink aerospike: options: %w", err)
	}
	s := &Sink{o: o, log: o.Logger, calls: gate.New(sinks.ErrClosed)}
	s.closed.ch = make(chan struct{})
	s.owner, s.reach, s.rules = newOwner(s), newReach(s), newRules(s)
	var err error
	if s.metrics, err = newMetrics(s); err != nil {
		return nil, fmt.Errorf("sink aerospike: %w", err)
	}
	if s.shared, err = o.Clients.acquire(&s.o); err != nil {
		s.metrics.close()
		return nil, fmt.Errorf("sink aerospike: options: %w", err)
	}
	return s, nil
}

// wait runs f, which talks to the cluster, until it returns or ctx ends. f goes on
// then, at most for its own time-out, and Close waits for it: what it was given
// must not be used any more. sent says that f may change something. The caller has
// entered.
func wait[T any](ctx context.Context, s *Sink, sent bool, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	s.calls.Go(func() {
		value, err := f()
		answers <- answer{value, err}
	})
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		if sent && s.owner.applies() {
			end := s.strays.begun()
			s.calls.Go(func() {
				<-answers
				end()
			})
		}
		var none T
		return none, gaveUp(ctx, sent)
	}
}

// Close ends new calls, waits for those that run and gives the client back; the
// connections close with its last user. It may be called again, also while it
// runs. If ctx ends first the running calls are cut off, Close returns its cause
// and closing goes on behind it, at most for the time-outs of a message.
func (s *Sink) Close(ctx context.Context) error {
	s.closed.once.Do(func() {
		s.calls.Shut()
		s.owner.end()
		s.reach.end()
		s.rules.end()
		go func() {
			s.calls.Wait()
			s.owner.join()
			s.shared.release()
			s.metrics.close()
			close(s.closed.ch)
		}()
	})
	select {
	case <-s.closed.ch:
		return nil
	default:
	}
	select {
	case <-s.closed.ch:
		return nil
	case <-ctx.Done():
		s.calls.Cut(context.Cause(ctx))
		return fmt.Errorf("sink aerospike: close: calls are still running: %w", context.Cause(ctx))
	}
}

var _ sinks.Sink = (*Sink)(nil)
