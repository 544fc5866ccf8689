package looptest

import (
	"math/rand/v2"

	"github.com/walproxy/walproxy/sinks"
)

// restarter is a store whose restart loses some of what it acknowledged: those of
// sinks that are a sinks.Settler. It may be called while a sink is open on it.
type restarter interface{ Restart(random *rand.Rand) }

// settler is a sink in the driver's wrappings, which hide what it can.
type settler struct {
	sinks.Sink
	of sinks.Settler
}

func (s settler) Settled() sinks.LSN    { return s.of.Settled() }
func (s settler) Rewound() error        { return s.of.Rewound() }
func (s settler) News() <-chan struct{} { return s.of.News() }

// settling lets wrapped be a sinks.Settler if sink is one.
func settling(wrapped, sink sinks.Sink) sinks.Sink {
	if of, ok := sink.(sinks.Settler); ok {
		return settler{wrapped, of}
	}
	return wrapped
}

// restart restarts the store under a loop that runs; false: it forgets nothing. The
// loop ends, and the next life's goes on.
func (d *driver) restart(run *running) bool {
	store, ok := run.store.(restarter)
	if ok {
		store.Restart(rand.New(rand.NewPCG(d.random.Uint64(), 0)))
	}
	return ok
}
