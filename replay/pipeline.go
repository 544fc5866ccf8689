package replay

import (
	"context"
	"fmt"
	"sync"

	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// recordOverhead estimates what a decoded record costs beside its payload.
const recordOverhead = 512

// pipeline is a set of lanes and the feeds that give them records. Run makes
// one, or two when the lanes changed.
//
// One goroutine per feed reads and dispatches; one per lane decodes and applies;
// keep marks lanes whose checkpoint falls behind; cutOff bounds the end. mu
// covers what they share and is never held during a call of the log or the sink.
type pipeline struct {
	loop     *Loop
	epoch    uint64
	by       laneMap
	newLanes int         // switch to so many at until; 0: no switch
	until    sinks.Point // with newLanes: where this pipeline ends
	relaned  bool        // the switch was made; read after run
	cancel   context.CancelCauseFunc
	stopped  <-chan struct{} // closed with the order to stop
	feeds    []*feed
	lanes    []*lane

	late  chan struct{} // token: keep has something to watch
	quiet chan struct{} // token: a lane has finished something while alone

	mu     sync.Mutex
	err    error // why halted; never cleared
	items  int   // records queued or in flight, all lanes
	flying int   // batches in flight, or left without an answer
	size   size  // of the next batches
	// alone: a record is about to be applied alone. No lingering, no idle moves.
	alone   bool
	meeting *meeting
	dozing  bool // keep waits for late
}

func newPipeline(l *Loop, c sinks.Checkpoint, by laneMap) *pipeline {
	p := &pipeline{
		loop: l, epoch: c.Epoch, by: by, dozing: true,
		late: make(chan struct{}, 1), quiet: make(chan struct{}, 1),
	}
	p.size, _ = l.pace.now()
	for i, at := range c.Lanes {
		p.lanes = append(p.lanes, &lane{index: i, from: at.LSN, stored: at, wake: make(chan struct{}, 1)})
	}
	rest := p.lanes
	for _, class := range by.classes {
		p.feeds = append(p.feeds, newFeed(p, rest[:class.Lanes:class.Lanes], l.o.QueueBytes/len(by.classes)))
		rest = rest[class.Lanes:]
	}
	p.publishLocked() // nobody else knows p yet
	return p
}

// feedAll runs the feeds to their end and reports whether all reached it.
func (p *pipeline) feedAll(stop, work context.Context) (complete bool) {
	var running sync.WaitGroup
	complete = true
	var mu sync.Mutex
	for _, f := range p.feeds {
		running.Go(func() {
			ok := f.dispatch(stop, work)
			f.drain()
			mu.Lock()
			defer mu.Unlock()
			complete = complete && ok
		})
	}
	running.Wait()
	return complete
}

// finish notes that b was applied: ln's flight, or for nil a batch of all lanes.
func (p *pipeline) finish(ln *lane, b *sinks.Batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range b.Moves {
		p.lanes[m.Lane].stored = m.To
	}
	p.flying--
	p.size, _ = p.loop.pace.now()
	if ln != nil {
		p.countPassedLocked(ln)
		p.items -= len(ln.flight)
		ln.feed.finishLocked(ln)
	}
	p.loop.records.Add(uint64(len(b.Records)))
	p.loop.batches.Add(1)
	p.publishLocked()
	if p.alone {
		signal(p.quiet)
	}
}

// publishLocked works out the watermarks.
func (p *pipeline) publishLocked() {
	applied, checkpoint := p.lanes[0].applied(), p.lanes[0].stored.LSN
	for _, ln := range p.lanes[1:] {
		applied = min(applied, ln.applied())
		checkpoint = min(checkpoint, ln.stored.LSN)
	}
	for _, ln := range p.lanes {
		ln.serve()
	}
	p.loop.raise(applied, checkpoint)
}

// hurry cuts the lingering of batches that somebody waits for.
func (p *pipeline) hurry(lsn wal.LSN) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ln := range p.lanes {
		if len(ln.queue) > 0 && ln.queue[0].LSN <= lsn {
			signal(ln.wake)
		}
	}
}

func (p *pipeline) snapshot() (lanes []wal.LSN, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ln := range p.lanes {
		lanes = append(lanes, ln.stored.LSN)
	}
	for _, f := range p.feeds {
		bytes += f.bytes
	}
	return lanes, bytes
}

func (p *pipeline) locateOrHalt(b *sinks.Batch) bool {
	if err := p.locate(b.Moves); err != nil {
		p.halt(err)
		return false
	}
	return true
}

// decodeError is why the loop halts at a record that cannot be read.
func (p *pipeline) decodeError(lsn wal.LSN, err error) error {
	return &DecodeError{LSN: lsn, Sink: p.loop.o.Name, Err: err}
}

// halt makes err the reason to stop, unless there is one.
func (p *pipeline) halt(err error) {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
		p.loop.setState(Halted, err)
	}
	p.mu.Unlock()
	p.cancel(err)
}

func (p *pipeline) halted() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// empty reports that everything dispatched is applied, for sure.
func (p *pipeline) empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.items == 0 && p.flying == 0 && p.err == nil
}

// locate fills in the incarnations of where moves go.
func (p *pipeline) locate(moves []sinks.Move) error {
	for i := range moves {
		to, err := p.point(moves[i].To.LSN)
		if err != nil {
			return err
		}
		moves[i].To = to
	}
	return nil
}

func (p *pipeline) point(lsn wal.LSN) (sinks.Point, error) {
	to, err := p.loop.pointOf(lsn)
	if err != nil {
		return to, fmt.Errorf("replay: sink %q: place LSN %d in the log's history: %w", p.loop.o.Name, lsn, err)
	}
	return to, nil
}
