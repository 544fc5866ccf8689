package replay

import (
	"fmt"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/sinks"
	"github.com/walproxy/walproxy/wal"
)

// A sink that is a sinks.Settler may lose the last of what it has applied, when its
// store restarts. For it the checkpoint is what is settled, whatever its lanes have
// reached: the log is kept above it, held records are trimmed below it. When the
// sink says that its store has lost something the loop ends, with an error that is
// sinks.ErrRewound, and the next one resumes at the settled point.
//
// Records come again then that the store may have, which the store tells by their
// versions; and records that are dead letters, or were. Those it cannot tell: a
// record that was set aside and whose key was written since looks applied. So of a
// Settler's dead letters nothing is undone at Resume: what was decided stands, and a
// record of which something was decided is not offered to the store again, unless it
// is the retry that was decided to be applied.
//
// Its store may lose the checkpoint itself, as long as that is not settled. So the
// claim is settled with the first of what is applied, before any of that is freed:
// until then all of it can come again, and a checkpoint that is not there is made.

// kept reports whether the sink's checkpoint is one that its store does not lose.
func (l *Loop) kept() bool { return l.settler == nil || l.settler.Settled() > 0 }

// keep settles the claim, durably, once the checkpoint is kept.
func (l *Loop) keep() error {
	if l.keeps.Load() || !l.kept() {
		return nil
	}
	_, err := l.state.ChangeClaim(l.o.Name, func(c *state.Claim) { c.Settled = true })
	if err == nil {
		l.keeps.Store(true)
	}
	return err
}

// settled is checkpoint as far as the store cannot lose it any more.
func (l *Loop) settled(checkpoint wal.LSN) wal.LSN {
	if l.settler == nil {
		return checkpoint
	}
	if !l.keeps.Load() {
		return 0
	}
	return min(checkpoint, l.settler.Settled())
}

// raise lifts the watermarks.
func (l *Loop) raise(applied, checkpoint wal.LSN) { l.marks.raise(applied, l.settled(checkpoint)) }

// listen follows what a Settler says, until joined is closed.
func (p *pipeline) listen(joined <-chan struct{}) {
	if p.loop.settler == nil {
		return
	}
	for {
		if err := p.loop.settler.Rewound(); err != nil {
			p.halt(p.loop.resumeError(err))
			return
		}
		if !p.orHalt(p.loop.keep()) {
			return
		}
		p.mu.Lock()
		p.publishLocked()
		p.mu.Unlock()
		select {
		case <-p.loop.settler.News():
		case <-joined:
			return
		}
	}
}

// decided reports whether lsn, which comes again, is a dead letter, or was one: it
// was given up, or another record, which comes again too, retries it.
func (p *pipeline) decided(lsn wal.LSN) (is, ok bool) {
	_, is, err := p.loop.letters.Get(lsn)
	if err == nil && !is {
		_, is, err = p.loop.letters.Trace(lsn)
	}
	return is, p.orHalt(err)
}

// retriedBefore is standing for a retry of what is no dead letter any more: r itself
// may have set it aside before it came again.
func (p *pipeline) retriedBefore(r *sinks.Record, origin wal.LSN, s *standing) (again, ok bool) {
	if p.loop.settler == nil {
		return false, true
	}
	by, known, err := p.loop.letters.Trace(origin)
	if !p.orHalt(err) {
		return false, false
	}
	if !known || by != r.LSN {
		return false, true
	}
	aside, found, err := p.loop.letters.Aside(r.LSN, origin)
	if err == nil && !found {
		err = fmt.Errorf("LSN %d: the dead letter %d that it retries is not kept", r.LSN, origin)
	}
	if !p.orHalt(err) {
		return false, false
	}
	s.position, s.attempts, s.again = aside.Position, aside.Attempts, true
	return true, true
}
