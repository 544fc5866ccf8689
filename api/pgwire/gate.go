package pgwire

import (
	"context"
	"sync"

	"github.com/walproxy/walproxy/wal"
)

// pendings is what gates and barriers need of the log.
type pendings interface {
	// Newest is the LSN of the collection's last write, or a higher one.
	Newest(collection string) wal.LSN
	// WaitSink returns nil once the sink has passed lsn.
	WaitSink(ctx context.Context, sink string, lsn wal.LSN) error
}

// gate orders the two ways to write a table: through the log, and directly, in a
// transaction of PostgreSQL's. They exclude each other. Who writes directly first
// waits until everything that is logged is applied; while he is at it, writes that
// could be written behind are direct ones, too. So an old write from the log never
// overwrites a newer direct one, and nothing from the log ever waits for a lock of a
// transaction that in turn waits for the log.
type gate struct {
	log        pendings
	sink       string
	collection string

	mu struct {
		sync.Mutex
		direct  int           // transactions that may write the table
		logging int           // writes on their way into the log
		empty   chan struct{} // closed when logging falls to 0; nil: nobody waits for that
	}
}

// enterLog reports whether a write may go through the log now. Behind its ack, or
// what came instead, leaveLog is called.
func (g *gate) enterLog() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.direct > 0 {
		return false
	}
	g.mu.logging++
	return true
}

func (g *gate) leaveLog() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.logging--; g.mu.logging == 0 && g.mu.empty != nil {
		close(g.mu.empty)
		g.mu.empty = nil
	}
}

// enterDirect waits until nothing is pending of the table and keeps it so, until
// leaveDirect is called. After an error it is not to be called.
func (g *gate) enterDirect(ctx context.Context) error {
	// Most of it goes by while others write on, for it may take its time, or fail
	// because PostgreSQL is away.
	if err := g.drain(ctx); err != nil {
		return err
	}
	g.mu.Lock()
	g.mu.direct++
	var empty chan struct{}
	if g.mu.logging > 0 {
		if g.mu.empty == nil {
			g.mu.empty = make(chan struct{})
		}
		empty = g.mu.empty
	}
	g.mu.Unlock()
	err := g.drainRest(ctx, empty)
	if err != nil {
		g.leaveDirect()
	}
	return err
}

func (g *gate) drainRest(ctx context.Context, empty <-chan struct{}) error {
	if empty != nil {
		select {
		case <-empty:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return g.drain(ctx)
}

func (g *gate) drain(ctx context.Context) error {
	return g.log.WaitSink(ctx, g.sink, g.log.Newest(g.collection))
}

func (g *gate) leaveDirect() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.direct--
}

// enterLog enters the gates of all of the collections, or of none.
func (t *tables) enterLog(collections []string) bool {
	for i, name := range collections {
		if !t.gates[name].enterLog() {
			t.leaveLog(collections[:i])
			return false
		}
	}
	return true
}

func (t *tables) leaveLog(collections []string) {
	for _, name := range collections {
		t.gates[name].leaveLog()
	}
}

// ends is what is to be done when PostgreSQL has finished a session's transaction.
type ends struct {
	tables    *tables
	direct    []string // collections whose gates it entered
	schema    bool     // it may have changed the schema
	sequences bool     // it may have set a sequence

	// Of the named Parse messages on their way: nothing else was, when they were
	// passed on.
	naming []naming
	parsed int      // ParseCompletes since
	named  []naming // those that PostgreSQL has made
}

type naming struct {
	name string
	*prepared
}

// leave leaves the gates.
func (e *ends) leave() {
	for _, name := range e.direct {
		e.tables.gates[name].leaveDirect()
	}
	e.direct = nil
}

// release leaves the gates, and has the schema looked at if it may have changed.
func (e *ends) release() {
	e.leave()
	if e.sequences {
		e.sequences = false
		e.tables.sequences.forget()
	}
	if e.schema {
		e.schema = false
		e.tables.watch.Changed()
	}
}
