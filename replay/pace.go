package replay

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/walproxy/walproxy/sinks"
)

// pace is how hard the loop presses the store: how many lanes apply at once, and
// how large their batches are. It also is where a pause holds them.
//
// The number of lanes is halved when an Apply fails, once for all that were
// under way, and rises by one after that many clean ones: a store that comes
// back meets one lane first. The size shrinks by up to a half when an Apply took
// longer than the target, and grows while full batches take less.
type pace struct {
	target   time.Duration
	lanesMax int
	sizeMax  size

	mu      sync.Mutex
	lanes   int // that may apply at once
	running int // that do
	clean   int // successes since lanes changed
	round   int // of halvings: failures of an earlier round halve nothing more
	size    size
	paused  bool
	waiting []chan struct{} // first come, first served; closed when served
	quiet   chan struct{}   // closed when running falls to 0; nil: nobody asks
	back    chan struct{}   // closed and replaced when the store is back
	resting int             // how many back off
	asked   chan struct{}   // closed and replaced when somebody waits for what they hold up
}

// size bounds a batch.
type size struct {
	records int
	bytes   int // of the log
}

// sizeShrink is how far a batch's size may fall below its bound: where an Apply
// takes long whatever it carries, smaller ones would only make it worse.
const sizeShrink = 64

func newPace(o *Options) *pace {
	return &pace{
		target: o.Batch.Latency, lanesMax: o.total(), sizeMax: size{o.Batch.Records, o.Batch.Bytes},
		lanes: o.total(), size: size{o.Batch.Records, o.Batch.Bytes},
		back: make(chan struct{}), asked: make(chan struct{}),
	}
}

// awaitedMax bounds a backoff while somebody waits for what is to be applied: long ones
// spare a store that is away, and whoever waits for it would mostly wait for the backoff
// once it is back. One attempt in so long, of as many lanes as enter lets, is no load.
const awaitedMax = time.Second

// wait backs off for d, or until wake, and no longer than awaitedMax while awaited says
// that somebody waits; false: ctx ended. Who begins to wait calls ask.
func (c *pace) wait(ctx context.Context, d time.Duration, awaited func() bool) bool {
	began := time.Now()
	timer := time.NewTimer(d)
	defer timer.Stop()
	c.rest(1)
	defer c.rest(-1)
	for {
		c.mu.Lock()
		back, asked := c.back, c.asked
		c.mu.Unlock()
		if d > awaitedMax && awaited() {
			timer.Reset(awaitedMax - time.Since(began))
		}
		select {
		case <-timer.C:
			return true
		case <-back:
			return true
		case <-asked:
		case <-ctx.Done():
			return false
		}
	}
}

func (c *pace) rest(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resting += n
}

// ask has every wait look whether it is awaited.
func (c *pace) ask() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resting > 0 {
		close(c.asked)
		c.asked = make(chan struct{})
	}
}

// wake ends every wait: the store was away and is back. How many lanes press it
// at once is still up to enter.
func (c *pace) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.back)
	c.back = make(chan struct{})
}

// enter waits for the turn to apply; false: ctx ended. round goes to leave.
func (c *pace) enter(ctx context.Context) (round int, ok bool) {
	c.mu.Lock()
	if c.freeLocked() && len(c.waiting) == 0 {
		defer c.mu.Unlock()
		c.running++
		return c.round, true
	}
	turn := make(chan struct{})
	c.waiting = append(c.waiting, turn)
	c.mu.Unlock()
	select {
	case <-turn:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.waiting, turn); i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
		return 0, false
	}
	return c.round, true // running counts it already
}

// pass is enter for a call that is no Apply; passed ends its turn.
func (c *pace) pass(ctx context.Context) bool {
	_, ok := c.enter(ctx)
	return ok
}

func (c *pace) passed() { c.leave(0, nil, sinks.Halt, 0) }

func (c *pace) freeLocked() bool { return !c.paused && c.running < c.lanes }

// serveLocked gives free turns to those who wait.
func (c *pace) serveLocked() {
	for len(c.waiting) > 0 && c.freeLocked() {
		c.running++
		close(c.waiting[0])
		c.waiting = c.waiting[1:]
	}
}

// leave ends a turn, with what came of b in that time.
func (c *pace) leave(round int, b *sinks.Batch, o sinks.Outcome, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	switch o {
	case sinks.Unknown, sinks.Retry:
		if round == c.round {
			c.lanes, c.clean = max(c.lanes/2, 1), 0
			c.round++
		}
	case sinks.Applied:
		if c.clean++; c.clean >= c.lanes {
			c.lanes, c.clean = min(c.lanes+1, c.lanesMax), 0
		}
		c.resizeLocked(b, took)
	}
	c.serveLocked()
	if c.running == 0 && c.quiet != nil {
		close(c.quiet)
		c.quiet = nil
	}
}

func (c *pace) resizeLocked(b *sinks.Batch, took time.Duration) {
	bytes := 0
	for i := range b.Records {
		bytes += b.Records[i].Bytes
	}
	now, limit := &c.size, c.sizeMax
	switch {
	case len(b.Records) == 0:
	case took > c.target:
		by := max(float64(c.target)/float64(took), 0.5)
		now.records = max(int(float64(now.records)*by), limit.records/sizeShrink, 1)
		now.bytes = max(int(float64(now.bytes)*by), limit.bytes/sizeShrink, 1)
	case 2*len(b.Records) > now.records || 2*bytes > now.bytes: // others say nothing about larger ones
		now.records = min(now.records+now.records/8+1, limit.records)
		now.bytes = min(now.bytes+now.bytes/8+1, limit.bytes)
	}
}

// now is how large batches may be, and how many lanes may apply at once.
func (c *pace) now() (s size, lanes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size, c.lanes
}

// recovering lets one lane begin: the store was away.
func (c *pace) recovering() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lanes, c.clean = 1, 0
}

// hold keeps everybody from applying, from now on.
func (c *pace) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = true
}

// still returns when nobody applies any more, or resume undoes hold.
func (c *pace) still(ctx context.Context) error {
	c.mu.Lock()
	if c.running == 0 || !c.paused {
		c.mu.Unlock()
		return nil
	}
	if c.quiet == nil {
		c.quiet = make(chan struct{})
	}
	quiet := c.quiet
	c.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *pace) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = false
	if c.quiet != nil {
		close(c.quiet)
		c.quiet = nil
	}
	c.serveLocked()
}

func (c *pace) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

// Pause makes the loop stop applying and returns when no call of the sink is
// under way, or ctx's cause; it stays paused either way, until Resume, which
// also ends a Pause that waits. Nothing is lost: writes stay in the log, and what
// was read ahead in a bounded queue. A loop that has not started yet does not
// claim the sink while it is paused.
func (l *Loop) Pause(ctx context.Context) error {
	l.pace.hold()
	return l.pace.still(ctx)
}

// Suspend is Pause without the wait; Still is the wait.
func (l *Loop) Suspend() { l.pace.hold() }

// Still waits until no call of the sink is under way in a loop that was told to
// Suspend, or until Resume. It returns ctx's cause.
func (l *Loop) Still(ctx context.Context) error { return l.pace.still(ctx) }

// Resume undoes Pause and Suspend.
func (l *Loop) Resume() { l.pace.resume() }
