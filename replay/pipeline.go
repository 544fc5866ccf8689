package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// recordOverhead estimates what a decoded record costs beside its payload.
const recordOverhead = 512

// pipeline feeds one set of lanes from the log. Run makes one, or two when the
// number of lanes changed.
//
// One goroutine reads and dispatches; one per lane applies; keep marks lanes
// whose checkpoint falls behind; cutOff bounds the end. mu covers what they
// share and is never held during a call of the log or the sink.
type pipeline struct {
	loop     *Loop
	epoch    uint64
	by       laneMap
	newLanes int         // switch to so many at until; 0: no switch
	until    sinks.Point // with newLanes: where this pipeline ends
	relaned  bool        // the switch was made; read after run
	cancel   context.CancelCauseFunc
	stopped  <-chan struct{} // closed with the order to stop

	room chan struct{} // token: a lane has finished something
	late chan struct{} // token: keep has something to watch

	mu    sync.Mutex
	err   error // why halted; never cleared
	lanes []*lane
	// read: every record at or below it is applied, queued in its lane, or not
	// for this sink. last is the highest of these records (they differ in a
	// gap): checkpoints lie on records.
	read, last wal.LSN
	items      int  // records queued or in flight, all lanes
	bytes      int  // their memory, estimated
	flying     int  // batches in flight, or left without an answer
	size       size // of the next batches
	// flush: no lingering, because the dispatcher waits for the lanes. alone:
	// no idle moves either, because it is about to move all lanes itself.
	flush, alone bool
	ending       bool // nothing more comes: lanes end when they are empty
	swept        wal.LSN
	sweptBytes   int  // of the log, read since swept
	dozing       bool // keep waits for late
}

func newPipeline(l *Loop, c sinks.Checkpoint, by laneMap) *pipeline {
	low := max(c.Low().LSN, l.start())
	p := &pipeline{
		loop: l, epoch: c.Epoch, by: by, read: low, last: low, swept: low, dozing: true,
		room: make(chan struct{}, 1), late: make(chan struct{}, 1),
	}
	p.size, _ = l.pace.now()
	for i, at := range c.Lanes {
		p.lanes = append(p.lanes, &lane{index: i, from: at.LSN, stored: at, wake: make(chan struct{}, 1)})
	}
	p.publishLocked() // nobody else knows p yet
	return p
}

// dispatch reads until the pipeline's end, which it reports, or until stop ends.
func (p *pipeline) dispatch(stop, work context.Context, source *source) (complete bool) {
	for p.newLanes == 0 || p.read < p.until.LSN {
		record, err := source.next(stop)
		switch {
		case err == nil:
		case stop.Err() != nil:
			return false
		case errors.Is(err, io.EOF):
			return true // until is in the log's history, so nothing is missing
		default:
			p.halt(fmt.Errorf("replay: sink %q: after LSN %d: %w", p.loop.o.Name, p.read, err))
			return false
		}
		if p.newLanes > 0 && record.LSN > p.until.LSN {
			return true // until lies in a gap
		}
		if record.skip {
			p.pass(sinks.Record{LSN: record.LSN})
			continue
		}
		if !p.accept(stop, work, record.Record) {
			return false
		}
	}
	return true
}

// accept does with one record what is to be done; false: stop.
func (p *pipeline) accept(stop, work context.Context, record wal.Record) bool {
	body, err := mutation.Decode(record.Payload)
	if err != nil {
		p.halt(&DecodeError{LSN: record.LSN, Sink: p.loop.o.Name, Err: err})
		return false
	}
	r := sinks.Record{
		LSN: record.LSN, Accepted: time.Unix(0, body.GetAcceptedUnixNanos()).UTC(),
		Body: body, Bytes: len(record.Payload),
	}
	if !slices.Contains(body.GetRoutes(), p.loop.o.Name) {
		p.pass(r)
		return true
	}
	if p.newLanes == 0 { // else by what is stored already
		if err := p.loop.noteGroups(body); err != nil {
			p.halt(err)
			return false
		}
	}
	index, single := p.laneOf(&r)
	switch {
	case !single || p.retries(&r):
		return p.acceptAlone(stop, work, r)
	case r.LSN <= p.lanes[index].from:
		p.passOwn(r)
		return true
	}
	return p.enqueue(stop, p.lanes[index], r)
}

// laneOf returns the lane of r, if all its keys share one.
func (p *pipeline) laneOf(r *sinks.Record) (index int, single bool) {
	index, single = -1, true
	mutation.Keys(r.Body, func(collection string, key *walproxyv1.Key) {
		i := p.by.of(collection, key)
		single = single && (index < 0 || i == index)
		index = i
	})
	return index, single && index >= 0
}

// pass notes a record that this pipeline has nothing to do for.
func (p *pipeline) pass(r sinks.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advanceLocked(r)
	p.publishLocked()
}

// enqueue gives r to ln as soon as there is room; false: stop.
func (p *pipeline) enqueue(stop context.Context, ln *lane, r sinks.Record) bool {
	cost := r.Bytes + recordOverhead
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.items > 0 && p.bytes+cost > p.loop.o.QueueBytes {
		if !p.awaitLocked(stop) {
			return false
		}
	}
	p.flush = false
	p.items++
	p.bytes += cost
	ln.push(item{Record: r, previous: p.last}, p.size)
	p.advanceLocked(r)
	return true
}

// awaitLocked waits for the lanes to finish something; false: stop. They do not
// linger until flush is taken back.
func (p *pipeline) awaitLocked(stop context.Context) bool {
	if !p.flush {
		p.flush = true
		p.wakeLocked()
	}
	p.mu.Unlock()
	select {
	case <-p.room:
	case <-stop.Done():
	}
	p.mu.Lock()
	return stop.Err() == nil
}

// advanceLocked notes that r was read and is accounted for.
func (p *pipeline) advanceLocked(r sinks.Record) {
	p.read, p.last = r.LSN, r.LSN
	p.sweptBytes += r.Bytes
	if p.sweptBytes >= p.loop.o.Idle.Bytes || p.read-p.swept >= wal.LSN(p.loop.o.Idle.Records) {
		p.sweepLocked()
	}
	if p.dozing {
		p.dozing = false
		signal(p.late)
	}
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
	if ln == nil {
		p.alone = false
	} else {
		p.countPassedLocked(ln)
		p.items -= len(ln.flight)
		for _, it := range ln.flight {
			p.bytes -= it.Bytes + recordOverhead
		}
		clear(ln.flight) // the queue may share the array
		ln.flight, ln.flying, ln.passed = nil, false, 0
	}
	p.loop.records.Add(uint64(len(b.Records)))
	p.loop.batches.Add(1)
	p.publishLocked()
	signal(p.room)
}

// publishLocked works out the watermarks.
func (p *pipeline) publishLocked() {
	applied, checkpoint := p.lanes[0].appliedTo(p.read), p.lanes[0].stored.LSN
	for _, ln := range p.lanes[1:] {
		applied = min(applied, ln.appliedTo(p.read))
		checkpoint = min(checkpoint, ln.stored.LSN)
	}
	p.loop.marks.raise(applied, checkpoint)
}

func (p *pipeline) wakeLocked() {
	for _, ln := range p.lanes {
		signal(ln.wake)
	}
}

// drain tells the lanes that nothing more comes.
func (p *pipeline) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ending, p.flush = true, true
	p.wakeLocked()
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
	return lanes, p.bytes
}

func (p *pipeline) locateOrHalt(b *sinks.Batch) bool {
	if err := p.locate(b.Moves); err != nil {
		p.halt(err)
		return false
	}
	return true
}
