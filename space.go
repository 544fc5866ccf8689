package walproxy

import (
	"time"

	"go.uber.org/zap"

	"github.com/walproxy/walproxy/internal/state"
	"github.com/walproxy/walproxy/wal"
)

const (
	// releaseInterval bounds how often freed checkpoints are looked at.
	releaseInterval = 200 * time.Millisecond
	// retainInterval is how often the room is looked at while sinks retain
	// segments, which give way when it gets scarce.
	retainInterval = time.Second
)

// freeSpace releases what no sink needs the log for any more. It looks at most
// once per releaseInterval: a release frees whole segments, not records.
func (p *Proxy) freeSpace() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	var retained <-chan time.Time
	for {
		if retained == nil && p.retains() {
			ticker := time.NewTicker(retainInterval)
			defer ticker.Stop()
			retained = ticker.C
		}
		select {
		case <-p.stopSpace:
			return
		case <-p.checked:
		case <-retained:
		}
		p.releaseSpace()
		pause.Reset(releaseInterval)
		select {
		case <-p.stopSpace:
			return
		case <-pause.C:
		}
	}
}

func (p *Proxy) retains() bool {
	for _, s := range p.sinks {
		if s.retain.Load() > 0 {
			return true
		}
	}
	return false
}

func (p *Proxy) releaseSpace() {
	p.releasing.Lock()
	defer p.releasing.Unlock()
	low := p.releasable()
	extents := p.log.Extents()
	if len(extents) == 1 || extents[0].Last > low {
		return // not a segment
	}
	// Request ids live in the log until the state store has them for sure.
	if err := p.acceptor.SyncBelow(low + 1); err != nil {
		p.logger.Error("log space is kept: request ids could not be stored", zap.Error(err))
		return
	}
	p.noteApplied()
	p.log.Release(low + 1)
}

// releasable is the LSN up to which nobody needs the log any more.
func (p *Proxy) releasable() wal.LSN {
	passed := p.log.Durable()
	kept := passed // less what is retained
	extents := p.log.Extents()
	for _, s := range p.sinks {
		a := s.attempt.Load()
		has := min(a.loop.Needs()-1, wal.LSN(a.lag.counting.Load()))
		passed = min(passed, has)
		kept = min(kept, retain(extents, has, s.retain.Load()))
	}
	if kept >= passed {
		return passed
	}
	return max(kept, min(passed, p.scarce(extents)))
}

// retain is the LSN up to which the log may be freed so that, of what lies at or
// below lsn, at least so many bytes of segments stay.
func retain(extents []wal.Extent, lsn wal.LSN, bytes int64) wal.LSN {
	for i := len(extents) - 1; i >= 0 && bytes > 0; i-- {
		if e := extents[i]; e.Last <= lsn {
			bytes -= e.Bytes
			lsn = e.First - 1
		} else {
			lsn = min(lsn, e.First-1) // the segment stays anyway, and may hold next to nothing of it
		}
	}
	if bytes > 0 {
		return 0
	}
	return lsn
}

// scarce is the LSN up to which segments have to go, retained or not, for new
// writes to have room: an eighth of the log's bound, and of its floor of free
// disk space.
func (p *Proxy) scarce(extents []wal.Extent) (lsn wal.LSN) {
	stats := p.log.Stats()
	maxBytes, minFree := p.log.MaxBytes(), p.log.MinFree()
	excess := stats.Bytes + p.state.Bytes() - (maxBytes - maxBytes/8)
	if minFree >= 0 {
		excess = max(excess, minFree+minFree/8-stats.FreeBytes)
	}
	for _, e := range extents {
		if excess <= 0 || !e.Sealed {
			break
		}
		excess -= e.Bytes
		lsn = e.Last
	}
	return lsn
}

// noteApplied stores how far the sinks are, for a start that cannot ask them.
// That it fails costs accuracy then, nothing else.
func (p *Proxy) noteApplied() {
	for _, s := range p.sinks {
		applied := s.loop().Applied()
		if applied == 0 {
			continue // not reached
		}
		if _, err := p.state.ChangeClaim(s.name, func(c *state.Claim) { c.Applied = applied }); err != nil {
			p.logger.Warn("how far a sink is was not noted", zap.String("sink", s.name), zap.Error(err))
		}
	}
}
