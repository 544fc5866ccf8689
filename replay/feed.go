package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// A feed's chunk is given to the lanes when it has so many records, a share of
// the feed's QueueBytes, or when the next record is not at hand.
const (
	chunkRecords = 512
	chunkShare   = 8
)

// feed reads the log for some of the lanes and distributes the records, a chunk
// at a time: so the lock is taken, and lanes are woken, once for many records. It
// looks at a record only as far as it must to know the lane, which decodes it.
type feed struct {
	*pipeline
	lanes    []*lane // the pipeline's that it feeds
	source   *source
	bytesMax int
	began    wal.LSN       // the sink had everything up to it; fixed
	room     chan struct{} // token: one of the lanes has finished something

	// The dispatching goroutine's alone.
	chunk   chunk
	outline mutation.Outline
	unread  *read            // the next one, which was read and given back
	places  map[string]place // of collections seen

	// Covered by the pipeline's mu.
	//
	// read: every record at or below it is applied, queued in its lane, or not
	// for these lanes. last is the highest of these records (they differ in a
	// gap): checkpoints lie on records.
	read, last wal.LSN
	bytes      int  // memory of the records queued or in flight, estimated
	items      int  // their number
	flush      bool // no lingering: the feed waits for its lanes, or has ended
	ended      bool // nothing more comes: lanes end when they are empty
	swept      wal.LSN
	sweptBytes int // of the log, read since swept
}

// chunk is what a feed has read and not yet given to the lanes.
type chunk struct {
	last    wal.LSN // last record read, those of earlier chunks included
	lanes   []*lane // that have records ahead
	records int     // read
	items   int     // for the lanes
	cost    int     // their memory, estimated
	bytes   int     // of the log, read
}

func newFeed(p *pipeline, lanes []*lane, bytesMax int) *feed {
	f := &feed{
		pipeline: p, lanes: lanes, bytesMax: bytesMax,
		room: make(chan struct{}, 1), places: map[string]place{},
	}
	f.read = slices.MinFunc(lanes, func(a, b *lane) int { return cmp.Compare(a.from, b.from) }).from
	f.read = max(f.read, p.loop.start())
	f.began = f.read
	f.last, f.swept, f.chunk.last = f.read, f.read, f.read
	f.source = p.loop.newSource(f.read)
	for _, ln := range lanes {
		ln.feed = f
		ln.slab.size = min(slabSize, f.bytesMax/(chunkShare*len(lanes)))
	}
	return f
}

// end is where the pipeline ends, if the log does not end before.
func (p *pipeline) end() wal.LSN {
	end := wal.LSN(1<<64 - 1)
	if p.loop.o.Until > 0 {
		end = p.loop.o.Until
	}
	if p.newLanes > 0 {
		end = min(end, p.until.LSN)
	}
	return end
}

// dispatch reads until the pipeline's end, which it reports, or until stop ends.
func (f *feed) dispatch(stop, work context.Context) (complete bool) {
	end := f.end()
	for f.chunk.last < end {
		record, ok := f.atHand()
		var err error
		if !ok {
			if !f.deliver(stop) {
				return false
			}
			record, err = f.source.next(stop)
		}
		switch {
		case err == nil:
		case stop.Err() != nil:
			return false
		case errors.Is(err, io.EOF):
			return true // until is in the log's history, so nothing is missing
		default:
			if errors.Is(err, wal.ErrCorrupt) {
				err = fmt.Errorf("%w; stop the server and run `walproxy log repair`", err)
			}
			f.halt(fmt.Errorf("replay: sink %q: after LSN %d: %w", f.loop.o.Name, f.chunk.last, err))
			return false
		}
		if record.LSN > end {
			break // held records, or those of an old log, have holes
		}
		if !f.accept(stop, work, record) {
			return false
		}
	}
	return f.deliver(stop)
}

// atHand is the source's, with what was given back to it.
func (f *feed) atHand() (read, bool) {
	if r := f.unread; r != nil {
		f.unread = nil
		return *r, true
	}
	return f.source.atHand()
}

// accept does with one record what is to be done; false: stop.
func (f *feed) accept(stop, work context.Context, record read) bool {
	f.chunk.records++
	f.chunk.bytes += len(record.Payload)
	if record.skip {
		return f.pass(stop, record.LSN)
	}
	if record.IsGap() {
		return f.acceptGap(stop, record.Record)
	}
	if !f.outline.Read(record.Payload) {
		return f.acceptDecoded(stop, work, record)
	}
	if !f.outline.Routed(f.loop.o.Name) {
		return f.pass(stop, record.LSN)
	}
	at, ok := f.placeOf(f.outline.Collection)
	if !ok {
		return false
	}
	ln := f.pipeline.lanes[at.lane(mutation.HashEncoded(f.outline.Key))]
	r := sinks.Record{LSN: record.LSN, Bytes: len(record.Payload)}
	switch {
	case ln.feed != f:
		return f.pass(stop, r.LSN)
	case r.LSN <= ln.from:
		return f.passOwn(stop, &r)
	}
	return f.add(stop, ln, item{Record: r, payload: ln.slab.copy(record.Payload)})
}

// acceptDecoded is accept for a record that has no outline.
func (f *feed) acceptDecoded(stop, work context.Context, record read) bool {
	body, err := mutation.Decode(record.Payload)
	if err != nil {
		f.halt(f.decodeError(record.LSN, err))
		return false
	}
	r := recordOf(record.LSN, len(record.Payload), body)
	if !f.routed(body) {
		return f.pass(stop, r.LSN)
	}
	ln, single, ok := f.laneOf(body)
	switch {
	case !ok:
		return false
	case f.retries(&r):
		return f.slow(stop) && f.deliver(stop) && f.acceptRetries(stop, work, r)
	case !single:
		return f.slow(stop) && f.deliver(stop) && f.acceptAlone(stop, work, r)
	case ln.feed != f:
		return f.pass(stop, r.LSN)
	case r.LSN <= ln.from:
		return f.passOwn(stop, &r)
	}
	return f.add(stop, ln, item{Record: r})
}

func (f *feed) routed(body *walproxyv1.Record) bool {
	return slices.Contains(body.GetRoutes(), f.loop.o.Name)
}

func recordOf(lsn wal.LSN, bytes int, body *walproxyv1.Record) sinks.Record {
	return sinks.Record{LSN: lsn, Accepted: time.Unix(0, body.GetAcceptedUnixNanos()).UTC(), Body: body, Bytes: bytes}
}

// laneOf returns the lane of a record, if all its keys share one; false: halted.
func (f *feed) laneOf(body *walproxyv1.Record) (ln *lane, single, ok bool) {
	single, ok = true, true
	var buf [256]byte
	mutation.Keys(body, func(collection string, key *walproxyv1.Key) {
		at, found := f.placeOf(collection)
		if !found {
			ok = false
			return
		}
		of := f.pipeline.lanes[at.lane(mutation.HashEncoded(mutation.AppendKey(buf[:0], collection, key)))]
		single = single && (ln == nil || of == ln)
		ln = of
	})
	return ln, single && ln != nil, ok
}

// placesMax bounds what a feed remembers of collections.
const placesMax = 10_000

// placeOf is where the collection's keys go; false: halted. What is special about
// it is durable before: after a crash the checkpoint is read by the same map.
func (f *feed) placeOf(collection string) (place, bool) {
	at, ok := f.places[collection]
	if ok {
		return at, true
	}
	collection = strings.Clone(collection) // it may be cut out of a payload
	if f.newLanes == 0 {                   // else by what is stored already
		if err := f.loop.notePlace(collection); err != nil {
			f.halt(err)
			return place{}, false
		}
	}
	if len(f.places) >= placesMax {
		clear(f.places)
	}
	at = f.by.place(collection)
	f.places[collection] = at
	return at, true
}

// pass notes a record that this feed has nothing to do for; false: stop.
func (f *feed) pass(stop context.Context, lsn wal.LSN) bool {
	f.chunk.last = lsn
	return f.chunk.records < chunkRecords || f.deliver(stop)
}

// add gives it to ln with the chunk; false: stop.
func (f *feed) add(stop context.Context, ln *lane, it item) bool {
	if !f.slow(stop) {
		return false
	}
	c := &f.chunk
	it.previous = c.last
	c.last = it.LSN
	if len(ln.ahead) == 0 {
		c.lanes = append(c.lanes, ln)
	}
	ln.ahead = append(ln.ahead, it)
	c.items++
	c.cost += it.Bytes + recordOverhead
	if c.records < chunkRecords && c.cost < f.bytesMax/chunkShare {
		return true
	}
	return f.deliver(stop)
}

// deliver gives the chunk to the lanes as soon as there is room; false: stop.
func (f *feed) deliver(stop context.Context) bool {
	c := &f.chunk
	if stop.Err() != nil {
		return false
	}
	if c.last == f.read { // nobody else writes read
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for c.items > 0 && f.items > 0 && f.bytes+c.cost > f.bytesMax {
		if !f.awaitLocked(stop) {
			return false
		}
	}
	if c.items > 0 {
		f.flush = false
	}
	f.read, f.last = c.last, c.last
	f.items += c.items
	f.pipeline.items += c.items
	f.bytes += c.cost
	for _, ln := range c.lanes {
		ln.pushAhead(f.size)
	}
	f.sweptBytes += c.bytes
	if f.sweptBytes >= f.loop.o.Idle.Bytes || f.read-f.swept >= wal.LSN(f.loop.o.Idle.Records) {
		f.sweepLocked()
	}
	if f.dozing {
		f.dozing = false
		signal(f.late)
	}
	f.publishLocked()
	clear(c.lanes)
	*c = chunk{last: c.last, lanes: c.lanes[:0]}
	return true
}

// awaitLocked waits for the lanes to finish something; false: stop. They do not
// linger until flush is taken back.
func (f *feed) awaitLocked(stop context.Context) bool {
	f.flushLocked()
	f.mu.Unlock()
	select {
	case <-f.room:
	case <-stop.Done():
	}
	f.mu.Lock()
	return stop.Err() == nil
}

func (f *feed) flushLocked() {
	if f.flush {
		return
	}
	f.flush = true
	for _, ln := range f.lanes {
		signal(ln.wake)
	}
}

// finishLocked notes that ln's flight has landed.
func (f *feed) finishLocked(ln *lane) {
	f.items -= len(ln.flight)
	for i := range ln.flight {
		f.bytes -= ln.flight[i].Bytes + recordOverhead
	}
	clear(ln.flight) // the queue may share the array
	ln.flight, ln.flying, ln.passed = nil, false, 0
	ln.landed = time.Now()
	signal(f.room)
}

// drain tells the lanes that nothing more comes.
func (f *feed) drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flush, f.ended = true, true
	for _, ln := range f.lanes {
		signal(ln.wake)
	}
}
