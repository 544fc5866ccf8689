package postgres

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/gate"
	"github.com/walproxy/walproxy/sinks"
)

// Sink is a store in one PostgreSQL database. All methods may be called
// concurrently.
type Sink struct {
	o      Options
	schema string // quoted
	log    *zap.Logger

	applyPool, readPool *pgxpool.Pool
	owner               *owner
	sweep               *sweeper
	planner             planner
	metrics             *metrics
	claimed             atomic.Pointer[string] // identity of the store, once it was claimed

	calls *gate.Gate // that Close waits for

	closed struct {
		once sync.Once
		// quiet is closed when no call runs and the lock is given back, ch when the
		// connections are closed, too.
		quiet, ch chan struct{}
	}
}

// Open returns a sink. It connects when it is used: a server that is away is no
// error here. The caller must Close it.
func Open(o Options) (*Sink, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("sink postgres: options: %w", err)
	}
	s := &Sink{o: o, schema: quote(o.Schema), log: o.Logger, calls: gate.New(sinks.ErrClosed)}
	s.closed.quiet, s.closed.ch = make(chan struct{}), make(chan struct{})
	config, err := pgx.ParseConfig(o.DSN) // its error leaves the password out
	if err != nil {
		return nil, fmt.Errorf("sink postgres: dsn: %w", err)
	}
	if s.applyPool, err = s.newPool(config, o.Pools.Apply); err != nil {
		return nil, fmt.Errorf("sink postgres: %w", err)
	}
	if s.readPool, err = s.newPool(config, o.Pools.Read); err != nil {
		s.applyPool.Close()
		return nil, fmt.Errorf("sink postgres: %w", err)
	}
	s.owner, s.sweep = newOwner(s, config), newSweeper(s)
	if s.planner = o.planner; s.planner == nil {
		s.planner, err = newPlanner(s.o)
	}
	if err == nil {
		s.metrics, err = newMetrics(s)
	}
	if err != nil {
		s.applyPool.Close()
		s.readPool.Close()
		return nil, fmt.Errorf("sink postgres: %w", err)
	}
	return s, nil
}

// LaneGroup implements sinks.Linker.
func (s *Sink) LaneGroup(collection string) string { return s.planner.laneGroup(collection) }

// Describe implements sinks.Describer.
func (s *Sink) Describe() sinks.Description {
	d := sinks.Description{LaneGroups: s.planner.laneGroups(), Warnings: s.planner.warnings()}
	if s.owner.holds() {
		d.Owner = s.owner.name()
	}
	return d
}

// Close ends new calls, waits for those that run, gives the stream's lock back
// and closes the connections. It may be called again, also while it runs. If ctx
// ends first the running calls are cut off, Close returns its cause and closing
// goes on behind it. So does that of connections alone, beside a server that
// hangs, which is no error.
func (s *Sink) Close(ctx context.Context) error {
	s.closed.once.Do(func() {
		s.calls.Shut()
		s.sweep.end()
		go func() {
			s.calls.Wait()
			s.sweep.join()
			s.owner.close()
			close(s.closed.quiet)
			s.applyPool.Close()
			s.readPool.Close()
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
		select {
		case <-s.closed.quiet: // a server that hangs lets go of no connection
			return nil
		default:
		}
		s.calls.Cut(context.Cause(ctx))
		return fmt.Errorf("sink postgres: close: calls are still running: %w", context.Cause(ctx))
	}
}

var (
	_ sinks.Sink       = (*Sink)(nil)
	_ sinks.Identifier = (*Sink)(nil)
	_ sinks.Linker     = (*Sink)(nil)
	_ sinks.Describer  = (*Sink)(nil)
	_ sinks.Positioner = (*Sink)(nil)
)
